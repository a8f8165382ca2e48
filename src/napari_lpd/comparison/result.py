"""The result of comparing prototype banks: figures with intervals, differences with verdicts, cards, examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from napari_lpd.comparison.metrics import METRICS, Kind, Metric
from napari_lpd.core.errors import ModelError
from napari_lpd.evaluation.metrics import MIN_SOURCES, limits_of
from napari_lpd.models.card import model_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.models.card import Card

NAN = float("nan")
MIN_SOURCES_FOR_VERDICT = 6  # sources; all of n lean the same way by chance in 2^(1 - n) of cases, here less than 5 %
"""All figures, in the order of tables. Sources and formulas: `prototypes`, docs/explanation/comparing.md."""


class Figure(NamedTuple):
    """Mean over the judged classes that have it, its 95 % interval (NaN where there is none), and per class (C,)."""

    value: float
    low: float
    high: float
    per_class: tuple[float, ...]


class Patch(NamedTuple):
    """A place that is near a prototype.

    Attributes:
        tile: Name of the tile.
        source: Its slide or patient.
        place: (y, x) of the place's centre, in pixels of the tile, or of the slide where the tile was cut from one.
        cosine: To the prototype.
        image: (h, w, 3) around it.
        slide: Name of the slide that the tile was cut from, where it was.
        fingerprint: That slide's.
        file: The tile's own file, where it has one.
    """

    tile: str
    source: str
    place: tuple[int, int]
    cosine: float
    image: NDArray[np.uint8]
    slide: str = ""
    fingerprint: str = ""
    file: Path | None = None


class PrototypeCard(NamedTuple):
    """What one prototype has learned; NaN where it was not measured.

    Attributes:
        usage: Share of the class's places where it is the nearest of its class.
        own: Share of them where it reaches θ_c.
        marginal: Share of them where it alone does.
        purity: Share of its nearest places that are of the class.
        stability: Mean correlation of its maps after the three changes.
        spread: Slides or patients that its nearest places amount to.
        loss: IoU of the class that is lost without it.
        sibling: Largest cosine to a sibling.
        dead: Whether `own` is below `prototypes.DEAD_SHARE`.
        redundant: Whether `sibling` is `prototypes.REDUNDANT_COSINE` or more.
        patches: Its nearest places in the training tiles, or, where there are none, in the compared tiles; none for
            controls.
        places: With training tiles, and if asked for: its nearest places in the compared tiles.
    """

    usage: float
    own: float
    marginal: float
    purity: float
    stability: float
    spread: float
    loss: float
    sibling: float
    dead: bool
    redundant: bool
    patches: tuple[Patch, ...]
    places: tuple[Patch, ...] = ()


class BankResult(NamedTuple):
    """Figures of one bank.

    Attributes:
        name: Model's name, or the control's.
        kind: Of a model, or a control in a model's space.
        space: The model whose encoder's features it was compared with.
        figures: By metric; those that it does not have are missing.
        cards: Per class and prototype (C, k).
    """

    name: str
    kind: Kind
    space: str
    figures: dict[str, Figure]
    cards: tuple[tuple[PrototypeCard, ...], ...]


class Difference(NamedTuple):
    """First bank less second, paired by source; `verdict` is empty where the interval holds zero."""

    metric: str
    first: str
    second: str
    value: float
    low: float
    high: float
    verdict: str


class Example(NamedTuple):
    """One tile in which a class is seen.

    Attributes:
        class_index: The class.
        tile: Name of the tile.
        image: (H, W, 3).
        reference: (H, W): 0..C-1 class, more: none.
        masks: Per model (H, W), as `reference`.
        heatmaps: Per model (k, h, w), cosines.
    """

    class_index: int
    tile: str
    image: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    masks: tuple[NDArray[np.uint8], ...]
    heatmaps: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Prototype banks on the same places.

    Attributes:
        classes: C tissue classes.
        k: Prototypes per class.
        temperature: τ of the softmax over places.
        reference: Ω_c is the masks' truth, or where all models agree.
        resamplings: Of the sources, for intervals; 0: there are none.
        judged: Names of the classes that means and differences are of: with intervals, those from enough sources.
        chance_overlap: Focus overlap of unrelated prototypes on these places.
        fewest_sources: Slides or patients of the judged class that has fewest; verdicts need `MIN_SOURCES_FOR_VERDICT`.
        tiles: Number of tiles.
        sources: Number of slides or patients.
        models: Names of the models.
        banks: The models' banks, then the controls.
        differences: Between the models, and of each model to the controls in its space.
        examples: One tile per class that occurs.
        notes: Sentences for the reader.
    """

    classes: tuple[TissueClass, ...]
    k: int
    temperature: float
    reference: Literal["truth", "agreement"]
    resamplings: int
    judged: tuple[str, ...]
    chance_overlap: float
    fewest_sources: int
    tiles: int
    sources: int
    models: tuple[str, ...]
    banks: tuple[BankResult, ...]
    differences: tuple[Difference, ...]
    examples: tuple[Example, ...]
    notes: tuple[str, ...]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of `METRICS` that a bank has."""
        return tuple(metric for metric in METRICS if any(metric.name in bank.figures for bank in self.banks))


def check_comparable(models: Sequence[tuple[str, Card]]) -> None:
    """Refuse models, named by their files or otherwise, that a comparison would say nothing of.

    Raises:
        ModelError: says which two, in what they differ, and what to do.
    """
    for name, card in models:
        head = card.settings.model
        if head.bank in ("linear", "supervised"):
            raise ModelError(
                f"{name}: a model of bank={head.bank} has no prototypes to compare; choose one whose bank is learned,"
                " seeded, clustered or random"
            )
        if (k := head.prototypes_per_class) < 2:
            raise ModelError(
                f"{name}: {k} prototype per class; wanted two or more, to compare with each other: train it anew with"
                " prototypes_per_class=2 or more"
            )
    first, card = models[0]
    for name, other in models[1:]:
        if name == first:
            raise ModelError(f"two models are called {name}; give them different names")
        _check_pair(f"{first} and {name}", card, other)


def names_of(paths: Sequence[Path]) -> list[str]:
    """Name models by their run's folder or their file, with a letter where several are called alike."""
    names = [model_name(path) for path in paths]
    return names if len(set(names)) == len(names) else [f"{name} {chr(65 + i)}" for i, name in enumerate(names)]


