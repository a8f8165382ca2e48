"""Combo box of layers that keeps its choice by the layer, not by the name, which may change or repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from napari_lpd.gui.common.layout import chooser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Layer

L = TypeVar("L", bound="Layer")


class LayerBox(Generic[L]):
    """Combo box of layers, after entries that are none.

    Args:
        fixed: The entries before the layers.

    Attributes:
        combo: The widget.
        layers: The layers that are listed.
    """

    def __init__(self, *fixed: str) -> None:
        self._fixed = fixed
        self.layers: list[L] = []
        self.combo = chooser(fixed)

    def fill(self, layers: Sequence[L], names: Sequence[str] = ()) -> None:
        """List these layers, by their own names or others, and keep the choice."""
        chosen, index = self.layer(), self.combo.currentIndex()
        self.layers = list(layers)
        self.combo.blockSignals(True)
        self.combo.clear()
        self.combo.addItems([*self._fixed, *(names or [layer.name for layer in layers])])
        if chosen in self.layers:
            index = len(self._fixed) + self.layers.index(chosen)
        self.combo.setCurrentIndex(index if chosen in self.layers or 0 <= index < len(self._fixed) else 0)
        self.combo.blockSignals(False)

    def layer(self) -> L | None:
        """Return the chosen layer; None for an entry that is none."""
        index = self.combo.currentIndex() - len(self._fixed)
        return self.layers[index] if 0 <= index < len(self.layers) else None

    def choose(self, layer: L) -> None:
        """Choose a layer that is listed."""
        self.combo.setCurrentIndex(len(self._fixed) + self.layers.index(layer))
