"""The rule by which places of tissue get their label: the most likely class, or *unsure*.

It starts from bytes, those of a result on disk, so that labels can be made again without the model, to the bit.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNSURE = 253
"""The label of tissue of which no class is sure enough."""
UNREADABLE = 255
"""The label of places that could not be read."""
LEAST = 1  # the byte of 0.0; 0 is "not computed"
ABSENT = -1e4  # score of an absent class, so low that it wins nowhere between map pixels


class Evidence(NamedTuple):
    """What a model says of map pixels.

    Attributes:
        scores: (C, h, w) uint8, class scores 0..1 as 1..255, whether the class is there or not; 0 = not computed.
        presence: (C, h, w) uint8, how likely the class is there, against the model's threshold: see `presence_bytes`.
    """

    scores: NDArray[np.uint8]
    presence: NDArray[np.uint8]


class Rule(NamedTuple):
    """How labels follow from evidence.

    Attributes:
        sure: The most likely class is the label where its share is at least this, 0..1; else the place is unsure.
        favour: Of every class, what its odds are multiplied by: above 1, there is more of it.
        background_power: Of the share of "none of the classes", (1 - max_c s_c)^power (docs/explanation/method.md).
        temperature: Shares are those of s^(1 / temperature), which calibrates them.
    """

    sure: float
    favour: tuple[float, ...]
    background_power: float
    temperature: float = 1.0

    def present(self, evidence: Evidence) -> NDArray[np.bool_]:
        """Mark where classes are there: (C, h, w)."""
        least = 255 / (1 + np.asarray(self.favour))[:, None, None]
        found: NDArray[np.bool_] = evidence.presence >= least
        return found & (evidence.presence > 0)

    def shares(self, evidence: Evidence) -> NDArray[np.float32]:
        """Compute the classes' shares (C, h, w); the rest to 1 is none of them. An absent class has 0."""
        return self._shares(np.where(self.present(evidence), unit(evidence.scores), 0))

    def _shares(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        none = (1 - scores.max(0)) ** self.background_power
        odds = np.concatenate([none[None], scores]) ** (1 / self.temperature)
        odds[1:] *= np.asarray(self.favour, np.float32)[:, None, None]
        return np.asarray(odds[1:] / np.maximum(odds.sum(0), 1e-12), np.float32)

    def labels(self, evidence: Evidence, stride: int) -> NDArray[np.uint8]:
        """Label the pixels of map pixels: (h · stride, w · stride), c + 1 or `UNSURE`.

        The label is the class of those that are present with the highest score, and as sure as its share of the scores
        of all classes, present or not: that ranks right before wrong labels best (docs/explanation/results.md).
        Scores and sureness are interpolated between map pixels. Where no class is present the most likely of all
        counts, with a share of 0.

        Args:
            evidence: (C, h, w); of what is around the pixels to label, one map pixel more is needed.
            stride: Pixels per map pixel, even.
        """
        scores, there = unit(evidence.scores), self.present(evidence)
        shares = self._shares(scores)
        scores *= np.asarray(self.favour, np.float32)[:, None, None] ** np.float32(self.temperature)
        scores[~there & there.any(0)] = ABSENT
        sure = np.take_along_axis(shares, scores.argmax(0)[None], 0)[0] * there.any(0)
        return _upsampled_labels(scores, sure - np.float32(self.sure), stride)


def unit(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert stored bytes 1..255 to 0..1; what was not computed to 0."""
    return (np.maximum(values, LEAST) - np.float32(LEAST)) / np.float32(255 - LEAST)


def presence_bytes(presence: NDArray[np.float32], thresholds: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Convert presence scores to bytes that do not depend on the thresholds: 128 and more where a class is there.

    The byte is that of p' = p (1 - t) / (p (1 - t) + t (1 - p)), the score whose odds are those of p over those of t.

    Args:
        presence: (C, h, w) in 0..1.
        thresholds: (C,), or what broadcasts, from which a class is there.
    """
    over, under = presence * (1 - thresholds), thresholds * (1 - presence)
    found = np.rint(255 * over / np.maximum(over + under, 1e-12))
    return np.where(presence >= thresholds, np.maximum(found, 128), np.clip(found, LEAST, 127)).astype(np.uint8)


def _upsampled_labels(scores: NDArray[np.float32], sure: NDArray[np.float32], stride: int) -> NDArray[np.uint8]:
    """Compute labels of upsampled scores, unsure where the upsampled `sure` is below 0.

    Bilinear interpolation weighs all classes alike, so what holds at four neighbouring places holds between them: only
    where the four disagree is anything interpolated. Every pixel is computed by itself, in the same order of
    operations, so that it does not depend on which others are.

    Args:
        scores: (C, h, w).
        sure: (h, w).
        stride: Even.
    """
    edged = np.pad(scores, ((0, 0), (1, 1), (1, 1)), mode="edge")
    certain = np.pad(sure, 1, mode="edge")
    h, w = (n - 1 for n in certain.shape)  # cells between four places; those at the rim are cut in halves below
    corners = [(slice(y, y + h), slice(x, x + w)) for y, x in product((0, 1), repeat=2)]
    coarse = np.where(certain >= 0, edged.argmax(0) + 1, UNSURE).astype(np.uint8)
    first, *others = (coarse[corner] for corner in corners)
    fine = np.repeat(np.repeat(first, stride, 0), stride, 1).reshape(h, stride, w, stride)
    y, x = np.nonzero(np.logical_or.reduce([other != first for other in others]))
    right = (np.arange(stride, dtype=np.float32) + np.float32(0.5)) / np.float32(stride)
    across = np.stack([1 - right, right])
    weights = (across[:, None, :, None] * across[None, :, None, :]).reshape(4, 1, stride * stride)

    def between(values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Interpolate values (h + 1, w + 1) in the cells (y, x): (n, stride²)."""
        total = weights[0] * values[corners[0]][y, x][:, None]
        for corner, weight in zip(corners[1:], weights[1:], strict=True):
            total += weight * values[corner][y, x][:, None]
        return np.asarray(total)

    best = np.full((len(y), stride * stride), -np.inf, np.float32)
    labels = np.zeros(best.shape, np.uint8)
    for index, plane in enumerate(edged, start=1):
        here = between(plane)
        higher = here > best
        labels[higher], best[higher] = index, here[higher]
    labels[between(certain) < 0] = UNSURE
    fine[y, :, x] = labels.reshape(-1, stride, stride)
    half = stride // 2
    return fine.reshape(h * stride, w * stride)[half:-half, half:-half]
