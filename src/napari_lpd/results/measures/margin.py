"""Distance of every pixel of a result to a border between tissues, outside and inside of it, for bands and histograms.

The border runs where a pixel of the inner classes and one outside share an edge: one of the outer classes, or tissue
without a class, which is most often found where two tissues meet. The distance of a pixel outside is that of its centre
to the centre of the nearest inner pixel at the border; inside, to that of the nearest outer pixel there. Unreadable
pixels and glass are on neither side: tumour that ends there, or where the predicted area ends, has no border there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_lpd.core.labelling.rule import UNREADABLE
from napari_lpd.core.numeric.compiled import compiled
from napari_lpd.results.measures.bands import Band
from napari_lpd.results.measures.distance import SquaredDistances

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Block
    from napari_lpd.core.jobs import Job
    from napari_lpd.core.settings.results import MeasureSettings
    from napari_lpd.results.corrections import Corrections


class Margin:
    """Codes of the distances of a result's pixels to a border: n >= 0 outside of it, between the limits n - 1 and n.

    A code n < 0 is that of a pixel inside, between the limits -n - 2 and -n - 1.

    Attributes:
        inner: The classes inside of the border.
        starts: First code of each bin of the histogram; none where it is not wanted.
        codes: Number of the codes that these bins have together.

    Raises:
        SettingsError: there are no inner classes, a class is unknown, or on both sides.
    """

    def __init__(self, store: Corrections, blocks: Iterable[Block], settings: MeasureSettings) -> None:
        self._store, self._card, margin = store, store.prediction.card, settings.margin
        self.inner = margin.of or settings.roles.tumour
        margin.check(self.inner, [tissue.name for tissue in self._card.classes], store.prediction.folder.name)
        places, (h, w), edge = np.array(sorted(blocks)).reshape(-1, 2), self._card.shape, self._card.block
        low, high = (places.min(0) * edge, (places.max(0) + 1) * edge) if len(places) else (np.zeros(2, int),) * 2
        self._box = int(low[0]), int(low[1]), min(int(high[0]), h), min(int(high[1]), w)
        y0, x0, y1, x1 = self._box
        reach = math.hypot(y1 - y0, x1 - x0) * self._card.mpp
        steps = math.ceil(reach / margin.histogram_um) if margin.histogram_um else 0
        names = [tissue.name for tissue in self._card.classes]
        self._is_inner, self._is_bare = self._labels_of(self.inner), ~self._labels_of(names)
        self._is_bare[UNREADABLE] = False
        self._is_outer = self._labels_of(margin.against or [name for name in names if name not in self.inner])
        self._bins_um = [margin.histogram_um * (i + 1) for i in range(steps)]
        self._inside_um = sorted(set(margin.bands_um))
        self._outside_um = sorted({*margin.bands_um, *self._bins_um})
        ends = np.searchsorted(self._outside_um, self._bins_um) + 1
        self.starts, self.codes = np.array([0, *ends[:-1]])[: len(ends)], int(ends[-1]) if len(ends) else 0
        self._distances = SquaredDistances(self._borders, 2, (y1 - y0, x1 - x0), edge)
        self._coded = self._strips()
        self._row = np.empty((min(edge, y1 - y0), x1 - x0), np.int16)
        self._done = y0

    def prepare(self) -> Job[None]:
        """Find the border: before the first call of `at`."""
        yield from self._distances.prepare()

    def at(self, block: Block) -> NDArray[np.int16]:
        """Return the codes (h, w) of a block; blocks are asked for from the top to the bottom."""
        edge, (y0, x0, y1, x1) = self._card.block, self._box
        top, left = block[0] * edge, block[1] * edge
        while self._done < min(top + edge, y1):
            y, codes = next(self._coded)
            start = (y - y0) % edge
            self._row[start : start + len(codes)] = codes
            self._done = y + len(codes)
        return self._row[: min(edge, y1 - top), left - x0 : min(left + edge, x1) - x0]

    def codes_of(self, band: Band) -> tuple[int, int]:
        """Return the first code of a band, and the one after its last."""
        limits = self._inside_um if band.low_um < 0 else self._outside_um
        near, far = sorted((abs(band.low_um), abs(band.high_um)))
        first, end = (limits.index(near) + 1 if near else 0), limits.index(far) + 1
        return (-end, -first) if band.low_um < 0 else (first, end)

    def bin(self, number: int) -> Band:
        """Return the band of a bin of the histogram."""
        return Band(self._bins_um[number - 1] if number else 0.0, self._bins_um[number])

    def _limits(self, limits_um: list[float]) -> NDArray[np.int64]:
        """Convert limits to the greatest squared distances between centres, in pixels, that are within them."""
        return np.array([math.floor((um / self._card.mpp) ** 2 + 1e-6) for um in limits_um], np.int64)

    def _strips(self) -> Iterator[tuple[int, NDArray[np.int16]]]:
        y0, x0, _, x1 = self._box
        outer, inner = self._limits(self._outside_um), self._limits(self._inside_um)
        for top, squared in self._distances.strips():
            y = y0 + top
            inside = self._is_inner[self._store.levels[0][y : y + squared.shape[1], x0:x1]]
            codes = np.empty(inside.shape, np.int16)
            _code(squared, inside, outer, inner, codes)
            yield y, codes

    def _labels_of(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Mark the labels of classes: (256,)."""
        marked = np.zeros(256, np.bool_)
        marked[[i for i, tissue in enumerate(self._card.classes, start=1) if tissue.name in names]] = True
        return marked

    def _borders(self, top: int, end: int) -> NDArray[np.bool_]:
        """Mark the inner and the outer pixels at the border in rows of the box: (2, h, w)."""
        y0, x0, y1, x1 = self._box
        first, last = max(y0 + top - 1, y0), min(y0 + end + 1, y1)
        inner, outer = self._sides((first, x0), (last - first, x1 - x0))
        rows = slice(y0 + top - first, y0 + end - first)
        return np.stack([(inner & _beside(outer))[rows], (outer & _beside(inner))[rows]])

    def _sides(self, origin: tuple[int, int], shape: tuple[int, int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Mark the pixels of the inner classes, and those outside: other classes, and tissue that has none."""
        (y, x), (h, w) = origin, shape
        labels = self._store.levels[0][y : y + h, x : x + w]
        bare = self._is_bare[labels] & self._store.prediction.to_label(origin, shape)
        return self._is_inner[labels], self._is_outer[labels] | bare


def _beside(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the pixels that share an edge with one that is set."""
    found = np.zeros_like(mask)
    found[1:] |= mask[:-1]
    found[:-1] |= mask[1:]
    found[:, 1:] |= mask[:, :-1]
    found[:, :-1] |= mask[:, 1:]
    return found


@compiled
def _code(squared: Any, inside: Any, outer: Any, inner: Any, codes: Any) -> None:  # pragma: no cover - compiled
    """Find between which limits the squared distances (2, h, w), outside and inside, of pixels lie."""
    for y in range(inside.shape[0]):
        n = k = 0
        for x in range(inside.shape[1]):
            if inside[y, x]:
                while k < len(inner) and squared[1, y, x] > inner[k]:
                    k += 1
                while k > 0 and squared[1, y, x] <= inner[k - 1]:
                    k -= 1
                codes[y, x] = -1 - k
            else:
                while n < len(outer) and squared[0, y, x] > outer[n]:
                    n += 1
                while n > 0 and squared[0, y, x] <= outer[n - 1]:
                    n -= 1
                codes[y, x] = n
