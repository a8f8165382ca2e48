"""Readers, writer and samples that napari calls: slides, predictions, masks, regions, labels."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from napari_lpd.core.errors import DataError, ExportError
from napari_lpd.data.geojson import Frame, read_features
from napari_lpd.data.regions import classes_of, regions_in
from napari_lpd.results.export.geojson import read_mask
from napari_lpd.results.export.ome_tiff import (
    SUFFIXES,
    Place,
    is_labelled,
    read_label_tiff,
    write_label_tiff,
    write_ome_tiff,
)
from napari_lpd.results.prediction import Prediction, is_prediction
from napari_lpd.samples import skin_slide_path, small_region_path
from napari_lpd.slides.dicom import is_dicom
from napari_lpd.slides.formats import TIFF_SUFFIXES, VENDOR_SUFFIXES, open_slide
from napari_lpd.slides.levels import DamagedError
from napari_lpd.slides.tiff.reader import needs_windows

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_lpd.gui.layers.slides import Shown
    from napari_lpd.slides.slide import Slide

LayerData = tuple[Any, dict[str, Any], str]
SMALL = 4096**2  # pixels of a level that is kept in memory
WHOLE_LIMIT = 400_000_000  # pixels; a flat TIFF up to this size is left to other readers, which load it whole
MASK: dict[str, Any] = {"units": ("micrometer", "micrometer"), "opacity": 0.5}
UM_PER = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4}


def get_reader(path: str | list[str]) -> Callable[[Any], list[LayerData]] | None:
    """Return the reader for a slide, prediction, mask or regions; None leaves the path to other readers.

    We always read vendor formats and DICOM folders, and a TIFF if it is a pyramid or too large for napari's reader,
    which loads an image whole, or if its header is damaged, of which ours says why. Nothing is opened here: a file's
    first bytes and directories are looked at, within bounds.
    """
    first = Path(path if isinstance(path, str) else path[0])
    if first.is_dir():
        if is_prediction(first):
            return read_prediction
        return read_slide if is_dicom(first) else None
    name = first.name.lower()
    if name.endswith(".geojson"):
        return read_outlines
    if name.endswith(SUFFIXES) and is_labelled(first):
        return read_masks
    tiff = name.endswith(TIFF_SUFFIXES) and first.is_file()
    return read_slide if name.endswith(VENDOR_SUFFIXES) or (tiff and needs_windows(first, WHOLE_LIMIT)) else None


def read_slide(path: str | list[str]) -> list[LayerData]:
    """Read slides as lazy multiscale layers."""
    return [slide_layer_data(Path(p)) for p in ([path] if isinstance(path, str) else path)]


def read_prediction(path: str | list[str]) -> list[LayerData]:
    """Read predictions, finished or not, as labels, heatmaps, uncertainty and tissue."""
    from napari_lpd.gui.layers.results import prediction_layers

    predictions = [Prediction.open(Path(folder)) for folder in ([path] if isinstance(path, str) else path)]
    return [layer for found in predictions for layer in prediction_layers(found, _shown_slide(found.card.slide_hash))]


def _shown_slide(fingerprint: str) -> Shown | None:
    """Return how a slide is shown in the viewer that opens a file; None where it is not."""
    import napari

    from napari_lpd.gui.layers.slides import Shown, slide_id, slide_layers

    viewer = napari.current_viewer()
    layers = [] if viewer is None else slide_layers(viewer)
    return next((Shown.by(layer) for layer in layers if slide_id(layer) == fingerprint), None)


def read_masks(path: str | list[str]) -> list[LayerData]:
    """Read exported OME-TIFF masks lazily, with class names and colours, at their position on the slide."""
    from napari_lpd.gui.layers.results import label_colours

    layers: list[LayerData] = []
    for file in [Path(p) for p in ([path] if isinstance(path, str) else path)]:
        mask = read_label_tiff(file)
        multiscale = len(mask.levels) > 1
        options = {
            "name": file.name.removesuffix(".tiff").removesuffix(".tif").removesuffix(".ome"),
            "multiscale": multiscale,
            "scale": mask.mpp,
            "translate": np.array(mask.origin_um) + np.array(mask.mpp) / 2,
            **label_colours(mask.classes),
        }
        layers.append((mask.levels if multiscale else np.asarray(mask.levels[0]), MASK | options, "labels"))
    return layers


def read_outlines(path: str | list[str]) -> list[LayerData]:
    """Read GeoJSON: a mask that we exported as labels, anything else as regions on the open slide.

    Raises:
        DataError: the file cannot be read, or it has regions while no slide or several are open.
    """
    from napari_lpd.gui.layers.results import label_colours

    layers: list[LayerData] = []
    for file in [Path(p) for p in ([path] if isinstance(path, str) else path)]:
        mask = read_mask(file)
        if mask is None:
            layers.append(_regions_on_slide(file))
            continue
        options = {
            "name": file.stem,
            "scale": (mask.mpp, mask.mpp),
            "translate": (np.array(mask.origin) + 0.5) * mask.mpp,
            **label_colours(mask.classes),
        }
        layers.append((mask.labels, MASK | options, "labels"))
    return layers


def _regions_on_slide(path: Path) -> LayerData:
    """Read regions onto the open slide, or of several onto the one beside which they lie, or whose name they bear."""
    import napari

    from napari_lpd.gui.layers.regions import add_regions, empty_regions
    from napari_lpd.gui.layers.slides import slide_layers, slide_of, slide_path

    viewer = napari.current_viewer()
    slides = [] if viewer is None else slide_layers(viewer)
    files = {layer: slide_path(layer) for layer in slides}
    named = [layer for layer, file in files.items() if path.name.startswith((file or Path(layer.name)).stem)]
    beside = [layer for layer in named if (file := files[layer]) and file.parent.resolve() == path.parent.resolve()]
    chosen = (beside or named) if len(slides) > 1 else slides
    if len(chosen) != 1:
        remedy = "open that first" if not slides else "name it like the slide, or use Load… in Train"
        raise DataError(f"{path}: its regions are in pixels of a slide: {remedy}")
    with slide_of(chosen[0]) as slide:
        drawing = read_features(path, Frame.of(slide))
    layer = empty_regions(chosen[0])
    add_regions(layer, regions_in(drawing), classes_of(drawing))
    layer.name = path.stem
    data: LayerData = layer.as_layer_data_tuple()
    return data


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Save a Labels layer as `write_mask`, by the name that the user gave."""
    return [str(write_mask(Path(path), data, attributes, asked_for=Path(path)))]


