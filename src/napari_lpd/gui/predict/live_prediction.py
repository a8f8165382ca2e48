"""A prediction that is shown while it is made: its thread prepares and fills the layers, the window's only draws.

Python's full garbage collection holds every thread: over all objects of napari and torch, half a million, for 0.3 s or
more. It comes when they have grown by a quarter, and napari asks for it whenever a layer goes. So the objects that are
there when a run begins are set aside (`gc.freeze`) until a layer goes and none runs (`gc.unfreeze` in the widget), or
until the run is stopped or fails.
"""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING, Any

from napari_lpd.core.files import KEY
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.gui.common.prediction_run import PredictionRun
from napari_lpd.gui.layers.results import completing, prediction_layers, refreshing, showing
from napari_lpd.gui.predict.correction_bar import carried_over
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import napari

    from napari_lpd.gui.layers.pyramid_view import View

FILL_S = 0.4  # between looks at what is done since
POLL_S = 0.02


class LiveLayers:
    """The layers of a prediction that is being made.

    Args:
        prediction: Finished or not.
        slide_corner: World position (y, x) of the slide's outer corner.

    Attributes:
        prediction: What is shown.
        layers: Its layers' data, to be given to napari.
        version: How often something was filled in.
    """

    def __init__(self, prediction: Prediction, slide_corner: Any) -> None:
        self.prediction = prediction
        self.version = 0
        self._filled = prediction.finished_blocks()
        self.layers = prediction_layers(prediction, slide_corner)

    def fill(self) -> None:
        """Fill in the blocks that are done since."""
        new = self.prediction.finished_blocks() - self._filled
        if new:
            for view in self._views():
                view.fill(new)
            self._filled |= new
            self.version += 1

    def fill_corrections(self) -> None:
        """Fill in what is corrected."""
        blocks = Corrections(self.prediction).blocks()
        for view in self._views("labels"):
            view.fill(blocks)

    def _views(self, *kinds: str) -> list[View]:
        about = [options["metadata"][KEY] for _, options, _ in self.layers]
        return [each["view"] for each in about if "view" in each and (not kinds or each["kind"] in kinds)]


class LivePrediction(PredictionRun):
    """A press of Predict whose result is drawn while it grows; it ends when all of it is drawn.

    Attributes:
        slide_corner: World position (y, x) of the slide's outer corner; to be set before it starts.
        older: The result whose corrections are taken over, if any; to be set before it starts.
        growing: The layers, once there are some.
        finished: The prediction, once it is.
        carried: What is to be said of the corrections that were taken over.
        filled: Set when nothing more will be filled in.
        drawn: To be set by the window when all is drawn.
    """

    slide_corner: Any = None
    older: Prediction | None = None
    growing: LiveLayers | None = None
    finished: Prediction | None = None
    carried = ""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.filled, self.drawn = threading.Event(), threading.Event()

    def job(self) -> Job[Prediction]:
        """As in `PredictionRun`, with napari's objects set aside; not after an early end: its widget may be gone."""
        gc.freeze()
        try:
            return (yield from super().job())
        except BaseException:
            gc.unfreeze()
            raise

    def _made(self, job: Job[Prediction], folder: Path) -> Job[Prediction]:
        gc.freeze()  # what torch brought, too
        try:
            prediction = yield from self._followed(job, folder)
            self.carried = carried_over(prediction, self.older)
            self._fill(folder)
            assert self.growing is not None
            self.growing.fill_corrections()
            self.finished = prediction
        finally:
            self.filled.set()
        while not self.drawn.wait(POLL_S):
            yield Progress(0, 0, "drawing")
        return prediction

    def _followed(self, job: Job[Prediction], folder: Path) -> Job[Prediction]:
        looked = -FILL_S
        try:
            while True:
                progress = next(job)
                if progress.total and time.monotonic() - looked >= FILL_S:
                    self._fill(folder)
                    looked = time.monotonic()
                yield progress
        except StopIteration as end:
            prediction: Prediction = end.value
            return prediction
        finally:
            job.close()
            if self.growing is not None:
                self.growing.fill()

    def _fill(self, folder: Path) -> None:
        if self.growing is None:
            self.growing = LiveLayers(Prediction.open(folder), self.slide_corner)
        self.growing.fill()


def drawing(viewer: napari.Viewer, run: LivePrediction) -> Iterator[None]:
    """Draw a run's layers, in steps that hold the window's thread for as long as one layer takes, until all is filled.

    Steps that have nothing to draw do nothing.
    """
    growing = run.growing
    assert growing is not None
    version = growing.version
    yield from showing(viewer, growing.prediction.card.slide, growing.layers)
    while not run.filled.is_set():
        if growing.version != version:
            version = growing.version
            yield from refreshing(viewer, growing.prediction)
        yield
    yield from completing(viewer, growing.prediction, run.finished or growing.prediction)
