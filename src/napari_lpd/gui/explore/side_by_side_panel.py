"""Panel to show two models on one view or region: masks and heatmaps side by side."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_lpd.comparison.result import names_of
from napari_lpd.core.errors import DataError
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.gui.common.job import JobBar
from napari_lpd.gui.common.layout import buttons, chooser
from napari_lpd.gui.common.prediction_run import PredictionRun
from napari_lpd.gui.explore.grid_view import SideBySide
from napari_lpd.gui.explore.heatmap_window import AllHeatmaps
from napari_lpd.gui.layers.regions import REGIONS, VIEW, chosen_scope
from napari_lpd.gui.layers.slides import slide_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari
    from napari.layers import Image

    from napari_lpd.gui.explore.model_pair import ModelPair
    from napari_lpd.results.card import PredictionCard
    from napari_lpd.results.prediction import Prediction


class BothModels(QWidget):
    """Panel to predict one area with two models and show the results side by side.

    Signals:
        changed: the side-by-side view was opened or closed.
        asked_for_all: the button for every prototype was pressed; the owner calls `show_all`.
        picked: a heatmap in the window of all was clicked: class and prototype, from 0.

    Args:
        viewer: The viewer.
        slide_layer: Returns the slide's layer; raises LpdError if there is none.
        pair: The panel with the two models.
    """

    changed = Signal()
    asked_for_all = Signal()
    picked = Signal(int, int)

    def __init__(self, viewer: napari.Viewer, slide_layer: Callable[[], Image], pair: ModelPair) -> None:
        super().__init__()
        self._viewer, self._slide_layer, self._pair = viewer, slide_layer, pair
        self._folder = tempfile.TemporaryDirectory(prefix="napari-lpd-")  # deleted with the widget or when Python exits
        self._target: Image | None = None
        self.predictions: list[tuple[str, Prediction]] = []
        self.side = SideBySide(viewer)
        self.scope = chooser([VIEW, REGIONS])
        self.job = JobBar("Show both side by side")
        self.window_of_all: AllHeatmaps | None = None
        self._after = buttons(
            ("Every prototype…", "Show all heatmaps of a class, of both models, in a window", self.asked_for_all.emit),
            ("Back to one view", "Close the side-by-side view and restore the viewer", self.side.close),
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.scope, self.job, self._after):
            layout.addWidget(widget)
        self._after.setVisible(False)
        self.job.asked.connect(self._on_show)
        self.job.runner.succeeded.connect(self._on_predicted)
        self.side.on_change = self._on_side
        self.destroyed.connect(partial(_restore, self.side))

    def _on_show(self) -> None:
        with self.job.reporting():
            paths, layer = self._pair.paths(), self._slide_layer()
            scope = chosen_scope(self._viewer, layer, self.scope.currentText())
            runs = [
                PredictionRun(slide_of(layer), path, PredictSettings(), scope, lambda _: None, self._place)
                for path in paths
            ]
            self._target = layer
            self.job.start(lambda: both_job(list(zip(names_of(paths), runs, strict=True))))

    def _place(self, card: PredictionCard) -> Path:
        return Path(self._folder.name) / f"{Path(card.slide).stem}-{card.digest}.zarr"

    def _on_predicted(self, predictions: list[tuple[str, Prediction]]) -> None:
        with self.job.reporting():
            if self._target not in self._viewer.layers:
                raise DataError(
                    f"{predictions[0][1].card.slide} was closed in the meantime: open it and press the button again"
                )
            self.predictions = predictions
            self.side.show(predictions, self._target)
            left, right = (name for name, _ in predictions)
            self.job.say(
                f"Left {left}, right {right}. Choose a class above for its heatmaps; press again after moving."
            )

    def _on_side(self) -> None:
        self._after.setVisible(self.side.is_open)
        if not self.side.is_open:
            self.job.say("")
            if self.window_of_all is not None:
                self.window_of_all.close()
        self.changed.emit()

    def show_all(self, index: int) -> None:
        """Open the window with every prototype of class `index`, from 0."""
        from napari_lpd.gui.explore.heatmap_grid import tissue_of

        with self.job.reporting():
            if self._target is None or not self.predictions:
                raise DataError("no models are side by side: press Show both side by side first")
            with slide_of(self._target) as slide:
                image = tissue_of(slide, self.predictions[0][1])
            self.window_of_all = AllHeatmaps(self, self.predictions, image, self.job.reporting)
            self.window_of_all.tissue.setCurrentIndex(index)
            self.window_of_all.picked.connect(self.picked)
            self.window_of_all.show()


def both_job(runs: Sequence[tuple[str, PredictionRun]]) -> Job[list[tuple[str, Prediction]]]:
    """Predict with one model after the other, (name, run) each; return (name, prediction) of each."""
    predictions = []
    for name, run in runs:
        job = run.job()
        try:
            while True:
                progress = next(job)
                message = f"{name}: {progress.message}" if progress.message else name
                yield Progress(progress.done, progress.total, message, progress.metrics)
        except StopIteration as finished:
            predictions.append((name, finished.value))
        finally:
            job.close()
    return predictions


def _restore(side: SideBySide) -> None:
    """Restore the viewer without notifying the widget, which is deleted."""
    side.on_change = lambda: None
    side.close()
