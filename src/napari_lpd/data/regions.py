"""Weak labels drawn on a slide: regions with one or several tissue names, kept as GeoJSON that QuPath opens too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely import GEOSException
from shapely.geometry import Polygon, shape

from napari_lpd.core.classes import COLORS, TissueClass
from napari_lpd.core.errors import DataError, reason
from napari_lpd.core.files import atomic_write
from napari_lpd.core.geometry import without_holes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

NONE = "none"  # what a region carries that was looked at and holds none of the classes: glass, say


@dataclass(frozen=True)
class Region:
    """An outlined part of a slide and what occurs in it.

    Attributes:
        vertices: (n, 2) float, (y, x) in level-0 pixels, without the closing repetition.
        tissues: Names of all tissues that occur inside; empty means none of the classes (glass, say).
        named: Whether anybody has said what is inside; False for an outline alone.
    """

    vertices: NDArray[np.float64]
    tissues: tuple[str, ...]
    named: bool = True

    def polygon(self, factor: tuple[float, float] = (1.0, 1.0)) -> Polygon:
        """As a shapely polygon in (x, y), coordinates multiplied by `factor` (y, x); self-crossings are mended."""
        polygon = Polygon((self.vertices * np.array(factor))[:, ::-1])
        return polygon if polygon.is_valid else polygon.buffer(0)


def read_regions(path: Path, classes: Sequence[str] | None = None) -> list[Region]:
    """Read regions from a GeoJSON FeatureCollection in level-0 pixels (x, y).

    A feature's tissues are its property ``tissues`` (a list), else its QuPath classification, split at " + "; "none"
    and QuPath's classes that end in * (``Ignore*``) mean none of the classes. A polygon with holes comes back in parts
    without them.

    Args:
        path: The file.
        classes: Allowed tissue names, and every region must carry one or none; None allows all.

    Raises:
        DataError: missing file, no GeoJSON, no polygons, a tissue name that is not among `classes`, or a region of
            which nothing is said.
    """
    regions = [region for feature in _features(path) for region in _regions_of(path, feature)]
    if not regions:
        raise DataError(f"{path}: holds no polygons; outline at least one region")
    if classes is None:
        return regions
    if unnamed := sum(not region.named for region in regions):
        raise DataError(f"{path}: {unnamed} of {len(regions)} regions carry no tissue; give them one, or delete them")
    for region in regions:
        for tissue in region.tissues:
            if tissue not in classes:
                raise DataError(f"{path}: tissue {tissue!r} is not among the classes {', '.join(classes)}")
    return regions


def classes_in(path: Path) -> list[TissueClass]:
    """The tissue classes that occur in a GeoJSON file, in their order there, with QuPath's colours.

    Raises:
        DataError: missing file, or no GeoJSON.
    """
    found: dict[str, TissueClass] = {}
    for feature in _features(path):
        given = ((feature.get("properties") or {}).get("classification") or {}).get("color")
        for region in _regions_of(path, feature):
            for name in region.tissues:
                color = COLORS[len(found) % len(COLORS)]
                if len(region.tissues) == 1 and isinstance(given, list) and len(given) == 3:
                    color = "#{:02x}{:02x}{:02x}".format(*(int(value) & 255 for value in given))
                found.setdefault(name, TissueClass(name=name, color=color))
    return list(found.values())


def _features(path: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, dict):
            document = document.get("features", [document])
        return [dict(feature) for feature in document]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not readable as GeoJSON regions ({reason(error)})") from error


def _regions_of(path: Path, feature: dict[str, Any]) -> list[Region]:
    try:
        properties = feature.get("properties") or {}
        classification = (properties.get("classification") or {}).get("name", "")
        said = properties.get("tissues", [name.strip() for name in classification.split("+") if name.strip()])
        tissues = tuple(str(name) for name in said if name != NONE and not str(name).endswith("*"))
        geometry = shape(feature["geometry"])
        parts = [part for part in getattr(geometry, "geoms", [geometry]) if part.geom_type == "Polygon"]
        whole = [piece for part in parts for piece in without_holes(part) if piece.area > 0]
    except (ValueError, KeyError, TypeError, AttributeError, GEOSException) as error:
        raise DataError(f"{path}: not readable as GeoJSON regions ({type(error).__name__}: {error})") from error
    named = "tissues" in properties or bool(classification)
    return [Region(np.asarray(part.exterior.coords)[:-1, 1::-1].astype(float), tissues, named) for part in whole]


def outside(regions: Sequence[Region], shape: tuple[int, int]) -> list[int]:
    """The numbers, from 1, of the regions of which nothing lies on a slide of `shape` (h, w) level-0 pixels."""
    slide = shapely.box(0, 0, shape[1], shape[0])
    return [number for number, region in enumerate(regions, start=1) if not region.polygon().intersects(slide)]


def write_regions(
    path: Path, regions: Iterable[Region], classes: Sequence[TissueClass], overwrite: bool = True
) -> Path:
    """Write regions as GeoJSON (level-0 pixels, closed rings, QuPath classification with the first tissue's colour).

    Whole or not at all.

    Raises:
        ExportError: the place cannot be written, or holds a file that is not to be replaced.
    """
    colors = {tissue.name: list(tissue.rgb) for tissue in classes}
    features = []
    for region in regions:
        ring = region.vertices[:, ::-1].round(2).tolist()
        name = " + ".join(region.tissues) or NONE
        color = colors.get(region.tissues[0], [128, 128, 128]) if region.tissues else [128, 128, 128]
        said = {"tissues": list(region.tissues), "classification": {"name": name, "color": color}}
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
                "properties": {"objectType": "annotation", **(said if region.named else {})},
            }
        )
    text = json.dumps({"type": "FeatureCollection", "features": features}, indent=1)
    with atomic_write(path, overwrite) as partial:
        partial.write_text(text, encoding="utf-8")
    return path
