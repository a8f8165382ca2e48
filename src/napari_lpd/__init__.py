"""Segment tissue in H&E slides with models that are trained from image-level labels (LPD, PBIP).

The names in `__all__` are for notebooks and scripts. Each is imported when it is first asked for, so that napari finds
the plugin without loading torch. A job (`train`, `predict_slide`, `relabel`, `evaluate`, `compare`, `measure`, …) is a
generator that `run` drives.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_lpd.comparison.compare import compare as compare
    from napari_lpd.comparison.tiles import tiles_of_folder as tiles_of_folder
    from napari_lpd.comparison.tiles import tiles_of_slide as tiles_of_slide
    from napari_lpd.core.classes import TissueClass as TissueClass
    from napari_lpd.core.classes import read_classes as read_classes
    from napari_lpd.core.jobs import run as run
    from napari_lpd.core.settings.evaluation import CompareSettings as CompareSettings
    from napari_lpd.core.settings.evaluation import EvaluateSettings as EvaluateSettings
    from napari_lpd.core.settings.prediction import CleanSettings as CleanSettings
    from napari_lpd.core.settings.prediction import CrfSettings as CrfSettings
    from napari_lpd.core.settings.prediction import LabelSettings as LabelSettings
    from napari_lpd.core.settings.prediction import PredictSettings as PredictSettings
    from napari_lpd.core.settings.results import ExportSettings as ExportSettings
    from napari_lpd.core.settings.results import MarginSettings as MarginSettings
    from napari_lpd.core.settings.results import MeasureSettings as MeasureSettings
    from napari_lpd.core.settings.results import ObjectSettings as ObjectSettings
    from napari_lpd.core.settings.results import Roles as Roles
    from napari_lpd.core.settings.training import ModelSettings as ModelSettings
    from napari_lpd.core.settings.training import TrainSettings as TrainSettings
    from napari_lpd.data.images import masked_images as masked_images
    from napari_lpd.data.training_set import TrainingSource as TrainingSource
    from napari_lpd.evaluation.evaluate import evaluate as evaluate
    from napari_lpd.models.checkpoint import load_model as load_model
    from napari_lpd.prediction.predict import predict_slide as predict_slide
    from napari_lpd.prediction.relabel import relabel as relabel
    from napari_lpd.results.export.export import export as export
    from napari_lpd.results.measures.areas import measure as measure
    from napari_lpd.results.measures.objects import find_objects as find_objects
    from napari_lpd.results.prediction import Prediction as Prediction
    from napari_lpd.slides.formats import open_slide as open_slide
    from napari_lpd.training.fit import fit

    train = fit

__version__ = "0.1.0"

_PLACES = {
    "CleanSettings": "core.settings.prediction",
    "CompareSettings": "core.settings.evaluation",
    "CrfSettings": "core.settings.prediction",
    "EvaluateSettings": "core.settings.evaluation",
    "ExportSettings": "core.settings.results",
    "LabelSettings": "core.settings.prediction",
    "MarginSettings": "core.settings.results",
    "MeasureSettings": "core.settings.results",
    "ModelSettings": "core.settings.training",
    "ObjectSettings": "core.settings.results",
    "PredictSettings": "core.settings.prediction",
    "Prediction": "results.prediction",
    "Roles": "core.settings.results",
    "TissueClass": "core.classes",
    "TrainSettings": "core.settings.training",
    "TrainingSource": "data.training_set",
    "compare": "comparison.compare",
    "evaluate": "evaluation.evaluate",
    "export": "results.export.export",
    "find_objects": "results.measures.objects",
    "load_model": "models.checkpoint",
    "masked_images": "data.images",
    "measure": "results.measures.areas",
    "open_slide": "slides.formats",
    "predict_slide": "prediction.predict",
    "read_classes": "core.classes",
    "relabel": "prediction.relabel",
    "run": "core.jobs",
    "tiles_of_folder": "comparison.tiles",
    "tiles_of_slide": "comparison.tiles",
    "train": "training.fit",
}  # the module of every public name
__all__ = list(_PLACES)


if not TYPE_CHECKING:  # who checks types shall see a misspelt name

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), "fit" if name == "train" else name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