def _check_pair(pair: str, card: Card, other: Card) -> None:
    mine, theirs = ([tissue.name for tissue in each.classes] for each in (card, other))
    if mine != theirs:
        raise ModelError(
            f"{pair} have other classes: {', '.join(mine)}, and {', '.join(theirs)}; compare models of the same"
            " classes, as a model and its counterpart"
        )
    if not np.isclose(card.settings.mpp, other.settings.mpp, rtol=0.01):
        resolutions = f"{card.settings.mpp:g} and {other.settings.mpp:g} µm per pixel"
        raise ModelError(
            f"{pair} were trained at {resolutions}; wanted the same resolution: train one anew with mpp="
            f"{card.settings.mpp:g}"
        )
    counts = [each.settings.model.prototypes_per_class for each in (card, other)]
    if counts[0] != counts[1]:
        raise ModelError(
            f"{pair} have {counts[0]} and {counts[1]} prototypes per class; wanted as many of both, as diversity and"
            f" coverage grow with their number: train one anew with prototypes_per_class={counts[0]}"
        )


def sources_needed(held: NDArray[np.int64]) -> int:
    """Return from how many sources a class is judged, given those of every class (C,).

    As many as a verdict needs, if any class has them, else as an interval needs, else one; so that one rare class does
    not keep the others from a verdict.
    """
    return next((n for n in (MIN_SOURCES_FOR_VERDICT, MIN_SOURCES) if held.max() >= n), 1)


def class_means(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over the classes that have a value: (R, C) → (R,); NaN where none has."""
    present = np.isfinite(samples)
    sums = np.where(present, samples, 0).sum(1)
    return np.divide(sums, present.sum(1), out=np.full(len(samples), np.nan), where=present.any(1))


def figure_of(samples: NDArray[np.float64], judged: NDArray[np.bool_]) -> Figure:
    """Summarise a figure (first row) and its resamples (the other rows): (R, C); judged (C,) go into the mean."""
    means = class_means(samples[:, judged])
    low, high = limits_of(means[1:])
    return Figure(float(means[0]), low, high, tuple(float(value) for value in samples[0]))


def difference_of(
    metric: Metric, names: tuple[str, str], first: NDArray[np.float64], second: NDArray[np.float64]
) -> Difference:
    """First less second of the same resamples (R, judged classes), the figure itself in the first row."""
    apart = class_means(first) - class_means(second)
    low, high = limits_of(apart[1:])
    verdict = ""
    if low > 0 or high < 0:  # never of NaN
        verdict = f"{names[0]} {metric.more if low > 0 else metric.less} than {names[1]}"
    return Difference(metric.name, *names, float(apart[0]), low, high, verdict)


def compared_banks(banks: Sequence[BankResult]) -> list[tuple[BankResult, BankResult]]:
    """List the pairs of banks that are compared: models with each other, and each with its controls."""
    models = [bank for bank in banks if bank.kind == "model"]
    pairs = [(first, second) for i, first in enumerate(models) for second in models[i + 1 :]]
    return pairs + [(m, bank) for m in models for bank in banks if bank.kind != "model" and bank.space == m.name]
