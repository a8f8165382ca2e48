"""Predictions as layers: labels of each result, heatmaps, uncertainty, tissue of the uppermost one, also unfinished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_lpd.core.classes import UNLABELLED, UNREADABLE_NAME, UNSURE_CLASS
from napari_lpd.core.files import KEY
from napari_lpd.core.labelling.rule import UNREADABLE, UNSURE
from napari_lpd.gui.layers.pyramid_view import SMALL, View
from napari_lpd.gui.layers.slides import UM, Shown, kind, slide_id
from napari_lpd.results.corrections import Corrections

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import napari
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.geometry import Box
    from napari_lpd.results.prediction import Prediction
    from napari_lpd.results.pyramid import Pyramid
    from napari_lpd.slides.tissue import TissueMask

UNREADABLE_COLOR = "#505050"
TISSUE_COLOR = "#00b4d8"
KINDS = ("labels", "heatmap", "uncertainty", "tissue")
LayerData = tuple[Any, dict[str, Any], str]


def prediction_layers(prediction: Prediction, slide: Shown | None = None) -> list[LayerData]:
    """Return layer data of a prediction: hidden tissue, uncertainty and a heatmap per class; then the labels.

    Args:
        prediction: A prediction, finished or not.
        slide: How its slide is shown (default: not at all; its first pixel's centre would lie at 0).
    """
    card, box = prediction.card, _box(prediction)
    at = slide or Shown(-np.array(card.slide_mpp) / 2, card.slide, {})
    at = at._replace(metadata=at.metadata | {"slide": card.slide_hash})
    origin = at.corner + np.array(box[:2]) * card.mpp
    layers = [
        tissue_layer(prediction.tissue, at),
        _uncertainty(prediction, box, origin),
        *(_heatmap(prediction, index, box, origin) for index in range(len(card.classes))),
        _labels(prediction, box, origin),
    ]
    for _, options, _ in layers:
        options["metadata"][KEY] |= at.metadata | {"named": at.name}
        options["name"] = options["name"].replace(f"({card.slide})", f"({at.name})")
    return layers


def _box(prediction: Prediction) -> Box:
    """Return the box to show, in pixels of the labels: whole pixels of the maps, or everything if it is large."""
    (h, w), stride = prediction.card.shape, prediction.card.stride
    y0, x0, y1, x1 = Corrections(prediction).extent()
    if max(y1 - y0, x1 - x0) > SMALL - 2 * stride:
        return 0, 0, h, w
    y0, x0 = y0 // stride * stride, x0 // stride * stride
    return y0, x0, min(-(-y1 // stride) * stride, h), min(-(-x1 // stride) * stride, w)


def _view_of_maps(prediction: Prediction, maps: Pyramid, box: Box) -> View:
    (y0, x0, y1, x1), stride = box, prediction.card.stride
    map_box = (y0 // stride, x0 // stride, -(-y1 // stride), -(-x1 // stride))
    view = View(maps, map_box, prediction.card.block // stride)
    view.fill(prediction.finished_blocks())
    return view


def _options(prediction: Prediction, view: View, what: str, mpp: float, origin: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "multiscale": len(view.levels) > 1,
        "scale": (mpp, mpp),
        "translate": origin + mpp / 2,
        "units": (UM, UM),
        "metadata": {KEY: {"kind": what, "prediction": prediction, "view": view}},
    }


def _labels(prediction: Prediction, box: Box, origin: NDArray[np.float64]) -> LayerData:
    store = Corrections(prediction)
    view = View(store, box, prediction.card.block)
    view.fill(prediction.finished_blocks() | store.blocks())
    options = _options(prediction, view, "labels", prediction.card.mpp, origin) | {
        "name": f"tissues ({prediction.card.slide})",
        "opacity": 0.5,
        **label_colours(prediction.card.classes),
    }
    return view.data, options, "labels"


def label_colours(classes: Sequence[TissueClass], strength: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return colours and names of labels, as options of a Labels layer.

    Args:
        classes: The classes; label c + 1 is class c.
        strength: Opacity per class name, 0..1; default 1.
    """
    nothing = (0, 0, 0, 0)
    colors: dict[int | None, Any] = {None: nothing, 0: nothing, UNREADABLE: UNREADABLE_COLOR}
    colors[UNSURE] = (*(value / 255 for value in UNSURE_CLASS.rgb), (strength or {}).get(UNSURE_CLASS.name, 1.0))
    for i, tissue in enumerate(classes, start=1):
        colors[i] = (*(value / 255 for value in tissue.rgb), (strength or {}).get(tissue.name, 1.0))
    values = [*range(len(classes) + 1), UNSURE, UNREADABLE]
    names = [UNLABELLED, *(tissue.name for tissue in classes), UNSURE_CLASS.name, UNREADABLE_NAME]
    return {
        "colormap": DirectLabelColormap(color_dict=colors),
        "features": pd.DataFrame({"index": values, "class": names}),
    }


def refresh_labels(viewer: napari.Viewer, prediction: Prediction, box: Box) -> None:
    """Redraw the labels of a result inside a box, in its pixels, after a correction."""
    edge = prediction.card.block
    rows, columns = (range(max(0, box[i]) // edge, -(-box[i + 2] // edge)) for i in (0, 1))
    for layer in labels_of(viewer, prediction):
        view: View = layer.metadata[KEY]["view"]
        view.fill((y, x) for y in rows for x in columns)
        if (layer.data[0] if layer.multiscale else layer.data) is not view.levels[0]:
            layer.data = view.data  # napari copies the data of a layer that is duplicated
        layer.refresh()


def labels_of(viewer: napari.Viewer, prediction: Prediction) -> list[Labels]:
    """List the layers with the labels of a result: one, or copies of it that the user made."""
    layers = our_layers(viewer, prediction.card.slide_hash, "labels")
    same = [each for each in layers if each.metadata[KEY]["prediction"].folder == prediction.folder]
    return [each for each in same if isinstance(each, Labels)]


def _heatmap(prediction: Prediction, index: int, box: Box, origin: NDArray[np.float64]) -> LayerData:
    card = prediction.card
    view = _view_of_maps(prediction, prediction.prototypes[index], box)
    name, mpp = card.classes[index].name, card.mpp * card.stride
    options = _options(prediction, view, "heatmap", mpp, origin) | {
        "name": f"{name} prototypes",
        "scale": (1.0, mpp, mpp),
        "translate": (0.0, *(origin + mpp / 2)),
        "units": ("pixel", UM, UM),
        "axis_labels": ("prototype", "y", "x"),
        "colormap": "magma",
        "contrast_limits": _limits(view),
        "interpolation2d": "linear",
        "opacity": 0.6,
        "visible": False,
    }
    options["metadata"][KEY]["class"] = name
    return view.data, options, "image"


def _limits(view: View) -> tuple[int, int]:
    """Return the contrast limits of a heatmap: cosine 0 to 0.5, or to the maximum if that is higher."""
    return 128, max(192, view.highest)


def _uncertainty(prediction: Prediction, box: Box, origin: NDArray[np.float64]) -> LayerData:
    card = prediction.card
    view = _view_of_maps(prediction, prediction.uncertainty, box)
    options = _options(prediction, view, "uncertainty", card.mpp * card.stride, origin) | {
        "name": f"uncertainty ({card.slide})",
        "colormap": "viridis",
        "contrast_limits": (0, 255),
        "interpolation2d": "linear",
        "opacity": 0.6,
        "visible": False,
    }
    return view.data, options, "image"


def tissue_layer(mask: TissueMask, slide: Shown) -> LayerData:
    """Return layer data of a tissue mask on a slide, hidden."""
    colors: dict[int | None, Any] = {None: (0, 0, 0, 0), 0: (0, 0, 0, 0), 1: TISSUE_COLOR}
    options = {
        "name": f"tissue mask ({slide.name})",
        "scale": (mask.mpp, mask.mpp),
        "translate": slide.corner + mask.mpp / 2,
        "units": (UM, UM),
        "opacity": 0.35,
        "visible": False,
        "colormap": DirectLabelColormap(color_dict=colors),
        "features": pd.DataFrame({"index": [0, 1], "class": ["no tissue", "tissue"]}),
        "metadata": {KEY: {"kind": "tissue", **slide.metadata}},
    }
    return mask.array.astype(np.uint8), options, "labels"


def our_layers(viewer: napari.Viewer, slide: str, *kinds: str) -> list[Layer]:
    """List the layers of a slide, by its fingerprint (`slides.slide_id`), that are of one of `kinds`."""
    return [layer for layer in viewer.layers if kind(layer) in kinds and layer.metadata[KEY].get("slide") == slide]


def shown_prediction(viewer: napari.Viewer, slide: str | None = None) -> Prediction | None:
    """Return the uppermost prediction in the viewer, of `slide` if a fingerprint is given."""
    for layer in reversed(viewer.layers):
        if kind(layer) == "labels" and slide in (None, layer.metadata[KEY].get("slide")):
            return layer.metadata[KEY].get("prediction")
    return None


def show_prediction(viewer: napari.Viewer, prediction: Prediction, slide_layer: Image | None = None) -> Labels:
    """Show a prediction's layers above older predictions of the slide, and return the Labels layer."""
    layers = prediction_layers(prediction, None if slide_layer is None else Shown.by(slide_layer))
    for _ in showing(viewer, prediction, layers):
        pass
    return labels_of(viewer, prediction)[0]


def showing(viewer: napari.Viewer, prediction: Prediction, layers: Sequence[LayerData]) -> Iterator[None]:
    """Show a prediction's layers one per step: napari takes 0.1 s to add a layer, and far longer to remove one.

    Results of a slide stack: the labels of older ones stay, hidden where the new ones cover a part of them, so that no
    two colours mix. Layers of the same result, and the maps of older ones, are reused where the data fit, with the
    visibility that the user chose. The camera is kept as well; napari would reset it when the number of dimensions
    changes.
    """
    slide = prediction.card.slide_hash
    others = [each for each in our_layers(viewer, slide, *KINDS) if not _is_other_result(each, prediction)]
    older = {_role(layer): layer for layer in others}
    kept = {role: older[role] for role, data in ((_role_of(options), data) for data, options, _ in layers)
            if role in older and _fits(older[role], data)}  # fmt: skip
    unused = [layer for layer in older.values() if layer not in kept.values()]
    if unused:
        with viewer.layers.batched_update():  # so that napari collects garbage once, not after each layer
            for layer in unused:
                viewer.layers.remove(layer)
        yield
    for data, options, layer_type in layers:
        old = kept.get(_role_of(options))
        if old is not None and old in viewer.layers:
            _fill(old, data, options)
        else:
            _add(viewer, data, options, layer_type)
        yield
    for labels in our_layers(viewer, slide, "labels"):
        if _is_other_result(labels, prediction):
            labels.visible = labels.visible and not _overlap(labels.metadata[KEY]["prediction"], prediction)
    for labels in labels_of(viewer, prediction):
        labels.visible = True
        viewer.layers.move(viewer.layers.index(labels), len(viewer.layers))
        if not _is_in_use(viewer.layers.selection.active):
            viewer.layers.selection.active = labels


def _add(viewer: napari.Viewer, data: Any, options: dict[str, Any], layer_type: str) -> None:
    """Add a layer; the view stays, and the layer on which the user works."""
    camera = {"center": viewer.scene.camera.center, "zoom": viewer.scene.camera.zoom}
    active = viewer.layers.selection.active
    if getattr(viewer, f"add_{layer_type}")(data, **options).ndim > 2:
        viewer.dims.set_point(0, 0)
    viewer.scene.camera.update(camera)
    if _is_in_use(active):  # else what is drawn next, or half a drag, would go to the new layer
        viewer.layers.selection.active = active


def _is_in_use(layer: Layer | None) -> bool:
    """Return whether the user draws, paints or selects on a layer."""
    return layer is not None and str(layer.mode) != "pan_zoom"


def _is_other_result(layer: Layer, prediction: Prediction) -> bool:
    return kind(layer) == "labels" and layer.metadata[KEY]["prediction"].folder != prediction.folder


def _overlap(one: Prediction, two: Prediction) -> bool:
    boxes = (np.array(each.scope_box()) * each.card.mpp for each in (one, two))
    (top, left, bottom, right), (y0, x0, y1, x1) = boxes
    return bool(top < y1 and y0 < bottom and left < x1 and x0 < right)


def _role_of(options: dict[str, Any]) -> tuple[str, str]:
    metadata = options["metadata"][KEY]
    return metadata["kind"], metadata.get("class", "")


def _role(layer: Layer) -> tuple[str, str]:
    return _role_of({"metadata": layer.metadata})


def _fits(layer: Layer, data: Any) -> bool:
    """Return whether data have as many levels and dimensions as a layer."""
    levels, layer_levels = (
        list(data) if isinstance(data, list) else [data],
        list(layer.data) if layer.multiscale else [layer.data],
    )
    return len(levels) == len(layer_levels) and levels[0].ndim == layer.ndim


def _fill(layer: Layer, data: Any, options: dict[str, Any]) -> None:
    """Put another prediction into a layer, keeping visibility and opacity."""
    layer.metadata.update(options["metadata"])
    for name in ("scale", "translate", "colormap" if isinstance(layer, Labels) else "contrast_limits", "features"):
        if name in options:
            setattr(layer, name, options[name])
    layer.data = data


def show_tissue(viewer: napari.Viewer, mask: TissueMask, slide_layer: Image) -> Labels:
    """Show a tissue mask on a slide, replacing an older one, and return its layer."""
    for layer in our_layers(viewer, slide_id(slide_layer), "tissue"):
        viewer.layers.remove(layer)
    data, options, _ = tissue_layer(mask, Shown.by(slide_layer))
    return viewer.add_labels(data, **(options | {"visible": True}))


def refreshing(viewer: napari.Viewer, prediction: Prediction) -> Iterator[None]:
    """Redraw the visible layers of a prediction, one per step."""
    for layer in _layers_of(viewer, prediction):
        if layer.visible:
            layer.refresh(thumbnail=False, highlight=False, extent=False)
            yield


def completing(viewer: napari.Viewer, prediction: Prediction, finished: Prediction) -> Iterator[None]:
    """Redraw all layers of a prediction, one per step, and attach the finished prediction to them."""
    for layer in _layers_of(viewer, prediction):
        layer.metadata[KEY]["prediction"] = finished
        if kind(layer) == "heatmap":
            layer.contrast_limits = _limits(layer.metadata[KEY]["view"])
        layer.refresh(highlight=False, extent=False)
        yield


def _layers_of(viewer: napari.Viewer, prediction: Prediction) -> list[Layer]:
    layers = our_layers(viewer, prediction.card.slide_hash, *KINDS)
    return [layer for layer in layers if layer.metadata[KEY].get("prediction") is prediction]
