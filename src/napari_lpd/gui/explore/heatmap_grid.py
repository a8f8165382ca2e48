"""Figure of every prototype of a class: small heatmaps of one or more models on one colour scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.patches import Patch

from napari_lpd.comparison.report.figures import heat_colours, mask_colours, over_tile, paste, sheet
from napari_lpd.core.pictures.figure import styled
from napari_lpd.core.pictures.fonts import in_figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.geometry import Box
    from napari_lpd.results.prediction import Prediction
    from napari_lpd.results.pyramid import Pyramid
    from napari_lpd.slides.slide import Slide

FINE = 400  # pixels; larger areas are read from a coarser level
CELL, GAP, LINE = 164, 8, 22  # points, and pixels of the screen
ACROSS = 5  # heatmaps in a line
MIN_COLUMNS = 5  # columns, to hold the colour bar and the legend
WIDTH = (ACROSS + 1) * (CELL + GAP) + GAP
BAR = (240, 14)
MIN_HEAD = 60  # points, to hold the colour bar
LEGEND_LINE = 18
BARS_MM = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
NOT_COMPUTED = np.uint8(226)  # grey


class ModelView(NamedTuple):
    """Mask and heatmaps of one model.

    Attributes:
        name: Name of the model.
        mask: (H, W): 0..C-1 class, larger values: unlabelled.
        heatmaps: (k, h, w) cosines of a class's prototypes; NaN where nothing was computed.
    """

    name: str
    mask: NDArray[np.uint8]
    heatmaps: NDArray[np.float32]


class GridCell(NamedTuple):
    """Position of a heatmap in the figure: pixels x0, y0, x1, y1; model and prototype, from 0."""

    box: tuple[int, int, int, int]
    model: int
    prototype: int


class HeatmapGrid(NamedTuple):
    """The figure, and the positions of the prototypes in it."""

    figure: Figure
    slots: tuple[GridCell, ...]

    def at(self, x: int, y: int) -> GridCell | None:
        """Find the heatmap under a pixel."""
        return next((s for s in self.slots if s.box[0] <= x < s.box[2] and s.box[1] <= y < s.box[3]), None)


def seen_by(name: str, prediction: Prediction, index: int) -> ModelView:
    """Read a prediction's mask and heatmaps of class `index`, small enough for a figure."""
    box, stride = prediction.scope_box(), prediction.card.stride
    values = _small(prediction.prototypes[index], box, stride)
    cosines = np.where(values > 0, (values.astype(np.float32) - 1) / 127 - 1, np.float32(np.nan))
    labels = _small(prediction.labels, box, 1)
    return ModelView(name, labels - np.uint8(1), cosines)  # 0, unlabelled, becomes 255


