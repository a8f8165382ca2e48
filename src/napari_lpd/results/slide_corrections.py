"""Corrections of a slide, kept beside it, whatever results come and go: outlines as GeoJSON, laid over every result.

The outlines follow the pixels of the result that was corrected, so that they come back pixel for pixel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import shapely

from napari_lpd.core.geometry import sampled_polygons, without_holes
from napari_lpd.data.geojson import read_features
from napari_lpd.data.regions import regions_in, write_regions
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.pyramid import ERASED

if TYPE_CHECKING:
    from pathlib import Path

    from napari_lpd.core.geometry import Box
    from napari_lpd.data.regions import Region
    from napari_lpd.results.prediction import Prediction

MIN_AREA = 1e-2  # level-0 pixels; smaller is what rounding leaves of a cut


def corrections_beside(folder: Path, name: str, fingerprint: str) -> Path:
    """Return the path of the corrections of a slide in a folder: two slides of one name have two."""
    return folder / f"{name}.{fingerprint[:8]}.corrections.geojson"


def keep_corrections(prediction: Prediction, path: Path) -> None:
    """Write the corrections of a result as those of its slide; those that it cannot hold stay as they are.

    These are the corrections to classes that it does not have, and those beside the box around its scope.

    Raises:
        LpdError: what is there cannot be read, or the file cannot be written.
    """
    names, others = {tissue.name for tissue in prediction.card.classes}, []
    y0, x0, y1, x1 = prediction.scope_box()
    factor = prediction.card.mpp / np.array(prediction.card.slide_mpp)
    box = shapely.box(x0 * factor[1], y0 * factor[0], x1 * factor[1], y1 * factor[0])
    for region in _kept(path):
        if set(region.tissues) <= names:
            beside = shapely.get_parts(region.polygon().difference(box))
            pieces = [piece for part in beside if part.area > MIN_AREA for piece in without_holes(part)]
            others += [replace(region, vertices=shapely.get_coordinates(part.exterior)[:-1, ::-1]) for part in pieces]
        else:
            others.append(region)
    write_regions(path, [*Corrections(prediction).regions(), *others], prediction.card.classes)


def lay_over(prediction: Prediction, path: Path, exactly: bool = False) -> int:
    """Correct a result as its slide was corrected, inside the box around its scope; return the number of pixels.

    Args:
        prediction: The result.
        path: The slide's corrections.
        exactly: Also where it is corrected already, and take back what the slide is not corrected to (any more).

    Raises:
        LpdError: the corrections cannot be read, or the result cannot be written.
    """
    card, corrections = prediction.card, Corrections(prediction)
    if not path.exists():
        return 0
    codes = {(): ERASED} | {(tissue.name,): i for i, tissue in enumerate(card.classes, start=1)}
    areas = [
        (codes[region.tissues], region.polygon(card.slide_mpp)) for region in _kept(path) if region.tissues in codes
    ]
    write = corrections.replace if exactly else corrections.add
    stored = corrections.blocks() if exactly else set()
    tree, edge, count = shapely.STRtree([area for _, area in areas]), card.block, 0
    top, left, bottom, right = prediction.scope_box()
    for y in range(top // edge * edge, bottom, edge):
        for x in range(left // edge * edge, right, edge):
            y0, x0, y1, x1 = max(y, top), max(x, left), min(y + edge, bottom), min(x + edge, right)
            hits = tree.query(shapely.box(*(np.array([x0, y0, x1, y1]) * card.mpp)), predicate="intersects")
            if len(hits) or (y // edge, x // edge) in stored:
                values = np.zeros((y1 - y0, x1 - x0), np.uint8)
                for code in {areas[i][0] for i in hits}:
                    polygons = [areas[i][1] for i in hits if areas[i][0] == code]
                    values[sampled_polygons(polygons, (y0, x0), values.shape, card.mpp)] = code
                count += write((y0, x0), values)
    return count


def follow(prediction: Prediction, other: Prediction, box: Box) -> None:
    """Correct a box of another result of the slide, in its pixels, in this one as there, inside the own scope.

    Classes are matched by name; corrections to a class that is missing here are left out.
    """
    (y0, x0, y1, x1), corrections = box, Corrections(prediction)
    stored = Corrections(other).stored_labels((y0, x0), (y1 - y0, x1 - x0))
    found = corrections.resampled(other, (y0, x0), stored)
    if found is None:
        return
    (y, x), values = found
    low = prediction.scope_box()
    top, left = max(low[0] - y, 0), max(low[1] - x, 0)
    values = corrections.codes(other)[values][top : max(low[2] - y, 0), left : max(low[3] - x, 0)]
    if values.size:
        corrections.replace((y + top, x + left), values)


def _kept(path: Path) -> list[Region]:
    return regions_in(read_features(path)) if path.exists() else []
