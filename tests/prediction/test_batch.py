"""Many slides: what goes wrong with one is said in its row."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest
import tifffile

from napari_lpd import samples
from napari_lpd.cli.main import main
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.prediction.batch import SlideTask, attempt, result_names, summary_line
from napari_lpd.results.prediction import Prediction

SMALL = PredictSettings(tile=128, overlap=32, block=64, threads=1)


def test_a_model_that_is_gone_is_said_in_the_row(tiny_tiff, tmp_path):
    row = attempt(SlideTask(tiny_tiff, tmp_path / "gone.safetensors", tmp_path / "out", SMALL))
    assert "gone.safetensors" in row["error"]
    assert summary_line(row).startswith("FAILED ")


@pytest.mark.parametrize(
    ("slides", "names"),
    [
        (["a/x.tiff", "a/y.tiff"], ["x", "y"]),
        (["a/x.tiff", "b/x.tiff", "b/y.svs"], ["a-x.tiff", "b-x.tiff", "y"]),
        (["x.svs", "x.tif"], ["x.svs", "x.tif"]),
        (["a/p/x.tif", "b/p/x.tif", "b/p/x.svs"], ["a-p-x.tif", "b-p-x.tif", "x.svs"]),
        (["a/X.tif", "b/x.tif"], ["a-X.tif", "b-x.tif"]),
        (["a/\u00e9.tif", "b/e\u0301.tif"], ["a-\u00e9.tif", "b-e\u0301.tif"]),
    ],
)
def test_results_of_slides_of_one_stem_are_named_apart(slides, names):
    assert result_names([Path("/", path) for path in slides]) == names


def test_two_slides_of_one_name_in_one_batch_have_results_areas_and_rows_of_their_own(tmp_path, tiny_image):
    slides, widths = [tmp_path / folder / "x.tiff" for folder in ("P1", "P2")], (384, 192)
    for path, width in zip(slides, widths, strict=True):
        path.parent.mkdir()
        options = {"photometric": "rgb", "tile": (64, 64), "resolutionunit": "CENTIMETER", "metadata": None}
        tifffile.imwrite(path, tiny_image[:, :width], resolution=(1e4, 1e4), **options)
    model, out = str(samples.model_path()), tmp_path / "out"
    quick = ["--set", "mpp=1", "--set", "tile=64", "--set", "overlap=16", "--set", "threads=1"]
    for _ in range(2):  # the same command goes on where it was
        assert main(["predict", *map(str, slides), "--model", model, "--out", str(out), *quick]) == 0
        results = [out / f"{folder}-x.tiff.zarr" for folder in ("P1", "P2")]
        assert [Prediction.open(path).card.slide_shape[1] for path in results] == list(widths)
        assert sorted(path.name for path in out.glob("*.ome.tif")) == [
            "P1-x.tiff.mask.ome.tif",
            "P2-x.tiff.mask.ome.tif",
        ]
        with (out / "summary.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["slide"] for row in rows] == list(map(str, slides))
        areas = [Prediction.open(path).tissue_mm2 for path in results]
        assert [float(row["tissue mm²"]) for row in rows] == pytest.approx(areas, abs=1e-6)
    assert main(["measure", *map(str, results), "--out", str(tmp_path / "m.csv")]) == 0
    measured = pd.read_csv(tmp_path / "m.csv").query("what == 'tissue'")
    assert measured.slide.tolist() == ["x.tiff (P1-x.tiff.zarr)", "x.tiff (P2-x.tiff.zarr)"]
    assert measured.area_mm2.tolist() == pytest.approx(areas, abs=1e-6)
