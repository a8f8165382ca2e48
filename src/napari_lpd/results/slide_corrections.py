"""Corrections of a slide, kept beside it, whatever results come and go: outlines as GeoJSON, laid over every result.

The outlines follow the pixels of the result that was corrected, so that they come back pixel for pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from napari_lpd.core.geometry import sampled_polygons
from napari_lpd.data.geojson import read_features
from napari_lpd.data.regions import regions_in, write_regions
from napari_lpd.results.corrections import ERASED, Corrections

if TYPE_CHECKING:
    from pathlib import Path

    from napari_lpd.data.regions import Region
    from napari_lpd.results.prediction import Prediction


def corrections_beside(folder: Path, name: str, fingerprint: str) -> Path:
    """Return the path of the corrections of a slide in a folder: two slides of one name have two."""
    return folder / f"{name}.{fingerprint[:8]}.corrections.geojson"


def keep_corrections(prediction: Prediction, path: Path) -> None:
    """Write the corrections of a result as those of its slide; those to classes that it does not have stay as they are.

    Raises:
        LpdError: what is there cannot be read, or the file cannot be written.
    """
    names = {tissue.name for tissue in prediction.card.classes}
    others = [region for region in _kept(path) if not set(region.tissues) <= names]
    regions = [*Corrections(prediction).regions(), *others]
    if regions:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_regions(path, regions, prediction.card.classes)
    else:
        path.unlink(missing_ok=True)


def lay_over(prediction: Prediction, path: Path) -> int:
    """Correct a result as its slide was corrected, where it is not corrected yet; return the number of pixels.

    Raises:
        LpdError: the corrections cannot be read, or the result cannot be written.
    """
    card, corrections = prediction.card, Corrections(prediction)
    codes = {(): ERASED} | {(tissue.name,): i for i, tissue in enumerate(card.classes, start=1)}
    areas = [
        (codes[region.tissues], region.polygon(card.slide_mpp)) for region in _kept(path) if region.tissues in codes
    ]
    tree, edge, count = shapely.STRtree([area for _, area in areas]), card.block, 0
    for y in range(0, card.shape[0], edge):
        for x in range(0, card.shape[1], edge):
            h, w = min(edge, card.shape[0] - y), min(edge, card.shape[1] - x)
            hits = tree.query(shapely.box(*(np.array([x, y, x + w, y + h]) * card.mpp)), predicate="intersects")
            if len(hits):
                values = np.zeros((h, w), np.uint8)
                for code in {areas[i][0] for i in hits}:
                    polygons = [areas[i][1] for i in hits if areas[i][0] == code]
                    values[sampled_polygons(polygons, (y, x), (h, w), card.mpp)] = code
                count += corrections.add((y, x), values)
    return count


def _kept(path: Path) -> list[Region]:
    return regions_in(read_features(path)) if path.exists() else []
