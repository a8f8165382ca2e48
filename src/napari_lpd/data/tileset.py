"""Training tiles with image-level labels: subsets, hold-out, stain matching, and a cache of images."""

from __future__ import annotations

import copy
import hashlib
import mmap
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_lpd.core.errors import DataError
from napari_lpd.core.files import HASH_BYTES
from napari_lpd.slides.stain import colours_of, matching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.slides.stain import StainStatistics

    Read = Callable[[int], NDArray[np.uint8]]

MIN_HELD, MIN_HELD_OF_CLASS = 20, 3
UNPAINTED = -1  # a pixel of which nothing is said
ORDERS = 20  # random orders in which the clusters of one slide are tried
NAMED = 5  # slides named in a description


class Origin(NamedTuple):
    """Origin of a tile: its slide's name, (y, x) of its first pixel at its own resolution, the slide's fingerprint."""

    slide: str
    y: int
    x: int
    fingerprint: str = ""


CELL, RIM = 512, 64  # pixels; CELL is a multiple of every encoder's strides, and so is RIM
Cell = tuple[str, int, int]
"""A slide's name, and row and column of a cell of `CELL` pixels there."""


def cells_of(origin: Origin, edge: int) -> Iterator[Cell]:
    """List the cells that a tile of `edge` pixels touches."""
    rows, columns = (range(first // CELL, (first + edge - 1) // CELL + 1) for first in (origin.y, origin.x))
    return ((origin.slide, y, x) for y in rows for x in columns)


class Shares(NamedTuple):
    """What is said of how much of a tile's tissue, or of a region's that several tiles lie in, is of which class.

    Attributes:
        of: Name of the tile or region; tiles of one region have the same.
        parts: (1 + C) float32 that sum to 1: none of the classes, and each.
    """

    of: str
    parts: NDArray[np.float32]


class TileSet:
    """Labelled tiles: item i is (image (3, H, W) uint8 RGB, labels (C,) float32 in {0, 1}), as NumPy arrays.

    Attributes:
        classes: The tissue classes.
        labels: (n, C) in {0, 1}.
        known: (n, C) bool: where it is False, nobody has said whether the class is there; the label is 0 then.
        painted: Of the tiles that strokes touch, by index: (H, W) int8: `UNPAINTED`, 0 none of the classes, c + 1 for
            class c.
        shares: Of the tiles of which somebody has said how much of each class they, or their region, hold, by index.
        description: Origin of the tiles, for messages.
        doubts: Lines on what was not used, for people.
        resolutions: Of each slide, a line with its resolution and where that comes from.
        sources: Per tile: its slide or patient.
        clusters: Per tile: its part of the slide; tiles of two clusters do not touch.
        files: The files from which the tiles were read.
        origins: Per tile: its location on a slide; empty where every tile is a file.
        cells: Images of the slides' cells that tiles touch, each with `RIM` pixels around it, where they are wanted:
            (CELL + 2 · RIM, CELL + 2 · RIM, 3) uint8 RGB.
        read: Tile i as (H, W, 3) uint8 RGB.

    Raises:
        DataError: as `check`, which is left out (`check=False`) for a part of a set: the whole is checked.
    """

    def __init__(
        self,
        classes: tuple[TissueClass, ...],
        labels: NDArray[np.float32],
        read: Read,
        description: str,
        *,
        sources: Sequence[str],
        files: Sequence[Path],
        clusters: Sequence[str] = (),
        origins: Sequence[Origin] = (),
        check: bool = True,
    ) -> None:
        self.classes = classes
        self.labels = labels
        self.known = np.ones(labels.shape, np.bool_)
        self.painted: dict[int, NDArray[np.int8]] = {}
        self.shares: dict[int, Shares] = {}
        self.description = description
        self.doubts: list[str] = []
        self.resolutions: list[str] = []
        self.cells: dict[Cell, NDArray[np.uint8]] = {}
        self.sources = tuple(sources)
        self.clusters = tuple(clusters) or self.sources
        self.files = tuple(files)
        self.origins = tuple(origins)
        self.read = read
        if check:
            self.check()

    @classmethod
    def joined(cls, sets: Sequence[TileSet], description: str) -> TileSet:
        """Join several sets of the same classes and tile size."""
        starts = np.cumsum([0, *(len(tiles) for tiles in sets)])
        whole = cls(
            sets[0].classes,
            np.concatenate([tiles.labels for tiles in sets]),
            partial(_read_joined, [tiles.read for tiles in sets], starts),
            description,
            sources=[source for tiles in sets for source in tiles.sources],
            files=[file for tiles in sets for file in tiles.files],
            clusters=[cluster for tiles in sets for cluster in tiles.clusters],
            origins=[origin for tiles in sets for origin in tiles.origins],
        )
        whole.known = np.concatenate([tiles.known for tiles in sets])
        for start, tiles in zip(starts.tolist(), sets, strict=False):
            whole.painted |= {start + i: pixels for i, pixels in tiles.painted.items()}
            whole.shares |= {start + i: Shares(f"{start} {said.of}", said.parts) for i, said in tiles.shares.items()}
        whole.doubts = [line for tiles in sets for line in tiles.doubts]
        whole.cells = {cell: image for tiles in sets for cell, image in tiles.cells.items()}
        return whole

    def check(self) -> None:
        """Raise DataError if fewer than two classes occur, or one of the classes never does."""
        present = [name for name, count in self.tiles_per_class.items() if count]
        if len(present) < 2:
            only = f"only {present[0]}" if present else "no tissue at all"
            raise DataError(
                f"{self.description}: {len(self)} tiles hold {only}; training needs tiles of at least two classes"
                f" of {', '.join(tissue.name for tissue in self.classes)}"
            )
        if len(present) < len(self.classes):
            absent = [name for name, count in self.tiles_per_class.items() if not count]
            raise DataError(
                f"{self.description}: no tile holds {', '.join(absent)}; add some, or remove it from the classes"
            )

    @property
    def tiles_per_class(self) -> dict[str, int]:
        """Number of tiles in which each class occurs."""
        counts = self.labels.sum(0).astype(int) if len(self.labels) else np.zeros(len(self.classes), int)
        return {tissue.name: int(count) for tissue, count in zip(self.classes, counts, strict=True)}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        return np.ascontiguousarray(self.read(index).transpose(2, 0, 1)), self.labels[index]

    @property
    def single(self) -> NDArray[np.bool_]:
        """Tell of each tile whether it is known to hold exactly one class (n,)."""
        return np.asarray((self.labels.sum(1) == 1) & self.known.all(1))

    def said_of(self, index: int) -> bytes:
        """Return all that is said of what a tile holds, to be hashed."""
        known = b"" if self.known[index].all() else self.known[index].tobytes()
        painted = self.painted[index].tobytes() if index in self.painted else b""
        shares = self.shares[index].parts.tobytes() if index in self.shares else b""
        return self.labels[index].tobytes() + known + painted + shares

    def painted_in(self, indices: Sequence[int]) -> NDArray[np.int8] | None:
        """Stack what is painted in some tiles (B, H, W); None where nothing is."""
        painted = [self.painted.get(i) for i in indices]
        shape = next((pixels.shape for pixels in painted if pixels is not None), None)
        if shape is None:
            return None
        return np.stack([np.full(shape, UNPAINTED, np.int8) if pixels is None else pixels for pixels in painted])

    @property
    def edge(self) -> int:
        """Edge of the tiles, in pixels."""
        return int(self.read(0).shape[0])

    def name(self, index: int) -> str:
        """Return the name of a tile for messages."""
        return self.files[index].name if len(self.files) == len(self) else f"{self.description} #{index}"

    def subset(self, indices: Sequence[int]) -> TileSet:
        """Select the tiles at `indices`, in their order."""
        tiles = copy.copy(self)
        tiles.labels, tiles.known = self.labels[list(indices)], self.known[list(indices)]
        tiles.painted = {n: self.painted[i] for n, i in enumerate(indices) if i in self.painted}
        tiles.shares = {n: self.shares[i] for n, i in enumerate(indices) if i in self.shares}
        tiles.sources, tiles.clusters = (tuple(names[i] for i in indices) for names in (self.sources, self.clusters))
        tiles.origins = tuple(self.origins[i] for i in indices) if self.origins else ()
        tiles.files = tuple(self.files[i] for i in indices) if len(self.files) == len(self) else self.files
        tiles.read = partial(_read_chosen, self.read, indices)
        return tiles

    def with_colours(self, target: StainStatistics) -> TileSet:
        """Return the tiles with their colours matched, slide by slide, to `target`."""
        tiles = copy.copy(self)
        tiles.read = _Matched(self.read, self.sources, target)
        source = {origin.slide: name for origin, name in zip(self.origins, self.sources, strict=bool(self.origins))}
        images = list(self.cells.values())
        match = matching(images.__getitem__, [source[slide] for slide, _, _ in self.cells], target)
        tiles.cells = {cell: match(i) for i, cell in enumerate(self.cells)}
        return tiles

    def kept_in_memory(self) -> TileSet:
        """Return the tiles with those read from files cached, as far as they fit (`room_for_images`)."""
        if len(self.files) != len(self):  # cut from slides, and in memory already
            return self
        tiles = copy.copy(self)
        tiles.read = ImageCache(self.read, len(self), room_for_images())
        return tiles

    def hold_out(self, share: float, seed: int) -> tuple[TileSet, TileSet | None]:
        """Split into training and validation tiles; whole slides are held out, in random order, up to `share`.

        Of a single slide, whole clusters are held out, if they make a useful sample: 20 tiles or more, and three or
        more of every class; several orders are tried. A slide or cluster stays in training where its loss would leave
        a class without tiles, and a cluster with strokes does: they are there to teach. Tiles of which not every class
        is known are not among the held-out ones.
        """
        one_slide = len(set(self.sources)) == 1
        names, group_of = np.unique(self.clusters if one_slide else self.sources, return_inverse=True)
        whole = self.known.all(1)
        sizes, measured = np.bincount(group_of), np.bincount(group_of, whole)
        free = measured > 0
        if one_slide:
            free[group_of[[*self.painted]]] = False
        sums = np.stack([np.bincount(group_of, column) for column in self.labels.T], 1)
        random = np.random.RandomState(seed)
        for _ in range(ORDERS if one_slide else 1):
            count, chosen, remaining = 0, np.zeros(len(names), bool), sums.sum(0)
            for group in random.permutation(len(names)):
                fits = free[group] and count + sizes[group] <= share * len(self)
                if fits and (remaining > sums[group]).all():
                    count, remaining, chosen[group] = count + sizes[group], remaining - sums[group], True
            if count and (not one_slide or (count >= MIN_HELD and sums[chosen].sum(0).min() >= MIN_HELD_OF_CLASS)):
                held_out = chosen[group_of]
                held = np.flatnonzero(held_out & whole)
                return self.subset(np.flatnonzero(~held_out).tolist()), self.subset(held.tolist())
        return self, None

    def spread(self, most: int) -> list[int]:
        """Return the indices of up to `most` tiles, evenly spread over every class's tiles."""
        of_class = [np.flatnonzero(column) for column in self.labels.T > 0]
        per_class = max(most // len(of_class), 1)
        chosen = [rows[np.linspace(0, len(rows) - 1, min(len(rows), per_class)).astype(int)] for rows in of_class]
        return [int(index) for index in np.unique(np.concatenate(chosen))]


def why_none_is_held_out(tiles: TileSet, share: float) -> str:
    """Explain why `TileSet.hold_out` holds out no tiles, and what to change."""
    if not share:
        return "valid_share is 0"
    if len(set(tiles.sources)) > 1:
        return (
            f"every slide has more than {100 * share:g} % of the tiles (valid_share) or all of a class; add slides, or"
            " raise valid_share"
        )
    return (
        f"a single slide needs {MIN_HELD} tiles, {MIN_HELD_OF_CLASS} of every class, in regions that lie apart from"
        f" the others{' and hold no strokes' * bool(tiles.painted)}, at most {100 * share:g} % of all (valid_share);"
        " outline more small regions, raise valid_share, or add a slide"
    )


# The readers of a set's tiles can be pickled, for worker processes that are not forked.


def _read_joined(reads: Sequence[Read], starts: NDArray[np.int64], index: int) -> NDArray[np.uint8]:
    number = int(np.searchsorted(starts, index, side="right")) - 1
    return reads[number](index - int(starts[number]))


def _read_chosen(read: Read, indices: Sequence[int], index: int) -> NDArray[np.uint8]:
    return read(indices[index])


class _Matched:
    """Picklable reader of images with the colours of their slides matched."""

    def __init__(self, read: Read, sources: Sequence[str], target: StainStatistics) -> None:
        self._given, self._read = (read, sources, target), matching(read, sources, target)

    def __call__(self, index: int) -> NDArray[np.uint8]:
        return self._read(index)

    def __reduce__(self) -> tuple[type[_Matched], tuple[Read, Sequence[str], StainStatistics]]:
        return _Matched, self._given


def tile_hashes(tiles: TileSet, files: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Hash each tile and its labels, 8 bytes of a SHA-256: (n, 8) uint8; (0, 8) for tiles made in memory.

    Args:
        tiles: The tiles; one cut from a slide is hashed by its origin, any other by its file's content.
        files: (m, 8) from `core.files.file_hashes` of their files.
    """
    identities = [f"Origin(slide={o.slide!r}, y={o.y}, x={o.x})".encode() for o in tiles.origins]
    if not identities and len(files) == len(tiles):
        identities = [row.tobytes() for row in files]
    hashes = [list(hashlib.sha256(identity + tiles.said_of(i)).digest()[:HASH_BYTES])
              for i, identity in enumerate(identities)]  # fmt: skip
    return np.array(hashes, np.uint8).reshape(-1, HASH_BYTES)


def describe_sources(*sets: TileSet) -> str:
    """Describe the origin of sets of tiles for people, with the first slides or patients by name."""
    description, names = sets[0].description, sorted({name for tiles in sets for name in tiles.sources})
    if names == [description]:
        return description
    more = f" and {len(names) - NAMED} more slides or patients" if len(names) > NAMED else ""
    return f"{description}: {', '.join(names[:NAMED])}{more}"


COLOUR_TILES = 256  # tiles measured for the card


def training_colours(tiles: TileSet) -> StainStatistics:
    """Measure the stain of up to 256 of the tiles.

    Raises:
        DataError: none of them is stained.
    """
    colours = colours_of(tiles.read(i) for i in tiles.spread(COLOUR_TILES))
    if colours is None:
        raise DataError(f"{tiles.description}: no tile holds stained tissue; check the resolution and the regions")
    return colours


CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
SHARE_FOR_IMAGES = 4  # images may use one part in so many of the memory


def room_for_images() -> int:
    """Return the bytes that decoded images may use: a quarter of the memory, shared by joint training processes."""
    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 2**32
    if CGROUP_LIMIT.exists() and (limit := CGROUP_LIMIT.read_text("ascii").strip()).isdigit():
        memory = min(memory, int(limit))
    return memory // SHARE_FOR_IMAGES // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class ImageCache:
    """Cache of images of one size, as many as fit, in memory that forked worker processes share.

    A process that is not forked, but gets it pickled, reads every image anew.

    Args:
        read: Image i, (H, W, 3) uint8.
        count: Number of images.
        room: Bytes of the cache; the first images are cached.
    """

    def __init__(self, read: Callable[[int], NDArray[np.uint8]], count: int, room: int) -> None:
        self._read = read
        first = read(0)
        self.kept = min(count, room // first.size)
        # One byte per image tells whether it is cached. The system allocates pages as they are written.
        block = np.frombuffer(mmap.mmap(-1, max(self.kept * (1 + first.size), 1)), np.uint8)
        self._cached = block[: self.kept]
        self._images = block[self.kept : self.kept * (1 + first.size)].reshape(self.kept, *first.shape)

    def __reduce__(self) -> tuple[type[partial[NDArray[np.uint8]]], tuple[Callable[[int], NDArray[np.uint8]]]]:
        return partial, (self._read,)

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """Return image `index`, which must not be written to."""
        if index >= self.kept:
            return self._read(index)
        if not self._cached[index]:
            self._images[index] = self._read(index)
            self._cached[index] = 1
        return self._images[index]
