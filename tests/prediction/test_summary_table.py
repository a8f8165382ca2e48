"""summary.csv, from rows and from a prediction, as it stands in the file."""

from __future__ import annotations

import numpy as np
import pytest
from made_predictions import predicted

from napari_lpd import samples
from napari_lpd.core.errors import ExportError
from napari_lpd.core.jobs import Progress, run
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.prediction import predict
from napari_lpd.prediction.batch import SlideTask, count_states, predict_file, summary_line, write_summary
from napari_lpd.results.prediction import Prediction
from napari_lpd.slides.tissue import TissueMask

DONE = {
    "slide": "a.svs",
    "state": "ok",
    "mm²": {"dark": 1.25, "pink": 0.1234567},
    "unsure mm²": 0.25,
    "tissue mm²": 2.5,
    "labels": "at least 40 % sure",
    "µm per pixel": 0.499,
    "resolution from": "aperio metadata",
    "unreadable": ["x 20..60, y 1100..1120", "x 0..8, y 0..4"],
    "warnings": ["pale", "few tiles, and dark"],
    "prediction": "a.zarr",
    "mask": "a.mask.ome.tif",
    "already finished": False,
    "seconds": 7.5,
}
SOUND = {**DONE, "slide": "b.svs", "mm²": {"pink": 0.5, "blue": 3.0}, "unreadable": [], "warnings": []}
SOUND |= {"resolution from": "given by the user"}
EMPTY = {**SOUND, "slide": "d.svs", "state": "nothing labelled", "mm²": {"pink": 0.0, "blue": 0.0}}
FAILED = {"slide": "c.svs", "error": "c.svs: damaged, truncated"}


def test_the_table_has_areas_tissue_and_unreadable_places_of_every_slide(tmp_path):
    path = write_summary([DONE, SOUND, FAILED], tmp_path / "new" / "summary.csv")
    assert path.read_text(encoding="utf-8-sig").splitlines() == [
        "slide,state,dark mm²,pink mm²,blue mm²,unsure mm²,tissue mm²,labels,µm per pixel,resolution from,"
        "unreadable,warnings,seconds",
        "a.svs,ok,1.250000,0.123457,,0.250000,2.500000,at least 40 % sure,0.499,aperio metadata,"
        '"x 20..60, y 1100..1120; x 0..8, y 0..4","pale; few tiles, and dark",7.5',
        "b.svs,ok,,0.500000,3.000000,0.250000,2.500000,at least 40 % sure,0.499,given by the user,,,7.5",
        'c.svs,"c.svs: damaged, truncated",,,,,,,,,,,',
    ]


def test_a_table_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match=r"summary\.csv: cannot be written \(.*\)"):
        write_summary([DONE], tmp_path / "file" / "summary.csv")


def test_a_slides_line_has_its_areas_and_how_many_places_were_unreadable():
    assert summary_line(DONE) == (
        "ok a.svs: dark 1.25, pink 0.123, unsure 0.25 of 2.5 mm² at 0.499 µm per pixel (aperio metadata);"
        " 2 unreadable places (7.5 s)"
    )
    assert summary_line(SOUND) == (
        "ok b.svs: pink 0.5, blue 3, unsure 0.25 of 2.5 mm² at 0.499 µm per pixel (given by the user) (7.5 s)"
    )
    assert summary_line(EMPTY) == (
        "NOTHING LABELLED d.svs: pink 0, blue 0, unsure 0.25 of 2.5 mm² at 0.499 µm per pixel (given by the user)"
        " (7.5 s)"
    )
    assert summary_line(FAILED) == "FAILED c.svs: damaged, truncated"


def test_slides_are_counted_by_state():
    assert count_states([DONE, FAILED, SOUND, EMPTY]) == "4 slides: 2 ok, 1 failed, 1 nothing labelled"


def test_a_row_has_what_was_predicted(tiny_tiff, classes, tmp_path, monkeypatch):
    """0.5 µm per pixel, of a slide with 0.25 µm: 200 x 100 pixels dark, 10 x 20 unreadable, half of it tissue."""
    labels = np.zeros((320, 320), np.uint8)
    labels[:200, :100] = 1
    labels[300:310, 20:40] = 255
    tissue = np.zeros((12, 12), bool)
    tissue[:, :5] = True  # of 16 µm: x 0 to 160
    made = predicted(tmp_path / "made.zarr", labels, classes, tissue=TissueMask(tissue, 16.0).array)

    written = Prediction.open(made.folder, write=True)
    assert [written.warn("colours are far off") for _ in range(2)] == [True, False]

    def predict_slide(*_):
        yield Progress(1, 1, "tiles")
        return written

    monkeypatch.setattr(predict, "predict_slide", predict_slide)
    task = SlideTask(tiny_tiff, samples.model_path(), tmp_path, PredictSettings())
    row = run(predict_file(task))
    assert row["mm²"] == pytest.approx({"dark": 200 * 100 * 0.25e-6, "pink": 0})
    assert (row["state"], row["warnings"]) == ("ok", ["colours are far off"])
    assert row["tissue mm²"] == pytest.approx((320 * 160 - 10 * 20) * 0.25e-6)
    assert (row["µm per pixel"], row["resolution from"]) == (0.25, "given")
    assert row["unreadable"] == ["x 40..80, y 600..620"]
    assert (row["prediction"], row["mask"]) == (str(tmp_path / "tiny.zarr"), str(tmp_path / "tiny.mask.ome.tif"))
    assert task.mask.exists()
