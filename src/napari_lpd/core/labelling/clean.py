"""Clean areas of a mask: smoothed borders, no specks, no holes; by strips the same as in the whole image, to the bit.

In this order, with pixels that touch if they share an edge:

1. *Smoothing*: a place gets the label with the most votes around it, the earlier one of equals. All places within the
   radius of its own label vote, near ones more: the radius less the distance, in x times in y. Places without tissue
   and such as could not be read neither change nor vote.
2. *Specks*: areas of a label, *unsure* too, that are smaller than its smallest area get the label with which they share
   the longest border, the earlier label of equals. Those that touch areas that stay come first, then those that touch
   these, and so on. Where nothing of what touches is big enough, the biggest area is the label of all of it; if it is
   too small as a whole, it is no tissue.
3. *Holes*: areas without tissue that are smaller than the biggest hole to fill of the label with which they share the
   longest border, and that lie wholly inside of the mask, get that label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_lpd.core.classes import UNSURE_CLASS
from napari_lpd.core.jobs import run
from napari_lpd.core.labelling.rule import UNREADABLE, UNSURE
from napari_lpd.core.numeric.components import Components

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_lpd.core.numeric.components import Borders
    from napari_lpd.core.settings.prediction import CleanSettings

TILE = 256  # edge of what is smoothed at once; where it has one label there is nothing to do


class Cleaning(NamedTuple):
    """What is cleaned, in pixels of the mask: (256,) by label.

    Attributes:
        smallest: Areas of fewer pixels are specks.
        holes: Holes of fewer pixels are filled.
        radius: Of smoothing.
    """

    smallest: NDArray[np.float64]
    holes: NDArray[np.float64]
    radius: NDArray[np.float64]

    @classmethod
    def of(cls, settings: CleanSettings, names: Sequence[str], mpp: float) -> Cleaning:
        """Convert settings to pixels of `mpp`, for classes `names`.

        Raises:
            SettingsError: another tissue is named.
        """
        labels = [*range(1, len(names) + 1), UNSURE]
        found = np.zeros((3, 256))
        found[:, labels] = np.transpose(settings.of_tissues([*names, UNSURE_CLASS.name]))
        return cls(found[0] / mpp**2, found[1] / mpp**2, found[2] / mpp)

    def at_level(self, level: int) -> Cleaning:
        """Convert to pixels that are 2^level as wide."""
        return Cleaning(self.smallest / 4**level, self.holes / 4**level, self.radius / 2**level)

    @property
    def reach(self) -> int:
        """How far away, in pixels, a label counts for smoothing."""
        return 2 * _half(self.radius.max())

    @property
    def by_areas(self) -> bool:
        """Whether areas have to be known, not only what is around a place."""
        return bool(self.smallest.any() or self.holes.any())

    def smoothed(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Smooth labels (h, w); those nearer to the rim than `reach` need what is beyond it."""
        reach, result = self.reach, labels.copy()
        if not reach:
            return result
        padded = np.pad(labels, reach)
        for y in range(0, labels.shape[0], TILE):
            for x in range(0, labels.shape[1], TILE):
                own = result[y : y + TILE, x : x + TILE]
                h, w = own.shape
                self._smooth_tile(own, padded[y : y + h + 2 * reach, x : x + w + 2 * reach])
        return result

    def _smooth_tile(self, own: NDArray[np.uint8], around: NDArray[np.uint8]) -> None:
        """Smooth `own` (h, w) in place; `around` has `reach` more pixels at every side."""
        from napari_lpd.core.numeric.windows import window_sums

        found = np.flatnonzero(np.bincount(around.ravel(), minlength=256))
        found = found[_is_tissue(found)]
        if len(found) < 2:
            return
        before = own.copy()
        for half in {_half(self.radius[label]) for label in found} - {0}:
            beyond, width = self.reach - 2 * half, 2 * half + 1
            near = around[beyond : around.shape[0] - beyond, beyond : around.shape[1] - beyond]
            votes = np.stack([window_sums(window_sums(near == label, width), width) for label in found])
            most = found[votes.argmax(0)]
            here = np.isin(before, [label for label in found if _half(self.radius[label]) == half])
            own[here] = most[here]

    def decided(self, areas: Components, cut: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Decide which label areas get: (n,).

        Args:
            areas: Of all labels, with their borders; those that are marked are no holes.
            cut: (n,) of which areas more may lie outside of the image: they are no specks.
        """
        borders = areas.borders
        labels = self._without_specks(areas, borders, cut)
        return self._without_holes(areas, borders, labels) if self.holes.any() else labels

    def _without_specks(self, areas: Components, borders: Borders, cut: NDArray[np.bool_]) -> NDArray[np.uint8]:
        labels, tissue = areas.label.copy(), _is_tissue(areas.label)
        stays = tissue & ((areas.area >= self.smallest[labels]) | cut)
        if stays[tissue].all():
            return labels
        within = borders.where(tissue[borders.own] & tissue[borders.other])
        group = _joined(within, len(labels))
        lone = np.flatnonzero(tissue & ~_any_of(stays, group))
        first = lone[np.lexsort((lone, -areas.area[lone], group[lone]))]  # of each group the biggest area
        biggest = first[np.unique(group[first], return_index=True)[1]]
        stays[biggest] = True
        labels, whole = _taken(within, labels, stays, tissue), np.bincount(group, areas.area)
        small = biggest[whole[group[biggest]] < self.smallest[labels[biggest]]]
        labels[np.isin(group, group[small]) & tissue] = 0
        return labels

    def _without_holes(self, areas: Components, borders: Borders, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        empty = labels == 0
        both = empty[borders.own] & empty[borders.other]
        hole = _joined(borders.where(both), len(labels))
        whole, is_open = np.bincount(hole, areas.area * empty), _any_of(areas.marked & empty, hole)
        side = empty[borders.own] & _is_tissue(labels)[borders.other]
        around = np.zeros(len(labels), np.uint8)
        which, label = _longest(hole[borders.own[side]], labels[borders.other[side]], borders.edges[side])
        around[which] = label
        around = around[hole]
        filled = empty & ~is_open & (around > 0) & (whole[hole] < self.holes[around])
        return np.where(filled, around, labels)


def cleaned(labels: NDArray[np.uint8], cleaning: Cleaning, ends: Sequence[bool]) -> NDArray[np.uint8]:
    """Clean labels (h, w) in memory.

    Args:
        labels: 0: no tissue, c + 1: class c, `UNSURE`, `UNREADABLE`.
        cleaning: What is cleaned.
        ends: Whether the mask ends at the top, left, bottom and right; else what touches that side stays as it is, as
            more of it may lie beyond.
    """
    if cleaning.reach:
        labels = cleaning.smoothed(labels)
    if not cleaning.by_areas:
        return labels
    rim = np.ones(labels.shape, np.bool_)
    rim[1:-1, 1:-1] = False
    areas = Components(lambda top, end: labels[top:end], labels.shape, len(labels), -1, lambda y, end: rim[y:end])
    run(areas.search(borders=True))
    numbers = np.concatenate([each for _, each in areas.strips()])
    cut = np.zeros(len(areas.area), np.bool_)
    for side, is_end in zip((numbers[0], numbers[:, 0], numbers[-1], numbers[:, -1]), ends, strict=True):
        cut[side] |= not is_end
    return cleaning.decided(areas, cut)[numbers]


def _half(radius: float) -> int:
    """Return half a radius of smoothing, in whole pixels: that of two windows, one after the other, which vote."""
    return int(radius / 2)


def _is_tissue(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (labels > 0) & (labels != UNREADABLE)
    return found


def _joined(borders: Borders, count: int) -> NDArray[np.intp]:
    """Tell by a number what hangs together by `borders`: (count,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(borders.own), np.bool_), (borders.own, borders.other)), (count, count))
    return np.asarray(connected_components(links, directed=False)[1], np.intp)


def _any_of(flags: NDArray[np.bool_], group: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return whether the flag of any member of its group is set: (n,)."""
    found: NDArray[np.bool_] = (np.bincount(group[flags], minlength=len(group)) > 0)[group]
    return found


def _taken(
    borders: Borders, labels: NDArray[np.uint8], stays: NDArray[np.bool_], tissue: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Give areas of tissue that do not stay the label of those that do, from the outside to the inside."""
    labels, known = labels.copy(), stays | ~tissue
    borders = borders.where(~known[borders.own])
    while len(borders.own):
        side = known[borders.other]
        which, label = _longest(borders.own[side], labels[borders.other[side]], borders.edges[side])
        labels[which], known[which] = label, True
        borders = borders.where(~known[borders.own])
    return labels


def _longest(
    own: NDArray[np.integer], label: NDArray[np.uint8], edges: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Find, for every area that occurs in `own`, the label with the most edges, the lowest of equals."""
    keys, which = np.unique(own.astype(np.int64) * 256 + label, return_inverse=True)
    length = np.bincount(which, edges, len(keys))
    keys = keys[np.lexsort((keys, -length, keys // 256))]
    areas, first = np.unique(keys // 256, return_index=True)
    return areas, (keys[first] % 256).astype(np.uint8)
