"""Correction of a mask: a crop becomes a Labels layer for napari's brush; Apply writes it back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely
from napari.layers import Labels
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QWidget

from napari_lpd.core.errors import DataError, LpdError
from napari_lpd.core.files import KEY
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.geojson import read_features
from napari_lpd.data.project import regions_beside
from napari_lpd.data.region_tiles import too_small
from napari_lpd.data.regions import classes_of, regions_in
from napari_lpd.gui.layers.class_keys import ClassKeys
from napari_lpd.gui.layers.regions import add_regions, empty_regions, outlines_of, regions_layers
from napari_lpd.gui.layers.results import label_colours, our_layers, refresh_labels
from napari_lpd.gui.layers.slides import (
    EDIT,
    UM,
    corner,
    folder_beside,
    kind,
    of_slide,
    slide_id,
    slide_path,
    visible_box_um,
)
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.slide_corrections import corrections_beside, keep_corrections, lay_over

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari
    from napari.layers import Image
    from napari.utils.events import Event
    from numpy.typing import NDArray

    from napari_lpd.results.prediction import Prediction

MAX_EDGE = 4096  # pixels; edge of the crop
RESULTS = "napari-lpd-results"
ERASER = "#5a5a5a"
SUPERSEDED = 0.99  # share of a region's area; a region corrected to this share came from an earlier correction


class _Applied(NamedTuple):
    """Labels (h, w) of a part of a result, from `origin` (y, x), and the file with the corrections of its slide."""

    prediction: Prediction
    origin: tuple[int, int]
    labels: NDArray[Any]
    kept: Path


def corrections_path(slide_layer: Image) -> Path:
    """Return the file with the corrections of a slide, whichever result they were made on."""
    name = (slide_path(slide_layer) or Path(slide_layer.name)).name
    return corrections_beside(folder_beside(slide_layer) / RESULTS, name, slide_id(slide_layer))


class CorrectBar(QWidget):
    """Buttons to edit the visible part of the mask and to apply or discard the changes.

    Args:
        viewer: The viewer.
        target: Returns the slide's layer and the prediction to correct.

    Signals:
        message: a line for the status.
        failed: an error message.
        applied: the prediction that was corrected.
        used: the label that is painted with: class, from 1; 0 erases.
    """

    message = Signal(str)
    failed = Signal(str)
    applied = Signal(object)
    used = Signal(int)

    def __init__(self, viewer: napari.Viewer, target: Callable[[], tuple[Image, Prediction]]) -> None:
        super().__init__()
        self._viewer, self._target = viewer, target
        self.keys = ClassKeys.of(viewer)
        self.label = 1  # to paint with: class, from 1; 0 erases
        self.edit = QPushButton("Correct mask")
        self.apply = QPushButton("Apply")
        self.discard = QPushButton("Discard")
        self.restore = QPushButton("Model's mask")
        self.undo = QPushButton("Undo")
        self._applied: list[_Applied] = []
        self.edit.setToolTip("Copy the visible mask to a layer for napari's brush, fill and undo")
        self.apply.setToolTip("Save the changes as corrections; the model's output is kept")
        self.discard.setToolTip("Discard the changes")
        self.restore.setToolTip("Go back to the model's mask in this view; Ctrl+Z brings the corrections back")
        self.undo.setToolTip("Take back what was applied last")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        for button, action in (
            (self.edit, self.start),
            (self.undo, self.take_back),
            (self.apply, self.finish),
            (self.discard, self.drop),
            (self.restore, self.restore_model),
        ):
            row.addWidget(button)
            button.clicked.connect(lambda _=False, action=action: self._guarded(action))
        viewer.layers.events.removed.connect(self._on_removed)
        self._show_buttons()

    def layer(self) -> Labels | None:
        """Return the layer that is being edited, if any."""
        return next((layer for layer in self._viewer.layers if kind(layer) == EDIT and isinstance(layer, Labels)), None)

    def check_applied(self) -> None:
        """Raise DataError while there are changes that are neither applied nor discarded."""
        if self.layer() is not None:
            raise DataError("the mask is being corrected: press Apply or Discard first")

    def start(self) -> None:
        """Copy the visible mask to a layer to paint on.

        Raises:
            LpdError: nothing is predicted in the view, or the view is too large.
        """
        self.check_applied()
        slide_layer, prediction = self._target()
        card, kept = prediction.card, corrections_path(slide_layer)
        if lay_over(prediction, kept):
            refresh_labels(self._viewer, prediction, (0, 0, *card.shape))
        y0, x0, y1, x1 = (value / card.mpp for value in visible_box_um(self._viewer, slide_layer))
        top, left, bottom, right = prediction.scope_box()
        y0, x0 = max(int(y0), top), max(int(x0), left)
        h, w = min(int(y1) + 1, bottom) - y0, min(int(x1) + 1, right) - x0
        if h < 1 or w < 1:
            raise DataError("nothing is predicted in this view: move to the mask, or predict this view first")
        if max(h, w) > MAX_EDGE:
            raise DataError(f"the view has {w} x {h} pixels; at most {MAX_EDGE} are corrected at once: zoom in")
        labels = Corrections(prediction).read_crop(y0, x0, (h, w))
        layer = self._viewer.add_labels(
            labels,
            name=f"edit ({slide_layer.name})",
            scale=(card.mpp, card.mpp),
            translate=corner(slide_layer) + (np.array([y0, x0]) + 0.5) * card.mpp,
            units=(UM, UM),
            opacity=0.6,
            metadata={
                KEY: {"kind": EDIT, **of_slide(slide_layer), "prediction": prediction, "origin": (y0, x0), "kept": kept}
            },
            **label_colours(card.classes),
        )
        layer.brush_size = max(5, min(h, w) // 40)
        layer.mode = "paint"
        layer.events.selected_label.connect(lambda event: self.use(event.source.selected_label))
        for mask in our_layers(self._viewer, card.slide_hash, "labels"):
            mask.visible = False
        self._show_buttons()
        self.use(self.label if self.label <= len(card.classes) else 1)
        self.message.emit("Click a tissue in the table, paint on the layer 'edit' (key 0 erases), then press Apply.")

    def use(self, label: int) -> None:
        """Take a label in hand; while a mask is corrected, paint with it."""
        self.label = label
        layer = self.layer()
        if layer is None:
            return
        card = layer.metadata[KEY]["prediction"].card
        if not 0 <= label <= len(card.classes):
            return
        if layer.selected_label != label:
            layer.selected_label = label  # comes back here
            return
        self._viewer.layers.selection.active = layer
        if layer.mode not in ("paint", "fill", "polygon"):
            layer.mode = "paint"
        tissue = card.classes[label - 1] if label else None
        self.keys.take(self)
        self.keys.show(self, f"Paint: {tissue.name if tissue else 'unlabelled'}", tissue.color if tissue else ERASER)
        self.used.emit(label)

    def on_number(self, number: int) -> None:
        """Paint with the class with this number; 0 erases."""
        self.use(number)

    def on_control_number(self, number: int) -> None:
        """Do nothing: what is painted has no selection."""

    def put_down(self) -> None:
        """Give the number keys back."""
        self.keys.drop(self)

    def finish(self) -> None:
        """Save the changes as corrections of the result and of its slide.

        Raises:
            LpdError: a label is not a class, or the result cannot be written; the layer is kept.
        """
        layer = self._edited()
        metadata = layer.metadata[KEY]
        prediction: Prediction = metadata["prediction"]
        (y, x), (h, w) = metadata["origin"], layer.data.shape
        before = _Applied(prediction, (y, x), Corrections(prediction).read_crop(y, x, (h, w)), metadata["kept"])
        changed = self._store(before._replace(labels=np.asarray(layer.data)))
        if changed:
            self._applied.append(before)
        self.drop()
        self.message.emit(f"{changed * (prediction.card.mpp / 1000) ** 2:.4f} mm² corrected.")
        self.applied.emit(prediction)

    def take_back(self) -> None:
        """Undo what was applied last.

        Raises:
            LpdError: the result cannot be written.
        """
        self.check_applied()
        before = self._applied[-1]
        changed = self._store(before)
        self._applied.pop()
        self._show_buttons()
        self.message.emit(f"{changed * (before.prediction.card.mpp / 1000) ** 2:.4f} mm² taken back.")
        self.applied.emit(before.prediction)

    def _store(self, to: _Applied) -> int:
        (y, x), (h, w) = to.origin, to.labels.shape
        changed = Corrections(to.prediction).apply_crop(y, x, to.labels)
        keep_corrections(to.prediction, to.kept)
        refresh_labels(self._viewer, to.prediction, (y, x, y + h, x + w))
        return changed

    def restore_model(self) -> None:
        """Put the model's labels into the edited layer; what was corrected there is one step of its undo."""
        layer = self._edited()
        prediction, (y, x), (h, w) = *(layer.metadata[KEY][name] for name in ("prediction", "origin")), layer.data.shape
        model = np.asarray(prediction.labels.levels[0][y : y + h, x : x + w])
        there = np.nonzero(np.asarray(layer.data) != model)
        layer.data_setitem(there, model[there])

    def drop(self) -> None:
        """Remove the edited layer and show the mask again."""
        self._viewer.layers.remove(self._edited())

    def _on_removed(self, event: Event) -> None:
        layer = event.value
        self._show_buttons()
        if kind(layer) != EDIT:
            return
        for mask in our_layers(self._viewer, layer.metadata[KEY]["prediction"].card.slide_hash, "labels"):
            mask.visible = True
            self._viewer.layers.selection.active = mask

    def _edited(self) -> Labels:
        layer = self.layer()
        if layer is None:
            raise DataError("nothing is being corrected: press Correct mask")
        return layer

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except LpdError as error:
            self.failed.emit(str(error))

    def _show_buttons(self) -> None:
        editing = self.layer() is not None
        self.edit.setVisible(not editing)
        self.apply.setVisible(editing)
        self.discard.setVisible(editing)
        self.restore.setVisible(editing)
        self.undo.setVisible(not editing and bool(self._applied))
        if not editing:
            self.put_down()


