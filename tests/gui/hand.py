"""A hand on the mouse, and pictures of what it did: with NAPARI_LPD_PICTURES=DIR they are left there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from qtpy.QtCore import QPoint, QPointF, Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QPushButton

from napari_lpd.gui.demo import take_picture
from napari_lpd.gui.layers.class_keys import OVERLAY

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


class User(Hand):
    """A hand on mouse and keys."""

    def key(self, text, modifier=Qt.KeyboardModifier.NoModifier):
        self.canvas.native.setFocus()
        QTest.keyClick(self.canvas.native, text, modifier)
        QApplication.processEvents()

    def polygon(self, first, last):
        """Click the corners of a box and end with a double click."""
        (y0, x0), (y1, x1) = first, last
        native, corners = self.canvas.native, [(y0, x0), (y0, x1), (y1, x1), (y1, x0)]
        for corner in corners:
            QTest.mouseMove(native, self.at(*corner))
            QTest.mouseClick(native, Qt.MouseButton.LeftButton, pos=self.at(*corner))
            QApplication.processEvents()
        QTest.mouseDClick(native, Qt.MouseButton.LeftButton, pos=self.at(*corners[-1]))
        QApplication.processEvents()

    def activate(self, layer):
        """Click on a layer in napari's list; again where a layer that a job adds has moved it from under the mouse."""
        view = self.viewer.window._qt_viewer.layers
        for _ in range(3):
            row = view.model().sourceModel().index(self.viewer.layers.index(layer), 0)
            index = view.model().mapFromSource(row)
            view.scrollTo(index)
            QTest.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=view.visualRect(index).center())
            QApplication.processEvents()
            if self.viewer.layers.selection.active is layer:
                return
        raise AssertionError(f"{layer.name} cannot be selected")

    def shown(self):
        """The class in hand on the canvas."""
        overlay = self.viewer.canvas.overlays[OVERLAY]
        return overlay.text if overlay.visible else ""


def click(button, modifier=Qt.KeyboardModifier.NoModifier):
    QTest.mouseClick(button, Qt.MouseButton.LeftButton, modifier, QPoint(8, 8))
    QApplication.processEvents()


def button(widget, text):
    [found] = [found for found in widget.findChildren(QPushButton) if found.text() == text]
    return found


def tick(owner, text, picture=lambda: None):
    """Open the menu of a button and click on an entry; return which entries were ticked before."""
    menu, ticked = owner.menu(), []

    def choose():
        entries = {action.text(): action for action in menu.actions() if action.text()}
        ticked.extend(name for name, action in entries.items() if action.isChecked())
        picture()
        QTest.mouseClick(menu, LEFT, pos=menu.actionGeometry(entries[text]).center())

    QTimer.singleShot(0, choose)
    QTest.mouseClick(owner, LEFT)  # until the menu is closed
    QApplication.processEvents()
    return ticked


def picture(viewer, name):
    if PICTURES:
        take_picture(viewer, Path(PICTURES) / f"{name}.png")


def press(widget, text):
    """Click the button with this text."""
    (button,) = [button for button in widget.findChildren(QPushButton) if button.text() == text]
    assert not button.isHidden()
    button.click()
