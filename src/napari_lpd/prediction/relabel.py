"""Labels made again from the maps of a result, by the rule of a prediction, without slide and model.

The maps on disk are all that labels come from, also while a slide is predicted: with the same settings the same labels
come out, to the bit. Nothing but the labels is written, so that every setting can be taken back. Once all are made they
are cleaned in their place, as far as that is asked for (`core.labelling.clean`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.core.errors import ExportError
from napari_lpd.core.geometry import common, divided, is_empty, multiplied, within
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.labelling.clean import cleaned
from napari_lpd.core.labelling.rule import UNREADABLE
from napari_lpd.core.locks import beside, locked
from napari_lpd.core.numeric.components import Components
from napari_lpd.core.settings.prediction import MOST_SMOOTH_UM
from napari_lpd.results.prediction import Prediction
from napari_lpd.results.pyramid import combined

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Block, Box
    from napari_lpd.core.labelling.clean import Cleaning
    from napari_lpd.core.settings.prediction import LabelSettings
    from napari_lpd.results.corrections import Corrections

NO_TISSUE = "look at the tissue mask and give another one, or predict everything (tissue_only=false)"
RIM = 1  # map pixels around a block between which and its own its labels are interpolated


def relabel(folder: Path, settings: LabelSettings) -> Job[Prediction]:
    """Make the labels of a finished result again; corrections stay above them, and areas are measured again.

    Where it was interrupted the result is unfinished; `relabel`, with any settings, or `predict` makes it whole.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from shapely import box
        >>> from napari_lpd import LabelSettings, PredictSettings, load_model, open_slide, predict_slide, relabel
        >>> from napari_lpd import run, samples
        >>> model, settings = load_model(samples.model_path()), PredictSettings(tile=256, overlap=64, threads=1)
        >>> with open_slide(samples.skin_slide_path()) as slide, tempfile.TemporaryDirectory() as folder:
        ...     scope = [box(1000, 1000, 1300, 1300)]  # µm
        ...     _ = run(predict_slide(slide, model, settings, Path(folder, "skin.zarr"), scope))
        ...     everything = run(relabel(Path(folder, "skin.zarr"), LabelSettings(sure=0.0)))
        ...     everything.unsure_mm2
        0.0

    Raises:
        SettingsError: settings name a class that the result does not have, or holes larger than a block.
        ExportError: the result is unfinished, was refined by a CRF, or cannot be written.
    """
    with locked(beside(folder), folder):
        prediction = Prediction.open(folder, write=True)
        if not (prediction.finished or prediction.relabelling):
            raise ExportError(f"{folder}: unfinished prediction; run predict again to resume it, then relabel")
        if prediction.card.settings.refiner != "none":
            raise ExportError(
                f"{folder}: its labels follow the slide's edges (refiner={prediction.card.settings.refiner}); predict"
                " the slide again with these settings of labels"
            )
        yield from relabelling(prediction, settings)
    return prediction


def relabelling(prediction: Prediction, settings: LabelSettings) -> Iterator[Progress]:
    """Make the labels of all finished blocks again and finish the result, which is open for writing and locked."""
    prediction.begin_relabelling(settings)
    blocks = sorted(prediction.finished_blocks())
    for done, block in enumerate(blocks, start=1):
        prediction.write_labels(block, _labels_again(prediction, block))
        yield Progress(done, len(blocks), "blocks labelled")
    yield from finishing(prediction)


def finishing(prediction: Prediction) -> Iterator[Progress]:
    """Clean the labels of a result, all as they follow from its maps, and finish it."""
    if prediction.finished_blocks() and prediction.card.settings.labels.clean.asked:
        prediction.begin_cleaning()
        cleaning, image = prediction.card.cleaning, _Rows(prediction)
        if cleaning.reach:
            yield from _smoothed(image, cleaning)
        if cleaning.by_areas:
            yield from _without_specks(image, cleaning)
    prediction.finish()


class _Rows:
    """The labels of a result in the box around its blocks, read by rows, and written a row of blocks at a time.

    Attributes:
        shape: (H, W) of the box.
        edge: Of a block.
    """

    def __init__(self, prediction: Prediction) -> None:
        self._prediction, self._blocks = prediction, prediction.finished_blocks()
        boxes = np.array([prediction.block_box(block) for block in self._blocks])
        (self._y, self._x), (bottom, right) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
        self.shape, self.edge = (bottom - self._y, right - self._x), prediction.card.block
        self._held: tuple[int, NDArray[np.uint8]] | None = None

    def read(self, top: int, end: int) -> NDArray[np.uint8]:
        """Read rows that lie in one row of blocks, which is kept until another is read."""
        start = top - top % self.edge
        if self._held is None or self._held[0] != start:
            self._held = start, self.read_any(start, min(start + self.edge, self.shape[0]))
        return self._held[1][top - start : end - start]

    def read_any(self, top: int, end: int) -> NDArray[np.uint8]:
        """Read rows as they are on disk."""
        y, x, w = self._y, self._x, self.shape[1]
        return self._prediction.labels.levels[0][y + top : y + end, x : x + w]

    def write(self, top: int, labels: NDArray[np.uint8]) -> None:
        """Write the labels of a row of blocks, the first at `top`, where they are others than on disk."""
        changed = (labels != self.read(top, top + len(labels))).any(0)
        for left in range(0, self.shape[1], self.edge):
            own = slice(left, left + self.edge)
            if changed[own].any():
                block = (self._y + top) // self.edge, (self._x + left) // self.edge
                self._prediction.write_labels(block, labels[:, own])
        self._held = None

    def is_open(self, top: int, end: int) -> NDArray[np.bool_]:
        """Mark what of rows lies at the rim of the box or outside of the scope: holes do not reach there."""
        h, w = self.shape
        found = ~self._prediction.in_scope((self._y + top, self._x), (end - top, w))
        found[:, [0, -1]] = True
        found[[row - top for row in (0, h - 1) if top <= row < end]] = True
        return found


def _smoothed(rows: _Rows, cleaning: Cleaning) -> Iterator[Progress]:
    """Smooth the labels of a result; what was above, before it was smoothed, is kept."""
    (height, width), edge = rows.shape, rows.edge
    above = np.zeros((0, width), np.uint8)
    for top in range(0, height, edge):
        end = min(top + edge, height)
        whole = np.concatenate([above, rows.read_any(top, min(end + cleaning.reach, height))])
        kept = len(above)
        above = whole[max(kept + end - top - cleaning.reach, 0) : kept + end - top]
        rows.write(top, cleaning.smoothed(whole)[kept : kept + end - top])
        yield Progress(end, height, "rows smoothed")


def _without_specks(rows: _Rows, cleaning: Cleaning) -> Job[None]:
    """Give small areas and holes of a result the label around them."""
    areas = Components(rows.read, rows.shape, rows.edge, -1, rows.is_open if cleaning.holes.any() else None)
    yield from areas.search(borders=True)
    labels, made = cleaning.decided(areas, np.zeros(len(areas.area), np.bool_)), []
    for top, numbers in areas.strips():
        made.append(labels[numbers])
        end = top + len(numbers)
        if not end % rows.edge or end == rows.shape[0]:
            rows.write(top - top % rows.edge, np.concatenate(made))
            made = []
        yield Progress(end, rows.shape[0], "rows cleaned")


def _labels_again(prediction: Prediction, block: Block) -> NDArray[np.uint8]:
    """Make a block's labels (h, w) from the stored maps; places that could not be read stay so."""
    stride, (h, w) = prediction.card.stride, prediction.card.shape
    edge, (rows, columns) = prediction.card.block // stride, (-(-h // stride), -(-w // stride))
    y, x = block[0] * edge, block[1] * edge
    seen = max(y - RIM, 0), max(x - RIM, 0), min(y + edge + RIM, rows), min(x + edge + RIM, columns)
    fine = prediction.card.rule.labels(prediction.evidence(seen), stride)
    labels = labels_in_block(prediction, block, fine, multiplied(seen, stride))
    y0, x0, y1, x1 = prediction.block_box(block)
    labels[prediction.labels.levels[0][y0:y1, x0:x1] == UNREADABLE] = UNREADABLE
    return labels


