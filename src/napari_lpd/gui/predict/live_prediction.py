"""A prediction that is shown while it is made: a worker thread fills the layers, the GUI thread only draws.

Python's full garbage collection blocks every thread: with half a million objects of napari and torch, for 0.3 s or
more. It runs when the objects have grown by a quarter, and napari starts it whenever a layer is removed. So existing
objects are frozen (`gc.freeze`) at the start of a run until a layer is removed while nothing runs (`gc.unfreeze` in
the widget), or until the run is stopped or fails.
"""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING, Any

from napari_lpd.core.files import KEY
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.gui.common.prediction_run import PredictionRun
from napari_lpd.gui.layers.results import (
    MASK,
    completing,
    layers_of,
    part_of,
    parts_of,
    parts_shown,
    prediction_layers,
    refreshing,
    showing,
)
from napari_lpd.gui.predict.correction_bar import carried_over
from napari_lpd.results.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    import napari
    from napari.layers import Image

    from napari_lpd.gui.layers.pyramid_view import View
    from napari_lpd.gui.layers.results import LayerData, Part
    from napari_lpd.gui.layers.slides import Shown

FILL_S = 0.4  # between two updates of the layers
POLL_S = 0.02


class LiveLayers:
    """Layers of a prediction that is being made.

    Args:
        prediction: The prediction, finished or not.
        slide: How its slide is shown.
        maps: Maps that are shown of the results before.

    Attributes:
        prediction: The prediction.
        layers: Layer data for napari.
        version: Number of updates.
    """

    def __init__(self, prediction: Prediction, slide: Shown, maps: Collection[Part] = ()) -> None:
        self.prediction = prediction
        self.version = 0
        self._slide = slide
        self.layers: list[LayerData] = []
        self._views: list[View] = []
        self.choose(maps)

    def choose(self, maps: Collection[Part]) -> None:
        """Have layer data of the mask, and of these maps as far as the result has them."""
        made = {part_of(options["metadata"]): (data, options, kind) for data, options, kind in self.layers}
        wanted = [part for part in parts_of(self.prediction) if part == MASK or part in maps]
        missing = [part for part in wanted if part not in made]
        new = prediction_layers(self.prediction, self._slide, missing)
        made |= dict(zip(missing, new, strict=True))
        self.layers = [made[part] for part in wanted]
        self.follow(options["metadata"][KEY].get("view") for _, options, _ in new)

    def follow(self, views: Iterable[View | None]) -> None:
        """From now on fill these views, too."""
        self._views += [view for view in views if view is not None and view not in self._views]

    def fill(self, anew: bool = False) -> None:
        """Read the blocks that are new since the last call; with `anew`, all."""
        finished, views = self.prediction.finished_blocks(), list(self._views)
        changed = [view.catch_up(finished) for view in views]
        if anew:
            for view in views:
                view.fill(finished)
        self.version += anew or any(changed)


class LivePrediction(PredictionRun):
    """Prediction that is drawn while it is made; the job ends when everything is drawn.

    Attributes:
        slide: How the slide is shown; set before the start.
        layer: The slide's layer; set before the start.
        older: The result whose corrections are copied, if any; set before the start.
        maps: Maps that are shown of the slide's results; set before the start.
        corrections: The file with the slide's corrections; set before the start.
        warning: A line about the slide, for the user.
        growing: The layers, once there are any.
        finished: The prediction, once it is finished.
        carried: A line for the status about copied corrections.
        filled: Set by the job after the last update of the layers.
        drawn: Set by the GUI thread when everything is drawn.
    """

    slide: Shown
    layer: Image
    older: Prediction | None = None
    maps: Collection[Part] = ()
    corrections: Path
    warning = ""
    growing: LiveLayers | None = None
    finished: Prediction | None = None
    carried = ""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.filled, self.drawn = threading.Event(), threading.Event()

    def job(self) -> Job[Prediction]:
        """Predict as `PredictionRun` does, with existing objects frozen; unfreeze them if it ends early."""
        gc.freeze()
        try:
            return (yield from super().job())
        except BaseException:
            gc.unfreeze()
            raise

    def _predicted(self, job: Job[Prediction], folder: Path) -> Job[Prediction]:
        gc.freeze()  # also the objects of torch
        try:
            prediction = yield from self._followed(job, folder)
            self._fill(folder)
            assert self.growing is not None
            before = self.growing.prediction
            labels = prediction.card.settings.labels
            if before.relabelling or labels.clean.asked or before.card.settings.labels != labels:
                self.growing.fill(anew=True)  # they were made again meanwhile
            self.finished = prediction
        finally:
            self.filled.set()
        while not self.drawn.wait(POLL_S):
            yield Progress(0, 0, "drawing")
        return prediction

    def _followed(self, job: Job[Prediction], folder: Path) -> Job[Prediction]:
        updated = -FILL_S
        try:
            while True:
                progress = next(job)
                if progress.total and time.monotonic() - updated >= FILL_S:
                    self._fill(folder)
                    updated = time.monotonic()
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
            prediction = Prediction.open(folder)
            self.carried = carried_over(prediction, self.older, self.corrections)  # at once: it may be stopped
            self.growing = LiveLayers(prediction, self.slide, self.maps)
        self.growing.fill()


def drawing(viewer: napari.Viewer, run: LivePrediction) -> Iterator[None]:
    """Draw a run's layers until all are filled, one layer per step, so that the GUI thread is never blocked for long.

    Steps without new data do nothing. Maps that are asked for meanwhile are filled, too.
    """
    growing = run.growing
    assert growing is not None
    version = growing.version
    growing.choose(parts_shown(viewer, growing.prediction.card.slide_hash).keys())
    yield from showing(viewer, growing.prediction, growing.layers)
    while not run.filled.is_set():
        if growing.version != version:
            version = growing.version
            yield from refreshing(viewer, growing.prediction)
        growing.follow(each.metadata[KEY].get("view") for each in layers_of(viewer, growing.prediction))
        yield
    yield from completing(viewer, growing.prediction, run.finished or growing.prediction)
