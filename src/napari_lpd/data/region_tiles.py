"""Cut tiles from regions drawn on a slide."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from shapely import STRtree, unary_union
from shapely.geometry import box

from napari_lpd.core.errors import DataError
from napari_lpd.core.geometry import sampled_polygons
from napari_lpd.data.regions import outside
from napari_lpd.data.tileset import CELL, RIM, UNPAINTED, Origin, Shares, TileSet, cells_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from shapely import Geometry

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.regions import Region
    from napari_lpd.data.tileset import Cell
    from napari_lpd.slides.slide import Slide

MIN_TISSUE_SHARE = 0.1
RIM_OF_TILE = 8  # pixels: what is further out may lie beyond the places that a joint head sees of a tile
DOT = 0.75  # pixels: radius of a disc that holds a pixel's centre wherever it lies
GLASS_LEVEL, BARE = 220, 0.995  # of a pixel's darkest channel; share of such pixels, more than fat has


def tiles_from_regions(
    slide: Slide,
    regions: Sequence[Region],
    classes: tuple[TissueClass, ...],
    settings: TrainSettings,
    patient: str = "",
) -> TileSet:
    """Cut tiles from the regions drawn on a slide; a tile gets the labels of all regions it lies in.

    A tile is used when at least ``settings.min_cover`` of it lies in regions; a region gives its tissues to the
    tiles of which it fills a tenth or more. A region smaller than a tile is tried with one tile around its centre.

    A tile that a stroke (`Region.pixels`) touches is always used; where none holds it whole, others are laid over it.
    The pixels inside are painted, of two strokes that overlap by the later one. The stroke's tissue is present there;
    of other tissues nothing is known, unless ``settings.min_cover`` of the tile lies in other regions.

    The shares of a region (`Region.shares`) are those of all tiles together of which it covers ``settings.min_cover``.

    Args:
        slide: The slide.
        regions: Regions outlined on it.
        classes: The tissue classes.
        settings: Size, step and resolution of the tiles.
        patient: Patient of the slide; default: the slide's name.

    Raises:
        DataError: no tile fits, a region lies outside the slide, a stroke has several tissues, or the tiles lack a
            class.
    """
    tiles = cut_tiles(slide, regions, classes, settings, slide.name, patient)
    tiles.check()
    return tiles


def cut_tiles(
    slide: Slide,
    regions: Sequence[Region],
    classes: tuple[TissueClass, ...],
    settings: TrainSettings,
    name: str,
    patient: str = "",
) -> TileSet:
    """Cut tiles as `tiles_from_regions`, for one of several slides: each may lack classes that others hold.

    Args:
        slide: The slide.
        regions: Regions outlined on it.
        classes: The tissue classes.
        settings: Size, step and resolution of the tiles.
        name: What the slide is called; no other slide's.
        patient: Patient of the slide; default: `name`.

    Raises:
        DataError: no tile fits, a region lies outside the slide, or a stroke has several tissues.
    """
    if not regions:
        raise DataError(f"{name}: no regions; outline at least one region per tissue")
    _check_inside(slide, regions)
    _check_strokes(name, regions)
    factor = (slide.mpp[0] / settings.mpp, slide.mpp[1] / settings.mpp)
    polygons = [_visible(region.polygon(factor)) if region.pixels else region.polygon(factor) for region in regions]
    found = list(_labelled(regions, polygons, [tissue.name for tissue in classes], settings))
    if not found:
        raise DataError(
            f"{name}: no region holds a tile of {settings.tile} pixels at {settings.mpp:g} µm per pixel"
            f" ({settings.tile * settings.mpp:.0f} µm); draw larger regions or choose a smaller tile"
        )
    shape, origins = (settings.tile, settings.tile), [tile.origin for tile in found]
    images = [slide.read(origin, shape, settings.mpp) for origin in origins]
    _check_on_tissue(name, regions, images, [tile.holds for tile in found])
    tiles = TileSet(
        classes,
        np.array([tile.labels for tile in found], np.float32),
        images.__getitem__,
        name,
        sources=[patient or name] * len(found),
        files=[slide.path] if slide.path else [],
        clusters=_clusters(origins, settings.tile, name),
        origins=[Origin(name, y, x, slide.fingerprint) for y, x in origins],
        check=False,
    )
    tiles.known = np.array([tile.known for tile in found])
    tiles.painted = {i: tile.painted for i, tile in enumerate(found) if tile.painted is not None}
    tiles.shares = {
        i: _shares(regions[tile.shared], f"{name}, region {tile.shared + 1}", classes)
        for i, tile in enumerate(found)
        if tile.shared is not None
    }
    if settings.model.head == "joint":  # sees what is around a tile, too
        touched = {cell for origin in tiles.origins for cell in cells_of(origin, settings.tile)}
        tiles.cells = {cell: _cell_image(slide, cell, settings.mpp) for cell in sorted(touched)}
    if unused := len(regions) - len({number for tile in found for number in tile.holds}):
        tiles.doubts.append(
            f"{name}: {unused} of {len(regions)} regions are not used: too small for a tile of {settings.tile} pixels"
            f" ({settings.tile * settings.mpp:.0f} µm), of which {settings.min_cover:.0%} must lie in regions; enlarge"
            " them, or choose smaller tiles"
        )
    given, used = {i for i, region in enumerate(regions) if region.shares}, {tile.shared for tile in found}
    if unused := len(given - used):
        tiles.doubts.append(
            f"{name}: of {unused} of {len(given)} regions with shares only the tissues are used: none of them covers a"
            f" tile of {settings.tile} pixels ({settings.tile * settings.mpp:.0f} µm) by {settings.min_cover:.0%};"
            " enlarge them, or choose smaller tiles"
        )
    return tiles


def _shares(region: Region, name: str, classes: Sequence[TissueClass]) -> Shares:
    said = dict(zip(region.tissues, region.shares, strict=True))
    parts = [1 - sum(region.shares), *(said.get(tissue.name, 0.0) for tissue in classes)]
    return Shares(name, np.array(parts, np.float32))


class _Tile(NamedTuple):
    """A tile that is used: its corner (y, x), the regions that it holds by number, and what they say.

    `shared` is the number of the region whose shares it has a part in, None without.
    """

    origin: tuple[int, int]
    holds: list[int]
    labels: list[bool]
    known: list[bool]
    painted: NDArray[np.int8] | None
    shared: int | None


def _labelled(
    regions: Sequence[Region], polygons: Sequence[Geometry], names: Sequence[str], settings: TrainSettings
) -> Iterator[_Tile]:
    """Find the tiles that regions, as `polygons` in tile pixels, label."""
    tree, edge = STRtree(polygons), settings.tile
    for y, x in sorted(_candidates(regions, polygons, settings)):
        tile = box(x, y, x + edge, y + edge)
        hits = {int(i): polygons[i].intersection(tile) for i in sorted(tree.query(tile, predicate="intersects"))}
        areas = {i: overlap for i, overlap in hits.items() if not regions[i].pixels}
        covered = bool(areas) and unary_union([*areas.values()]).area >= settings.min_cover * tile.area
        filled = [i for i, overlap in areas.items() if covered and overlap.area >= MIN_TISSUE_SHARE * tile.area]
        painted, strokes = np.full((edge, edge), UNPAINTED, np.int8), []
        for i in (number for number in hits if number not in areas):
            inside, tissues = sampled_polygons([hits[i]], (y, x), (edge, edge), 1.0), regions[i].tissues
            if inside.any() and set(tissues) <= set(names):
                strokes.append(i)
                painted[inside] = names.index(tissues[0]) + 1 if tissues else 0
        if covered or strokes:
            held = {tissue for i in (*filled, *strokes) for tissue in regions[i].tissues}
            present = [name in held for name in names]
            known = [covered or is_there for is_there in present]
            cover = {i: overlap.area for i, overlap in areas.items() if regions[i].shares}
            most = max(cover, key=cover.__getitem__, default=None)
            shared = most if most is not None and cover[most] >= settings.min_cover * tile.area else None
            yield _Tile((y, x), filled + strokes, present, known, painted if strokes else None, shared)


def _candidates(
    regions: Sequence[Region], polygons: Sequence[Geometry], settings: TrainSettings
) -> set[tuple[int, int]]:
    """Return (y, x) of the tiles to try: those of areas, and of strokes that none of these holds well inside."""
    areas = [polygon for polygon, region in zip(polygons, regions, strict=True) if not region.pixels]
    strokes = [polygon for polygon, region in zip(polygons, regions, strict=True) if region.pixels]
    origins = {origin for polygon in areas for origin in _origins(polygon.bounds, settings)}
    inner = settings.tile - RIM_OF_TILE
    tree = STRtree([box(x + RIM_OF_TILE, y + RIM_OF_TILE, x + inner, y + inner) for y, x in origins])
    apart = [stroke for stroke in strokes if not len(tree.query(stroke, predicate="within"))]
    return origins | {origin for stroke in apart for origin in _origins(stroke.bounds, settings)}


def _visible(polygon: Geometry) -> Geometry:
    """Return a stroke as it is, or as a dot around its middle where it holds no pixel's centre."""
    x0, y0, x1, y1 = polygon.bounds
    shape = (math.ceil(y1) - math.floor(y0), math.ceil(x1) - math.floor(x0))
    seen = sampled_polygons([polygon], (math.floor(y0), math.floor(x0)), shape, 1.0).any()
    return polygon if seen else polygon.representative_point().buffer(DOT)


