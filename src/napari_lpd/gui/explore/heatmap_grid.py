"""Every prototype of a class at a glance: small heatmaps of one or more models on one colour scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from napari_lpd.comparison.report.drawing import Drawing
from napari_lpd.comparison.report.figures import heat_colours, mask_colours, over_tile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.geometry import Box
    from napari_lpd.results.prediction import Prediction
    from napari_lpd.results.pyramid import Pyramid
    from napari_lpd.slides.slide import Slide

FINE = 400  # pixels; what is larger is read from a coarser level
CELL, GAP, LINE = 164, 8, 22  # pixels
ACROSS = 5  # heatmaps in a line
FEWEST = 5  # columns, to hold the colour bar and the legend
WIDTH = (ACROSS + 1) * (CELL + GAP) + GAP
BAR = (240, 14)
LEGEND_LINE, SQUARE = 18, 11
BARS_MM = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
NOT_COMPUTED = np.uint8(226)  # grey


class Seen(NamedTuple):
    """What one model says of a place.

    Attributes:
        name: Of the model.
        mask: (H, W): 0..C-1 class, more: none.
        heatmaps: (k, h, w) cosines of a class's prototypes; NaN where nothing was computed.
    """

    name: str
    mask: NDArray[np.uint8]
    heatmaps: NDArray[np.float32]


class Slot(NamedTuple):
    """Where a prototype's heatmap lies in the picture: pixels x0, y0, x1, y1 of model and prototype, from 0."""

    box: tuple[int, int, int, int]
    model: int
    prototype: int


class HeatmapGrid(NamedTuple):
    """The drawing, and where which prototype is in it."""

    drawing: Drawing
    slots: tuple[Slot, ...]

    def at(self, x: int, y: int) -> Slot | None:
        """The heatmap under a pixel."""
        return next((s for s in self.slots if s.box[0] <= x < s.box[2] and s.box[1] <= y < s.box[3]), None)


def seen_by(name: str, prediction: Prediction, index: int) -> Seen:
    """What a prediction says of class `index` inside its scope, small enough for a picture."""
    box, stride = prediction.bounds(), prediction.card.stride
    values = _small(prediction.prototypes[index], box, stride)
    cosines = np.where(values > 0, (values.astype(np.float32) - 1) / 127 - 1, np.float32(np.nan))
    labels = _small(prediction.labels, box, 1)
    return Seen(name, labels - np.uint8(1), cosines)  # 0, unlabelled, becomes 255


