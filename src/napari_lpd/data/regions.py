"""Weak labels drawn on a slide: regions with one or several tissue names, kept as GeoJSON that QuPath opens too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely
from shapely.geometry import Polygon

from napari_lpd.core.classes import COLORS, UNSURE_CLASS, TissueClass
from napari_lpd.core.errors import DataError, SettingsError, one_line
from napari_lpd.core.files import KEY, mark_of, write_text
from napari_lpd.core.geometry import without_holes
from napari_lpd.data.geojson import PIXELS, SHARES, enclosed, read_features

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.data.geojson import Drawing, Feature, Frame

JOIN = " + "
REGIONS = mark_of("regions")
NONE = "none"  # what a region carries that was looked at and holds none of the classes: glass, say


@dataclass(frozen=True)
class Region:
    """An outlined part of a slide and what occurs in it.

    Attributes:
        vertices: (n, 2) float, (y, x) in level-0 pixels, without the closing repetition.
        tissues: Names of all tissues that occur inside; empty means none of the classes (glass, say).
        named: Whether anybody has said what is inside; False for an outline alone.
        pixels: Whether it labels every pixel inside with its one tissue, or none, and says nothing of what is around
            it: a stroke, or a corrected place, of any size.
        shares: Of each of `tissues`, how much of the tissue inside it is, in 0..1; the rest is none of the classes.
            Empty where nobody has said so.
    """

    vertices: NDArray[np.float64]
    tissues: tuple[str, ...]
    named: bool = True
    pixels: bool = False
    shares: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """What is equal for equal regions: tissues, shares, kind, and corners to half a pixel."""
        corners = {(round(2 * y), round(2 * x)) for y, x in self.vertices.tolist()}
        return self.tissues, self.shares, self.named, self.pixels, frozenset(corners)

    def polygon(self, factor: tuple[float, float] = (1.0, 1.0)) -> shapely.Geometry:
        """Return the area inside as a shapely polygon in (x, y), coordinates multiplied by `factor` (y, x)."""
        return enclosed(Polygon((self.vertices * np.array(factor))[:, ::-1]))


class Verdict(NamedTuple):
    """What a model says of a region whose tissue is known.

    Attributes:
        tissues: The tissues that the region carries.
        counts: Of the pixels in the region, how many were found to be what: by class, or unsure.
        box_um: (y0, x0, y1, x1) around the region, in µm from the slide's corner.
        source: The slide's name.
        slide_hash: Its fingerprint, by which slides of one name are told apart.
        sure: (n, 2) of places in the region: how likely the most likely class is, 0..1, and 1 where the region carries
            it; None where that is not known.
    """

    tissues: tuple[str, ...]
    counts: Mapping[str, int]
    box_um: tuple[float, float, float, float]
    source: str = ""
    slide_hash: str = ""
    sure: NDArray[np.float64] | None = None

    @property
    def slide(self) -> tuple[str, str]:
        """What tells its slide from others."""
        return self.source, self.slide_hash

    @property
    def found(self) -> str:
        """What most of its pixels were found to be."""
        return max(self.counts, key=lambda name: self.counts[name])

    @property
    def share(self) -> float:
        """Share of its pixels that were found to be that, 0..1."""
        return self.counts[self.found] / sum(self.counts.values())

    @property
    def is_right(self) -> bool:
        """Whether the region carries what was found."""
        return self.found in self.tissues

    @property
    def is_contradicted(self) -> bool:
        """Whether another class was found."""
        return not self.is_right and self.found != UNSURE_CLASS.name


def read_regions(path: Path, classes: Sequence[str] | None = None, frame: Frame | None = None) -> list[Region]:
    """Read regions from a GeoJSON file, in level-0 pixels (x, y).

    Args:
        path: The file.
        classes: Allowed tissue names, and every region must carry one or none; None allows all.
        frame: The slide on which they lie; None: level-0 pixels as they are.

    Raises:
        DataError: as `read_features`, no polygons, a tissue name that is not among `classes`, or a region of which
            nothing is said.
    """
    regions = regions_in(read_features(path, frame), classes or ())
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


def regions_in(drawing: Drawing, known: Sequence[str] = ()) -> list[Region]:
    """Convert features to regions; a polygon with holes comes back in parts without them.

    A feature's tissues are its property ``tissues`` (a list), else its QuPath classification: one of the `known`
    classes as a whole, or split at " + "; "none" and QuPath's classes that end in * (``Ignore*``) mean none of them.
    Where it has shares, they name its tissues; but those that QuPath kept count only while its tissues are the same.
    """
    regions: list[Region] = []
    for feature in drawing.features:
        tissues, shares = _tissues_and_shares(feature, known)
        named = feature.tissues is not None or bool(feature.classification) or bool(feature.shares)
        outlines = (np.asarray(polygon.exterior.coords)[:-1, 1::-1].astype(float) for polygon in _outlines(feature))
        regions += [Region(outline, tissues, named, feature.pixels, shares) for outline in outlines]
    return regions


def classes_in(path: Path) -> list[TissueClass]:
    """List the tissue classes that occur in a GeoJSON file, in their order there, with QuPath's colours.

    Raises:
        DataError: as `read_features`.
    """
    return classes_of(read_features(path))


def classes_of(drawing: Drawing, known: Sequence[str] = ()) -> list[TissueClass]:
    """List the tissue classes of features, as `classes_in`; a `known` class is not split at a plus sign."""
    found: dict[str, TissueClass] = {}
    for feature in drawing.features:
        tissues, _ = _tissues_and_shares(feature, known)
        for name in tissues:
            color = (feature.color if len(tissues) == 1 else "") or COLORS[len(found) % len(COLORS)]
            found.setdefault(name, _class(name, color))
    return list(found.values())


def joined(tissues: Sequence[str]) -> str:
    """Write tissues as one text: "a + b"."""
    return JOIN.join(tissues)


def split(text: str) -> tuple[str, ...]:
    """Read the tissues of a text that `joined` may have written; a plus sign in a name stays: "CD8+ + stroma"."""
    return tuple(name for each in text.split(JOIN) if (name := each.strip()))


def _class(name: str, color: str) -> TissueClass:
    try:
        return TissueClass.build({"name": name, "color": color})
    except SettingsError as error:
        raise DataError(f"a class of the regions cannot be taken ({one_line(error, 150)})") from error


def _tissues(feature: Feature, classes: Sequence[str] = ()) -> tuple[str, ...]:
    if feature.tissues is None and feature.classification in classes:
        return (feature.classification,)
    names = split(feature.classification) if feature.tissues is None else map(str.strip, feature.tissues)
    return tuple(name for name in names if name and name != NONE and (name in classes or not name.endswith("*")))


def _tissues_and_shares(feature: Feature, known: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the tissues of a feature, and their shares where it has some."""
    tissues = _tissues(feature, known)
    shares = {name: share for name, share in feature.shares.items() if share > 0 and name != NONE}
    if not feature.shares or (feature.shares_kept and set(shares) != set(tissues)):
        return tissues, ()
    return tuple(shares), tuple(shares.values())


