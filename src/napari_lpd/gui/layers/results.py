"""Predictions as layers: the labels of each result; heatmaps, uncertainty, tissue of the uppermost, if asked for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers import Image, Labels, Layer
from napari.utils.colormaps import DirectLabelColormap

from napari_lpd.core.classes import UNLABELLED, UNREADABLE_NAME, UNSURE_CLASS
from napari_lpd.core.files import KEY
from napari_lpd.core.labelling.rule import UNREADABLE, UNSURE
from napari_lpd.gui.layers.pyramid_view import SMALL, View, redraw, restack
from napari_lpd.gui.layers.slides import UM, Shown, kind, slide_id
from napari_lpd.results.corrections import Corrections

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import napari
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
Part = tuple[str, str]  # of a result: one of KINDS, and of a heatmap its class
MASK: Part = ("labels", "")


def parts_of(prediction: Prediction) -> list[Part]:
    """List what can be shown of a result, from below: tissue, uncertainty, a heatmap per class, the labels."""
    return [("tissue", ""), ("uncertainty", ""), *(("heatmap", each.name) for each in prediction.card.classes), MASK]


def prediction_layers(
    prediction: Prediction, slide: Shown | None = None, parts: Iterable[Part] = (MASK,)
) -> list[LayerData]:
    """Return layer data of a prediction.

    Args:
        prediction: A prediction, finished or not.
        slide: How its slide is shown (default: not at all; its first pixel's centre would lie at 0).
        parts: What of it.
    """
    card, box = prediction.card, _box(prediction)
    at = slide or Shown(-np.array(card.slide_mpp) / 2, card.slide, {})
    at = at._replace(metadata=at.metadata | {"slide": card.slide_hash})
    origin = at.corner + np.array(box[:2]) * card.mpp
    layers = []
    for what, tissue in parts:
        if what == "tissue":
            layer = tissue_layer(prediction.tissue, at)
        elif what == "uncertainty":
            layer = _uncertainty(prediction, box, origin)
        elif what == "heatmap":
            layer = _heatmap(prediction, [each.name for each in card.classes].index(tissue), box, origin)
        else:
            layer = _labels(prediction, box, origin, at.name)
        layer[1]["metadata"][KEY] |= at.metadata | {"named": at.name, "prediction": prediction}
        layers.append(layer)
    return layers


def shown_by(labels: Labels) -> Shown:
    """Describe how the slide of a result's labels is shown."""
    about = labels.metadata[KEY]
    mpp, (top, left, *_) = about["prediction"].card.mpp, about["view"].box
    at = labels.translate - mpp / 2 - np.array([top, left]) * mpp
    return Shown(at, about["named"], {name: about[name] for name in ("slide", "layer", "path") if name in about})


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
    view.catch_up(prediction.finished_blocks())
    return view


def _options(view: View, what: str, mpp: float, origin: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "multiscale": len(view.levels) > 1,
        "scale": (mpp, mpp),
        "translate": origin + mpp / 2,
        "units": (UM, UM),
        "metadata": {KEY: {"kind": what, "view": view}},
    }


def _labels(prediction: Prediction, box: Box, origin: NDArray[np.float64], slide: str) -> LayerData:
    store = Corrections(prediction)
    view = View(store, box, prediction.card.block)
    view.catch_up(prediction.finished_blocks())
    view.fill(store.blocks())
    options = _options(view, "labels", prediction.card.mpp, origin) | {
        "name": f"mask ({slide})",
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
        redraw(layer)


def labels_of(viewer: napari.Viewer, prediction: Prediction) -> list[Labels]:
    """List the layers with the labels of a result: one, or copies of it that the user made."""
    layers = our_layers(viewer, prediction.card.slide_hash, "labels")
    same = [each for each in layers if each.metadata[KEY]["prediction"].folder == prediction.folder]
    return [each for each in same if isinstance(each, Labels)]


def _heatmap(prediction: Prediction, index: int, box: Box, origin: NDArray[np.float64]) -> LayerData:
    card = prediction.card
    view = _view_of_maps(prediction, prediction.prototypes[index], box)
    name, mpp = card.classes[index].name, card.mpp * card.stride
    options = _options(view, "heatmap", mpp, origin) | {
        "name": f"{name} heatmap",
        "scale": (1.0, mpp, mpp),
        "translate": (0.0, *(origin + mpp / 2)),
        "units": ("pixel", UM, UM),
        "axis_labels": ("prototype", "y", "x"),
        "colormap": "magma",
        "contrast_limits": _limits(view),
        "interpolation2d": "linear",
        "opacity": 0.6,
    }
    options["metadata"][KEY]["class"] = name
    return view.data, options, "image"


def _limits(view: View) -> tuple[int, int]:
    """Return the contrast limits of a heatmap: cosine 0 to 0.5, or to the maximum if that is higher."""
    return 128, max(192, view.highest)


def _uncertainty(prediction: Prediction, box: Box, origin: NDArray[np.float64]) -> LayerData:
    card = prediction.card
    view = _view_of_maps(prediction, prediction.uncertainty, box)
    options = _options(view, "uncertainty", card.mpp * card.stride, origin) | {
        "name": "uncertainty",
        "colormap": "viridis",
        "contrast_limits": (0, 255),
        "interpolation2d": "linear",
        "opacity": 0.6,
    }
    return view.data, options, "image"


def tissue_layer(mask: TissueMask, slide: Shown) -> LayerData:
    """Return layer data of a tissue mask on a slide."""
    colors: dict[int | None, Any] = {None: (0, 0, 0, 0), 0: (0, 0, 0, 0), 1: TISSUE_COLOR}
    options = {
        "name": "tissue mask",
        "scale": (mask.mpp, mask.mpp),
        "translate": slide.corner + mask.mpp / 2,
        "units": (UM, UM),
        "opacity": 0.35,
        "colormap": DirectLabelColormap(color_dict=colors),
        "features": pd.DataFrame({"index": [0, 1], "class": ["no tissue", "tissue"]}),
        "metadata": {KEY: {"kind": "tissue", **slide.metadata}},
    }
    return mask.array.astype(np.uint8), options, "labels"


def our_layers(viewer: napari.Viewer, slide: str, *kinds: str) -> list[Layer]:
    """List the layers of a slide, by its fingerprint (`slides.slide_id`), that are of one of `kinds`."""
    return [layer for layer in viewer.layers if kind(layer) in kinds and layer.metadata[KEY].get("slide") == slide]


def parts_shown(viewer: napari.Viewer, slide: str) -> dict[Part, Layer]:
    """Find the layers of a slide's results: of the labels, which stack, the uppermost. A previewed tissue is none."""
    layers = our_layers(viewer, slide, *KINDS)
    return {part_of(each.metadata): each for each in layers if "prediction" in each.metadata[KEY]}


def shown_labels(viewer: napari.Viewer, slide: str | None = None) -> Labels | None:
    """Return the uppermost labels of a prediction in the viewer, of `slide` if a fingerprint is given."""
    for layer in reversed(viewer.layers):
        if kind(layer) == "labels" and slide in (None, layer.metadata[KEY].get("slide")):
            return layer if isinstance(layer, Labels) else None
    return None


def shown_prediction(viewer: napari.Viewer, slide: str | None = None) -> Prediction | None:
    """Return the uppermost prediction in the viewer, of `slide` if a fingerprint is given."""
    labels = shown_labels(viewer, slide)
    return None if labels is None else labels.metadata[KEY].get("prediction")


def show_prediction(viewer: napari.Viewer, prediction: Prediction, slide_layer: Image | None = None) -> Labels:
    """Show a prediction's labels above older ones of the slide, and return them; maps that are shown become its own."""
    parts = {MASK} | parts_shown(viewer, prediction.card.slide_hash).keys()
    wanted = [part for part in parts_of(prediction) if part in parts]
    layers = prediction_layers(prediction, None if slide_layer is None else Shown.by(slide_layer), wanted)
    for _ in showing(viewer, prediction, layers):
        pass
    return labels_of(viewer, prediction)[0]


def showing(viewer: napari.Viewer, prediction: Prediction, layers: Sequence[LayerData]) -> Iterator[None]:
    """Show a prediction's layers one per step: napari takes 0.1 s to add a layer, and far longer to remove one.

    Results of a slide stack: the labels of older ones stay, but for what the new ones cover, so that no two colours
    mix. Layers of the same result, and the maps of older ones, are reused where the data fit, with the
    visibility that the user chose. Camera, selection and the tool in hand are kept as well.
    """
    slide = prediction.card.slide_hash
    maps = [(part, each) for part, each in parts_shown(viewer, slide).items() if part != MASK]
    older = dict([*maps, *((MASK, each) for each in labels_of(viewer, prediction))])
    kept = {part: older[part] for part, data in ((part_of(options["metadata"]), data) for data, options, _ in layers)
            if part in older and _fits(older[part], data)}  # fmt: skip
    unused = [layer for part, layer in older.items() if part not in kept]
    if unused:
        remove_layers(viewer, unused)
        yield
    for data, options, layer_type in layers:
        part = part_of(options["metadata"])
        old = kept.get(part)
        if old is not None and old in viewer.layers:
            _fill(old, data, options)
        else:
            seen = {"visible": older[part].visible} if part in older else {}
            _add(viewer, (data, options | seen, layer_type), None if part == MASK else slide)
        yield
    for labels in labels_of(viewer, prediction):
        labels.visible = True
        viewer.layers.move(viewer.layers.index(labels), len(viewer.layers))
    restack_all(viewer, slide)


def show_part(viewer: napari.Viewer, layer: LayerData, instead_of: Layer | None = None) -> Layer:
    """Show a map of a slide's uppermost result below its labels, in place of a layer where one is given."""
    data, options, _ = layer
    about = options["metadata"][KEY]
    about["prediction"] = shown_prediction(viewer, about["slide"])  # it may have finished since the map was read
    if "view" in about and about["view"].catch_up(about["prediction"].finished_blocks()) and "class" in about:
        options["contrast_limits"] = _limits(about["view"])
    old = parts_shown(viewer, about["slide"]).get(part_of(options["metadata"]), instead_of)
    if old is None or old not in viewer.layers or not _fits(old, data):
        return _add(viewer, layer, about["slide"])
    _fill(old, data, options)
    old.name, old.visible = options["name"], True
    return old


def remove_layers(viewer: napari.Viewer, layers: Iterable[Layer]) -> None:
    """Remove layers; the view stays."""
    with _same_view(viewer), viewer.layers.batched_update():  # so that napari collects garbage once, not after each
        for layer in layers:
            viewer.layers.remove(layer)


@contextmanager
def _same_view(viewer: napari.Viewer) -> Iterator[None]:
    """Keep the camera, which napari resets when the number of dimensions changes."""
    camera = {"center": viewer.scene.camera.center, "zoom": viewer.scene.camera.zoom}
    yield
    viewer.scene.camera.update(camera)


def _add(viewer: napari.Viewer, layer: LayerData, below: str | None) -> Layer:
    """Add a layer, below the labels of a slide if one is given; the view stays, and the layer that is selected.

    Else what is drawn next, or half a drag, would go to the new layer.
    """
    active = viewer.layers.selection.active
    masks = [] if below is None else our_layers(viewer, below, "labels")
    added = Layer.create(*layer)
    with _same_view(viewer):
        viewer.layers.insert(viewer.layers.index(masks[0]) if masks else len(viewer.layers), added)
        if added.ndim > 2:
            viewer.dims.set_point(0, 0)
    if active is not None:
        viewer.layers.selection.active = active
    return added


def restack_all(viewer: napari.Viewer, slide: str) -> None:
    """Let no labels of a slide's results mix their colours, as `restack`."""
    restack([each for each in our_layers(viewer, slide, "labels") if isinstance(each, Labels)])


def part_of(metadata: dict[str, Any]) -> Part:
    """Return what of a result a layer with these metadata shows."""
    return metadata[KEY]["kind"], metadata[KEY].get("class", "")


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
    return viewer.add_labels(data, **options)


def refreshing(viewer: napari.Viewer, prediction: Prediction) -> Iterator[None]:
    """Redraw the visible layers of a prediction, one per step."""
    for layer in layers_of(viewer, prediction):
        if layer.visible:
            layer.refresh(thumbnail=False, highlight=False, extent=False)
            yield


def completing(viewer: napari.Viewer, prediction: Prediction, finished: Prediction) -> Iterator[None]:
    """Redraw all layers of a prediction, one per step, and attach the finished prediction to them."""
    layers = layers_of(viewer, prediction)
    for layer in layers:
        layer.metadata[KEY]["prediction"] = finished
    for layer in layers:
        if "view" in layer.metadata[KEY]:
            layer.metadata[KEY]["view"].catch_up(finished.finished_blocks())  # of a map that was asked for at the end
        if kind(layer) == "heatmap":
            layer.contrast_limits = _limits(layer.metadata[KEY]["view"])
        layer.refresh(highlight=False, extent=False)
        yield


def layers_of(viewer: napari.Viewer, prediction: Prediction) -> list[Layer]:
    """List the layers of a result."""
    layers = our_layers(viewer, prediction.card.slide_hash, *KINDS)
    return [layer for layer in layers if layer.metadata[KEY].get("prediction") is prediction]
