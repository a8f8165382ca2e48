"""Button *Show*: a menu with a tick for the mask of a result and for each of its maps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QMenu, QPushButton

from napari_lpd.gui.layers.results import MASK, labels_of, parts_shown
from napari_lpd.gui.layers.slides import kind
from napari_lpd.gui.maps.on_demand import Maps

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari
    from napari.layers import Layer
    from qtpy.QtGui import QAction

    from napari_lpd.gui.layers.results import Part
    from napari_lpd.results.prediction import Prediction

TEXTS = {"labels": "Mask", "uncertainty": "Uncertainty", "tissue": "Tissue mask"}
SEE_THROUGH = ("tissue",)  # maps that the mask may lie on


class ShowButton(QPushButton):
    """Button with a menu of what is shown of a result.

    A map that is ticked is seen alone: the mask is hidden until no map is left, or until it is ticked itself.

    Args:
        viewer: The viewer.
        prediction: Returns the result.
    """

    def __init__(self, viewer: napari.Viewer, prediction: Callable[[], Prediction | None]) -> None:
        super().__init__("Show")
        self._viewer, self._prediction = viewer, prediction
        self.maps = Maps(viewer, self)
        self.setMenu(QMenu(self))
        self.setToolTip("Show the mask, heatmaps of the tissues, how uncertain the model is, and what counts as tissue")
        self.menu().aboutToShow.connect(self._fill)
        self.maps.shown.connect(self._on_shown)

    def _fill(self) -> None:
        """List what the result has: the mask, heatmaps in the order of the legend, and the rest."""
        prediction = self._prediction()
        self.menu().clear()
        if prediction is None:
            return
        heatmaps = [("heatmap", tissue.name) for tissue in prediction.card.classes]
        for part in (MASK, *heatmaps, ("uncertainty", ""), ("tissue", "")):
            what, tissue = part
            action: QAction = self.menu().addAction(f"Heatmap: {tissue}" if tissue else TEXTS[what])
            action.setCheckable(True)
            action.setChecked(self._is_on(prediction, part))
            action.toggled.connect(partial(self._on_ticked, prediction, part))
            if part == MASK:
                self.menu().addSeparator()

    def _is_on(self, prediction: Prediction, part: Part) -> bool:
        if part == MASK:
            return any(layer.visible for layer in labels_of(self._viewer, prediction))
        layer = self.maps.layer(prediction.card.slide_hash, part)
        return layer.visible if layer is not None else self.maps.is_on(prediction.card.slide_hash, part)

    def _on_ticked(self, prediction: Prediction, part: Part, on: bool) -> None:
        slide = prediction.card.slide_hash
        if part == MASK:
            self._show_mask(prediction, on)
        elif on:
            self.maps.show(slide, part)
        else:
            self.maps.remove(slide, part)
            if not any(what not in ("labels", *SEE_THROUGH) for what, _ in parts_shown(self._viewer, slide)):
                self._show_mask(prediction, True)

    def _on_shown(self, layer: Layer) -> None:
        prediction = self._prediction()
        if prediction is not None and kind(layer) not in SEE_THROUGH:
            self._show_mask(prediction, False)

    def _show_mask(self, prediction: Prediction, shown: bool) -> None:
        for layer in labels_of(self._viewer, prediction):
            layer.visible = shown
