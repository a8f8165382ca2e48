"""How labels follow from a result's maps: how sure they have to be, more or less of single tissues, and cleaned areas.

What is set is seen at once in the view, then made for the result.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Labels
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import QDoubleSpinBox, QFormLayout, QLabel, QVBoxLayout, QWidget
from superqt import QLabeledSlider

from napari_lpd.core.classes import UNSURE_CLASS
from napari_lpd.core.errors import LpdError
from napari_lpd.core.files import KEY
from napari_lpd.core.settings.prediction import SINGLE, CleanSettings, LabelSettings
from napari_lpd.core.settings.reference import UNITS, help_text, limits_of
from napari_lpd.gui.common.job import JobRunner
from napari_lpd.gui.common.layout import chooser, folded, guard_wheel, note, tip
from napari_lpd.gui.layers.results import label_colours, labels_of
from napari_lpd.gui.layers.slides import UM, corner, visible_box_um
from napari_lpd.prediction.relabel import LabelView, relabel
from napari_lpd.results.corrections import Corrections

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari
    from napari.layers import Image

    from napari_lpd.core.jobs import Job
    from napari_lpd.gui.layers.pyramid_view import View
    from napari_lpd.results.prediction import Prediction

PREVIEW = "sure preview"  # kind of the layer that shows the view while something is set
REST_MS = 400  # after the last change, until the result is made again
MOST = 1500  # pixels of the longer edge of what is computed for the view
STEPS = 10  # of a slider, for a factor of ten in the odds
REFINED = (
    "These labels also follow the slide's edges (refiner, in Advanced), so a change here shows after the next Predict."
)
HELP = "A place gets its most likely tissue if the model is at least this sure of it, else it is unsure; 0 % labels all"
ALL = "all tissues"


class CleanForm(QWidget):
    """Form of what of the labels is cleaned, of all tissues or of one.

    Attributes:
        settings: What the form says.

    Signals:
        changed: a number was changed by the user.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.settings = CleanSettings()
        self.of = chooser([ALL])
        self.smallest, self.holes, self.smooth = (
            self._number(name) for name in ("smallest_um2", "holes_um2", "smooth_um")
        )
        self.of.setToolTip("Of which tissues; what is set of one tissue comes before what is set of all")
        rows = QFormLayout(self)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addRow("Clean", self.of)
        rows.addRow("Areas from", self.smallest)
        rows.addRow("Fill holes below", self.holes)
        rows.addRow("Smooth by", self.smooth)
        self.of.currentIndexChanged.connect(lambda: self.show_settings(self.settings))

    def _number(self, name: str) -> QDoubleSpinBox:
        field = CleanSettings.model_fields[name]
        box, limits = QDoubleSpinBox(decimals=1, keyboardTracking=False), limits_of(field)
        box.setRange(limits["ge"], limits["le"])
        box.setSuffix(f" {UNITS[name]}")
        box.setSpecialValueText("off")
        box.setStepType(QDoubleSpinBox.StepType.AdaptiveDecimalStepType)
        box.setToolTip(tip(help_text(name, field)))
        box.valueChanged.connect(lambda value: self._on_changed(name, value))
        return box

    def offer(self, tissues: Sequence[str]) -> None:
        """Offer single tissues, and what is unsure."""
        names, chosen = [ALL, *tissues, UNSURE_CLASS.name], self.of.currentText()
        if names != [self.of.itemText(i) for i in range(self.of.count())]:
            self.of.blockSignals(True)
            self.of.clear()
            self.of.addItems(names)
            self.of.setCurrentText(chosen if chosen in names else ALL)
            self.of.blockSignals(False)

    def show_settings(self, settings: CleanSettings) -> None:
        """Show settings of all tissues, or of the one that is chosen."""
        self.settings = settings
        for name, box in (("smallest_um2", self.smallest), ("holes_um2", self.holes), ("smooth_um", self.smooth)):
            box.blockSignals(True)
            box.setValue(dict(getattr(settings, SINGLE[name])).get(self.of.currentText(), getattr(settings, name)))
            box.blockSignals(False)

    def _on_changed(self, name: str, value: float) -> None:
        change: dict[str, object] = {name: value}
        if (tissue := self.of.currentText()) != ALL:
            own = dict(getattr(self.settings, SINGLE[name])) | {tissue: value}
            change = {SINGLE[name]: tuple(each for each in own.items() if each[1] != getattr(self.settings, name))}
        self.settings = self.settings.model_copy(update=change)
        self.changed.emit()


