"""Two processes train like one with their joint batch; the first alone writes; one that ends, ends all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from napari_lpd.core.errors import SettingsError
from napari_lpd.models.card import read_card
from napari_lpd.training import distributed
from napari_lpd.training.runs.folder import STATE_NAME
from napari_lpd.training.step import Step

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

# Forks what has imported torch: importing it in every process would take most of the time.
TRAIN = """
import json, os, signal, socket, sys
import numpy as np
from pathlib import Path
import torch
from napari_lpd.training import distributed
from napari_lpd.core.classes import read_classes
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.models.encoder import build_region_encoder
from napari_lpd.core.errors import LpdError
from napari_lpd.core.jobs import run
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.data.tileset import Shares
from napari_lpd.models.network import LPD, encoder_of
from napari_lpd.training.losses.objective import Objective
from napari_lpd.core.settings.presets import PRESETS
from napari_lpd.training.step import Step
from napari_lpd.training.fit import fit
from safetensors.torch import save_file

torch.set_num_threads(1)
here = Path(sys.argv[1])
model = {"prototypes_per_class": 3, "prototype_dim": 320, "encoder": "mit_b0", "encoder_weights": "random"}
settings = TrainSettings.build({"model": model, "tile": 64, "batch": 5, "max_steps": 6, "max_regions": 7,
                                "warm_up": 0.2, "lr": 1e-5})  # small, so that rounding does not grow
tiles = labelled_tiles(here / "tiles", read_classes(here / "classes.json"))
tiles.painted = {i: np.full((64, 64), i % 3, np.int8) for i in range(0, 24, 5)}
tiles.shares = {i: Shares(f"region {i % 2}", np.float32([0, 0.5, 0.5])) for i in range(0, 24, 3)}


def train(folder, settings, stop_at=0, die_at=0):
    curve = []

    def on_progress(progress):
        curve.append(progress.metrics)
        if die_at and progress.done == die_at and not distributed.is_rank_zero():
            os.kill(os.getpid(), signal.SIGKILL)
        if stop_at and progress.done == stop_at and distributed.is_rank_zero():
            raise KeyboardInterrupt

    try:
        run(fit(tiles, settings, folder), on_progress)
    finally:
        if distributed.is_rank_zero() and folder.exists():
            (folder / "curve.json").write_text(json.dumps(curve))


def together(folder, run_in_each, settings=settings, processes=2, **options):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        if not (child := os.fork()):
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), MASTER_PORT=str(port),
                              MASTER_ADDR="localhost", TORCHELASTIC_RUN_ID="test")
            code = 0
            try:
                with distributed.joined():
                    run_in_each(folder, settings, **options)
            except KeyboardInterrupt:
                code = 130
            except LpdError as error:
                print(error, file=sys.stderr)
                code = 2
            os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def gradients(folder, settings, count):
    torch.manual_seed(0)
    network = LPD(settings.model, 2, encoder_of(settings.model, "random")).eval()
    frozen = build_region_encoder(settings.region_encoder, "embedded", settings.model.prototype_dim)
    objective = Objective(settings, frozen, torch.Generator().manual_seed(0))
    images = torch.from_numpy(np.stack([tiles[i][0] for i in range(count)])).float() / 255
    step = distributed.wrap_ddp(Step(network, objective))
    losses = step(images[distributed.local_slice(count)], torch.ones(count, 2), False)
    losses.total.backward()
    if distributed.is_rank_zero():
        found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        found |= {f"psi.{name}": p.grad for name, p in objective.psi.named_parameters()}
        save_file(found | {"loss": losses.total.detach(), "regions": torch.tensor([losses.regions])}, folder)


codes = {"learn": together(here / "two", train)}
train(here / "one", settings.model_copy(update={"batch": 10}))
codes["stop"] = together(here / "stopped", train, stop_at=3)
train(here / "stopped", settings.model_copy(update={"batch": 10}))
codes["die"] = together(here / "dying", train, die_at=2)
codes["refused"] = together(here / "dying", train, settings.model_copy(update={"batch": 400}))  # 800 together
for name, counts in {"default": (1, 5), "paper": (5,), "pbip-official-code": (5,)}.items():
    values = {**PRESETS[name], "region_encoder": settings.region_encoder, "region_size": 64, "max_regions": 5}
    preset = settings.build(values | {"model": {**values.get("model", {}), **model, "bank": "learned"}})
    for count in counts:
        codes[f"{name} {count}"] = together(here / f"{name} {count} two", gradients, settings=preset, count=count)
        gradients(here / f"{name} {count} one", preset, count)
