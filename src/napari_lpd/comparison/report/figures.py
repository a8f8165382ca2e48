"""Pictures of a comparison: heatmaps per prototype in the form of the paper's Fig. 3, and coverage against overlap."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from napari_lpd.comparison.report.drawing import Drawing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_lpd.comparison.result import BankResult, Comparison, Example, Figure, Patch
    from napari_lpd.core.classes import TissueClass

CELL, GAP, LABEL = 150, 6, 26  # pixels
PATCH = 84
HEAT = np.array(
    [(0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191)]
)  # dark to bright, as matplotlib's magma
BLEND = 0.6  # of a heatmap or mask over the grey tile
BANK_COLOURS = ("#0063b2", "#d1420a", "#1b7f3b", "#7a3db8", "#8a6d00", "#444444")  # per model
PLOT, MARGIN = 520, 70
CHANCE_COVERAGE = 0.05  # share of other places that reach θ_c, by its definition


def heatmap_figure(comparison: Comparison) -> Drawing:
    """Per class and model a row: tile, truth (or where the models agree), the model's mask, a heatmap per prototype.

    The heatmaps of a row share one scale, from the smallest to the largest cosine in the tile.
    """
    rows = [(example, m) for example in comparison.examples for m in range(len(comparison.models))]
    columns = 3 + comparison.k
    figure = Drawing(columns * (CELL + GAP) + GAP, LABEL + len(rows) * (CELL + LABEL + GAP) + GAP)
    heads = ["tile", "truth" if comparison.reference == "truth" else "agreement", "mask"]
    heads += [f"prototype {u + 1}" for u in range(comparison.k)]
    for column, head in enumerate(heads):
        figure.text((GAP + column * (CELL + GAP), 6), head, 14)
    for row, (example, m) in enumerate(rows):
        y = LABEL + row * (CELL + LABEL + GAP)
        tissue = comparison.classes[example.class_index]
        low, high = float(example.heatmaps[m].min()), float(example.heatmaps[m].max())
        text = f"{tissue.name} · {comparison.models[m]} · cosine {low:.2f} to {high:.2f} · {example.tile}"
        figure.text((GAP, y + 5), text, 13)
        for column, cell in enumerate(_cells(example, m, comparison.classes)):
            figure.paste(cell, (GAP + column * (CELL + GAP), y + LABEL), (CELL, CELL))
    return figure


def _cells(example: Example, m: int, classes: Sequence[TissueClass]) -> list[Image.Image]:
    heat = example.heatmaps[m]
    low, high = float(heat.min()), float(heat.max())
    unit = (heat - low) / max(high - low, 1e-9)
    return [
        Image.fromarray(example.image),
        over_tile(example.image, *mask_colours(example.reference, classes)),
        over_tile(example.image, *mask_colours(example.masks[m], classes)),
        *(over_tile(example.image, heat_colours(part)) for part in unit),
    ]


def heat_colours(unit: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colours of a map in 0..1: (h, w) → (h, w, 3)."""
    at = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(unit, at, HEAT[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def mask_colours(
    mask: NDArray[np.uint8], classes: Sequence[TissueClass]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Colours of a mask (h, w, 3), and where it has any."""
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(classes)] = [tissue.rgb for tissue in classes]
    return palette[mask], mask < len(classes)


def over_tile(
    image: NDArray[np.uint8], colours: NDArray[np.uint8], where: NDArray[np.bool_] | None = None
) -> Image.Image:
    """Colours (h, w, 3), enlarged, over a grey tile (H, W, 3)."""
    tile = Image.fromarray(image)
    grey = tile.convert("L").convert("RGB")
    smooth = Image.Resampling.BILINEAR if where is None else Image.Resampling.NEAREST
    blended = Image.blend(grey, Image.fromarray(colours).resize(tile.size, smooth), BLEND)
    if where is None:
        return blended
    return Image.composite(blended, grey, Image.fromarray(where).resize(tile.size))


def patch_strip(patches: Sequence[Patch]) -> Image.Image:
    """A prototype's nearest patches side by side, the best first."""
    strip = Image.new("RGB", (len(patches) * (PATCH + 3), PATCH), "white")
    for i, patch in enumerate(patches):
        strip.paste(Image.fromarray(patch.image).resize((PATCH, PATCH)), (i * (PATCH + 3), 0))
    return strip


def scatter_figure(comparison: Comparison) -> Drawing:
    """Coverage against focus overlap: small marks per class, large ones for the judged classes' mean, with intervals.

    Right and low is good: the prototypes cover much of their tissue, and at different places.
    """
    legend = 24 * len(comparison.banks) + 60
    figure = Drawing(PLOT + 2 * MARGIN, PLOT + 2 * MARGIN + legend)
    _axes(figure, comparison)
    for bank in reversed(comparison.banks):
        _marks(figure, bank, _colour(bank, comparison))
    for row, bank in enumerate(comparison.banks):
        y = PLOT + 2 * MARGIN + 24 * row
        _mark(figure, (MARGIN + 8, y), 6, bank.kind, _colour(bank, comparison))
        figure.text((MARGIN + 24, y - 9), bank.name, 14)
    bars = ", bars: 95 % interval" if comparison.resamplings else ""
    note = f"large: mean over {', '.join(comparison.judged)}{bars}; small: every tissue"
    figure.text((MARGIN, PLOT + 2 * MARGIN + 24 * len(comparison.banks)), note, 13, "#444444")
    return figure


def _colour(bank: BankResult, comparison: Comparison) -> str:
    return BANK_COLOURS[comparison.models.index(bank.space) % len(BANK_COLOURS)]


def _at(coverage: float, overlap: float) -> tuple[float, float]:
    return MARGIN + coverage * PLOT, MARGIN + (1 - overlap) * PLOT


def _axes(figure: Drawing, comparison: Comparison) -> None:
    for tick in np.linspace(0, 1, 6).tolist():
        figure.line((_at(tick, 0), _at(tick, 1)), "#e4e4e4")
        figure.line((_at(0, tick), _at(1, tick)), "#e4e4e4")
        (x, below), (left, y) = _at(tick, 0), _at(0, tick)
        figure.text((x, below + 6), f"{tick:.1f}", 13, align="middle")
        figure.text((left - 8, y - 9), f"{tick:.1f}", 13, align="right")
    chance = comparison.chance_overlap
    if math.isfinite(chance):
        figure.line((_at(0, chance), _at(1, chance)), "#999999")
    figure.line((_at(CHANCE_COVERAGE, 0), _at(CHANCE_COVERAGE, 1)), "#999999")
    figure.line((_at(0, 1), _at(0, 0)), "black", 2)
    figure.line((_at(0, 0), _at(1, 0)), "black", 2)
    x, y = _at(0.5, 0)
    figure.text((x, y + 28), "coverage: share of the class's places (grey line: chance)", 15, align="middle")
    figure.text((12, 20), "focus overlap (IoU; grey line: chance)", 15)


def _marks(figure: Drawing, bank: BankResult, colour: str) -> None:
    covered, overlap = bank.figures["coverage"], bank.figures["focus_overlap"]
    for x, y in zip(covered.per_class, overlap.per_class, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            _mark(figure, _at(x, y), 3, bank.kind, colour)
    if math.isfinite(covered.value) and math.isfinite(overlap.value):
        for ends in (_whisker(covered, overlap.value, False), _whisker(overlap, covered.value, True)):
            if ends:
                figure.line(ends, colour, 2)
        _mark(figure, _at(covered.value, overlap.value), 8, bank.kind, colour)


def _whisker(figure: Figure, other: float, upright: bool) -> tuple[tuple[float, float], tuple[float, float]] | None:
    if not math.isfinite(figure.low):
        return None
    low, high = (_at(other, end) if upright else _at(end, other) for end in (figure.low, figure.high))
    return low, high


def _mark(figure: Drawing, place: tuple[float, float], radius: int, kind: str, colour: str) -> None:
    """A disc for a model, a hollow square for random directions, a hollow triangle for clusters."""
    (x, y), r = place, radius
    if kind == "model":
        figure.disc(place, r, colour, "white")
    elif kind == "random":
        figure.polygon([(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)], "white", colour)
    else:
        figure.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], "white", colour)