def too_small(regions: Sequence[Region], mpp: tuple[float, float], settings: TrainSettings) -> int:
    """Count the regions that cannot fill a tile alone, strokes aside, on a slide of `mpp` (y, x) µm per pixel."""
    least = settings.min_cover * (settings.tile * settings.mpp) ** 2
    return sum(region.polygon(mpp).area < least for region in regions if not region.pixels)


def _cell_image(slide: Slide, cell: Cell, mpp: float) -> NDArray[np.uint8]:
    _, y, x = cell
    edge = CELL + 2 * RIM
    return slide.read_tolerant((y * CELL - RIM, x * CELL - RIM), (edge, edge), mpp)[0]


def _check_inside(slide: Slide, regions: Sequence[Region]) -> None:
    height, width = slide.shape
    if numbers := outside(regions, slide.shape):
        raise DataError(
            f"{slide.name}: {len(numbers)} of {len(regions)} regions ({', '.join(map(str, numbers[:5]))}"
            f"{', …' * (len(numbers) > 5)}) outside the slide ({width} x {height} pixels); are they another slide's?"
        )


def _check_strokes(name: str, regions: Sequence[Region]) -> None:
    numbers = [str(i) for i, region in enumerate(regions, start=1) if region.pixels and len(region.tissues) > 1]
    if numbers:
        raise DataError(
            f"{name}: of {len(regions)} regions, {', '.join(numbers[:5])}{', …' * (len(numbers) > 5)} label pixels, but"
            " carry several tissues; give each of them one"
        )


