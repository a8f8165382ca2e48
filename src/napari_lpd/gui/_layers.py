"""Layers: a napari layer as a Slide, and a Prediction as layers with scale, units, names and colours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers import Image, Labels, Shapes
from napari.utils.colormaps import DirectLabelColormap

from napari_lpd.errors import DataError, SlideError
from napari_lpd.export import halvings
from napari_lpd.regions import Region
from napari_lpd.slide import Slide, open_slide

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

    from napari_lpd.config import TissueClass
    from napari_lpd.prediction import Prediction

KEY = "napari_lpd"
SINGLE_SCALE_LIMIT = 2048
UM = "micrometer"


def kind(layer: Layer) -> str:
    """What a layer is to us: slide, labels, heatmap, regions, or nothing."""
    return str(layer.metadata.get(KEY, {}).get("kind", ""))


def slide_layers(viewer: napari.Viewer) -> list[Image]:
    """Layers that can serve as a slide: RGB images, ours first."""
    images = [layer for layer in viewer.layers if isinstance(layer, Image) and layer.rgb]
    return sorted(images, key=lambda layer: kind(layer) != "slide")


def slide_of(layer: Image, mpp: float | None = None) -> Slide:
    """Open the slide that `layer` shows: its file when it came from our reader, else its arrays.

    Args:
        layer: An RGB image layer.
        mpp: Resolution that the user gave, if any.

    Raises:
        SlideError: the file is gone, or the resolution is unknown.
    """
    path = layer.metadata.get(KEY, {}).get("path")
    if path is not None:
        slide = open_slide(Path(path), mpp)
    else:
        in_um = all(str(unit) in (UM, "um", "µm") for unit in layer.units)
        known = (mpp, mpp) if mpp is not None else tuple(layer.scale[-2:]) if in_um else None
        source = "given by the user" if mpp is not None else "scale of the layer"
        levels = list(layer.data) if layer.multiscale else [layer.data]
        slide = Slide.from_levels(levels, known, layer.name, source)
    if not slide.has_mpp:
        slide.close()
        raise SlideError(f"{slide.name} has no resolution ({slide.mpp_source}): enter its µm per pixel")
    return slide


def visible_box_um(layer: Image, mpp: tuple[float, float]) -> tuple[float, float, float, float]:
    """(y0, x0, y1, x1) of the part of `layer` that the canvas shows, in µm from the slide's corner."""
    corners = layer.corner_pixels[:, -3:-1] if layer.corner_pixels.shape[1] > 2 else layer.corner_pixels
    factor = layer.downsample_factors[layer.data_level][:2] if layer.multiscale else np.ones(2)
    (y0, x0), (y1, x1) = corners * factor * mpp
    return float(y0), float(x0), float(y1 + mpp[0]), float(x1 + mpp[1])


def prediction_layers(prediction: Prediction, heatmaps_visible: bool = False) -> list[tuple[Any, dict[str, Any], str]]:
    """Layer data of a prediction: one Labels layer and, per class, one Image layer with all prototypes on a slider.

    napari puts the centre of a layer's first pixel at `translate`; the slide's own first pixel is centred at 0.
    """
    slide_mpp = np.array(prediction.slide_mpp)
    about = {KEY: {"slide": prediction.slide, "model": prediction.model}}
    colors: dict[int | None, Any] = {None: (0, 0, 0, 0), 0: (0, 0, 0, 0)}
    colors |= {i: tissue.color for i, tissue in enumerate(prediction.classes, start=1)}
    names = ["unlabelled", *(tissue.name for tissue in prediction.classes)]
    levels = halvings(prediction.labels)
    large = max(prediction.labels.shape) > SINGLE_SCALE_LIMIT
    origin = np.array(prediction.origin_um)
    labels = (
        levels if large else levels[0],
        {
            "name": f"tissue ({prediction.slide})",
            "multiscale": large,
            "scale": (prediction.mpp,) * 2,
            "translate": origin + (prediction.mpp - slide_mpp) / 2,
            "units": (UM, UM),
            "opacity": 0.5,
            "colormap": DirectLabelColormap(color_dict=colors),
            "features": pd.DataFrame({"index": range(len(names)), "class": names}),
            "metadata": {KEY: {**about[KEY], "kind": "labels", "classes": names[1:]}},
        },
        "labels",
    )
    map_mpp = prediction.mpp * prediction.stride
    maps = [
        (
            prediction.prototype_maps(index),
            {
                "name": f"{tissue.name}: prototypes",
                "scale": (1.0, map_mpp, map_mpp),
                "translate": (0.0, *(origin + (map_mpp - slide_mpp) / 2)),
                "units": ("pixel", UM, UM),
                "axis_labels": ("prototype", "y", "x"),
                "colormap": "magma",
                "contrast_limits": (128, max(192, int(prediction.prototype_maps(index).max()))),
                "opacity": 0.7,
                "visible": heatmaps_visible and index == 0,
                "metadata": {KEY: {**about[KEY], "kind": "heatmap", "class": tissue.name}},
            },
            "image",
        )
        for index, tissue in enumerate(prediction.classes)
    ]
    return [*maps, labels]


