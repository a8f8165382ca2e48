"""How right a model is about outlined regions: confusion, rates with intervals and calibration, as of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_lpd.core.classes import UNSURE_CLASS
from napari_lpd.core.errors import DataError
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.evaluation.calibration import reliability
from napari_lpd.evaluation.metrics import MIN_SOURCES, ImageResult, bootstrap_intervals, metrics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.data.regions import Verdict
    from napari_lpd.evaluation.calibration import Reliability
    from napari_lpd.evaluation.metrics import Intervals, Scores

BINS = 10


class Trust(NamedTuple):
    """How far a model can be trusted.

    Attributes:
        verdicts: Those on regions of one class.
        results: Their pixel counts, as those of images: one per region.
        unit: What is resampled for the intervals: "slide", or "region" where there are fewer than 3 slides.
        scores: Rates of all pixels together; unsure is as no class.
        intervals: 95 % intervals; None where there are too few regions.
        curve: How often the most likely class is right that is as likely as the model says; None where that is not
            known.
    """

    verdicts: list[Verdict]
    results: list[ImageResult]
    unit: str
    scores: Scores
    intervals: Intervals | None
    curve: Reliability | None

    @property
    def counts(self) -> NDArray[np.int64]:
        """Pixels (C, C + 1): rows = outlined class, columns = found class, the last: unsure."""
        return self.scores.confusion[:-1]

    def places(self, outlined: int, found: int) -> list[Verdict]:
        """List the regions of a class in which a class (C: unsure) was found, those with most of it first."""
        names = [*self.scores.class_names, UNSURE_CLASS.name]
        of = [each for each in self.verdicts if each.tissues[0] == names[outlined] and each.counts.get(names[found])]
        return sorted(of, key=lambda each: -each.counts[names[found]])

    @property
    def contradicted(self) -> list[Verdict]:
        """The regions in which another class was found, the clearest first."""
        return sorted((each for each in self.verdicts if each.is_contradicted), key=lambda each: -each.share)

    def note(self) -> str:
        """Say what the figures are of, and what they do not say."""
        sources = len({each.slide for each in self.verdicts})
        text = f"{len(self.verdicts)} regions of one tissue on {sources} slide{'s' * (sources != 1)}."
        if self.intervals is not None:
            text += f" Intervals: 95 %, {self.intervals.resamplings} resamplings of the {self.unit}s."
        return text + (" They say nothing of other slides." if self.unit == "region" else "")


def trust(verdicts: Sequence[Verdict], names: Sequence[str], settings: EvaluateSettings | None = None) -> Trust:
    """Compute how right verdicts are.

    Args:
        verdicts: On regions; those with several tissues, or another than the classes, do not count.
        names: The model's C classes.
        settings: Of the resampling.

    Raises:
        DataError: no region counts.
    """
    used = [each for each in verdicts if len(each.tissues) == 1 and each.tissues[0] in names]
    if not used:
        raise DataError(f"no region carries exactly one of {', '.join(names)}")
    unit = "slide" if len({each.slide for each in used}) >= MIN_SOURCES else "region"
    results = [_result(each, names, str(each.slide if unit == "slide" else n)) for n, each in enumerate(used)]
    settings = settings or EvaluateSettings()
    sure = [each.sure for each in used if each.sure is not None and len(each.sure)]
    places = np.concatenate(sure) if sure else None
    return Trust(
        used,
        results,
        unit,
        metrics(results, names, "exclude"),
        bootstrap_intervals(results, names, "exclude", settings.bootstrap, settings.seed),
        None if places is None else reliability(places[:, :1], places[:, 1:] > 0, BINS),
    )


def _result(verdict: Verdict, names: Sequence[str], source: str) -> ImageResult:
    """Return a region's pixel counts as those of an image: unsure is background."""
    size, own = len(names), list(names).index(verdict.tissues[0])
    confusion = np.zeros((size + 1, size + 1), np.int64)
    confusion[own] = [verdict.counts.get(name, 0) for name in (*names, UNSURE_CLASS.name)]
    present = np.arange(size) == own
    return ImageResult(verdict.source, source, confusion, np.zeros((size, 2), np.int64), present.astype(float), present)


def write_trust(folder: Path, found: Trust, notes: Sequence[str]) -> Path:
    """Write report.html, .md, .csv and .json as `evaluate` does, of regions in place of images; returns the page.

    Raises:
        ExportError: a file cannot be written.
    """
    from napari_lpd.evaluation.page import write_page  # with matplotlib, which a window does not need
    from napari_lpd.evaluation.report import ReportRow, write_report

    title = "Regions against what was found in them"
    row = ReportRow("predicted", "none", found.scores, found.intervals)
    wrong = (
        f"{each.source}: a region of {each.tissues[0]} at x {each.box_um[1]:.0f}, y {each.box_um[0]:.0f} µm:"
        f" {100 * each.share:.0f} % of it is {each.found}."
        for each in found.contradicted
    )
    notes = [found.note(), *notes, *wrong]
    notes.insert(1, "An image of this report is a region; background stands for unsure.")
    write_report(folder, title, [row], notes)
    return write_page(folder, title, [row], notes, found.results, curve=found.curve)
