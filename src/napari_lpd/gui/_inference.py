"""Prediction inside napari's process: torch is imported late, and the model stays loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_lpd.errors import ModelError
from napari_lpd.jobs import Job, Progress

if TYPE_CHECKING:
    from napari_lpd.config import PredictSettings
    from napari_lpd.slide import Slide

    Box = tuple[float, float, float, float]

MAPS = Path("/proc/self/maps")


def keep_triton_out() -> None:
    """Make ``import triton`` fail softly where it would kill the process; call this before torch is imported.

    Mesa's OpenGL drivers (llvmpipe, radeonsi) load the system's LLVM once napari draws. libtriton holds an LLVM of
    its own whose symbols then clash: the import, which torchvision sets off, ends in a segmentation fault. torch works
    without triton; only torch.compile, which is not used here, needs it.
    """
    if MAPS.exists() and "libLLVM" in MAPS.read_text(encoding="utf-8", errors="replace"):
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]


class ModelCache:
    """The last model, kept loaded between runs."""

    def __init__(self) -> None:
        self._key: tuple[Path, int, str] | None = None
        self._model: Any = None

    def get(self, path: Path, device: str) -> Any:
        """The model at `path`, loaded now if it is not the one kept; imports torch."""
        keep_triton_out()
        from napari_lpd.model import load_model

        if not path.is_file():
            raise ModelError(f"{path}: no such model file")
        key = (path, path.stat().st_mtime_ns, device)
        if key != self._key:
            self._model = load_model(path, device)
            self._key = key
        return self._model


def predict_job(slide: Slide, cache: ModelCache, path: Path, settings: PredictSettings, box: Box | None) -> Job[Any]:
    """Load the model if need be and predict; torch is imported here, not when the widget is made."""
    with slide:
        yield Progress(0, 0, "loading the model")
        model = cache.get(path, settings.device)
        from napari_lpd.predict import predict_region

        return (yield from predict_region(slide, model, settings, box))
