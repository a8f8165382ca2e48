"""Views of a prediction's pyramids for napari: all but large levels are in memory and filled block by block.

napari reads visible data again for every frame, in the GUI thread, where zarr is slow. So all but the finest levels of
a large prediction are arrays, which the thread that predicts fills. Of labels that lie below those of another result,
what that one covers is left out, so that no two colours mix.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from napari_lpd.core.files import KEY
from napari_lpd.core.geometry import sampled_polygons

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari.layers import Labels
    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Block, Box
    from napari_lpd.results.corrections import Corrections
    from napari_lpd.results.prediction import Prediction
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
        left_out: What is not shown of it, (x, y) in pixels of the finest level from the slide's corner.
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
        self.left_out: shapely.Geometry = shapely.Polygon()
        self._finished: set[Block] = set()
        self.levels: list[Any] = []
        for i, (source, (top, left, bottom, right)) in enumerate(zip(self._sources, self._boxes, strict=True)):
            shape = (*source.shape[:-2], bottom - top, right - left)
            in_memory = math.prod(shape) <= MAX_HELD or source is self._sources[-1]
            self.levels.append(np.zeros(shape, np.uint8) if in_memory else _Stored(source, self, i))

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
                    self._read(i, source, (row, column))
        self.highest = int(self.levels[-1].max())

    def catch_up(self, finished: Iterable[Block]) -> bool:
        """Read those of the finished blocks that were not finished at the last call; return whether there were any."""
        new = set(finished) - self._finished
        if new:
            self.fill(new)
            self._finished |= new
        return bool(new)

    def leave_out(self, area: shapely.Geometry) -> bool:
        """Show all but an area, as `left_out`; return whether that is another one than before."""
        if shapely.equals(area, self.left_out):
            return False
        again, self.left_out = shapely.difference(self.left_out, area), area
        if not again.is_empty:
            x0, y0, x1, y1 = (int(edge // self._edge) for edge in again.bounds)
            self.fill((y, x) for y in range(y0, y1 + 1) for x in range(x0, x1 + 1))
        for i, (level, (top, left, *_)) in enumerate(zip(self.levels, self._boxes, strict=True)):
            if isinstance(level, np.ndarray):
                self.clear(level, i, (top, left))
        return True

    def clear(self, values: NDArray[np.uint8], level: int, origin: tuple[int, int]) -> None:
        """Set what is left out to 0 in a part of a level, from its pixel (y, x)."""
        if self.left_out.is_empty:
            return
        x0, y0, x1, y1 = (edge / 2**level for edge in self.left_out.bounds)
        top, left = max(0, math.floor(y0) - origin[0]), max(0, math.floor(x0) - origin[1])
        part = values[..., top : max(top, math.ceil(y1) - origin[0]), left : max(left, math.ceil(x1) - origin[1])]
        there = (origin[0] + top, origin[1] + left)
        part[..., sampled_polygons([self.left_out], there, (part.shape[-2], part.shape[-1]), 2.0**level)] = 0

    def whole(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the finest level as it is shown, or was edited, with what is left out."""
        if self.left_out.is_empty:
            return values
        (y0, x0, y1, x1), seen = self.box, np.ones(values.shape, np.uint8)
        self.clear(seen, 0, (y0, x0))
        return np.where(seen, values, self._sources[0][..., y0:y1, x0:x1])

    def _read(self, i: int, source: Any, block: Block) -> None:
        (y0, x0, y1, x1), edge, level = self._boxes[i], self._edge, self.levels[i]
        top, left = max(block[0] * edge, y0), max(block[1] * edge, x0)
        bottom, right = min((block[0] + 1) * edge, y1), min((block[1] + 1) * edge, x1)
        if top < bottom and left < right:
            values = np.array(source[..., top:bottom, left:right])
            self.clear(values, i, (top, left))
            level[..., top - y0 : bottom - y0, left - x0 : right - x0] = values


class _Stored:
    """A level that is not in memory, without what its view leaves out.

    Args:
        source: The level.
        view: The view.
        level: Its number.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, source: Any, view: View, level: int) -> None:
        self._source, self._view, self._level = source, view, level
        self.shape: tuple[int, ...] = tuple(source.shape)
        self.ndim, self.size = len(self.shape), math.prod(self.shape)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        if self._view.left_out.is_empty:
            return np.asarray(self._source[key])
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) != self.ndim or not all(isinstance(part, slice) and part.step in (None, 1) for part in parts):
            return np.asarray(self)[key]
        values = np.array(self._source[key])
        rows, columns = (part.indices(n)[0] for part, n in zip(parts[-2:], self.shape[-2:], strict=True))
        self._view.clear(values, self._level, (rows, columns))
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[(slice(None),) * self.ndim], dtype)


def restack(masks: Sequence[Labels]) -> None:
    """Of the labels of a slide's results, from below, leave out what visible ones of other results above cover.

    Those that are covered wholly are hidden.
    """
    above: list[tuple[Prediction, shapely.Geometry]] = []
    for mask in reversed(masks):
        prediction: Prediction = mask.metadata[KEY]["prediction"]
        scope = shapely.union_all(prediction.scope) if prediction.scope else _slide(prediction)
        others = shapely.union_all([area for other, area in above if other.folder != prediction.folder])
        if shapely.covers(others, scope):
            mask.visible = False
        else:
            covered = shapely.intersection(others, scope)
            view: View = mask.metadata[KEY]["view"]
            if view.leave_out(_in_pixels(covered, prediction) if covered.area else shapely.Polygon()) or _is_copy(mask):
                redraw(mask)
        if mask.visible:
            above.append((prediction, scope))


def _in_pixels(area: shapely.Geometry, prediction: Prediction) -> shapely.Geometry:
    """Return an area in pixels of a result."""
    return shapely.transform(area, lambda corners: corners / prediction.card.mpp)


def _slide(prediction: Prediction) -> shapely.Geometry:
    """Return the outline of a result's slide in µm."""
    h, w = prediction.card.shape
    return shapely.box(0, 0, w * prediction.card.mpp, h * prediction.card.mpp)


def redraw(mask: Labels) -> None:
    """Draw labels anew."""
    if _is_copy(mask):
        mask.data = mask.metadata[KEY]["view"].data
    mask.refresh()


def _is_copy(mask: Labels) -> bool:
    """Return whether labels show data of their own: napari copies them when a layer is duplicated."""
    return (mask.data[0] if mask.multiscale else mask.data) is not mask.metadata[KEY]["view"].levels[0]
