"""Outlines as GeoJSON the way QuPath 0.5 and later write it, (x, y) in level-0 pixels; written as they are found."""

from __future__ import annotations

import json
import math
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely

from napari_lpd.core.classes import UNREADABLE_NAME, UNSURE_CLASS, TissueClass
from napari_lpd.core.errors import NOTICE, DataError, ExportError, SettingsError
from napari_lpd.core.files import KEY, atomic_write, mark_of
from napari_lpd.core.geometry import outlines, sampled_polygons
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.labelling.rule import UNREADABLE, UNSURE
from napari_lpd.data.geojson import read_features
from napari_lpd.results.corrections import Corrections

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Box
    from napari_lpd.data.geojson import Feature, Frame
    from napari_lpd.results.card import PredictionCard
    from napari_lpd.results.prediction import Prediction

UNREADABLE_RGB = (128, 128, 128)
OUTLINES = mark_of("outlines")
DECIMALS = 3  # of coordinates
MAX_DRAWN = 16_384  # pixels along an edge


def write_geojson(
    prediction: Prediction,
    path: Path,
    simplify_um: float = 0.0,
    overwrite: bool = False,
    counted_from: str = "bounds",
) -> Job[Path]:
    """Write every connected area of the corrected labels as an annotation; whole or not at all.

    Args:
        prediction: What is outlined.
        path: ``*.geojson``.
        simplify_um: Corners that span a triangle of less than this squared are left out; 0 follows every pixel.
        overwrite: Replace a file that is there.
        counted_from: Where coordinates begin: at the scanned part ("bounds"), as in QuPath, or at the "slide".

    Raises:
        ExportError: nothing is labelled, a file is there and `overwrite` is off, or the place cannot be written.
    """
    card, store = prediction.card, Corrections(prediction)
    box = store.extent()
    factor = np.array(card.mpp) / np.array(card.slide_mpp[::-1])
    named = {i: (tissue.name, tissue.rgb) for i, tissue in enumerate(card.classes, start=1)}
    named |= {UNREADABLE: (UNREADABLE_NAME, UNREADABLE_RGB), UNSURE: (UNSURE_CLASS.name, UNSURE_CLASS.rgb)}
    frame = card.frame.counted_from(counted_from)
    about = header_of(card, frame, OUTLINES) | {"simplified_um": simplify_um}
    count = reached = 0
    with atomic_write(path, overwrite, mark=OUTLINES) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(f'{{"type": "FeatureCollection", "{KEY}": {json.dumps(about)}, "features": [')
        for label, polygon in outlines(store.levels[0], box, simplify_um / card.mpp):
            placed = shapely.transform(polygon, lambda corners: corners * factor - frame.origin)
            file.write(("," if count else "") + "\n" + feature(placed, np.ones(2), *named[label]))
            count += 1
            reached = max(reached, int(polygon.bounds[3]) - box[0])
            yield Progress(reached, box[2] - box[0], "rows outlined")
        if not count:
            raise ExportError(f"{prediction.folder}: nothing is labelled in it, so there is nothing to outline")
        file.write("\n]}\n")
    return path


def header_of(card: PredictionCard, frame: Frame, kind: str) -> dict[str, Any]:
    """Describe the result that outlines in a file are of."""
    return frame.header | {
        "kind": kind,
        "slide_mpp": card.slide_mpp,
        "classes": [tissue.model_dump() for tissue in card.classes],
        "model": card.model,
        "model_hash": card.model_hash,
        "mpp": card.mpp,
        "notice": NOTICE,
    }


def feature(
    polygon: shapely.Polygon,
    factor: NDArray[np.float64],
    name: str,
    rgb: tuple[int, int, int],
    more: Mapping[str, Any] | None = None,
) -> str:
    """One annotation as JSON.

    Args:
        polygon: (x, y) in any pixels.
        factor: Level-0 pixels per pixel, (x, y).
        name: Its classification.
        rgb: The classification's colour.
        more: Further properties.
    """
    placed = shapely.orient_polygons(shapely.transform(polygon, lambda corners: np.round(corners * factor, DECIMALS)))
    properties = {"objectType": "annotation", "classification": {"name": name, "color": list(rgb)}, **(more or {})}
    return (
        f'{{"type": "Feature", "id": "{uuid.uuid4()}", "geometry": {shapely.to_geojson(placed)},'
        f' "properties": {json.dumps(properties)}}}'
    )


