"""A batch of slides that is killed at any change of a file ends, when it is run again, as if it never had been."""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
from pathlib import Path

import pytest
import tifffile
import torch
from killing import alone, in_child, needs_fork, states_left
from made_models import save_small_model

from napari_lpd.core.errors import LpdError
from napari_lpd.results.prediction import Prediction

pytestmark = needs_fork
SETTINGS = ["tile=64", "overlap=16", "block=128", "threads=1", "tissue_only=false", "normalise=training"]
OWN = "slide,state,who looked\nearlier.tif,ok,me\n"  # a line and a column of the user's


def batch(here: Path, out: Path) -> int:
    from napari_lpd.cli.main import main

    chosen = (part for text in SETTINGS for part in ("--set", text))
    slides = [str(here / name) for name in ("a.tif", "b.tif")]
    return main(["predict", *slides, "--model", str(here / "model.safetensors"), *chosen, "--out", str(out)])


def content(out: Path) -> dict[str, object]:
    """Return all that is in a folder; of pictures the pixels, of the table all but the seconds."""
    found: dict[str, object] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name, held = str(path.relative_to(out)), path.read_bytes()
        found[name] = held
        if path.suffix == ".tif":
            found[name] = tifffile.imread(path).tobytes()
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                found[name] = [{**row, "seconds": ""} for row in csv.DictReader(file)]
    return found


def kill_everywhere(here: Path) -> None:
    """Kill a batch at every change of a file; see what can be read then, and what is there after the next run."""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        assert batch(here, here / "first") == 0  # what is imported and loaded by it is forked
    (here / "out").mkdir()
    (here / "out" / "summary.csv").write_text(OWN)
    states = states_left(lambda out: batch(here, out), here / "out", here / "states")
    wanted = content(here / "out")
    assert [row["who looked"] for row in wanted["summary.csv"]] == ["me", "", ""]
    for state in states:  # the last is of a batch that is done
        code = in_child(lambda state=state: look_and_go_on(here, state, wanted))
        assert code == 0, f"{state}: {code}"
        shutil.rmtree(state)
    assert len(states) > 60


def look_and_go_on(here: Path, out: Path, wanted: dict[str, object]) -> None:
    for folder in out.glob("*.zarr"):
        try:
            Prediction.open(folder)
        except LpdError as error:
            assert "\n" not in str(error)
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = batch(here, out)
    assert code == 0, said.getvalue()
    found = content(out)
    assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
    for name, held in wanted.items():
        assert found[name] == held, name


@pytest.mark.slow
def test_a_batch_that_is_killed_anywhere_ends_as_one_that_was_not(tmp_path, tiny_image, classes):
    for name in "ab":
        pixels = tiny_image[:64, 96:288] if name == "a" else tiny_image[64:128, 96:288]
        options = {"tile": (64, 64), "photometric": "rgb", "resolutionunit": "CENTIMETER", "metadata": None}
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, resolution=(1e4, 1e4), **options)
    save_small_model(tmp_path / "model.safetensors", classes)
    alone(kill_everywhere, tmp_path)
