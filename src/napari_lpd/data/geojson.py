"""Outlines in GeoJSON, ours, QuPath's and others': the only reader."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import shape

from napari_lpd.core.classes import whole_shares
from napari_lpd.core.errors import DataError, one_line
from napari_lpd.core.files import KEY
from napari_lpd.core.reading import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from napari_lpd.slides.slide import Slide

GEOJSON = "*.geojson *.json *.geojson.gz *.json.gz *.zip"  # for file dialogs
WHAT = "GeoJSON regions"  # what messages call it
SHARES = "shares"  # property: how much of the tissue inside is of which class; in QuPath's metadata, too
PIXELS = "pixels"  # under `KEY` in a feature's metadata, which QuPath keeps: its outline labels pixels
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
        number: Its place in the file, from 1.
        pixels: Whether it labels just the pixels inside it (`PIXELS`), not what occurs there.
        shares: How much of its tissue is of which class, as `whole_shares`; none where nothing is said of it.
        shares_kept: Whether they come from its metadata, which do not change with its class.
    """

    name: str
    classification: str
    tissues: tuple[str, ...] | None
    color: str
    polygons: tuple[shapely.Polygon, ...]
    geometry: shapely.Geometry
    number: int = 0
    pixels: bool = False
    shares: Mapping[str, float] = {}
    shares_kept: bool = False


class Frame(NamedTuple):
    """The slide on which outlines lie, and where their coordinates begin.

    QuPath, as most other programs, shows of a slide the part that was scanned, where its file says so, and counts from
    there.

    Attributes:
        name: The slide's name.
        shape: (h, w) in level-0 pixels.
        fingerprint: The slide's.
        origin: (x, y) of the scanned part; 0, 0 where the file says of none.
    """

    name: str
    shape: tuple[int, int]
    fingerprint: str
    origin: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, slide: Slide, counted_from: str = "bounds") -> Frame:
        """Describe a slide; `counted_from` its "bounds", the scanned part, or the "slide" itself."""
        y, x = slide.bounds[:2] if slide.bounds else (0, 0)
        frame = cls(slide.name, slide.shape, slide.fingerprint, (x, y))
        return frame.counted_from(counted_from)

    def counted_from(self, origin: str) -> Frame:
        """Return the frame with coordinates from its "bounds" or from the "slide"."""
        return self if origin == "bounds" else self._replace(origin=(0, 0))

    @property
    def header(self) -> dict[str, Any]:
        """What our files say of themselves."""
        return {"slide": self.name, "slide_hash": self.fingerprint, "origin": list(self.origin)}


class Drawing(NamedTuple):
    """The outlines of a file, what it says of itself (`KEY`), and what was left out, cut or shifted, for people."""

    features: list[Feature]
    about: dict[str, Any]
    notes: list[str]


def read_features(path: Path, frame: Frame | None = None) -> Drawing:
    """Read the features of a GeoJSON file that outline an area.

    The file holds a FeatureCollection, a list of features, one feature or a geometry. Features without a geometry are
    passed over. What cannot be used, points, lines and damaged features, is left out; with the slide, also what lies
    outside it, and outlines are cut at its edge. A warning names them by their numbers, from 1.

    Args:
        path: The file.
        frame: The slide on which the outlines lie. They are shifted by its origin, or by that in the file's header.

    Raises:
        DataError: missing file, no GeoJSON, nothing that can be used, or all of it outside or of another slide; or
            shares as for `whole_shares`.
    """
    document = read_json(path, DataError, WHAT, large=True)
    header = document.get(KEY) if isinstance(document, dict) else None
    about = header if isinstance(header, dict) else {}
    if frame is not None and about.get("slide_hash", frame.fingerprint) != frame.fingerprint:
        raise DataError(f"{path}: was made from another slide ({about.get('slide')}), not from {frame.name}")
    origin, found = _origin(path, about, frame), _Found()
    read = (_usable(number, part, found) for number, part in enumerate(_parts(document), start=1))
    features = [_with_shares(feature, path) for feature in read if feature is not None]
    if any(origin):
        features = [_shifted(feature, origin) for feature in features]
    if frame is not None:
        features = [cut for feature in features if (cut := _cut(feature, frame, found)).geometry.area]
    notes = found.notes()
    if not features and notes:
        raise DataError(f"{path}: not readable as {WHAT} ({'; '.join(notes)}); correct it, or is it of another slide?")
    if any(origin) and features and "origin" not in about:
        notes.append(f"coordinates are counted from x {origin[0]:g}, y {origin[1]:g}, where the scanned part begins")
    for line in notes:
        logging.getLogger(__name__).warning("%s: %s", path, line)
    return Drawing(features, about, notes)


