"""The Predict widget: one press gives tissue on the slide, and its areas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Shapes
from napari.utils.notifications import show_info
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QProgressBar,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_lpd.checkpoint import read_card
from napari_lpd.config import PredictSettings
from napari_lpd.errors import DataError, LpdError
from napari_lpd.gui._forms import SettingsForm
from napari_lpd.gui._job import JobRunner
from napari_lpd.gui._layers import show_prediction, slide_layers, slide_of, visible_box_um
from napari_lpd.gui._models import recent_models

if TYPE_CHECKING:
    import napari

    from napari_lpd.jobs import Job, Progress
    from napari_lpd.prediction import Prediction

VIEW, REGIONS, WHOLE = "what the view shows", "selected shape", "whole slide"
Box = tuple[float, float, float, float]


class PredictWidget(QWidget):
    """Choose slide, model and scope; Predict; read the areas; export the mask."""

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._runner = JobRunner(self)
        self._loaded: tuple[Path, Any] | None = None
        self.prediction: Prediction | None = None

        self.slide_box = QComboBox()
        self.mpp_box = QDoubleSpinBox(decimals=4, minimum=0, maximum=20, singleStep=0.01)
        self.mpp_box.setSpecialValueText("from the slide")
        self.mpp_box.setToolTip("µm per pixel of the slide; enter it when the file gives none.")
        self.model_box = QComboBox()
        self.card_label = QLabel(wordWrap=True)
        self.scope_box = QComboBox()
        self.scope_box.addItems([VIEW, REGIONS, WHOLE])
        self.form = SettingsForm(PredictSettings())
        self.run_button = QPushButton("Predict")
        self.bar = QProgressBar()
        self.status = QLabel("Open a slide, then press Predict.", wordWrap=True)
        self.areas = QTableWidget(0, 3)
        self.export_button = QPushButton("Export mask…")
        self._lay_out()
        self._connect()
        self.refresh_slides()
        self.refresh_models()

    def _lay_out(self) -> None:
        browse = QPushButton("…", toolTip="Choose a model file")
        browse.setMaximumWidth(32)
        browse.clicked.connect(self._on_browse)
        model_row = QHBoxLayout()
        model_row.addWidget(self.model_box, 1)
        model_row.addWidget(browse)
        rows = QFormLayout()
        rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        rows.addRow("Slide", self.slide_box)
        rows.addRow("µm per pixel", self.mpp_box)
        rows.addRow("Model", model_row)
        rows.addRow("", self.card_label)
        rows.addRow("Where", self.scope_box)
        advanced = QCollapsible("Advanced")
        advanced.addWidget(self.form)
        self.areas.setHorizontalHeaderLabels(["tissue", "mm²", "% of tissue"])
        self.areas.verticalHeader().hide()
        self.areas.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.areas.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.bar.setTextVisible(True)
        for box in (self.slide_box, self.model_box):
            box.setMinimumContentsLength(12)
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        layout = QVBoxLayout(self)
        layout.addLayout(rows)
        layout.addWidget(advanced)
        for widget in (self.run_button, self.bar, self.status, self.areas, self.export_button):
            layout.addWidget(widget)
        layout.addWidget(QLabel("<i>Research use only; not for diagnosis.</i>"))
        layout.addStretch(1)

    def _connect(self) -> None:
        self.run_button.clicked.connect(self._on_run)
        self.export_button.clicked.connect(self._on_export)
        self.model_box.currentIndexChanged.connect(self._show_card)
        self._viewer.layers.events.inserted.connect(self.refresh_slides)
        self._viewer.layers.events.removed.connect(self.refresh_slides)
        recent_models.changed.connect(self.refresh_models)
        self._runner.progressed.connect(self._on_progress)
        self._runner.succeeded.connect(self.show_result)
        self._runner.failed.connect(self.status.setText)
        self._runner.ended.connect(self._on_ended)

    def refresh_slides(self, _: object = None) -> None:
        """List the layers that can serve as a slide."""
        chosen = self.slide_box.currentText()
        self.slide_box.clear()
        self.slide_box.addItems([layer.name for layer in slide_layers(self._viewer)])
        self.slide_box.setCurrentIndex(max(self.slide_box.findText(chosen), 0))

    def refresh_models(self, newest: str = "") -> None:
        """List the known models, newest first."""
        chosen = newest or self.model_box.currentData()
        self.model_box.clear()
        for path in recent_models.paths():
            self.model_box.addItem(f"{path.parent.name}/{path.name}", str(path))
        self.model_box.setCurrentIndex(max(self.model_box.findData(chosen), 0))

    def _show_card(self) -> None:
        path = self.model_box.currentData()
        if not path:
            return
        try:
            card = read_card(Path(path))
        except LpdError as error:
            self.card_label.setText(str(error))
            return
        names = ", ".join(tissue.name for tissue in card.classes)
        model = card.settings.model
        recall = card.metrics.get("mean recall")
        checked = f"; mean recall {recall:.2f} on its check regions" if recall else ""
        self.card_label.setText(
            f"{names} at {card.settings.mpp:g} µm/px; {model.prototypes_per_class} prototypes each,"
            f" {model.encoder}, {card.tiles} tiles{checked}"
        )
        self.card_label.setToolTip(str(path))

    def _slide_layer(self) -> Image:
        layers = {layer.name: layer for layer in slide_layers(self._viewer)}
        name = self.slide_box.currentText()
        if name not in layers:
            raise DataError("no slide is open: open one, or take File ▸ Open Sample ▸ LPD tissue segmentation")
        return layers[name]

    def _box_um(self, layer: Image, mpp: tuple[float, float]) -> Box | None:
        if self.scope_box.currentText() == WHOLE:
            return None
        if self.scope_box.currentText() == VIEW:
            return visible_box_um(layer, mpp)
        shapes = self._viewer.layers.selection.active
        if not isinstance(shapes, Shapes) or not shapes.selected_data:
            raise DataError("no shape is selected: select one in a Shapes layer, or predict the view")
        vertices = shapes.data[next(iter(shapes.selected_data))]
        pixels = [layer.world_to_data(shapes.data_to_world(vertex)) for vertex in vertices]
        ys, xs = zip(*((p[-2] + 0.5, p[-1] + 0.5) for p in pixels), strict=True)
        return min(ys) * mpp[0], min(xs) * mpp[1], max(ys) * mpp[0], max(xs) * mpp[1]

    def _on_run(self) -> None:
        if self._runner.running:
            self.run_button.setText("Stopping…")
            self._runner.stop()
            return
        try:
            layer = self._slide_layer()
            if not self.model_box.currentData():
                raise DataError("no model is chosen: train one, or press … to choose a file")
            mpp = self.mpp_box.value() or None
            with slide_of(layer, mpp) as slide:
                box = self._box_um(layer, slide.mpp)
            settings = self.form.value()
        except LpdError as error:
            self.status.setText(str(error))
            return
        model = Path(self.model_box.currentData())
        self.run_button.setText("Stop")
        self.status.setText("Loading the model…" if self._loaded is None else "Predicting…")
        self._runner.start(lambda: self._job(layer, mpp, model, settings, box))

    def _job(
        self, layer: Image, mpp: float | None, path: Path, settings: PredictSettings, box: Box | None
    ) -> Job[Prediction]:
        """Runs in the worker thread: torch is loaded here, not when the widget opens; the model stays loaded."""
        from napari_lpd.model import load_model
        from napari_lpd.predict import predict_region

        if self._loaded is None or self._loaded[0] != path:
            self._loaded = (path, load_model(path, settings.device))
        with slide_of(layer, mpp) as slide:
            return (yield from predict_region(slide, self._loaded[1], settings, box))

    def _on_progress(self, progress: Progress) -> None:
        self.bar.setMaximum(progress.total)
        self.bar.setValue(progress.done)
        self.status.setText(f"{progress.done} of {progress.total} tiles")

    def show_result(self, prediction: Prediction) -> None:
        """Show a prediction's layers and areas."""
        self.prediction = prediction
        show_prediction(self._viewer, prediction)
        areas = prediction.area_mm2()
        total = sum(areas.values())
        self.areas.setRowCount(len(areas))
        for row, tissue in enumerate(prediction.classes):
            name = QTableWidgetItem(tissue.name)
            name.setData(1, QColor(tissue.color))  # 1 = DecorationRole: a colour swatch
            share = 100 * areas[tissue.name] / total if total else 0.0
            self.areas.setItem(row, 0, name)
            self.areas.setItem(row, 1, QTableWidgetItem(f"{areas[tissue.name]:.3f}"))
            self.areas.setItem(row, 2, QTableWidgetItem(f"{share:.1f}"))
        source = f"{prediction.slide_mpp[0]:g} µm/px ({prediction.mpp_source})"
        self.status.setText(f"Done: {total:.2f} mm² of labelled tissue at {prediction.mpp:g} µm/px; slide {source}.")

    def _on_ended(self) -> None:
        if self.run_button.text() == "Stopping…":
            self.status.setText("Stopped.")
        self.run_button.setText("Predict")
        self.bar.setValue(self.bar.maximum() if self.prediction else 0)

    def _on_browse(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Choose a model", "", "Models (*.safetensors)")
        if name:
            recent_models.add(Path(name))

    def _on_export(self) -> None:
        if self.prediction is None:
            self.status.setText("Nothing to export yet: press Predict first.")
            return
        name, _ = QFileDialog.getSaveFileName(self, "Export mask", "mask.ome.tif", "OME-TIFF (*.ome.tif)")
        if name:
            self.export_to(Path(name))

    def export_to(self, path: Path) -> None:
        """Write the mask of the last prediction as OME-TIFF."""
        from napari_lpd.export import write_ome_tiff

        assert self.prediction is not None
        try:
            show_info(f"Mask written to {write_ome_tiff(self.prediction, path)}")
        except LpdError as error:
            self.status.setText(str(error))
