"""Commands whose n-th file operation fails: one line, nothing half-done believed, and the same result when repeated."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shutil
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import tifffile
import torch
from failing import Job, fail_everywhere
from killing import alone, needs_fork
from PIL import Image

from napari_lpd.core.errors import LpdError
from napari_lpd.data.regions import write_regions
from napari_lpd.models.card import read_card
from napari_lpd.models.checkpoint import load_model, load_tensors
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.prediction import Prediction

pytestmark = needs_fork
MODEL = ["tile=64", "tile_step=96", "mpp=1", "batch=8", "epochs=2", "contrast_weight=0", "threads=1"]
MODEL += ["model.prototypes_per_class=1", "model.prototype_dim=8", "model.encoder=test_efficientnet"]
MODEL += ["model.encoder_weights=random", "valid_share=0.25"]
PREDICT = ["tile=64", "overlap=16", "block=128", "threads=1", "tissue_only=false", "normalise=training"]
OWN = "slide,state,who looked\nearlier.tif,ok,me\n"  # a line and a column of the user's
EXPORTS = [("a.ome.tif", "labels"), ("a.geojson", "labels"), ("a.png", "labels"), ("a.csv", "labels")]
EXPORTS += [("p.ome.tif", "prototypes"), ("c.geojson", "corrections"), ("b.zarr", "labels")]
CHANGES = re.compile(rb'"id": "[0-9a-f-]+"')  # made anew by every export


def run(*arguments: object) -> int:
    from napari_lpd.cli.main import main

    return main([str(argument) for argument in arguments])


def given(settings: list[str]) -> list[str]:
    return [part for text in settings for part in ("--set", text)]


def train(here: Path, out: Path) -> int:
    data = ["--slide", here / "a.tif", "--regions", here / "regions.geojson", "--classes", here / "classes.json"]
    return run("train", *data, "--check-regions", here / "regions.geojson", *given(MODEL), "--out", out)


def predict(here: Path, slides: list[str], out: Path, *more: object) -> int:
    paths = [here / name for name in slides]
    return run("predict", *paths, "--model", here / "model.safetensors", *given(PREDICT), "--out", out, *more)


def export(here: Path, name: str, what: str, out: Path) -> int:
    more = ["--slide", here / "a.tif"] if name.endswith(".png") else []
    return run("export", here / "made" / "a.zarr", "--to", out / name, "--what", what, "--overwrite", *more)


def correct(out: Path, label: int) -> int:
    """Paint as in the window, which shows the error's line."""
    try:
        corrections = Corrections(Prediction.open(out / "a.zarr"))
        crop = corrections.read_crop(20, 30, (90, 120))
        crop[:50], crop[50:] = label, 3 - label
        corrections.apply_crop(20, 30, crop)
    except LpdError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def content(out: Path) -> dict[str, object]:
    """Return all that is in a folder: of models tensors and card, of pictures pixels, of tables all but the seconds."""
    found: dict[str, object] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name, held = str(path.relative_to(out)), path.read_bytes()
        found[name] = CHANGES.sub(b"", held)
        if path.suffix == ".safetensors":
            card = read_card(path).model_dump(exclude={"created", "command"})
            found[name] = str(card), {key: tensor.numpy().tobytes() for key, tensor in load_tensors(path).items()}
        elif path.suffix == ".json":
            values = json.loads(held)
            values = values if isinstance(values, dict) else {"": values}
            found[name] = {key: value for key, value in values.items() if key not in ("created", "command")}
        elif path.suffix == ".tif":
            found[name] = tifffile.imread(path).tobytes()
        elif path.suffix == ".png":
            found[name] = Image.open(path).tobytes()
        elif path.name == "summary.csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                found[name] = [{**row, "seconds": ""} for row in csv.DictReader(file)]
    return found


def look_at_models(out: Path) -> None:
    for model in out.glob("*.safetensors"):
        if model.name != "training_state.safetensors":
            load_model(model)
    if (out / "model.safetensors").exists() and not (out / "training_state.safetensors").exists():
        assert "mean recall" in read_card(out / "model.safetensors").metrics, "a finished training without its recall"


def look_at_results(out: Path) -> None:
    """What says that it is finished is; the user's line of a table is there."""
    for folder in out.glob("*.zarr"):
        try:
            prediction = Prediction.open(folder)
        except LpdError:
            continue
        assert not prediction.finished or not prediction.missing_blocks(prediction.finished_blocks())
    if (table := out / "summary.csv").exists():
        assert "earlier.tif" in table.read_text(encoding="utf-8-sig"), "the user's line is lost"


