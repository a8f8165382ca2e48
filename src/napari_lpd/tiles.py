"""Tiles: where they lie and how their maps are put together. The only tiling code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True)
class TileGrid:
    """Square tiles on a grid that is anchored at the slide's corner, so that any part is cut like the whole.

    Attributes:
        box: (y0, x0, y1, x1) in pixels: the tiles cover it. Parts of a tile may lie outside.
        tile: Edge of a tile in pixels.
        overlap: Overlap of neighbours in pixels.
    """

    box: tuple[int, int, int, int]
    tile: int
    overlap: int

    def __post_init__(self) -> None:
        y0, x0, y1, x1 = self.box
        if y1 <= y0 or x1 <= x0:
            raise SettingsError(f"empty region: y {y0}..{y1}, x {x0}..{x1}")
        if not 0 <= self.overlap < self.tile:
            raise SettingsError(f"overlap={self.overlap} must be in [0, tile={self.tile})")

    @property
    def step(self) -> int:
        """Distance between neighbouring tiles in pixels."""
        return self.tile - self.overlap

    def _starts(self, low: int, high: int) -> range:
        # Tile n begins at n * step - overlap / 2, so that the first pixel of the slide is not at a tile's rim.
        half = self.overlap // 2
        first = (low + half - self.tile) // self.step + 1
        last = (high + half - 1) // self.step
        return range(first * self.step - half, last * self.step - half + 1, self.step)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(y, x) of each tile's first pixel, row by row (the storage order of slides)."""
        y0, x0, y1, x1 = self.box
        for y in self._starts(y0, y1):
            for x in self._starts(x0, x1):
                yield y, x

    def __len__(self) -> int:
        y0, x0, y1, x1 = self.box
        return len(self._starts(y0, y1)) * len(self._starts(x0, x1))


class Stitcher:
    """Overlap-add of tiles' maps with a Hann window: (C, h, w) maps on a grid of `stride` pixels.

    The window is positive everywhere and the sum is divided by the sum of windows, so that constant maps stay
    constant and a tile that stands alone comes back unchanged.
    """

    def __init__(self, box: tuple[int, int, int, int], channels: int, tile: int, stride: int) -> None:
        if any(value % stride for value in (*box, tile)):
            raise SettingsError(f"box {box} and tile {tile} must be multiples of the maps' stride {stride}")
        self.stride = stride
        y0, x0, y1, x1 = (value // stride for value in box)
        self._origin = (y0, x0)
        self._sum = np.zeros((channels, y1 - y0, x1 - x0), np.float32)
        self._weight = np.zeros((y1 - y0, x1 - x0), np.float32)
        n = tile // stride
        hann = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
        self._window = np.outer(hann, hann).astype(np.float32)

    def add(self, origin: tuple[int, int], maps: NDArray[np.float32]) -> None:
        """Add the maps (C, n, n) of the tile whose first pixel is at `origin` (y, x); what lies outside is dropped."""
        starts = [value // self.stride - first for value, first in zip(origin, self._origin, strict=True)]
        target, source = [], []
        for start, length, size in zip(starts, maps.shape[1:], self._weight.shape, strict=True):
            low, high = max(start, 0), min(start + length, size)
            if high <= low:
                return
            target.append(slice(low, high))
            source.append(slice(low - start, high - start))
        window = self._window[tuple(source)]
        self._sum[(slice(None), *target)] += maps[(slice(None), *source)] * window
        self._weight[tuple(target)] += window

    def result(self) -> NDArray[np.float32]:
        """(C, h, w) float32: the blended maps; 0 where no tile was added."""
        weight = np.maximum(self._weight, np.finfo(np.float32).tiny, dtype=np.float32)
        blended: NDArray[np.float32] = np.divide(self._sum, weight, dtype=np.float32)
        return blended
