"""Multiscale images in OME-Zarr 0.5 (zarr 3): written block by block, every level at once, each chunk atomically."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter

from napari_lpd.core.errors import one_line
from napari_lpd.core.files import KEY
from napari_lpd.results.store import (
    BY_HAND,
    ArraySpec,
    DamagedResultError,
    StoredArray,
    create_array,
    read_metadata,
    write_attributes,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Block
    from napari_lpd.results.corrections import Corrections

MIN_LEVEL = 2048
MIN_CHUNK = 256  # larger ones shrink with their level, so that a block covers whole chunks
OME_VERSION = "0.5"
ERASED = 254  # what is stored where a pixel is corrected to unlabelled
LISTED = f"{KEY}_chunks"  # attribute of a sparse pyramid's group: which chunks there are, by level
CHUNKS = TypeAdapter(list[set[tuple[int, int]]])


def level_count(size: int, block: int) -> int:
    """Count the levels until an image of `size` fits a screen, as far as blocks can be halved."""
    count = 1
    while size > MIN_LEVEL and block % 2**count == 0:
        size, count = -(-size // 2), count + 1
    return count


class Layout(NamedTuple):
    """Shape of a pyramid of a result.

    Attributes:
        node: Place of its group in the result's folder.
        shape: (H, W), or (N, H, W), of which a chunk holds all N.
        block: Edge of the blocks that are written, and of level 0's chunks; a power of 2.
        levels: Number of levels; `block` must be a multiple of 2^(levels - 1).
        is_labels: Whether it holds labels, not maps.
    """

    node: str
    shape: tuple[int, ...]
    block: int
    levels: int
    is_labels: bool = False

    def arrays(self) -> list[ArraySpec]:
        """List the arrays of the levels, biggest first."""
        planes, (h, w), found = self.shape[:-2], self.shape[-2:], []
        for level in range(self.levels):
            edge = max(self.block >> level, min(self.block, MIN_CHUNK))
            found.append(ArraySpec(f"{self.node}/{level}".lstrip("/"), (*planes, h, w), (*planes, edge, edge)))
            h, w = -(-h // 2), -(-w // 2)
        return found


class Pyramid:
    """Levels of an image (…, H, W) uint8, biggest first; every level has half the size of the one before.

    Labels are halved by taking every second pixel, maps by the mean of the pixels that are not 0 ("not computed").
    A block is written to the coarser levels first and to level 0 last: a block in level 0 is complete in all levels,
    and writing it again changes nothing.

    Raises:
        DamagedResultError: metadata of a level are missing, or not those of the layout.
    """

    def __init__(self, folder: Path, layout: Layout, write: bool = False, sparse: bool = False) -> None:
        read_metadata(folder, layout.node, "group")
        self.levels = [StoredArray(folder, spec, write, sparse) for spec in layout.arrays()]
        self._is_labels, self._block, self._folder, self._node = layout.is_labels, layout.block, folder, layout.node

    @staticmethod
    def create(group: zarr.Group, layout: Layout, mpp: float, corner: Sequence[float], ome: dict[str, Any]) -> None:
        """Create an empty pyramid in `group`.

        Args:
            group: An empty group, at the layout's place.
            layout: Its shape.
            mpp: µm per pixel of level 0.
            corner: (y, x) µm of the outer corner of the first pixel.
            ome: Content of the ``ome`` attribute besides ``multiscales``.
        """
        planes, datasets = layout.shape[:-2], []
        for level, spec in enumerate(layout.arrays()):
            create_array(group, str(level), spec)
            scale = mpp * 2**level
            transforms = [
                {"type": "scale", "scale": [*(1.0 for _ in planes), scale, scale]},
                {"type": "translation", "translation": [*(0.0 for _ in planes), *(c + scale / 2 for c in corner)]},
            ]
            datasets.append({"path": str(level), "coordinateTransformations": transforms})
        axes = [{"name": "c", "type": "channel"} for _ in planes]
        axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
        group.attrs["ome"] = {
            "version": OME_VERSION,
            "multiscales": [{"name": group.basename, "axes": axes, "datasets": datasets}],
            **ome,
        }

    def _users(self, level: int, blocks: Iterable[Block]) -> dict[tuple[int, int], list[Block]]:
        """Return the blocks (row, column) in each chunk (row, column) of a level."""
        users: dict[tuple[int, int], list[Block]] = {}
        places = list(blocks)
        pixels = (np.array(places, np.int64).reshape(-1, 2) * self._block) >> level
        for block, chunk in zip(places, (pixels // self.levels[level].edge).tolist(), strict=True):
            users.setdefault((chunk[0], chunk[1]), []).append(block)
        return users

    def incomplete(self, blocks: set[Block]) -> set[Block]:
        """Return which of `blocks` lack a chunk in any level."""
        lost: set[Block] = set()
        for i, level in enumerate(self.levels):
            chunks = level.chunks()
            if self._block >> i == level.edge and blocks <= chunks:  # a chunk for each
                continue
            users = self._users(i, blocks)
            lost.update(*(users[chunk] for chunk in users.keys() - chunks))
        return lost

    def unsound(self, blocks: set[Block]) -> set[Block]:
        """Return which of `blocks` have a chunk that is not what was written; such chunks are deleted."""
        lost: set[Block] = set()
        for i, level in enumerate(self.levels):
            for chunk, users in self._users(i, blocks).items():
                if not level.is_sound(chunk):
                    level.remove(chunk)
                    lost.update(users)
        return lost

    def write(self, origin: tuple[int, int], pixels: NDArray[np.uint8]) -> None:
        """Write `pixels` (…, h, w) at `origin` (y, x), multiples of the block's edge, to all levels."""
        pieces = [(origin, pixels)]
        for _ in self.levels[1:]:
            (y, x), finer = pieces[-1]
            pieces.append(((y // 2, x // 2), finer[..., ::2, ::2] if self._is_labels else _halved(finer)))
        for level, ((y, x), piece) in reversed(list(zip(self.levels, pieces, strict=True))):
            h, w = piece.shape[-2:]
            level[..., y : y + h, x : x + w] = piece

    def write_anywhere(self, origin: tuple[int, int], labels: NDArray[np.uint8]) -> None:
        """Write labels (h, w) at any `origin` (y, x) to all levels, level 0 last; chunks may be cut."""
        y, x = origin
        for i, level in reversed(list(enumerate(self.levels))):
            step = 2**i
            sampled = labels[-y % step :: step, -x % step :: step]
            top, left = -(-y // step), -(-x // step)
            if sampled.size:
                level[top : top + sampled.shape[0], left : left + sampled.shape[1]] = sampled

    def list_chunks(self, origin: tuple[int, int], shape: tuple[int, ...]) -> None:
        """Note in the group's attributes which chunks there are, after a part (h, w) at `origin` (y, x) was written."""
        listed = self._listed() or [level.chunks() for level in self.levels]
        for i, (level, chunks) in enumerate(zip(self.levels, listed, strict=True)):
            edge = level.edge << i
            rows, columns = (range(a // edge, (a + n - 1) // edge + 1) for a, n in zip(origin, shape, strict=True))
            touched = set(product(rows, columns))
            chunks.difference_update(touched)
            chunks.update(touched & level.chunks())
        write_attributes(self._folder, LISTED, [sorted(map(list, chunks)) for chunks in listed], self._node)

    def check_listed(self) -> None:
        """Raise DamagedResultError if a chunk is lost that was listed; older versions list none."""
        for i, (level, chunks) in enumerate(zip(self.levels, self._listed(), strict=False)):
            if lost := chunks - level.chunks():
                (y, x), edge = min(lost), level.edge << i
                where = f"{len(lost)} of {len(chunks)} chunks of {level.node} are lost, the first"
                raise DamagedResultError(self._folder, f"{where} at y {y * edge}, x {x * edge}", BY_HAND)

    def _listed(self) -> list[set[Block]]:
        """Read which chunks are listed, by level; [] where none are."""
        attributes = read_metadata(self._folder, self._node, "group").get("attributes")
        said = attributes.get(LISTED) if isinstance(attributes, dict) else None
        try:
            found = [] if said is None else CHUNKS.validate_python(said)
            if found and len(found) != len(self.levels):
                raise ValueError(f"of {len(found)} levels")
        except ValueError as error:
            what = f"{self._node} has a damaged list of chunks: {one_line(error)}"
            raise DamagedResultError(self._folder, what, BY_HAND) from error
        return found


def image_label(names: Sequence[tuple[int, str, Sequence[int]]]) -> dict[str, Any]:
    """Describe labels for OME-Zarr: value, name and colour (R, G, B, A) of each."""
    return {
        "colors": [{"label-value": value, "rgba": list(rgba)} for value, _, rgba in names],
        "properties": [{"label-value": value, "class": name} for value, name, _ in names],
        "source": {"image": "../../"},
    }


def _halved(maps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Halve maps (…, h, w): the mean of the values of each 2 x 2 that are not 0, rounded; 0 where all are."""
    h, w = (-(-n // 2) * 2 for n in maps.shape[-2:])
    even = np.zeros((*maps.shape[:-2], h, w), np.uint16)
    even[..., : maps.shape[-2], : maps.shape[-1]] = maps
    fours = even.reshape(*maps.shape[:-2], h // 2, 2, w // 2, 2)
    total, count = fours.sum((-3, -1), dtype=np.uint16), (fours > 0).sum((-3, -1), dtype=np.uint16)
    return ((total + count // 2) // np.maximum(count, 1)).astype(np.uint8)


class CorrectedLevel:
    """Level of the corrected labels (H, W) uint8; read like an array, always up to date."""

    dtype = np.dtype(np.uint8)
    ndim = 2

    def __init__(self, corrections: Corrections, level: int) -> None:
        self._corrections, self._level = corrections, level
        prediction = corrections.prediction
        self._model = prediction.labels.levels[level]
        self.shape: tuple[int, int] = (self._model.shape[0], self._model.shape[1])
        self.size = self.shape[0] * self.shape[1]

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        stored = self._corrections.stored_level(self._level)
        return self._model[key] if stored is None else combined(self._model[key], stored[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:, :], dtype)


def combined(labels: NDArray[np.uint8], stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Apply stored corrections to the model's labels."""
    return np.where(stored == 0, labels, np.where(stored == ERASED, 0, stored)).astype(np.uint8)
