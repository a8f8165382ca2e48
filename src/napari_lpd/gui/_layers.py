"""Layers: a napari layer as a Slide, and a Prediction as layers with scale, units, names and colours.

napari puts the CENTRE of a layer's first pixel at `translate`. A slide's corner therefore lies half a pixel before
its translate, and a coarser layer that starts at the same corner has a larger translate.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_lpd.errors import SlideError
from napari_lpd.export import halvings
from napari_lpd.formats import open_slide
from napari_lpd.slide import Slide

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_lpd.prediction import Prediction

KEY = "napari_lpd"
SINGLE_SCALE_LIMIT = 2048
UM = "micrometer"

LayerData = tuple[Any, dict[str, Any], str]


def kind(layer: Layer) -> str:
    """What a layer is to us: slide, labels, heatmap, regions, or nothing."""
    return str(layer.metadata.get(KEY, {}).get("kind", ""))


def slide_layers(viewer: napari.Viewer) -> list[Image]:
    """Layers that can serve as a slide: RGB images, ours first."""
    images = [layer for layer in viewer.layers if isinstance(layer, Image) and layer.rgb]
    return sorted(images, key=lambda layer: kind(layer) != "slide")


def slide_of(layer: Image) -> Slide:
    """Open the slide that `layer` shows: its file when it came from our reader, else its arrays.

    Raises:
        SlideError: the file is gone, the resolution is unknown, or the layer is turned.
    """
    if not np.allclose(layer.affine.affine_matrix, np.eye(layer.ndim + 1)) or not np.allclose(
        layer.rotate, np.eye(layer.ndim)
    ):
        raise SlideError(f"{layer.name} is turned or has an affine transform: take it away first")
    path, given = slide_path(layer), layer.metadata.get(KEY, {}).get("mpp")
    if path is not None:
        slide = open_slide(path, given)
    else:
        in_um = all(str(unit) == UM for unit in layer.units)
        scale = (float(layer.scale[-2]), float(layer.scale[-1]))
        levels = list(layer.data) if layer.multiscale else [layer.data]
        slide = Slide.from_levels(levels, scale if in_um else None, layer.name, "scale of the layer")
    if not slide.has_mpp:
        slide.close()
        raise SlideError(f"{slide.name} has no resolution ({slide.mpp_source}): enter its µm per pixel")
    return slide


def slide_path(layer: Image) -> Path | None:
    """The file that a slide layer shows, if our reader opened it."""
    path = layer.metadata.get(KEY, {}).get("path")
    return None if path is None else Path(path)


def set_resolution(layer: Image, mpp: float) -> None:
    """Give a slide layer its resolution, in µm per pixel, where the file says none."""
    layer.units = (UM,) * layer.ndim
    layer.scale = (mpp,) * layer.ndim
    layer.metadata[KEY] = {**layer.metadata.get(KEY, {}), "mpp": mpp, "mpp_source": "given by the user"}


def corner(layer: Image) -> NDArray[np.float64]:
    """World position (y, x) of the outer corner of a slide layer's first pixel."""
    return np.asarray(layer.translate[-2:] - layer.scale[-2:] / 2, dtype=float)


def visible_box_um(viewer: napari.Viewer, layer: Image) -> tuple[float, float, float, float]:
    """(y0, x0, y1, x1) of the part of a slide layer that the canvas shows, in µm from the slide's corner.

    Raises:
        SlideError: nothing of it is in view.
    """
    half = np.array(viewer.canvas.size) / viewer.scene.camera.zoom / 2
    middle = np.array(viewer.scene.camera.center[-2:]) - corner(layer)
    size = np.array((layer.data[0] if layer.multiscale else layer.data).shape[:2]) * layer.scale[-2:]
    low, high = np.clip(middle - half, 0, size), np.clip(middle + half, 0, size)
    if (high <= low).any():
        raise SlideError(f"nothing of {layer.name} is in view: move to it, or predict the whole slide")
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def prediction_layers(prediction: Prediction, slide_corner: Any = None) -> list[LayerData]:
    """Layer data of a prediction: per class one hidden Image layer, prototypes on a slider; then one Labels layer.

    Args:
        prediction: What a model said.
        slide_corner: World position (y, x) of the slide's outer corner; default: the slide's first pixel lies at 0.
    """
    start = -np.array(prediction.slide_mpp) / 2 if slide_corner is None else np.asarray(slide_corner)
    start = start + np.array(prediction.origin_um)
    return [
        *(_heatmap(prediction, index, start) for index in range(len(prediction.classes))),
        _labels(prediction, start),
    ]


