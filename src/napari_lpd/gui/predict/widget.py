"""The Predict widget: segment a view, regions or a whole slide; show masks, heatmaps and areas."""

from __future__ import annotations

import gc
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Labels, Shapes
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog, QVBoxLayout

from napari_lpd.core.errors import NOTICE, DataError, SettingsError
from napari_lpd.core.files import KEY
from napari_lpd.core.jobs import WARNING, Progress
from napari_lpd.core.settings.base import read_settings, write_settings
from napari_lpd.core.settings.prediction import LabelSettings, PredictSettings
from napari_lpd.gui.common.dock import DockWidget
from napari_lpd.gui.common.forms import SettingsForm
from napari_lpd.gui.common.job import JobBar, JobRunner
from napari_lpd.gui.common.layer_box import LayerBox
from napari_lpd.gui.common.layout import (
    Column,
    advanced,
    buttons,
    chooser,
    folded,
    foot,
    in_column,
    in_row,
    note,
    primary,
    warning_note,
)
from napari_lpd.gui.common.prediction_run import tissue_job
from napari_lpd.gui.common.slide_picker import SlidePicker
from napari_lpd.gui.layers.prototype_slider import PrototypeSlider
from napari_lpd.gui.layers.regions import REGIONS, VIEW, WHOLE, chosen_scope, polygons_um
from napari_lpd.gui.layers.results import parts_shown, show_tissue, shown_prediction
from napari_lpd.gui.layers.slides import UM, Shown, belongs, corner, folder_beside, home_of, kind, slide_id, slide_of
from napari_lpd.gui.predict.correction_bar import RESULTS, corrections_path
from napari_lpd.gui.predict.live_prediction import LivePrediction, drawing
from napari_lpd.gui.predict.model_picker import ModelPicker
from napari_lpd.gui.predict.result_panel import ResultPanel
from napari_lpd.models.card import read_card
from napari_lpd.slides.tissue import mask_of_labels, mask_of_polygons

if TYPE_CHECKING:
    from collections.abc import Iterator

    import napari.viewer
    from napari.layers import Image, Layer

    from napari_lpd.gui.common.prediction_run import MakeMask
    from napari_lpd.results.card import PredictionCard
    from napari_lpd.results.prediction import Prediction
    from napari_lpd.slides.tissue import TissueMask

TISSUE_ONLY, WHOLE_AREA = "tissue only (automatic)", "whole area, including glass"
CLOSING = (
    "The slide is being segmented. Close anyway? What is done of a whole slide is kept; Predict continues from there."
)
DRAW_MS = 40  # between two steps of drawing, so that napari stays responsive
SEVERAL = (760, 640)  # pixels of the window for several slides
DRAWN = object()  # marks the end of the drawing
_views: dict[int, tempfile.TemporaryDirectory[str]] = {}


def views_folder(viewer: napari.viewer.Viewer) -> Path:
    """Return the folder for results of views and regions, which is deleted with the viewer or when Python exits."""
    viewer = getattr(viewer, "__wrapped__", viewer)  # plugins are handed a proxy
    key = id(viewer)
    if key not in _views:
        _views[key] = tempfile.TemporaryDirectory(prefix="napari-lpd-")
        weakref.finalize(viewer, lambda: _views.pop(key).cleanup())
    return Path(_views[key].name)


