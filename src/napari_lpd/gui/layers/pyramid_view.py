"""Views of a prediction's pyramids for napari: all but large levels are in memory and filled block by block.

napari reads visible data again for every frame, in the GUI thread, where zarr is slow. So all but the finest levels of
a large prediction are arrays, which the thread that predicts fills.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Block, Box
    from napari_lpd.results.corrections import Corrections
    from napari_lpd.results.pyramid import Pyramid

SMALL = 2048  # pixels; a view up to this edge is shown without levels
MAX_HELD = 2**25  # bytes of a level in memory


class View:
    """A box of a pyramid for display: a small one as one array, a large one with its levels. Empty at first.

    Args:
        pyramid: The pyramid.
        box: (y0, x0, y1, x1) in pixels of the finest level.
        edge: Edge of a block (chunk) of every level, in pixels.

    Attributes:
        box: What is shown, in pixels of the finest level.
        levels: (…, h, w) uint8 each, finest first; NumPy arrays where they are in memory.
        highest: The highest value in the coarsest level.
    """

    def __init__(self, pyramid: Pyramid | Corrections, box: Box, edge: int) -> None:
        y0, x0, y1, x1 = box
        small = max(y1 - y0, x1 - x0) <= SMALL
        self._edge = edge
        self._sources: list[Any] = list(pyramid.levels[:1] if small else pyramid.levels)
        self._boxes = [box if small else (0, 0, *level.shape[-2:]) for level in self._sources]
        self.box = self._boxes[0]
        self.highest = 0
        self._finished: set[Block] = set()
        self.levels: list[Any] = []
        for source, (top, left, bottom, right) in zip(self._sources, self._boxes, strict=True):
            shape = (*source.shape[:-2], bottom - top, right - left)
            in_memory = math.prod(shape) <= MAX_HELD or source is self._sources[-1]
            self.levels.append(np.zeros(shape, np.uint8) if in_memory else source)

    @property
    def data(self) -> Any:
        """The data of a napari layer: a list of levels, or one array."""
        return self.levels if len(self.levels) > 1 else self.levels[0]

    def fill(self, blocks: Iterable[Block]) -> None:
        """Read blocks (row, column) into the levels in memory; any thread may call it."""
        blocks = set(blocks)
        for i, (level, source) in enumerate(zip(self.levels, self._sources, strict=True)):
            if isinstance(level, np.ndarray):
                for row, column in {(y >> i, x >> i) for y, x in blocks}:
                    self._read(level, source, self._boxes[i], (row, column))
        self.highest = int(self.levels[-1].max())

    def catch_up(self, finished: Iterable[Block]) -> bool:
        """Read those of the finished blocks that were not finished at the last call; return whether there were any."""
        new = set(finished) - self._finished
        if new:
            self.fill(new)
            self._finished |= new
        return bool(new)

    def _read(self, level: NDArray[np.uint8], source: Any, box: Box, block: Block) -> None:
        (y0, x0, y1, x1), edge = box, self._edge
        top, left = max(block[0] * edge, y0), max(block[1] * edge, x0)
        bottom, right = min((block[0] + 1) * edge, y1), min((block[1] + 1) * edge, x1)
        if top < bottom and left < right:
            level[..., top - y0 : bottom - y0, left - x0 : right - x0] = source[..., top:bottom, left:right]
