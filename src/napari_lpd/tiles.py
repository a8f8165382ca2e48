"""Tiles: where they lie and how their maps are put together. The only tiling code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

Origin = tuple[int, int]
Block = tuple[int, int]
Box = tuple[int, int, int, int]
READ_TILES = (2, 4)  # rows and columns of tiles that are read in one piece: about 3 megapixels


@dataclass(frozen=True)
class TileGrid:
    """Square tiles on a grid that is anchored at the slide's corner, so that any part is cut like the whole.

    Attributes:
        tile: Edge of a tile in pixels.
        overlap: Overlap of neighbours in pixels.
        border: Outer pixels of a tile that are dropped, for want of context; at most half of the overlap.
    """

    tile: int
    overlap: int
    border: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.tile:
            raise SettingsError(f"overlap={self.overlap} must be in [0, tile={self.tile})")
        if not 0 <= self.border <= self.overlap // 2:
            raise SettingsError(f"border={self.border} must be at most half of overlap={self.overlap}")

    @property
    def step(self) -> int:
        """Distance between neighbouring tiles in pixels."""
        return self.tile - self.overlap

    def starts(self, low: int, high: int) -> range:
        """First pixel of every tile, along one axis, whose kept part touches low..high."""
        # Tile n begins at n * step - overlap / 2, so that the first pixel of the slide is not at a tile's rim.
        half = self.overlap // 2
        first = (low + half - self.tile + self.border) // self.step + 1
        last = (high + half - self.border - 1) // self.step
        return range(first * self.step - half, last * self.step - half + 1, self.step)

    def touching(self, box: Box) -> list[Origin]:
        """(y, x) of the first pixel of each tile whose kept part touches a box, row by row."""
        y0, x0, y1, x1 = box
        return [(y, x) for y in self.starts(y0, y1) for x in self.starts(x0, x1)]

    def kept(self, origin: Origin) -> Box:
        """The box of a tile that counts."""
        y, x = origin
        return y + self.border, x + self.border, y + self.tile - self.border, x + self.tile - self.border

    def piece(self, origin: Origin) -> tuple[int, int]:
        """Row and column of the piece in which a tile is read."""
        y, x = (
            (value + self.overlap // 2) // self.step // many for value, many in zip(origin, READ_TILES, strict=True)
        )
        return y, x

    def piece_box(self, origin: Origin) -> Box:
        """The box of the piece in which a tile is read."""
        place = [
            index * many * self.step - self.overlap // 2
            for index, many in zip(self.piece(origin), READ_TILES, strict=True)
        ]
        size = [(many - 1) * self.step + self.tile for many in READ_TILES]
        return place[0], place[1], place[0] + size[0], place[1] + size[1]


def pieces_of(grid: TileGrid, tiles: Iterable[Origin]) -> list[list[Origin]]:
    """Tiles grouped by the piece in which they are read, pieces and tiles in storage order."""
    pieces: dict[tuple[int, int], list[Origin]] = {}
    for origin in sorted(tiles):
        pieces.setdefault(grid.piece(origin), []).append(origin)
    return [pieces[place] for place in sorted(pieces)]


class Stitcher:
    """Overlap-add of tiles' maps with a smooth window, held only where they are still needed.

    The window is 0 on a tile's border, rises over the rest of the overlap as a raised cosine, and is 1 inside. The sum
    is divided by the sum of windows, so that constant maps stay constant and a tile that stands alone comes back
    unchanged.

    Args:
        grid: The tiles.
        channels: Maps per tile.
        stride: Pixels per pixel of the maps; tiles, blocks and borders are multiples of it.
        block: Edge of the blocks in which the maps are held, in pixels.
        boxes: Boxes, in map pixels, that will be read; what lies elsewhere is not kept.
    """

    def __init__(self, grid: TileGrid, channels: int, stride: int, block: int, boxes: Iterable[Box]) -> None:
        odd = [n for n in (grid.tile, grid.overlap // 2, grid.border, block) if n % stride]
        if odd:
            raise SettingsError(f"{odd[0]} pixels are not a multiple of the maps' stride {stride}")
        self._stride, self._edge, self._channels = stride, block // stride, channels
        self._users = Counter(place for box in boxes for place in self._places(box))
        self._held: dict[Block, NDArray[np.float32]] = {}
        n, border, ramp = grid.tile // stride, grid.border // stride, (grid.overlap - 2 * grid.border) // stride
        inside = np.minimum(np.arange(n), np.arange(n)[::-1]) - border + 0.5
        window = np.sin(np.pi / 2 * np.clip(inside / max(ramp, 1), 0, 1)) ** 2 * (inside > 0)
        self._window = np.outer(window, window).astype(np.float32)

    def add(self, origin: Origin, maps: NDArray[np.float32]) -> None:
        """Add the maps (channels, n, n) of the tile whose first pixel is at `origin` (y, x)."""
        y, x = (value // self._stride for value in origin)
        h, w = self._window.shape
        for place in self._places((max(y, 0), max(x, 0), y + h, x + w)):
            if not self._users[place]:
                continue
            if place not in self._held:
                self._held[place] = np.zeros((self._channels + 1, self._edge, self._edge), np.float32)
            top, left = place[0] * self._edge, place[1] * self._edge
            low = max(y, top), max(x, left)
            high = min(y + h, top + self._edge), min(x + w, left + self._edge)
            source = (slice(low[0] - y, high[0] - y), slice(low[1] - x, high[1] - x))
            target = (slice(low[0] - top, high[0] - top), slice(low[1] - left, high[1] - left))
            held, window = self._held[place], self._window[source]
            held[(slice(-1), *target)] += maps[(slice(None), *source)] * window
            held[(-1, *target)] += window

    def read(self, box: Box) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The blended maps (channels, h, w) of a box in map pixels, and (h, w) where any tile has been added."""
        y0, x0, y1, x1 = box
        total = np.zeros((self._channels + 1, y1 - y0, x1 - x0), np.float32)
        for place in self._places(box):
            if place in self._held:
                top, left = place[0] * self._edge, place[1] * self._edge
                low, high = (max(y0, top), max(x0, left)), (min(y1, top + self._edge), min(x1, left + self._edge))
                total[:, low[0] - y0 : high[0] - y0, low[1] - x0 : high[1] - x0] = self._held[place][
                    :, low[0] - top : high[0] - top, low[1] - left : high[1] - left
                ]
        weight = total[-1]
        return total[:-1] / np.maximum(weight, np.finfo(np.float32).tiny), weight > 0

    def release(self, box: Box) -> None:
        """Forget what only this box, one of those given at the start, was waiting for."""
        for place in self._places(box):
            self._users[place] -= 1
            if not self._users[place]:
                self._held.pop(place, None)

    def _places(self, box: Box) -> Iterator[Block]:
        y0, x0, y1, x1 = box
        for y in range(y0 // self._edge, (y1 - 1) // self._edge + 1):
            for x in range(x0 // self._edge, (x1 - 1) // self._edge + 1):
                yield y, x
