"""Prediction inside napari's process, where torch is imported late and the model stays loaded."""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.utils.colormaps import DirectLabelColormap

from napari_lpd.core.jobs import Job, Progress
from napari_lpd.slides.tissue import find_tissue, full_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import shapely

    from napari_lpd.core.settings.prediction import PredictSettings
    from napari_lpd.models.network import LoadedModel
    from napari_lpd.results.card import PredictionCard
    from napari_lpd.results.prediction import Prediction
    from napari_lpd.slides.slide import Slide
    from napari_lpd.slides.tissue import TissueMask

    MakeMask = Callable[[Slide], TissueMask | None]

MAPS = Path("/proc/self/maps")


def keep_triton_out() -> None:
    """Make ``import triton`` fail softly where it would kill the process; call this before torch is imported.

    Mesa's OpenGL drivers (llvmpipe, radeonsi) load the system's LLVM once napari draws. libtriton holds an LLVM of
    its own whose symbols then clash: the import, which torchvision triggers, ends in a segmentation fault. torch works
    without triton; only torch.compile, which is not used here, needs it.
    """
    if MAPS.exists() and "libLLVM" in MAPS.read_text(encoding="utf-8", errors="replace"):
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]


def loaded_model(path: Path, device: str) -> LoadedModel:
    """Load a model inside napari's process, or return it from the cache; torch is imported here.

    Raises:
        ModelError: the file is missing, damaged or not one of our models.
    """
    with _no_garbage_collection():
        keep_triton_out()
        from napari_lpd.models.checkpoint import load_cached

        return load_cached(path, device)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection while torch is imported: it would block the window and free nearly nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class PredictionRun:
    """Prediction of one slide; `job` does all slow work and runs in a thread.

    Args:
        slide: The slide; closed at the end.
        model: Model file.
        settings: Prediction settings.
        scope: Polygons, (x, y) in µm from the slide's corner; empty: the whole slide.
        tissue: Makes the tissue mask, or None for automatic detection.
        place: Returns the folder for a prediction.
    """

    def __init__(
        self,
        slide: Slide,
        model: Path,
        settings: PredictSettings,
        scope: Sequence[shapely.Geometry],
        tissue: MakeMask,
        place: Callable[[PredictionCard], Path],
    ) -> None:
        self._slide, self._model, self._settings = slide, model, settings
        self._scope, self._tissue, self._place = scope, tissue, place

    def job(self) -> Job[Prediction]:
        """Load the model if necessary and predict; torch is imported here, not when the widget is made."""
        with self._slide as slide:
            yield Progress(0, 0, "loading the model")
            model = loaded_model(self._model, self._settings.device)
            compile_label_colours()
            from napari_lpd.prediction.predict import predict_slide, prediction_card

            mask = self._tissue(slide)
            folder = self._place(prediction_card(slide, model, self._settings, self._scope, mask))
            job = predict_slide(slide, model, self._settings, folder, self._scope, mask)
            prediction = yield from self._predicted(job, folder)
        return prediction

    def _predicted(self, job: Job[Prediction], folder: Path) -> Job[Prediction]:
        """Follow the job that predicts into `folder`; overridden to show the prediction while it is made."""
        return (yield from job)


def compile_label_colours() -> None:
    """Let napari compile its colouring of labels, about one second, in this thread, not in the GUI thread."""
    DirectLabelColormap(color_dict={None: "black", 1: "white"}).map(np.ones((1, 1), np.uint8))


def tissue_job(slide: Slide, make: MakeMask, full: bool) -> Job[TissueMask]:
    """Make the tissue mask that a prediction would use."""
    with slide:
        yield Progress(0, 0, "detecting tissue")
        return make(slide) or (full_mask(slide) if full else find_tissue(slide))
