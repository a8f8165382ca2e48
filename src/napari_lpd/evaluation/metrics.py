"""How good a prediction is: recall inside check regions, and the metrics of images that have pixel masks.

Two conventions of labels meet here. A `Prediction` stores 0 = unlabelled, c + 1 = class c. Pixel masks (and everything
from `confusion_matrix` on) have classes 0..C-1, background C, and values above C (as 255) for pixels to be ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from scipy.ndimage import minimum_filter

from napari_lpd.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Background = Literal["exclude", "count", "predict"]
"""Truth-background pixels: left out; errors where a class was painted; or a label that must be predicted."""

PER_CLASS = ("iou", "dice", "recall", "precision", "boundary_iou")
HEADLINES = ("mean_iou", "mean_dice", "frequency_weighted_iou", "pixel_accuracy", "mean_boundary_iou")
MIN_SOURCES = 3
MIN_IMAGES = 3  # that hold a class, for it to count in the means


class ImageResult(NamedTuple):
    """What is kept of one image; sums of it give every metric."""

    name: str
    source: str  # slide or patient: the unit of resampling
    confusion: NDArray[np.int64]  # (C + 1, C + 1) from `confusion_matrix`
    boundary: NDArray[np.int64]  # (C, 2) from `boundary_counts`
    presence: NDArray[np.floating[Any]]  # (C,) probability that the class is in the image
    present: NDArray[np.bool_]  # (C,) whether it is


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Metrics of a set of images, in 0..1; NaN where there is nothing to divide by. TP, FP, FN are pixels."""

    class_names: tuple[str, ...]  # C, without background
    background: Background
    images: int
    sources: int
    confusion: NDArray[np.int64]  # (C + 1, C + 1) summed, rows = truth; "exclude" does not use the last row
    pixels: NDArray[np.int64]  # (C,) of the truth
    iou: NDArray[np.float64]  # (C,) TP / (TP + FP + FN)
    dice: NDArray[np.float64]  # (C,) 2 TP / (2 TP + FP + FN)
    recall: NDArray[np.float64]  # (C,) TP / (TP + FN)
    precision: NDArray[np.float64]  # (C,) TP / (TP + FP)
    boundary_iou: NDArray[np.float64]  # (C,) IoU of the boundary bands
    mean_iou: float  # this and the next two: over the classes that are not `absent`, nor in `too_few`
    mean_dice: float
    mean_boundary_iou: float
    frequency_weighted_iou: float  # weights: pixels of the truth; over classes, with "predict" over background too
    pixel_accuracy: float  # share of counted pixels; unpainted background is right unless it is excluded
    background_iou: float  # with "predict", else NaN; in no mean
    absent: tuple[str, ...]  # classes in neither truth nor prediction: NaN, in no mean
    not_in_truth: tuple[str, ...]  # classes that are predicted only: IoU 0, in the means
    images_of: NDArray[np.int64]  # (C,) images whose truth holds the class
    too_few: tuple[str, ...]  # classes in fewer than `MIN_IMAGES` images: in no mean, unless all classes are in so few


class Intervals(NamedTuple):
    """95 % percentile intervals of a bootstrap over sources, in 0..1."""

    resamplings: int
    headline: dict[str, tuple[float, float]]  # low and high of each of `HEADLINES`
    iou: NDArray[np.float64]  # (C, 2) low and high, from the resamples that have the class
    recall: NDArray[np.float64]  # (C, 2) low and high, from the resamples whose truth has it
    missing: NDArray[np.int64]  # (C,) resamples without the class, in truth and prediction


def confusion_matrix(truth: NDArray[Any], predicted: NDArray[Any], class_count: int) -> NDArray[np.int64]:
    """Pixel counts of one image or a stack: (C + 1, C + 1), rows = truth, columns = prediction, index C = background.

    Args:
        truth: Integers, any shape; 0..C-1 classes, C background, anything else (as 255) is ignored.
        predicted: Integers 0..C of the same shape.
        class_count: C.

    Raises:
        DataError: the shapes differ, or a predicted value is not in 0..C.
    """
    if truth.shape != predicted.shape:
        raise DataError(f"truth has shape {truth.shape}, the prediction {predicted.shape}; wanted the same")
    if predicted.size and not 0 <= int(predicted.min()) <= int(predicted.max()) <= class_count:
        raise DataError(f"predicted labels are {predicted.min()}..{predicted.max()}, wanted 0..{class_count}")
    counted = (truth >= 0) & (truth <= class_count)
    size = class_count + 1
    pairs = truth[counted].astype(np.int64) * size + predicted[counted].astype(np.int64)
    return np.bincount(pairs, minlength=size**2).reshape(size, size)