class SureBar(QWidget):
    """How sure the model has to be, more or less of the tissue that is chosen in the legend, and what is cleaned.

    Args:
        viewer: The viewer.
        slide: Returns the chosen slide's layer; raises LpdError if there is none.
        shown: Returns the result that is shown, or None.

    Signals:
        message: how far the result is.
        failed: an error message.
        made: the labels of the result were made again.
    """

    message = Signal(str)
    failed = Signal(str)
    made = Signal()

    def __init__(
        self, viewer: napari.Viewer, slide: Callable[[], Image], shown: Callable[[], Prediction | None]
    ) -> None:
        super().__init__()
        self._viewer, self._slide, self._shown = viewer, slide, shown
        self._settings, self._name = LabelSettings(), ""
        self._view: tuple[tuple[object, ...], LabelView] | None = None
        self.sure, self.more = QLabeledSlider(Qt.Orientation.Horizontal), QLabeledSlider(Qt.Orientation.Horizontal)
        self._named, self.refined, self.clean = QLabel(), note(REFINED), CleanForm()
        self._result: tuple[object, ...] | None = None  # whose settings are shown
        self.runner = JobRunner(self, "Labels are being made again. Close anyway?")
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MS)
        self.sure.setRange(0, 100)
        self.more.setRange(-2 * STEPS, 2 * STEPS)
        self.more.setToolTip(
            "Multiplies the tissue's odds: 10 steps to the right are ten times as much, 0 is the model's"
        )
        rows = QFormLayout()
        rows.addRow("At least % sure", self.sure)
        rows.addRow(self._named, self.more)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(rows)
        layout.addWidget(folded("Clean areas", self.clean))
        layout.addWidget(self.refined)
        guard_wheel(self)
        self.sure.setToolTip(tip(HELP))
        self.sure.valueChanged.connect(self._on_moved)
        self.more.valueChanged.connect(self._on_moved)
        self.clean.changed.connect(self._on_moved)
        self._rest.timeout.connect(self._make)
        self.runner.progressed.connect(lambda at: self.message.emit(f"{at.message}: {100 * at.done // at.total} %"))
        self.runner.succeeded.connect(self._on_made)
        self.runner.failed.connect(self.failed)
        self.runner.ended.connect(self._on_ended)
        self.show_tissue("")
        self.show_result(None)

    def settings(self, classes: Sequence[str]) -> LabelSettings:
        """Return what is set, for a result with these classes."""
        favour = tuple(each for each in self._settings.favour if each[0] in classes)
        clean = self._settings.clean.without_others([*classes, UNSURE_CLASS.name])
        return self._settings.model_copy(update={"favour": favour, "clean": clean})

    def show_settings(self, settings: LabelSettings) -> None:
        """Show settings; nothing is made anew."""
        self._settings = settings
        self.clean.show_settings(settings.clean)
        for slider, value in (
            (self.sure, round(100 * settings.sure)),
            (self.more, round(STEPS * math.log10(dict(settings.favour).get(self._name, 1.0)))),
        ):
            slider.blockSignals(True)
            slider.setValue(value)
            slider.blockSignals(False)

    def show_result(self, prediction: Prediction | None) -> None:
        """Show the settings of a result; one that was refined keeps what is chosen for its next prediction."""
        if self._rest.isActive() or self.runner.running:
            return
        refined = _is_refined(prediction)
        result = None if prediction is None else (prediction.folder, prediction.card.settings.labels)
        if prediction is not None and not (refined and result == self._result):
            self.clean.offer([tissue.name for tissue in prediction.card.classes])
            self.show_settings(prediction.card.settings.labels)
        self._result = result
        self.refined.setVisible(refined)
        self.setEnabled(prediction is not None and prediction.finished)

    def show_tissue(self, name: str) -> None:
        """Offer more or less of a tissue; of none with ""."""
        self._name = name
        self._named.setText(f"More {name}" if len(name) < 16 else f"More {name[:14]}…")
        self._named.setVisible(bool(name))
        self.more.setVisible(bool(name))
        self.show_settings(self._settings)

    def _on_moved(self) -> None:
        before, waiting = self._settings, self._rest.isActive()
        factors = dict(self._settings.favour)
        if self._name:
            factors[self._name] = 10 ** (self.more.value() / STEPS)
        favour = tuple((name, factor) for name, factor in factors.items() if factor != 1)
        self._settings = LabelSettings(sure=self.sure.value() / 100, favour=favour, clean=self.clean.settings)
        if _is_refined(self._shown()):
            return
        self._rest.start()  # first: a layer that is added shows the result anew, which would set all back
        try:
            self._preview()
        except LpdError as error:  # what was set before stays, and is still made
            self.show_settings(before)
            if not waiting:
                self._rest.stop()
            self.failed.emit(str(error))

    def layer(self) -> Labels | None:
        """Return the layer of the preview, if any."""
        found = (each for each in self._viewer.layers if each.metadata.get(KEY, {}).get("kind") == PREVIEW)
        return next((each for each in found if isinstance(each, Labels)), None)

    def _preview(self) -> None:
        """Show the labels of what is in view, above the mask, which is hidden meanwhile."""
        prediction, slide_layer = self._shown(), self._slide()
        if prediction is None:
            return
        card, seen = prediction.card, visible_box_um(self._viewer, slide_layer)
        y0, x0, y1, x1 = (int(value / card.mpp) for value in seen)
        level = max(0, math.ceil(math.log2(max(y1 - y0, x1 - x0, 1) / MOST)))
        level = min(level, len(prediction.labels.levels) - 1)
        box = (max(y0, 0), max(x0, 0), min(y1 + 1, card.shape[0]), min(x1 + 1, card.shape[1]))
        key = (prediction.folder, box, level)
        if self._view is None or self._view[0] != key:
            self._view = key, LabelView(Corrections(prediction), box, level)
        view = self._view[1]
        mpp = card.mpp * 2**level
        place = corner(slide_layer) + (np.array(view.origin) + 0.5) * mpp
        labels, layer = view.labels(self.settings([tissue.name for tissue in card.classes])), self.layer()
        if layer is None:
            active = self._viewer.layers.selection.active
            masks = [mask for mask in labels_of(self._viewer, prediction) if mask.visible]
            self._viewer.add_labels(
                labels,
                name="how sure (preview)",
                scale=(mpp, mpp),
                translate=place,
                units=(UM, UM),
                opacity=masks[0].opacity if masks else 0.5,
                colormap=masks[0].colormap if masks else label_colours(card.classes)["colormap"],
                metadata={KEY: {"kind": PREVIEW, "masks": masks}},
            )
            self._viewer.layers.selection.active = active
            for mask in masks:
                mask.visible = False
        else:
            layer.data, layer.scale, layer.translate = labels, (mpp, mpp), place

    def _make(self) -> None:
        """Make the labels of the result again, with the latest settings."""
        prediction = self._shown()
        if prediction is None or not self.isEnabled():
            return
        if self.runner.running:  # with settings of before: once it has ended
            self.runner.stop()
            self._rest.start()
            return
        settings = self.settings([tissue.name for tissue in prediction.card.classes])
        views = [mask.metadata[KEY]["view"] for mask in labels_of(self._viewer, prediction)]
        self.runner.start(lambda: _made_again(prediction, settings, views))

    def _on_made(self, prediction: Prediction) -> None:
        for layer in labels_of(self._viewer, prediction):
            layer.metadata[KEY]["prediction"] = prediction
            layer.refresh()
        self.message.emit("The labels are made again.")
        self.made.emit()

    def _on_ended(self) -> None:
        """Show the mask again in place of the preview, unless something was set meanwhile."""
        layer = self.layer()
        if layer is None or self._rest.isActive():
            return
        for mask in layer.metadata[KEY]["masks"]:
            mask.visible = mask in self._viewer.layers
        self._viewer.layers.remove(layer)
        self._view = None


def _is_refined(prediction: Prediction | None) -> bool:
    """Return whether the labels of a result are not made of its maps alone."""
    return prediction is not None and prediction.card.settings.refiner != "none"


def _made_again(prediction: Prediction, settings: LabelSettings, views: Sequence[View]) -> Job[Prediction]:
    """Make labels again, and fill what is shown of them."""
    made = yield from relabel(prediction.folder, settings)
    for view in views:
        view.fill(made.finished_blocks() | Corrections(made).blocks())
    return made