def show_prediction(viewer: napari.Viewer, prediction: Prediction) -> Labels:
    """Add a prediction's layers above the slide, in place of an older prediction of the same slide."""
    for layer in list(viewer.layers):
        if kind(layer) in ("labels", "heatmap") and layer.metadata[KEY]["slide"] == prediction.slide:
            viewer.layers.remove(layer)
    shown = None
    for data, options, layer_type in prediction_layers(prediction):
        shown = getattr(viewer, f"add_{layer_type}")(data, **options)
    viewer.dims.current_step = (0, *viewer.dims.current_step[1:])
    assert isinstance(shown, Labels)
    return shown


def new_regions_layer(viewer: napari.Viewer, slide_layer: Image) -> Shapes:
    """An empty Shapes layer on the slide; each shape carries its tissues as text ("a + b")."""
    return viewer.add_shapes(
        ndim=2,
        name=f"tissue regions ({slide_layer.name})",
        scale=slide_layer.scale,
        translate=slide_layer.translate,
        units=slide_layer.units,
        features=pd.DataFrame({"tissues": pd.Series([], dtype=str)}),
        text={"string": "{tissues}", "size": 9, "color": "black", "anchor": "upper_left"},
        edge_width=6,
        edge_color="#222222",
        face_color="#ffffff30",
        metadata={KEY: {"kind": "regions", "slide": slide_layer.name}},
    )


def add_regions(layer: Shapes, regions: list[Region], classes: tuple[TissueClass, ...]) -> None:
    """Draw `regions` (level-0 pixels) into a regions layer of the same slide."""
    defaults = {"tissues": ""}
    for region in regions:
        layer.feature_defaults = {"tissues": " + ".join(region.tissues)}
        layer.add_polygons([region.vertices - 0.5], edge_color=tissue_color(region.tissues, classes))
    layer.feature_defaults = defaults


def tissue_color(tissues: tuple[str, ...], classes: tuple[TissueClass, ...]) -> str:
    """Colour of a region: its first tissue's, dark grey without one."""
    return next((tissue.color for tissue in classes if tissues and tissue.name == tissues[0]), "#222222")


def regions_of(layer: Shapes, slide_layer: Image) -> list[Region]:
    """The shapes of a layer as regions in level-0 pixels of the slide.

    Raises:
        DataError: no shapes, or shapes without tissue names.
    """
    if not len(layer.data):
        raise DataError(f"{layer.name} is empty: outline at least one region per tissue")
    tissues = [tuple(name.strip() for name in str(text).split("+") if name.strip()) for text in layer.features["tissues"]]
    unnamed = sum(not names for names in tissues)
    if unnamed:
        raise DataError(f"{unnamed} of {len(tissues)} regions carry no tissue: select them and press a tissue's button")
    regions = []
    for shape, names in zip(layer.data, tissues, strict=True):
        world = np.array([layer.data_to_world(vertex) for vertex in np.asarray(shape)[:, -2:]])
        in_pixels = (world - slide_layer.translate[-2:]) / slide_layer.scale[-2:] + 0.5
        regions.append(Region(in_pixels, tuple(name for name in names if name != "none")))
    return regions
