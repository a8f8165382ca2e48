"""A result is its mask alone; heatmaps, uncertainty and tissue mask come when they are ticked, and go with it."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from hand import User, tick
from qtpy.QtWidgets import QApplication, QMessageBox

from napari_lpd.core.files import KEY
from napari_lpd.gui.layers.results import show_prediction
from napari_lpd.gui.layers.slides import Shown, kind
from napari_lpd.gui.predict.live_prediction import LiveLayers, drawing
from napari_lpd.results.prediction import BlockResult, Prediction

Answer = QMessageBox.StandardButton


@pytest.fixture
def predict(shown_viewer, tiny_tiff):
    """Predict on the screen with the tiny slide, which is selected."""
    _, widget = shown_viewer.window.add_plugin_dock_widget("napari-lpd", "Predict")
    widget.slides.open(tiny_tiff)
    shown_viewer.reset_view()
    QApplication.processEvents()
    return widget


@pytest.fixture
def explore(shown_viewer):
    return shown_viewer.window.add_plugin_dock_widget("napari-lpd", "Explore prototypes")[1]


def names(viewer):
    return [layer.name for layer in viewer.layers]


def test_a_result_is_one_layer_and_what_is_ticked_comes_and_goes(shown_viewer, predict, make_prediction, qtbot):
    viewer, show = shown_viewer, predict.panel.results.button
    assert not show.isVisible()
    slide = predict.slides.layer()
    found = make_prediction(box=(32, 64, 160, 256))
    mask = show_prediction(viewer, found, slide)
    QApplication.processEvents()
    assert names(viewer) == ["tiny.tiff", "mask (tiny.tiff)"]
    assert viewer.layers.selection == {slide}
    camera = viewer.scene.camera.center, viewer.scene.camera.zoom
    said = [slide.get_status((100, x), dims_displayed=[0, 1], world=True)["coordinates"] for x in (150, 250, 20)]
    assert [text.partition("; ")[2] for text in said] == ["dark", "pink", ""]  # the slide is selected, not the mask

    stored = {
        "pink heatmap": found.prototypes[1].levels[0][:, 4:20, 8:32],
        "uncertainty": found.uncertainty.levels[0][4:20, 8:32],
        "tissue mask": found.tissue.array,
    }
    assert tick(show, "Tissue mask") == ["Mask"]
    qtbot.waitUntil(lambda: "tissue mask" in viewer.layers)
    assert mask.visible
    assert tick(show, "Heatmap: pink") == ["Mask", "Tissue mask"]
    qtbot.waitUntil(lambda: "pink heatmap" in viewer.layers)
    assert not mask.visible  # what was asked for is seen
    assert tick(show, "Uncertainty") == ["Heatmap: pink", "Tissue mask"]
    qtbot.waitUntil(lambda: "uncertainty" in viewer.layers)
    for name, values in stored.items():
        assert viewer.layers[name].visible
        assert values.any()
        assert np.array_equal(viewer.layers[name].data, values)
    assert names(viewer) == ["tiny.tiff", "tissue mask", "pink heatmap", "uncertainty", "mask (tiny.tiff)"]
    assert viewer.layers.selection == {slide}
    assert (viewer.scene.camera.center, viewer.scene.camera.zoom) == camera

    tick(show, "Heatmap: pink")
    tick(show, "Tissue mask")
    assert names(viewer) == ["tiny.tiff", "uncertainty", "mask (tiny.tiff)"]
    assert not mask.visible
    assert (viewer.scene.camera.center, viewer.scene.camera.zoom) == camera  # no dimension is left but these two
    tick(show, "Mask")
    assert mask.visible
    tick(show, "Mask")
    tick(show, "Uncertainty")
    assert names(viewer) == ["tiny.tiff", "mask (tiny.tiff)"]
    assert mask.visible


def test_a_tool_stays_in_hand_while_a_result_comes(shown_viewer, predict, make_prediction):
    shapes = shown_viewer.add_shapes(name="mine", ndim=2)
    shapes.mode = "add_rectangle"
    show_prediction(shown_viewer, make_prediction(), predict.slides.layer())
    assert shown_viewer.layers.selection.active is shapes
    User(shown_viewer).drag((40, 40), (90, 120))
    assert len(shapes.data) == 1


def test_a_map_that_is_ticked_while_a_prediction_runs_grows_with_it(shown_viewer, predict, make_prediction, qtbot):
    viewer, slide = shown_viewer, predict.slides.layer()
    found = make_prediction(box=None, mpp=0.5, finish=False, blocks={(0, 0)})
    run = SimpleNamespace(growing=LiveLayers(found, Shown.by(slide)), filled=threading.Event(), finished=None, maps=())
    steps = drawing(viewer, run)
    while "mask (tiny.tiff)" not in viewer.layers:
        next(steps)
    predict.panel.refresh()
    QApplication.processEvents()
    tick(predict.panel.results.button, "Heatmap: pink")
    qtbot.waitUntil(lambda: "pink heatmap" in viewer.layers)
    heatmap = viewer.layers["pink heatmap"]
    assert heatmap.data[:, :64, :64].all()
    assert not heatmap.data[:, 64:].any()
    for _ in range(3):
        next(steps)
    writer = Prediction.open(found.folder, write=True)
    sizes = (((), 256), ((2,), 64), ((2,), 64), ((2, 2), 64), ((), 64))
    writer.write_block((1, 2), BlockResult(*(np.full((*many, edge, edge), 2, np.uint8) for many, edge in sizes)))
    run.growing.fill()  # in the thread that predicts
    assert (heatmap.data[:, 64:128, 128:192] == 2).all()
    writer.write_block((1, 0), BlockResult(*(np.full((*many, edge, edge), 3, np.uint8) for many, edge in sizes)))
    run.finished = Prediction.open(found.folder)
    run.filled.set()
    for _ in steps:
        pass
    assert np.array_equal(heatmap.data, found.prototypes[1].levels[0][:])
    assert heatmap.metadata[KEY]["prediction"] is run.finished


@pytest.mark.parametrize("answer", [Answer.Yes, Answer.No])
def test_removing_a_slide_asks_for_its_results(shown_viewer, predict, make_prediction, qtbot, monkeypatch, answer):
    viewer, asked = shown_viewer, []
    monkeypatch.setattr(QMessageBox, "question", lambda *texts: asked.append(texts[2]) or answer)
    show_prediction(viewer, make_prediction(), predict.slides.layer())
    show_prediction(viewer, make_prediction(box=(0, 0, 30, 30)), predict.slides.layer())
    predict.panel.refresh()
    QApplication.processEvents()
    tick(predict.panel.results.button, "Heatmap: pink")
    qtbot.waitUntil(lambda: "pink heatmap" in viewer.layers)
    viewer.layers.remove(predict.slides.layer())
    qtbot.waitUntil(lambda: bool(asked))
    assert asked[0].startswith("Remove the 2 masks of tiny.tiff, too?")
    assert len(viewer.layers) == (0 if answer == Answer.Yes else 3)
    viewer.layers.clear()
    QApplication.processEvents()
    assert len(asked) == 1


def test_a_mask_that_is_removed_takes_its_maps_along(shown_viewer, predict, explore, make_prediction, qtbot):
    viewer = shown_viewer
    below = show_prediction(viewer, make_prediction(), predict.slides.layer())
    mask = show_prediction(viewer, make_prediction(), predict.slides.layer())
    explore.show_heatmap(1)
    qtbot.waitUntil(lambda: "pink heatmap" in viewer.layers)
    viewer.layers.remove(mask)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    assert explore.tissue.currentIndex() == 0
    assert names(viewer) == ["tiny.tiff", below.name]


def test_explore_asks_for_the_heatmap_of_its_class_and_one_layer_serves_all(
    shown_viewer, predict, explore, make_prediction, qtbot
):
    viewer, show = shown_viewer, predict.panel.results.button
    found = make_prediction(box=None)
    mask = show_prediction(viewer, found, predict.slides.layer())
    assert [explore.tissue.itemText(i) for i in range(1, 3)] == ["dark", "pink"]
    explore.show_heatmap(0, 1)
    qtbot.waitUntil(lambda: "dark heatmap" in viewer.layers)
    heatmap = viewer.layers["dark heatmap"]
    assert np.array_equal(heatmap.data, found.prototypes[0].levels[0][:])
    assert (explore.which.text(), viewer.dims.current_step[0]) == ("Prototype 2 of 2", 1)
    assert not mask.visible
    explore.tissue.setCurrentText("pink")
    qtbot.waitUntil(lambda: heatmap.name == "pink heatmap")
    assert [layer for layer in viewer.layers if kind(layer) == "heatmap"] == [heatmap]
    assert np.array_equal(heatmap.data, found.prototypes[1].levels[0][:])
    assert explore.which.text() == "Prototype 2 of 2"

    predict.parentWidget().raise_()
    QApplication.processEvents()
    assert tick(show, "Heatmap: dark") == ["Heatmap: pink"]  # the same layers are seen from both
    qtbot.waitUntil(lambda: "dark heatmap" in viewer.layers)
    assert heatmap.visible
    tick(show, "Heatmap: pink")
    assert explore.tissue.currentIndex() == 0
    assert names(viewer) == ["tiny.tiff", "dark heatmap", mask.name]
    explore.show_heatmap(1)
    qtbot.waitUntil(lambda: "pink heatmap" in viewer.layers)
    assert [layer.name for layer in viewer.layers if layer.visible] == ["tiny.tiff", "pink heatmap"]
    explore.tissue.setCurrentIndex(0)
    assert names(viewer) == ["tiny.tiff", "dark heatmap", mask.name]
    assert mask.visible


def test_a_class_that_is_chosen_while_another_is_read_is_the_one_that_is_shown(
    shown_viewer, predict, explore, make_prediction, qtbot
):
    show_prediction(shown_viewer, make_prediction(), predict.slides.layer())
    explore.show_heatmap(0)
    explore.show_heatmap(1)
    qtbot.waitUntil(lambda: not explore.maps.is_busy)
    assert names(shown_viewer) == ["tiny.tiff", "pink heatmap", "mask (tiny.tiff)"]
    explore.show_heatmap(0)
    explore.tissue.setCurrentIndex(0)
    qtbot.waitUntil(lambda: not explore.maps.is_busy)
    assert names(shown_viewer) == ["tiny.tiff", "mask (tiny.tiff)"]


@pytest.mark.parametrize("most", [0, 2**25])
def test_where_results_overlap_the_newer_one_alone_is_seen(
    shown_viewer, predict, make_prediction, tmp_path, monkeypatch, qtbot, most
):
    monkeypatch.setattr("napari_lpd.gui.layers.pyramid_view.MAX_HELD", most)  # levels in memory, or on the disk
    viewer, slide = shown_viewer, predict.slides.layer()
    below = make_prediction(box=None, mpp=0.125 if most == 0 else 1.0)
    mask = show_prediction(viewer, below, slide)
    mask.visible = True
    newer = [make_prediction(box=(32, 64, 160, 256), mpp=2.0), make_prediction(box=(100, 200, 240, 300), mpp=0.5)]
    masks = [show_prediction(viewer, each, slide) for each in newer]
    assert [each.visible for each in (mask, *masks)] == [True, True, True]

    def shown_at(y, x):
        """What each mask, from below, shows at a place on the slide, in µm; 0: nothing."""
        values = [each.get_value((y - 0.5, x - 0.5), world=True) for each in (mask, *masks)]
        return [int(np.max(value if value is not None else 0)) for value in values]

    places = {
        (50, 80): [0, 1, 0],
        (140, 240): [0, 0, 2],
        (200, 250): [0, 0, 2],
        (20, 30): [1, 0, 0],
        (200, 350): [2, 0, 0],
    }
    for level, stored in enumerate(below.labels.levels):
        data = mask.data[level] if mask.multiscale else mask.data
        for place, (wanted, *_) in places.items():
            y, x = (int(um / below.card.mpp / 2**level) for um in place)
            assert data[y : y + 1, x : x + 1].item() == wanted
        assert data[:, :].astype(bool).sum() < (stored[:, :] > 0).sum()
        if not mask.multiscale:
            break
    if most:
        assert {place: shown_at(*place) for place in places} == places
    viewer.layers.selection.active = masks[0]
    viewer.layers.save(str(tmp_path / "part.ome.tif"), selected=True)
    y0, x0, y1, x1 = newer[0].scope_box()
    assert np.array_equal(tifffile.imread(tmp_path / "part.ome.tif"), newer[0].labels.levels[0][y0:y1, x0:x1])

    viewer.layers.remove(masks.pop())
    y, x = (int(um / below.card.mpp) for um in (200, 250))
    finest = lambda: mask.data[0] if mask.multiscale else mask.data  # noqa: E731
    qtbot.waitUntil(lambda: finest()[y : y + 1, x : x + 1].item() == 2)
    show_prediction(viewer, below, slide)
    assert not masks[0].visible
    assert np.array_equal(finest()[:, :], below.labels.levels[0][:, :])
