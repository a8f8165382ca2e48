"""Corrections of a prediction by the user, stored beside the model's output, never in it.

``labels/corrections`` in the prediction's folder is a label image of the same shape, chunks and levels as
``labels/tissues``: 0 = not corrected, c + 1 = class c, 254 = corrected to unlabelled. It is created with the
first correction, and its attributes list the chunks that hold some, so that a lost one is noticed. Labels to show,
measure or export are read here, with the corrections applied.
"""

from __future__ import annotations

import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
import zarr

from napari_lpd.core.errors import DataError, ExportError, one_line, writing
from napari_lpd.core.files import atomic_write
from napari_lpd.core.geometry import outlines, without_holes
from napari_lpd.core.locks import PATIENCE_S, inside, locked, partial_beside, remove_leftovers
from napari_lpd.data.regions import Region
from napari_lpd.results.pyramid import ERASED, OME_VERSION, CorrectedLevel, Pyramid, image_label
from napari_lpd.results.store import BY_HAND, DamagedResultError, write_attributes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Block, Box
    from napari_lpd.results.prediction import Prediction
    from napari_lpd.results.pyramid import Layout
    from napari_lpd.results.store import StoredArray

NAME = "corrections"


class Corrections:
    """Corrections of one prediction, if there are any.

    Attributes:
        prediction: The corrected prediction.
        levels: The corrected labels, biggest level first.
    """

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction
        self._folder = prediction.folder / "labels" / NAME
        self._pyramid: Pyramid | None = None
        self.levels = [CorrectedLevel(self, i) for i in range(len(prediction.labels.levels))]
        self._journal = self._folder.with_name(f"{NAME}.journal.npz")
        if self._journal.exists():  # by a process that was killed, or is at it
            with self._locked():
                self._finish()

    @property
    def pyramid(self) -> Pyramid | None:
        """Stored corrections; None before the first one."""
        if self._pyramid is None and self._folder.is_dir():
            folder = self.prediction.folder
            try:
                self._pyramid = Pyramid(folder, self._layout, write=True, sparse=True)
            except DamagedResultError as error:
                raise DamagedResultError(folder, f"half-written corrections: {error.what}", BY_HAND) from error
            self._pyramid.check_listed()
        return self._pyramid

    def blocks(self) -> set[Block]:
        """Return the index (row, column) of every block with corrections."""
        level = self.stored_level(0)
        return set() if level is None else level.chunks()

    @property
    def _layout(self) -> Layout:
        """Shape of the stored corrections: that of the labels."""
        return self.prediction.card.layouts()["labels/tissues"]._replace(node=f"labels/{NAME}")

    def stored_level(self, level: int) -> StoredArray | None:
        """Return the stored corrections of a level; None before the first one."""
        return None if self.pyramid is None else self.pyramid.levels[level]

    def stored_labels(self, origin: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Read the stored corrections of a part of the slide (h, w): 0, c + 1 or `ERASED`."""
        level = self.stored_level(0)
        return np.zeros(shape, np.uint8) if level is None else level[_slices(origin, shape)]

    def read_crop(self, y: int, x: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Read the corrected labels of `size` (h, w) pixels from (`y`, `x`), to be edited; in pixels of the prediction.

        Raises:
            DataError: the crop reaches outside the slide.
        """
        self._check_inside((y, x), size)
        return self.levels[0][_slices((y, x), size)]

    def apply_crop(self, y: int, x: int, labels: NDArray[Any]) -> int:
        """Store the changes of an edited crop, whose first pixel is (`y`, `x`), from the current labels.

        A pixel that is painted back to the model's label is no longer a correction.

        Returns:
            The number of changed pixels.

        Raises:
            DataError: the crop reaches outside the slide, or a new label is none of the classes.
            ExportError: the prediction cannot be written.
        """
        edited = np.asarray(labels)
        self._check_inside((y, x), edited.shape)
        with self._locked():
            self._finish()
            return self._apply(y, x, edited)

    def _apply(self, y: int, x: int, edited: NDArray[Any]) -> int:
        crop = _slices((y, x), (edited.shape[0], edited.shape[1]))
        changed = edited != self.levels[0][crop]
        if not changed.any():
            return 0
        highest = len(self.prediction.card.classes)
        new = edited[changed]
        if ((new < 0) | (new > highest)).any():
            wrong = new[(new < 0) | (new > highest)][0]
            raise DataError(
                f"{self.prediction.folder.name}: label {wrong} is none of 0..{highest}, it cannot be applied"
            )
        model = np.asarray(self.prediction.labels.levels[0][crop])
        stored = self.stored_labels((y, x), (edited.shape[0], edited.shape[1]))
        stored[changed] = np.where(new == 0, ERASED, new)
        stored[changed & (edited == model)] = 0
        rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
        top, left = int(rows[0]), int(columns[0])
        self._write((y + top, x + left), stored[top : rows[-1] + 1, left : columns[-1] + 1])
        return int(changed.sum())

    def add(self, origin: tuple[int, int], stored: NDArray[np.uint8]) -> int:
        """Store values (h, w), 0: none, where nothing is corrected yet, and return the number of pixels."""
        with self._locked():
            self._finish()
            existing = self.stored_labels(origin, (stored.shape[0], stored.shape[1]))
            new = (stored > 0) & (existing == 0)
            if new.any():
                self._write(origin, np.where(new, stored, existing))
        return int(new.sum())

    def replace(self, origin: tuple[int, int], stored: NDArray[np.uint8]) -> int:
        """Store values (h, w), 0: none, whatever is corrected there, and return the number of changed pixels."""
        with self._locked():
            self._finish()
            changed = int((stored != self.stored_labels(origin, (stored.shape[0], stored.shape[1]))).sum())
            if changed:
                self._write(origin, stored)
        return changed

    def _check_inside(self, origin: tuple[int, int], shape: tuple[int, ...]) -> None:
        h, w = self.prediction.card.shape
        if len(shape) != 2 or min(*origin, *shape) < 0 or origin[0] + shape[0] > h or origin[1] + shape[1] > w:
            raise DataError(
                f"{self.prediction.folder.name}: a crop of {' x '.join(map(str, shape))} pixels at y {origin[0]},"
                f" x {origin[1]} does not lie in its {h} x {w} pixels"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the corrections; of the prediction there is another."""
        where = self.prediction.folder
        corrections = where / "labels" / NAME
        with locked(inside(where), corrections, wait_s=PATIENCE_S), writing(corrections):
            yield

    def _write(self, origin: tuple[int, int], stored: NDArray[np.uint8]) -> None:
        """Write stored values to all levels, wholly or not at all: a journal lets it be finished later."""
        with atomic_write(self._journal) as partial, partial.open("wb") as file:
            np.savez_compressed(file, origin=origin, stored=stored)
        before = self._at_levels(origin, stored.shape)
        try:
            self._finish()
        except OSError:
            after = self._at_levels(origin, stored.shape)
            before = before or [np.zeros_like(values) for values in after]
            if all(np.array_equal(one, two) for one, two in zip(before, after, strict=True)):
                self._journal.unlink()  # nothing was written: it is not to be finished later
            raise

    def _at_levels(self, origin: tuple[int, int], shape: tuple[int, ...]) -> list[NDArray[np.uint8]]:
        """Read what is stored in a part of the slide, at every level; [] before the first correction."""
        (y, x), (h, w) = origin, shape
        levels = [] if self.pyramid is None else self.pyramid.levels
        return [
            np.asarray(level[y >> i : (y + h >> i) + 1, x >> i : (x + w >> i) + 1]) for i, level in enumerate(levels)
        ]

    def _finish(self) -> None:
        """Do what the journal says, if there is one: again where a process was killed while it did."""
        if not self._journal.exists():
            return
        try:
            with np.load(self._journal) as journal:
                (y, x), stored = journal["origin"].tolist(), journal["stored"]
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ExportError(f"{self._journal}: damaged ({one_line(error)}); delete it to go on without it") from error
        if self.pyramid is None:
            self._create()
        assert self.pyramid is not None
        self._list()
        for leftover in self._folder.rglob("*.partial"):
            leftover.unlink()
        self.pyramid.write_anywhere((y, x), stored)
        self.pyramid.list_chunks((y, x), stored.shape)
        self._journal.unlink()

    def _create(self) -> None:
        """Create the empty store atomically."""
        remove_leftovers(self._folder.parent)
        card = self.prediction.card
        new = partial_beside(self._folder)
        corner = [-m / 2 for m in card.slide_mpp]
        names = [(i, c.name, (*c.rgb, 255)) for i, c in enumerate(card.classes, start=1)]
        about = {"image-label": image_label([*names, (ERASED, "unlabelled", (0, 0, 0, 255))])}
        Pyramid.create(zarr.create_group(new), self._layout, card.mpp, corner, about)
        new.rename(self._folder)

    def _list(self) -> None:
        """Name the corrections among the label images."""
        labels = {"version": OME_VERSION, "labels": ["tissues", "tissue_mask", NAME]}
        write_attributes(self.prediction.folder, "ome", labels, "labels")

    def corrected_blocks(self) -> Iterator[tuple[tuple[int, int], NDArray[np.uint8]]]:
        """Yield origin (y, x) and stored values of every block with corrections."""
        edge, (h, w) = self.prediction.card.block, self.prediction.card.shape
        for row, column in sorted(self.blocks()):
            y, x = row * edge, column * edge
            yield (y, x), self.stored_labels((y, x), (min(edge, h - y), min(edge, w - x)))

    def bounds(self) -> Box | None:
        """Return the box (y0, x0, y1, x1) around the blocks with corrections; None where there are none."""
        blocks, edge = np.array(sorted(self.blocks())), self.prediction.card.block
        if not len(blocks):
            return None
        (y0, x0), (y1, x1) = blocks.min(0) * edge, (blocks.max(0) + 1) * edge
        h, w = self.prediction.card.shape
        return int(y0), int(x0), min(int(y1), h), min(int(x1), w)

    def extent(self) -> Box:
        """Return the box (y0, x0, y1, x1), in pixels, around all that is predicted or corrected."""
        predicted, corrected = self.prediction.scope_box(), self.bounds()
        if corrected is None:
            return predicted
        low, high = np.minimum(predicted[:2], corrected[:2]), np.maximum(predicted[2:], corrected[2:])
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    def regions(self) -> list[Region]:
        """Convert corrections to regions that label their pixels: connected areas, cut apart where they have holes.

        They are in level-0 pixels. An area corrected to unlabelled is a region without tissue.
        """
        box, level, card = self.bounds(), self.stored_level(0), self.prediction.card
        if box is None or level is None:
            return []
        names = {i: (tissue.name,) for i, tissue in enumerate(card.classes, start=1)}
        factor = card.mpp / np.array(card.slide_mpp)
        return [
            Region(shapely.get_coordinates(piece.exterior)[:-1, ::-1] * factor, names.get(label, ()), pixels=True)
            for label, polygon in outlines(level, box)
            for piece in without_holes(polygon)
        ]

    def copy_from(self, older: Prediction) -> None:
        """Copy the corrections of another prediction of the same slide; existing corrections stay.

        Classes are matched by name; another resolution by the centre of each pixel.

        Raises:
            ExportError: it is of another slide, or has corrections to a class that is missing here.
        """
        theirs, card = Corrections(older), self.prediction.card
        if not theirs.blocks():
            return
        if older.card.slide_hash != card.slide_hash:
            raise ExportError(
                f"{older.folder}: holds corrections of another slide ({older.card.slide}), not of {card.slide}"
            )
        codes = self.codes(older)
        if missing := self._lacking(theirs, codes):
            raise ExportError(
                f"{older.folder}: has corrections to {missing!r}, which is none of the new classes"
                f" ({', '.join(tissue.name for tissue in card.classes)}); choose another folder"
            )
        with self._locked():
            self._finish()
            self._copy(theirs, codes)

    def _copy(self, theirs: Corrections, codes: NDArray[np.uint8]) -> None:
        for origin, values in theirs.corrected_blocks():
            found = self.resampled(theirs.prediction, origin, values)
            if found is None:
                continue
            at, copied = found[0], codes[found[1]]
            existing = self.stored_labels(at, (copied.shape[0], copied.shape[1]))
            if (copied[existing == 0] > 0).any():
                self._write(at, np.where(existing == 0, copied, existing))

    def resampled(
        self, other: Prediction, origin: tuple[int, int], values: NDArray[np.uint8]
    ) -> tuple[tuple[int, int], NDArray[np.uint8]] | None:
        """Give values in pixels of another result of the slide to the own pixels whose centres lie there, if any."""
        card = self.prediction.card
        ratio = card.mpp / other.card.mpp
        rows, columns = (
            _sampled(first, n, ratio, limit) for first, n, limit in zip(origin, values.shape, card.shape, strict=True)
        )
        if not len(rows) or not len(columns):
            return None
        at_rows, at_columns = (
            np.floor((own + 0.5) * ratio).astype(np.intp) - o for own, o in zip((rows, columns), origin, strict=True)
        )
        return (int(rows[0]), int(columns[0])), values[at_rows][:, at_columns]

    def codes(self, other: Prediction) -> NDArray[np.uint8]:
        """Map the values stored for another result to values of this one: (256,); 0 for classes that it lacks."""
        names = [tissue.name for tissue in self.prediction.card.classes]
        codes = np.zeros(256, np.uint8)
        codes[ERASED] = ERASED
        for value, tissue in enumerate(other.card.classes, start=1):
            codes[value] = names.index(tissue.name) + 1 if tissue.name in names else 0
        return codes

    @staticmethod
    def _lacking(theirs: Corrections, codes: NDArray[np.uint8]) -> str:
        """Name a class that is corrected to and has no code; "" if there is none."""
        used = np.zeros(256, bool)
        for _, values in theirs.corrected_blocks():
            used |= np.bincount(values.ravel(), minlength=256) > 0
        classes = theirs.prediction.card.classes
        return next((c.name for value, c in enumerate(classes, start=1) if used[value] and not codes[value]), "")


def _slices(origin: tuple[int, int], shape: tuple[int, int]) -> tuple[slice, slice]:
    (y, x), (h, w) = origin, shape
    return slice(y, y + h), slice(x, x + w)


def _sampled(first: int, count: int, ratio: float, limit: int) -> NDArray[np.intp]:
    """List the new pixels, below `limit`, whose centres lie in old pixels first..first + count."""
    low, high = (int(np.ceil(edge / ratio - 0.5)) for edge in (first, first + count))
    return np.arange(max(low, 0), min(high, limit))
