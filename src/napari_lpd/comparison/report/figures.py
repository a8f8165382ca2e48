"""Figures of a comparison: heatmaps per prototype in the form of the paper's Fig. 3, and coverage against overlap."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from napari_lpd.core.pictures.figure import styled
from napari_lpd.core.pictures.fonts import in_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from numpy.typing import ArrayLike, NDArray

    from napari_lpd.comparison.result import BankResult, Comparison, Example, Patch
    from napari_lpd.core.classes import TissueClass

POINTS = 72  # per inch
CELL, GAP, LABEL = 108, 5, 18  # points
PATCH = 84  # pixels
BLEND = 0.6  # of a heatmap or mask over the grey tile
BANK_COLOURS = ("#0063b2", "#d1420a", "#1b7f3b", "#7a3db8", "#8a6d00", "#444444")  # per model
MARKS = {"model": "o", "random": "s", "clustered": "^"}  # per kind of bank; controls are hollow
PLOT, MARGIN = 288, 48  # points
ACROSS = 58  # letters
CHANCE_COVERAGE = 0.05  # share of other places that reach θ_c, by its definition


def sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a figure of so many points, and axes over all of it: x to the right, y down."""
    figure = Figure((width / POINTS, height / POINTS))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def paste(axes: Axes, picture: ArrayLike | Image.Image, corner: tuple[float, float], size: tuple[float, float]) -> None:
    """Put a picture on a sheet, brought to `size`."""
    (x, y), (width, height) = corner, size
    axes.imshow(picture, extent=(x, x + width, y + height, y), aspect="auto")


@styled()
def heatmap_figure(comparison: Comparison) -> Figure:
    """Draw a row per class and model: tile, truth (or where the models agree), its mask, a heatmap per prototype.

    The heatmaps of a row share one scale, from the smallest to the largest cosine in the tile.
    """
    rows = [(example, m) for example in comparison.examples for m in range(len(comparison.models))]
    heads = ["tile", "truth" if comparison.reference == "truth" else "agreement", "mask"]
    heads += [f"prototype {u + 1}" for u in range(comparison.k)]
    lefts = [GAP + column * (CELL + GAP) for column in range(len(heads))]
    figure, axes = sheet(lefts[-1] + CELL + GAP, LABEL + len(rows) * (LABEL + CELL + GAP) + GAP)
    for left, head in zip(lefts, heads, strict=True):
        axes.text(left, LABEL - 4, head, weight="bold")
    for row, (example, m) in enumerate(rows):
        y = LABEL + row * (LABEL + CELL + GAP)
        tissue, heat = comparison.classes[example.class_index], example.heatmaps[m]
        scale = f"cosine {heat.min():.2f} to {heat.max():.2f}"
        text = f"{tissue.name} · {comparison.models[m]} · {scale} · {example.tile}"
        axes.text(GAP, y + LABEL - 5, "■", color=tissue.color)
        axes.text(GAP + LABEL - 5, y + LABEL - 5, **in_figure(text))
        for left, cell in zip(lefts, _cells(example, m, comparison.classes), strict=True):
            paste(axes, cell, (left, y + LABEL), (CELL, CELL))
    return figure


def _cells(example: Example, m: int, classes: Sequence[TissueClass]) -> list[Image.Image]:
    heat = example.heatmaps[m]
    unit = (heat - heat.min()) / max(np.ptp(heat), 1e-9)
    return [
        Image.fromarray(example.image),
        over_tile(example.image, *mask_colours(example.reference, classes)),
        over_tile(example.image, *mask_colours(example.masks[m], classes)),
        *(over_tile(example.image, heat_colours(part)) for part in unit),
    ]


