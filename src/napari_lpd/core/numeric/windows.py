"""Sums over windows that slide over an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.core.numeric.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray


@compiled
def window_sums(values: NDArray[np.integer], width: int) -> NDArray[np.int64]:
    """Sum up values (h, w) in all windows of `width` x `width` pixels: (h - width + 1, w - width + 1)."""
    h, w = values.shape
    sums = np.empty((h - width + 1, w - width + 1), np.int64)
    columns = np.zeros(w, np.int64)
    for y in range(h):
        for x in range(w):
            columns[x] += values[y, x]
        if y < width - 1:
            continue
        total = np.int64(0)
        for x in range(width - 1):
            total += columns[x]
        for x in range(w - width + 1):
            total += columns[x + width - 1]
            sums[y - width + 1, x] = total
            total -= columns[x]
        for x in range(w):
            columns[x] -= values[y - width + 1, x]
    return sums