(here / "codes.json").write_text(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder in which the script has trained, and what every process ended with."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiles").mkdir()
    (folder / "classes.json").write_text('{"classes": ["dark", "pink"]}')
    rng = np.random.default_rng(0)
    for i in range(24):
        image = rng.normal(((90, 50, 130), (235, 150, 180))[i % 2], 12, (64, 64, 3))
        image[: 20 * (i % 3)] = (235, 150, 180)
        labels = f"{1 - i % 2}{int(i % 2 or i % 3 > 0)}"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(
            folder / "tiles" / f"{'abcd'[i % 4]}+{i}[{labels}].png"
        )
    done = subprocess.run([sys.executable, "-c", TRAIN, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "codes.json").read_text()), done.stderr


def curve_of(folder):
    return json.loads((folder / "curve.json").read_text())


def test_two_processes_learn_what_one_learns_with_their_joint_batch(trained):
    folder, codes, _ = trained
    assert codes["learn"] == [0, 0]
    one, two = curve_of(folder / "one"), curve_of(folder / "two")
    assert sum("lr" in step for step in one) == 6
    assert any(step.get("regions left out") for step in one)
    assert any(step.get("diversity") for step in one)
    assert any(step.get("pixels") for step in one) and any(step.get("shares") for step in one)
    for ours, theirs in zip(two, one, strict=True):  # a rounding may move a place across a region's threshold
        assert ours == pytest.approx(theirs, rel=1e-2)
    assert {path.name for path in (folder / "two").iterdir()} == {path.name for path in (folder / "one").iterdir()}
    for name in ("model.safetensors", "last.safetensors"):
        assert read_card(folder / "two" / name).settings == read_card(folder / "one" / name).settings


def test_gradients_of_two_processes_are_those_of_their_joint_batch(trained):
    folder, codes, _ = trained
    compared = sorted(folder.glob("* one"))
    assert len(compared) == 4
    for path in compared:
        assert codes[path.name.removesuffix(" one")] == [0, 0]
        one, two = load_file(path), load_file(str(path).removesuffix("one") + "two")
        assert one.keys() == two.keys()
        assert one["regions"] == two["regions"]
        assert " 1 " in path.name or one["regions"] > 1
        for name, gradient in one.items():
            limit = 1e-4 * max(float(gradient.abs().max()), 1e-3)
            assert float((two[name] - gradient).abs().max()) <= limit, (path.name, name)


def test_the_first_process_stops_all_and_one_alone_goes_on(trained):
    folder, codes, _ = trained
    assert codes["stop"] == [130, 130]
    assert sum("lr" in step for step in curve_of(folder / "stopped")) == 3
    assert read_card(folder / "stopped" / "model.safetensors").steps == 6


def test_a_process_that_dies_ends_all_with_one_line(trained):
    folder, codes, said = trained
    assert codes["die"] == [2, -9]
    assert "process 0 of 2 lost the others" in said
    assert (folder / "dying" / STATE_NAME).exists()


def test_what_the_first_process_refuses_ends_all_with_a_line_that_points_to_its_own(trained):
    _, codes, said = trained
    assert codes["refused"] == [2, 2]
    assert "dying: holds half a training with another batch (10); choose another folder" in said
    assert "process 1 of 2: the first process has ended; its message says why" in said


def test_batch_statistics_are_not_learned_apart(monkeypatch):
    from torch import nn

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(SettingsError, match="cannot train batch normalisation together"):
        distributed.wrap_ddp(Step(nn.BatchNorm2d(3), nn.Identity()))


def test_nothing_that_pytorch_gives_up_is_used_to_join_processes(monkeypatch, tmp_path):
    import torch.distributed as group
    from torch import nn

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    group.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wrapped = distributed.wrap_ddp(Step(nn.Linear(2, 2), nn.Identity()))
    finally:
        group.destroy_process_group()
    assert not getattr(wrapped, "forward_sync_buffers", False)


@pytest.mark.parametrize(("processes", "items", "expected"), [(2, 5, [2, 3]), (3, 2, [0, 1, 1]), (1, 4, [4])])
def test_shares_are_consecutive_and_nearly_equal(processes, items, expected, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    assert distributed.shares(items) == expected