def boundary_counts(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    class_count: int,
    share: float,
    background: Background = "exclude",
) -> NDArray[np.int64]:
    """Intersection and union of the boundary bands of truth and prediction: (C, 2) pixels of one image.

    The band of a mask is its pixels within d = max(1, round(share · diagonal)) of its contour, in chessboard distance;
    where the image cuts a mask, that edge is contour (Boundary IoU, Cheng et al., CVPR 2021, and its published code).
    Ignored pixels, and background where it is excluded, are like pixels beyond the edge, for truth and prediction.

    Args:
        truth: (H, W) as in `confusion_matrix`.
        predicted: (H, W) as in `confusion_matrix`.
        class_count: C.
        share: d as a share of the image's diagonal; the paper takes 0.02.
        background: As in `metrics`, to which the counts go.
    """
    distance = max(1, round(share * float(np.hypot(*truth.shape))))
    last = class_count - 1 if background == "exclude" else class_count
    counted = (truth >= 0) & (truth <= last)
    counts = np.zeros((class_count, 2), np.int64)
    for c in range(class_count):
        of_truth = _boundary_band((truth == c) & counted, distance)
        of_prediction = _boundary_band((predicted == c) & counted, distance)
        counts[c] = (of_truth & of_prediction).sum(), (of_truth | of_prediction).sum()
    return counts


