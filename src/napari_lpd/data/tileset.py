"""Training tiles with image-level labels; tiles that are cut from regions drawn on slides."""

from __future__ import annotations

import copy
import hashlib
import math
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from shapely import STRtree, unary_union
from shapely.geometry import box
from torch import Tensor
from torch.utils.data import Dataset

from napari_lpd.core.errors import DataError
from napari_lpd.data.memory import KeptImages, room_for_images
from napari_lpd.data.regions import outside
from napari_lpd.evaluation.metrics import HASH_BYTES
from napari_lpd.slides.stain import matching

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.regions import Region
    from napari_lpd.slides.slide import Slide
    from napari_lpd.slides.stain import Colours

    Read = Callable[[int], NDArray[np.uint8]]

MIN_TISSUE_SHARE = 0.1
FEWEST_HELD, FEWEST_HELD_OF_CLASS = 20, 3
ORDERS = 20  # in which the places of one slide are tried, until some amount to a sample
NAMED = 5  # slides named where there are many


class Origin(NamedTuple):
    """Where a tile was cut: the slide's name, and (y, x) of its first pixel there, at the tile's resolution."""

    slide: str
    y: int
    x: int


class TileSet(Dataset[tuple[Tensor, Tensor]]):
    """Labelled tiles: item i is (image (3, H, W) uint8 RGB, labels (C,) float in {0, 1}).

    Attributes:
        classes: The tissue classes.
        labels: (n, C) in {0, 1}.
        source: What the tiles come from, for messages.
        slides: Per tile: the slide or patient it comes from.
        places: Per tile: the part of the slide it comes from; tiles of two places do not touch.
        files: The files that the tiles were read from.
        origins: Per tile: where it was cut from a slide; empty where the tiles are files of their own.
        read: Tile i as (H, W, 3) uint8 RGB.

    Raises:
        DataError: fewer than two classes occur, or one of `classes` never does.
    """

    def __init__(
        self,
        classes: tuple[TissueClass, ...],
        labels: NDArray[np.float32],
        read: Read,
        source: str,
        *,
        slides: Sequence[str],
        files: Sequence[Path],
        places: Sequence[str] = (),
        origins: Sequence[Origin] = (),
    ) -> None:
        self.classes = classes
        self.labels = labels
        self.source = source
        self.slides = tuple(slides)
        self.places = tuple(places) or self.slides
        self.files = tuple(files)
        self.origins = tuple(origins)
        self.read = read
        self._check()

    @classmethod
    def joined(cls, sets: Sequence[TileSet], source: str) -> TileSet:
        """The tiles of several sets of the same classes and tile size as one."""
        starts = np.cumsum([0, *(len(tiles) for tiles in sets)])
        return cls(
            sets[0].classes,
            np.concatenate([tiles.labels for tiles in sets]),
            partial(_read_joined, [tiles.read for tiles in sets], starts),
            source,
            slides=[slide for tiles in sets for slide in tiles.slides],
            files=[file for tiles in sets for file in tiles.files],
            places=[place for tiles in sets for place in tiles.places],
            origins=[origin for tiles in sets for origin in tiles.origins],
        )

    def _check(self) -> None:
        present = [name for name, count in self.tiles_per_class.items() if count]
        if len(present) < 2:
            only = f"only {present[0]}" if present else "no tissue at all"
            raise DataError(
                f"{self.source}: {len(self)} tiles hold {only}; training needs tiles of at least two classes"
                f" of {', '.join(tissue.name for tissue in self.classes)}"
            )
        if len(present) < len(self.classes):
            absent = [name for name, count in self.tiles_per_class.items() if not count]
            raise DataError(
                f"{self.source}: no tile holds {', '.join(absent)}; add some, or take it out of the classes"
            )

    @property
    def tiles_per_class(self) -> dict[str, int]:
        """Number of tiles in which each class occurs."""
        counts = self.labels.sum(0).astype(int) if len(self.labels) else np.zeros(len(self.classes), int)
        return {tissue.name: int(count) for tissue, count in zip(self.classes, counts, strict=True)}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = np.ascontiguousarray(self.read(index).transpose(2, 0, 1))
        return torch.from_numpy(image), torch.from_numpy(self.labels[index])

    @property
    def edge(self) -> int:
        """Edge of the tiles, in pixels."""
        return int(self.read(0).shape[0])

    def name(self, index: int) -> str:
        """What a tile is called in messages."""
        return self.files[index].name if len(self.files) == len(self) else f"{self.source} #{index}"

    def subset(self, indices: Sequence[int]) -> TileSet:
        """The tiles at `indices`, in their order."""
        part = copy.copy(self)
        part.labels = self.labels[list(indices)]
        part.slides, part.places = (tuple(names[i] for i in indices) for names in (self.slides, self.places))
        part.origins = tuple(self.origins[i] for i in indices) if self.origins else ()
        part.files = tuple(self.files[i] for i in indices) if len(self.files) == len(self) else self.files
        part.read = partial(_read_chosen, self.read, indices)
        return part

    def with_colours(self, wanted: Colours) -> TileSet:
        """The same tiles, their colours matched, slide by slide, to `wanted`."""
        same = copy.copy(self)
        same.read = _Matched(self.read, self.slides, wanted)
        return same

    def kept_in_memory(self) -> TileSet:
        """The same tiles, those read from files decoded once only, as far as they fit (`memory.room_for_images`)."""
        if len(self.files) != len(self):  # cut from slides: they lie in memory
            return self
        same = copy.copy(self)
        same.read = KeptImages(self.read, len(self), room_for_images())
        return same

    def hold_out(self, share: float, seed: int) -> tuple[TileSet, TileSet | None]:
        """Tiles for training and for validation; whole slides go to validation, in random order, up to `share`.

        Of one slide alone, whole places go there, if they amount to a sample that can choose: 20 tiles or more, and
        three or more of every class; several orders are tried. A slide or place stays in training where its loss would
        leave a class without tiles.
        """
        one_slide = len(set(self.slides)) == 1
        names, part_of = np.unique(self.places if one_slide else self.slides, return_inverse=True)
        sizes = np.bincount(part_of)
        sums = np.stack([np.bincount(part_of, own) for own in self.labels.T], 1)
        random = np.random.RandomState(seed)
        for _ in range(ORDERS if one_slide else 1):
            count, held, of_class = 0, np.zeros(len(names), bool), sums.sum(0)
            for part in random.permutation(len(names)):
                if count + sizes[part] <= share * len(self) and (of_class > sums[part]).all():
                    count, of_class, held[part] = count + sizes[part], of_class - sums[part], True
            if count and (not one_slide or (count >= FEWEST_HELD and sums[held].sum(0).min() >= FEWEST_HELD_OF_CLASS)):
                apart = held[part_of]
                return self.subset(np.flatnonzero(~apart).tolist()), self.subset(np.flatnonzero(apart).tolist())
        return self, None

    def spread(self, most: int) -> list[int]:
        """Indices of up to `most` tiles, evenly spread over every class's tiles."""
        of_class = [np.flatnonzero(held) for held in self.labels.T > 0]
        share = max(most // len(of_class), 1)
        chosen = [own[np.linspace(0, len(own) - 1, min(len(own), share)).astype(int)] for own in of_class]
        return [int(index) for index in np.unique(np.concatenate(chosen))]


def why_none_is_held_out(tiles: TileSet, share: float) -> str:
    """What keeps `TileSet.hold_out` from it, and what would help."""
    if not share:
        return "valid_share is 0"
    if len(set(tiles.slides)) > 1:
        return (
            f"every slide has more than {100 * share:g} % of the tiles (valid_share) or all of a class; add slides, or"
            " raise valid_share"
        )
    return (
        f"of a single slide it takes {FEWEST_HELD} tiles, {FEWEST_HELD_OF_CLASS} of every class, in regions that lie"
        f" apart from the others, at most {100 * share:g} % of all (valid_share); outline more small regions,"
        " raise valid_share, or add a slide"
    )


# What reads a set's tiles can be pickled: worker processes get it so where they are not forked.


def _read_joined(reads: Sequence[Read], starts: NDArray[np.int64], index: int) -> NDArray[np.uint8]:
    which = int(np.searchsorted(starts, index, side="right")) - 1
    return reads[which](index - int(starts[which]))


def _read_chosen(read: Read, indices: Sequence[int], index: int) -> NDArray[np.uint8]:
    return read(indices[index])


class _Matched:
    """`colour.matching` of what it is given."""

    def __init__(self, read: Read, sources: Sequence[str], wanted: Colours) -> None:
        self._given, self._read = (read, sources, wanted), matching(read, sources, wanted)

    def __call__(self, index: int) -> NDArray[np.uint8]:
        return self._read(index)

    def __reduce__(self) -> tuple[type[_Matched], tuple[Read, Sequence[str], Colours]]:
        return _Matched, self._given


def tile_hashes(tiles: TileSet, files: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first 8 bytes of a SHA-256 of what a tile is and of its labels: (n, 8); (0, 8) of tiles made in memory.

    Args:
        tiles: The tiles; one cut from a slide is the place where it was cut, any other its file's content.
        files: (m, 8) from `evaluate.file_hashes` of their files.
    """
    own = [repr(origin).encode() for origin in tiles.origins]
    if not own and len(files) == len(tiles):
        own = [row.tobytes() for row in files]
    hashes = [list(hashlib.sha256(what + labels.tobytes()).digest()[:HASH_BYTES])
              for what, labels in zip(own, tiles.labels, strict=bool(own))]  # fmt: skip
    return np.array(hashes, np.uint8).reshape(-1, HASH_BYTES)


def described(*parts: TileSet) -> str:
    """What sets of tiles come from, for people: their source, and the first slides or patients by name."""
    source, names = parts[0].source, sorted({name for tiles in parts for name in tiles.slides})
    if names == [source]:
        return source
    more = f" and {len(names) - NAMED} more slides or patients" if len(names) > NAMED else ""
    return f"{source}: {', '.join(names[:NAMED])}{more}"


def tiles_from_regions(
    slide: Slide,
    regions: Sequence[Region],
    classes: tuple[TissueClass, ...],
    settings: TrainSettings,
    patient: str = "",
) -> TileSet:
    """Cut the regions drawn on a slide into tiles; a tile takes the labels of all regions it lies in.

    A tile is used when at least ``settings.min_cover`` of it lies in regions; a region gives its tissues to the
    tiles of which it fills a tenth or more. A region smaller than a tile is tried with one tile around its centre.

    Args:
        slide: The slide.
        regions: Outlined on it.
        classes: The tissue classes.
        settings: Size, step and resolution of the tiles.
        patient: Whose slide it is; default: the slide's name.

    Raises:
        DataError: no tile fits, or a region lies outside the slide.
    """
    if not regions:
        raise DataError(f"{slide.name}: no regions; outline at least one region per tissue")
    _check_inside(slide, regions)
    polygons = [region.polygon((slide.mpp[0] / settings.mpp, slide.mpp[1] / settings.mpp)) for region in regions]
    tree = STRtree(polygons)
    names = [tissue.name for tissue in classes]
    origins, labels = [], []
    for y, x in sorted({origin for polygon in polygons for origin in _origins(polygon.bounds, settings)}):
        tile = box(x, y, x + settings.tile, y + settings.tile)
        hits = [(i, polygons[i].intersection(tile)) for i in tree.query(tile, predicate="intersects")]
        if not hits or unary_union([part for _, part in hits]).area < settings.min_cover * tile.area:
            continue
        tissues = {t for i, part in hits if part.area >= MIN_TISSUE_SHARE * tile.area for t in regions[i].tissues}
        origins.append((y, x))
        labels.append([float(name in tissues) for name in names])
    if not origins:
        raise DataError(
            f"{slide.name}: no region holds a tile of {settings.tile} pixels at {settings.mpp:g} µm per pixel"
            f" ({settings.tile * settings.mpp:.0f} µm); draw larger regions or choose a smaller tile"
        )
    shape = (settings.tile, settings.tile)
    images = [slide.read(origin, shape, settings.mpp) for origin in origins]
    return TileSet(
        classes,
        np.array(labels, np.float32),
        images.__getitem__,
        slide.name,
        slides=[patient or slide.name] * len(labels),
        files=[slide.path] if slide.path else [],
        places=_places(origins, settings.tile, slide.name),
        origins=[Origin(slide.name, y, x) for y, x in origins],
    )


def _check_inside(slide: Slide, regions: Sequence[Region]) -> None:
    height, width = slide.shape
    if found := outside(regions, slide.shape):
        raise DataError(
            f"{slide.name}: {len(found)} of {len(regions)} regions ({', '.join(map(str, found[:5]))}"
            f"{', …' * (len(found) > 5)}) outside the slide ({width} x {height} pixels); are they another slide's?"
        )


def _places(origins: Sequence[tuple[int, int]], tile: int, slide: str) -> list[str]:
    """Names of the parts of a slide in which tiles lie: those nearer to each other than a tile's edge are one part."""
    boxes = [box(x, y, x + tile, y + tile) for y, x in origins]
    tree, names = STRtree(boxes), [-1] * len(boxes)
    for first in range(len(boxes)):
        if names[first] >= 0:
            continue
        names[first], found = first, [first]
        while found:
            for near in tree.query(boxes[found.pop()].buffer(tile - 0.5, join_style="mitre")):
                if names[near] < 0:
                    names[near] = first
                    found.append(int(near))
    return [f"{slide} {number}" for number in names]


def _origins(bounds: tuple[float, float, float, float], settings: TrainSettings) -> list[tuple[int, int]]:
    """(y, x) of the tiles that are tried for a region with `bounds` (x0, y0, x1, y1): evenly spread, centred."""
    x0, y0, x1, y1 = bounds
    starts = []
    for low, high in ((y0, y1), (x0, x1)):
        free = high - low - settings.tile
        count = max(0, math.ceil(free / settings.tile_step)) + 1
        first = low if free > 0 else low + free / 2
        starts.append([round(first + max(free, 0) * i / max(count - 1, 1)) for i in range(count)])
    return [(y, x) for y in starts[0] for x in starts[1]]
