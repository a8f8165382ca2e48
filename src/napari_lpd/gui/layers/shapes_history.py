"""Undo for shapes, which napari has for labels alone: Ctrl+Z takes back the last drawing, move or removal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from qtpy.QtCore import QTimer

from napari_lpd.gui.layers.regions import drop_leftovers

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Shapes
    from napari.utils.events import Event
    from numpy.typing import NDArray

MOST = 100  # steps that are kept
_all: WeakKeyDictionary[Shapes, ShapesHistory] = WeakKeyDictionary()


class _State(NamedTuple):
    shapes: list[tuple[NDArray[np.float64], Any]]
    features: Any
    colors: tuple[NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def of(cls, layer: Shapes) -> _State:
        shapes = [(np.array(data), str(kind)) for data, kind in zip(layer.data, layer.shape_type, strict=True)]
        return cls(shapes, layer.features.copy(), (np.array(layer.edge_color), np.array(layer.face_color)))

    def is_as(self, other: _State) -> bool:
        """Return whether the same shapes carry the same features."""
        return (
            len(self.shapes) == len(other.shapes)
            and all(np.array_equal(a, b) for (a, _), (b, _) in zip(self.shapes, other.shapes, strict=True))
            and self.features.equals(other.features)
        )


class ShapesHistory:
    """States of a layer of shapes.

    Args:
        layer: The layer.
        undone: Is called with the layer after a step was taken back.
    """

    def __init__(self, layer: Shapes, undone: Callable[[Shapes], None]) -> None:
        self._states, self._restoring, self._undone = [_State.of(layer)], False, undone
        layer.events.data.connect(self._on_data)
        layer.bind_key("Control-Z", self.undo, overwrite=True)

    @classmethod
    def follow(cls, layer: Shapes, undone: Callable[[Shapes], None]) -> None:
        """Keep the states of a layer from now on."""
        if layer in _all:
            _all[layer]._undone = undone
        else:
            _all[layer] = cls(layer, undone)

    def _on_data(self, event: Event) -> None:
        layer = event.source
        QTimer.singleShot(0, lambda: self.note(layer))  # napari tells of a drawing just before it is finished

    def note(self, layer: Shapes) -> None:
        """Keep the present state, unless a shape is half drawn."""
        if self._restoring or layer._is_creating:
            return
        state = _State.of(layer)
        if not state.is_as(self._states[-1]):
            self._states = [*self._states, state][-MOST:]

    def undo(self, layer: Shapes) -> None:
        """Go back by one step."""
        drop_leftovers(layer)
        self.note(layer)
        if layer._is_creating or len(self._states) < 2:
            return
        self._states.pop()
        state = self._states[-1]
        self._restoring = True
        try:
            in_hand = layer.feature_defaults.copy()
            layer.selected_data = set()
            with layer.events.data.blocker():  # napari tells before it has the types of the shapes
                layer.data = state.shapes
            layer.features, layer.feature_defaults = state.features.copy(), in_hand
            if state.shapes:
                layer.edge_color, layer.face_color = state.colors
            layer.refresh_text()
        finally:
            self._restoring = False
        self._undone(layer)