def _boundary_band(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    if not mask.any():
        return mask
    inside = minimum_filter(mask.view(np.uint8), 2 * distance + 1, mode="constant", cval=0)
    return mask & (inside == 0)


def metrics(results: Sequence[ImageResult], class_names: Sequence[str], background: Background) -> Scores:
    """Metrics of the pixel counts summed over `results` (one matrix for the whole set, as published).

    Args:
        results: At least one image.
        class_names: The C classes, without background.
        background: "exclude" drops truth-background pixels. "count" keeps them as false positives of the class painted
            there. "predict" makes background a label: painted as background, it is right; FWIoU runs over all
            C + 1 labels, as in the published code, but its IoU is in no mean.

    Raises:
        DataError: there are no results.
    """
    if not results:
        raise DataError("no images with masks to compute metrics from; wanted at least one")
    confusion = np.sum([result.confusion for result in results], axis=0)
    boundary = np.sum([result.boundary for result in results], axis=0)
    of_mean = classes_of_means(results)
    rates = rates_of(confusion, boundary, background, of_mean)
    absent, not_in_truth = np.isnan(rates["iou"]), np.isnan(rates["recall"]) & ~np.isnan(rates["iou"])
    return Scores(
        class_names=tuple(class_names),
        background=background,
        images=len(results),
        sources=len({result.source for result in results}),
        confusion=confusion,
        pixels=confusion[:-1].sum(1),
        absent=tuple(name for name, there in zip(class_names, absent, strict=True) if there),
        not_in_truth=tuple(name for name, there in zip(class_names, not_in_truth, strict=True) if there),
        images_of=np.sum([result.present for result in results], axis=0, dtype=np.int64),
        too_few=tuple(name for name, counts in zip(class_names, of_mean, strict=True) if not counts),
        **{name: values[()] for name, values in rates.items()},  # 0-d arrays become numbers
    )


def bootstrap_intervals(
    results: Sequence[ImageResult],
    class_names: Sequence[str],
    background: Background,
    resamplings: int,
    seed: int,
) -> Intervals | None:
    """Compute 95 % percentile intervals of `metrics` by resampling slides or patients with replacement.

    A resample without a class leaves it out of that resample's means and of that class's interval.
    `results`, `class_names` and `background` as in `metrics`; `resamplings` may be 0, for none.

    Returns:
        None where there are fewer than 3 sources or no resamplings (the report then says which).
    """
    counts = sums_per_source(results)
    if len(counts.sources) < MIN_SOURCES or resamplings < 1:
        return None
    rates = resampled_rates(counts, background, resamplings, seed)
    return Intervals(
        resamplings,
        {name: limits_of(rates[name]) for name in HEADLINES},
        np.array([limits_of(values) for values in rates["iou"].T]),
        np.array([limits_of(values) for values in rates["recall"].T]),
        np.isnan(rates["iou"]).sum(0),
    )


class SourceCounts(NamedTuple):
    """Pixel counts summed per source: S sources, sorted by name."""

    sources: NDArray[np.str_]
    confusion: NDArray[np.float64]  # (S, C + 1, C + 1)
    boundary: NDArray[np.float64]  # (S, C, 2)
    of_mean: NDArray[np.bool_]  # (C,) from `classes_of_means`


def sums_per_source(results: Sequence[ImageResult]) -> SourceCounts:
    """Sum the counts of the images of each source."""
    sources, index = np.unique([result.source for result in results], return_inverse=True)
    size = len(results[0].confusion)
    confusion, boundary = np.zeros((len(sources), size, size)), np.zeros((len(sources), size - 1, 2))
    np.add.at(confusion, index, np.stack([result.confusion for result in results]))
    np.add.at(boundary, index, np.stack([result.boundary for result in results]))
    return SourceCounts(sources, confusion, boundary, classes_of_means(results))


def classes_of_means(results: Sequence[ImageResult]) -> NDArray[np.bool_]:
    """Choose the classes that count in means (C,): in no image, where painting them is wrong, or in `MIN_IMAGES`.

    All of them, where none is in so many.
    """
    images = np.sum([result.present for result in results], axis=0)
    enough = images >= MIN_IMAGES
    return enough | (images == 0) if enough.any() else np.ones(len(images), np.bool_)


def resampled_rates(counts: SourceCounts, background: Background, resamplings: int, seed: int) -> dict[str, Any]:
    """Compute `rates_of` R resamples of the slides or patients with replacement: (R, C) or (R,) each.

    The same seed draws the same sources, so that models measured on the same images are compared pair by pair.
    """
    draws = source_draws(len(counts.sources), resamplings, seed)
    confusion, boundary = np.tensordot(draws, counts.confusion, 1), np.tensordot(draws, counts.boundary, 1)
    return rates_of(confusion, boundary, background, counts.of_mean)


def source_draws(count: int, resamplings: int, seed: int) -> NDArray[np.float64]:
    """Draw `count` slides or patients with replacement: how often each is drawn (resamplings, count)."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamplings).astype(float)


def rates_of(
    confusion: NDArray[Any], boundary: NDArray[Any], background: Background, of_mean: NDArray[np.bool_]
) -> dict[str, Any]:
    """Compute the rates in `Scores` of confusion (..., C + 1, C + 1) and boundary (..., C, 2): (..., C) or (...).

    The means are over the classes in `of_mean` (C,).
    """
    counted = confusion.copy()
    if background == "exclude":
        counted[..., -1, :] = 0
    right = np.diagonal(counted, axis1=-2, axis2=-1)  # (..., C + 1)
    in_truth, painted = counted.sum(-1), counted.sum(-2)
    iou = _ratio(right, in_truth + painted - right)
    dice = _ratio(2 * right, in_truth + painted)[..., :-1]
    boundary_iou = _ratio(boundary[..., 0], boundary[..., 1])
    labels = slice(None) if background == "predict" else slice(-1)
    weighted = np.nansum(in_truth[..., labels] * iou[..., labels], axis=-1)
    return {
        "iou": iou[..., :-1],
        "dice": dice,
        "recall": _ratio(right, in_truth)[..., :-1],
        "precision": _ratio(right, painted)[..., :-1],
        "boundary_iou": boundary_iou,
        "mean_iou": _mean(iou[..., :-1][..., of_mean]),
        "mean_dice": _mean(dice[..., of_mean]),
        "mean_boundary_iou": _mean(boundary_iou[..., of_mean]),
        "frequency_weighted_iou": _ratio(weighted, in_truth[..., labels].sum(-1)),
        "pixel_accuracy": _ratio(right.sum(-1), in_truth.sum(-1)),
        "background_iou": iou[..., -1] if background == "predict" else np.full(iou.shape[:-1], np.nan),
    }


def _ratio(part: Any, whole: Any) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over the last axis without NaN; NaN (and no warning) where nothing is left."""
    return _ratio(np.nansum(values, axis=-1), np.isfinite(values).sum(-1))


def limits_of(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of the finite values; NaN where there are none."""
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
