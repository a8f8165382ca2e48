"""Labels made again from the maps of a result."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import shapely
from made_predictions import predicted

from napari_lpd.cli.main import main
from napari_lpd.core.errors import ExportError, SettingsError
from napari_lpd.core.jobs import run
from napari_lpd.core.labelling.rule import UNSURE
from napari_lpd.core.settings.prediction import LabelSettings, PredictSettings
from napari_lpd.core.settings.results import MeasureSettings
from napari_lpd.prediction.predict import predict_slide
from napari_lpd.prediction.relabel import relabel
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.measures.areas import measure
from napari_lpd.results.prediction import Prediction
from napari_lpd.slides.tissue import TissueMask

SMALL = PredictSettings(tile=128, overlap=32, block=64)
OTHER = LabelSettings(sure=0.55, favour=(("pink", 3.0),))


def with_labels(labels: LabelSettings, settings: PredictSettings = SMALL) -> PredictSettings:
    return settings.model_copy(update={"labels": labels})


def bytes_of(prediction: Prediction) -> list[bytes]:
    """All levels of the labels."""
    return [np.asarray(level).tobytes() for level in prediction.labels.levels]


@pytest.fixture
def tissue() -> TissueMask:
    """Tissue whose border crosses blocks and map pixels anywhere."""
    mask = np.zeros((64, 96), bool)
    mask[5:61, 9:80] = True
    mask[20:30, 30:45] = False
    mask[3, 90] = True
    return TissueMask(mask, 4.0)


@pytest.mark.parametrize("scope", [[], [shapely.Polygon([(60, 30), (350, 90), (200, 240)])]])
def test_labels_made_again_are_those_of_a_new_prediction_to_the_bit(tiny_slide, tiny_model, tissue, tmp_path, scope):
    first = run(predict_slide(tiny_slide, tiny_model, SMALL, tmp_path / "a.zarr", scope, tissue))
    before, cards = bytes_of(first), first.card
    anew = run(predict_slide(tiny_slide, tiny_model, with_labels(OTHER), tmp_path / "b.zarr", scope, tissue))
    again = run(relabel(tmp_path / "a.zarr", OTHER))
    assert bytes_of(again) == bytes_of(anew) != before
    assert again.area_mm2() == anew.area_mm2()
    assert again.unsure_mm2 == anew.unsure_mm2 > 0
    assert Prediction.open(tmp_path / "a.zarr").card.settings.labels == OTHER
    assert bytes_of(run(relabel(tmp_path / "a.zarr", LabelSettings()))) == before  # and back
    assert Prediction.open(tmp_path / "a.zarr").card == cards


def test_every_place_of_tissue_has_a_class_or_is_unsure(tiny_slide, tiny_model, tissue, tmp_path):
    for sure in (0.0, 0.99):
        made = run(predict_slide(tiny_slide, tiny_model, with_labels(LabelSettings(sure=sure)),
                                 tmp_path / f"{sure}.zarr", (), tissue))  # fmt: skip
        labels, wanted = np.asarray(made.labels.levels[0]), made.to_label((0, 0), made.card.shape)
        assert np.array_equal(labels > 0, wanted)
        assert set(np.unique(labels[wanted])) <= {1, 2, UNSURE}
        assert made.unsure_mm2 == pytest.approx((labels == UNSURE).sum() * 1e-6)
        assert sum(made.area_mm2().values()) + made.unsure_mm2 == pytest.approx(made.tissue_mm2)
        assert bool(made.unsure_mm2) == (sure > 0)


def test_predict_with_other_labels_only_makes_them_again(tiny_slide, tiny_model, tmp_path, monkeypatch):
    run(predict_slide(tiny_slide, tiny_model, SMALL, tmp_path / "a.zarr"))
    monkeypatch.setattr("napari_lpd.prediction.predict.SlidePredictor", None)  # the model is not asked
    made = run(predict_slide(tiny_slide, tiny_model, with_labels(OTHER), tmp_path / "a.zarr"))
    assert made.found_finished
    assert made.card.settings.labels == OTHER


def test_corrections_stay_above_and_measures_follow(tiny_slide, tiny_model, tmp_path):
    made = run(predict_slide(tiny_slide, tiny_model, SMALL, tmp_path / "a.zarr"))
    Corrections(made).apply_crop(40, 50, np.full((20, 30), 2, np.uint8))
    again = run(relabel(tmp_path / "a.zarr", LabelSettings(sure=1.0)))
    assert (np.asarray(again.labels.levels[0]) == UNSURE).all()
    shown = np.asarray(Corrections(again).levels[0])
    assert (shown[40:60, 50:80] == 2).all()
    assert (shown == UNSURE).sum() == shown.size - 600
    rows = {row.what: row for row in run(measure(again, MeasureSettings()))}
    assert rows["pink"].area_mm2 == pytest.approx(600e-6)
    assert rows["unsure"].area_mm2 == pytest.approx((shown.size - 600) * 1e-6)
    assert rows["unlabelled"].area_mm2 == pytest.approx(0)
    assert rows["unsure"].labels == "at least 100 % sure"


@pytest.mark.parametrize("how", ["relabel", "predict"])
def test_what_was_interrupted_is_unfinished_and_made_whole(tiny_slide, tiny_model, tmp_path, how):
    run(predict_slide(tiny_slide, tiny_model, SMALL, tmp_path / "a.zarr"))
    anew = run(predict_slide(tiny_slide, tiny_model, with_labels(OTHER), tmp_path / "b.zarr"))
    job = relabel(tmp_path / "a.zarr", OTHER)
    for _ in range(5):
        next(job)
    job.close()
    stopped = Prediction.open(tmp_path / "a.zarr")
    assert not stopped.finished
    assert bytes_of(stopped) != bytes_of(anew)
    with pytest.raises(ExportError, match="unfinished prediction"):
        run(measure(stopped, MeasureSettings()))
    job = (
        relabel(tmp_path / "a.zarr", OTHER)
        if how == "relabel"
        else predict_slide(tiny_slide, tiny_model, with_labels(OTHER), tmp_path / "a.zarr")
    )
    made = run(job)
    assert made.finished
    assert bytes_of(made) == bytes_of(anew)


def test_places_that_could_not_be_read_stay_so(tmp_path, classes):
    labels = np.ones((64, 128), np.uint8)
    labels[10:20, 60:70] = 255
    predicted(tmp_path / "a.zarr", labels, classes, block=64)
    made = run(relabel(tmp_path / "a.zarr", LabelSettings(sure=1.0)))
    assert np.array_equal(np.asarray(made.labels.levels[0]), np.where(labels == 255, 255, UNSURE))
    assert made.unreadable == Prediction.open(tmp_path / "a.zarr").unreadable != []


def test_what_cannot_be_made_again_is_said(tmp_path, classes):
    labels = np.ones((64, 128), np.uint8)
    predicted(tmp_path / "a.zarr", labels, classes, block=64)
    with pytest.raises(SettingsError, match="favour names 'fat'; the classes are dark, pink"):
        run(relabel(tmp_path / "a.zarr", LabelSettings(favour=(("fat", 2.0),))))
    assert Prediction.open(tmp_path / "a.zarr").finished
    predicted(tmp_path / "b.zarr", labels, classes, block=64, finish=False)
    with pytest.raises(ExportError, match="unfinished prediction; run predict again to resume it, then relabel"):
        run(relabel(tmp_path / "b.zarr", OTHER))
    refined = PredictSettings(block=64, refiner="lattice")
    predicted(tmp_path / "c.zarr", labels, classes, block=64, settings=refined)
    with pytest.raises(ExportError, match=r"follow the slide's edges \(refiner=lattice\); predict"):
        run(relabel(tmp_path / "c.zarr", OTHER))


def test_the_command_line_makes_labels_mask_and_table_again(tiny_tiff, tiny_model, tmp_path, capsys):
    from napari_lpd.results.export.ome_tiff import read_label_tiff

    model = next((tmp_path / "tiny_model").rglob("model.safetensors"))
    settings = ["--set", "tile=128", "--set", "overlap=32", "--set", "block=64"]
    assert main(["predict", str(tiny_tiff), "--model", str(model), "--out", str(tmp_path / "out"), *settings]) == 0
    result = tmp_path / "out" / "tiny.zarr"
    before = np.asarray(read_label_tiff(result.with_name("tiny.mask.ome.tif")).levels[0])
    capsys.readouterr()
    assert main(["relabel", str(result), "--sure", "0.55", "--more", "pink=3", "--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["results"][0]
    made = Prediction.open(result)
    assert made.card.settings.labels == OTHER
    assert row["labels"] == "at least 55 % sure, pink x 3"
    assert row["mm²"] == made.area_mm2()
    mask = np.asarray(read_label_tiff(result.with_name("tiny.mask.ome.tif")).levels[0])
    assert np.array_equal(mask, np.asarray(made.labels.levels[0]))
    assert not np.array_equal(mask, before)
    table = tmp_path / "areas.csv"
    assert main(["measure", str(result), "--out", str(table)]) == 0
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = {line["what"]: line for line in csv.DictReader(file)}
    assert float(rows["unsure"]["area_mm2"]) == pytest.approx(made.unsure_mm2, abs=1e-6)
    assert rows["pink"]["labels"] == "at least 55 % sure, pink x 3"
    assert main(["relabel", str(result), "--more", "pink"]) == 2
    assert "--more pink is not TISSUE=FACTOR, as fat=4" in capsys.readouterr().err
