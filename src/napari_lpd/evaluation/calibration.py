"""Probabilities of tissues, in an image or at a place: how right, how far from frequencies, what is chosen by them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from scipy.special import log_softmax, logit  # type: ignore[import-untyped]

from napari_lpd.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TEMPERATURES = (0.05, 20.0)
LABEL_TEMPERATURES = (0.2, 5.0)  # labels that are right throughout would ask for 0
MIN_SCORE = 1 / 255
logger = logging.getLogger(__name__)


def calibration(presence: NDArray[Any], present: NDArray[Any], bins: int = 15) -> dict[str, Any]:
    """Measure how far presence probabilities are from frequencies: expected calibration error and Brier score.

    ECE is that of the probability of "present" in bins of equal width, Σ_b n_b / n · |mean probability - frequency|
    (Naeini et al., AAAI 2015). Overall values are means over classes, so that errors of two classes cannot cancel.

    Args:
        presence: (n, C) in 0..1.
        present: (n, C) bool.
        bins: Number of bins.

    Returns:
        images, bins, ece, brier, and lists of C: class_ece, class_brier.
    """
    presence, present = _check_presence(presence, present)
    excess = presence - present
    squares = excess**2
    class_ece = [_calibration_error(p, e, bins) for p, e in zip(presence.T, excess.T, strict=True)]
    return {
        "images": len(presence),
        "bins": bins,
        "ece": float(np.mean(class_ece)),
        "brier": float(squares.mean()),
        "class_ece": class_ece,
        "class_brier": squares.mean(0).tolist(),
    }


class Reliability(NamedTuple):
    """The bins, from 0 to 1, in which there is some presence probability.

    Attributes:
        number: How many probabilities are in it.
        probability: Their mean.
        frequency: Share of them whose class is present.
    """

    number: NDArray[np.int64]
    probability: NDArray[np.float64]
    frequency: NDArray[np.float64]


def reliability(presence: NDArray[Any], present: NDArray[Any], bins: int = 15) -> Reliability:
    """Compare presence probabilities with frequencies, in the bins of `calibration`; all classes together."""
    presence, present = _check_presence(presence, present)
    presence, present = presence.ravel(), present.ravel()
    index = _bin_of(presence, bins)
    count = np.bincount(index, minlength=bins)
    some = count > 0
    probability, frequency = (np.bincount(index, values, bins)[some] / count[some] for values in (presence, present))
    return Reliability(count[some], probability, frequency)


def gate_rates(presence: NDArray[Any], present: NDArray[Any], thresholds: Sequence[float]) -> dict[str, Any]:
    """Measure the gate by itself: how right the model is about which classes are in an image.

    F1 is that of the rule presence >= threshold; AUC is the chance that an image with the class scores higher than one
    without it (the area under the ROC curve), whatever the threshold. A class that is in no image and said to be in
    none has no F1; one that is in all images or in none has no AUC. Overall values are means over the others.

    Args:
        presence: (n, C) in 0..1.
        present: (n, C) bool.
        thresholds: C of them.

    Returns:
        f1, auc, and lists of C: class_f1, class_auc, NaN where there is none.
    """
    presence, present = _check_presence(presence, present)
    said = presence >= np.asarray(thresholds)
    counted = said.sum(0) + present.sum(0)
    f1 = np.divide(2.0 * (said & present).sum(0), counted, out=np.full(counted.shape, np.nan), where=counted > 0)
    auc = np.array([_auc(p, held) for p, held in zip(presence.T, present.T, strict=True)])
    overall = {name: float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
               for name, values in (("f1", f1), ("auc", auc))}  # fmt: skip
    return overall | {"class_f1": f1.tolist(), "class_auc": auc.tolist()}


def _auc(presence: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    held = int(present.sum())
    if not 0 < held < len(present):
        return float("nan")
    from scipy.stats import rankdata  # type: ignore[import-untyped]  # takes a second to import

    ranks = rankdata(presence)[present].sum()  # Mann and Whitney's U; equals count a half
    return float((ranks - held * (held + 1) / 2) / (held * (len(present) - held)))


def _calibration_error(presence: NDArray[np.float64], excess: NDArray[np.float64], bins: int) -> float:
    return float(np.abs(np.bincount(_bin_of(presence, bins), excess, bins)).sum() / len(presence))


def _bin_of(presence: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    return np.minimum((presence * bins).astype(int), bins - 1)


def fit_temperature(presence: NDArray[Any], present: NDArray[Any]) -> float:
    """Fit the T in 0.05..20 with the least negative log-likelihood of sigmoid(logit(presence) / T) for all classes.

    Temperature scaling (Guo et al., ICML 2017). For validation images only, never for those that are reported on.
    `presence` and `present` as in `calibration`.
    """
    presence, present = _check_presence(presence, present)
    logits = logit(np.clip(presence, 1e-7, 1 - 1e-7)) * np.where(present, 1, -1)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -logits / np.exp(log_temperature)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def fit_label_temperature(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Fit the T in 0.2..5 with the least negative log-likelihood of the labels' shares s^(1/T) / Σ s^(1/T).

    Temperature scaling of log s. Scores below the smallest that a prediction stores count as that.

    Args:
        scores: (n, C) scores of the classes at n places, 0..1.
        labels: (n,) the class of each place.
    """
    logs = np.log(np.clip(scores, MIN_SCORE, 1))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logs / np.exp(log_temperature), axis=1)[np.arange(len(logs)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(LABEL_TEMPERATURES), method="bounded").x))


def choose_thresholds(presence: NDArray[Any], present: NDArray[Any]) -> NDArray[np.float64]:
    """Choose per class the threshold t whose rule presence >= t has the best balanced accuracy: (C,).

    Of thresholds that are equally good the middle one. A class that is in all images or in none gets 0.5, and a warning
    in the log that names its index. For validation images only, never for those that are reported on.
    `presence` and `present` as in `calibration`.
    """
    presence, present = _check_presence(presence, present)
    chosen = np.full(presence.shape[1], 0.5)
    for c, (probabilities, held) in enumerate(zip(presence.T, present.T, strict=True)):
        if held.all() or not held.any():
            logger.warning("class %d is in %d of %d images: threshold 0.5", c, int(held.sum()), len(held))
        else:
            chosen[c] = _best_threshold(probabilities, held)
    return chosen


def _best_threshold(presence: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    steps = np.concatenate([[0.0], np.unique(presence), [1.0]])
    between = np.maximum((steps[1:] + steps[:-1]) / 2, np.nextafter(steps[:-1], 1))  # the mean may be rounded down
    thresholds = np.where(steps[1:] > steps[:-1], between, steps[1:])
    missed = np.searchsorted(np.sort(presence[present]), thresholds) / present.sum()
    rejected = np.searchsorted(np.sort(presence[~present]), thresholds) / (~present).sum()
    balanced = (1 - missed + rejected) / 2
    best = np.flatnonzero(np.isclose(balanced, balanced.max()))
    return float(thresholds[best[len(best) // 2]])


def _check_presence(presence: NDArray[Any], present: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    presence, present = np.asarray(presence, np.float64), np.asarray(present, np.bool_)
    if presence.shape != present.shape or presence.ndim != 2 or not presence.size:
        raise DataError(f"presence {presence.shape} and labels {present.shape}: wanted two filled (n, C) arrays")
    if not ((presence >= 0) & (presence <= 1)).all():
        raise DataError(f"presence probabilities are {presence.min()}..{presence.max()}, wanted 0..1")
    return presence, present
