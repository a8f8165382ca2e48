"""A user's whole way through a result: predict, look, correct with the brush, predict again, measure, export, train."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from hand import Hand, picture, press, tick
from qtpy.QtWidgets import QApplication

from napari_lpd import samples
from napari_lpd.gui.layers.regions import WHOLE
from napari_lpd.gui.layers.results import our_layers
from napari_lpd.gui.layers.slides import kind, slide_id
from napari_lpd.gui.predict.widget import PredictWidget
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.export.geojson import read_mask

SLIDE = "CMU-1_skin.tiff"
FAT = 3  # row in the table of areas


@pytest.mark.slow
def test_predict_look_correct_predict_again_export(shown_viewer, qtbot, tmp_path, shown_errors):
    viewer = shown_viewer
    _, widget = viewer.window.add_plugin_dock_widget("napari-lpd", "Predict")
    assert isinstance(widget, PredictWidget)
    widget._out = tmp_path
    widget.slides.open(samples.skin_slide_path())
    viewer.reset_view()
    panel = widget.panel

    def predict():
        widget.job.button.click()
        qtbot.waitUntil(lambda: not widget.job.runner.running, timeout=600_000)
        assert shown_errors == []
        assert widget.job.status.text().startswith("Done")

    def measured():
        qtbot.waitUntil(lambda: not (panel.runner.running or panel.measurer.running), timeout=120_000)
        assert shown_errors == []
        return float(panel.areas.table.item(FAT, 1).text())

    widget.scope.setCurrentText(WHOLE)
    predict()
    picture(viewer, "predict_mask")
    [labels] = our_layers(viewer, slide_id(viewer.layers[SLIDE]), "labels")
    tick(panel.results.button, "Heatmap: collagen")
    qtbot.waitUntil(lambda: "collagen heatmap" in viewer.layers, timeout=30_000)
    assert not labels.visible
    viewer.dims.set_point(0, 1)
    picture(viewer, "predict_heatmap")
    viewer.scene.camera.zoom, viewer.scene.camera.center = 1.0, (0, 2500, 1900)
    picture(viewer, "predict_heatmap_full_zoom")
    tick(panel.results.button, "Heatmap: collagen")
    assert "collagen heatmap" not in viewer.layers
    assert labels.visible

    press(panel, "Measure")
    before = measured()
    press(panel, "Correct mask")
    layer = panel.correct.layer()
    areas = panel.areas.table
    areas.setCurrentCell(FAT, 0)
    assert layer.selected_label == FAT + 1
    layer.brush_size = 60
    hand = Hand(viewer)
    for x in range(1750, 2050, 50):
        hand.drag((2400, x), (2600, x))
    painted = int((layer.data == FAT + 1).sum())
    picture(viewer, "predict_edit")
    press(panel, "Apply")
    assert panel.correct.layer() is None
    corrected = measured()
    assert corrected > before + 0.03
    picture(viewer, "predict_corrected")

    widget.form.set_value(widget.settings().model_copy(update={"presence": 0.4}))
    predict()
    assert "Your corrections are in it" in widget.job.status.text()
    prediction = panel.shown()
    y, x = (round(um / prediction.card.mpp) for um in (2500, 1900))
    assert Corrections(prediction).levels[0][y : y + 1, x : x + 1] == FAT + 1
    press(panel, "Measure")
    assert measured() > 0

    for name in ("mask.ome.tif", "mask.geojson", "mask.png", "areas.csv"):
        panel.export(tmp_path / name)
        qtbot.waitUntil(lambda: not panel.runner.running, timeout=120_000)
        assert shown_errors == []
    whole = tifffile.imread(tmp_path / "mask.ome.tif")
    assert whole[y, x] == FAT + 1
    assert (whole == FAT + 1).sum() >= min(painted, 1000)
    assert json.loads((tmp_path / "mask.geojson").read_text())["features"]
    mask = read_mask(tmp_path / "mask.geojson")
    rows, columns = (slice(start, start + n) for start, n in zip(mask.origin, mask.labels.shape, strict=True))
    assert np.array_equal(mask.labels, whole[rows, columns])

    press(panel, "Learn from corrections")
    [regions] = [layer for layer in viewer.layers if kind(layer) == "regions"]
    assert "fat" in set(regions.features["tissues"])
    QApplication.processEvents()
    picture(viewer, "predict_to_train")
