"""The Predict widget: a model, a slide, this view or all of it: masks, heatmaps and areas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import (
    QFileDialog,
    QHeaderView,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_lpd.checkpoint import read_card
from napari_lpd.config import PredictSettings
from napari_lpd.errors import DataError, ExportError, LpdError, ModelError
from napari_lpd.export import write_ome_tiff
from napari_lpd.gui._classes import swatch
from napari_lpd.gui._forms import SettingsForm
from napari_lpd.gui._inference import ModelCache, predict_job
from napari_lpd.gui._job import JobBar
from napari_lpd.gui._layers import show_prediction, shown_prediction, slide_of, visible_box_um
from napari_lpd.gui._layout import Column, advanced, buttons, chooser, in_row, note
from napari_lpd.gui._models import recent_models
from napari_lpd.gui._regions import regions_layers, selected_box_um
from napari_lpd.gui._slides import SlidePicker
from napari_lpd.samples import model_path

if TYPE_CHECKING:
    import napari.viewer

    from napari_lpd.prediction import Prediction

    Box = tuple[float, float, float, float]

VIEW, WHOLE, REGIONS = "this view", "whole slide", "around the selected regions"


class PredictWidget(QWidget):
    """Predict a view, regions or a whole slide; show areas; export."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._models = ModelCache()
        self._target: Any = None

        self.slides = SlidePicker(viewer)
        self.model = chooser()
        self.card = note("")
        self.scope = chooser([VIEW, WHOLE, REGIONS])
        self.form = SettingsForm(PredictSettings())
        self.job = JobBar("Predict")
        self.table = QTableWidget(0, 3)
        self.total = note("")

        self._lay_out()
        self._connect()
        self._fill_models()
        self._show_areas()

    def _lay_out(self) -> None:
        self.table.setHorizontalHeaderLabels(["tissue", "mm²", "%"])
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.table.verticalHeader().setVisible(False)
        self.table.verticalHeader().setDefaultSectionSize(24)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
        browse = buttons(("Browse…", "Open a model file (.safetensors)", self._on_browse))
        row = in_row([self.model, browse])
        row.layout().setStretch(0, 1)
        column = Column()
        column.add(self.slides, title="Slide")
        column.add(row, self.card, title="Model")
        column.add(self.scope, advanced(self.form), self.job, title="Where")
        column.add(
            self.table,
            self.total,
            buttons(("Export…", "Mask as OME-TIFF, or all of it as a folder (.zarr)", self._on_export)),
            note("Research use only; not for diagnosis."),
            title="Areas",
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(column)

    def _connect(self) -> None:
        self.slides.changed.connect(self._show_areas)
        self.model.currentIndexChanged.connect(self._show_card)
        self.job.asked.connect(self._on_predict)
        self.job.runner.succeeded.connect(self._on_predicted)
        recent_models.changed.connect(self._fill_models)

    def use_model(self, path: Path) -> None:
        """Choose a model file and remember it."""
        read_card(path)
        recent_models.add(path)

    def _fill_models(self, chosen: str = "") -> None:
        self.model.blockSignals(True)
        self.model.clear()
        for path in recent_models.paths():
            sample = path == model_path()
            self.model.addItem("sample model (skin)" if sample else f"{path.parent.name}/{path.name}", str(path))
            self.model.setItemData(self.model.count() - 1, str(path), 3)  # 3: tooltip
        self.model.setCurrentIndex(max(0, self.model.findData(chosen)))
        self.model.blockSignals(False)
        self._show_card()

    def _model_path(self) -> Path:
        if self.model.currentIndex() < 0:
            raise ModelError("no model yet: train one, or press Browse…")
        return Path(self.model.currentData())

    def _show_card(self) -> None:
        try:
            card = read_card(self._model_path())
        except LpdError as error:
            self.card.setText(str(error))
            return
        names = ", ".join(tissue.name for tissue in card.classes)
        recall = card.metrics.get("mean recall")
        checked = "not checked" if recall is None else f"mean recall {recall:.2f} on check regions"
        self.card.setText(f"{names}\n{card.settings.mpp:g} µm per pixel · {card.tiles} tiles · {checked}")

    def _on_browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Model", "", "Models (*.safetensors)")
        if path:
            with self.job.reporting():
                self.use_model(Path(path))

    def _box(self) -> Box | None:
        layer = self.slides.layer()
        if self.scope.currentText() == WHOLE:
            return None
        if self.scope.currentText() == VIEW:
            return visible_box_um(self._viewer, layer)
        for shapes in regions_layers(self._viewer):
            if shapes.selected_data:
                return selected_box_um(shapes, layer)
        raise DataError("no region is selected: select a shape in a Shapes layer, or predict this view")

    def _on_predict(self) -> None:
        with self.job.reporting():
            layer, path, settings = self.slides.layer(), self._model_path(), self.form.value()
            slide, box = slide_of(layer), self._box()
            self._target = layer
            self.job.start(lambda: predict_job(slide, self._models, path, settings, box))

    def _on_predicted(self, prediction: Prediction) -> None:
        present = self._target in self._viewer.layers
        show_prediction(self._viewer, prediction, self._target if present else None)
        read_at = f"read at {prediction.mpp:g} µm per pixel; the slide has {prediction.slide_mpp[1]:.4g}"
        self.job.say(f"Done, {read_at}.")
        self._show_areas()

    def _shown(self) -> Prediction | None:
        layer = self.slides.find()
        return None if layer is None else shown_prediction(self._viewer, layer.name) or shown_prediction(self._viewer)

    def _show_areas(self) -> None:
        prediction = self._shown()
        areas = {} if prediction is None else prediction.area_mm2()
        classes = () if prediction is None else prediction.classes
        self.table.setRowCount(len(areas))
        labelled = sum(areas.values())
        for row, tissue in enumerate(classes):
            area = areas[tissue.name]
            share = 100 * area / labelled if labelled else 0.0
            for column, text in enumerate((tissue.name, f"{area:.3f}", f"{share:.1f}")):
                self.table.setItem(row, column, QTableWidgetItem(text))
            self.table.item(row, 0).setIcon(swatch(tissue.color))
        self.table.setVisible(bool(areas))
        rows = sum(self.table.rowHeight(row) for row in range(len(areas)))
        self.table.setFixedHeight(self.table.horizontalHeader().sizeHint().height() + rows + 6)
        self.total.setText(f"of {labelled:.3f} mm² labelled" if areas else "Nothing predicted yet.")

    def _on_export(self) -> None:
        with self.job.reporting():
            prediction = self._shown()
            if prediction is None:
                raise ExportError("nothing to export yet: press Predict first")
            name = f"{Path(prediction.slide).stem}.ome.tif"
            kinds = "Mask (*.ome.tif);;Everything, for napari-lpd (*.zarr)"
            path, chosen = QFileDialog.getSaveFileName(self, "Export", name, kinds)
            if path:
                self.job.say(f"Written: {export(prediction, Path(path), chosen)}")


def export(prediction: Prediction, path: Path, chosen: str = "") -> Path:
    """Write a prediction in the form that the file's name, else the dialog's choice, asks for."""
    if path.suffix == ".zarr" or (not path.suffix and ".zarr" in chosen):
        return prediction.save(path.with_suffix(".zarr"))
    return write_ome_tiff(prediction, path if path.suffix else path.with_name(f"{path.name}.ome.tif"))
