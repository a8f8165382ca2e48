"""Two processes train like one with their joint batch; the first alone writes; one that ends, ends all."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from napari_lpd.checkpoint import STATE_NAME, load_tensors, read_card

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

# Forks what has imported torch: importing it in every process would take most of the time.
TRAIN = """
import json, os, signal, socket, sys
from pathlib import Path
import torch
from napari_lpd import distributed
from napari_lpd.classes import read_classes
from napari_lpd.config import TrainSettings
from napari_lpd.errors import LpdError
from napari_lpd.jobs import run
from napari_lpd.labelled import labelled_tiles
from napari_lpd.train import fit

torch.set_num_threads(1)
here = Path(sys.argv[1])
settings = TrainSettings.model_validate_json((here / "settings.json").read_text())
tiles = labelled_tiles(here / "tiles", read_classes(here / "classes.json"))


def train(folder, settings, stop_at=0, die_at=0):
    curve = []

    def on_progress(progress):
        curve.append(progress.metrics)
        if die_at and progress.done == die_at and not distributed.is_first():
            os.kill(os.getpid(), signal.SIGKILL)
        if stop_at and progress.done == stop_at and distributed.is_first():
            raise KeyboardInterrupt

    try:
        run(fit(tiles, settings, folder), on_progress)
    finally:
        if distributed.is_first():
            (folder / "curve.json").write_text(json.dumps(curve))


def together(folder, settings=settings, processes=2, **options):
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
                    train(folder, settings, **options)
            except KeyboardInterrupt:
                code = 130
            except LpdError as error:
                print(error, file=sys.stderr)
                code = 2
            os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

"""


@pytest.fixture
def run_script(tile_folder, tiny_settings, tmp_path):
    def run_it(code, **changes):
        (tmp_path / "tiles").symlink_to(tile_folder)
        (tmp_path / "classes.json").write_text('{"classes": ["dark", "pink"]}')
        settings = tiny_settings.model_copy(update={"batch": 5, "max_steps": 6, "mpp": 1.0} | changes)
        (tmp_path / "settings.json").write_text(settings.model_dump_json())
        done = subprocess.run([sys.executable, "-c", TRAIN + code, tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    return run_it


def test_two_processes_learn_what_one_learns_with_their_joint_batch(run_script, tmp_path):
    changes = {"max_regions": 7, "blur_jitter": 0.5, "warm_up": 0.2, "lr": 1e-5}  # small: rounding must not grow
    run_script(
        'assert together(here / "two") == [0, 0]\ntrain(here / "one", settings.model_copy(update={"batch": 10}))\n',
        **changes,
    )
    one, two = (json.loads((tmp_path / name / "curve.json").read_text()) for name in ("one", "two"))
    assert len(one) == len(two) > 6
    assert any(step.get("regions left out") for step in one)
    assert any(step.get("diversity") for step in one)
    for ours, theirs in zip(two, one, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    for name in ("model.safetensors", "last.safetensors"):
        tensors, others = load_tensors(tmp_path / "two" / name), load_tensors(tmp_path / "one" / name)
        assert all(torch.allclose(tensors[key].float(), others[key].float(), atol=2e-5) for key in others), name
        assert read_card(tmp_path / "two" / name).settings == read_card(tmp_path / "one" / name).settings
    assert not (tmp_path / "two" / STATE_NAME).exists()


GRADIENTS = """
from napari_lpd.encoder import build_region_encoder
from napari_lpd.model import LPD, encoder_of
from napari_lpd.objective import Objective
from napari_lpd.presets import PRESETS
from napari_lpd.step import Step
from safetensors.torch import save_file


def gradients(folder, settings, count):
    torch.manual_seed(0)
    network = LPD(settings.model, 2, encoder_of(settings.model, "embedded"))
    network.eval()
    objective = Objective(settings, build_region_encoder(settings.region_encoder, "embedded", 320),
                          torch.Generator().manual_seed(0))
    images = torch.stack([tiles[i][0] for i in range(count)]).float() / 255
    labels = torch.ones(count, 2)
    step = distributed.together(Step(network, objective))
    losses = step(images[distributed.own_share(count)], labels, False)
    losses.total.backward()
    if distributed.is_first():
        found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        found |= {f"psi.{name}": p.grad for name, p in objective.psi.named_parameters()}
        save_file(found | {"loss": losses.total.detach(), "regions": torch.tensor([losses.regions])}, folder)


train = gradients
small = {"encoder": settings.model.encoder, "encoder_weights": "embedded", "prototype_dim": 320}
for name, counts in {"default": (1, 5), "paper": (5,), "pbip-official-code": (5,)}.items():
    values = {**PRESETS[name], "region_encoder": small["encoder"], "region_size": 64, "max_regions": 5}
    values["model"] = {**values.get("model", {}), **small, "prototypes_per_class": 3, "bank": "learned"}
    preset = settings.build(values)
    for count in counts:
        assert together(here / f"{name} {count} two", settings=preset, count=count) == [0, 0]
        gradients(here / f"{name} {count} one", preset, count)
"""


def test_gradients_of_two_processes_are_those_of_their_joint_batch(run_script, tmp_path):
    run_script(GRADIENTS)
    compared = sorted(tmp_path.glob("* one"))
    assert len(compared) == 4
    for path in compared:
        one, two = load_file(path), load_file(str(path).removesuffix("one") + "two")
        assert one.keys() == two.keys()
        assert one["regions"] == two["regions"]
        assert path.name.split()[1] == "1" or one["regions"] > 1
        for name, gradient in one.items():
            limit = 1e-4 * max(gradient.abs().max().item(), 1e-3)
            assert (two[name].float() - gradient).abs().max() <= limit, (path.name, name)


def test_the_first_process_stops_all_and_all_go_on(run_script, tmp_path):
    run_script(
        'assert together(here / "two", stop_at=3) == [130, 130]\n'
        'assert (here / "two" / "training_state.safetensors").exists()\n'
        'train(here / "two", settings.model_copy(update={"batch": 10}))\n'
    )
    assert sum("lr" in step for step in json.loads((tmp_path / "two" / "curve.json").read_text())) == 3
    assert read_card(tmp_path / "two" / "model.safetensors").steps == 6


def test_a_process_that_dies_ends_all_with_one_line(run_script, tmp_path):
    done = run_script('assert together(here / "two", die_at=2) == [2, -9]\n')
    assert "process 0 of 2 lost the others" in done.stderr


def test_batch_statistics_are_not_learned_apart(run_script):
    done = run_script(
        'random = settings.model.model_copy(update={"encoder_weights": "random"})\n'
        'assert together(here / "two", settings.model_copy(update={"model": random})) == [2, 2]\n'
    )
    assert "several processes cannot train batch normalisation together" in done.stderr
