"""Cut tiles from regions drawn on a slide."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from shapely import STRtree, unary_union
from shapely.geometry import box

from napari_lpd.core.errors import DataError
from napari_lpd.data.regions import outside
from napari_lpd.data.tileset import CELL, RIM, Origin, TileSet, cells_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.regions import Region
    from napari_lpd.data.tileset import Cell
    from napari_lpd.slides.slide import Slide

MIN_TISSUE_SHARE = 0.1
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

    Args:
        slide: The slide.
        regions: Regions outlined on it.
        classes: The tissue classes.
        settings: Size, step and resolution of the tiles.
        patient: Patient of the slide; default: the slide's name.

    Raises:
        DataError: no tile fits, a region lies outside the slide, or the tiles lack a class.
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
        DataError: no tile fits, or a region lies outside the slide.
    """
    if not regions:
        raise DataError(f"{name}: no regions; outline at least one region per tissue")
    _check_inside(slide, regions)
    polygons = [region.polygon((slide.mpp[0] / settings.mpp, slide.mpp[1] / settings.mpp)) for region in regions]
    tree = STRtree(polygons)
    names = [tissue.name for tissue in classes]
    origins, labels, holding = [], [], list[list[int]]()  # of each tile the regions that it holds
    for y, x in sorted({origin for polygon in polygons for origin in _origins(polygon.bounds, settings)}):
        tile = box(x, y, x + settings.tile, y + settings.tile)
        hits = [(i, polygons[i].intersection(tile)) for i in tree.query(tile, predicate="intersects")]
        if not hits or unary_union([overlap for _, overlap in hits]).area < settings.min_cover * tile.area:
            continue
        filled = [i for i, overlap in hits if overlap.area >= MIN_TISSUE_SHARE * tile.area]
        holding.append(filled)
        tissues = {t for i in filled for t in regions[i].tissues}
        origins.append((y, x))
        labels.append([float(name in tissues) for name in names])
    if not origins:
        raise DataError(
            f"{name}: no region holds a tile of {settings.tile} pixels at {settings.mpp:g} µm per pixel"
            f" ({settings.tile * settings.mpp:.0f} µm); draw larger regions or choose a smaller tile"
        )
    shape = (settings.tile, settings.tile)
    images = [slide.read(origin, shape, settings.mpp) for origin in origins]
    _check_on_tissue(name, regions, images, holding)
    tiles = TileSet(
        classes,
        np.array(labels, np.float32),
        images.__getitem__,
        name,
        sources=[patient or name] * len(labels),
        files=[slide.path] if slide.path else [],
        clusters=_clusters(origins, settings.tile, name),
        origins=[Origin(name, y, x, slide.fingerprint) for y, x in origins],
        check=False,
    )
    if settings.model.head == "joint":  # sees what is around a tile, too
        touched = {cell for origin in tiles.origins for cell in cells_of(origin, settings.tile)}
        tiles.cells = {cell: _cell_image(slide, cell, settings.mpp) for cell in sorted(touched)}
    if unused := len(regions) - len({number for filled in holding for number in filled}):
        tiles.doubts.append(
            f"{name}: {unused} of {len(regions)} regions are not used: too small for a tile of {settings.tile} pixels"
            f" ({settings.tile * settings.mpp:.0f} µm), of which {settings.min_cover:.0%} must lie in regions; enlarge"
            " them, or choose smaller tiles"
        )
    return tiles


def too_small(regions: Sequence[Region], mpp: tuple[float, float], settings: TrainSettings) -> int:
    """Count the regions that cannot fill a tile alone, on a slide of `mpp` (y, x) µm per pixel."""
    least = settings.min_cover * (settings.tile * settings.mpp) ** 2
    return sum(region.polygon(mpp).area < least for region in regions)


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
