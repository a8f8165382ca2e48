"""What is shown of a prediction's pyramids: what is not large is held in memory, and filled block by block.

napari reads what it draws again and again, in the window's thread, and zarr takes a while each time. So all but the
finest levels of a large prediction are arrays, which whoever makes the prediction fills in a thread of its own.
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

SMALL = 2048  # pixels; what is not larger is shown without levels
MAX_HELD = 2**25  # bytes of a level that is held in memory


class View:
    """The part of a pyramid that is shown: a small one as one array, a large one with its levels. Empty at first.

    Args:
        pyramid: What is shown.
        box: (y0, x0, y1, x1), the part, in pixels of the finest level.
        edge: Of a block (chunk) of every level, in pixels.

    Attributes:
        levels: (…, h, w) uint8 each, biggest first; arrays where they are held.
        highest: The highest value that was filled into the coarsest level.
    """

    def __init__(self, pyramid: Pyramid | Corrections, box: Box, edge: int) -> None:
        y0, x0, y1, x1 = box
        cut = max(y1 - y0, x1 - x0) <= SMALL
        self._edge = edge
        self._sources = pyramid.levels[:1] if cut else pyramid.levels
        self._boxes = [box if cut else (0, 0, *level.shape[-2:]) for level in self._sources]
        self.highest = 0
        self.levels: list[Any] = []
        for source, (top, left, bottom, right) in zip(self._sources, self._boxes, strict=True):
            shape = (*source.shape[:-2], bottom - top, right - left)
            held = math.prod(shape) <= MAX_HELD or source is self._sources[-1]
            self.levels.append(np.zeros(shape, np.uint8) if held else source)

    @property
    def data(self) -> Any:
        """What napari takes as a layer's data."""
        return self.levels if len(self.levels) > 1 else self.levels[0]

    def fill(self, blocks: Iterable[Block]) -> None:
        """Read blocks, by (row, column), into what is held; from any thread."""
        wanted = set(blocks)
        for i, (level, source) in enumerate(zip(self.levels, self._sources, strict=True)):
            if isinstance(level, np.ndarray):
                for row, column in {(y >> i, x >> i) for y, x in wanted}:
                    self._read(level, source, self._boxes[i], (row, column))
        self.highest = int(self.levels[-1].max())

    def _read(self, level: NDArray[np.uint8], source: Any, box: Box, block: Block) -> None:
        (y0, x0, y1, x1), edge = box, self._edge
        top, left = max(block[0] * edge, y0), max(block[1] * edge, x0)
        bottom, right = min((block[0] + 1) * edge, y1), min((block[1] + 1) * edge, x1)
        if top < bottom and left < right:
            level[..., top - y0 : bottom - y0, left - x0 : right - x0] = source[..., top:bottom, left:right]
