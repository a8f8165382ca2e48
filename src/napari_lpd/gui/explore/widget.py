"""The Explore widget: heatmaps of the prototypes on the slide, and comparison of two models."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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
from napari_lpd.gui.layers.slides import kind
from napari_lpd.gui.trust.check import TrustCheck

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image

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


class ExploreWidget(DockWidget):
    """Widget to browse the prototypes of a class; layers are unchanged until a class is chosen."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._alone = _Controls(NONE, 0, 0)

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

    def _heatmaps(self) -> list[Image]:
        return [layer for layer in self._viewer.layers if kind(layer) == "heatmap"]

    def _chosen(self) -> list[Image]:
        """Return the heatmaps that the controls act on: the layer of the class, or both models' side by side."""
        index = self.tissue.currentIndex() - 1
        if index < 0:
            return []
        return self.both.side.heatmaps(index) if self.both.side.is_open else self._heatmaps()[index : index + 1]

    def _names(self) -> list[str]:
        if self.both.side.is_open:
            return self.both.side.classes()
        metadata = [layer.metadata[KEY] for layer in self._heatmaps()]
        several = len({m["slide"] for m in metadata}) > 1
        return [f"{m['class']} ({m['named']})" if several else m["class"] for m in metadata]

    def _axis(self) -> int:
        return int(self._viewer.dims.ndim) - 3

    def _fill(self) -> None:
        if not self.both.side.changing:
            self._list_classes(self.tissue.currentText())
            if self._chosen():
                self._on_tissue()

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
        if not self.both.side.changing and self._chosen():
            self.slider.setValue(int(self._viewer.dims.current_step[self._axis()]))

    def _name_prototype(self) -> None:
        text = f"Prototype {self.slider.value() + 1} of {self.slider.maximum() + 1}"
        self.which.setText(text if self._chosen() else "Prototype")

    def _on_look(self) -> None:
        """Show only the heatmaps of the chosen class, with the opacity and colours of the controls."""
        self._napari_slider.update()
        chosen, side = self._chosen(), self.both.side
        labels = [layer for layer in self._viewer.layers if kind(layer) == "labels"]
        for layer in side.heatmaps() if side.is_open else self._heatmaps():
            layer.visible = layer in chosen
        for layer in side.masks() if side.is_open else labels:
            layer.visible = not chosen or self.mask.isChecked()
        for layer in chosen:
            layer.opacity = self.opacity.value() / 100
            layer.colormap = self.colormap.currentText()
