"""Objects: the connected areas of a tissue (pixels that share an edge) over a whole result, with their measures.

Labels are read a strip of rows at a time, twice. First the objects are found (`core.numeric.components`); then their
measures are summed up over the strips. They are those of `skimage.measure.regionprops` on the whole image:

- *perimeter*: of the pixels at the object's edge, weighted by which neighbours are at the edge, too (Benkrid & Crookes,
  Design and FPGA implementation of a perimeter estimator, 2000).
- *solidity*: area / pixels whose centre lies in the convex hull of the object's pixels, each taken as a diamond.
- *nearest*: distance between the centres of the nearest two pixels of the object and of other classes; those that touch
  are one pixel apart.
- *uncertainty*: mean entropy of the model over the object, 0 to 1, also where it is corrected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_lpd.core.errors import ExportError, SettingsError
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.numeric.compiled import compiled
from napari_lpd.core.numeric.components import Components
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.export.objects import ObjectRow
from napari_lpd.results.measures.distance import FAR, SquaredDistances

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_lpd.core.settings.results import MeasureSettings
    from napari_lpd.results.prediction import Prediction

ROOT2 = 2**0.5
WEIGHTS = np.zeros(50)  # of an edge's pixel, by 1 + 2 · neighbours that are at the edge + 10 · diagonal ones
WEIGHTS[[5, 7, 15, 17, 25, 27]] = 1
WEIGHTS[[21, 33]] = ROOT2
WEIGHTS[[13, 23]] = (1 + ROOT2) / 2
ACROSS = ((0, 1), (0, -1), (1, 0), (-1, 0))
DIAGONAL = ((1, 1), (1, -1), (-1, 1), (-1, -1))
REACH = 2  # rows and columns around a pixel that have a say in its weight


def find_objects(prediction: Prediction, settings: MeasureSettings) -> Job[list[ObjectRow]]:
    """Measure the objects of a finished prediction, corrections included, a strip of rows at a time.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from shapely import box
        >>> from napari_lpd import MeasureSettings, ObjectSettings, PredictSettings, find_objects, load_model
        >>> from napari_lpd import open_slide, predict_slide, run, samples
        >>> model, settings = load_model(samples.model_path()), PredictSettings(tile=256, overlap=64, threads=1)
        >>> with open_slide(samples.skin_slide_path()) as slide, tempfile.TemporaryDirectory() as folder:
        ...     scope = [box(1000, 1000, 1300, 1300)]  # µm
        ...     result = run(predict_slide(slide, model, settings, Path(folder, "skin.zarr"), scope))
        ...     rows = run(find_objects(result, MeasureSettings(objects=ObjectSettings(smallest_um2=1000))))
        >>> max(rows, key=lambda row: row.area_mm2).what
        'naevus nests'

    Raises:
        SettingsError: a class is unknown.
        ExportError: the prediction is unfinished, or cannot be read.
    """
    if not prediction.finished:
        raise ExportError(f"{prediction.folder}: unfinished prediction; run predict again to resume it, then measure")
    names = [tissue.name for tissue in prediction.card.classes]
    settings.roles.check(prediction.card.classes, prediction.folder.name)
    wanted = settings.objects.of or tuple(names)
    nearest_to = settings.objects.nearest_to or settings.roles.tumour
    if unknown := next((name for name in (*wanted, *nearest_to) if name not in names), ""):
        raise SettingsError(
            f"{prediction.folder.name}: objects of {unknown!r} are asked for; its classes are {', '.join(names)}"
        )
    image = _Labelled(Corrections(prediction), [names.index(name) + 1 for name in wanted])
    yield from image.label(settings.objects.smallest_um2 / prediction.card.mpp**2)
    near = np.isin(np.arange(256), [names.index(name) + 1 for name in nearest_to])
    distances = SquaredDistances(lambda top, end: near[image.read(top, end)][None], 1, image.shape, image.most)
    if nearest_to:
        yield from distances.prepare()
    sums = _Sums(image.count)
    away = distances.strips() if nearest_to else iter(())
    for done, (top, parts) in enumerate(image.strips(), start=1):
        own = parts[REACH:-REACH, REACH:-REACH]
        _, squared = next(away, (top, None))
        sums.add(image.box[0] + top, image.box[1], parts, image.uncertainty(top, own.shape))
        if squared is not None:
            np.minimum.at(sums.squared, own[own > 0], squared[0][own > 0])
        yield Progress(done, len(image.ends), "strips measured")
    sums.squared[1:][near[image.labels]] = FAR
    return sums.rows(prediction, image.labels)


class _Labelled:
    """The objects of some labels of a result, by numbers from 1, in the order of their first pixels.

    Attributes:
        box: (y0, x0, y1, x1) around all that is labelled, in pixels of the result.
        shape: (H, W) of the box.
        ends: First row of every strip in the box, and the one after its last.
        most: As for `strips_of`.
        count: Number of objects; once they are labelled.
        labels: (count,) label of each.
    """

    def __init__(self, store: Corrections, wanted: Sequence[int]) -> None:
        self._store, self._card = store, store.prediction.card
        self._wanted = np.zeros(256, np.uint8)
        self._wanted[list(wanted)] = wanted
        self.box = store.extent()
        self.shape = self.box[2] - self.box[0], self.box[3] - self.box[1]
        self.most = self._card.block
        self._areas = Components(lambda top, end: self._wanted[self.read(top, end)], self.shape, self.most)
        self.ends = self._areas.ends

    def read(self, top: int, end: int) -> NDArray[np.uint8]:
        """Read the labels of rows of the box."""
        y0, x0, _, x1 = self.box
        return np.asarray(self._store.levels[0][y0 + top : y0 + end, x0:x1])

    def uncertainty(self, top: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Read the stored uncertainty of the pixels (h, w) from row `top` of the box on."""
        stride, (y0, x0, _, _) = self._card.stride, self.box
        rows, columns = ((np.arange(n) + first) // stride for n, first in zip(shape, (y0 + top, x0), strict=True))
        values = self._store.prediction.uncertainty.levels[0]
        read = values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return read[rows - rows[0]][:, columns - columns[0]]

    def label(self, smallest: float) -> Job[None]:
        """Find the objects; those of fewer than `smallest` pixels are left out."""
        yield from self._areas.search()
        whole = self._areas.area >= smallest
        self.labels, self.count = self._areas.label[whole], int(whole.sum())
        self._number = np.append(np.where(whole, whole.cumsum(), 0), 0).astype(np.int32)  # by area; the last: none

    def strips(self) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Yield the first row and the objects' numbers of every strip, with a frame of `REACH` pixels; 0: none."""
        before = np.zeros((REACH, self.shape[1]), np.int32)
        following = self._numbers(0)
        for i, (top, _) in enumerate(self.ends):
            own, following = following, self._numbers(i + 1)
            after = following[:REACH]
            after = np.pad(after, ((0, REACH - len(after)), (0, 0)))
            framed = np.concatenate([before, own, after])
            before = framed[len(own) : len(own) + REACH]
            yield top, np.pad(framed, ((0, 0), (REACH, REACH)))

    def _numbers(self, i: int) -> NDArray[np.int32]:
        if i == len(self.ends):
            return np.zeros((0, self.shape[1]), np.int32)
        return self._number[self._areas.numbers(i)]


class _Sums:
    """What is summed up of every object over the strips."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pixels, self.y, self.x, self.perimeter = np.zeros((4, count + 1))
        self.known, self.entropy = np.zeros((2, count + 1))
        self.squared = np.full(count + 1, FAR)
        self._extents: list[NDArray[np.int32]] = []  # (4, n): number, row, first and last column

    def add(self, y0: int, x0: int, parts: NDArray[np.int32], uncertainty: NDArray[np.uint8]) -> None:
        """Add a strip.

        Args:
            y0: Its first row, in pixels of the result.
            x0: Its first column.
            parts: (h + 4, w + 4) numbers of objects, with a frame.
            uncertainty: (h, w) as stored.
        """
        own = parts[REACH:-REACH, REACH:-REACH]
        rows, columns = np.nonzero(own)
        numbers, counted = own[rows, columns], self.count + 1
        self.pixels += np.bincount(numbers, minlength=counted)
        self.y += np.bincount(numbers, rows + y0, counted)
        self.x += np.bincount(numbers, columns + x0, counted)
        value = uncertainty[rows, columns]
        self.known += np.bincount(numbers, value > 0, counted)
        self.entropy += np.bincount(numbers, np.maximum(value, 1) - 1.0, counted)
        self._add_perimeter(parts)
        starts = np.nonzero((own > 0) & (own != parts[REACH:-REACH, REACH - 1 : -REACH - 1]))
        ends = np.nonzero((own > 0) & (own != parts[REACH:-REACH, REACH + 1 : parts.shape[1] - REACH + 1]))
        keys = starts[0].astype(np.int64) * counted + own[starts]  # runs come from left to right
        found, first = np.unique(keys, return_index=True)
        _, last = np.unique(keys[::-1], return_index=True)
        extent = [found % counted, found // counted + y0, starts[1][first] + x0, ends[1][::-1][last] + x0]
        self._extents.append(np.stack(extent).astype(np.int32))

    def _add_perimeter(self, parts: NDArray[np.int32]) -> None:
        at_edge = np.zeros(parts.shape, np.bool_)
        inner = parts[1:-1, 1:-1]
        for dy, dx in ACROSS:
            at_edge[1:-1, 1:-1] |= inner != parts[1 + dy : len(parts) - 1 + dy, 1 + dx : parts.shape[1] - 1 + dx]
        at_edge &= parts > 0
        rows, columns = np.nonzero(at_edge[REACH:-REACH, REACH:-REACH])
        rows, columns = rows + REACH, columns + REACH
        numbers, code = parts[rows, columns], np.ones(len(rows), np.intp)
        for weight, steps in ((2, ACROSS), (10, DIAGONAL)):
            for dy, dx in steps:
                there = rows + dy, columns + dx
                code += weight * (at_edge[there] & (parts[there] == numbers))
        self.perimeter += np.bincount(numbers, WEIGHTS[code], self.count + 1)

    def rows(self, prediction: Prediction, labels: NDArray[np.uint8]) -> list[ObjectRow]:
        """Build the table; `labels` (n,) are those of the objects."""
        card, extents = prediction.card, np.concatenate([np.zeros((4, 0), np.int32), *self._extents], axis=1)
        extents = extents[:, np.argsort(extents[0], kind="stable")]  # by object, and from the top
        bounds = np.searchsorted(extents[0], np.arange(1, self.count + 2))
        rows = []
        for number in range(1, self.count + 1):
            _, own, low, high = extents[:, bounds[number - 1] : bounds[number]]
            pixels, known, squared = self.pixels[number], self.known[number], self.squared[number]
            rows.append(
                ObjectRow(
                    slide=card.slide,
                    object=number,
                    what=card.classes[labels[number - 1] - 1].name,
                    area_mm2=float(pixels * (card.mpp / 1000) ** 2),
                    perimeter_um=float(self.perimeter[number] * card.mpp),
                    solidity=float(pixels / _convex_pixels(low, high)),
                    x_um=float((self.x[number] / pixels + 0.5) * card.mpp),
                    y_um=float((self.y[number] / pixels + 0.5) * card.mpp),
                    nearest_um=None if squared == FAR else float(np.sqrt(squared) * card.mpp),
                    uncertainty=float(self.entropy[number] / known / 254) if known else None,
                    first_pixel=(int(own[0]), int(low[0])),
                    pixels=int(pixels),
                )
            )
        return rows


def _convex_pixels(low: NDArray[np.int32], high: NDArray[np.int32]) -> int:
    """Count the pixels in the convex hull of an object by the first and last columns (n,) of its rows."""
    return int((-_first_columns(-high.astype(np.int64)) - _first_columns(low.astype(np.int64)) + 1).sum())


@compiled
def _first_columns(low: Any) -> Any:  # pragma: no cover - compiled
    """Find, for every row of an object, the first column whose pixel has its centre in the convex hull.

    Args:
        low: (n,) the object's first column in each row; -1 · the last ones for the other side.
    """
    n = len(low)
    x = np.empty(2 * n + 1, np.int64)  # left ends of the diamonds at every half row, in half pixels
    for i in range(n):
        x[2 * i + 1] = 2 * low[i] - 1
        x[2 * i] = 2 * (low[i] if i == 0 else min(low[i - 1], low[i]))
    x[2 * n] = 2 * low[n - 1]
    corner = np.empty(2 * n + 1, np.int64)
    count = 0
    for y in range(2 * n + 1):
        while count > 1:
            a, b = corner[count - 2], corner[count - 1]
            if (x[b] - x[a]) * (y - b) < (x[y] - x[b]) * (b - a):
                break
            count -= 1
        corner[count] = y
        count += 1
    first = np.empty(n, np.int64)
    at = 0
    for i in range(n):
        y = 2 * i + 1
        while corner[at + 1] < y:
            at += 1
        a, b = corner[at], corner[at + 1]
        above = x[a] * (b - a) + (x[b] - x[a]) * (y - a)
        first[i] = -((-above) // (2 * (b - a)))
    return first
