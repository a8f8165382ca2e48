"""The numbers that the live mask says of itself: regions, held-out regions that are right, areas of the view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.core.classes import UNSURE_CLASS
from napari_lpd.core.labelling.rule import UNSURE
from napari_lpd.core.text import html_text
from napari_lpd.data.tileset import CELL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.data.regions import Region, Verdict
    from napari_lpd.gui.live.engine import Engine

FEW = 5  # regions, of fewer than which no share is said
ENOUGH = 0.95  # of held-out regions right
GAIN = 0.02  # of their share, less than which is no gain
MORE = 1.25  # times the regions of then
FULL_STORE = "Memory is full: what is far from here is computed when it is in view"


def what_is_drawn(regions: Sequence[Region], classes: Sequence[TissueClass]) -> str:
    """Count tissues, regions and strokes, and name the classes without any."""
    drawn = {name for region in regions for name in region.tissues}
    strokes = sum(region.pixels for region in regions)
    counts = [
        f"{count} {what}{'s' * (count != 1)}"
        for what, count in (("region", len(regions) - strokes), ("stroke", strokes))
        if count
    ]
    missing = [tissue.name for tissue in classes if tissue.name not in drawn]
    said = ", ".join([f"{len(drawn)} tissues", *counts])
    return said + (f" (none of {', '.join(missing)})" if missing else "")


def share_right(verdicts: Sequence[Verdict]) -> str:
    """Say how many held-out regions are right."""
    if not verdicts:
        return ""
    right, count = sum(verdict.is_right for verdict in verdicts), len(verdicts)
    said = f"{right} of {count}"
    return f", held-out regions right: {said if count < FEW else f'{100 * right / count:.0f} % ({said})'}"


def right_by_tissue(verdicts: Sequence[Verdict]) -> str:
    """Explain the share of held-out regions that are right, tissue by tissue, as rich text."""
    lines = [
        "A model that learns as the live model does, but without a third of the regions, says what these are; so do"
        " three, each without another third. Right: most of the tissue in the region gets its label. Regions of a"
        " tissue that has fewer than two others are not asked about."
    ]
    for name in dict.fromkeys(name for verdict in verdicts for name in verdict.tissues):
        own = [verdict for verdict in verdicts if name in verdict.tissues]
        lines.append(html_text(f"{name}: {sum(verdict.is_right for verdict in own)} of {len(own)} right"))
    return "<qt>" + "<br>".join(lines) + "</qt>"


def areas_in_view(engine: Engine, box: tuple[float, float, float, float]) -> str:
    """Say the area of tissue in a view (y0, x0, y1, x1), in µm, and the share of every class, the largest first."""
    assert engine.model is not None
    mpp, names = engine.settings.mpp, [tissue.name for tissue in engine.model.card.classes]
    y0, x0, y1, x1 = (round(value / mpp) for value in box)
    counts = np.zeros(256, np.int64)
    for y, x in engine.seen:
        if (y, x) in engine.cells:
            top, left = y * CELL, x * CELL
            rows, columns = slice(max(y0 - top, 0), max(y1 - top, 0)), slice(max(x0 - left, 0), max(x1 - left, 0))
            part = engine.cells[y, x].labels[rows, columns]
            counts += np.bincount(part.ravel(), minlength=256)
    total = int(counts[1:].sum())
    if not total:
        return ""
    of = {name: int(counts[i]) for i, name in enumerate(names, start=1)} | {UNSURE_CLASS.name: int(counts[UNSURE])}
    shares = [f"{name} {100 * count / total:.0f} %" for name, count in sorted(of.items(), key=lambda each: -each[1])
              if count >= total / 200]  # fmt: skip
    return f"In view, {total * mpp**2 / 1e6:.2g} mm²: {', '.join(shares)}"


class Learning:
    """How the share of held-out regions that are right has changed with the regions.

    Attributes:
        checks: Number of regions, and share that was right, of every complete check.
    """

    def __init__(self) -> None:
        self.checks: list[tuple[int, float]] = []

    def note(self, regions: int, verdicts: Sequence[Verdict]) -> None:
        """Take note of a complete check."""
        if len(verdicts) >= FEW:
            self.checks.append((regions, sum(verdict.is_right for verdict in verdicts) / len(verdicts)))

    def advice(self) -> str:
        """Say whether more regions or *Train fully* are worth it; "" where nothing is known of it."""
        if not self.checks:
            return ""
        regions, share = self.checks[-1]
        if share >= ENOUGH:
            return "Regions that it has not seen are right: keep the model; Train fully can add little"
        before = [right for count, right in self.checks if count * MORE <= regions]
        if before and share - max(before) < GAIN:
            return "More regions have not helped lately: Train fully, which teaches the encoder, too, may"
        return ""
