"""Correction of a mask: a crop becomes a Labels layer for napari's brush; Apply writes it back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from napari.layers import Labels
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QWidget

from napari_lpd.core.errors import DataError, LpdError
from napari_lpd.core.files import KEY
from napari_lpd.core.text import area_text
from napari_lpd.data.geojson import read_features
from napari_lpd.data.regions import classes_of, regions_in
from napari_lpd.gui.layers.class_keys import ClassKeys
from napari_lpd.gui.layers.regions import add_regions, empty_regions, outlines_of, regions_layers
from napari_lpd.gui.layers.results import label_colours, labels_of, our_layers, refresh_labels
from napari_lpd.gui.layers.slides import (
    EDIT,
    UM,
    corner,
    folder_beside,
    kind,
    of_slide,
    regions_file,
    slide_id,
    slide_path,
    visible_box_um,
)
from napari_lpd.gui.predict.correction_steps import MOST_MB, Step, Steps
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.slide_corrections import corrections_beside, follow, keep_corrections, lay_over

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari
    from napari.layers import Image
    from napari.utils.events import Event

    from napari_lpd.core.geometry import Box
    from napari_lpd.results.prediction import Prediction

MAX_EDGE = 4096  # pixels; edge of the crop
RESULTS = "napari-lpd-results"
ERASER = "#5a5a5a"
SUPERSEDED = 0.99  # share of a painted place that is corrected: from it on, what was painted there counts no more


def corrections_path(slide_layer: Image) -> Path:
    """Return the file with the corrections of a slide, whichever result they were made on."""
    name = (slide_path(slide_layer) or Path(slide_layer.name)).name
    return corrections_beside(folder_beside(slide_layer) / RESULTS, name, slide_id(slide_layer))


class CorrectBar(QWidget):
    """Buttons to edit the visible part of the mask and to apply or discard the changes.

    Args:
        viewer: The viewer.
        slide: Returns the slide's layer; raises LpdError if there is none.
        prediction: Returns the prediction to correct.

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

    def __init__(self, viewer: napari.Viewer, slide: Callable[[], Image], prediction: Callable[[], Prediction]) -> None:
        super().__init__()
        self._viewer, self._slide, self._prediction = viewer, slide, prediction
        self.keys = ClassKeys.of(viewer)
        self.label = 1  # to paint with: class, from 1; 0 erases
        self.edit = QPushButton("Correct mask")
        self.apply = QPushButton("Apply")
        self.discard = QPushButton("Discard")
        self.restore = QPushButton("Model's mask")
        self.undo = QPushButton("Undo")
        self.steps = Steps()
        self.edit.setToolTip("Copy the visible mask to a layer for napari's brush, fill and undo")
        self.apply.setToolTip("Save the changes as corrections; the model's output is kept")
        self.discard.setToolTip("Discard the changes")
        self.restore.setToolTip("Go back to the model's mask in this view; Ctrl+Z brings the corrections back")
        self.undo.setToolTip(f"Take back what was applied last on this slide (the newest {MOST_MB} MB are kept)")
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
        self.show_buttons()

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
        slide_layer, prediction = self._slide(), self._prediction()
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
        masks = [mask for mask in our_layers(self._viewer, card.slide_hash, "labels") if mask.visible]
        about = {"prediction": prediction, "origin": (y0, x0), "kept": kept, "masks": masks}
        layer = self._viewer.add_labels(
            labels,
            name=f"edit ({slide_layer.name})",
            scale=(card.mpp, card.mpp),
            translate=corner(slide_layer) + (np.array([y0, x0]) + 0.5) * card.mpp,
            units=(UM, UM),
            opacity=0.6,
            metadata={KEY: {"kind": EDIT, **of_slide(slide_layer), **about}},
            **label_colours(card.classes),
        )
        layer.brush_size = max(5, min(h, w) // 40)
        layer.mode = "paint"
        layer.events.selected_label.connect(lambda event: self.use(event.source.selected_label))
        for mask in masks:
            mask.visible = False
        self.show_buttons()
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
        metadata, edited = layer.metadata[KEY], np.asarray(layer.data)
        prediction: Prediction = metadata["prediction"]
        corrections, (y, x) = Corrections(prediction), metadata["origin"]
        differs = edited != corrections.read_crop(y, x, edited.shape)
        stored = corrections.stored_labels((y, x), edited.shape)
        changed = corrections.apply_crop(y, x, edited)
        if changed:
            step = Step.around(prediction, (y, x), stored, differs)
            self.steps.add(step)
            self._spread(prediction, step.box, metadata["kept"])
        self.drop()
        self.message.emit(f"{area_text(changed * (prediction.card.mpp / 1000) ** 2)} mm² corrected.")
        self.applied.emit(prediction)

    def take_back(self) -> None:
        """Undo what was applied last on the chosen slide, in all its results.

        Raises:
            LpdError: nothing was applied on it, or a result cannot be written.
        """
        self.check_applied()
        slide_layer = self._slide()
        step = self.steps.last(slide_id(slide_layer))
        if step is None:
            raise DataError(f"{slide_layer.name}: nothing was applied that can be taken back")
        prediction, kept = step.prediction, corrections_path(slide_layer)
        lay_over(prediction, kept)
        changed = Corrections(prediction).replace(step.box[:2], step.stored())
        self.steps.remove(step)
        self._spread(prediction, step.box, kept)
        self.show_buttons()
        self.message.emit(f"{area_text(changed * (prediction.card.mpp / 1000) ** 2)} mm² taken back.")
        self.applied.emit(prediction)

    def _spread(self, prediction: Prediction, box: Box, kept: Path) -> None:
        """Keep the corrections of a result as its slide's, and correct the other results that are shown alike."""
        keep_corrections(prediction, kept)
        refresh_labels(self._viewer, prediction, box)
        for mask in our_layers(self._viewer, prediction.card.slide_hash, "labels"):
            other: Prediction = mask.metadata[KEY]["prediction"]
            if other.folder != prediction.folder:
                follow(other, prediction, box)
                ratio = prediction.card.mpp / other.card.mpp
                y0, x0, y1, x1 = (round(edge * ratio) for edge in box)
                refresh_labels(self._viewer, other, (y0 - 1, x0 - 1, y1 + 1, x1 + 1))

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
        self.show_buttons()
        if kind(layer) != EDIT:
            return
        self.put_down()
        for mask in layer.metadata[KEY]["masks"]:
            mask.visible = True
        for mask in labels_of(self._viewer, layer.metadata[KEY]["prediction"]):
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

    def _can_take_back(self) -> bool:
        try:
            return self.steps.last(slide_id(self._slide())) is not None
        except LpdError:  # no slide is open
            return False

    def show_buttons(self) -> None:
        """Show the buttons that can be pressed now, on the chosen slide."""
        editing = self.layer() is not None
        self.edit.setVisible(not editing)
        self.apply.setVisible(editing)
        self.discard.setVisible(editing)
        self.restore.setVisible(editing)
        self.undo.setVisible(not editing and self._can_take_back())


def corrections_to_regions(viewer: napari.Viewer, slide_layer: Image, prediction: Prediction) -> str:
    """Add corrected pixels to the training regions, replacing earlier ones, and return a line for the status.

    Raises:
        LpdError: there are no corrections, or the regions beside the slide cannot be read.
    """
    card, regions = prediction.card, Corrections(prediction).regions()
    if not regions:
        raise DataError("no corrections yet: press Correct mask, paint, and press Apply")
    ours = [shapes for shapes in regions_layers(viewer, slide_layer) if kind(shapes) == "regions"]
    layer = ours[0] if ours else empty_regions(slide_layer)
    path = regions_file(slide_layer)
    if not ours and path is not None and path.exists():
        drawing = read_features(path, card.frame)
        add_regions(layer, regions_in(drawing), (*card.classes, *classes_of(drawing)))
    outlines = [region.polygon() for region in regions]
    corrected, before = shapely.union_all(outlines), layer.metadata[KEY].get("corrected", [])
    drawn = [(i, region.polygon()) for i, region in enumerate(outlines_of(layer, slide_layer)) if region.pixels]
    layer.selected_data = {
        i
        for i, old in drawn
        if any(old.equals_exact(outline, 1.0) for outline in before)
        or corrected.intersection(old).area > SUPERSEDED * old.area
    }
    layer.remove_selected()
    add_regions(layer, regions, card.classes)
    layer.metadata[KEY] |= {"classes": card.classes, "corrected": outlines}
    if not ours:
        viewer.add_layer(layer)
    places = f"{len(regions)} corrected place{'s' * (len(regions) > 1)}"
    return (
        f"{places} added to '{layer.name}': Train learns the tissue of just these pixels, however few they are, and"
        " nothing of what is around them."
    )


def carried_over(new: Prediction, old: Prediction | None, kept: Path) -> str:
    """Copy the corrections of a slide, and of an older result of it, to a new one; return a line for the status."""
    older = old if old is not None and old.card.slide_hash == new.card.slide_hash else None
    try:
        lay_over(new, kept, exactly=True)
        if older is not None and older.folder != new.folder:
            Corrections(new).copy_from(older)
    except LpdError as error:
        return f" Not all corrections were copied: {error}."
    return " Your corrections are in it." if Corrections(new).blocks() else ""
