"""Jobs that run while the user goes on clicking: docks are closed, buttons are pressed twice, times are asked for."""

from __future__ import annotations

import html
import threading

import numpy as np
import pytest
from hand import button, click
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QMessageBox

from napari_lpd.core.jobs import Progress
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.data.regions import Region
from napari_lpd.data.training_set import TrainingSet
from napari_lpd.gui.common.job import JobBar, JobRunner
from napari_lpd.gui.explore.widget import ExploreWidget
from napari_lpd.gui.layers.regions import add_regions, new_regions_layer
from napari_lpd.gui.predict.widget import PredictWidget


@pytest.fixture
def answers(monkeypatch):
    """Answers of the user to questions, and the questions."""
    given, asked = [], []

    def question(_, __, text, *___):
        asked.append(text)
        return given.pop(0)

    monkeypatch.setattr(QMessageBox, "question", question)
    return given, asked


def waiting(go_on):
    """A job that takes as long as it is made to."""
    while not go_on.wait(0.02):
        yield Progress(1, 3)
    return None


def docked(viewer, name):
    """A widget in its dock, and a press on the ×."""
    dock, widget = viewer.window.add_plugin_dock_widget("napari-lpd", name)
    return widget, lambda: click(dock.title.close_button)


def test_the_cross_of_a_dock_asks_while_a_model_is_trained_and_leaves_no_child(
    viewer, tiny_layer, tiny_regions, classes, children, answers, tmp_path, qtbot
):
    given, asked = answers
    train, close = docked(viewer, "Train")
    train.out.setText(str(tmp_path / "models"))
    train.data.classes.set_classes(classes)
    add_regions(new_regions_layer(viewer, tiny_layer), tiny_regions, classes)
    click(train.job.button)
    qtbot.waitUntil(lambda: len(children) == 1 and train.job.bar.maximum() == 9)
    given += [QMessageBox.StandardButton.Cancel, QMessageBox.StandardButton.Close]
    close()
    assert "A model is being trained" in asked[0]
    assert train.job.runner.running
    assert "Train (napari-lpd)" in viewer.window._wrapped_dock_widgets
    close()
    qtbot.waitUntil(lambda: "Train (napari-lpd)" not in viewer.window._wrapped_dock_widgets, timeout=5000)
    assert children[0].poll() is not None
    assert not train.job.runner.running
    assert len(asked) == 2


@pytest.mark.parametrize("name", ["Train", "Predict", "Explore prototypes"])
def test_no_job_goes_on_without_its_dock(viewer, answers, qtbot, name):
    _, asked = answers
    widget, close = docked(viewer, name)
    go_on = threading.Event()
    runners = widget.findChildren(JobRunner)
    quiet = [runner for runner in runners if not runner._question]
    for runner in quiet or runners:
        runner.start(lambda: waiting(go_on))
    if quiet:
        close()
    else:
        viewer.window.remove_dock_widget(widget)  # by another plugin or a script
    qtbot.waitUntil(lambda: not any(runner.running for runner in runners), timeout=5000)
    qtbot.waitUntil(lambda: not viewer.window._wrapped_dock_widgets, timeout=5000)
    assert not go_on.is_set()
    assert asked == []


def test_a_double_click_starts_and_does_not_stop(qtbot):
    bar, go_on = JobBar("Go", pausable=True), threading.Event()
    qtbot.addWidget(bar)
    bar.resize(330, 80)
    bar.show()
    starts = []
    bar.asked.connect(lambda: (starts.append(1), bar.start(lambda: waiting(go_on))))
    places = lambda: [(b.x(), b.width()) for b in (bar.button, bar.pause, bar.stop_button)]  # noqa: E731
    at = places()
    for place in (QPoint(9, 9), bar.button.rect().bottomRight() - QPoint(4, 4)):
        go_on.clear()
        QTest.mouseClick(bar.button, Qt.MouseButton.LeftButton, pos=place)
        assert bar.runner.running
        for _ in range(3):
            under = bar.childAt(bar.button.mapTo(bar, place))
            QTest.mouseDClick(under, Qt.MouseButton.LeftButton, pos=under.mapFrom(bar, bar.button.mapTo(bar, place)))
            QApplication.processEvents()
        assert bar.status.text() != "Stopping…"
        assert at == places()
        assert "press Stop first" in bar.button.toolTip()
        go_on.set()
        qtbot.waitUntil(lambda: not bar.runner.running)
    assert len(starts) == 2
    assert bar.button.isEnabled()
    assert not bar.stop_button.isEnabled()


def test_no_time_is_said_before_it_is_known_nor_when_nothing_is_left(qtbot):
    bar = JobBar("Go")
    qtbot.addWidget(bar)
    for done in (0, 1, 2):
        bar.runner.progressed.emit(Progress(done, 480, "training"))
        assert bar.status.text() == f"training · {done} of 480"
    bar.runner.progressed.emit(Progress(240, 480, "training"))
    assert bar.status.text().endswith(" left")
    for _ in range(2):
        bar.runner.progressed.emit(Progress(480, 480, "training"))
        assert bar.status.text() == "training · 480 of 480"


def box(y, x, size, *tissues):
    return Region(np.array([[y, x], [y, x + size], [y + size, x + size], [y + size, x]], float), tissues)


@pytest.mark.parametrize(
    ("regions", "bank", "said"),
    [
        ((box(0, 0, 190, "dark"), box(0, 194, 190, "pink")), "learned", ""),
        ((box(0, 0, 190, "dark"), box(0, 194, 190, "dark", "pink")), "learned", "pink is never alone: no tile"),
        ((box(0, 0, 190, "dark", "pink"), box(0, 194, 64, "pink")), "clustered", "pink is seldom alone: only 1 tile "),
        ((box(0, 0, 190, "dark"), box(0, 194, 190, "dark", "pink")), "random", ""),
    ],
)
def test_a_class_that_is_never_alone_is_said_before_it_cannot_be_clustered(tiny_slide, classes, regions, bank, said):
    settings = TrainSettings.build({"mpp": 1.0, "tile": 64, "tile_step": 48, "model": {"bank": bank}})
    tiles = tiles_from_regions(tiny_slide, regions, classes, settings)
    warnings = TrainingSet(tiles, (), settings).summary()["warnings"]
    found = [line for line in warnings if " alone: " in line and line.startswith("pink")]
    assert [line.startswith(said) for line in found] == [True] * bool(said)
    assert all("outline some pink alone, or use smaller tiles" in line for line in found)


def test_a_counterpart_that_cannot_be_trained_is_not_offered(use_widget, viewer):
    pair = use_widget(ExploreWidget).pair
    assert not button(pair, "Train the counterpart of the first").isEnabled()  # of the sample model
    assert "was not trained in this window's Train" in html.unescape(pair.job.button.toolTip())


def test_the_view_is_segmented_in_front_of_the_widget_that_trained(shown_viewer, monkeypatch, tmp_path):
    viewer, asked = shown_viewer, []
    monkeypatch.setattr(PredictWidget, "predict_view_with", lambda _, model: asked.append(model))
    predict, _ = docked(viewer, "Predict")
    dock, train = viewer.window.add_plugin_dock_widget("napari-lpd", "Train", tabify=True)
    dock.raise_()
    QApplication.processEvents()
    assert not predict.isVisible()
    train._run = tmp_path
    train.predict.setVisible(True)
    train.predict.click()
    QApplication.processEvents()
    assert predict.isVisible()
    assert asked == [tmp_path / "model.safetensors"]
