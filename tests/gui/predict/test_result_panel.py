"""Legend, corrections, measures and exports in the Predict widget."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog, QLabel, QMessageBox, QPushButton

from napari_lpd.cli.main import main
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.results import MarginSettings, MeasureSettings, Roles
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.project import regions_beside
from napari_lpd.data.region_tiles import cut_tiles
from napari_lpd.data.regions import Region, write_regions
from napari_lpd.gui.common.recent_models import kept_measures
from napari_lpd.gui.layers.regions import add_regions, new_regions_layer
from napari_lpd.gui.layers.results import our_layers, show_prediction
from napari_lpd.gui.layers.slides import kind, set_resolution, slide_id
from napari_lpd.gui.predict.area_table import RolesDialog
from napari_lpd.gui.predict.widget import PredictWidget
from napari_lpd.gui.train.widget import TrainWidget
from napari_lpd.models.card import read_card
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.measures.areas import measure
from napari_lpd.results.prediction import Prediction
from napari_lpd.samples import model_path
from napari_lpd.slides.formats import open_slide


def waited(widget, qtbot):
    panel = widget.panel
    qtbot.waitUntil(lambda: not (panel.runner.running or panel.measurer.running), timeout=60_000)


def test_paint_apply_measure_export(shown, viewer, qtbot, tmp_path, shown_errors, tiny_tiff):
    widget, prediction = shown
    panel = widget.panel
    before = [panel.areas.table.item(row, 1).text() for row in range(2)]
    assert panel.areas.table.isColumnHidden(3)
    assert panel.areas.total.text().endswith("press Measure for expected areas")
    panel.correct.edit.click()
    layer = panel.correct.layer()
    assert layer.data.shape == prediction.card.shape
    panel.areas.table.setCurrentCell(1, 0)
    assert layer.selected_label == 2
    layer.data[:20, :20] = 2
    panel.correct.apply.click()
    waited(widget, qtbot)
    assert shown_errors == []
    assert panel.correct.layer() is None
    [labels] = our_layers(viewer, slide_id(viewer.layers["tiny.tiff"]), "labels")
    assert labels.visible
    assert (labels.data[:20, :20] == 2).all()
    assert (prediction.labels.levels[0][:20, :20] == 1).all()  # the model's own stays
    after = [panel.areas.table.item(row, 1).text() for row in range(2)]
    assert float(after[1]) > float(before[1])
    assert float(after[0]) < float(before[0])
    assert float(panel.areas.table.item(0, 3).text()) > 0

    panel.export(tmp_path / "a.ome.tif")
    waited(widget, qtbot)
    assert (tifffile.imread(tmp_path / "a.ome.tif")[:20, :20] == 2).all()
    panel.export(tmp_path / "a.geojson")
    waited(widget, qtbot)
    names = {
        f["properties"]["classification"]["name"] for f in json.loads((tmp_path / "a.geojson").read_text())["features"]
    }
    assert names == {"dark", "pink"}
    panel.export(tmp_path / "corrections.geojson", "corrections")
    waited(widget, qtbot)
    assert json.loads((tmp_path / "corrections.geojson").read_text())["features"]
    assert shown_errors == []
    panel.export(tmp_path / "a.png")
    waited(widget, qtbot)
    assert shown_errors == []
    assert (tmp_path / "a.png").exists()
    with tifffile.TiffWriter(tiny_tiff, append=True) as tiff:  # another content under the same name
        tiff.write(np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    panel.export(tmp_path / "b.png")
    waited(widget, qtbot)
    assert "has changed since it was opened here" in shown_errors[0]
    assert not (tmp_path / "b.png").exists()


def test_a_label_that_is_no_class_is_refused_and_the_layer_stays(shown, shown_errors):
    widget, _ = shown
    widget.panel.correct.edit.click()
    layer = widget.panel.correct.layer()
    layer.data[:5, :5] = 9
    widget.panel.correct.apply.click()
    assert "label 9 is none of 0..2" in shown_errors[0]
    assert widget.panel.correct.layer() is layer
    widget.panel.correct.discard.click()
    assert widget.panel.correct.layer() is None


def test_editing_without_a_prediction_says_what_to_do(use_widget, tiny_layer, shown_errors):
    use_widget(PredictWidget).panel.correct.edit.click()
    assert shown_errors == ["no prediction yet: press Predict first"]


def test_the_legend_switches_and_fades_classes(shown, viewer):
    widget, _ = shown
    areas = widget.panel.areas
    [labels] = our_layers(viewer, slide_id(viewer.layers["tiny.tiff"]), "labels")
    areas.table.item(0, 0).setCheckState(Qt.CheckState.Unchecked)
    assert labels.colormap.color_dict[1][3] == 0
    assert labels.colormap.color_dict[2][3] == 1
    areas.table.setCurrentCell(1, 0)
    areas.opacity.setValue(40)
    assert labels.colormap.color_dict[2][3] == pytest.approx(0.4)


def test_the_row_of_unsure_tissue_completes_the_areas_and_is_no_class(shown):
    widget, prediction = shown
    areas, table = widget.panel.areas, widget.panel.areas.table
    chosen = []
    areas.chosen.connect(chosen.append)
    assert table.item(2, 0).text() == "unsure"
    mm2 = [float(table.item(row, 1).text()) for row in range(3)]
    assert sum(mm2) == pytest.approx(prediction.tissue_mm2, abs=2e-3)
    table.cellClicked.emit(2, 0)
    table.setCurrentCell(2, 0)
    assert chosen == []
    assert areas.opacity.isHidden()
    assert not table.item(2, 0).flags() & Qt.ItemFlag.ItemIsUserCheckable


def test_roles_are_remembered_and_give_the_stroma_share(shown, viewer, qtbot, tmp_path):
    widget, _ = shown
    assert widget.panel.areas.ratios.isHidden()
    widget.panel.measure_by(MeasureSettings(roles=Roles(tumour=("dark",), stroma=("pink",))))
    waited(widget, qtbot)
    assert "stroma share of tumour area 50.0 % of tumour + stroma" in widget.panel.areas.ratios.text()
    viewer.add_points([[3, 3]])  # another layer leaves the measures alone
    assert not widget.panel.areas.ratios.isHidden()
    widget.panel.export(tmp_path / "a.csv")
    waited(widget, qtbot)
    with (tmp_path / "a.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows] == [
        "dark",
        "pink",
        "unsure",
        "unlabelled",
        "tissue",
        "stroma share of tumour area",
    ]


def test_the_window_measures_bands_and_exports_objects_as_the_command_does(shown, qtbot, tmp_path, monkeypatch):
    widget, prediction = shown
    panel = widget.panel

    def fill_in(dialog):
        dialog.choices["dark"].setCurrentText("tumour")
        dialog.bands.setText("20; 40")
        dialog.accept()
        assert "bands are numbers of µm, separated by commas" in dialog.findChildren(QLabel)[-1].text()
        dialog.bands.setText("20, 40")
        dialog.accept()
        return dialog.result()

    monkeypatch.setattr(RolesDialog, "exec", fill_in)
    panel._on_roles()
    waited(widget, qtbot)
    margin = MarginSettings(bands_um=(20, 40))
    rows = run(measure(prediction, MeasureSettings(roles=Roles(tumour=("dark",)), margin=margin)))
    assert [row.area_mm2 for row in panel.rows] == [row.area_mm2 for row in rows]
    band = next(row for row in rows if (row.region, row.what) == ("whole slide: 0-20 µm outside", "pink"))
    assert band.area_mm2 > 0
    assert f"0-20 µm outside: pink {band.area_mm2:.3f} mm²" in panel.areas.ratios.text()
    assert kept_measures(["dark", "pink"]).margin == margin
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "o.csv"), "(*.csv)"))
    panel._on_export("objects")
    waited(widget, qtbot)
    roles = tmp_path / "roles.json"
    roles.write_text('{"tumour": ["dark"]}')
    command = ["measure", str(prediction.folder), "--roles", str(roles), "--bands", "20,40"]
    assert main([*command, "--out", str(tmp_path / "m.csv"), "--objects", str(tmp_path / "again.csv")]) == 0
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    panel.export(tmp_path / "a.csv")
    waited(widget, qtbot)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "m.csv").read_bytes()


def test_a_field_that_leaves_the_slide_is_said(shown, viewer, qtbot, shown_errors):
    widget, _ = shown
    widget.panel.measure_by(MeasureSettings(roles=Roles(tumour=("dark",), stroma=("pink",))))
    waited(widget, qtbot)
    widget.panel.place()
    assert [kind(layer) for layer in viewer.layers].count("fields") == 1
    widget.panel.correct.edit.click()
    assert {str(unit) for layer in viewer.layers for unit in layer.units[-2:]} == {"micrometer"}
    widget.panel.correct.discard.click()
    widget.panel.measure()
    waited(widget, qtbot)
    assert "A circle is not measured, as it reaches outside tiny.tiff" in widget.job.status.text()
    assert len(widget.panel.rows) > 3  # all else is
    assert shown_errors == []


def test_corrections_survive_another_prediction_of_the_slide(shown, make_prediction, tmp_path):
    from napari_lpd.gui.predict.correction_bar import carried_over

    _, old = shown
    Corrections(old).apply_crop(0, 0, np.full((20, 20), 2, np.uint8))
    new = make_prediction(box=None)
    kept = tmp_path / "kept.geojson"
    assert "are in it" in carried_over(new, old, kept)
    assert (Corrections(Prediction.open(new.folder)).read_crop(0, 0, (20, 20)) == 2).all()
    assert carried_over(make_prediction(box=None), None, kept) == ""


def test_a_new_slide_with_an_old_result_shows_its_corrections(viewer, tiny_layer, make_prediction):
    prediction = make_prediction(box=None)
    Corrections(prediction).apply_crop(3, 4, np.full((9, 9), 2, np.uint8))
    labels = show_prediction(viewer, Prediction.open(prediction.folder), tiny_layer)
    assert (labels.data[3:12, 4:13] == 2).all()


def test_corrections_join_the_regions_to_train_on_with_one_press(shown, viewer, use_widget, shown_errors, tiny_tiff):
    widget, prediction = shown
    say = widget.job.status.text
    to_train = next(b for b in widget.panel.findChildren(QPushButton) if b.text() == "Learn from corrections")
    to_train.click()
    assert shown_errors == ["no corrections yet: press Correct mask, paint, and press Apply"]
    pink = TissueClass(name="pink", color="#ff8c1a")
    saved = Region(np.array([[100.0, 100], [100, 140], [140, 140]]), ("pink",))
    write_regions(regions_beside(tiny_tiff), [saved], [pink])
    Corrections(prediction).apply_crop(0, 0, np.full((20, 20), 2, np.uint8))
    to_train.click()
    Corrections(prediction).apply_crop(0, 0, np.full((10, 20), 1, np.uint8))  # the upper half, as the model had it
    Corrections(prediction).apply_crop(60, 60, np.full((10, 20), 2, np.uint8))
    to_train.click()
    assert say().startswith("2 corrected places added to 'tissue regions (tiny.tiff)': Train learns the tissue of just")
    train = use_widget(TrainWidget)
    regions = train.data.drawn.checked()  # what was saved beside the slide is kept, what was corrected anew replaced
    assert sorted((region.tissues, round(region.polygon().area), region.pixels) for region in regions) == [
        (("pink",), 800, False),
        (("pink",), 800, True),
        (("pink",), 800, True),
    ]
    with open_slide(tiny_tiff) as slide:
        tiles = cut_tiles(slide, regions, train.data.tissue_classes(), TrainSettings(tile=64), "tiny")
    assert (tiles.labels[[*tiles.painted]] == [0, 1]).all()
    assert not tiles.known[[*tiles.painted], 0].any()
    assert [tissue.name for tissue in train.data.tissue_classes()] == ["dark", "pink"]


def test_a_model_of_another_resolution_is_announced_before_the_run(shown, viewer, tiny_layer):
    widget, _ = shown
    wanted = read_card(widget.model.path()).settings.mpp
    for found, said in (
        (wanted, ""),
        (wanted / 4, "are resampled to the model's"),
        (2 * wanted, "expect a worse mask"),
    ):
        set_resolution(tiny_layer, found)
        widget.slides.refresh()
        assert said in widget.model.reading.text()
        assert widget.model.reading.isHidden() == (not said)
    tiny_layer.units = ("pixel", "pixel")
    widget.slides.refresh()
    assert "no resolution yet" in widget.model.reading.text()
    assert "EfficientNet" in widget.model.details.text() or "efficientnet" in widget.model.details.text()


def test_what_cannot_be_done_with_a_result_is_said_and_nothing_is_lost(
    shown, viewer, tiny_layer, make_prediction, qtbot, tmp_path, shown_errors
):
    widget, _ = shown
    (tmp_path / "file").write_text("not a folder")
    widget.panel.export(tmp_path / "file" / "a.ome.tif")
    waited(widget, qtbot)
    assert "a.ome.tif" in shown_errors.pop()
    half = make_prediction(box=None, finish=False)
    show_prediction(viewer, half, tiny_layer)
    widget.panel.refresh()
    assert widget.panel.areas.total.text() == "Unfinished: areas are shown at the end."
    widget.panel.measure()
    waited(widget, qtbot)
    assert "unfinished prediction; run predict again to resume it" in shown_errors.pop()
    widget.panel.export(tmp_path / "half.csv")
    waited(widget, qtbot)
    assert "unfinished prediction" in shown_errors.pop()
    assert not (tmp_path / "half.csv").exists()
    assert shown_errors == []


@pytest.mark.parametrize("name", ["mask.ome.tif", "copy.zarr"])
def test_a_name_that_the_dialog_did_not_ask_about_is_asked_about(shown, qtbot, tmp_path, monkeypatch, name):
    widget, prediction = shown
    target, suffix = tmp_path / name, name.partition(".")[2]
    typed = str(tmp_path / name.partition(".")[0])
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (typed, f"A form (*.{suffix})"))
    questions, answers = [], [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(QMessageBox, "question", lambda *said: questions.append(said[2]) or answers.pop(0))
    widget.panel._on_export("labels")
    waited(widget, qtbot)
    before = target.stat().st_ino
    widget.panel._on_export("labels")
    waited(widget, qtbot)
    assert target.stat().st_ino == before
    widget.panel._on_export("labels")
    waited(widget, qtbot)
    assert target.stat().st_ino != before
    assert questions == [f"{target} exists. Replace it?"] * 2
    assert prediction.folder.is_dir()


def test_nothing_is_replaced_that_nobody_was_asked_about(shown, qtbot, tmp_path, shown_errors):
    widget, _ = shown
    for name in ("a.csv", "a.ome.tif", "a.geojson"):
        (tmp_path / name).write_text("mine")
        widget.panel.export(tmp_path / name)
        waited(widget, qtbot)
        assert f"{name} exists and is not overwritten" in shown_errors.pop()
        assert (tmp_path / name).read_text() == "mine"


def test_outlines_are_simplified_as_far_as_is_said(shown, qtbot, tmp_path):
    widget, _ = shown
    assert widget.panel.simplify.text() == "GeoJSON outlines not simplified"
    for um in (0, 3):
        widget.panel.simplify.setValue(um)
        widget.panel.export(tmp_path / f"{um}.geojson")
        waited(widget, qtbot)
        assert json.loads((tmp_path / f"{um}.geojson").read_text())["napari_lpd"]["simplified_um"] == um


def test_the_result_of_another_slide_is_not_taken_for_this_ones(shown, viewer, tmp_path, shown_errors):
    widget, _ = shown
    tifffile.imwrite(tmp_path / "other.tiff", np.full((300, 200, 3), 200, np.uint8), photometric="rgb", tile=(64, 64))
    widget.slides.open(tmp_path / "other.tiff")
    assert widget.slides.find().name == "other.tiff"
    for press in (
        widget.panel.correct.edit.click,
        widget.panel.measure,
        lambda: widget.panel.export(tmp_path / "a.csv"),
    ):
        press()
        assert "made-0.zarr is a result of tiny.tiff, not of other.tiff" in shown_errors.pop()
    assert not (tmp_path / "a.csv").exists()


def test_what_is_being_painted_is_not_lost_to_another_prediction(shown, shown_errors):
    widget, _ = shown
    widget.panel.correct.edit.click()
    layer = widget.panel.correct.layer()
    widget.job.button.click()
    assert "being corrected: press Apply or Discard first" in shown_errors[0]
    assert widget.panel.correct.layer() is layer
    assert not widget.job.runner.running


def test_what_is_being_painted_is_not_missing_from_measures_and_files(shown, tmp_path, shown_errors):
    widget, _ = shown
    widget.panel.correct.edit.click()
    for press in (widget.panel.measure, widget.panel.to_train, lambda: widget.panel.export(tmp_path / "a.csv")):
        press()
        assert "being corrected: press Apply or Discard first" in shown_errors.pop()
        assert not widget.panel.runner.running
    assert not (tmp_path / "a.csv").exists()


def test_models_that_were_opened_are_listed_the_next_time(use_widget, tmp_path):
    (tmp_path / "mine").mkdir()
    own = Path(shutil.copy(model_path(), tmp_path / "mine" / "model.safetensors"))
    use_widget(PredictWidget).model.use(own)
    picker = use_widget(PredictWidget).model
    texts = [picker.combo.itemText(i) for i in range(picker.combo.count())]
    assert texts == ["mine/model.safetensors", "sample model (skin)"]
    assert picker.path() == own.resolve()
    own.unlink()
    assert use_widget(PredictWidget).model.path() == model_path()


def test_a_slide_without_tissue_is_said(viewer, use_widget, qtbot, tmp_path, shown_errors):
    tifffile.imwrite(
        tmp_path / "glass.tiff",
        np.full((512, 512, 3), 245, np.uint8),
        photometric="rgb",
        tile=(256, 256),
        resolution=(1e4, 1e4),
        resolutionunit="CENTIMETER",
    )
    widget = use_widget(PredictWidget)
    widget.slides.open(tmp_path / "glass.tiff")
    widget.scope.setCurrentText("whole slide")
    widget._out = tmp_path / "out"
    widget.job.button.click()
    qtbot.waitUntil(lambda: not widget.job.runner.running, timeout=120_000)
    assert shown_errors == []
    assert "no tissue was found there, so nothing is labelled" in widget.warning.text()
    assert not widget.warning.isHidden()
    assert widget.job.status.text().startswith("Done")


def test_a_selected_region_on_glass_is_an_error_that_says_so(viewer, use_widget, qtbot, tmp_path, shown_errors):
    pixels = np.full((512, 512, 3), 245, np.uint8)
    pixels[:, :256] = (150, 60, 150)
    options = {"photometric": "rgb", "tile": (256, 256), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(tmp_path / "half.tiff", pixels, resolution=(1e4, 1e4), **options)
    widget = use_widget(PredictWidget)
    widget.slides.open(tmp_path / "half.tiff")
    layer = widget.slides.layer()
    regions = new_regions_layer(viewer, layer)
    square = np.array([[0, 0], [0, 90], [90, 90], [90, 0]], float)
    add_regions(regions, [Region(square, ("dark",)), Region(np.add(square, (200, 400)), ("dark",))], ())
    regions.selected_data = {0, 1}
    widget.scope.setCurrentText("the selected regions")
    widget.job.button.click()
    qtbot.waitUntil(lambda: not widget.job.runner.running, timeout=120_000)
    assert ["half.tiff: no tissue was found in region 2 of 2" in text for text in shown_errors] == [True]
    assert not any(kind(each) == "labels" for each in viewer.layers)
