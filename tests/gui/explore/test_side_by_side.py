"""Two predictions side by side, and the viewer as it was after it."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_lpd.core.files import KEY
from napari_lpd.gui.explore.grid_view import SideBySide
from napari_lpd.gui.explore.heatmap_window import SCREEN_DPI
from napari_lpd.gui.explore.widget import ExploreWidget
from napari_lpd.gui.layers.results import show_prediction
from napari_lpd.gui.layers.slides import slide_layers, visible_box_um
from napari_lpd.gui.predict.widget import PredictWidget


def state(viewer):
    """All of a viewer that may not change."""
    return {
        "layers": [(layer.name, layer.visible) for layer in viewer.layers],
        "selected": {layer.name for layer in viewer.layers.selection},
        "grid": viewer.canvas.grid.model_dump(),
        "camera": (viewer.scene.camera.center, viewer.scene.camera.zoom),
        "dims": (viewer.dims.ndim, viewer.dims.point, viewer.dims.axis_labels),
    }


@pytest.fixture
def two(make_prediction):
    return [("LPD", make_prediction()), ("PBIP", make_prediction())]


@pytest.fixture
def arranged(viewer, tiny_layer):
    """A viewer as a user may have left it."""
    viewer.add_shapes([np.array([[0, 0], [9, 9]])], shape_type="rectangle", name="mine", visible=False)
    viewer.add_points(np.array([[5, 5]]), name="places")
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, 90, 130), 2.5
    viewer.layers.selection = {tiny_layer}
    viewer.canvas.grid.shape = (-1, 3)
    return viewer


def boxes(viewer):
    """Names of the visible layers in each place of the grid."""
    found: dict[tuple[int, int], list[str]] = {}
    for i, layer in enumerate(viewer.layers):
        if layer.visible:
            found.setdefault(viewer.canvas.grid.position(i, viewer.layers), []).append(layer.name)
    return found


def test_each_model_has_its_place_with_the_slide_below(arranged, tiny_layer, two):
    SideBySide(arranged).show(two, tiny_layer)
    assert arranged.canvas.grid.actual_shape(arranged.layers) == (1, 2)
    assert boxes(arranged) == {
        (0, 0): ["LPD · tiny.tiff", "LPD · mask"],
        (0, 1): ["PBIP · tiny.tiff", "PBIP · mask"],
    }


def test_masks_lie_on_the_slide_in_both(arranged, tiny_layer, two):
    side = SideBySide(arranged)
    side.show(two, tiny_layer)
    for mask, (_, prediction) in zip(side.masks(), two, strict=True):
        y0, x0, y1, x1 = prediction.scope_box()
        first = mask.translate - mask.scale / 2 - (tiny_layer.translate - tiny_layer.scale / 2)
        last = first + np.array(mask.data.shape) * mask.scale
        mpp = prediction.card.mpp
        assert np.allclose([first, last], np.array([[y0, x0], [y1, x1]]) * mpp, atol=prediction.card.stride * mpp)
        left = np.asarray(mask.data)[:, : int((192 - first[1]) / mpp)]
        assert set(np.unique(left)) == {1}  # the left half of the slide is dark


def test_closing_leaves_the_viewer_as_it_was(arranged, tiny_layer, two):
    before = state(arranged)
    side = SideBySide(arranged)
    for _ in range(2):
        side.show(two, tiny_layer)
        assert state(arranged) != before
        side.close()
        assert state(arranged) == before
    side.close()
    assert state(arranged) == before


def test_showing_again_takes_the_older_ones_away(arranged, tiny_layer, two):
    before = state(arranged)
    side = SideBySide(arranged)
    side.show(two, tiny_layer)
    count = len(arranged.layers)
    side.show(two[::-1], tiny_layer)
    assert len(arranged.layers) == count
    side.close()
    assert state(arranged) == before


@pytest.mark.parametrize("what", ["add", "remove", "move", "grid"])
def test_a_change_by_others_ends_it_and_is_kept(arranged, tiny_layer, two, qtbot, what):
    before = state(arranged)
    side = SideBySide(arranged)
    side.show(two, tiny_layer)
    names = [name for name, _ in before["layers"]]
    if what == "add":
        arranged.add_points(np.array([[1, 1]]), name="new")
        names.append("new")
    elif what == "remove":
        arranged.layers.remove(arranged.layers["places"])
        names.remove("places")
    elif what == "move":
        arranged.layers.move(0, 2)
        names = [layer.name for layer in arranged.layers][:3]
    else:
        arranged.canvas.grid.enabled = False
    qtbot.waitUntil(lambda: not side.is_open)
    assert [layer.name for layer in arranged.layers] == names
    assert tiny_layer.visible
    assert not arranged.canvas.grid.enabled


def test_one_of_the_pair_that_is_removed_takes_the_other_along(arranged, tiny_layer, two, qtbot):
    before = state(arranged)
    side = SideBySide(arranged)
    side.show(two, tiny_layer)
    arranged.layers.remove(side.masks()[0])
    qtbot.waitUntil(lambda: not side.is_open)
    assert state(arranged) == before


def test_heatmaps_of_a_class_have_one_scale(viewer, tiny_layer, two):
    side = SideBySide(viewer)
    side.show(two, tiny_layer)
    assert side.classes() == ["dark", "pink"]
    for index in (0, 1, 1, 0):
        left, right = side.heatmaps(index)
        assert [layer.metadata[KEY]["class"] for layer in (left, right)] == [side.classes()[index]] * 2
        assert left.contrast_limits == right.contrast_limits
        assert np.asarray(left.data).max() == 151 + 2 * index
        assert [layer.name for layer in (left, right)] == [
            f"{m} · {side.classes()[index]} heatmap" for m in ("LPD", "PBIP")
        ]


def test_other_parts_see_the_slide_once_and_half_the_view(viewer, tiny_layer, two):
    whole = visible_box_um(viewer, tiny_layer)
    SideBySide(viewer).show(two, tiny_layer)
    assert slide_layers(viewer) == [tiny_layer]
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, 128, 192), 20
    y0, x0, y1, x1 = visible_box_um(viewer, tiny_layer)
    height, width = viewer.canvas.size
    assert ((y1 - y0) * 20, (x1 - x0) * 20) == pytest.approx((height, width / 2))
    assert whole[3] > x1 - x0


def test_the_controls_of_explore_move_both(use_widget, viewer, tiny_layer, two):
    widget = use_widget(ExploreWidget)
    widget.both.side.show(two, tiny_layer)
    widget.show_heatmap(1, 1)
    shown = [layer.name for layer in viewer.layers if layer.visible]
    assert shown == ["PBIP · tiny.tiff", "PBIP · pink heatmap", "LPD · tiny.tiff", "LPD · pink heatmap"]
    assert viewer.dims.current_step[0] == 1
    assert widget.which.text() == "Prototype 2 of 2"
    widget.mask.setChecked(True)
    assert all(mask.visible for mask in widget.both.side.masks())
    widget.tissue.setCurrentIndex(0)
    assert [layer.name for layer in viewer.layers if layer.visible] == [
        "PBIP · tiny.tiff", "PBIP · mask", "LPD · tiny.tiff", "LPD · mask"
    ]  # fmt: skip
    widget.both.side.close()
    assert widget.tissue.count() == 1
    assert not widget.missing.isHidden()


@pytest.mark.parametrize("chosen", [None, 1])
def test_a_prediction_that_was_explored_is_as_it_was_after_both_were(
    use_widget, viewer, tiny_layer, two, make_prediction, chosen, qtbot
):
    show_prediction(viewer, make_prediction(), tiny_layer)
    widget = use_widget(ExploreWidget)
    if chosen is not None:
        widget.show_heatmap(chosen, 1)
        qtbot.waitUntil(lambda: "pink heatmap" in viewer.layers)
    before = state(viewer)
    controls = (widget.tissue.currentText(), widget.slider.value(), widget.which.text())
    widget.both.side.show(two, tiny_layer)
    ours = ["PBIP · tiny.tiff", "PBIP · mask", "LPD · tiny.tiff", "LPD · mask"]
    assert [layer.name for layer in viewer.layers if layer.visible] == ours
    assert widget.tissue.currentIndex() == 0
    widget.show_heatmap(0, 1)
    widget.both.side.show(two, tiny_layer)
    assert [layer.name for layer in viewer.layers if layer.visible] == ours
    widget.show_heatmap(0)
    widget.both.side.close()
    assert state(viewer) == before
    assert (widget.tissue.currentText(), widget.slider.value(), widget.which.text()) == controls


def test_closing_the_widget_puts_the_viewer_back(use_widget, viewer, tiny_layer, two, qtbot):
    widget = use_widget(ExploreWidget)
    before = state(viewer)
    widget.both.side.show(two, tiny_layer)
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    qtbot.waitUntil(lambda: len(viewer.layers) == 1)
    QApplication.processEvents()
    assert state(viewer) == before


def test_predict_finds_its_own_slide_while_they_stand_side_by_side(use_widget, viewer, tiny_layer, two):
    predict = use_widget(PredictWidget)
    SideBySide(viewer).show(two, tiny_layer)
    assert [predict.slides.combo.itemText(i) for i in range(predict.slides.combo.count())] == ["tiny.tiff"]
    assert predict.panel.shown() is None


@pytest.mark.parametrize("k", [2, 10])
def test_every_prototype_fits_the_screen_and_a_click_picks_one(use_widget, viewer, tiny_layer, make_prediction, k):
    two = [(name, make_prediction(box=(0, 0, 256, 128), k=k)) for name in ("LPD", "PBIP")]
    widget = use_widget(ExploreWidget)
    widget.both.side.show(two, tiny_layer)
    widget.both.predictions, widget.both._target = two, tiny_layer
    widget.both.show_all(1)
    window = widget.both.window_of_all
    assert len(window.grid.slots) == 2 * k
    assert window.width() <= 1100
    assert window.height() <= 850
    assert window.picture.pixmap().height() == round(window.grid.figure.get_figheight() * SCREEN_DPI)
    x0, y0, *_ = window.grid.slots[-1].box
    window.picture.pressed.emit(x0 + 5, y0 + 5)
    assert widget.tissue.currentText() == "pink"
    assert viewer.dims.current_step[0] == k - 1
    window.picture.pressed.emit(1, 1)
    widget.both.side.close()
    assert not window.isVisible()


def test_a_picture_that_cannot_be_written_says_so(use_widget, tiny_layer, two, tmp_path, shown_errors, monkeypatch):
    widget = use_widget(ExploreWidget)
    widget.both.predictions, widget.both._target = two, tiny_layer
    widget.both.show_all(0)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "file" / "a.png"), ""))
    widget.both.window_of_all._on_save()
    assert len(shown_errors) == 1
    assert "cannot be written" in shown_errors[0]


def test_every_prototype_before_both_are_shown_says_what_to_press(use_widget, shown_errors):
    use_widget(ExploreWidget).both.show_all(0)
    assert shown_errors == ["no models are side by side: press Show both side by side first"]
