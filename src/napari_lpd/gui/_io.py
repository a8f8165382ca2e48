"""What napari calls to open slides and predictions and to save labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from napari_lpd.errors import ExportError, SlideError
from napari_lpd.export import write_label_tiff
from napari_lpd.prediction import Prediction, is_prediction
from napari_lpd.samples import slide_layer_data
from napari_lpd.slide import TIFF_SUFFIXES, VENDOR_SUFFIXES, open_slide

LayerData = tuple[Any, dict[str, Any], str]
UM_PER = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3}


def get_reader(path: str | list[str]) -> Callable[[Any], list[LayerData]] | None:
    """A reader for a slide or one of our predictions; None leaves the path to other readers."""
    first = Path(path if isinstance(path, str) else path[0])
    if first.is_dir():
        return read_prediction if is_prediction(first) else None
    name = first.name.lower()
    if name.endswith((*VENDOR_SUFFIXES, ".ome.tif", ".ome.tiff")):
        return read_slide if not name.endswith(TIFF_SUFFIXES) or _is_pyramid(first) else None
    return read_slide if name.endswith(TIFF_SUFFIXES) and _is_pyramid(first) else None


def _is_pyramid(path: Path) -> bool:
    try:
        with open_slide(path) as slide:
            return len(slide.level_shapes) > 1
    except SlideError:
        return False


def read_slide(path: str | list[str]) -> list[LayerData]:
    """Slides as lazy multiscale layers."""
    return [slide_layer_data(Path(p)) for p in ([path] if isinstance(path, str) else path)]


def read_prediction(path: str | list[str]) -> list[LayerData]:
    """Our predictions as labels and heatmaps."""
    from napari_lpd.gui._layers import prediction_layers

    folders = [path] if isinstance(path, str) else path
    return [layer for folder in folders for layer in prediction_layers(Prediction.load(Path(folder)))]


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Save a Labels layer, multiscale too, as an OME-TIFF pyramid with its physical size and class names.

    Raises:
        ExportError: the layer is not 2-d, or the place cannot be written.
    """
    target = Path(path)
    if not target.name.lower().endswith((".ome.tif", ".ome.tiff")):
        target = target.with_suffix(".ome.tif")
    labels = np.asarray(data[0] if attributes.get("multiscale", isinstance(data, list | tuple)) else data)
    if labels.ndim != 2:
        raise ExportError(f"{attributes.get('name', 'labels')}: {labels.ndim} dimensions; only 2-d labels are saved")
    if labels.dtype.itemsize > 4 or labels.dtype == bool:
        labels = labels.astype(np.uint32 if labels.max() > 255 else np.uint8)
    factors = [UM_PER.get(str(unit), 1.0) for unit in attributes.get("units", ("pixel", "pixel"))[-2:]]
    mpp = [float(s) * f for s, f in zip(attributes["scale"][-2:], factors, strict=True)]
    names = attributes.get("metadata", {}).get("napari_lpd", {}).get("classes", [])
    return [str(write_label_tiff(labels, target, (mpp[0], mpp[1]), names))]