def corrections_to_regions(viewer: napari.Viewer, slide_layer: Image, prediction: Prediction) -> str:
    """Add corrections to the training regions, replacing earlier ones, and return a line for the status.

    Raises:
        LpdError: there are no corrections, or the regions beside the slide cannot be read.
    """
    card, regions = prediction.card, Corrections(prediction).regions()
    if not regions:
        raise DataError("no corrections yet: press Correct mask, paint, and press Apply")
    ours = [shapes for shapes in regions_layers(viewer, slide_layer) if kind(shapes) == "regions"]
    layer = ours[0] if ours else empty_regions(slide_layer)
    path = slide_path(slide_layer)
    if not ours and path is not None and regions_beside(path).exists():
        drawing = read_features(regions_beside(path), card.frame)
        add_regions(layer, regions_in(drawing), (*card.classes, *classes_of(drawing)))
    outlines = [region.polygon() for region in regions]
    corrected, before = shapely.union_all(outlines), layer.metadata[KEY].get("corrected", [])
    layer.selected_data = {
        i
        for i, old in enumerate(region.polygon() for region in outlines_of(layer, slide_layer))
        if any(old.equals_exact(outline, 1.0) for outline in before)
        or corrected.intersection(old).area > SUPERSEDED * old.area
    }
    layer.remove_selected()
    add_regions(layer, regions, card.classes)
    layer.metadata[KEY] |= {"classes": card.classes, "corrected": outlines}
    if not ours:
        viewer.add_layer(layer)
    said = f"{len(regions)} corrected region{'s' * (len(regions) > 1)} added to '{layer.name}': train on them in Train."
    settings = TrainSettings()
    if small := too_small(regions, card.slide_mpp, settings):
        edge = settings.tile * settings.mpp
        said += (
            f" {small} of them {'are' if small > 1 else 'is'} too small for a tile of {edge:.0f} µm and will not be"
            " used alone: correct or draw larger areas there, or choose smaller tiles in Train (Check the data counts"
            " them)."
        )
    return said


def carried_over(new: Prediction, old: Prediction | None, kept: Path) -> str:
    """Copy the corrections of a slide, and of an older result of it, to a new one; return a line for the status."""
    older = old if old is not None and old.card.slide_hash == new.card.slide_hash else None
    try:
        if older is not None and older.folder != new.folder:
            Corrections(new).copy_from(older)
        lay_over(new, kept)
    except LpdError as error:
        return f" Not all corrections were copied: {error}."
    return " Your corrections are in it." if Corrections(new).blocks() else ""
