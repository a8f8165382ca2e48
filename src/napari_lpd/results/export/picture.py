"""Pictures of results: the labels over the slide, with a scale bar and a legend."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from napari_lpd.core.classes import UNREADABLE_NAME, UNSURE_CLASS
from napari_lpd.core.errors import NOTICE, ExportError
from napari_lpd.core.files import atomic_write, mark_of
from napari_lpd.core.labelling.rule import UNREADABLE, UNSURE
from napari_lpd.core.pictures.fonts import draw_text, width_of
from napari_lpd.results.corrections import Corrections

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Box
    from napari_lpd.results.prediction import Prediction
    from napari_lpd.slides.slide import Slide

PICTURE = mark_of("picture")
EDGE = 2000  # pixels of the longer edge, at most
OPACITY = 0.5
TEXT, GAP = 18, 12  # pixels
UNREADABLE_RGB = (90, 90, 90)


def write_overlay(prediction: Prediction, path: Path, slide: Slide, overwrite: bool = False) -> Path:
    """Write the corrected labels over the slide as a PNG of at most 2000 pixels; of a region, its bounding box.

    Raises:
        ExportError: `slide` is not the predicted one, the file exists and `overwrite` is off, or cannot be written.
        SlideError: the slide cannot be read.
    """
    card = prediction.card
    if slide.fingerprint != card.slide_hash:
        raise ExportError(f"{prediction.folder}: is a result of another slide ({card.slide}), not of {slide.name}")
    y0, x0, y1, x1 = prediction.scope_box()
    scale = max(1.0, max(y1 - y0, x1 - x0) / EDGE)  # the labels' pixels per pixel of the picture
    mpp = card.mpp * scale
    origin = (math.floor(y0 / scale), math.floor(x0 / scale))
    shape = (max(1, math.ceil(y1 / scale) - origin[0]), max(1, math.ceil(x1 / scale) - origin[1]))
    image, _ = slide.read_tolerant(origin, shape, mpp)
    labels = _labels_at(prediction, (*origin, origin[0] + shape[0], origin[1] + shape[1]), scale)
    colors = np.zeros((256, 3), np.float32)
    for i, tissue in enumerate(card.classes, start=1):
        colors[i] = tissue.rgb
    colors[UNREADABLE], colors[UNSURE] = UNREADABLE_RGB, UNSURE_CLASS.rgb
    painted = ((labels > 0) & (labels <= len(card.classes))) | (labels == UNREADABLE) | (labels == UNSURE)
    mixed = (
        np.where(painted[..., None], (1 - OPACITY) * image + OPACITY * colors[labels], image).round().astype(np.uint8)
    )
    picture = _framed(Image.fromarray(mixed), prediction, mpp)
    about = PngInfo()
    about.add_text("Software", PICTURE)
    with atomic_write(path, overwrite, mark=PICTURE) as partial:
        picture.save(partial, "PNG", dpi=(25400 / mpp, 25400 / mpp), pnginfo=about)
    return path


def _labels_at(prediction: Prediction, box: Box, scale: float) -> NDArray[np.uint8]:
    """Sample the labels at the centres of the picture's pixels, from the coarsest level that is fine enough."""
    levels = Corrections(prediction).levels
    level = min(int(math.log2(scale)), len(levels) - 1)
    step, (h, w) = scale / 2**level, levels[level].shape
    rows, columns = (
        np.floor((np.arange(first, last) + 0.5) * step).astype(np.intp).clip(0, limit - 1)
        for first, last, limit in ((box[0], box[2], h), (box[1], box[3], w))
    )
    labels = np.empty((len(rows), len(columns)), np.uint8)
    for top in range(0, len(rows), 256):
        strip_rows = rows[top : top + 256]
        strip = levels[level][strip_rows[0] : strip_rows[-1] + 1, columns[0] : columns[-1] + 1]
        labels[top : top + 256] = strip[strip_rows - strip_rows[0]][:, columns - columns[0]]
    return labels


def _framed(image: Image.Image, prediction: Prediction, mpp: float) -> Image.Image:
    """Add legend, scale bar and notice below the picture."""
    classes = prediction.card.classes
    width = max(image.width, 480)
    named = [(tissue.name, tissue.rgb) for tissue in classes]
    unsure = f"{UNSURE_CLASS.name} ({prediction.card.settings.labels.described()})"
    named += [(unsure, UNSURE_CLASS.rgb)] if prediction.unsure_mm2 else []
    named += [(UNREADABLE_NAME, UNREADABLE_RGB)] if prediction.unreadable else []
    items = [(name, rgb, TEXT + GAP // 2 + width_of(name, TEXT) + 2 * GAP) for name, rgb in named]
    rows: list[list[tuple[str, tuple[int, int, int], float]]] = [[]]
    for item in items:
        if rows[-1] and sum(used for *_, used in rows[-1]) + item[2] > width - 2 * GAP:
            rows.append([])
        rows[-1].append(item)
    line = TEXT + GAP
    framed = Image.new("RGB", (width, image.height + (len(rows) + 2) * line + 2 * GAP), "white")
    framed.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(framed)
    y = image.height + GAP
    for row in rows:
        x = float(GAP)
        for name, rgb, used in row:
            draw.rectangle((x, y, x + TEXT, y + TEXT), fill=tuple(round(127.5 + c / 2) for c in rgb), outline=rgb)
            draw_text(draw, (x + TEXT + GAP // 2, y - 2), name, "black", TEXT)
            x += used
        y += line
    length, text = scale_bar(mpp, image.width)
    draw.rectangle((GAP, y + TEXT // 2 - 2, GAP + length - 1, y + TEXT // 2 + 2), fill="black")
    draw_text(draw, (2 * GAP + length, y - 2), text, "black", TEXT)
    about = f"{prediction.card.slide}, {prediction.card.model}. {NOTICE}"
    draw_text(draw, (GAP, y + line), about, "black", TEXT)
    return framed


def scale_bar(mpp: float, width: int) -> tuple[int, str]:
    """Return length in pixels and text of a scale bar: the longest 1, 2 or 5 of a power of ten within a third."""
    longest = width * mpp / 3
    power = 10 ** math.floor(math.log10(longest))
    um = power * max(step for step in (1, 2, 5) if step * power <= longest)
    return round(um / mpp), f"{um / 1000:g} mm"
