"""The Explore widget: where each prototype of a class responds on the slide, and which model's cover more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QFormLayout, QLabel, QSlider, QVBoxLayout, QWidget

from napari_lpd.gui._comparing import ComparePanel
from napari_lpd.gui._layers import KEY, kind
from napari_lpd.gui._layout import Column, chooser, note
from napari_lpd.gui._slides import SlidePicker

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image

COLORMAPS = ("magma", "inferno", "viridis", "cividis", "turbo")
ABOUT = (
    "Each class is described by several prototypes, which the model has learned. A heatmap shows the cosine between "
    "one prototype and the tissue: bright is similar."
)


FAIR = (
    "Both models are looked at in the same places: the masks' truth, or where both agree. Controls: random directions. "
    "Research use only; not for diagnosis."
)
NONE = "none: the mask alone"


class ExploreWidget(QWidget):
    """Choose a class, slide through its prototypes. Until a class is chosen, no layer is touched."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer

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

        self._controls = QWidget()
        form = QFormLayout(self._controls)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Class", self.tissue)
        form.addRow(self.which, self.slider)
        form.addRow("Opacity", self.opacity)
        form.addRow("Colours", self.colormap)
        form.addRow("", self.mask)
        column = Column()
        column.add(self._controls, self.missing, note(ABOUT), title="Prototypes")
        self.slides = SlidePicker(viewer)
        self.compare = ComparePanel(viewer, self.slides.layer)
        column.add(self.slides, self.compare, note(FAIR), title="Compare two models")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(column)

        self.tissue.currentIndexChanged.connect(self._on_tissue)
        self.slider.valueChanged.connect(self._on_slider)
        self.opacity.valueChanged.connect(self._on_look)
        self.colormap.currentTextChanged.connect(self._on_look)
        self.mask.toggled.connect(self._on_look)
        viewer.layers.events.inserted.connect(self._fill)
        viewer.layers.events.removed.connect(self._fill)
        viewer.dims.events.current_step.connect(self._on_dims)
        self._fill()

    def show_heatmap(self, index: int) -> None:
        """Show the prototypes of a class, counted from 0, without the mask."""
        self.tissue.setCurrentIndex(index + 1)

    def _heatmaps(self) -> list[Image]:
        return [layer for layer in self._viewer.layers if kind(layer) == "heatmap"]

    def _chosen(self) -> Image | None:
        heatmaps = self._heatmaps()
        index = self.tissue.currentIndex() - 1
        return heatmaps[index] if 0 <= index < len(heatmaps) else None

    def _axis(self) -> int:
        return int(self._viewer.dims.ndim) - 3

    def _fill(self) -> None:
        chosen = self.tissue.currentText()
        heatmaps = self._heatmaps()
        several = len({layer.metadata[KEY]["slide"] for layer in heatmaps}) > 1
        self.tissue.blockSignals(True)
        self.tissue.clear()
        self.tissue.addItem(NONE)
        for layer in heatmaps:
            about = layer.metadata[KEY]
            self.tissue.addItem(f"{about['class']} ({about['slide']})" if several else about["class"])
        self.tissue.setCurrentText(chosen)
        self.tissue.blockSignals(False)
        self._controls.setVisible(bool(heatmaps))
        self.missing.setVisible(not heatmaps)
        if self._chosen() is not None:
            self._on_tissue()

    def _on_tissue(self) -> None:
        chosen = self._chosen()
        if chosen is not None:
            finest = chosen.data[0] if chosen.multiscale else chosen.data
            self.slider.setRange(0, finest.shape[0] - 1)
            self._viewer.dims.set_point(self._axis(), self.slider.value())
        self._name_prototype()
        self._on_look()

    def _on_slider(self, index: int) -> None:
        if self._chosen() is not None:
            self._viewer.dims.set_point(self._axis(), index)
        self._name_prototype()

    def _on_dims(self) -> None:
        if self._chosen() is not None:
            self.slider.setValue(int(self._viewer.dims.current_step[self._axis()]))

    def _name_prototype(self) -> None:
        shown = f"Prototype {self.slider.value() + 1} of {self.slider.maximum() + 1}"
        self.which.setText("Prototype" if self._chosen() is None else shown)

    def _on_look(self) -> None:
        """Show the chosen class's heatmap alone, as the controls say."""
        chosen = self._chosen()
        for layer in self._viewer.layers:
            if kind(layer) == "heatmap":
                layer.visible = layer is chosen
            elif kind(layer) == "labels":
                layer.visible = chosen is None or self.mask.isChecked()
        if chosen is not None:
            chosen.opacity = self.opacity.value() / 100
            chosen.colormap = self.colormap.currentText()
