"""A training that is killed at any change of a file ends, when it is run again, as if it never had been."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import tifffile
import torch
from killing import alone, in_child, needs_fork, states_left
from PIL import Image

from napari_lpd.core.errors import LpdError
from napari_lpd.data.regions import write_regions
from napari_lpd.models.card import read_card
from napari_lpd.models.checkpoint import load_model, load_tensors

pytestmark = needs_fork
SMALL = [
    "tile=64",
    "tile_step=96",
    "mpp=1",
    "batch=8",
    "epochs=2",
    "contrast_weight=0",
    "threads=1",
    "valid_share=0.25",
]
SMALL += ["model.prototypes_per_class=1", "model.prototype_dim=8"]
SMALL += ["model.encoder=test_efficientnet", "model.encoder_weights=random"]
FAST = ["model.neck_width=8", "model.necks=1", "places=4"]
OWN = "notes.txt"  # a file of the user's in the run's folder


def train(here: Path, preset: str, out: Path) -> int:
    from napari_lpd.cli.main import main

    fast = [*FAST, f"feature_folder={out / 'features'}"] if preset == "fast" else []
    chosen = (part for text in (*SMALL, *fast) for part in ("--set", text))
    data = ["--slide", str(here / "a.tif"), "--regions", str(here / "regions.geojson")]
    data += ["--classes", str(here / "classes.json"), "--preset", preset]
    return main(["train", *data, *chosen, "--out", str(out)])


def content(out: Path) -> dict[str, object]:
    """Return all that is in a folder; of models tensors and card, of pictures the pixels."""
    found: dict[str, object] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name, held = str(path.relative_to(out)), path.read_bytes()
        found[name] = held
        if path.suffix == ".safetensors":
            card = read_card(path).model_dump(exclude={"created", "command"})
            card["settings"].pop("feature_folder")
            found[name] = card, {key: tensor.numpy().tobytes() for key, tensor in load_tensors(path).items()}
        elif path.suffix == ".json":
            values = json.loads(held)
            values.get("settings", {}).pop("feature_folder", None)
            found[name] = {key: value for key, value in values.items() if key not in ("created", "command")}
        elif path.suffix == ".png":
            found[name] = Image.open(path).tobytes()
    return found


def kill_everywhere(here: Path, preset: str) -> None:
    """Kill a training at every change of a file; see whether its models load then, and go on."""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        assert train(here, preset, here / "first") == 0  # what is imported by it is forked
    (here / "out").mkdir()
    (here / "out" / OWN).write_text("mine")
    states = states_left(lambda out: train(here, preset, out), here / "out", here / "states")
    wanted = content(here / "out")
    assert {OWN, "model.safetensors", "last.safetensors", "history.csv"} <= wanted.keys()
    for state in states:
        code = in_child(lambda state=state: look_and_go_on(here, preset, state, wanted))
        assert code == 0, f"{state}: {code}"
        shutil.rmtree(state)
    assert len(states) > 20


def look_and_go_on(here: Path, preset: str, out: Path, wanted: dict[str, object]) -> None:
    for model in out.glob("*.safetensors"):
        try:
            load_model(model)
        except LpdError as error:
            assert model.name not in ("model.safetensors", "last.safetensors"), error
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = train(here, preset, out)
    finished = "holds a model, which is not overwritten" in said.getvalue()
    assert code == 0 or finished, said.getvalue()
    found = content(out)
    if finished:
        found.pop(".napari-lpd.lock", None)  # of a process that is gone: it stops nobody
    for name in found.keys() | wanted.keys():
        assert name in wanted, f"{name} is left"
        assert found.get(name) == wanted[name], name


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["default", "fast"])
def test_a_training_that_is_killed_anywhere_ends_as_one_that_was_not(
    tmp_path, tiny_image, tiny_regions, classes, preset
):
    options = {"tile": (64, 64), "photometric": "rgb", "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", tiny_image, resolution=(1e4, 1e4), **options)
    write_regions(tmp_path / "regions.geojson", tiny_regions, classes)
    entries = {"classes": [tissue.model_dump() for tissue in classes]}
    (tmp_path / "classes.json").write_text(json.dumps(entries))
    alone(kill_everywhere, tmp_path, preset)