def heat_colours(unit: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Colour a map in 0..1: (h, w) → (h, w, 3)."""
    return colormaps["magma"](unit, bytes=True)[..., :3]


def mask_colours(
    mask: NDArray[np.uint8], classes: Sequence[TissueClass]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Colour a mask, (h, w, 3), and say where it has a class."""
    palette = np.full((256, 3), 255, np.uint8)
    palette[: len(classes)] = [tissue.rgb for tissue in classes]
    return palette[mask], mask < len(classes)


def over_tile(
    image: NDArray[np.uint8], colours: NDArray[np.uint8], where: NDArray[np.bool_] | None = None
) -> Image.Image:
    """Lay colours (h, w, 3), enlarged, over a grey tile (H, W, 3)."""
    tile = Image.fromarray(image)
    grey = tile.convert("L").convert("RGB")
    smooth = Image.Resampling.BILINEAR if where is None else Image.Resampling.NEAREST
    blended = Image.blend(grey, Image.fromarray(colours).resize(tile.size, smooth), BLEND)
    if where is None:
        return blended
    return Image.composite(blended, grey, Image.fromarray(where).resize(tile.size))


def patch_strip(patches: Sequence[Patch]) -> Image.Image:
    """Put a prototype's nearest patches side by side, the best first."""
    strip = Image.new("RGB", (len(patches) * (PATCH + 3), PATCH), "white")
    for i, patch in enumerate(patches):
        strip.paste(Image.fromarray(patch.image).resize((PATCH, PATCH)), (i * (PATCH + 3), 0))
    return strip


@styled()
def scatter_figure(comparison: Comparison) -> Figure:
    """Draw coverage against focus overlap: small marks per class, large ones with intervals for the judged mean.

    Right and low is good: the prototypes cover much of their tissue, and at different places.
    """
    width, height = PLOT + 2 * MARGIN, PLOT + 1.5 * MARGIN
    figure, page = sheet(width, height)
    axes = figure.add_axes((MARGIN / width, MARGIN / height, PLOT / width, PLOT / height))
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="coverage: share of the class's places", ylabel="focus overlap (IoU)")
    axes.axvline(CHANCE_COVERAGE, color="#999999", linewidth=1)
    axes.text(CHANCE_COVERAGE, 1.015, "chance", color="#666666")
    if math.isfinite(comparison.chance_overlap):
        axes.axhline(comparison.chance_overlap, color="#999999", linewidth=1)
        axes.text(1.01, comparison.chance_overlap, "chance", va="center", color="#666666")
    handles = [_marks(axes, bank, comparison) for bank in reversed(comparison.banks)]
    bars = ", bars: 95 % interval" if comparison.resamplings else ""
    note = f"large: mean over {', '.join(comparison.judged)}{bars}; small: every tissue"
    names = [in_figure(bank.name) for bank in comparison.banks]
    title = in_figure(note)
    families = list(dict.fromkeys(family for each in (*names, title) for family in each["family"]))
    legend = page.legend(
        handles[::-1],
        [each["s"] for each in names],
        title=textwrap.fill(title["s"], ACROSS),
        prop={"family": families},
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(MARGIN - GAP, height),
        bbox_transform=page.transData,
    )
    legend.get_title().set_fontfamily(families)
    return figure


def _marks(axes: Axes, bank: BankResult, comparison: Comparison) -> Line2D:
    """Mark a bank's means and classes; return the large mark, for the legend."""
    colour = BANK_COLOURS[comparison.models.index(bank.space) % len(BANK_COLOURS)]
    fill, edge = (colour, "white") if bank.kind == "model" else ("white", colour)
    look: dict[str, Any] = {
        "marker": MARKS[bank.kind],
        "color": fill,
        "markeredgecolor": edge,
        "linestyle": "",
        "clip_on": False,
        "zorder": 3,
    }
    x, y = bank.figures["coverage"], bank.figures["focus_overlap"]
    axes.plot(x.per_class, y.per_class, markersize=5, markeredgewidth=0.8, **look)
    axes.plot((x.low, x.high), (y.value, y.value), color=colour)
    axes.plot((x.value, x.value), (y.low, y.high), color=colour)
    (mean,) = axes.plot(x.value, y.value, markersize=9, **look)
    return mean
