"""Exact Euclidean distances in an image that is read a strip of rows at a time, forth and back.

The squared distance of a pixel is the least, over the columns, of (distance along the row)² + g², g being the distance
to the nearest set pixel of that column. g needs the nearest set pixel above and below; what of that lies outside a
strip is kept per column, from a first pass from the bottom to the top and while the second goes down. Rows are then
independent: each is the lower envelope of parabolas, found in linear time (Meijster, Roerdink & Hesselink 2000;
Felzenszwalb & Huttenlocher 2012), in whole numbers. So distances are those that
`scipy.ndimage.distance_transform_edt` finds in the whole image, bit for bit, however far they reach.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.numeric.compiled import compiled
from napari_lpd.core.numeric.components import strips_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

FAR = np.iinfo(np.int64).max  # squared distance where no pixel is set
NOWHERE = -1  # row of the nearest set pixel where there is none


class SquaredDistances:
    """Squared distances in pixels, between centres, to the nearest set pixel of each of several masks.

    Args:
        masks: masks(y0, y1) gives rows y0..y1 of all masks: (n, y1 - y0, W) bool. It is called twice for every row.
        count: n.
        shape: (H, W) of a mask.
        most: Most rows of a strip, see `strips_of`.
    """

    def __init__(
        self, masks: Callable[[int, int], NDArray[np.bool_]], count: int, shape: tuple[int, int], most: int
    ) -> None:
        self._masks, self._strips = masks, strips_of(shape, most)
        self._below = np.full((len(self._strips) + 1, count, shape[1]), NOWHERE, np.int32)  # from the strip's top on
        self._above = np.full((count, shape[1]), NOWHERE, np.int32)

    def prepare(self) -> Job[None]:
        """Go through the rows from the bottom to the top: before `strips`."""
        for i, (top, end) in reversed(list(enumerate(self._strips))):
            masks = self._masks(top, end)
            first = masks.argmax(1)
            found = np.take_along_axis(masks, first[:, None], 1)[:, 0]
            self._below[i] = np.where(found, top + first, self._below[i + 1])
            yield Progress(len(self._strips) - i, len(self._strips), "strips searched for borders")

    def strips(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the first row and the squared distances (n, h, W) of every strip, from the top; `FAR`: none is set."""
        for i, (top, end) in enumerate(self._strips):
            masks = self._masks(top, end)
            squared = np.empty(masks.shape, np.int64)
            for mask, above, below, own in zip(masks, self._above, self._below[i + 1], squared, strict=True):
                _fill(mask, top, above, below, own)
            yield top, squared


@compiled
def _fill(mask: Any, top: int, above: Any, below: Any, squared: Any) -> None:  # pragma: no cover - compiled
    """Compute the squared distances of a strip (h, w).

    Args:
        mask: (h, w) bool.
        top: Its first row.
        above: (w,) nearest row above that is set in a column; at the end, that above the next strip.
        below: (w,) nearest row below the strip.
        squared: (h, w), the result.
    """
    height, width = mask.shape
    down = np.empty((height, width), np.int32)
    for y in range(height - 1, -1, -1):
        for x in range(width):
            down[y, x] = top + y if mask[y, x] else below[x] if y == height - 1 else down[y + 1, x]
    g2, site, start = np.empty(width, np.int64), np.empty(width, np.int64), np.empty(width, np.int64)
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                above[x] = top + y
            g2[x] = _column(top + y, above[x], down[y, x])
        _read(g2, site, start, _envelope(g2, site, start), squared[y])


@compiled
def _column(y: int, above: int, below: int) -> int:  # pragma: no cover - compiled
    """Square the distance to the nearer of two rows; -1 where there is none."""
    if above < 0 and below < 0:
        return -1
    g = int(y - above if below < 0 or (above >= 0 and y - above < below - y) else below - y)
    return g * g


@compiled
def _envelope(g2: Any, site: Any, start: Any) -> int:  # pragma: no cover - compiled
    """Find the parabolas of the lower envelope: from start[i] on, that of site[i] is the lowest. Returns the last i."""
    last = -1
    for u in range(len(g2)):
        if g2[u] < 0:
            continue
        first = np.int64(0)
        while last >= 0:
            i, x = site[last], start[last]
            if (x - i) * (x - i) + g2[i] <= (x - u) * (x - u) + g2[u]:
                first = 1 + (u * u - i * i + g2[u] - g2[i]) // (2 * (u - i))
                break
            last -= 1
        if first < len(g2):
            last += 1
            site[last], start[last] = u, first
    return last


@compiled
def _read(g2: Any, site: Any, start: Any, last: int, squared: Any) -> None:  # pragma: no cover - compiled
    """Read the envelope in every column; `FAR` where it is of nothing."""
    if last < 0:
        squared[:] = FAR
        return
    for x in range(len(g2) - 1, -1, -1):
        squared[x] = (x - site[last]) * (x - site[last]) + g2[site[last]]
        if x == start[last]:
            last -= 1
