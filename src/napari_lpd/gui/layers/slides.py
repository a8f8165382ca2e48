"""Slides as layers: a napari layer as a Slide, where it lies, what of it is in view.

napari puts the CENTRE of a layer's first pixel at `translate`. A slide's corner therefore lies half a pixel before
its translate, and a coarser layer that starts at the same corner has a larger translate.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image

from napari_lpd.core.errors import DataError, SlideError
from napari_lpd.core.files import KEY
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.slide import PLAUSIBLE_MPP, Slide

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer
    from numpy.typing import NDArray

UM = "micrometer"
COMPARED = "compared"  # kind of the layers that stand side by side for a while; every other part leaves them alone


def kind(layer: Layer) -> str:
    """What a layer is to us: slide, labels, heatmap, regions, compared, or nothing."""
    return str(layer.metadata.get(KEY, {}).get("kind", ""))


def slide_layers(viewer: napari.Viewer) -> list[Image]:
    """Layers that can serve as a slide: RGB images, ours first."""
    images = [layer for layer in viewer.layers if isinstance(layer, Image) and layer.rgb and kind(layer) != COMPARED]
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


def entered_mpp(text: str, whose: str) -> float:
    """µm per pixel as somebody entered them.

    Raises:
        DataError: nothing is entered, or no number that can be one.
    """
    text, (least, most) = text.strip().replace(",", "."), PLAUSIBLE_MPP
    try:
        value = float(text)
        said = f"{value:g} is not between {least:g} and {most:g}"
    except ValueError:
        value, said = 0.0, f"{text!r} is no number" if text else "the files do not say it"
    if not least <= value <= most:
        raise DataError(f"{whose} µm per pixel is wanted: {said} (0.5 is usual at 20x, 1 at 10x)")
    return value


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
    boxes = viewer.canvas.grid.actual_shape(viewer.layers)  # napari's grid shares the canvas out
    half = np.array(viewer.canvas.size) / boxes / viewer.scene.camera.zoom / 2
    middle = np.array(viewer.scene.camera.center[-2:]) - corner(layer)
    size = np.array((layer.data[0] if layer.multiscale else layer.data).shape[:2]) * layer.scale[-2:]
    low, high = np.clip(middle - half, 0, size), np.clip(middle + half, 0, size)
    if (high <= low).any():
        raise SlideError(f"nothing of {layer.name} is in view: move to it, or predict the whole slide")
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
