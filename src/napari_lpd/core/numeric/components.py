"""Connected areas of an image of labels that is read a strip of rows at a time.

The pieces of each strip are found on their own; those that meet at a seam are joined over the whole image. The numbers
of the areas, in the order of their first pixels, do not depend on where the strips were cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_lpd.core.jobs import Job, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

STRIP_PIXELS = 2**22  # in a strip, unless a single row has more


def strips_of(shape: tuple[int, int], most: int) -> list[tuple[int, int]]:
    """Cut an image (H, W) into strips, by first row and the one after the last.

    A strip has `most` rows, or `most` halved as often as it takes, so that it has no more than `STRIP_PIXELS`.
    """
    step = most
    while step > 1 and step * shape[1] > STRIP_PIXELS:
        step = -(-step // 2)
    return [(top, min(top + step, shape[0])) for top in range(0, shape[0], step)]


class Borders(NamedTuple):
    """Which areas touch, once for either side: (n,) each.

    Attributes:
        own: Number of an area.
        other: Number of the area beside it.
        edges: How many edges of pixels lie between the two.
    """

    own: NDArray[np.int64]
    other: NDArray[np.int64]
    edges: NDArray[np.int64]

    def where(self, chosen: NDArray[np.bool_]) -> Borders:
        """Return the chosen ones."""
        return Borders(*(each[chosen] for each in self))


class Components:
    """Areas of equal labels, pixels that share an edge, of an image (H, W); numbered from 0 once they are searched for.

    Args:
        read: read(top, end) gives labels of rows: (end - top, W) uint8. It is called for each strip, from the top, by
            `search` and by `strips`.
        shape: (H, W).
        most: As for `strips_of`.
        background: Label whose pixels belong to no area; -1: there is none.
        marks: marks(top, end) marks pixels of rows, (end - top, W) bool.

    Attributes:
        ends: First row of every strip, and the one after its last.
        area: (count,) number of pixels.
        label: (count,) label.
        marked: (count,) whether any pixel is marked.
    """

    def __init__(
        self,
        read: Callable[[int, int], NDArray[np.uint8]],
        shape: tuple[int, int],
        most: int,
        background: int = 0,
        marks: Callable[[int, int], NDArray[np.bool_]] | None = None,
    ) -> None:
        self._read, self._background, self._marks = read, background, marks
        self._kept: tuple[int, NDArray[np.uint8], NDArray[np.int32]] | None = None
        self.ends = strips_of(shape, most)

    def _pieces(self, top: int, end: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Return the labels of a strip, and its connected pieces, from 1; 0 where there is none."""
        from skimage.measure import label

        if self._kept is None or self._kept[0] != top:  # where there is one strip it is labelled once
            labels = self._read(top, end)
            self._kept = top, labels, label(labels, background=self._background, connectivity=1).astype(np.int32)
        return self._kept[1:]

    def search(self, borders: bool = False) -> Job[None]:
        """Find the areas; with `borders` also which of them touch, of an image without background."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        starts, areas, values, marked = [0], [np.zeros(0, np.int64)], [np.zeros(0, np.uint8)], [np.zeros(0, np.bool_)]
        seams, beside = [np.zeros((2, 0), np.int64)], [np.zeros((3, 0), np.int64)]
        last: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None
        for done, (top, end) in enumerate(self.ends, start=1):
            labels, pieces = self._pieces(top, end)
            areas.append(np.bincount(pieces.ravel())[1:])
            count, there = len(areas[-1]), pieces > 0
            values.append(np.zeros(count, np.uint8))
            values[-1][pieces[there] - 1] = labels[there]
            if self._marks is not None:
                marked.append(np.bincount(pieces[self._marks(top, end)], minlength=count + 1)[1:] > 0)
            first, final = (starts[-1] + pieces[row].astype(np.int64) - 1 for row in (0, -1))
            if last is not None:
                meet = (labels[0] == last[0]) & (pieces[0] > 0)
                seams.append(np.unique(np.stack([last[1][meet], first[meet]]), axis=1))
                if borders:
                    beside.append(_touching(last[1], first))
            if borders:
                shift = np.array([[starts[-1] - 1], [starts[-1] - 1], [0]])
                beside += [_touching(pieces[:, :-1], pieces[:, 1:]) + shift, _touching(pieces[:-1], pieces[1:]) + shift]
            last = labels[-1], final
            starts.append(starts[-1] + count)
            yield Progress(done, len(self.ends), "strips searched for areas")
        one, two = np.concatenate(seams, axis=1)
        links = coo_array((np.ones(len(one), np.bool_), (one, two)), (starts[-1], starts[-1]))
        _, joined = connected_components(links, directed=False)
        _, first_piece, joined = np.unique(joined, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first_piece))
        self._starts, self._number = starts, rank[joined].astype(np.int32)
        first_piece.sort()
        count = len(first_piece)
        self.area = np.bincount(self._number, np.concatenate(areas), count).astype(np.int64)
        self.label = np.concatenate(values)[first_piece]
        self.marked = np.zeros(count, np.bool_)
        if self._marks is not None:
            self.marked[self._number[np.concatenate(marked)]] = True
        self._beside = np.concatenate(beside, axis=1)

    @property
    def borders(self) -> Borders:
        """Which areas touch: those that `search` was asked for."""
        one, two, edges = self._beside
        count = len(self.area)
        one, two = self._number[one].astype(np.int64), self._number[two].astype(np.int64)
        differ = one != two  # pieces of different strips may be of one area
        one, two, edges = one[differ], two[differ], edges[differ]
        keys, which = np.unique(np.concatenate([one * count + two, two * count + one]), return_inverse=True)
        total = np.bincount(which, np.concatenate([edges, edges]), len(keys)).astype(np.int64)
        return Borders(keys // max(count, 1), keys % max(count, 1), total)

    def numbers(self, strip: int) -> NDArray[np.int32]:
        """Return the numbers of a strip's pixels (h, W); -1 where there is no area."""
        _, pieces = self._pieces(*self.ends[strip])
        own = self._number[self._starts[strip] : self._starts[strip + 1]]
        return np.concatenate([np.array([-1], np.int32), own])[pieces]

    def strips(self) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Yield the first row of every strip and the numbers of its pixels."""
        for strip, (top, _) in enumerate(self.ends):
            yield top, self.numbers(strip)


def _touching(one: NDArray[np.integer], two: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count where different pieces lie side by side: (3, n), both pieces, below 2^31, and the number of edges."""
    differ = one != two
    pairs = np.stack([one[differ], two[differ]]).astype(np.int64)
    pairs.sort(axis=0)
    keys, edges = np.unique((pairs[0] << 32) + pairs[1], return_counts=True)
    return np.stack([keys >> 32, keys & 0xFFFFFFFF, edges])
