"""The Explore widget: heatmaps of the prototypes on the slide, made when chosen, and comparison of two models."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from napari.layers import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QFormLayout, QLabel, QSlider, QVBoxLayout, QWidget

from napari_lpd.core.errors import NOTICE
from napari_lpd.core.files import KEY
from napari_lpd.gui.common.dock import DockWidget
from napari_lpd.gui.common.layout import Column, chooser, folded, note
from napari_lpd.gui.common.slide_picker import SlidePicker
from napari_lpd.gui.explore.compare_panel import ComparePanel
from napari_lpd.gui.explore.model_pair import ModelPair
from napari_lpd.gui.explore.side_by_side_panel import BothModels
from napari_lpd.gui.layers.prototype_slider import PrototypeSlider
from napari_lpd.gui.layers.results import remove_layers
from napari_lpd.gui.layers.slides import kind
from napari_lpd.gui.maps.on_demand import Maps
from napari_lpd.gui.trust.check import TrustCheck

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Layer

    from napari_lpd.gui.layers.results import Part
    from napari_lpd.results.prediction import Prediction

COLORMAPS = ("magma", "inferno", "viridis", "cividis", "turbo")
ABOUT = (
    "Each class has several prototypes, which the model has learned. A heatmap shows the cosine between one prototype "
    "and the tissue: bright is similar."
)
FAIR = (
    "Both models are compared at the same locations: by ground-truth masks, or where both agree. Controls: random "
    "directions and, with training tiles, clusters. " + NOTICE
)
NONE = "Mask (no heatmap)"


class _Controls(NamedTuple):
    """State of the controls for prototypes."""

    tissue: str
    prototype: int
    last: int


class _Choice(NamedTuple):
    """A class of the uppermost result of a slide, by its fingerprint."""

    slide: str
    tissue: str
    named: str
    prediction: Prediction

    @property
    def part(self) -> Part:
        """What of the result is shown."""
        return "heatmap", self.tissue


class ExploreWidget(DockWidget):
    """Widget to browse the prototypes of a class, whose heatmap is made when the class is chosen.

    One layer serves all classes, so that the layer list stays short; it goes when no class is chosen. The mask is
    hidden meanwhile.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._alone = _Controls(NONE, 0, 0)
        self._own: Image | None = None  # the heatmap that was made for this widget
        self._hidden: list[Layer] = []  # masks, by this widget
        self._is_new = False  # the class was chosen and its heatmap is not yet shown

        self.tissue = chooser()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.which = QLabel("Prototype")
        self.opacity = QSlider(Qt.Orientation.Horizontal)
        self.opacity.setRange(0, 100)
        self.opacity.setValue(60)
        self.colormap = chooser()
        self.colormap.addItems(COLORMAPS)
        self.mask = QCheckBox("show the mask on top")
        self.missing = note("No prediction in this viewer yet: run Predict, or open a prediction folder (.zarr).")

        self.slides = SlidePicker(viewer)
        self.pair = ModelPair()
        self.both = BothModels(viewer, self.slides.layer, self.pair)
        self.trust = TrustCheck(viewer)
        self.compare = ComparePanel(viewer, self.slides.layer, self.pair)
        self.maps = Maps(viewer, self)
        self._napari_slider = PrototypeSlider(viewer, self, has_own=True)
        self._lay_out()
        self._connect()
        self._fill()

    def _lay_out(self) -> None:
        self._controls = QWidget()
        form = QFormLayout(self._controls)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Class", self.tissue)
        form.addRow(self.which, self.slider)
        form.addRow("Opacity", self.opacity)
        form.addRow("Colours", self.colormap)
        form.addRow("", self.mask)
        column = self.column = Column()
        column.add(self._controls, self.missing, note(ABOUT), title="Prototypes")
        column.add(folded("Can I trust it?", self.trust))
        column.add(self.slides, self.pair, title="Two models")
        column.add(self.both, title="Side by side")
        column.add(self.compare, note(FAIR), title="Statistics")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(column)

    def _connect(self) -> None:
        self.tissue.currentIndexChanged.connect(self._on_tissue)
        self.slider.valueChanged.connect(self._on_slider)
        self.opacity.valueChanged.connect(self._on_look)
        self.colormap.currentTextChanged.connect(self._on_look)
        self.mask.toggled.connect(self._on_look)
        self.maps.shown.connect(self._on_made)
        self.maps.failed.connect(lambda _: self.tissue.setCurrentIndex(0))
        self.both.changed.connect(self._on_both)
        self.both.picked.connect(self.show_heatmap)
        self.both.asked_for_all.connect(lambda: self.both.show_all(max(0, self.tissue.currentIndex() - 1)))
        self.undocked.connect(self._napari_slider.leave)
        self._viewer.layers.events.inserted.connect(self._fill)
        self._viewer.layers.events.removed.connect(self._fill)
        self._viewer.dims.events.current_step.connect(self._on_dims)

    def show_heatmap(self, index: int, prototype: int = 0) -> None:
        """Show a prototype of a class, both counted from 0, without the mask."""
        self.tissue.setCurrentIndex(index + 1)
        self.slider.setValue(prototype)

    def _choices(self) -> list[_Choice]:
        """List the classes of the shown results, whether or not their heatmaps are shown."""
        uppermost = {each.metadata[KEY]["slide"]: each for each in self._viewer.layers if kind(each) == "labels"}
        about = [labels.metadata[KEY] for labels in uppermost.values()]
        return [_Choice(each["slide"], tissue.name, each["named"], each["prediction"])
                for each in about for tissue in each["prediction"].card.classes]  # fmt: skip

    def _choice(self) -> _Choice | None:
        choices, index = self._choices(), self.tissue.currentIndex() - 1
        return choices[index] if 0 <= index < len(choices) else None

    def _chosen(self) -> list[Image]:
        """Return the heatmaps that the controls act on: the layer of the class, or both models' side by side."""
        index, choice = self.tissue.currentIndex() - 1, self._choice()
        if index >= 0 and self.both.side.is_open:
            return self.both.side.heatmaps(index)
        layer = None if choice is None else self.maps.layer(choice.slide, choice.part)
        return [layer] if isinstance(layer, Image) else []

    def _names(self) -> list[str]:
        if self.both.side.is_open:
            return self.both.side.classes()
        choices = self._choices()
        several = len({each.slide for each in choices}) > 1
        return [f"{each.tissue} ({each.named})" if several else each.tissue for each in choices]

    def _axis(self) -> int:
        return int(self._viewer.dims.ndim) - 3

    def _fill(self) -> None:
        """List the classes anew; where what is chosen was removed by another hand, choose none."""
        side, before = self.both.side, self.tissue.currentText()
        if side.changing:
            return
        self._list_classes(before)
        choice = self._choice()
        if self._own is not None and self._own not in self._viewer.layers:
            self._own = None
        if side.is_open or choice is None:
            is_gone = not side.is_open and before not in ("", NONE)
        else:
            is_gone = not self.maps.is_on(choice.slide, choice.part)
        if is_gone:
            self._list_classes(NONE)
            self._on_tissue()
        elif self._chosen() and not self._is_new:
            self._show_chosen()

    def _on_both(self) -> None:
        """Switch the controls to both models, or back to their previous state and layers."""
        if self.both.side.is_open:
            self._alone = _Controls(self.tissue.currentText(), self.slider.value(), self.slider.maximum())
            self._list_classes(NONE)
        else:
            self._list_classes(self._alone.tissue)
            self.slider.blockSignals(True)
            self.slider.setRange(0, self._alone.last)
            self.slider.setValue(self._alone.prototype)
            self.slider.blockSignals(False)
        self._name_prototype()

    def _list_classes(self, chosen: str) -> None:
        names = self._names()
        self.tissue.blockSignals(True)
        self.tissue.clear()
        self.tissue.addItems([NONE, *names])
        self.tissue.setCurrentText(chosen)
        self.tissue.blockSignals(False)
        self._controls.setVisible(bool(names))
        self.missing.setVisible(not names)

    def _on_tissue(self) -> None:
        """Show the heatmap of the class that was chosen, or have it made first."""
        self._is_new = True
        if not self.both.side.is_open:
            self.maps.forget()
            choice, chosen, own = self._choice(), self._chosen(), self._own
            if own is not None and own not in chosen and (chosen or choice is None or not _is_on(own, choice.slide)):
                self._own = None
                remove_layers(self._viewer, [own])
                own = None
            if choice is not None and not chosen:
                self.slider.setRange(0, choice.prediction.card.prototypes_per_class - 1)
                self.maps.show(choice.slide, choice.part, own)
                return
        self._show_chosen()

    def _on_made(self, layer: Image) -> None:
        self._own = layer
        self._show_chosen()

    def _show_chosen(self) -> None:
        chosen = self._chosen()
        if chosen:
            finest = chosen[0].data[0] if chosen[0].multiscale else chosen[0].data
            self.slider.setRange(0, finest.shape[0] - 1)
            self._viewer.dims.set_point(self._axis(), self.slider.value())
        self._name_prototype()
        self._on_look()

    def _on_slider(self, index: int) -> None:
        if self._chosen():
            self._viewer.dims.set_point(self._axis(), index)
        self._name_prototype()

    def _on_dims(self) -> None:
        if not (self.both.side.changing or self._is_new) and self._chosen():
            self.slider.setValue(int(self._viewer.dims.current_step[self._axis()]))

    def _name_prototype(self) -> None:
        text = f"Prototype {self.slider.value() + 1} of {self.slider.maximum() + 1}"
        self.which.setText(text if self._chosen() else "Prototype")

    def _on_look(self) -> None:
        """Show of all maps only the heatmaps of the chosen class, with the opacity and colours of the controls."""
        self._napari_slider.update()
        chosen, side = self._chosen(), self.both.side
        if self._is_new or side.is_open:
            maps = [each for each in self._viewer.layers if kind(each) in ("heatmap", "uncertainty")]
            for layer in side.heatmaps() if side.is_open else maps:
                layer.visible = layer in chosen
        self._is_new = False
        self._show_masks(not chosen or self.mask.isChecked())
        for layer in chosen:
            layer.opacity = self.opacity.value() / 100
            layer.colormap = self.colormap.currentText()

    def _show_masks(self, shown: bool) -> None:
        """Hide the masks below which a heatmap lies, or show those again that were hidden here."""
        if self.both.side.is_open:
            for mask in self.both.side.masks():
                mask.visible = shown
        elif shown:
            for mask in [each for each in self._viewer.layers if each in self._hidden]:
                mask.visible = True
            self._hidden = []
        else:
            visible = [each for each in self._viewer.layers if kind(each) == "labels" and each.visible]
            self._hidden += visible
            for mask in visible:
                mask.visible = False


def _is_on(layer: Layer, slide: str) -> bool:
    return bool(layer.metadata[KEY]["slide"] == slide)