def _check_on_tissue(
    name: str, regions: Sequence[Region], images: Sequence[NDArray[np.uint8]], holding: Sequence[Sequence[int]]
) -> None:
    """Raise DataError if all tiles, `images`, of a region that carries a tissue are bare glass."""
    bare = [bool((image.min(-1) > GLASS_LEVEL).mean() > BARE) for image in images]
    on_tissue = {number for filled, empty in zip(holding, bare, strict=True) if not empty for number in filled}
    on_glass = {number for filled in holding for number in filled if regions[number].tissues} - on_tissue
    if on_glass:
        numbers = ", ".join(str(number + 1) for number in sorted(on_glass)[:5]) + ", …" * (len(on_glass) > 5)
        which = "all regions lie" if len(on_glass) == len(regions) else f"of {len(regions)} regions, {numbers} lie"
        raise DataError(
            f"{name}: {which} on glass; delete them, or mark them as none of the classes; or are they another slide's,"
            " or counted from another corner (--origin)?"
        )


def _clusters(origins: Sequence[tuple[int, int]], tile: int, slide: str) -> list[str]:
    """Name the cluster of each tile: tiles nearer to each other than a tile's edge are one cluster."""
    boxes = [box(x, y, x + tile, y + tile) for y, x in origins]
    tree, names = STRtree(boxes), [-1] * len(boxes)
    for first in range(len(boxes)):
        if names[first] >= 0:
            continue
        names[first], queue = first, [first]
        while queue:
            for near in tree.query(boxes[queue.pop()].buffer(tile - 0.5, join_style="mitre")):
                if names[near] < 0:
                    names[near] = first
                    queue.append(int(near))
    return [f"{slide} {number}" for number in names]


def _origins(bounds: tuple[float, float, float, float], settings: TrainSettings) -> list[tuple[int, int]]:
    """Return (y, x) of the tiles to try for a region with `bounds` (x0, y0, x1, y1): evenly spread, centred."""
    x0, y0, x1, y1 = bounds
    starts = []
    for low, high in ((y0, y1), (x0, x1)):
        free = high - low - settings.tile
        count = max(0, math.ceil(free / settings.tile_step)) + 1
        first = low if free > 0 else low + free / 2
        starts.append([round(first + max(free, 0) * i / max(count - 1, 1)) for i in range(count)])
    return [(y, x) for y in starts[0] for x in starts[1]]