def whole_or_not_there(before: Path, whole: dict[str, object]):
    """Every file is the one before or the one wanted."""

    def look(out: Path) -> None:
        older = content(before)
        for name, held in content(out).items():
            if not re.search(r"\.napari-lpd-.*\.partial|\.lock", name):
                assert held in (older.get(name), whole.get(name)), f"{name} is neither the old nor the new one"

    return look


def levels_together(out: Path) -> None:
    """A correction is on all levels or on none once the result is opened."""
    levels = [level[:, :] for level in Corrections(Prediction.open(out / "a.zarr")).levels]
    for finer, coarser in pairwise(levels):
        assert (finer[::2, ::2] == coarser).all(), "a correction is on some levels"


def prepare(here: Path) -> None:
    """Do everything once: what is imported and loaded by it is forked."""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        assert train(here, here / "run") == 0
        shutil.copy(here / "run" / "model.safetensors", here)
        assert predict(here, ["a.tif"], here / "made") == 0
        assert correct(here / "made", 1) == 0
        (here / "exported").mkdir()
        for name, what in EXPORTS:
            assert export(here, name, what, here / "exported") == 0


def fail(here: Path) -> None:
    """Do jobs on a failing disk, and print how many operations failed and what was wrong."""
    prepare(here)
    empty, table = here / "empty", here / "table"
    for folder in (empty, table):
        folder.mkdir()
    (table / "summary.csv").write_text(OWN, encoding="utf-8")
    plain = here / "plain"
    shutil.copytree(here / "made", plain)
    shutil.rmtree(plain / "a.zarr" / "labels" / "corrections")
    view = ["--regions", here / "view.geojson"]
    jobs = {
        "view": (Job(lambda out: predict(here, ["a.tif"], out, *view), look_at_results, content), empty),
        "batch": (Job(lambda out: predict(here, ["b.tif", "c.tif"], out), look_at_results, content), table),
        "train": (Job(lambda out: train(here, out), look_at_models, content), empty),
        "correct": (Job(lambda out: correct(out, 2), levels_together, content), plain),
        "again": (Job(lambda out: correct(out, 2), levels_together, content), here / "made"),
    }
    for name, what in EXPORTS:
        older = here / f"older {name}"
        older.mkdir()
        (copy := shutil.copytree if name.endswith(".zarr") else shutil.copy)(here / "exported" / name, older / name)
        look = whole_or_not_there(here / "exported", {}) if copy is shutil.copy else look_at_results
        work = Job(lambda out, name=name, what=what: export(here, name, what, out), look, content)
        jobs |= {name: (work, empty), f"{name} over another": (work, older)}
    for name, (job, before) in jobs.items():
        keep = here / f"job {name}"
        keep.mkdir()
        tried, wrong = fail_everywhere(job, before, keep)
        print(json.dumps({"job": name, "tried": tried, "wrong": wrong}), flush=True)  # noqa: T201


@pytest.fixture
def slides(tmp_path, tiny_image, tiny_regions, classes) -> Path:
    options = {"tile": (64, 64), "photometric": "rgb", "resolutionunit": "CENTIMETER", "metadata": None}
    for name, pixels in {"a": tiny_image, "b": tiny_image[:64, 96:288], "c": tiny_image[64:128, 96:288]}.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, resolution=(1e4, 1e4), **options)
    write_regions(tmp_path / "regions.geojson", tiny_regions, classes)
    corner = [replace(tiny_regions[0], vertices=tiny_regions[0].vertices.clip(0, 120))]
    write_regions(tmp_path / "view.geojson", corner, classes)
    entries = {"classes": [tissue.model_dump() for tissue in classes]}
    (tmp_path / "classes.json").write_text(json.dumps(entries))
    return tmp_path


@pytest.mark.slow
def test_whatever_cannot_be_written_is_a_line_and_nothing_half_done_is_believed(slides):
    found = [json.loads(line) for line in alone(fail, slides).splitlines()]
    assert len(found) == 19
    for job in found:
        print(f"{job['job']}: {job['tried']} faults")  # noqa: T201
        assert job["tried"]
    wrong = [f"{job['job']}: {line}" for job in found for line in job["wrong"]]
    assert not wrong, "\n".join(wrong)
