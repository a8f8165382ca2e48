"""Ctrl+Z takes back what was done to regions."""

from __future__ import annotations

from hand import User, button, click
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from napari_lpd.gui.layers.regions import tissues_of
from napari_lpd.gui.layers.slides import kind

CONTROL = Qt.KeyboardModifier.ControlModifier


def test_control_z_takes_back_drawing_marking_and_deleting(shown_viewer, tiny_tiff, classes):
    viewer, user = shown_viewer, User(shown_viewer)
    _, train = viewer.window.add_plugin_dock_widget("napari-lpd", "Train")
    train.data.classes.set_classes(classes)
    train.data.drawn.slides.open(tiny_tiff)
    viewer.reset_view()
    QApplication.processEvents()
    click(button(train, "Draw regions"))
    [layer] = [each for each in viewer.layers if kind(each) == "regions"]
    user.polygon((20, 20), (90, 90))
    user.key("2")
    user.polygon((20, 120), (90, 190))
    assert tissues_of(layer) == [("dark",), ("pink",)]
    colors = layer.edge_color.tolist()
    user.key("s")
    user.drag((5, 5), (100, 200))
    user.key(Qt.Key.Key_Delete)
    assert len(layer.data) == 0
    user.key("z", CONTROL)
    assert tissues_of(layer) == [("dark",), ("pink",)]
    assert layer.edge_color.tolist() == colors
    assert train.data.classes._rows[1].count.text().startswith("1 ·")
    user.key("z", CONTROL)
    assert tissues_of(layer) == [("dark",)]
    user.key("z", CONTROL)
    user.key("z", CONTROL)  # one more than there are
    assert len(layer.data) == 0
    user.key("2")
    user.polygon((150, 120), (220, 190))
    assert tissues_of(layer) == [("pink",)]
