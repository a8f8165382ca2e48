"""The Explore widget: what every prototype of a class has learned, one heatmap at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QSlider, QVBoxLayout, QWidget

from napari_lpd.gui._layers import KEY, kind

if TYPE_CHECKING:
    import napari

COLORMAPS = ("magma", "viridis", "inferno", "turbo")


class ExploreWidget(QWidget):
    """Choose a class; the slider goes through its prototypes' heatmaps."""

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.class_box = QComboBox()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.opacity = QSlider(Qt.Orientation.Horizontal)
        self.opacity.setRange(0, 100)
        self.opacity.setValue(70)
        self.colormap_box = QComboBox()
        self.colormap_box.addItems(COLORMAPS)
        self.status = QLabel(wordWrap=True)
        rows = QFormLayout()
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow("Tissue", self.class_box)
        rows.addRow("Prototype", self.slider)
        rows.addRow("Opacity", self.opacity)
        rows.addRow("Colours", self.colormap_box)
        layout = QVBoxLayout(self)
        layout.addLayout(rows)
        layout.addWidget(self.status)
        layout.addStretch(1)
        self.class_box.currentTextChanged.connect(self._on_class)
        self.slider.valueChanged.connect(self._on_prototype)
        self.opacity.valueChanged.connect(self._on_look)
        self.colormap_box.currentTextChanged.connect(self._on_look)
        viewer.layers.events.inserted.connect(self.refresh)
        viewer.layers.events.removed.connect(self.refresh)
        viewer.dims.events.current_step.connect(self._on_dims)
        self.refresh()

    def heatmaps(self) -> dict[str, Image]:
        """The heatmap layers by tissue name."""
        return {layer.metadata[KEY]["class"]: layer for layer in self._viewer.layers if kind(layer) == "heatmap"}

    def refresh(self, _: object = None) -> None:
        """List the classes that have heatmaps."""
        chosen = self.class_box.currentText()
        self.class_box.blockSignals(True)
        self.class_box.clear()
        self.class_box.addItems(["(mask only)", *self.heatmaps()])
        self.class_box.setCurrentIndex(max(self.class_box.findText(chosen), 0))
        self.class_box.blockSignals(False)
        if not self.heatmaps():
            self.status.setText("No heatmaps yet: run Predict, or open a saved prediction.")
        self._on_class(self.class_box.currentText())

    def show_class(self, name: str) -> None:
        """Choose a tissue by name."""
        self.class_box.setCurrentText(name)

    def _on_class(self, name: str) -> None:
        for tissue, layer in self.heatmaps().items():
            layer.visible = tissue == name
        layer = self.heatmaps().get(name)
        if layer is not None:
            self.slider.setRange(0, layer.data.shape[0] - 1)
            self._on_look()
            self._on_prototype(self.slider.value())
        elif self.heatmaps():
            self.status.setText("Choose a tissue to see where each of its prototypes responds.")

    def _on_prototype(self, index: int) -> None:
        layer = self.heatmaps().get(self.class_box.currentText())
        if layer is None:
            return
        self._viewer.dims.set_current_step(0, index)
        values = layer.data[index]
        self.status.setText(
            f"Prototype {index + 1} of {layer.data.shape[0]} of {self.class_box.currentText()}:"
            f" cosine {_cosine(values.mean()):.2f} on average, {_cosine(values.max()):.2f} at most."
        )

    def _on_dims(self, _: object = None) -> None:
        if self._viewer.dims.ndim == 3:
            self.slider.setValue(int(self._viewer.dims.current_step[0]))

    def _on_look(self, _: object = None) -> None:
        for layer in self.heatmaps().values():
            layer.opacity = self.opacity.value() / 100
            layer.colormap = self.colormap_box.currentText()


def _cosine(value: float) -> float:
    return float(value) / 255 * 2 - 1
