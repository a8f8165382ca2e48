"""Training tiles with image-level labels; tiles that are cut from regions drawn on slides."""

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
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.slides.stain import StainStatistics

    Read = Callable[[int], NDArray[np.uint8]]

MIN_HELD, MIN_HELD_OF_CLASS = 20, 3
ORDERS = 20  # in which the places of one slide are tried, until some amount to a sample
NAMED = 5  # slides named where there are many


class Origin(NamedTuple):
    """Where a tile was cut: the slide's name, and (y, x) of its first pixel there, at the tile's resolution."""

    slide: str
    y: int
    x: int


class TileSet:
    """Labelled tiles: item i is (image (3, H, W) uint8 RGB, labels (C,) float32 in {0, 1}), as NumPy arrays.

    Attributes:
        classes: The tissue classes.
        labels: (n, C) in {0, 1}.
        description: What the tiles come from, for messages.
        sources: Per tile: the slide or patient it comes from.
        clusters: Per tile: the part of the slide it comes from; tiles of two clusters do not touch.
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
        description: str,
        *,
        sources: Sequence[str],
        files: Sequence[Path],
        clusters: Sequence[str] = (),
        origins: Sequence[Origin] = (),
    ) -> None:
        self.classes = classes
        self.labels = labels
        self.description = description
        self.sources = tuple(sources)
        self.clusters = tuple(clusters) or self.sources
        self.files = tuple(files)
        self.origins = tuple(origins)
        self.read = read
        self._check()

    @classmethod
    def joined(cls, sets: Sequence[TileSet], description: str) -> TileSet:
        """The tiles of several sets of the same classes and tile size as one."""
        starts = np.cumsum([0, *(len(tiles) for tiles in sets)])
        return cls(
            sets[0].classes,
            np.concatenate([tiles.labels for tiles in sets]),
            partial(_read_joined, [tiles.read for tiles in sets], starts),
            description,
            sources=[source for tiles in sets for source in tiles.sources],
            files=[file for tiles in sets for file in tiles.files],
            clusters=[cluster for tiles in sets for cluster in tiles.clusters],
            origins=[origin for tiles in sets for origin in tiles.origins],
        )

    def _check(self) -> None:
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
                f"{self.description}: no tile holds {', '.join(absent)}; add some, or take it out of the classes"
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
    def edge(self) -> int:
        """Edge of the tiles, in pixels."""
        return int(self.read(0).shape[0])

    def name(self, index: int) -> str:
        """What a tile is called in messages."""
        return self.files[index].name if len(self.files) == len(self) else f"{self.description} #{index}"

    def subset(self, indices: Sequence[int]) -> TileSet:
        """The tiles at `indices`, in their order."""
        part = copy.copy(self)
        part.labels = self.labels[list(indices)]
        part.sources, part.clusters = (tuple(names[i] for i in indices) for names in (self.sources, self.clusters))
        part.origins = tuple(self.origins[i] for i in indices) if self.origins else ()
        part.files = tuple(self.files[i] for i in indices) if len(self.files) == len(self) else self.files
        part.read = partial(_read_chosen, self.read, indices)
        return part

    def with_colours(self, wanted: StainStatistics) -> TileSet:
        """The same tiles, their colours matched, slide by slide, to `wanted`."""
        same = copy.copy(self)
        same.read = _Matched(self.read, self.sources, wanted)
        return same

    def kept_in_memory(self) -> TileSet:
        """The same tiles, those read from files decoded once only, as far as they fit (`room_for_images`)."""
        if len(self.files) != len(self):  # cut from slides: they lie in memory
            return self
        same = copy.copy(self)
        same.read = ImageCache(self.read, len(self), room_for_images())
        return same

    def hold_out(self, share: float, seed: int) -> tuple[TileSet, TileSet | None]:
        """Tiles for training and for validation; whole slides go to validation, in random order, up to `share`.

        Of one slide alone, whole clusters go there, if they amount to a sample that can choose: 20 tiles or more, and
        three or more of every class; several orders are tried. A slide or cluster stays in training where its loss
        would leave a class without tiles.
        """
        one_slide = len(set(self.sources)) == 1
        names, part_of = np.unique(self.clusters if one_slide else self.sources, return_inverse=True)
        sizes = np.bincount(part_of)
        sums = np.stack([np.bincount(part_of, own) for own in self.labels.T], 1)
        random = np.random.RandomState(seed)
        for _ in range(ORDERS if one_slide else 1):
            count, held, of_class = 0, np.zeros(len(names), bool), sums.sum(0)
            for part in random.permutation(len(names)):
                if count + sizes[part] <= share * len(self) and (of_class > sums[part]).all():
                    count, of_class, held[part] = count + sizes[part], of_class - sums[part], True
            if count and (not one_slide or (count >= MIN_HELD and sums[held].sum(0).min() >= MIN_HELD_OF_CLASS)):
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
    if len(set(tiles.sources)) > 1:
        return (
            f"every slide has more than {100 * share:g} % of the tiles (valid_share) or all of a class; add slides, or"
            " raise valid_share"
        )
    return (
        f"of a single slide it takes {MIN_HELD} tiles, {MIN_HELD_OF_CLASS} of every class, in regions that lie"
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
    """Read images with the colours of their slide matched, and pickle that."""

    def __init__(self, read: Read, sources: Sequence[str], wanted: StainStatistics) -> None:
        self._given, self._read = (read, sources, wanted), matching(read, sources, wanted)

    def __call__(self, index: int) -> NDArray[np.uint8]:
        return self._read(index)

    def __reduce__(self) -> tuple[type[_Matched], tuple[Read, Sequence[str], StainStatistics]]:
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


def describe_sources(*parts: TileSet) -> str:
    """What sets of tiles come from, for people: their source, and the first slides or patients by name."""
    description, names = parts[0].description, sorted({name for tiles in parts for name in tiles.sources})
    if names == [description]:
        return description
    more = f" and {len(names) - NAMED} more slides or patients" if len(names) > NAMED else ""
    return f"{description}: {', '.join(names[:NAMED])}{more}"


COLOUR_TILES = 256  # tiles whose colours go into the card


def training_colours(tiles: TileSet) -> StainStatistics:
    """The colours of the tiles, of up to 256 of them.

    Raises:
        DataError: none of them is stained.
    """
    colours = colours_of(tiles.read(i) for i in tiles.spread(COLOUR_TILES))
    if colours is None:
        raise DataError(f"{tiles.description}: no tile holds stained tissue; is this the right resolution and place?")
    return colours


CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
SHARE_FOR_IMAGES = 4  # one part in so many of the machine's memory


def room_for_images() -> int:
    """Bytes that decoded images may take: a quarter of the memory, shared by the processes that train together."""
    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 2**32
    if CGROUP_LIMIT.exists() and (limit := CGROUP_LIMIT.read_text("ascii").strip()).isdigit():
        memory = min(memory, int(limit))
    return memory // SHARE_FOR_IMAGES // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class ImageCache:
    """Reads images of one size, and keeps those that fit, in memory that forked worker processes share.

    A process that is not forked, but gets it pickled, reads every image when it is asked for.

    Args:
        read: Image i, (H, W, 3) uint8.
        count: How many images there are.
        room: Bytes that they may take; the first ones are kept.
    """

    def __init__(self, read: Callable[[int], NDArray[np.uint8]], count: int, room: int) -> None:
        self._read = read
        first = read(0)
        self.kept = min(count, room // first.size)
        # One byte per image says whether it is there. The system gives the pages out as they are written.
        block = np.frombuffer(mmap.mmap(-1, max(self.kept * (1 + first.size), 1)), np.uint8)
        self._there = block[: self.kept]
        self._images = block[self.kept : self.kept * (1 + first.size)].reshape(self.kept, *first.shape)

    def __reduce__(self) -> tuple[type[partial[NDArray[np.uint8]]], tuple[Callable[[int], NDArray[np.uint8]]]]:
        return partial, (self._read,)

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """Image `index`; not to be written to."""
        if index >= self.kept:
            return self._read(index)
        if not self._there[index]:
            self._images[index] = self._read(index)
            self._there[index] = 1
        return self._images[index]
