"""Panel for a prediction: legend and areas, corrections, measures, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QDialog, QDoubleSpinBox, QFileDialog, QMessageBox, QVBoxLayout, QWidget

from napari_lpd.core.errors import DataError, ExportError, LpdError
from napari_lpd.core.files import KEY, refuse_overwrite
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.settings.results import ExportSettings, MarginSettings, MeasureSettings
from napari_lpd.gui.common.job import JobRunner
from napari_lpd.gui.common.layout import OriginChoice, buttons, folded, heading, in_column
from napari_lpd.gui.common.recent_models import kept_measures, remember_measures
from napari_lpd.gui.layers.circles import circle_layers, place_circle
from napari_lpd.gui.layers.regions import polygons_um, regions_layers
from napari_lpd.gui.layers.results import label_colours, labels_of, show_prediction, shown_prediction
from napari_lpd.gui.layers.slides import (
    corner,
    folder_beside,
    home_of,
    kind,
    slide_id,
    slide_of,
    slide_path,
)
from napari_lpd.gui.predict.area_table import AreaTable, RolesDialog
from napari_lpd.gui.predict.correction_bar import CorrectBar, corrections_to_regions
from napari_lpd.gui.predict.result_list import ResultList
from napari_lpd.gui.predict.sure_bar import SureBar
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.export.export import FORMS, ON_SLIDE, export
from napari_lpd.results.measures.areas import MARK, WHOLE, Site, field_around, measure, write_measures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari
    from napari.layers import Image
    from numpy.typing import NDArray

    from napari_lpd.core.settings.results import What
    from napari_lpd.results.measures.areas import MeasureRow
    from napari_lpd.results.prediction import Prediction

DICOM = ".dcm"
CLOSING = "The result is being measured or exported. Close anyway?"


class ResultPanel(QWidget):
    """Panel for the prediction of the chosen slide.

    Args:
        viewer: The viewer.
        slide_layer: Returns the chosen slide's layer; raises LpdError if there is none.

    Signals:
        message: a line for the status.
        failed: an error message.
    """

    message = Signal(str)
    failed = Signal(str)

    def __init__(self, viewer: napari.Viewer, slide_layer: Callable[[], Image]) -> None:
        super().__init__()
        self._viewer, self._slide_layer = viewer, slide_layer
        self.results = ResultList(viewer, self.shown)
        self.areas = AreaTable()
        self.correct = CorrectBar(viewer, slide_layer, self._require_prediction)
        self.sure = SureBar(viewer, slide_layer, self.shown)
        self.simplify, self.origin = QDoubleSpinBox(decimals=1), OriginChoice()
        self.runner = JobRunner(self, CLOSING)
        self.measurer = JobRunner(self)  # measures what is corrected, unasked
        self.rows: list[MeasureRow] = []
        self._listed: tuple[Path, bool] | None = None
        self._measured: Prediction | None = None
        self._again, self._left_out = False, ""
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        measures = buttons(
            (
                "Measure",
                "Measure corrected and expected areas and ratios, also of shapes selected in your own layers",
                self.measure,
            ),
            ("Tumour and stroma…", "Choose what is tumour and stroma, and bands along its border", self._on_roles),
            ("TSR circle", "Add a circle of 3.1 mm² for the tumour-stroma ratio, then move it", self.place),
        )
        exports = buttons(
            (
                "Export…",
                "Export as OME-TIFF, GeoJSON for QuPath, PNG, CSV, DICOM, or everything (.zarr)",
                lambda: self._on_export("labels"),
            ),
            ("Export heatmaps…", "Export the prototypes' heatmaps as OME-TIFF", lambda: self._on_export("prototypes")),
            ("Objects…", "Export connected areas with their measures", lambda: self._on_export("objects")),
        )
        learn = buttons(("Learn from corrections", "Hand the corrected pixels to Train, as strokes", self.to_train))
        self.simplify.setRange(0, 1000)
        self.simplify.setPrefix("Simplify GeoJSON outlines by ")
        self.simplify.setSuffix(" µm")
        self.simplify.setSpecialValueText("GeoJSON outlines not simplified")
        self.simplify.setToolTip("Remove corners that span a triangle smaller than this length squared, without gaps")
        groups = {
            "": (self.results.head, self.results.combo, self.sure, self.areas),
            "Correct": (self.correct, learn),
            "Measure": (measures,),
        }
        groups["Export"] = (exports, folded("More", in_column([self.simplify, self.origin])))
        for title, widgets in groups.items():
            for widget in ((heading(title),) if title else ()) + widgets:
                layout.addWidget(widget)
        self.results.combo.currentIndexChanged.connect(self._on_result)
        self.areas.painted.connect(self._on_painted)
        self.areas.chosen.connect(self._on_chosen)
        self.correct.used.connect(self.areas.choose)
        for bar in (self.sure, self.correct):
            bar.message.connect(self.message)
            bar.failed.connect(self.failed)
        self.sure.made.connect(lambda: self.refresh(anew=True))
        self.correct.applied.connect(lambda _: self.refresh(anew=True))
        self.runner.progressed.connect(lambda progress: self.message.emit(f"{progress.message}…"))
        self.runner.succeeded.connect(self._on_done)
        for runner in (self.runner, self.measurer):
            runner.failed.connect(lambda message: self.message.emit(f"⚠ {message}"))
        self.measurer.succeeded.connect(self._show_rows)
        self.measurer.ended.connect(self._on_measured)

    def shown(self) -> Prediction | None:
        """Return the prediction that is shown on the chosen slide; without a slide, the one that is open."""
        try:
            layer = self._slide_layer()
        except LpdError:
            return shown_prediction(self._viewer)
        return shown_prediction(self._viewer, slide_id(layer))

    def refresh(self, anew: bool = False) -> None:
        """Show the prediction with its corrections; if it is already shown and not `anew`, keep its measures."""
        prediction = self.shown()
        self.origin.follow(() if prediction is None else prediction.card.slide_origin)
        self.results.show(prediction)
        self.correct.show_buttons()
        self.sure.show_result(prediction)
        key = None if prediction is None else (prediction.folder, prediction.finished)
        if key is None or key != self._listed or anew:
            is_corrected = prediction is not None and bool(Corrections(prediction).blocks())
            self.areas.show_prediction(prediction, is_corrected)
            if is_corrected:
                self._measure_corrected()
        self._listed = key

    def _on_result(self) -> None:
        """Show the result that was chosen, above the others."""
        layer = self.results.layer()
        try:
            self.correct.check_applied()
            if layer is not None and layer in self._viewer.layers:
                show_prediction(self._viewer, layer.metadata[KEY]["prediction"], self._slide_layer())
        except LpdError as error:
            self.failed.emit(str(error))
        self.refresh()

    def _measure_corrected(self) -> None:
        """Measure the shown prediction, unasked; once more at the end if it is corrected again in the meantime."""
        prediction = self.shown()
        self._again = self.measurer.running
        if prediction is None or not prediction.finished or self.measurer.running:
            return
        settings, sites = self._measure_arguments(prediction)
        quick = settings.model_copy(update={"margin": MarginSettings()})  # bands take longer
        self.measurer.start(lambda: measure(prediction, quick, sites))
        self._measured = prediction

    def _on_measured(self) -> None:
        if self._again or self._measured is not self.shown():
            self._measured = self.shown()
            self._measure_corrected()

    def _require_prediction(self) -> Prediction:
        prediction = self.shown()
        if prediction is not None:
            return prediction
        other = shown_prediction(self._viewer)
        if other is None:
            raise ExportError("no prediction yet: press Predict first")
        raise DataError(
            f"{other.folder.name} is a result of {other.card.slide}, not of {self._slide_layer().name}:"
            " choose that slide above"
        )

    def _checked_prediction(self) -> Prediction:
        """Return the prediction to measure or export; raise DataError while it is being corrected."""
        self.correct.check_applied()
        return self._require_prediction()

    def _on_painted(self, strength: dict[str, float]) -> None:
        prediction = self.shown()
        if prediction is not None:
            for layer in labels_of(self._viewer, prediction):
                layer.colormap = label_colours(prediction.card.classes, strength)["colormap"]

    def _on_chosen(self, label: int) -> None:
        """Paint with the class that was clicked, now or when the mask is corrected; offer more or less of it."""
        self.correct.use(label)
        prediction = self.shown()
        self.sure.show_tissue("" if prediction is None else prediction.card.classes[label - 1].name)

    # Measure

    def measure(self) -> None:
        """Measure the prediction, its TSR circles and the selected shapes in a thread."""
        try:
            prediction = self._checked_prediction()
            arguments = self._measure_arguments(prediction)
            self.runner.start(lambda: measure(prediction, *arguments))
            self._measured = prediction
        except LpdError as error:
            self.failed.emit(str(error))

    def _measure_arguments(self, prediction: Prediction) -> tuple[MeasureSettings, list[Site]]:
        return kept_measures([tissue.name for tissue in prediction.card.classes]), self._sites(prediction)

    def _sites(self, prediction: Prediction) -> list[Site]:
        """List the sites to measure: the whole, TSR circles, and shapes selected in layers of the user's own."""
        self._left_out = ""
        sites = [Site("predicted area" if prediction.card.scope else WHOLE)]
        try:
            layer = self._slide_layer()
        except LpdError:  # a result without its slide is open
            return sites
        mpp, (h, w) = np.array(prediction.card.slide_mpp), prediction.card.slide_shape
        slide = shapely.box(0, 0, w, h)
        for fields in circle_layers(self._viewer, layer):
            start = corner(home_of(fields, layer))
            for y, x in (
                np.array([fields.data_to_world(centre) for centre in fields.data]).reshape(-1, 2) - start
            ) / mpp:
                site = field_around(x, y, prediction.card.slide_mpp)
                if shapely.covers(slide, site.geometry):
                    sites.append(site)
                else:
                    self._left_out = (
                        f" ⚠ A circle is not measured, as it reaches outside {prediction.card.slide}: move it."
                    )
        for shapes in regions_layers(self._viewer, layer):
            if shapes.selected_data and kind(shapes) != "regions":
                chosen = polygons_um(shapes, layer, selected=True)
                sites += [
                    Site(f"{shapes.name} {i}", _scaled(polygon, 1 / mpp)) for i, polygon in enumerate(chosen, start=1)
                ]
        return sites

    def place(self) -> None:
        """Add a TSR circle of 3.1 mm² in the middle of the view, which can be moved, but not resized."""
        try:
            layer, _ = self._slide_layer(), self._require_prediction()
            place_circle(self._viewer, layer)
        except LpdError as error:
            self.failed.emit(str(error))
            return
        self.message.emit("Move the circle so that there is tumour on all its sides, then press Measure.")

    def _on_roles(self) -> None:
        try:
            classes = self._require_prediction().card.classes
        except LpdError as error:
            self.failed.emit(str(error))
            return
        names = [tissue.name for tissue in classes]
        dialog = RolesDialog(self, classes, kept_measures(names))
        if dialog.exec() == QDialog.DialogCode.Accepted:
            self.measure_by(dialog.settings)

    def measure_by(self, settings: MeasureSettings) -> None:
        """Store how results with these classes are measured, and measure."""
        remember_measures([tissue.name for tissue in self._require_prediction().card.classes], settings)
        self.measure()

    def to_train(self) -> None:
        """Add the corrections to the training regions."""
        try:
            self.message.emit(corrections_to_regions(self._viewer, self._slide_layer(), self._checked_prediction()))
        except LpdError as error:
            self.failed.emit(str(error))

    # Export

    def _on_export(self, what: What) -> None:
        try:
            prediction = self._checked_prediction()
        except LpdError as error:
            self.failed.emit(str(error))
            return
        try:
            layer: Image | None = self._slide_layer()
        except LpdError:  # a result without its slide is open
            layer = None
        name = folder_beside(layer) / Path(prediction.card.slide).stem  # the ending is that of the chosen form
        path, chosen = QFileDialog.getSaveFileName(self, "Export", str(name), ";;".join(_forms(what, layer)))
        if not path:
            return
        suffix = chosen.rpartition("*")[2].rstrip(")")
        known = tuple(ending for endings in FORMS[what] for ending in endings)
        target = Path(path if path.lower().endswith(known) else f"{path}{suffix}")
        confirmed = target == Path(path) and not target.is_dir()  # by the dialog, for this name
        if confirmed or not target.exists() or self._may_replace(target):
            self.export(target, what, overwrite=True)

    def _may_replace(self, path: Path) -> bool:
        buttons = QMessageBox.StandardButton
        question = f"{path} exists. Replace it?"
        return QMessageBox.question(self, "Export", question, buttons.Yes | buttons.No) == buttons.Yes

    def export(self, path: Path, what: What = "labels", overwrite: bool = False) -> None:
        """Export the prediction in the format of the suffix, in a thread; `overwrite`: replace an existing file."""
        try:
            prediction = self._checked_prediction()
            simplify, origin = self.simplify.value() if path.suffix == ".geojson" else 0.0, self.origin.value()
            by, sites = self._measure_arguments(prediction)
            settings = ExportSettings(what=what, overwrite=overwrite, simplify_um=simplify, origin=origin, measure=by)
            if path.suffix == ".csv" and what == "labels":
                self.runner.start(lambda: _csv_job(prediction, path, overwrite, by, sites))
            elif path.suffix in ON_SLIDE:
                layer = self._slide_layer()
                self.runner.start(lambda: _export_on_slide(prediction, path, settings, layer))
            else:
                self.runner.start(lambda: export(prediction, path, settings))
        except LpdError as error:
            self.failed.emit(str(error))

    def _on_done(self, result: Path | Sequence[MeasureRow]) -> None:
        if isinstance(result, Path):
            self.message.emit(f"Written: {result}")
            return
        self._show_rows(result)
        self.message.emit(f"Measured.{self._left_out}")

    def _show_rows(self, rows: Sequence[MeasureRow]) -> None:
        """Show measures, unless another result is shown by now."""
        measured, shown = self._measured, self.shown()
        if measured is not None and shown is not None and measured.folder == shown.folder:
            self.rows = list(rows)
            self.areas.show_measures(self.rows)


