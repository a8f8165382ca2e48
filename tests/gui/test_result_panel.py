"""Legend, corrections, measures and exports in the Predict widget."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt

from napari_lpd.corrections import Corrections
from napari_lpd.gui._layers import kind
from napari_lpd.gui._results import our_layers, show_prediction
from napari_lpd.gui.predict import PredictWidget
from napari_lpd.measure import Roles
from napari_lpd.prediction import Prediction


@pytest.fixture
def shown(viewer, tiny_layer, make_prediction, use_widget):
    """The widget, with a prediction of the whole tiny slide shown on it."""
    prediction = make_prediction(box=None)
    show_prediction(viewer, prediction, tiny_layer)
    widget = use_widget(PredictWidget)
    viewer.canvas.size = (400, 500)
    viewer.scene.camera.zoom, viewer.scene.camera.center = 1.0, (0, 128, 192)
    return widget, prediction


def waited(widget, qtbot):
    qtbot.waitUntil(lambda: not widget.panel.runner.running, timeout=60_000)


def test_paint_apply_measure_export(shown, viewer, qtbot, tmp_path, shown_errors):
    widget, prediction = shown
    panel = widget.panel
    before = [panel.areas.table.item(row, 1).text() for row in range(2)]
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
    [labels] = our_layers(viewer, "tiny.tiff", "labels")
    assert labels.visible
    assert (labels.data[:20, :20] == 2).all()
    assert (prediction.labels.levels[0][:20, :20] == 1).all()  # the model's own stays
    after = [panel.areas.table.item(row, 1).text() for row in range(2)]
    assert float(after[1]) > float(before[1])
    assert float(after[0]) < float(before[0])
    assert panel.areas.table.item(0, 3).text()

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
    panel.export(tmp_path / "a.png")  # of a slide that is another one than was predicted, here
    waited(widget, qtbot)
    assert "another slide" in shown_errors[0]


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
    assert shown_errors == ["nothing is predicted yet: press Predict first"]


def test_the_legend_switches_and_fades_classes(shown, viewer):
    widget, _ = shown
    areas = widget.panel.areas
    [labels] = our_layers(viewer, "tiny.tiff", "labels")
    areas.table.item(0, 0).setCheckState(Qt.CheckState.Unchecked)
    assert labels.colormap.color_dict[1][3] == 0
    assert labels.colormap.color_dict[2][3] == 1
    areas.table.setCurrentCell(1, 0)
    areas.opacity.setValue(40)
    assert labels.colormap.color_dict[2][3] == pytest.approx(0.4)


def test_roles_are_remembered_and_give_the_stroma_share(shown, viewer, qtbot, tmp_path):
    widget, _ = shown
    assert widget.panel.areas.ratios.isHidden()
    widget.panel.use_roles(Roles(tumour=("dark",), stroma=("pink",)))
    waited(widget, qtbot)
    assert "stroma share of tumour area 50.0 % of tumour + stroma" in widget.panel.areas.ratios.text()
    viewer.add_points([[3, 3]])  # another layer leaves the measures alone
    assert not widget.panel.areas.ratios.isHidden()
    widget.panel.export(tmp_path / "a.csv")
    waited(widget, qtbot)
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows] == ["dark", "pink", "tissue", "stroma share of tumour area"]


def test_a_field_that_leaves_the_slide_is_said(shown, viewer, qtbot, shown_errors):
    widget, _ = shown
    widget.panel.use_roles(Roles(tumour=("dark",), stroma=("pink",)))
    waited(widget, qtbot)
    widget.panel.place()
    assert [kind(layer) for layer in viewer.layers].count("fields") == 1
    widget.panel.measure()
    waited(widget, qtbot)
    assert "a field of 3.1 mm² there reaches outside tiny.tiff" in shown_errors[0]


def test_corrections_survive_another_prediction_of_the_slide(shown, viewer, make_prediction, qtbot):
    from napari_lpd.gui._correcting import carried_over

    _, old = shown
    Corrections(old).apply_crop(0, 0, np.full((20, 20), 2, np.uint8))
    new = make_prediction(box=None)
    assert "taken over" in carried_over(new, old)
    assert (Corrections(Prediction.open(new.folder)).read_crop(0, 0, (20, 20)) == 2).all()
    assert carried_over(new, new) == ""


def test_a_new_slide_with_an_old_result_shows_its_corrections(viewer, tiny_layer, make_prediction):
    prediction = make_prediction(box=None)
    Corrections(prediction).apply_crop(3, 4, np.full((9, 9), 2, np.uint8))
    labels = show_prediction(viewer, Prediction.open(prediction.folder), tiny_layer)
    assert (labels.data[3:12, 4:13] == 2).all()
