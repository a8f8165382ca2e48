"""A window in which a user draws."""

from __future__ import annotations

import pytest
from hand import User, button, click
from qtpy.QtWidgets import QApplication

from napari_lpd.gui.layers.slides import kind


@pytest.fixture
def drawing(shown_viewer, tiny_tiff, classes):
    """Train with two classes and the tiny slide, ready to draw; and the user before it."""
    dock, train = shown_viewer.window.add_plugin_dock_widget("napari-lpd", "Train")
    train.data.classes.set_classes(classes)
    train.data.drawn.slides.open(tiny_tiff)
    shown_viewer.reset_view()
    QApplication.processEvents()
    click(button(train, "Draw regions"))
    [layer] = [each for each in shown_viewer.layers if kind(each) == "regions"]
    return shown_viewer, dock, train, User(shown_viewer), layer
