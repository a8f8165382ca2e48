"""Ctrl+Z takes back what was done to regions."""

from __future__ import annotations

from qtpy.QtCore import Qt

from napari_lpd.gui.layers.regions import tissues_of

CONTROL = Qt.KeyboardModifier.ControlModifier


def test_control_z_takes_back_drawing_marking_and_deleting(drawing):
    _, _, train, user, layer = drawing
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
