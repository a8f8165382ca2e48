"""How sure a label has to be, in the window."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_lpd.core.labelling.rule import UNSURE
from napari_lpd.core.settings.prediction import LabelSettings
from napari_lpd.gui.layers.results import labels_of, show_prediction
from napari_lpd.gui.predict.widget import PredictWidget
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.prediction import Prediction


def settled(bar, qtbot):
    qtbot.waitUntil(lambda: not (bar._rest.isActive() or bar.runner.running) and bar.layer() is None, timeout=30_000)


def test_the_slider_shows_at_once_and_then_makes_the_result(shown, viewer, qtbot, shown_errors):
    widget, prediction = shown
    bar, areas = widget.panel.sure, widget.panel.areas
    [mask] = labels_of(viewer, prediction)
    before = np.asarray(mask.data).copy()
    assert bar.sure.value() == 40
    viewer.layers.selection.active = viewer.layers["tiny.tiff"]
    bar.sure.setValue(95)
    preview = bar.layer()
    assert (preview.data == UNSURE).all()  # 0.78 of 0.78 + 0.23
    assert not mask.visible
    assert np.array_equal(preview.scale, mask.scale)
    assert viewer.layers.selection.active is viewer.layers["tiny.tiff"]  # neither selection nor tool is taken
    assert np.array_equal(mask.data, before)
    settled(bar, qtbot)
    assert shown_errors == []
    assert mask.visible
    assert (mask.data == UNSURE).all()
    stored = Prediction.open(prediction.folder)
    assert stored.card.settings.labels == LabelSettings(sure=0.95)
    assert areas.table.item(2, 0).text() == "unsure"
    assert float(areas.table.item(2, 1).text()) == pytest.approx(stored.tissue_mm2, abs=1e-3)
    assert widget.settings().labels.sure == 0.95  # the next prediction is as sure
    bar.sure.setValue(40)
    settled(bar, qtbot)
    assert np.array_equal(mask.data, before)


def test_more_of_a_tissue_is_one_slider_away(shown, viewer, qtbot):
    widget, prediction = shown
    bar, table = widget.panel.sure, widget.panel.areas.table
    assert bar.more.isHidden()
    table.cellClicked.emit(1, 0)
    assert not bar.more.isHidden()
    bar.more.setValue(10)  # ten times as much: 0.23 to 0.78
    assert set(np.unique(bar.layer().data)) == {2}
    settled(bar, qtbot)
    assert Prediction.open(prediction.folder).card.settings.labels.favour == (("pink", 10.0),)
    assert float(table.item(0, 1).text()) == 0


def test_corrections_stay_in_the_preview_and_above_the_result(shown, viewer, qtbot):
    widget, prediction = shown
    Corrections(prediction).apply_crop(0, 0, np.full((10, 20), 2, np.uint8))
    bar = widget.panel.sure
    bar.sure.setValue(95)
    shown_labels = bar.layer().data
    assert (shown_labels[:10, :20] == 2).all()
    assert (shown_labels == UNSURE).sum() == shown_labels.size - 200
    settled(bar, qtbot)
    [mask] = labels_of(viewer, prediction)
    assert (np.asarray(mask.data)[:10, :20] == 2).all()


def test_of_a_refined_result_the_next_prediction_is_as_sure_as_the_slider_says(
    shown, viewer, tiny_layer, make_prediction, qtbot
):
    widget, plain = shown
    bar = widget.panel.sure
    assert bar.refined.isHidden()
    refined = make_prediction(box=None, refiner="lattice")
    show_prediction(viewer, refined, tiny_layer)
    assert not bar.refined.isHidden()
    assert "after the next Predict" in bar.refined.text()
    assert bar.isEnabled()
    bar.sure.setValue(95)
    viewer.add_points(np.zeros((1, 2)))  # the panel shows its result anew
    assert (bar.sure.value(), bar.layer(), bar._rest.isActive()) == (95, None, False)
    assert widget.settings().labels.sure == 0.95
    assert Prediction.open(refined.folder).card.settings.labels.sure == 0.4
    show_prediction(viewer, plain, tiny_layer)
    widget.panel.refresh()
    assert bar.refined.isHidden()
    assert bar.sure.value() == 40


def test_the_main_path_is_in_sight_without_scrolling(make_napari_viewer, tiny_tiff, make_prediction, qtbot):
    from napari_lpd.gui.contributions import read_slide

    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    data, options, _ = read_slide(str(tiny_tiff))[0]
    layer = viewer.add_image(data, **options)
    show_prediction(viewer, make_prediction(box=None), layer)
    widget = PredictWidget(viewer)
    viewer.window.add_dock_widget(widget)
    qtbot.waitUntil(lambda: widget.job.button.isVisible() and widget.height() > 400)
    qtbot.wait(200)
    for each in (widget.slides.combo, widget.model.combo, widget.scope, widget.panel.areas.table, widget.job.button):
        assert not each.visibleRegion().isEmpty(), each
        assert each.visibleRegion().boundingRect().height() == each.height(), each
        assert each.mapTo(widget.window(), QPoint(0, each.height())).y() <= 800
    qtbot.mouseClick(widget.job.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: widget.job.runner.running)
    widget.job.stop_button.click()
    qtbot.waitUntil(lambda: not widget.job.runner.running, timeout=30_000)
