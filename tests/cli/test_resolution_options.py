"""``--mpp`` is for slides that give no resolution; ``--override-mpp`` takes the place of what a slide says."""

from __future__ import annotations

import csv
import json

import pytest
import tifffile

from napari_lpd import samples
from napari_lpd.cli.main import main
from napari_lpd.results.prediction import Prediction

QUICK = ["--set", "block=64", "--set", "tile=128", "--set", "overlap=32", "--set", "threads=1"]


@pytest.fixture
def mixed(tiny_tiff, tiny_image, tmp_path):
    """A slide of 1 µm per pixel, and the same pixels in a file that does not say it."""
    tifffile.imwrite(tmp_path / "bare.tif", tiny_image, photometric="rgb", tile=(64, 64), metadata=None)
    return [str(tiny_tiff), str(tmp_path / "bare.tif")]


def predicted(slides, out, *options):
    assert main(["predict", *slides, "--out", str(out), *QUICK, *options]) == 0
    with (out / "summary.csv").open(encoding="utf-8-sig") as file:
        return {row["slide"].rsplit("/")[-1]: row for row in csv.DictReader(file)}


def test_in_a_mixed_batch_a_slide_keeps_its_own_resolution(mixed, tmp_path, capsys):
    rows = predicted(mixed, tmp_path / "out", "--mpp", "0.5")
    resolutions = {name: (row["µm per pixel"], row["resolution from"]) for name, row in rows.items()}
    assert resolutions == {"tiny.tiff": ("1", "TIFF resolution tags"), "bare.tif": ("0.5", "given by the user")}
    alone = tmp_path / "alone"
    assert main(["predict", mixed[0], "--out", str(alone), *QUICK]) == 0
    assert Prediction.open(tmp_path / "out" / "tiny.zarr").area_mm2() == Prediction.open(alone / "tiny.zarr").area_mm2()
    assert "at 1 µm per pixel (TIFF resolution tags)" in capsys.readouterr().err


def test_an_override_is_shown_in_the_result_the_line_and_the_table(mixed, tmp_path, capsys):
    rows = predicted(mixed, tmp_path / "out", "--override-mpp", "0.5")
    source = "given by the user instead of 1 (TIFF resolution tags)"
    assert (rows["tiny.tiff"]["µm per pixel"], rows["tiny.tiff"]["resolution from"]) == ("0.5", source)
    assert rows["bare.tif"]["resolution from"] == "given by the user"
    card = Prediction.open(tmp_path / "out" / "tiny.zarr").card
    assert (card.slide_mpp, card.mpp_source) == ((0.5, 0.5), source)
    assert f"at 0.5 µm per pixel ({source})" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--mpp", "0.5"], ["--override-mpp", "0.5"], []])
def test_a_result_is_drawn_on_its_slide_at_the_resolution_it_was_predicted_with(mixed, tmp_path, option):
    slide = mixed[bool(option) and option[0] == "--mpp"]
    assert main(["predict", slide, "--out", str(tmp_path / "out"), *QUICK, *option]) == 0
    (result,) = (tmp_path / "out").glob("*.zarr")
    assert main(["export", str(result), "--to", str(tmp_path / "a.png"), "--slide", slide]) == 0


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (["--slide-mpp", "0.5"], "0.998 µm per pixel (TIFF resolution tags)"),
        (["--override-mpp", "0.5"], "0.5 µm per pixel (given by the user instead of 0.998 (TIFF resolution tags))"),
    ],
)
def test_training_takes_the_slides_resolution_unless_it_is_overridden(tmp_path, option, expected):
    slide = samples.skin_slide_path()
    source = ["--slide", str(slide), "--regions", str(samples.regions_path("train"))]
    source += ["--classes", str(samples.classes_path()), "--out", str(tmp_path), "--summary", *option]
    assert main(["train", *source, "--set", "tile_step=128"]) == 0
    (line,) = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["resolution"]
    assert line.endswith(expected)
