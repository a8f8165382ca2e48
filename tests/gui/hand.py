"""A hand on the mouse, and pictures of what it did: with NAPARI_LPD_PICTURES=DIR they are left there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QPushButton

from napari_lpd.gui.demo import take_picture

PICTURES = os.environ.get("NAPARI_LPD_PICTURES", "")
LEFT = Qt.MouseButton.LeftButton


class Hand:
    """A hand on the mouse over the canvas."""

    def __init__(self, viewer):
        self.viewer = viewer
        self.canvas = viewer.window._qt_viewer.canvas

    def at(self, y, x) -> QPoint:
        """Where a place of the world lies on the canvas."""
        camera = self.viewer.scene.camera
        height, width = self.canvas.size
        dy, dx = (np.array([y, x]) - camera.center[1:]) * camera.zoom
        return QPoint(round(width / 2 + dx), round(height / 2 + dy))

    def drag(self, first, last):
        """Press at a place, move to another, release."""
        native = self.canvas.native
        start, end = self.at(*first), self.at(*last)
        QTest.mouseMove(native, start)
        QTest.mousePress(native, LEFT, pos=start)
        for share in np.linspace(0, 1, 6)[1:]:
            point = QPointF(start) + (QPointF(end) - QPointF(start)) * float(share)
            QTest.mouseMove(native, point.toPoint())
            QApplication.processEvents()
        QTest.mouseRelease(native, LEFT, pos=end)
        QApplication.processEvents()


def picture(viewer, name):
    if PICTURES:
        take_picture(viewer, Path(PICTURES) / f"{name}.png")


def press(widget, text):
    """Click the button with this text."""
    (button,) = [button for button in widget.findChildren(QPushButton) if button.text() == text]
    assert not button.isHidden()
    button.click()
