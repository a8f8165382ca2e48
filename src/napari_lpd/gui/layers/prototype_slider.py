"""napari's slider below the canvas, which counts prototypes from 0: shown only while it is of use.

It is there as soon as a layer with prototypes is, also while that is hidden, and Explore has a slider of its own.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QWidget

from napari_lpd.gui.layers.slides import kind

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari
    from napari.layers import Layer
    from napari.utils.events import Event

SLIDERS = "QtDims"  # napari's widget with all sliders
OWN = "napari_lpd_prototypes"  # property of a window in which a widget of ours has a slider


class PrototypeSlider:
    """Shows and hides napari's slider for one of our widgets.

    Args:
        viewer: The viewer.
        widget: The widget, in a dock of the viewer's window.
        has_own: Whether the widget has a slider for prototypes.
    """

    def __init__(self, viewer: napari.Viewer, widget: QWidget, has_own: bool = False) -> None:
        self._viewer, self._widget, self._has_own = viewer, widget, has_own
        self._window: Callable[[], QWidget | None] = lambda: None  # not kept alive, as it holds the viewer
        self._left = False
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self.update)
        for layer in viewer.layers:
            layer.events.visible.connect(self.update)

    def update(self) -> None:
        """Show the slider if a visible layer needs it and no widget of ours has one."""
        if self._left:
            return
        top = self._widget.window()
        window = top.parentWidget() or top  # a floating dock is a window of its own
        self._window = weakref.ref(window)
        if self._has_own:
            window.setProperty(OWN, True)
        own = bool(window.property(OWN))
        _show(window, any(layer.ndim > 2 and self._moves(layer, own) for layer in self._viewer.layers))

    def leave(self) -> None:
        """Show the slider again, as napari does."""
        self._left = True
        window = self._window()
        if window is not None:
            if self._has_own:
                window.setProperty(OWN, False)
            _show(window, True)

    @staticmethod
    def _moves(layer: Layer, has_own: bool) -> bool:
        return kind(layer) != "heatmap" or (bool(layer.visible) and not has_own)

    def _on_inserted(self, event: Event) -> None:
        event.value.events.visible.connect(self.update)
        self.update()


def _show(window: QWidget, shown: bool) -> None:
    for sliders in window.findChildren(QWidget):
        if type(sliders).__name__ == SLIDERS:
            sliders.setVisible(shown)
