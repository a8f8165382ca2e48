"""Slides as napari layers: their files, position, resolution and visible part.

napari puts the CENTRE of a layer's first pixel at `translate`. A slide's corner therefore lies half a pixel before
its translate, and a coarser layer with the same corner has a larger translate.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
from napari.layers import Image, Points, Shapes
from napari.utils.notifications import show_info

from napari_lpd.core.errors import DataError, SlideError
from napari_lpd.core.files import KEY
from napari_lpd.data.project import regions_beside
from napari_lpd.samples import is_sample
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.resolution import PLAUSIBLE_MPP
from napari_lpd.slides.slide import Slide

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer
    from napari.utils.events import Event
    from numpy.typing import NDArray

_OF_ARRAYS: WeakKeyDictionary[Image, tuple[Any, str]] = WeakKeyDictionary()  # data, fingerprint
_HOMES: WeakValueDictionary[str, Image] = WeakValueDictionary()  # slide layers by their ids in napari
_PLACES: WeakKeyDictionary[Image, NDArray[np.float64]] = WeakKeyDictionary()  # of slide layers that are followed
UM = "micrometer"
UM_AT_1X = 10.0  # µm per pixel, as is usual
AROUND = 3.0  # times the size of a box is in view when the camera moves to it
EDIT = "edit"  # kind of the layer on which a mask is corrected
COMPARED = "compared"  # kind of temporary layers in the side-by-side view, ignored by all other modules


def kind(layer: Layer) -> str:
    """Return the kind of one of our layers: slide, labels, heatmap, regions, compared, …; "" for other layers."""
    return str(layer.metadata.get(KEY, {}).get("kind", ""))


def slide_layers(viewer: napari.Viewer) -> list[Image]:
    """List the layers that can serve as a slide: RGB images, those from our reader first."""
    images = [layer for layer in viewer.layers if isinstance(layer, Image) and layer.rgb and kind(layer) != COMPARED]
    return sorted(images, key=lambda layer: kind(layer) != "slide")


def hold_in_place(layer: Layer) -> None:
    """Leave napari's transform tool of a layer without effect: a drag would move it off what belongs to it.

    A Shapes layer is locked, too, so that it is emptied and not removed by a click: napari 0.9 with OpenGL in software
    ends in a segmentation fault when one is removed and another is added. What is painted on a mask would be neither
    measured nor exported: napari's brush is for the layer on which the mask is corrected.
    """
    if isinstance(layer, Shapes | Points) or kind(layer) == EDIT:
        layer.locked = True
    if kind(layer) == "labels":
        layer.events.editable.disconnect(_refuse_to_edit)
        layer.events.editable.connect(_refuse_to_edit)
        layer.editable = False
    layer.events.mode.disconnect(_refuse_transform)
    layer.events.mode.connect(_refuse_transform)
    if layer.mode == "transform":
        layer.mode = "pan_zoom"


def _refuse_transform(event: Event) -> None:
    if event.source.mode == "transform":
        event.source.mode = "pan_zoom"
        show_info(f"{event.source.name} stays where it is: slides, masks and regions belong on each other")


def _refuse_to_edit(event: Event) -> None:
    event.source.editable = False


def slide_of(layer: Image) -> Slide:
    """Open the slide of `layer`: its file if it came from our reader, else its arrays.

    Raises:
        SlideError: the file is missing, the resolution is unknown, or the layer is rotated.
    """
    if not np.allclose(layer.affine.affine_matrix, np.eye(layer.ndim + 1)) or not np.allclose(
        layer.rotate, np.eye(layer.ndim)
    ):
        raise SlideError(f"{layer.name} is rotated or has an affine transform: remove it first")
    slide = _open(layer)
    if slide.fingerprint != layer.metadata.get(KEY, {}).get("fingerprint", slide.fingerprint):
        slide.close()
        raise SlideError(
            f"{slide_path(layer)} has changed since it was opened here: remove {layer.name}, open it again"
        )
    if not slide.has_mpp:
        slide.close()
        raise SlideError(f"{slide.name} has no resolution ({slide.mpp_source}): enter its µm per pixel")
    return slide


def _open(layer: Image) -> Slide:
    path = slide_path(layer)
    if path is not None:
        return open_slide(path, layer.metadata[KEY].get("mpp"), image=slide_image(layer))
    in_um = all(str(unit) == UM for unit in layer.units)
    scale = (float(layer.scale[-2]), float(layer.scale[-1]))
    levels = list(layer.data) if layer.multiscale else [layer.data]
    return Slide.from_levels(levels, scale if in_um else None, layer.name, "scale of the layer")


def slide_id(layer: Image) -> str:
    """Return which slide a layer shows, whatever layer and file are called: the slide's fingerprint."""
    known = layer.metadata.get(KEY, {}).get("fingerprint")
    if known is not None:
        return str(known)
    data, found = _OF_ARRAYS.get(layer, (None, ""))
    if data is not layer.data:
        try:
            with _open(layer) as slide:
                found = slide.fingerprint
        except SlideError:  # of a type that is no slide's
            found = str(layer.unique_id)
        _OF_ARRAYS[layer] = layer.data, found
    return found


