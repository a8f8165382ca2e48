"""Measure recall and scores inside check regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.core.classes import UNSURE_CLASS
from napari_lpd.core.errors import DataError
from napari_lpd.core.geometry import sampled_polygons
from napari_lpd.core.jobs import WARNING, Job, Progress
from napari_lpd.core.labelling.rule import UNSURE, unit
from napari_lpd.data.regions import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_lpd.data.regions import Region
    from napari_lpd.results.prediction import Prediction


def region_confusion(prediction: Prediction, regions: Sequence[Region]) -> NDArray[np.int64]:
    """Count the pixels inside regions of one tissue: (C, C + 1), rows = outlined class, column 0 = unsure.

    Raises:
        DataError: no region carries exactly one of the prediction's classes.
    """
    card = prediction.card
    names = [tissue.name for tissue in card.classes]
    confusion = np.zeros((len(names), len(names) + 1), np.int64)
    for region in regions:
        if len(region.tissues) == 1 and region.tissues[0] in names:
            predicted = _labels_inside(prediction, region)
            counts = np.bincount(predicted, minlength=256)  # unreadable pixels do not count
            counts[0] += counts[UNSURE]
            confusion[names.index(region.tissues[0])] += counts[: len(names) + 1]
    if not confusion.any():
        raise DataError(f"{card.slide}: no check region with exactly one of {', '.join(names)} lies in the prediction")
    return confusion


def _labels_inside(prediction: Prediction, region: Region) -> NDArray[np.uint8]:
    """Read the labels of the pixels whose centres lie in `region`: (n,)."""
    (rows, columns), inside = _pixels_inside(prediction, region, 1)
    labels: NDArray[np.uint8] = np.asarray(prediction.labels.levels[0][rows, columns])[inside]
    return labels


def _pixels_inside(prediction: Prediction, region: Region, step: int) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """Return rows and columns around `region`, in pixels `step` times the labels', and which centres lie in it."""
    card, mpp = prediction.card, prediction.card.mpp * step
    polygon = region.polygon(card.slide_mpp)
    x0, y0, x1, y1 = (int(value / mpp) for value in polygon.bounds)
    bottom, right = (min(last + 1, -(-n // step)) for last, n in zip((y1, x1), card.shape, strict=True))
    rows, columns = slice(max(y0, 0), max(bottom, y0, 0)), slice(max(x0, 0), max(right, x0, 0))
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    if not min(shape):
        return (rows, columns), np.zeros(shape, np.bool_)
    return (rows, columns), sampled_polygons([polygon], (rows.start, columns.start), shape, mpp)


def verdicts_on(pairs: Sequence[tuple[Prediction, Sequence[Region]]]) -> Job[list[Verdict]]:
    """Say what predictions found in each region that carries some of their classes and lies on what they labelled.

    A prediction that has no such region is named in a warning.

    Args:
        pairs: Predictions with the same classes, each with the regions on its slide.

    Raises:
        DataError: the classes differ, or no prediction has such a region.
    """
    verdicts: list[Verdict] = []
    names = [tissue.name for tissue in pairs[0][0].card.classes]
    without = f"no region with a tissue of {', '.join(names)} lies on what was segmented"
    for prediction, regions in pairs:
        card = prediction.card
        classes = [tissue.name for tissue in card.classes]
        if classes != names:
            others = ", ".join(names)
            raise DataError(f"{prediction.folder}: its classes are {', '.join(classes)}; those before, {others}")
        before = len(verdicts)
        for number, region in enumerate(regions, start=1):
            if verdict := _verdict(prediction, region, names):
                verdicts.append(verdict)
            yield Progress(number, len(regions), "regions")
        if len(verdicts) == before and len(pairs) > 1:
            yield Progress(0, 0, f"{WARNING}{card.slide}: {without}")
    if not verdicts:
        raise DataError(f"{', '.join(prediction.card.slide for prediction, _ in pairs)}: {without}")
    return verdicts


def _verdict(prediction: Prediction, region: Region, names: Sequence[str]) -> Verdict | None:
    """Say what was found in a region; None where that is nothing, or the region carries none of the classes."""
    if not set(region.tissues) & set(names):
        return None
    card, counts = prediction.card, np.bincount(_labels_inside(prediction, region), minlength=256)
    found = dict(zip(names, counts[1:].tolist(), strict=False)) | {UNSURE_CLASS.name: int(counts[UNSURE])}
    if not any(found.values()):
        return None
    x0, y0, x1, y1 = region.polygon(card.slide_mpp).bounds
    sure = _sureness(prediction, region, names)
    return Verdict(region.tissues, found, (y0, x0, y1, x1), card.slide, card.slide_hash, sure)


def _sureness(prediction: Prediction, region: Region, names: Sequence[str]) -> NDArray[np.float64]:
    """Read how likely the most likely class is at map pixels of a region, and whether it carries that: (n, 2)."""
    (rows, columns), inside = _pixels_inside(prediction, region, prediction.card.stride)
    if not inside.any():
        return np.empty((0, 2))
    found = prediction.evidence((rows.start, columns.start, rows.stop, columns.stop))
    shares = prediction.card.rule.shares(found)[:, inside & found.scores.any(0)]
    carried = np.isin(names, region.tissues)
    return np.stack([shares.max(0), carried[shares.argmax(0)]], 1).astype(float)


def region_scores(prediction: Prediction, regions: Sequence[Region]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Read scores (n, C) in 0..1, and outlined classes (n,), of map pixels in regions of one tissue with any score."""
    card = prediction.card
    names = [tissue.name for tissue in card.classes]
    collected, outlined = [np.empty((0, len(names)))], [np.empty(0, np.intp)]
    for region in regions:
        if len(region.tissues) == 1 and region.tissues[0] in names:
            (rows, columns), inside = _pixels_inside(prediction, region, card.stride)
            found = prediction.evidence((rows.start, columns.start, rows.stop, columns.stop))
            scores = np.where(card.rule.present(found), unit(found.scores), 0)[:, inside].T
            scores = scores[scores.any(1)]
            collected.append(scores)
            outlined.append(np.full(len(scores), names.index(region.tissues[0])))
    return np.concatenate(collected), np.concatenate(outlined)


def recall_metrics(confusion: NDArray[np.int64], names: Sequence[str]) -> dict[str, float]:
    """Compute the recall per outlined class, their mean, and that of always guessing the most frequent class.

    Args:
        confusion: (C, C + 1) from `region_confusion`.
        names: The C class names.
    """
    outlined = [i for i in range(len(names)) if confusion[i].sum()]
    recalls = {f"recall {names[i]}": float(confusion[i, i + 1] / confusion[i].sum()) for i in outlined}
    mean = float(np.mean(list(recalls.values())))
    return {**recalls, "mean recall": mean, "mean recall of a majority guess": 1 / len(outlined)}
