"""The report of an evaluation as a page with pictures: confusion, IoU and recall, calibration, presence of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from napari_lpd.core.files import write_files
from napari_lpd.core.pictures.figure import encoded, styled
from napari_lpd.core.pictures.fonts import in_figure
from napari_lpd.core.pictures.page import html_image, html_list, html_page, html_table
from napari_lpd.core.text import html_text
from napari_lpd.evaluation.calibration import reliability
from napari_lpd.evaluation.metrics import sums_per_source
from napari_lpd.evaluation.report import (
    BACKGROUNDS,
    GATES,
    MARKS,
    PAGE,
    presence_table,
    score_table,
    why_no_intervals,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from napari_lpd.evaluation.calibration import Reliability
    from napari_lpd.evaluation.metrics import ImageResult
    from napari_lpd.evaluation.report import ReportRow

BACKGROUND = "background"
INCH = 0.55  # of a cell of the confusion matrix
BARS = {"iou": ("IoU", "#0063b2"), "recall": ("recall", "#d1420a")}


class Presence(NamedTuple):
    """What an evaluation found out about the classes in n images.

    Attributes:
        probability: (n, C) calibrated, 0..1.
        present: (n, C) bool.
        rates: From `calibration.calibration` and `calibration.gate_rates`.
    """

    probability: NDArray[np.floating]
    present: NDArray[np.bool_]
    rates: dict[str, Any]


def write_page(
    folder: Path,
    title: str,
    rows: Sequence[ReportRow],
    notes: Sequence[str],
    results: Sequence[ImageResult],
    presence: Presence | None = None,
    curve: Reliability | None = None,
) -> Path:
    """Write report.html, one file that needs no other; the pictures are of the first row.

    Args:
        folder: Made where it is missing.
        title: Of the report.
        rows: One per gate and refiner.
        notes: Sentences for the reader.
        results: The images of the first row.
        presence: Of a model that says which classes are in an image.
        curve: Of labels that say how likely they are.

    Raises:
        ExportError: the file cannot be written.
    """
    row = rows[0]
    parts = [html_list(notes), f"<p>The pictures: {html_text(_what(row))}.</p>"]
    parts += [*_confusion_parts(row, results), *_class_parts(row)]
    if presence is not None:
        parts += _presence_parts(presence, row.scores.class_names)
    if curve is not None:
        parts += _curve_parts(curve)
    parts += ["<h2>All figures</h2>", f"<p>Background: {html_text(BACKGROUNDS[row.scores.background])}.</p>"]
    parts += [html_table(score_table(rows))]
    write_files(folder, {PAGE: html_page(title, parts).encode()}, marks=MARKS)
    return folder / PAGE


def _what(row: ReportRow) -> str:
    refined = "masks as they are" if row.refiner == "none" else f"masks refined by {row.refiner}"
    return f"{GATES[row.gate]}, {refined}, {row.scores.images} images of {row.scores.sources} slides or patients"


def counted_confusion(confusion: NDArray[Any], background: str) -> NDArray[np.int64]:
    """Return the pixels that count, rows = truth: (C, C + 1) where background is left out, else (C + 1, C + 1)."""
    return np.asarray(confusion[:-1] if background == "exclude" else confusion).astype(np.int64)


def _confusion_parts(row: ReportRow, results: Sequence[ImageResult]) -> Iterator[str]:
    names, background = [*row.scores.class_names, BACKGROUND], row.scores.background
    yield "<h2>Confusion matrix</h2>"
    yield "<p>Pixels of each class of the masks (rows), by what was predicted there (columns), in % of the row.</p>"
    whole = counted_confusion(row.scores.confusion, background)
    yield _picture(_confusion_figure(whole, names), "confusion matrix")
    yield _confusion_table(whole, names)
    per_source = sums_per_source(results)
    for source, confusion in zip(per_source.sources, per_source.confusion, strict=True):
        table = _confusion_table(counted_confusion(confusion, background), names)
        yield f"<details><summary>{html_text(str(source))}</summary>{table}</details>"


def _confusion_table(counts: NDArray[np.int64], names: Sequence[str]) -> str:
    """Format counts (T, C + 1) with their share of the row."""
    lines = [["truth ↓ predicted →", *names, "pixels"]]
    for name, row in zip(names, counts, strict=False):
        total = int(row.sum())
        lines.append([name, *(f"{n} ({100 * n / total:.1f} %)" if total else "0" for n in row.tolist()), str(total)])
    return html_table(lines)


@styled()
def _confusion_figure(counts: NDArray[np.int64], names: Sequence[str]) -> Figure:
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure((INCH * len(names) + 2, INCH * len(counts) + 1.2))
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.grid(visible=False)
    for (y, x), share in np.ndenumerate(shares):
        axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", color="white" if share > 0.6 else "black")
    _name_axis(axes, "x", names)
    _name_axis(axes, "y", names[: len(counts)])
    axes.set(xlabel="predicted", ylabel="mask")
    return figure


def _class_parts(row: ReportRow) -> Iterator[str]:
    yield "<h2>IoU and recall per class</h2>"
    if row.intervals is None:
        yield f"<p>{html_text(why_no_intervals(row.scores))}</p>"
    else:
        yield f"<p>Bars: 95 % intervals, {row.intervals.resamplings} resamplings of the slides or patients.</p>"
    yield _picture(_class_figure(row), "IoU and recall per class")


@styled()
def _class_figure(row: ReportRow) -> Figure:
    names = row.scores.class_names
    figure = Figure((6, INCH * len(names) + 1))
    axes = figure.add_subplot()
    for shift, (metric, (label, colour)) in zip((-0.12, 0.12), BARS.items(), strict=True):
        values, places = getattr(row.scores, metric), np.arange(len(names)) + shift
        axes.plot(values, places, "o", color=colour, label=label)
        if row.intervals is not None:
            axes.hlines(places, *getattr(row.intervals, metric).T, color=colour)
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="share")
    _name_axis(axes, "y", names)
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    return figure


def _presence_parts(presence: Presence, names: Sequence[str]) -> Iterator[str]:
    yield "<h2>Presence of classes in images</h2>"
    yield html_table(presence_table(presence.rates, names))
    yield "<h2>Calibration of presence</h2>"
    yield (
        "<p>How often a class is in an image of which the model says so with this probability, in"
        f" {presence.rates['bins']} bins; on the dashed line every probability is a frequency. Dots: all classes,"
        " larger where more images are.</p>"
    )
    yield _picture(_calibration_figure(presence, names), "calibration curve")


@styled()
def _calibration_figure(presence: Presence, names: Sequence[str]) -> Figure:
    bins = presence.rates["bins"]
    figure = Figure((6, 4))
    curve = reliability(presence.probability, presence.present, bins)
    axes = _reliability_axes(figure, curve, "black", "share of images with it")
    for c, name in enumerate(names):
        curve = reliability(presence.probability[:, [c]], presence.present[:, [c]], bins)
        axes.plot(curve.probability, curve.frequency, linewidth=1, label=in_figure(name)["s"])
    families = [family for name in names for family in in_figure(name)["family"]]
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), prop={"family": list(dict.fromkeys(families))})
    return figure


def _curve_parts(curve: Reliability) -> Iterator[str]:
    yield "<h2>Calibration of labels</h2>"
    yield (
        "<p>How often the most likely class is right at places where the model says that it is as likely; on the dashed"
        " line every probability is a frequency. Dots: larger where more places are.</p>"
    )
    yield _picture(_curve_figure(curve), "calibration curve of labels")
    lines = zip(curve.probability, curve.frequency, curve.number, strict=True)
    table = [[f"{probability:.3f}", f"{frequency:.3f}", str(number)] for probability, frequency, number in lines]
    yield html_table([["said", "right", "places"], *table])


@styled()
def _curve_figure(curve: Reliability) -> Figure:
    figure = Figure((5, 4))
    axes = _reliability_axes(figure, curve, "#0063b2", "share that is right")
    axes.plot(curve.probability, curve.frequency, color="#0063b2", linewidth=1)
    return figure


def _reliability_axes(figure: Figure, curve: Reliability, colour: str, frequency: str) -> Axes:
    """Draw the dots of a calibration curve, above what is drawn later, and the line on which they ought to be."""
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), "--", color="#999999", linewidth=1)
    axes.scatter(curve.probability, curve.frequency, 15 + 150 * curve.number / curve.number.max(), colour, zorder=3)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="probability that the model gives", ylabel=frequency)
    return axes


def _name_axis(axes: Axes, axis: str, names: Sequence[str]) -> None:
    """Write names at the places 0, 1, … of an axis, whatever signs they have."""
    shown = [in_figure(name) for name in names]
    turned: dict[str, Any] = {"rotation": 45, "ha": "right"} if axis == "x" else {}
    axes.set(**{f"{axis}ticks": range(len(names))})
    labels = getattr(axes, f"set_{axis}ticklabels")([each["s"] for each in shown], **turned)
    for label, each in zip(labels, shown, strict=True):
        label.set_fontfamily(each["family"])


def _picture(figure: Figure, text: str) -> str:
    return html_image(encoded(figure, ".svg"), "svg+xml", text)