def of_slide(layer: Image) -> dict[str, str]:
    """Return metadata that tie another layer to a slide layer: to the slide, its file and the layer itself."""
    _HOMES[str(layer.unique_id)] = layer
    path = slide_path(layer)
    return {"slide": slide_id(layer), "layer": str(layer.unique_id)} | ({} if path is None else {"path": str(path)})


def belongs(layer: Layer, slide_layer: Image) -> bool:
    """Return whether a layer is of the slide of `slide_layer`: of the same slide, and of its file if it names one."""
    about, path = layer.metadata.get(KEY, {}), slide_path(slide_layer)
    if about.get("path", path and str(path)) != (path and str(path)):
        return False
    return bool(about.get("slide") == slide_id(slide_layer))


def home_of(layer: Layer, slide_layer: Image) -> Image:
    """Return the slide layer that a layer was laid on: `slide_layer`, or another one of its slide."""
    home = _HOMES.get(layer.metadata.get(KEY, {}).get("layer", ""))
    return slide_layer if home is None or not belongs(layer, slide_layer) else home


def follow(viewer: napari.Viewer, slide_layer: Image) -> None:
    """From now on move with a slide layer what was laid on it."""

    def move() -> None:
        shift = slide_layer.translate[-2:] - _PLACES[slide_layer]
        _PLACES[slide_layer] = np.array(slide_layer.translate[-2:])
        for layer in viewer.layers:
            if layer.metadata.get(KEY, {}).get("layer") == str(slide_layer.unique_id):
                layer.translate = layer.translate + np.array([0.0] * (layer.ndim - 2) + shift.tolist())

    if slide_layer not in _PLACES:
        _PLACES[slide_layer] = np.array(slide_layer.translate[-2:])
        slide_layer.events.translate.connect(move)


def bring_to_front(viewer: napari.Viewer, slide_layer: Image) -> None:
    """Show a slide above all others, with what belongs to it, and fit it into the view."""
    slide_layer.visible = True
    ours = [each for each in viewer.layers if each is slide_layer or belongs(each, slide_layer)]
    viewer.layers.move_multiple([viewer.layers.index(each) for each in ours], len(viewer.layers))
    size = np.array((slide_layer.data[0] if slide_layer.multiscale else slide_layer.data).shape[:2])
    size = size * slide_layer.scale[-2:]
    middle = corner(slide_layer) + size / 2
    viewer.scene.camera.center = (*viewer.scene.camera.center[:-2], *middle)
    viewer.scene.camera.zoom = 0.95 * float(np.min(np.array(viewer.canvas.size) / size))


def show_box(
    viewer: napari.Viewer,
    slide_layer: Image,
    box: tuple[float, float, float, float],
    around: float = AROUND,
    least_zoom: float = 0,
) -> None:
    """Move the camera to a box.

    Args:
        viewer: The viewer.
        slide_layer: The slide.
        box: (y0, x0, y1, x1) in µm from the slide's corner.
        around: Times the box's longer edge that is in view.
        least_zoom: Of the camera.
    """
    camera, size = viewer.scene.camera, around * max(box[2] - box[0], box[3] - box[1])
    camera.zoom = max(least_zoom, min(viewer.canvas.size) / size)
    middle = corner(slide_layer) + np.array([box[0] + box[2], box[1] + box[3]]) / 2
    camera.center = (*camera.center[:-2], *middle)


class Shown(NamedTuple):
    """How a slide is shown: position (y, x) of its outer corner in the world, its name, and metadata (`of_slide`)."""

    corner: NDArray[np.float64]
    name: str
    metadata: dict[str, str]

    @classmethod
    def by(cls, layer: Image) -> Shown:
        """Describe a slide layer."""
        return cls(corner(layer), layer.name, of_slide(layer))


def slide_path(layer: Image) -> Path | None:
    """Return the file of a slide layer, if our reader opened it."""
    path = layer.metadata.get(KEY, {}).get("path")
    return None if path is None else Path(path)