def _small(pyramid: Pyramid, box: Box, pixel: int) -> NDArray[np.uint8]:
    """Read a box from the finest level where it is at most `FINE` pixels wide, or from the coarsest."""
    size = max(box[2] - box[0], box[3] - box[1]) / pixel
    level = min(int(np.ceil(np.log2(max(size / FINE, 1)))), len(pyramid.levels) - 1)
    step = pixel * 2**level
    rows, columns = (slice(box[i] // step, -(-box[i + 2] // step)) for i in (0, 1))
    return np.asarray(pyramid.levels[level][..., rows, columns])


def tissue_of(slide: Slide, prediction: Prediction) -> NDArray[np.uint8]:
    """Read the slide inside a prediction's scope, (H, W, 3), small enough for a figure."""
    y0, x0, y1, x1 = prediction.scope_box()
    coarser = max(max(y1 - y0, x1 - x0) / FINE, 1)
    origin, shape = (round(y0 / coarser), round(x0 / coarser)), (round((y1 - y0) / coarser), round((x1 - x0) / coarser))
    return slide.read(origin, shape, prediction.card.mpp * coarser)


@styled()
def heatmap_grid(
    tissue: NDArray[np.uint8],
    width_um: float,
    views: Sequence[ModelView],
    index: int,
    classes: Sequence[TissueClass],
) -> HeatmapGrid:
    """Draw the tissue, a colour bar, and per model its mask and numbered heatmaps, all on one scale.

    Args:
        tissue: Image (H, W, 3) of the area.
        width_um: Width of the area in µm.
        views: Masks and heatmaps of the models.
        index: The class of the prototypes.
        classes: Classes of the masks.
    """
    k = len(views[0].heatmaps)
    cell = _fitted(tissue.shape[:2], CELL)
    low, high = scale_of(views)
    lines = -(-k // ACROSS)
    tall = max(cell[1], MIN_HEAD)
    head = LINE + tall + 2 * GAP
    block = LINE + lines * (cell[1] + LINE) + GAP
    columns = max(min(k, ACROSS) + 1, MIN_COLUMNS)
    figure, axes = sheet(columns * (CELL + GAP) + GAP, head + len(views) * block)
    paste(axes, tissue, (GAP, LINE), cell)
    bar = _scale_bar(axes, (GAP, LINE), cell, width_um)
    title = f"{classes[index].name}: {k} prototypes per model; bar: {bar:g} mm"
    axes.text(GAP, LINE - 6, **in_figure(title), size="x-large")
    _colour_bar(axes, (2 * GAP + CELL, LINE + 26), low, high)
    _legend(axes, (3 * GAP + 3 * CELL, LINE), tall, classes)
    slots = []
    for m, view in enumerate(views):
        top = head + m * block
        axes.text(GAP, top + LINE - 6, **in_figure(view.name), size="x-large")
        axes.text(GAP, top + LINE + cell[1] + 4, "mask", size="large", va="top")
        paste(axes, over_tile(tissue, *mask_colours(view.mask, classes)), (GAP, top + LINE), cell)
        for u, heatmap in enumerate(view.heatmaps):
            x = GAP + (1 + u % ACROSS) * (CELL + GAP)
            y = top + LINE + u // ACROSS * (cell[1] + LINE)
            paste(axes, _coloured(heatmap, low, high), (x, y), cell)
            axes.text(x, y + cell[1] + 4, f"prototype {u + 1}", size="large", va="top")
            slots.append(GridCell((x, y, x + cell[0], y + cell[1]), m, u))
    return HeatmapGrid(figure, tuple(slots))


def scale_of(views: Sequence[ModelView]) -> tuple[float, float]:
    """Return the smallest and largest cosine of all heatmaps, or NaN if nothing was computed."""
    values = np.concatenate([view.heatmaps[np.isfinite(view.heatmaps)] for view in views])
    return (float(values.min()), float(values.max())) if len(values) else (float("nan"), float("nan"))


def _coloured(heatmap: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    known = np.isfinite(heatmap)
    unit = np.where(known, (heatmap - low) / max(high - low, 1e-9), 0)
    return np.where(known[..., None], heat_colours(unit), NOT_COMPUTED)


def _fitted(shape: tuple[int, ...], edge: int) -> tuple[int, int]:
    """Return the width and height of an image (H, W) scaled to fit a square."""
    share = edge / max(shape)
    return max(round(shape[1] * share), 1), max(round(shape[0] * share), 1)


def _scale_bar(axes: Axes, at: tuple[int, int], size: tuple[int, int], width_um: float) -> float:
    """Draw a scale bar in the lower left corner and return its length in mm, at most half the width."""
    length = max((mm for mm in BARS_MM if 1000 * mm <= width_um / 2), default=BARS_MM[0])
    x, y = at[0] + 6, at[1] + size[1] - 8
    for colour, width in (("white", 5), ("black", 3)):
        ends = (x, x + 1000 * length / width_um * size[0])
        axes.plot(ends, (y, y), color=colour, linewidth=width, solid_capstyle="butt")
    return length


def _legend(axes: Axes, at: tuple[int, int], height: int, classes: Sequence[TissueClass]) -> None:
    """Name the colours of the masks, in columns."""
    axes.legend(
        [Patch(color=tissue.color) for tissue in classes],
        [tissue.name for tissue in classes],
        ncols=math.ceil(len(classes) * LEGEND_LINE / height),
        loc="upper left",
        bbox_to_anchor=at,
        bbox_transform=axes.transData,
        fontsize="large",
        handlelength=1,
        handleheight=1,
    )


def _colour_bar(axes: Axes, at: tuple[int, int], low: float, high: float) -> None:
    """Show the scale of the heatmaps."""
    (left, top), (width, height) = at, BAR
    if not np.isfinite(low):
        axes.text(left, top, "not computed: no tissue", size="large", va="top")
        return
    axes.text(left, top - 8, "cosine to the prototype, one scale for all", size="large")
    paste(axes, heat_colours(np.linspace(0, 1, width)[None]), at, BAR)
    for x, value, side in ((left, low, "left"), (left + width, high, "right")):
        axes.text(x, top + height + 4, f"{value:.2f}", size="large", ha=side, va="top")