def read_shapes(path: Path, card: PredictionCard | None = None, counted_from: str = "bounds") -> list[Feature]:
    """Read the outlines of a GeoJSON file in level-0 pixels, written by us, by QuPath or by hand.

    Args:
        path: The file.
        card: The prediction to which they belong, if they must belong to one.
        counted_from: Where its coordinates begin, see `Frame.of`.

    Raises:
        DataError: as `read_features`, or no polygons.
    """
    shapes = read_features(path, None if card is None else card.frame.counted_from(counted_from)).features
    if not shapes:
        raise DataError(f"{path}: holds no polygons; outline at least one region")
    return shapes


def labels_of_shapes(
    shapes: Sequence[Feature], classes: Sequence[TissueClass], factor: tuple[float, float], box: Box
) -> NDArray[np.uint8]:
    """Draw shapes as labels by the middles of the pixels; later shapes lie on top.

    Args:
        shapes: What is drawn.
        classes: The classes 1, 2, …, by name.
        factor: (y, x) drawn pixels per level-0 pixel.
        box: (y0, x0, y1, x1) in drawn pixels.

    Raises:
        DataError: a shape's classification is none of the classes.
    """
    names = {tissue.name: i for i, tissue in enumerate(classes, start=1)}
    names |= {UNREADABLE_NAME: UNREADABLE, UNSURE_CLASS.name: UNSURE}
    y0, x0, y1, x1 = box
    drawn = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for each in shapes:
        if each.classification not in names:
            raise DataError(f"classification {each.classification!r} is none of {', '.join(names)}")
        placed = shapely.transform(each.geometry, lambda corners: corners * np.array(factor[::-1]))
        left, top, right, bottom = placed.bounds
        rows = slice(max(int(top) - y0, 0), max(math.ceil(bottom) - y0, 0))
        columns = slice(max(int(left) - x0, 0), max(math.ceil(right) - x0, 0))
        part = drawn[rows, columns]
        if part.size:
            origin = (y0 + rows.start, x0 + columns.start)
            part[sampled_polygons([placed], origin, part.shape, 1.0)] = names[each.classification]
    return drawn


class DrawnMask(NamedTuple):
    """A mask that was exported as outlines, drawn again.

    Attributes:
        labels: (h, w) uint8; c + 1 is class c.
        mpp: µm per pixel.
        origin: (y, x) of the first pixel, in pixels.
        classes: Its classes.
        slide: Name of its slide.
    """

    labels: NDArray[np.uint8]
    mpp: float
    origin: tuple[int, int]
    classes: tuple[TissueClass, ...]
    slide: str


def read_mask(path: Path, most: int = MAX_DRAWN) -> DrawnMask | None:
    """Draw the mask that `write_geojson` outlined: what was exported, where it was not simplified.

    Args:
        path: The file.
        most: Longest edge in pixels; a larger mask is drawn with its pixels doubled, as often as needed.

    Returns:
        None where the outlines are not a mask of ours, but somebody's drawing.

    Raises:
        DataError: as `read_features`, or what the file says of itself is damaged.
    """
    shapes, about, _ = read_features(path)
    if "slide_mpp" not in about or not shapes:
        return None
    try:
        mpp, slide_mpp = float(about["mpp"]), np.array(about["slide_mpp"], float)
        if slide_mpp.shape != (2,) or not min(mpp, *slide_mpp) > 0:
            raise ValueError(f"mpp {mpp}, slide_mpp {slide_mpp}")
        classes = tuple(TissueClass.build(entry) for entry in about["classes"])
        slide = str(about["slide"])
    except (KeyError, TypeError, ValueError, SettingsError) as error:
        raise DataError(f"{path}: what it says of its mask is damaged ({error}); export it again") from error
    bounds = np.array([each.geometry.bounds for each in shapes])
    corners = np.concatenate([bounds[:, :2].min(0), bounds[:, 2:].max(0)]) * np.tile(slide_mpp[::-1], 2)
    while max(corners[2:] - corners[:2]) / mpp > most:
        mpp *= 2
    x0, y0 = (int(value) for value in np.floor(corners[:2] / mpp + 1e-6))
    x1, y1 = (int(value) for value in np.ceil(corners[2:] / mpp - 1e-6))
    factor = (float(slide_mpp[0]) / mpp, float(slide_mpp[1]) / mpp)
    return DrawnMask(labels_of_shapes(shapes, classes, factor, (y0, x0, y1, x1)), mpp, (y0, x0), classes, slide)
