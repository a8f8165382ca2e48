"""Bands along a border between tissues: inside of it, and outside."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Band(NamedTuple):
    """Pixels at some distance from a border.

    Attributes:
        low_um: From this distance, in µm; negative inside of the border.
        high_um: To this; of the two, the one that is farther from the border is in the band.
    """

    low_um: float
    high_um: float

    def __str__(self) -> str:
        near, far = sorted((abs(self.low_um), abs(self.high_um)))
        return f"{near:g}-{far:g} µm {'inside' if self.low_um < 0 else 'outside'}"


def bands_of(distances_um: Iterable[float]) -> list[Band]:
    """Make the bands between distances, and 0, from the innermost to the outermost.

    Example:
        >>> [str(band) for band in bands_of([100, 500])]
        ['100-500 µm inside', '0-100 µm inside', '0-100 µm outside', '100-500 µm outside']
    """
    limits = [0.0, *sorted(set(distances_um))]
    limits = [*(-limit for limit in reversed(limits[1:])), *limits]
    return [Band(low, high) for low, high in pairwise(limits)]
