"""Layers of a result besides its mask: made in a thread when they are asked for, gone when they are not."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from qtpy.QtCore import QObject, Signal

from napari_lpd.core.files import KEY
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.gui.common.job import JobRunner
from napari_lpd.gui.layers.results import (
    parts_of,
    parts_shown,
    prediction_layers,
    remove_layers,
    show_part,
    shown_by,
    shown_labels,
    shown_prediction,
)
from napari_lpd.gui.maps.tidy import keep_tidy

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer
    from qtpy.QtWidgets import QWidget

    from napari_lpd.gui.layers.results import LayerData, Part
    from napari_lpd.gui.layers.slides import Shown
    from napari_lpd.results.prediction import Prediction


class _Wanted(NamedTuple):
    """A part of the uppermost result of a slide, by its fingerprint, and the layer that it is to replace."""

    slide: str
    part: Part
    instead_of: Layer | None


class Maps(QObject):
    """Shows and removes maps of the results that are shown, each the uppermost of its slide.

    Args:
        viewer: The viewer.
        parent: The widget that asks.

    Signals:
        shown: a map that was asked for here is shown: its layer.
        failed: one line with the error (already shown as a notification).
    """

    shown = Signal(object)
    failed = Signal(str)

    def __init__(self, viewer: napari.Viewer, parent: QWidget) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._wanted: list[_Wanted] = []
        self._making: _Wanted | None = None
        self._runner = JobRunner(parent)
        self._runner.succeeded.connect(self._on_made)
        self._runner.failed.connect(self.failed)
        self._runner.ended.connect(self._on_ended)
        keep_tidy(viewer)

    @property
    def is_busy(self) -> bool:
        """Whether a map is being made."""
        return self._runner.running

    def layer(self, slide: str, part: Part) -> Layer | None:
        """Return the layer of a part of a slide's uppermost result, if it is shown."""
        layer, shown = parts_shown(self._viewer, slide).get(part), shown_prediction(self._viewer, slide)
        is_its = layer is not None and shown is not None and layer.metadata[KEY]["prediction"].folder == shown.folder
        return layer if is_its else None

    def is_on(self, slide: str, part: Part) -> bool:
        """Return whether a part is shown, or being made."""
        wanted = [*self._wanted, *([self._making] if self._making else [])]
        return self.layer(slide, part) is not None or any(each[:2] == (slide, part) for each in wanted)

    def show(self, slide: str, part: Part, instead_of: Layer | None = None) -> None:
        """Make a part, unless it is there, and show it below the mask, in place of a layer where one is given."""
        layer = self.layer(slide, part)
        if layer is not None:
            layer.visible = True
            self.shown.emit(layer)
        elif not self.is_on(slide, part):
            self._wanted.append(_Wanted(slide, part, instead_of))
            self._make_next()

    def remove(self, slide: str, part: Part) -> None:
        """Take a part away, also one that is being made."""
        self._wanted = [each for each in self._wanted if each[:2] != (slide, part)]
        if self._making is not None and self._making[:2] == (slide, part):
            self._making = None
        layer = self.layer(slide, part)
        if layer is not None:
            remove_layers(self._viewer, [layer])

    def forget(self) -> None:
        """Have nothing made that is not yet shown."""
        self._wanted, self._making = [], None

    def _make_next(self) -> None:
        """Begin to make the first that is wanted; what its result does not have, or no longer, is left out."""
        while self._wanted and not self._runner.running:
            wanted = self._wanted.pop(0)
            labels = shown_labels(self._viewer, wanted.slide)
            if labels is not None and wanted.part in parts_of(prediction := labels.metadata[KEY]["prediction"]):
                self._making = wanted
                self._runner.start(partial(_made, prediction, shown_by(labels), wanted.part))

    def _on_made(self, layer: LayerData) -> None:
        """Show what was made, unless it is no longer wanted; where another result is shown by now, make it of that."""
        if self._making is None:
            return
        prediction = layer[1]["metadata"][KEY]["prediction"]
        shown = shown_prediction(self._viewer, self._making.slide)
        if shown is None or shown.folder != prediction.folder:
            self._wanted.insert(0, self._making)
            return
        instead_of, self._making = self._making.instead_of, None
        self.shown.emit(show_part(self._viewer, layer, instead_of))

    def _on_ended(self) -> None:
        self._making = None
        self._make_next()


def _made(prediction: Prediction, slide: Shown, part: Part) -> Job[LayerData]:
    """Read a part of a result."""
    yield Progress(0, 0, f"reading {part[1] or part[0]}")
    [layer] = prediction_layers(prediction, slide, [part])
    return layer