def _outlines(feature: Feature) -> list[Polygon]:
    """List the feature's polygons as they are drawn; those with holes in parts without them."""
    pieces: list[Polygon] = []
    for polygon in feature.polygons:
        parts = shapely.get_parts(enclosed(polygon)) if polygon.interiors else [polygon]
        pieces += [piece for part in parts for piece in without_holes(part) if enclosed(piece).area > 0]
    return pieces


def outside(regions: Sequence[Region], shape: tuple[int, int]) -> list[int]:
    """Return the numbers, from 1, of the regions that lie wholly outside a slide of `shape` (h, w) level-0 pixels."""
    slide = shapely.box(0, 0, shape[1], shape[0])
    return [number for number, region in enumerate(regions, start=1) if not region.polygon().intersects(slide)]


def write_regions(
    path: Path,
    regions: Iterable[Region],
    classes: Sequence[TissueClass],
    overwrite: bool = True,
    frame: Frame | None = None,
    mark: str = REGIONS,
) -> Path:
    """Write regions as GeoJSON (closed rings, QuPath classification with the first tissue's colour).

    Whole or not at all. With the slide (`frame`) coordinates are counted from its scanned part, as in QuPath, else they
    are level-0 pixels; the file says so. A file is replaced only if it has the `mark`; "": whatever it holds.

    Raises:
        ExportError: the place cannot be written, or holds a file that is not to be replaced.
    """
    colors = {tissue.name: list(tissue.rgb) for tissue in classes}
    header = {"origin": [0, 0]} if frame is None else frame.header
    features = []
    for region in regions:
        ring = (region.vertices[:, ::-1] - header["origin"]).round(2).tolist()
        name = joined(region.tissues) or NONE
        color = colors.get(region.tissues[0], [128, 128, 128]) if region.tissues else [128, 128, 128]
        said = {"tissues": list(region.tissues), "classification": {"name": name, "color": color}}
        kind: dict[str, Any] = {}
        metadata = {KEY: PIXELS} if region.pixels else {}
        if region.shares:
            shares = dict(zip(region.tissues, region.shares, strict=True))
            shares |= {NONE: rest} if (rest := round(1 - sum(region.shares), 6)) > 0 else {}
            kind[SHARES] = shares
            metadata[f"{KEY} {SHARES}"] = json.dumps(shares)
        kind |= {"metadata": metadata} if metadata else {}
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
                "properties": {"objectType": "annotation", **(said if region.named else {}), **kind},
            }
        )
    document = {"type": "FeatureCollection", KEY: {"kind": REGIONS, **header}, "features": features}
    return write_text(path, json.dumps(document, indent=1), overwrite, mark=mark)