def slide_image(layer: Image) -> int | None:
    """Return the number of the image in the slide's file, where it is another than the biggest."""
    image: int | None = layer.metadata.get(KEY, {}).get("image")
    return image


def regions_file(layer: Image) -> Path | None:
    """Return where the regions of a slide layer are saved: beside its file, if it has one."""
    path = slide_path(layer)
    return None if path is None else regions_beside(path, slide_image(layer))


def folder_beside(layer: Image | None) -> Path:
    """Return the folder of a slide's file; the home folder for a sample, no file, or a folder without write access."""
    path = None if layer is None else slide_path(layer)
    beside = path is not None and not is_sample(path) and os.access(path.parent, os.W_OK)
    return path.parent if path is not None and beside else Path.home()


def entered_mpp(text: str, whose: str) -> float:
    """Parse µm per pixel as entered by the user.

    Raises:
        DataError: the field is empty, not a number, or out of the plausible range.
    """
    text, (least, most) = text.strip().replace(",", "."), PLAUSIBLE_MPP
    magnification = re.fullmatch(r"(\d+(?:\.\d+)?)\s*[x×]", text, re.IGNORECASE)
    try:
        value = UM_AT_1X / float(magnification[1]) if magnification else float(text)
        reason = f"{value:g} is not between {least:g} and {most:g}"
    except (ValueError, ZeroDivisionError):
        value, reason = 0.0, f"{text!r} is not a number" if text else "the files do not contain it"
    if not least <= value <= most:
        raise DataError(f"enter {whose} µm per pixel: {reason} (0.5 is usual at 20x, 1 at 10x; 20x is taken, too)")
    return value


def is_entered(layer: Image) -> bool:
    """Return whether the user has entered the resolution of a slide layer, or has to."""
    return "mpp" in layer.metadata.get(KEY, {}) or any(str(unit) != UM for unit in layer.units)


def set_resolution(layer: Image, mpp: float) -> None:
    """Set the resolution of a slide layer in µm per pixel, if its file has none."""
    layer.units = (UM,) * layer.ndim
    layer.scale = (mpp,) * layer.ndim
    layer.metadata[KEY] = {**layer.metadata.get(KEY, {}), "mpp": mpp, "mpp_source": "given by the user"}


def change_resolution(viewer: napari.Viewer, layer: Image, mpp: float) -> int:
    """Set the resolution of a slide that is shown, as `set_resolution`, and return the number of masks removed.

    The view and the regions stay on what they show; results were computed with another resolution and are removed.

    Raises:
        DataError: a mask on the slide is being corrected.
    """
    ours = [each for each in viewer.layers if each is not layer and kind(each) and belongs(each, layer)]
    if any(kind(each) == EDIT for each in ours):
        raise DataError("the mask is being corrected: press Apply or Discard first")
    outdated = [each for each in ours if not isinstance(each, Shapes)]
    with viewer.layers.batched_update():
        for each in outdated:
            viewer.layers.remove(each)
    factor, before = mpp / float(layer.scale[-1]), corner(layer)
    set_resolution(layer, mpp)
    for each in ours:
        if isinstance(each, Shapes):
            each.scale, each.units = layer.scale, layer.units
    camera = viewer.scene.camera
    seen = corner(layer) + (np.array(camera.center[-2:]) - before) * factor
    camera.center, camera.zoom = (*camera.center[:-2], *seen), camera.zoom / factor
    return sum(kind(each) == "labels" for each in outdated)


def corner(layer: Image) -> NDArray[np.float64]:
    """Return the world position (y, x) of the outer corner of a slide layer's first pixel."""
    return np.asarray(layer.translate[-2:] - layer.scale[-2:] / 2, dtype=float)


def visible_box_um(viewer: napari.Viewer, layer: Image) -> tuple[float, float, float, float]:
    """Return the visible box (y0, x0, y1, x1) of a slide layer, in µm from the slide's corner.

    Raises:
        SlideError: the slide is out of view.
    """
    boxes = viewer.canvas.grid.actual_shape(viewer.layers)  # napari's grid divides the canvas
    half = np.array(viewer.canvas.size) / boxes / viewer.scene.camera.zoom / 2
    middle = np.array(viewer.scene.camera.center[-2:]) - corner(layer)
    size = np.array((layer.data[0] if layer.multiscale else layer.data).shape[:2]) * layer.scale[-2:]
    low, high = np.clip(middle - half, 0, size), np.clip(middle + half, 0, size)
    if (high <= low).any():
        raise SlideError(f"{layer.name} is out of view: move to it, or predict the whole slide")
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