class PredictWidget(DockWidget):
    """Widget to segment a view, regions or a whole slide, show areas and export."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._run: LivePrediction | None = None
        self._drawing: Iterator[None] | None = None
        self._drawer = QTimer(self)
        self._target: Any = None
        self._shown_slide: Any = ()  # layer, scale and units that the texts describe
        self._out: Path | None = None
        self._views = views_folder(viewer)

        self.slides = SlidePicker(viewer)
        self.model = ModelPicker(self.slides.find)
        self.scope = chooser([VIEW, WHOLE, REGIONS])
        self._masks: LayerBox[Layer] = LayerBox(TISSUE_ONLY, WHOLE_AREA)
        self.tissue = self._masks.combo
        self.results = note("")
        self.warning = warning_note()
        self.form = SettingsForm(PredictSettings(), without=("tissue_only", *LabelSettings.names("labels.")))
        self.job = JobBar("Predict", question=CLOSING)
        self.previewer = JobRunner(self)
        self.panel = ResultPanel(viewer, self.slides.layer)
        self._slider = PrototypeSlider(viewer, self)

        self._lay_out()
        self._connect()
        self._fill_tissue()
        self._on_slide()

    def _lay_out(self) -> None:
        preview = buttons(("Preview", "Show the tissue mask without predicting", self._on_preview))
        tissue = in_row([self.tissue, preview])
        choose = ("Choose…", "Choose another folder for the results of whole slides", self._on_choose)
        results = in_row([self.results, buttons(choose)])
        for row in (tissue, results):
            row.layout().setStretch(0, 1)
        settings = buttons(
            ("Load…", "Settings from a JSON file", self._on_load),
            ("Save…", "Settings as a JSON file, with which the command line gives the same mask", self._on_save),
        )
        several = (
            "Several slides…",
            "Segment a list or a folder of slides with this model, overnight",
            self._on_several,
        )
        more = folded(
            "More", in_column([buttons(several), tissue, results, advanced(in_column([self.form, settings]))])
        )
        column = Column()
        column.add(self.slides, title="Slide")
        column.add(self.model, title="Model")
        column.add(self.scope, more, title="Area to segment")
        column.add(self.panel, note(NOTICE))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(column)
        layout.addWidget(foot(self.warning, self.job))
        primary(self.job.button)

    def _connect(self) -> None:
        self.undocked.connect(self.panel.correct.put_down)
        self.undocked.connect(self._slider.leave)
        self.slides.changed.connect(self._on_slide)
        self.panel.message.connect(self.job.say)
        self.panel.failed.connect(self._on_panel_failed)
        self.model.failed.connect(self._on_panel_failed)
        self.scope.currentIndexChanged.connect(self._show_results)
        self.job.asked.connect(self._on_predict)
        self.job.runner.progressed.connect(self._on_progressed)
        self.job.runner.succeeded.connect(self._on_predicted)
        self.job.runner.ended.connect(self._on_ended)
        self._drawer.setInterval(DRAW_MS)
        self._drawer.timeout.connect(self._draw)
        self.previewer.progressed.connect(lambda progress: self.job.say(f"{progress.message}…"))
        self.previewer.succeeded.connect(self._on_preview_made)
        self.previewer.failed.connect(lambda message: self.job.say(f"⚠ {message}"))
        for event in ("inserted", "removed", "renamed"):
            getattr(self._viewer.layers.events, event).connect(self._fill_tissue)
        self._viewer.layers.events.removing.connect(self._on_removing)
        self.destroyed.connect(gc.unfreeze)

    def predict_view_with(self, model: Path) -> None:
        """Choose a model and segment the view."""
        self.model.use(model)
        self.scope.setCurrentText(VIEW)
        self._on_predict()

    def _on_removing(self) -> None:
        """Unfreeze objects before napari collects garbage (see `live_prediction`)."""
        if not self.job.runner.running:
            gc.unfreeze()

    # Slide, tissue mask and results folder

    def _on_slide(self) -> None:
        layer = self.slides.find()
        slide = None if layer is None else (layer, tuple(layer.scale), tuple(layer.units))
        if slide != self._shown_slide:  # this is also called for every layer that is added or removed
            self._shown_slide = slide
            self.model.refresh()
            self._show_results()
            self._fill_tissue()
            if not self.job.runner.running:
                self.job.say("")  # what is there is of the slide before
            self._show_warning()
        self.panel.refresh()

    def _fill_tissue(self) -> None:
        """List the layers that can be the chosen slide's tissue: none of another slide's."""
        slide = self.slides.find()
        layers = [each for each in self._viewer.layers
                  if isinstance(each, Labels | Shapes) and kind(each) not in ("labels", "regions")]  # fmt: skip
        if slide is not None:
            layers = [each for each in layers if "slide" not in each.metadata.get(KEY, {}) or belongs(each, slide)]
        self._masks.fill(layers)

    def _make_mask(self, slide_layer: Image) -> MakeMask:
        """Return the function that makes the chosen tissue mask in the thread."""
        layer = self._masks.layer()
        if layer is None:
            return lambda _: None
        if isinstance(layer, Shapes):
            polygons = polygons_um(layer, slide_layer)
            return lambda slide: mask_of_polygons(polygons, slide)
        if any(str(unit) != UM for unit in layer.units) or layer.ndim != 2:
            raise DataError(f"{layer.name}: a tissue mask must be 2-d, on the slide, and in micrometres")
        labels = layer.data[0] if layer.multiscale else layer.data.copy()
        home = home_of(layer, slide_layer)
        mpp, start = (float(layer.scale[0]), float(layer.scale[1])), corner(layer) - corner(home)
        return lambda slide: mask_of_labels(labels, mpp, (float(start[0]), float(start[1])), slide)

    def _results_folder(self) -> Path:
        """Return the results folder: the user's choice, else beside the slide, for samples in the home folder."""
        return self._out or folder_beside(self.slides.find()) / RESULTS

    def _place(self, card: PredictionCard) -> Path:
        folder = self._views if card.scope else self._results_folder()
        return folder / f"{Path(card.slide).stem}-{card.digest}.zarr"

    def _show_results(self) -> None:
        temporary = self.scope.currentText() != WHOLE
        self.results.setText(f"Results: {'temporary; export to keep' if temporary else self._results_folder()}")

    def _on_choose(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder for results", str(self._results_folder().parent))
        if folder:
            self._out = Path(folder)
            self._show_results()

    def settings(self) -> PredictSettings:
        """Return the settings in the form, with the choice of tissue and how sure labels are.

        Raises:
            LpdError: a value is out of its limits, or there is no model.
        """
        labels = self.panel.sure.settings([tissue.name for tissue in read_card(self.model.path()).classes])
        of_tissue = self.tissue.currentText() != WHOLE_AREA
        return self.form.value().model_copy(update={"tissue_only": of_tissue, "labels": labels})

    def _on_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Settings", "", "Settings (*.json)")
        if path:
            with self.job.reporting():
                settings = read_settings(PredictSettings, Path(path), [])
                self.form.set_value(settings)
                self.panel.sure.show_settings(settings.labels)
                self.tissue.setCurrentText(TISSUE_ONLY if settings.tissue_only else WHOLE_AREA)

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Settings", "predict_settings.json", "Settings (*.json)")
        if path:
            with self.job.reporting():
                write_settings(Path(path), self.settings())
                self.job.say(f"Settings written: {path}")

    # Predict

    def _on_several(self) -> None:
        """Open the widget for several slides, in a window of its own, with the model and the settings of this one."""
        with self.job.reporting():
            model, settings = self.model.path(), self.settings()
            dock, batch = self._viewer.window.add_plugin_dock_widget("napari-lpd", "Several slides", tabify=True)
            dock.setFloating(True)
            dock.resize(*SEVERAL)
            dock.move(self.window().geometry().center() - dock.rect().center())
            dock.raise_()
            batch.use(model, settings)

    def _on_predict(self) -> None:
        with self.job.reporting():
            layer, path = self.slides.layer(), self.model.path()
            settings = self.settings()
            self.panel.correct.check_applied()
            if settings.refiner == "pydensecrf":
                raise SettingsError(
                    "refiner pydensecrf would freeze this window (it holds Python's lock): choose lattice, which gives"
                    " the same labels, or use the command line"
                )
            scope = chosen_scope(self._viewer, layer, self.scope.currentText())
            tissue = self._make_mask(layer)
            run = LivePrediction(slide_of(layer), path, settings, scope, tissue, self._place)
            run.layer, run.corrections = layer, corrections_path(layer)
            run.slide, run.older = Shown.by(layer), shown_prediction(self._viewer, slide_id(layer))
            run.maps = parts_shown(self._viewer, slide_id(layer)).keys()
            self.job.start(run.job)
            self._run, self._drawing = run, None
            self._show_warning()

    def _on_progressed(self, progress: Progress) -> None:
        """Start drawing when the first layers exist, and show warnings."""
        if progress.message.startswith(WARNING):
            assert self._run is not None
            self._run.warning = progress.message.removeprefix(WARNING)
            self._show_warning()
        if self._begin_drawing():
            self._drawer.start()

    def _show_warning(self) -> None:
        """Show what the last run said of the chosen slide."""
        warning = self._run.warning if self._run is not None and self._run.layer is self.slides.find() else ""
        self.warning.setText(f"⚠ {warning}")
        self.warning.setVisible(bool(warning))

    def _begin_drawing(self) -> bool:
        """Begin to draw the run's layers, if they exist and are not being drawn; return whether it began."""
        begun = self._drawing is None and self._run is not None and self._run.growing is not None
        if begun:
            assert self._run is not None
            self._drawing = drawing(self._viewer, self._run)
        return begun

    def _draw(self) -> None:
        """Draw one step; the timer triggers the next after pending events."""
        assert self._run is not None
        assert self._drawing is not None
        self.panel.refresh()  # areas of the result before are none of this one's
        if next(self._drawing, DRAWN) is DRAWN:
            self._drawer.stop()
            self._run.drawn.set()

    def _on_predicted(self, prediction: Prediction) -> None:
        assert self._run is not None
        card, count = prediction.card, len(prediction.unreadable)
        lost = f" {count} location{'s' * (count > 1)} could not be read and are grey." if count else ""
        resolution = f"read at {card.mpp:g} µm per pixel"
        if f"{card.mpp:.4g}" != f"{card.slide_mpp[1]:.4g}":
            resolution += f"; the slide has {card.slide_mpp[1]:.4g}"
        of = "" if self._run.layer is self.slides.find() else f"{card.slide}: "
        self.job.say(f"{of}Done, {resolution}.{lost}{self._run.carried}")
        self.panel.refresh(anew=True)

    def _on_ended(self) -> None:
        self._drawer.stop()
        self._begin_drawing()
        for _ in self._drawing or ():  # draw the rest of a run that was stopped or failed
            pass
        growing = None if self._run is None else self._run.growing
        if self.job.status.text() == "Stopped." and growing is not None:
            count = len(growing.prediction.finished_blocks())
            self.job.say(f"Stopped: {count} block{'s' * (count != 1)} are kept; press Predict to continue.")
            self.panel.refresh()

    def _on_panel_failed(self, message: str) -> None:
        with self.job.reporting():
            raise DataError(message)

    def _on_preview(self) -> None:
        with self.job.reporting():
            layer = self.slides.layer()
            make_mask, full = self._make_mask(layer), self.tissue.currentText() == WHOLE_AREA
            slide = slide_of(layer)
            self._target = layer
            self.previewer.start(lambda: tissue_job(slide, make_mask, full))

    def _on_preview_made(self, mask: TissueMask) -> None:
        if self._target in self._viewer.layers:
            show_tissue(self._viewer, mask, self._target)
            share = 100 * float(mask.array.mean())
            self.job.say(f"{share:.0f} % of the slide is tissue. If wrong, correct that layer and choose it above.")
