"""Outlines in GeoJSON, ours, QuPath's and others': the only reader."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import shape

from napari_lpd.core.errors import DataError
from napari_lpd.core.files import KEY
from napari_lpd.core.reading import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WHAT = "GeoJSON regions"  # what messages call it
DAMAGED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, ShapelyError)


class Feature(NamedTuple):
    """An object of a GeoJSON file that outlines an area.

    Attributes:
        name: Its own name; "" where it has none.
        classification: Its class as QuPath writes it, also a derived one ("Tumor: Positive"); "" where it has none.
        tissues: Its property ``tissues``; None where it has none.
        color: The class's colour, #rrggbb; "" where it has none.
        polygons: As they are drawn, (x, y) in level-0 pixels; they may cross themselves.
        geometry: The area that they enclose.
    """

    name: str
    classification: str
    tissues: tuple[str, ...] | None
    color: str
    polygons: tuple[shapely.Polygon, ...]
    geometry: shapely.Geometry


def read_features(path: Path) -> tuple[list[Feature], dict[str, Any]]:
    """Read the features of a GeoJSON file that outline an area, and what the file says of itself (`KEY`).

    The file holds a FeatureCollection, a list of features, one feature or a geometry. Features without a geometry are
    passed over; a warning names those that are only points and lines.

    Raises:
        DataError: missing file, no GeoJSON, or a damaged feature, named by its number from 1.
    """
    document = read_json(path, DataError, WHAT, large=True)
    features, others = [], []
    number = 0
    try:
        for number, part in enumerate(_parts(document), start=1):
            feature = _feature(part)
            if feature.geometry.area > 0:
                features.append(feature)
            elif part.get("geometry"):
                others.append(str(number))
    except DAMAGED as error:
        raise DataError(
            f"{path}: not readable as {WHAT} (feature {number}: {error}); correct this feature, or delete it"
        ) from error
    if others:
        numbers = ", ".join(others[:5]) + ", …" * (len(others) > 5)
        logging.getLogger(__name__).warning("%s: left out, no polygons: feature %s", path, numbers)
    header = document.get(KEY) if isinstance(document, dict) else None
    return features, header if isinstance(header, dict) else {}


def enclosed(geometry: shapely.Geometry) -> shapely.Geometry:
    """Return the area that polygons enclose: all that an outline goes around, however it crosses itself, less holes."""
    return geometry if geometry.is_valid else shapely.make_valid(geometry, method="structure", keep_collapsed=False)


def _parts(document: Any) -> Iterator[Any]:
    """Yield the entries of lists and FeatureCollections, or the document itself."""
    if isinstance(document, dict) and "features" in document:
        document = document["features"]
    if not isinstance(document, list):
        yield document
        return
    for part in document:
        yield from _parts(part)


def _feature(part: Any) -> Feature:
    if not isinstance(part, dict):
        raise ValueError("wanted a feature {…}")
    properties = part.get("properties") or {}
    classification, tissues = properties.get("classification") or {}, properties.get("tissues")
    if isinstance(classification, str):
        classification = {"name": classification}
    if not isinstance(tissues, list | None):
        raise ValueError(f"its tissues are {tissues!r}, wanted a list")
    name = classification.get("name") or ": ".join(classification.get("names", []))
    rgb = classification.get("color")
    known = isinstance(rgb, list) and len(rgb) == 3 and all(isinstance(value, int) for value in rgb)
    is_feature = "geometry" in part or part.get("type") == "Feature"
    polygons = tuple(_polygons(part.get("geometry") if is_feature else part))
    return Feature(
        str(properties.get("name") or ""),
        str(name).strip(),
        None if tissues is None else tuple(str(tissue) for tissue in tissues),
        "#{:02x}{:02x}{:02x}".format(*(value & 255 for value in rgb or ())) if known else "",
        polygons,
        enclosed(polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)),
    )


def _polygons(geometry: Any) -> Iterator[shapely.Polygon]:
    """Yield the polygons of a geometry, and of its parts."""
    if geometry is None:
        return
    if not isinstance(geometry, dict) or "type" not in geometry:
        raise ValueError("wanted a geometry with type and coordinates")
    if geometry["type"] == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _polygons(part)
        return
    whole = shape(geometry)
    for part in getattr(whole, "geoms", [whole]):
        if part.geom_type == "Polygon" and not part.is_empty:
            if not np.isfinite(part.bounds).all():
                raise ValueError("a coordinate is not finite")
            yield part
