"""Tiles: where they lie and how their maps are put together. The only tiling code."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import groupby, pairwise, product
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from napari_lpd.core.errors import SettingsError
from napari_lpd.core.geometry import common, divided, multiplied, within

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_lpd.core.geometry import Block, Box
    from napari_lpd.slides.tissue import TissueMask

Origin = tuple[int, int]
Span = tuple[int, int]
READ_TILES = 6  # neighbours in a row that are read in one piece: about 3 megapixels


@dataclass(frozen=True)
class TileShape:
    """A square tile and what of it counts.

    Attributes:
        tile: Edge in pixels.
        overlap: Overlap of neighbours in pixels.
        border: Outer pixels that are dropped, for want of context; at most half of the overlap.
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
        """Distance between neighbours in pixels."""
        return self.tile - self.overlap

    @property
    def kept(self) -> int:
        """Edge of the part that counts, in pixels."""
        return self.tile - 2 * self.border


class Piece(NamedTuple):
    """Tiles that are read together.

    Attributes:
        origins: (y, x) of their first pixels.
        box: What is read, whichever of its tiles are wanted: resampling depends on where one begins.
    """

    origins: list[Origin]
    box: Box


class Tiling:
    """Where the tiles lie on a slide: in rows over its tissue.

    Rows follow one another from where tissue begins, at the tiles' step, as far as it reaches; below a gap in which
    there is none for a whole row, they begin anew. In a row, tiles do the same from left to right. So a piece of
    tissue is covered by as few tiles as possible, wherever it is. The position of a tile depends on the tissue alone:
    any part of a slide is cut like the whole.

    Args:
        shape: The tiles.
        tissue: What is to be covered by the tiles' kept parts.
        mpp: µm per pixel of the tiles.
        align: Tiles begin at multiples of it: maps change a little when an image moves by less than a network's stride.
    """

    def __init__(self, shape: TileShape, tissue: TissueMask, mpp: float, align: int = 1) -> None:
        self.shape, self._align, self._scale = shape, align, tissue.mpp / mpp
        self._pieces: dict[Origin, Box] = {}
        for run in self._runs(np.any(tissue.array, axis=1)):
            rows = self._starts(run)
            limits = [run[0], *(y + shape.border + (shape.kept - shape.step) // 2 for y in rows[1:]), run[1]]
            for y, limit in zip(rows, pairwise(limits), strict=True):
                first, last = (edge / self._scale for edge in limit)
                part = tissue.array[max(math.floor(first), 0) : math.ceil(last)]
                for along in self._runs(np.any(part, axis=0)):
                    self._place(y, self._starts(along))
        self._rows = {y: [x for _, x in row] for y, row in groupby(sorted(self._pieces), key=itemgetter(0))}

    @property
    def tiles(self) -> list[Origin]:
        """(y, x) of the first pixel of every tile, row by row."""
        return sorted(self._pieces)

    def touching(self, box: Box) -> list[Origin]:
        """List the tiles whose kept part touches a box (y0, x0, y1, x1), row by row."""
        y0, x0, y1, x1 = (value - self.shape.border for value in box)
        rows = [(y, row) for y, row in self._rows.items() if y < y1 and y + self.shape.kept > y0]
        return [(y, x) for y, row in rows for x in row if x < x1 and x + self.shape.kept > x0]

    def pieces(self, tiles: Iterable[Origin]) -> list[Piece]:
        """Tiles grouped as they are read, pieces and tiles in storage order."""
        found: dict[Box, Piece] = {}
        for origin in sorted(tiles):
            box = self._pieces[origin]
            found.setdefault(box, Piece([], box)).origins.append(origin)
        return list(found.values())

    def _runs(self, present: NDArray[np.bool_]) -> list[Span]:
        """Pixels (first, end) that tiles cover in unbroken sequence, from what is present along an axis (n,)."""
        edges = np.flatnonzero(np.diff(present.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
        runs: list[Span] = []
        for low, high in edges * self._scale:
            first, end = math.floor(low), math.ceil(high)
            if runs and first < runs[-1][0] + self._length(runs[-1]):
                first = runs.pop()[0]
            runs.append((first, end))
        return runs

    def _count(self, run: Span) -> int:
        """Count the tiles that cover a run, wherever the positions lie at which they may begin."""
        first, end = run
        return 1 + max(0, math.ceil((end - first + self._align - 1 - self.shape.kept) / self.shape.step))

    def _length(self, run: Span) -> int:
        """Pixels that these tiles cover."""
        return self.shape.kept + (self._count(run) - 1) * self.shape.step

    def _starts(self, run: Span) -> list[int]:
        """First pixels of the tiles that cover a run, which lies in their middle."""
        first, end = run
        before = (self._length(run) - (end - first) - (self._align - 1)) // 2
        start = (first - before - self.shape.border) // self._align * self._align
        return [start + i * self.shape.step for i in range(self._count(run))]

    def _place(self, y: int, row: list[int]) -> None:
        """Take neighbouring tiles in, with the pieces in which they are read."""
        for i in range(0, len(row), READ_TILES):
            together = row[i : i + READ_TILES]
            box = (y, together[0], y + self.shape.tile, together[-1] + self.shape.tile)
            self._pieces |= {(y, x): box for x in together}


class Stitcher:
    """Overlap-add of tiles' maps with a smooth window, held only where they are still needed.

    The window is 0 on a tile's border, rises over the rest of the overlap as a raised cosine, and is 1 inside. The sum
    is divided by the sum of windows, so that constant maps stay constant and a tile that stands alone comes back
    unchanged.

    Args:
        shape: The tiles.
        channels: Maps per tile.
        stride: Pixels per pixel of the maps; tiles, blocks and borders are multiples of it.
        block: Edge of the blocks in which the maps are held, in pixels.
        boxes: Boxes, in map pixels, that will be read; what lies elsewhere is not kept.
        device: Where the maps are held and blended.
    """

    def __init__(
        self,
        shape: TileShape,
        channels: int,
        stride: int,
        block: int,
        boxes: Iterable[Box],
        device: torch.device | None = None,
    ) -> None:
        odd = [n for n in (shape.step, shape.tile, shape.border, block) if n % stride]
        if odd:
            raise SettingsError(f"{odd[0]} pixels are not a multiple of the maps' stride {stride}")
        self._stride, self._edge, self._channels = stride, block // stride, channels
        self._users = Counter(place for box in boxes for place in self._places(box))
        self._device = device
        self._held: dict[Block, Tensor] = {}
        n, border, ramp = shape.tile // stride, shape.border // stride, (shape.overlap - 2 * shape.border) // stride
        inside = np.minimum(np.arange(n), np.arange(n)[::-1]) - border + 0.5
        window = np.sin(np.pi / 2 * np.clip(inside / max(ramp, 1), 0, 1)) ** 2 * (inside > 0)
        self._window = torch.tensor(np.outer(window, window), dtype=torch.float32, device=device)

    def add(self, origin: Origin, maps: Tensor) -> None:
        """Add the maps (channels, n, n) float32 of the tile whose first pixel is at `origin` (y, x)."""
        y, x = (value // self._stride for value in origin)
        h, w = self._window.shape
        whole = (y, x, y + h, x + w)
        for place in self._places((max(y, 0), max(x, 0), y + h, x + w)):
            if not self._users[place]:
                continue
            if place not in self._held:
                self._held[place] = self._zeros(self._edge, self._edge)
            part = common(whole, self._box(place))
            held, window = self._held[place][within(self._box(place), part)], self._window[within(whole, part)]
            held[:-1] += maps[within(whole, part)] * window
            held[-1] += window

    def read(self, box: Box) -> tuple[Tensor, Tensor]:
        """Return the blended maps (channels, h, w) of a box in map pixels, and (h, w) bool where a tile was added."""
        total = self._zeros(box[2] - box[0], box[3] - box[1])
        for place in self._places(box):
            if place in self._held:
                part = common(box, self._box(place))
                total[within(box, part)] = self._held[place][within(self._box(place), part)]
        weight = total[-1]
        return total[:-1] / weight.clamp(min=torch.finfo(torch.float32).tiny), weight > 0

    def release(self, box: Box) -> None:
        """Forget what only this box, one of those given at the start, was waiting for."""
        for place in self._places(box):
            self._users[place] -= 1
            if not self._users[place]:
                self._held.pop(place, None)

    def _zeros(self, h: int, w: int) -> Tensor:
        return torch.zeros((self._channels + 1, h, w), device=self._device)

    def _box(self, place: Block) -> Box:
        y, x = place
        return multiplied((y, x, y + 1, x + 1), self._edge)

    def _places(self, box: Box) -> Iterator[Block]:
        y0, x0, y1, x1 = divided(box, self._edge)
        return product(range(y0, y1), range(x0, x1))
