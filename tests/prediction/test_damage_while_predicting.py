"""What is lost or changed in a result is made again; a slide that changes meanwhile stops the run."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil

import numpy as np
import pytest

from napari_lpd import samples
from napari_lpd.cli.main import main
from napari_lpd.core.errors import ChangedSlideError, SlideError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.models.checkpoint import load_model
from napari_lpd.prediction.predict import predict_slide
from napari_lpd.results.prediction import Prediction
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.tissue import TissueMask

SETTINGS = PredictSettings(tile=128, overlap=64, block=64, threads=1)
QUICK = ["--set", "block=64", "--set", "tile=128", "--set", "overlap=64", "--set", "threads=1"]
TISSUE = TissueMask(np.ones((25, 25), bool), 16.0)


def hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def model():
    return load_model(samples.model_path(), "cpu")


@pytest.mark.parametrize("how", ["lost", "cut", "flipped"])
def test_predict_makes_just_what_is_damaged_again_with_the_same_bytes(tiny_tiff, model, tmp_path, how):
    with open_slide(tiny_tiff) as slide:
        sound = run(predict_slide(slide, model, SETTINGS, tmp_path / "a.zarr", tissue=TISSUE)).folder
        expected = hashes(sound)
        for name in ("labels/tissues/0/c/1/2", "0/c/0/3/1", "prototypes/1/0/c/0/0/0", "uncertainty/0/c/2/4"):
            content = bytearray((sound / name).read_bytes())
            (sound / name).unlink()
            if how != "lost":
                content[len(content) // 2] ^= how == "flipped"
                (sound / name).write_bytes(content[: len(content) - (how == "cut")])
        kept = {path: path.stat().st_mtime_ns for path in (sound / "labels/tissues/0/c").glob("*/*")}
        run(predict_slide(slide, model, SETTINGS, sound, tissue=TISSUE))
    assert hashes(sound) == expected
    made = {path for path in kept if path.stat().st_mtime_ns != kept[path]} | (
        {sound / "labels/tissues/0/c/1/2"} if how == "lost" else set()
    )
    assert {str(path.relative_to(sound / "labels/tissues/0/c")) for path in made} == {"1/2", "3/1", "0/0", "2/4"}


def test_a_finished_result_that_lacks_a_block_is_said_and_completed_on_the_command_line(tiny_tiff, tmp_path, capsys):
    command = ["predict", str(tiny_tiff), "--out", str(tmp_path / "out"), *QUICK]
    assert main(command) == 0
    folder, table = tmp_path / "out" / "tiny.zarr", tmp_path / "m.csv"
    areas, chunk = Prediction.open(folder).area_mm2(), folder / "labels/tissues/0/c/0/0"
    chunk.unlink()
    capsys.readouterr()
    assert main(["measure", str(folder), "--out", str(table)]) == 2
    assert main(["export", str(folder), "--to", str(tmp_path / "m.geojson")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("the result is damaged: 1 of" in line and "run predict again" in line for line in lines)
    assert main(command) == 0
    assert chunk.is_file()
    assert Prediction.open(folder).area_mm2() == areas
    assert main(["measure", str(folder), "--out", str(table)]) == 0
    with table.open(encoding="utf-8-sig") as file:
        measured = {row["what"]: float(row["area_mm2"]) for row in csv.DictReader(file)}
    assert {name: measured[name] for name in areas} == pytest.approx(areas, abs=1e-6)


def changed(path, how):
    content = bytearray(path.read_bytes())
    stat = path.stat()
    content[1000] ^= 255
    if how == "replaced":
        path.unlink()
    elif how == "cut":
        content = content[: len(content) // 2]
    path.write_bytes(content)
    if how == "silently":  # the same size and time
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    if how == "gone":
        path.unlink()


@pytest.mark.parametrize("how", ["rewritten", "replaced", "cut", "silently", "gone"])
def test_a_slide_that_changes_while_it_is_predicted_stops_the_run(tiny_tiff, model, tmp_path, how):
    (tmp_path / "other").mkdir()
    path, folder = tmp_path / "other" / "b.tiff", tmp_path / "b.zarr"
    shutil.copy(tiny_tiff, path)
    with open_slide(path) as slide:
        job = predict_slide(slide, model, SETTINGS, folder, tissue=TISSUE)
        for progress in job:
            if progress.done > progress.total / 2 > 0:
                break
        changed(path, how)
        with pytest.raises(SlideError, match=r"b\.tiff: its file (has changed|is gone)"):
            run(job)
    found = Prediction.open(folder)
    assert not found.finished
    assert not found.finished_blocks()


def test_a_slide_that_was_only_touched_is_the_same(tiny_tiff):
    with open_slide(tiny_tiff) as slide:
        slide.check_unchanged()
        os.utime(tiny_tiff, (1, 1))
        slide.check_unchanged()
        tiny_tiff.write_bytes(tiny_tiff.read_bytes() + b"x")
        with pytest.raises(ChangedSlideError):
            slide.check_unchanged()