def _small(pyramid: Pyramid, box: Box, pixel: int) -> NDArray[np.uint8]:
    """A part of the finest level in which it is no larger than `FINE`, or of the coarsest."""
    size = max(box[2] - box[0], box[3] - box[1]) / pixel
    level = min(int(np.ceil(np.log2(max(size / FINE, 1)))), len(pyramid.levels) - 1)
    step = pixel * 2**level
    rows, columns = (slice(box[i] // step, -(-box[i + 2] // step)) for i in (0, 1))
    return np.asarray(pyramid.levels[level][..., rows, columns])


def tissue_of(slide: Slide, prediction: Prediction) -> NDArray[np.uint8]:
    """The slide inside a prediction's scope, (H, W, 3), small enough for a picture."""
    y0, x0, y1, x1 = prediction.bounds()
    coarser = max(max(y1 - y0, x1 - x0) / FINE, 1)
    origin, shape = (round(y0 / coarser), round(x0 / coarser)), (round((y1 - y0) / coarser), round((x1 - x0) / coarser))
    return slide.read(origin, shape, prediction.card.mpp * coarser)


def heatmap_grid(
    tissue: NDArray[np.uint8],
    width_um: float,
    seen: Sequence[Seen],
    index: int,
    classes: Sequence[TissueClass],
) -> HeatmapGrid:
    """Tissue, colour bar, and per model its mask and a numbered heatmap per prototype; one scale for all.

    Args:
        tissue: (H, W, 3) of the place.
        width_um: Its width.
        seen: What the models say of it.
        index: The class whose prototypes these are.
        classes: Of the masks.
    """
    k = len(seen[0].heatmaps)
    cell = _fitted(tissue.shape[:2], CELL)
    low, high = scale_of(seen)
    lines = -(-k // ACROSS)
    head = LINE + cell[1] + 2 * GAP
    block = LINE + lines * (cell[1] + LINE) + GAP
    columns = max(min(k, ACROSS) + 1, FEWEST)
    canvas = _Canvas(columns * (CELL + GAP) + GAP, head + len(seen) * block)
    canvas.paste(Image.fromarray(tissue), (GAP, LINE), cell)
    canvas.label((GAP, 4), f"{classes[index].name}: {k} prototypes per model", large=True)
    canvas.scale_bar((GAP, LINE), cell, width_um)
    canvas.colour_bar((2 * GAP + CELL, LINE + 26), low, high)
    canvas.legend((3 * GAP + 3 * CELL, LINE), cell[1], classes)
    slots = []
    for m, each in enumerate(seen):
        top = head + m * block
        canvas.label((GAP, top + 2), each.name, large=True)
        canvas.label((GAP, top + LINE + cell[1] + 1), "mask")
        mask = over_tile(tissue, *mask_colours(each.mask, classes))
        canvas.paste(mask, (GAP, top + LINE), cell)
        for u, heatmap in enumerate(each.heatmaps):
            x = GAP + (1 + u % ACROSS) * (CELL + GAP)
            y = top + LINE + u // ACROSS * (cell[1] + LINE)
            canvas.paste(_coloured(heatmap, low, high), (x, y), cell)
            canvas.label((x, y + cell[1] + 1), f"prototype {u + 1}")
            slots.append(Slot((x, y, x + cell[0], y + cell[1]), m, u))
    return HeatmapGrid(canvas, tuple(slots))


def scale_of(seen: Sequence[Seen]) -> tuple[float, float]:
    """Smallest and largest cosine of all heatmaps; NaN where nothing was computed."""
    values = np.concatenate([each.heatmaps[np.isfinite(each.heatmaps)] for each in seen])
    return (float(values.min()), float(values.max())) if len(values) else (float("nan"), float("nan"))


def _coloured(heatmap: NDArray[np.float32], low: float, high: float) -> Image.Image:
    known = np.isfinite(heatmap)
    unit = np.where(known, (heatmap - low) / max(high - low, 1e-9), 0)
    return Image.fromarray(np.where(known[..., None], heat_colours(unit), NOT_COMPUTED))


def _fitted(shape: tuple[int, ...], edge: int) -> tuple[int, int]:
    """Width and height of an image (H, W) that fits a square."""
    share = edge / max(shape)
    return max(round(shape[1] * share), 1), max(round(shape[0] * share), 1)


class _Canvas(Drawing):
    """A drawing with the parts of this picture."""

    def label(self, at: tuple[int, int], text: str, large: bool = False) -> None:
        self.text(at, text, 14 if large else 12)

    def scale_bar(self, at: tuple[int, int], size: tuple[int, int], width_um: float) -> None:
        """A bar of a round length, at most half the width, in the lower left corner."""
        length = max((mm for mm in BARS_MM if 1000 * mm <= width_um / 2), default=BARS_MM[0])
        x0, y = at[0] + 6, at[1] + size[1] - 8
        x1 = x0 + round(1000 * length / width_um * size[0])
        for colour, width in (("white", 5), ("black", 3)):
            self.line(((x0, y), (x1, y)), colour, width)
        self.label((at[0] + size[0] + GAP, at[1] + size[1] - 16), f"bar: {length:g} mm")  # the font has no Greek letter

    def legend(self, at: tuple[int, int], height: int, classes: Sequence[TissueClass]) -> None:
        """Colours of the masks, in columns."""
        rows = max(height // LEGEND_LINE, 1)
        for i, tissue in enumerate(classes):
            x, y = at[0] + i // rows * (CELL + GAP), at[1] + i % rows * LEGEND_LINE
            corners = [(x, y), (x + SQUARE, y), (x + SQUARE, y + SQUARE), (x, y + SQUARE)]
            self.polygon(corners, tissue.color, tissue.color)
            self.label((x + SQUARE + 6, y - 2), tissue.name)

    def colour_bar(self, at: tuple[int, int], low: float, high: float) -> None:
        ramp = heat_colours(np.linspace(0, 1, BAR[0])[None])
        if not np.isfinite(low):
            self.label(at, "nothing was computed here: no tissue")
            return
        self.label((at[0], at[1] - 22), "cosine to the prototype; one scale for all heatmaps")
        self.paste(Image.fromarray(ramp), at, BAR)
        self.label((at[0], at[1] + BAR[1] + 4), f"{low:.2f}")
        self.label((at[0] + BAR[0] - 26, at[1] + BAR[1] + 4), f"{high:.2f}")
