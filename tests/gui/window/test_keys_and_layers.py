"""Number keys, tools and layers by hand, as they come: nothing is deselected or activated between the steps."""

from __future__ import annotations

import numpy as np
import pytest
from hand import User, button, click
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_lpd.gui.layers.class_keys import OVERLAY, text_color
from napari_lpd.gui.layers.regions import add_regions, new_regions_layer, tissues_of
from napari_lpd.gui.layers.results import show_prediction
from napari_lpd.gui.layers.slides import kind

CONTROL = Qt.KeyboardModifier.ControlModifier
PLACES = [((20, 20), (90, 90)), ((20, 120), (90, 190)), ((20, 220), (90, 290)), ((150, 20), (220, 90))]


def place_of(layer):
    return [np.array(value).tolist() for value in (layer.scale, layer.translate, layer.affine.affine_matrix)]


@pytest.fixture
def window(shown_viewer, tiny_tiff, classes, tmp_path):
    """A viewer on the screen with Train, its two classes and the tiny slide; and the user before it."""
    _, train = shown_viewer.window.add_plugin_dock_widget("napari-lpd", "Train")
    train.out.setText(str(tmp_path / "models"))
    train.data.classes.set_classes(classes)
    train.data.drawn.slides.open(tiny_tiff)
    shown_viewer.reset_view()
    QApplication.processEvents()
    return shown_viewer, train, User(shown_viewer)


def test_a_number_is_for_what_is_drawn_next_and_changes_nothing_that_is_drawn(window):
    viewer, train, user = window
    click(button(train, "Draw regions"))
    [layer] = [layer for layer in viewer.layers if kind(layer) == "regions"]
    for key, box in zip("1221", PLACES, strict=True):
        user.key(key)
        user.polygon(*box)
    assert tissues_of(layer) == [("dark",), ("pink",), ("pink",), ("dark",)]
    colors = [tuple(color) for color in layer.edge_color]
    assert colors[0] == colors[3] != colors[1] == colors[2]
    user.key("1", CONTROL)  # the last one is still selected
    user.key("0", CONTROL)
    user.key("2", CONTROL)
    assert tissues_of(layer) == [("dark",), ("pink",), ("pink",), ("pink",)]
    assert train.data.classes._rows[1].count.text().startswith("3 ·")
    user.key("0")
    user.key("5")  # no such class
    assert user.shown() == "Draw: other, glass"
    user.polygon((150, 120), (220, 190))
    assert tissues_of(layer)[4] == ("none",)
    assert train.data.classes._none.count.text().startswith("1 ·")


def test_numbers_mean_the_same_whatever_layer_is_active_and_no_layer_of_the_slide_moves(window, make_prediction):
    viewer, train, user = window
    [slide] = viewer.layers
    user.activate(slide)
    before = place_of(slide)
    user.key("2")
    user.drag((60, 60), (180, 250))  # was napari's transform tool
    assert place_of(slide) == before
    [layer] = [layer for layer in viewer.layers if kind(layer) == "regions"]
    assert viewer.layers.selection.active is layer
    mask = show_prediction(viewer, make_prediction(), slide)
    for active in (slide, mask, layer):
        user.activate(active)
        for key, name in (("1", "dark"), ("2", "pink")):
            user.key(key)
            assert user.shown() == f"Draw: {name}"
            assert [row.use.isChecked() for row in train.data.classes._rows] == [name == "dark", name == "pink"]
        assert viewer.layers.selection.active is layer
        assert layer.mode == "add_polygon"
    for held in (slide, mask, layer):
        user.activate(held)
        held.mode = "transform"  # its button in the layer's controls
        assert held.mode == "pan_zoom"
    click(train.data.classes._rows[0].use)  # the class's button, as the key
    assert viewer.layers.selection.active is layer
    user.polygon(*PLACES[0])
    assert tissues_of(layer)[-1] == ("dark",)


def test_the_class_in_hand_follows_its_name_and_colour_and_goes_with_the_dock(window):
    viewer, train, user = window
    click(button(train, "Draw regions"))
    assert user.shown() == "Draw: dark"
    row = train.data.classes._rows[0]
    row.name.setFocus()
    row.name.selectAll()
    QTest.keyClicks(row.name, "tumour 2")  # a number in a text is a number
    QTest.keyClick(row.name, Qt.Key.Key_Return)
    assert user.shown() == "Draw: tumour 2"
    assert row.use.isChecked()
    user.polygon(*PLACES[0])
    [layer] = [layer for layer in viewer.layers if kind(layer) == "regions"]
    assert tissues_of(layer) == [("tumour 2",)]
    user.key("s")
    user.drag((10, 10), (100, 100))
    assert layer.selected_data == {0}
    user.key("2")
    user.key("p")
    user.polygon(*PLACES[1])
    assert tissues_of(layer) == [("tumour 2",), ("pink",)]
    click(row.remove)
    assert user.shown() == "Draw: pink"
    [dock] = viewer.window._wrapped_dock_widgets.values()
    click(dock.title.close_button)
    assert user.shown() == ""
    user.key("5")  # napari's again
    assert layer.mode == "select"