def labels_in_block(prediction: Prediction, block: Block, fine: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Cut a block's labels (h, w) from labels `fine` of pixels in `box`; 0 where nothing is to be labelled."""
    own = prediction.block_box(block)
    part = common(own, box)
    labels = np.zeros((own[2] - own[0], own[3] - own[1]), np.uint8)
    if not is_empty(part):
        wanted = prediction.to_label(part[:2], (part[2] - part[0], part[3] - part[1]))
        labels[within(own, part)] = fine[within(box, part)] * wanted
    return labels


def why_empty(prediction: Prediction) -> str:
    """Say why nothing is labelled; "" where something is."""
    if any(prediction.area_mm2().values()):
        return ""
    if not prediction.tissue_mm2:
        return f"no tissue was found there, so nothing is labelled; {NO_TISSUE}"
    if not prediction.unsure_mm2:
        return f"none of {prediction.tissue_mm2:.3g} mm² of tissue is as large as the smallest area (labels.clean)"
    return (
        f"all of {prediction.tissue_mm2:.3g} mm² of tissue is unsure: no tissue of the model is there, or sure enough"
        " (labels.sure); is it a model for this tissue and stain?"
    )


class LabelView:
    """A part of a result, read once, whose labels are computed with any settings at once: what a slider shows.

    At coarser levels the maps are means, so that the labels there are nearly those of the result. As much
    around it as smoothing reaches is cleaned, too; areas that are cut off there stay as they are.

    Args:
        corrections: Of the result, not refined by a CRF.
        box: (y0, x0, y1, x1) in pixels of the labels.
        level: Of the pyramids.

    Attributes:
        origin: (y, x) of the first pixel, in pixels of the level.
    """

    def __init__(self, corrections: Corrections, box: Box, level: int = 0) -> None:
        self._card, prediction = corrections.prediction.card, corrections.prediction
        self._level, limits = level, (0, 0, *corrections.levels[level].shape)
        y0, x0, y1, x1 = self._box = common(tuple(value >> level for value in box), limits)  # type: ignore[arg-type]
        self.origin = y0, x0
        halo = int(MOST_SMOOTH_UM / self._card.mpp) >> level
        around = self._around = common((y0 - halo, x0 - halo, y1 + halo, x1 + halo), limits)
        self._ends = np.equal(around, limits).tolist()
        rows, columns = prediction.scores.levels[level].shape[-2:]
        top, left, bottom, right = divided(around, self._card.stride)
        cells = common((top - RIM, left - RIM, bottom + RIM, right + RIM), (0, 0, rows, columns))
        self._evidence, self._fine = prediction.evidence(cells, level), multiplied(cells, self._card.stride)
        self._wanted = prediction.to_label(around[:2], (around[2] - around[0], around[3] - around[1]), level)
        self._unreadable = prediction.labels.levels[level][around[0] : around[2], around[1] : around[3]] == UNREADABLE
        stored = corrections.stored_level(level)
        self._stored = np.zeros((y1 - y0, x1 - x0), np.uint8) if stored is None else stored[y0:y1, x0:x1]

    def labels(self, settings: LabelSettings) -> NDArray[np.uint8]:
        """Compute the labels (h, w), corrections included.

        Raises:
            SettingsError: settings name a class that the result does not have, or holes larger than a block.
        """
        card = self._card.labelled_by(settings)
        fine = card.rule.labels(self._evidence, card.stride)[within(self._fine, self._around)] * self._wanted
        fine[self._unreadable] = UNREADABLE
        if settings.clean.asked:
            fine = cleaned(fine, card.cleaning.at_level(self._level), self._ends)
        return combined(fine[within(self._around, self._box)], self._stored)