def _forms(what: What, layer: Image | None) -> list[str]:
    """List the forms to export in, as filters of a file dialog; DICOM for DICOM slides only."""
    path = None if layer is None else slide_path(layer)
    dicom = path is not None and (path.is_dir() or path.suffix.lower() == DICOM)
    forms = [(suffixes[0], text) for suffixes, text in FORMS[what].items() if dicom or suffixes[0] != DICOM]
    return [f"{text[0].upper()}{text[1:]} (*{suffix})" for suffix, text in forms]


def _csv_job(
    prediction: Prediction, path: Path, overwrite: bool, settings: MeasureSettings, sites: Sequence[Site]
) -> Job[Path]:
    refuse_overwrite(path, overwrite, MARK)
    rows = yield from measure(prediction, settings, sites)
    return write_measures(rows, path, overwrite)


def _export_on_slide(prediction: Prediction, path: Path, settings: ExportSettings, layer: Image) -> Job[Path]:
    yield Progress(0, 0, f"writing {path.name}")
    with slide_of(layer) as slide:
        return (yield from export(prediction, path, settings, slide))


def _scaled(polygon: shapely.Geometry, factor: NDArray[np.float64]) -> shapely.Geometry:
    return shapely.transform(polygon, lambda corners: corners * factor[::-1])
