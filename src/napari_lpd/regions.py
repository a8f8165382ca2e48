"""Weak labels drawn on a slide: regions with one or several tissue names, kept as GeoJSON that QuPath opens too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from shapely.geometry import Polygon, shape

from napari_lpd.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.classes import TissueClass


@dataclass(frozen=True)
class Region:
    """An outlined part of a slide and what occurs in it.

    Attributes:
        vertices: (n, 2) float, (y, x) in level-0 pixels, without the closing repetition.
        tissues: Names of all tissues that occur inside; empty means none of the classes (glass, say).
    """

    vertices: NDArray[np.float64]
    tissues: tuple[str, ...]

    def polygon(self, factor: tuple[float, float] = (1.0, 1.0)) -> Polygon:
        """As a shapely polygon in (x, y), coordinates multiplied by `factor` (y, x); self-crossings are mended."""
        polygon = Polygon((self.vertices * np.array(factor))[:, ::-1])
        return polygon if polygon.is_valid else polygon.buffer(0)


def read_regions(path: Path, classes: Sequence[str] | None = None) -> list[Region]:
    """Read regions from a GeoJSON FeatureCollection in level-0 pixels (x, y).

    A feature's tissues are its property ``tissues`` (a list), else its QuPath classification, split at " + ".

    Args:
        path: The file.
        classes: Allowed tissue names; None allows all.

    Raises:
        DataError: missing file, no GeoJSON, no polygons, or a tissue name that is not among `classes`.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        features = document["features"] if isinstance(document, dict) else document
        regions = [region for feature in features for region in _regions_of(feature)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not readable as GeoJSON regions ({error})") from error
    if not regions:
        raise DataError(f"{path}: holds no polygons; outline at least one region per tissue")
    for region in regions:
        for tissue in region.tissues:
            if classes is not None and tissue not in classes:
                raise DataError(f"{path}: tissue {tissue!r} is not among the classes {', '.join(classes)}")
    return regions


def _regions_of(feature: dict[str, Any]) -> list[Region]:
    properties = feature.get("properties") or {}
    classification = (properties.get("classification") or {}).get("name", "")
    tissues = properties.get("tissues", [name.strip() for name in classification.split("+") if name.strip()])
    geometry = shape(feature["geometry"])
    polygons = getattr(geometry, "geoms", [geometry])
    return [
        Region(np.asarray(polygon.exterior.coords)[:-1, 1::-1].astype(float), tuple(tissues))
        for polygon in polygons
        if polygon.geom_type == "Polygon" and polygon.area > 0
    ]


def write_regions(path: Path, regions: Iterable[Region], classes: Sequence[TissueClass]) -> Path:
    """Write regions as GeoJSON (level-0 pixels, closed rings, QuPath classification with the first tissue's colour)."""
    colors = {tissue.name: list(tissue.rgb) for tissue in classes}
    features = []
    for region in regions:
        ring = region.vertices[:, ::-1].round(2).tolist()
        name = " + ".join(region.tissues) or "none"
        color = colors.get(region.tissues[0], [128, 128, 128]) if region.tissues else [128, 128, 128]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
                "properties": {
                    "objectType": "annotation",
                    "tissues": list(region.tissues),
                    "classification": {"name": name, "color": color},
                },
            }
        )
    text = json.dumps({"type": "FeatureCollection", "features": features}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