def _labels(prediction: Prediction, start: NDArray[np.float64]) -> LayerData:
    colors: dict[int | None, Any] = {None: (0, 0, 0, 0), 0: (0, 0, 0, 0)}
    colors |= {i: tissue.color for i, tissue in enumerate(prediction.classes, start=1)}
    names = ["unlabelled", *(tissue.name for tissue in prediction.classes)]
    large = max(prediction.labels.shape) > SINGLE_SCALE_LIMIT
    options = {
        "name": f"tissue ({prediction.slide})",
        "multiscale": large,
        "scale": (prediction.mpp,) * 2,
        "translate": start + prediction.mpp / 2,
        "units": (UM, UM),
        "opacity": 0.5,
        "colormap": DirectLabelColormap(color_dict=colors),
        "features": pd.DataFrame({"index": range(len(names)), "class": names}),
        "metadata": {KEY: {"kind": "labels", "slide": prediction.slide, "prediction": prediction}},
    }
    return (halvings(prediction.labels) if large else prediction.labels), options, "labels"


def _heatmap(prediction: Prediction, index: int, start: NDArray[np.float64]) -> LayerData:
    maps = prediction.prototype_maps(index)
    mpp = prediction.mpp * prediction.stride
    name = prediction.classes[index].name
    options = {
        "name": f"{name} prototypes",
        "scale": (1.0, mpp, mpp),
        "translate": (0.0, *(start + mpp / 2)),
        "units": ("pixel", UM, UM),
        "axis_labels": ("prototype", "y", "x"),
        "colormap": "magma",
        "contrast_limits": (128, max(192, int(maps.max()))),
        "opacity": 0.6,
        "visible": False,
        "metadata": {KEY: {"kind": "heatmap", "slide": prediction.slide, "class": name}},
    }
    return maps, options, "image"


def our_layers(viewer: napari.Viewer, slide: str, *kinds: str) -> list[Layer]:
    """The layers of a prediction of `slide` that are of one of `kinds`."""
    return [layer for layer in viewer.layers if kind(layer) in kinds and layer.metadata[KEY]["slide"] == slide]


def shown_prediction(viewer: napari.Viewer, slide: str | None = None) -> Prediction | None:
    """The uppermost prediction in the viewer, of `slide` if given."""
    for layer in reversed(viewer.layers):
        if kind(layer) == "labels" and slide in (None, layer.metadata[KEY]["slide"]):
            return layer.metadata[KEY].get("prediction")
    return None


def show_prediction(viewer: napari.Viewer, prediction: Prediction, slide_layer: Image | None = None) -> Labels:
    """Add a prediction's layers, in place of an older prediction of the same slide; returns the Labels layer.

    The view stays where it is: napari fits all layers into it when their number of dimensions changes.
    """
    camera = {"center": viewer.scene.camera.center, "zoom": viewer.scene.camera.zoom}
    for layer in our_layers(viewer, prediction.slide, "labels", "heatmap"):
        viewer.layers.remove(layer)
    slide_corner = None if slide_layer is None else corner(slide_layer)
    shown = None
    for data, options, layer_type in prediction_layers(prediction, slide_corner):
        shown = getattr(viewer, f"add_{layer_type}")(data, **options)
    viewer.dims.set_point(0, 0)
    viewer.scene.camera.update(camera)
    assert isinstance(shown, Labels)
    return shown