def test_the_row_of_the_legend_is_what_is_painted_with(shown_viewer, tiny_tiff, make_prediction, use_widget):
    viewer = shown_viewer
    _, predict = viewer.window.add_plugin_dock_widget("napari-lpd", "Predict")
    predict.slides.open(tiny_tiff)
    show_prediction(viewer, make_prediction(), predict.slides.layer())
    viewer.reset_view()
    user, table = User(viewer), predict.panel.areas.table
    predict.panel.refresh()
    QApplication.processEvents()

    def click_row(row):
        predict.findChild(type(predict.layout().itemAt(0).widget())).ensureWidgetVisible(table)
        QTest.mouseClick(
            table.viewport(), Qt.MouseButton.LeftButton, pos=table.visualItemRect(table.item(row, 1)).center()
        )
        QApplication.processEvents()

    click_row(1)
    click(button(predict, "Correct mask"))
    edit = predict.panel.correct.layer()
    assert (edit.selected_label, user.shown()) == (2, "Paint: pink")
    user.drag((60, 80), (60, 120))
    assert (np.asarray(edit.data) == 2).any()
    for key, label, text in (("1", 1, "Paint: dark"), ("0", 0, "Paint: unlabelled"), ("2", 2, "Paint: pink")):
        user.key(key)
        assert (edit.selected_label, user.shown(), edit.mode) == (label, text, "paint")
        assert table.currentRow() == label - 1
    edit.selected_label = 1  # napari's own box
    assert (table.currentRow(), user.shown()) == (0, "Paint: dark")
    user.activate(next(layer for layer in viewer.layers if kind(layer) == "slide"))
    click_row(0)  # the row that is chosen already
    assert viewer.layers.selection.active is edit
    assert edit.selected_label == 1
    click(button(predict, "Discard"))
    assert user.shown() == ""


@pytest.mark.parametrize("color", ["#000000", "#ffffff", "#3b4cff", "#ff8c1a", "#808080", "#757575", "#e6194b"])
def test_the_text_on_a_class_colour_can_be_read(color):
    def luminance(text):
        parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(
            w * (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4)
            for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
        )

    dark, bright = sorted((luminance(color), luminance(text_color(color))))
    assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_train_gives_the_keys_back_after_a_correction(viewer, tiny_layer, classes, make_prediction):
    train, predict = (viewer.window.add_plugin_dock_widget("napari-lpd", name)[1] for name in ("Train", "Predict"))
    train.data.classes.set_classes(classes)
    layer = new_regions_layer(viewer, tiny_layer)
    add_regions(layer, [], classes)
    show_prediction(viewer, make_prediction(box=None), tiny_layer)
    overlay = viewer.canvas.overlays[OVERLAY]
    train.data.drawn.on_number(2)
    predict.panel.refresh()
    viewer.canvas.size, viewer.scene.camera.center, viewer.scene.camera.zoom = (300, 400), (0, 128, 192), 1.0
    predict.panel.correct.start()
    assert overlay.text == "Paint: dark"
    predict.panel.correct.drop()
    assert overlay.text == "Draw: pink"


def test_a_layer_of_regions_is_emptied_and_not_removed(window):
    viewer, train, user = window
    click(button(train, "Draw regions"))
    user.polygon(*PLACES[0])
    [layer] = [layer for layer in viewer.layers if kind(layer) == "regions"]
    click(viewer.window._qt_viewer.layerButtons.deleteButton)
    user.key(Qt.Key.Key_Delete, CONTROL)
    assert layer in viewer.layers
    assert len(layer.data) == 1
    user.key(Qt.Key.Key_Delete)  # the region drawn last, which is selected
    assert len(layer.data) == 0
    click(button(train, "Draw regions"))
    user.polygon(*PLACES[1])
    assert [each for each in viewer.layers if kind(each) == "regions"] == [layer]
    assert tissues_of(layer) == [("dark",)]
