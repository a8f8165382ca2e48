"""What the three widgets have in common as docks of napari's window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, Signal
from qtpy.QtWidgets import QDockWidget, QWidget

from napari_lpd.gui.common.job import JobRunner

if TYPE_CHECKING:
    from qtpy.QtGui import QShowEvent

PLUGIN = " (napari-lpd)"  # napari ends the titles of our docks with it, which are cut then


class DockWidget(QWidget):
    """Widget that napari docks.

    Signals:
        undocked: napari has removed the widget from its window.
    """

    undocked = Signal()

    def changeEvent(self, event: QEvent) -> None:
        """Notice that napari takes the widget out of its dock, and stop its jobs, which nobody would see any more."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.ParentChange and self.parentWidget() is None:
            for runner in self.findChildren(JobRunner):
                runner.stop()
            self.undocked.emit()

    def _on_dock(self, visible: bool) -> None:
        if self.parentWidget() is not None:
            self.setVisible(visible)

    def showEvent(self, event: QShowEvent) -> None:
        """Shorten the title of the dock, which is that of its tab; behind another tab, hide with the dock.

        Qt leaves what is behind a tab in the order of the tab key.
        """
        super().showEvent(event)
        dock = self.parentWidget()
        if isinstance(dock, QDockWidget) and dock.windowTitle().endswith(PLUGIN):
            dock.setWindowTitle(dock.windowTitle().removesuffix(PLUGIN))
            dock.visibilityChanged.connect(self._on_dock)
