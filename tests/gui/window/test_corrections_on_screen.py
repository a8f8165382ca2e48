"""What is painted by hand stays, whatever is pressed next, and what is on the screen is what is measured."""

from __future__ import annotations

import numpy as np
import pytest
from hand import LEFT, User, button, click
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.gui.common.layout import Column
from napari_lpd.gui.layers.regions import VIEW, WHOLE
from napari_lpd.gui.layers.results import our_layers, show_prediction
from napari_lpd.gui.layers.slides import slide_id

CONTROL = Qt.KeyboardModifier.ControlModifier
QUICK = PredictSettings(threads=1, tile=64, overlap=32, block=64)


@pytest.fixture
def desk(shown_viewer, tiny_tiff, qtbot, shown_errors):
    return Desk(shown_viewer, tiny_tiff, qtbot, shown_errors)


class Desk:
    """A viewer with Predict and the tiny slide, and the user before it."""

    def __init__(self, viewer, slide, qtbot, errors):
        self.viewer, self.slide, self.qtbot, self.errors = viewer, slide, qtbot, errors
        self.user = User(viewer)
        self.open()

    def open(self):
        _, self.widget = self.viewer.window.add_plugin_dock_widget("napari-lpd", "Predict")
        self.widget.slides.open(self.slide)
        self.widget.form.set_value(QUICK)
        self.viewer.reset_view()
        QApplication.processEvents()

    def show(self, prediction):
        show_prediction(self.viewer, prediction, self.widget.slides.layer())
        self.widget.panel.refresh()
        self.viewer.reset_view()
        QApplication.processEvents()

    def predict(self, scope):
        self.widget.scope.setCurrentText(scope)
        self.widget.job.button.click()
        self.wait()

    def wait(self):
        panel = self.widget.panel
        jobs = (self.widget.job.runner, panel.runner, panel.measurer)
        self.qtbot.waitUntil(lambda: not any(job.running for job in jobs), timeout=120_000)
        QApplication.processEvents()
        assert self.errors == []

    @property
    def mask(self):
        *_, mask = our_layers(self.viewer, slide_id(self.widget.slides.layer()), "labels")
        return mask

    def press(self, text):
        found = button(self.widget, text)
        self.widget.findChild(Column).ensureWidgetVisible(found)
        click(found)

    def take(self, row):
        table = self.widget.panel.areas.table
        self.widget.findChild(Column).ensureWidgetVisible(table)
        QTest.mouseClick(table.viewport(), LEFT, pos=table.visualItemRect(table.item(row, 1)).center())
        QApplication.processEvents()

    def shown_mm2(self):
        labels, card = np.asarray(self.mask.data), self.widget.panel.shown().card
        return [(labels == i).sum() * (card.mpp / 1000) ** 2 for i in range(1, len(card.classes) + 1)]

    def table_mm2(self):
        table = self.widget.panel.areas.table
        return [float(table.item(row, 1).text() or "nan") for row in range(table.rowCount() - 1)]

    def label_at(self, y, x):
        mask = self.mask
        row, column = (round(value) for value in mask.world_to_data((y, x)))
        return int(np.asarray(mask.data)[row, column])


def test_corrections_stay_after_stop_and_predict_and_after_closing(desk):
    widget = desk.widget
    desk.predict(VIEW)
    other = 1 if desk.label_at(100, 100) == 4 else 4
    desk.press("Correct mask")
    desk.take(other - 1)
    widget.panel.correct.layer().brush_size = 30
    desk.user.drag((100, 60), (100, 140))
    desk.press("Apply")
    desk.wait()
    assert desk.label_at(100, 100) == other
    assert desk.table_mm2() == pytest.approx(desk.shown_mm2(), abs=6e-4)

    old = desk.table_mm2()
    widget.scope.setCurrentText(WHOLE)
    desk.press("Predict")
    desk.qtbot.waitUntil(
        lambda: widget._run.growing is not None and len(widget._run.growing.prediction.finished_blocks()) > 1,
        timeout=60_000,
    )
    click(widget.job.stop_button)
    desk.wait()
    assert "Unfinished" in widget.panel.areas.total.text()
    assert desk.table_mm2() != old
    assert desk.label_at(100, 100) == other  # also while it is not done
    desk.press("Predict")
    desk.wait()
    assert "Your corrections are in it" in widget.job.status.text()
    assert desk.label_at(100, 100) == other
    assert desk.table_mm2() == pytest.approx(desk.shown_mm2(), abs=6e-4)

    for dock in list(desk.viewer.window._wrapped_dock_widgets.values()):
        click(dock.title.close_button)
    desk.viewer.layers.clear()  # napari is closed and opened again
    desk.open()
    desk.widget.form.set_value(QUICK.model_copy(update={"background_power": 3.0}))
    desk.predict(VIEW)
    assert desk.label_at(100, 100) == other
    assert desk.table_mm2() == pytest.approx(desk.shown_mm2(), abs=6e-4)


def test_the_mask_is_painted_on_its_edit_layer_alone_and_that_layer_goes_by_apply_or_discard(desk, make_prediction):
    viewer, user = desk.viewer, desk.user
    desk.show(make_prediction())
    mask, before = desk.mask, np.array(desk.mask.data)
    user.activate(mask)
    controls = viewer.window._qt_viewer.controls.widgets[mask]
    QTest.mouseClick(controls.paint_button, LEFT)
    QApplication.processEvents()
    user.drag((100, 100), (100, 200))
    mask.mode = "paint"  # as a script or another key would
    user.drag((100, 100), (100, 200))
    for _ in range(2):  # napari makes layers editable when it shows them in 3D and back
        click(viewer.window._qt_viewer.viewerButtons.ndisplayButton)
    mask.mode = "paint"
    user.drag((100, 100), (100, 200))
    assert (np.asarray(mask.data) == before).all()
    areas = desk.table_mm2()

    viewer.reset_view()  # the drags have moved it
    QApplication.processEvents()
    desk.press("Correct mask")
    desk.take(1)
    edit = desk.widget.panel.correct.layer()
    user.drag((100, 100), (100, 180))
    painted = np.array(edit.data)
    click(viewer.window._qt_viewer.layerButtons.deleteButton)
    user.key(Qt.Key.Key_Delete, CONTROL)
    assert edit in viewer.layers
    desk.press("Model's mask")
    assert (painted != np.asarray(edit.data)).any()
    assert desk.widget.panel.shown().labels.levels[0][:].max() == 2
    user.key("z", CONTROL)
    assert (painted == np.asarray(edit.data)).all()
    desk.press("Apply")
    desk.wait()
    assert mask.visible
    assert desk.table_mm2() != areas
    desk.press("Undo")
    desk.wait()
    assert (np.asarray(mask.data) == before).all()
    assert desk.table_mm2() == areas
    assert not button(desk.widget, "Undo").isVisible()
    desk.press("Correct mask")
    viewer.layers.remove(desk.widget.panel.correct.layer())  # by a script
    assert mask.visible