def _with_shares(feature: Feature, path: Path) -> Feature:
    """Check a feature's shares."""
    if not feature.shares:
        return feature
    return feature._replace(shares=whole_shares(feature.shares, f"{path}, feature {feature.number}"))


class _Found:
    """Numbers of the features that are left out, by reason, or cut."""

    def __init__(self) -> None:
        self._numbers: dict[str, list[int]] = {}

    def leave_out(self, number: int, why: str) -> None:
        self._numbers.setdefault(f"left out, {why}", []).append(number)

    def cut(self, number: int) -> None:
        self._numbers.setdefault("cut at the slide's edge", []).append(number)

    def notes(self) -> list[str]:
        return [
            f"{what}: feature {', '.join(map(str, numbers[:5]))}{', …' * (len(numbers) > 5)}"
            for what, numbers in self._numbers.items()
        ]


def _usable(number: int, part: Any, found: _Found) -> Feature | None:
    """Read a feature that outlines an area; None for any other."""
    try:
        feature = _feature(part)._replace(number=number)
    except DAMAGED as error:
        found.leave_out(number, one_line(error))
        return None
    if feature.geometry.area:
        return feature
    if part.get("geometry") or "coordinates" in part:
        found.leave_out(number, "no polygons")
    return None


def _origin(path: Path, about: dict[str, Any], frame: Frame | None) -> tuple[float, float]:
    """Return (x, y) at which the coordinates of a file begin."""
    try:
        x, y = (float(value) for value in about.get("origin", (0, 0) if frame is None else frame.origin))
    except DAMAGED as error:
        raise DataError(f"{path}: its origin is {about['origin']!r}, wanted [x, y]; export it again") from error
    return x, y


def _shifted(feature: Feature, origin: tuple[float, float]) -> Feature:
    geometry, *polygons = shapely.transform([feature.geometry, *feature.polygons], lambda corners: corners + origin)
    return feature._replace(polygons=tuple(polygons), geometry=geometry)


def _cut(feature: Feature, frame: Frame, found: _Found) -> Feature:
    """Cut a feature at the slide's edge."""
    geometry, polygons = feature.geometry, list(feature.polygons)
    slide = shapely.box(0, 0, frame.shape[1], frame.shape[0])
    if not shapely.covers(slide, geometry):
        inside = shapely.orient_polygons(shapely.intersection(geometry, slide))
        if not inside.area:
            size = f"{frame.shape[1]} x {frame.shape[0]} pixels"
            found.leave_out(feature.number, f"outside {frame.name} ({size})")
        elif geometry.area - inside.area > max(1.0, 1e-3 * geometry.area):
            found.cut(feature.number)
        geometry = inside
        polygons = [part for part in shapely.get_parts(inside) if part.geom_type == "Polygon"]
    return feature._replace(polygons=tuple(polygons), geometry=geometry)


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
    if isinstance(packed := classification.get("colorRGB"), int):  # QuPath before 0.4
        rgb = [packed >> 16, packed >> 8, packed]
    known = isinstance(rgb, list) and len(rgb) == 3 and all(isinstance(value, int) for value in rgb)
    metadata, shares = properties.get("metadata") or {}, properties.get(SHARES)
    if kept := shares is None and f"{KEY} {SHARES}" in metadata:
        shares = json.loads(metadata[f"{KEY} {SHARES}"])
    if not isinstance(shares, dict | None):
        raise ValueError(f"its shares are {shares!r}, wanted a number of each tissue")
    is_feature = "geometry" in part or part.get("type") == "Feature"
    polygons = tuple(_polygons(part.get("geometry") if is_feature else part))
    return Feature(
        str(properties.get("name") or ""),
        str(name).strip(),
        None if tissues is None else tuple(str(tissue) for tissue in tissues),
        "#{:02x}{:02x}{:02x}".format(*(value & 255 for value in rgb or ())) if known else "",
        polygons,
        enclosed(polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)),
        pixels=metadata.get(KEY) == PIXELS,
        shares=shares or {},
        shares_kept=kept,
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
