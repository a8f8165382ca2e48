"""Labels made again from the maps of a result, by the rule of a prediction, without slide and model.

The maps on disk are all that labels come from, also while a slide is predicted: with the same settings the same labels
come out, to the bit. Nothing but the labels is written, so that every setting can be taken back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.core.errors import ExportError
from napari_lpd.core.geometry import common, divided, is_empty, multiplied, within
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.locks import beside, locked
from napari_lpd.results.card import UNREADABLE
from napari_lpd.results.prediction import Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Block, Box
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
        SettingsError: a class is favoured that the result does not have.
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
    prediction.finish()


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
    return (
        f"all of {prediction.tissue_mm2:.3g} mm² of tissue is unsure: no tissue of the model is there, or sure enough"
        " (labels.sure); is it a model for this tissue and stain?"
    )


class LabelView:
    """A part of a result, read once, whose labels are computed with any settings at once: what a slider shows.

    At coarser levels the maps are means, so that the labels there are nearly those of the result.

    Args:
        corrections: Of the result, not refined by a CRF.
        box: (y0, x0, y1, x1) in pixels of the labels.
        level: Of the pyramids.

    Attributes:
        origin: (y, x) of the first pixel, in pixels of the level.
    """

    def __init__(self, corrections: Corrections, box: Box, level: int = 0) -> None:
        self._card, prediction = corrections.prediction.card, corrections.prediction
        h, w = corrections.levels[level].shape
        y0, x0, y1, x1 = common(tuple(value >> level for value in box), (0, 0, h, w))  # type: ignore[arg-type]
        rows, columns = prediction.scores.levels[level].shape[-2:]
        top, left, bottom, right = divided((y0, x0, y1, x1), self._card.stride)
        cells = common((top - RIM, left - RIM, bottom + RIM, right + RIM), (0, 0, rows, columns))
        self._evidence, self._fine = prediction.evidence(cells, level), multiplied(cells, self._card.stride)
        self._box, self.origin = (y0, x0, y1, x1), (y0, x0)
        part = (slice(y0, y1), slice(x0, x1))
        stored = corrections.stored_level(level)
        self._shown = corrections.levels[level][part]
        self._kept = (self._shown == 0) | (self._shown == UNREADABLE)
        if stored is not None:
            self._kept |= stored[part] > 0

    def labels(self, settings: LabelSettings) -> NDArray[np.uint8]:
        """Compute the labels (h, w), corrections included.

        Raises:
            SettingsError: a class is favoured that the result does not have.
        """
        chosen = self._card.settings.model_copy(update={"labels": settings})
        rule = self._card.model_copy(update={"settings": chosen}).rule
        fine = rule.labels(self._evidence, self._card.stride)[within(self._fine, self._box)]
        return np.where(self._kept, self._shown, fine)
