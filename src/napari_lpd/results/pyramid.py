"""Multiscale images in OME-Zarr 0.5 (zarr 3): written block by block, every level at once, each chunk atomically."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_lpd.core.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

MIN_LEVEL = 2048
MIN_CHUNK = 256  # larger ones shrink with their level, so that a block covers whole chunks
OME_VERSION = "0.5"


def level_count(size: int, block: int) -> int:
    """Count the levels until an image of `size` fits a screen, as far as blocks can be halved."""
    count = 1
    while size > MIN_LEVEL and block % 2**count == 0:
        size, count = -(-size // 2), count + 1
    return count


class GuardedArray:
    """Stored array whose read errors are one line that names the folder.

    Attributes:
        shape: Of the array.
        dtype: Of the array.
    """

    def __init__(self, array: Any, folder: Path, what: str) -> None:
        self._array, self._folder, self._what = array, folder, what
        self.shape: tuple[int, ...] = array.shape
        self.dtype = np.dtype(array.dtype)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        try:
            return np.asarray(self._array[key])
        except (OSError, RuntimeError, ValueError) as error:  # what Zarr and its codecs raise
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise ExportError(f"{self._folder}: its {self._what} cannot be read ({first})") from error


class Pyramid:
    """Levels of an image (…, H, W) uint8, biggest first; every level has half the size of the one before.

    Labels are halved by taking every second pixel, maps by the mean of the pixels that are not 0 ("not computed").
    A block is written to the coarser levels first and to level 0 last: a block in level 0 is complete in all levels,
    and writing it again changes nothing.
    """

    def __init__(self, group: zarr.Group) -> None:
        self.group = group
        count = len(group.attrs["ome"]["multiscales"][0]["datasets"])  # type: ignore[index,call-overload,arg-type]
        self.levels: list[Any] = [group[str(i)] for i in range(count)]
        self._is_labels = "image-label" in group.attrs["ome"]  # type: ignore[operator]

    @classmethod
    def create(
        cls,
        group: zarr.Group,
        shape: tuple[int, ...],
        block: int,
        mpp: float,
        corner: Sequence[float],
        levels: int,
        ome: dict[str, Any],
    ) -> Pyramid:
        """Create an empty pyramid in `group`.

        Args:
            group: An empty group.
            shape: (H, W), or (N, H, W), of which a chunk holds all N.
            block: Edge of the blocks that are written, and of level 0's chunks; even.
            mpp: µm per pixel of level 0.
            corner: (y, x) µm of the outer corner of the first pixel.
            levels: Number of levels; `block` must be a multiple of 2^(levels - 1).
            ome: Content of the ``ome`` attribute besides ``multiscales``.
        """
        planes, datasets, size = shape[:-2], [], shape[-2:]
        for level in range(levels):
            scale, edge = mpp * 2**level, max(block >> level, min(block, MIN_CHUNK))
            group.create_array(
                str(level),
                shape=(*planes, *size),
                dtype="uint8",
                chunks=(*planes, edge, edge),
                fill_value=0,
                dimension_names=[*("c" for _ in planes), "y", "x"],
            )
            transforms = [
                {"type": "scale", "scale": [*(1.0 for _ in planes), scale, scale]},
                {"type": "translation", "translation": [*(0.0 for _ in planes), *(c + scale / 2 for c in corner)]},
            ]
            datasets.append({"path": str(level), "coordinateTransformations": transforms})
            size = (-(-size[0] // 2), -(-size[1] // 2))
        axes = [{"name": "c", "type": "channel"} for _ in planes]
        axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
        group.attrs["ome"] = {
            "version": OME_VERSION,
            "multiscales": [{"name": group.basename, "axes": axes, "datasets": datasets}],
            **ome,
        }
        return cls(group)

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


def _halved(maps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Halve maps (…, h, w): the mean of the values of each 2 x 2 that are not 0, rounded; 0 where all are."""
    h, w = (-(-n // 2) * 2 for n in maps.shape[-2:])
    even = np.zeros((*maps.shape[:-2], h, w), np.uint16)
    even[..., : maps.shape[-2], : maps.shape[-1]] = maps
    fours = even.reshape(*maps.shape[:-2], h // 2, 2, w // 2, 2)
    total, count = fours.sum((-3, -1), dtype=np.uint16), (fours > 0).sum((-3, -1), dtype=np.uint16)
    return ((total + count // 2) // np.maximum(count, 1)).astype(np.uint8)