def write_mask(path: Path, data: Any, attributes: dict[str, Any], asked_for: Path) -> Path:
    """Save a Labels layer, multiscale too, as an OME-TIFF pyramid with its physical size, class names and colours.

    A multiscale prediction is written block by block from its folder; any other layer as it is shown. napari has asked
    before replacing the file `asked_for`, no other.

    Raises:
        ExportError: wrong suffix, not 2-d, no micrometres, or the file cannot be written.
    """
    target = path
    if target.name.lower().endswith(TIFF_SUFFIXES) and ".ome." not in target.name.lower():
        target = target.with_suffix(".ome.tif")
    confirmed = target == asked_for
    name = attributes.get("name", "labels")
    multiscale = attributes.get("multiscale", isinstance(data, list | tuple))
    metadata = attributes.get("metadata", {}).get("napari_lpd", {})
    prediction: Prediction | None = metadata.get("prediction") if metadata.get("kind") == "labels" else None
    if multiscale and prediction is not None:
        return write_ome_tiff(prediction, target, overwrite=confirmed)
    labels = np.asarray(data[0] if multiscale else data)
    if prediction is not None:
        labels = metadata["view"].whole(labels)  # also what another result covers
    if labels.ndim != 2:
        raise ExportError(f"{name}: {labels.ndim} dimensions; only 2-d labels are saved")
    if labels.dtype.itemsize > 4 or labels.dtype == bool:
        labels = labels.astype(np.uint32 if labels.max() > 255 else np.uint8)
    mpp = _mpp(name, attributes)
    if prediction is None:
        return write_label_tiff(labels, target, Place(mpp, (0.0, 0.0)), overwrite=confirmed)
    card, (y0, x0, _, _) = prediction.card, prediction.scope_box()
    classes = [(tissue.name, tissue.rgb) for tissue in card.classes]
    origin = (y0 // card.stride * card.stride * card.mpp, x0 // card.stride * card.stride * card.mpp)
    return write_label_tiff(labels, target, Place(mpp, origin), classes, confirmed)


def _mpp(name: str, attributes: dict[str, Any]) -> tuple[float, float]:
    units = [str(unit) for unit in attributes.get("units") or ("pixel", "pixel")]
    if any(unit not in UM_PER for unit in units):
        raise ExportError(f"{name}: scale is in {' × '.join(units)}; set the layer's units to micrometer first")
    y, x = (float(scale) * UM_PER[unit] for scale, unit in zip(attributes["scale"], units, strict=True))
    return y, x


def slide_layer_data(path: Path, image: int | None = None) -> tuple[Any, dict[str, Any], str]:
    """Return a slide, or an `image` of its file, as layer data: lazy pyramid, in µm if the resolution is known.

    Raises:
        SlideError: the file cannot be opened.
    """
    from napari.utils.notifications import show_warning

    slide, levels, fingerprint = _opened(path, image)
    for note in slide.notes:
        show_warning(note)
    options = {
        "name": slide.name,
        "rgb": True,
        "multiscale": len(levels) > 1,
        "scale": slide.mpp if slide.has_mpp else (1.0, 1.0),
        "units": ("micrometer",) * 2 if slide.has_mpp else ("pixel",) * 2,
        "metadata": {
            "napari_lpd": {
                "kind": "slide",
                "path": str(path),
                "fingerprint": fingerprint,
                "mpp_source": slide.mpp_source,
                "image": slide.image,
                "number": slide.number,
                "images": slide.images,
                "origin": slide.bounds[1::-1] if slide.bounds else (0, 0),
            }
        },
    }
    return (levels if len(levels) > 1 else levels[0]), options, "image"


def _opened(path: Path, image: int | None) -> tuple[Slide, list[da.Array], str]:
    """Open an image of a slide; of its levels, the smallest is read, as napari does when it shows the layer."""
    slide = open_slide(path, image=image)
    levels = slide.pyramid()
    if math.prod(levels[-1].shape[:2]) <= SMALL:
        with suppress(DamagedError):  # it is said where it is shown
            levels[-1] = da.from_array(np.asarray(levels[-1]), chunks=levels[-1].chunks)
    return slide, levels, slide.fingerprint


def skin() -> list[tuple[Any, dict[str, Any], str]]:
    """Return layer data of the skin slide."""
    return [slide_layer_data(skin_slide_path())]


def small_region() -> list[tuple[Any, dict[str, Any], str]]:
    """Return layer data of CMU-1-Small-Region."""
    return [slide_layer_data(small_region_path())]
