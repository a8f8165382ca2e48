"""The report of an evaluation: tables for people (Markdown), one value per row (CSV), everything (JSON)."""

from __future__ import annotations

import json
import math
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_lpd.core.errors import NOTICE
from napari_lpd.core.files import write_files
from napari_lpd.core.text import markdown, table_bytes
from napari_lpd.evaluation.metrics import HEADLINES, MIN_IMAGES, MIN_SOURCES, PER_CLASS, Background, Intervals, Scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from napari_lpd.core.settings.evaluation import Gate
    from napari_lpd.core.settings.prediction import Refiner

GATES: dict[Gate, str] = {
    "predicted": "predicted classes",
    "none": "all classes (no gate)",
    "truth": "ground truth (uses labels that a user's slide does not have)",
}
BACKGROUNDS: dict[Background, str] = {
    "exclude": "pixels outside all classes are left out",
    "count": "pixels outside all classes stay in, as errors of the class that is painted there",
    "predict": "background is a label that must be predicted; it counts in the frequency-weighted IoU, and its own IoU"
    " is in no mean",
}
COLUMNS = ("gate", "refiner", "background", "metric", "class", "value", "low", "high")
GATE_RATES = ("f1", "auc", "ece", "brier")
NAN = float("nan")
PAGE = "report.html"  # by `page.write_page`
MARKS = {  # our files, and what tells them from others
    PAGE: "<h2>Confusion matrix</h2>",
    "report.md": "## Segmentation, background:",
    "report.csv": ",".join(COLUMNS[:2]),
    "report.json": '"refiner"',
}


class ReportRow(NamedTuple):
    """The scores of one way to paint: which classes were allowed, and what sharpened the mask."""

    gate: Gate
    refiner: Refiner
    scores: Scores
    intervals: Intervals | None


def why_no_intervals(scores: Scores) -> str:
    """Say why `bootstrap_intervals` gave none."""
    if scores.sources < MIN_SOURCES:
        return f"No intervals: {scores.sources} source(s) (slides or patients), wanted at least {MIN_SOURCES}."
    return "No intervals: resampling was switched off."


def too_few_images(scores: Scores) -> str:
    """List the classes that are in no mean, as too few images hold them, with how many do."""
    images = dict(zip(scores.class_names, scores.images_of.tolist(), strict=True))
    return ", ".join(f"{name} ({images[name]})" for name in scores.too_few)


def write_report(
    folder: Path,
    title: str,
    rows: Sequence[ReportRow],
    notes: Sequence[str] = (),
    calibration: dict[str, Any] | None = None,
) -> Path:
    """Write report.md, report.csv and report.json into `folder`; old ones are replaced only when all are written.

    Args:
        folder: Made where it is missing.
        title: Of the report, without "#".
        rows: At least one; one per gate and refiner, those of one treatment of background together.
        notes: Sentences for the reader: data, model, overlap of training and test files, and the like.
        calibration: From `calibration.calibration` and `calibration.gate_rates`, of the classes in `rows`.

    Returns:
        The path of report.md.

    Raises:
        ExportError: a file cannot be written.
    """
    texts = {
        "report.csv": table_bytes(_lines(rows, calibration)),
        "report.json": _json(title, rows, notes, calibration).encode(),
        "report.md": _markdown(title, rows, notes, calibration).encode(),
    }
    write_files(folder, texts, marks=MARKS)
    return folder / "report.md"


def _markdown(title: str, rows: Sequence[ReportRow], notes: Sequence[str], calibration: dict[str, Any] | None) -> str:
    parts = [f"# {markdown(title)}", f"**{NOTICE}**", markdown_list(notes)]
    for (background, _), group in groupby(rows, key=lambda row: (row.scores.background, row.scores.class_names)):
        parts += _segmentation(background, list(group))
    if calibration is not None:
        parts += _calibration_table(calibration, rows[0].scores.class_names)
    return "\n\n".join(part for part in parts if part) + "\n"


def score_table(rows: Sequence[ReportRow]) -> list[list[str]]:
    """Make the table of the scores, with their intervals; the first line is the head."""
    names = rows[0].scores.class_names
    last = ["background IoU"] if rows[0].scores.background == "predict" else []
    table = [
        ["gate", "refiner", "mIoU", "mDice", "FWIoU", "boundary IoU", "accuracy", *(f"IoU {n}" for n in names), *last]
    ]
    for row in rows:
        cells = [_percent(*_with_limits(row, name)) for name in ("mean_iou", "mean_dice", "frequency_weighted_iou")]
        cells += [_percent(*_with_limits(row, name)) for name in ("mean_boundary_iou", "pixel_accuracy")]
        cells += [_percent(*_with_limits(row, "iou", c)) for c in range(len(names))]
        cells += [_percent(row.scores.background_iou)] if last else []
        table.append([GATES[row.gate], row.refiner, *cells])
    return table


def _segmentation(background: Background, rows: Sequence[ReportRow]) -> Iterator[str]:
    scores = rows[0].scores
    yield f"## Segmentation, background: {background}"
    yield (
        f"{scores.images} images from {scores.sources} source(s). Background: {background} = {BACKGROUNDS[background]}."
        " All values in percent; [low, high] is the 95 % interval from resampling the sources. Means are over the"
        f" classes that are in truth or prediction, and of which {MIN_IMAGES} images or more hold some."
    )
    remarks: dict[str, list[str]] = {}
    for row in rows:
        for remark in _remarks(row):
            remarks.setdefault(remark, []).append(f"{row.gate} + {row.refiner}")
    yield markdown_table(score_table(rows))
    everywhere = len(rows)
    yield markdown_list(
        [
            remark + ("" if len(where) == everywhere else f" (gate + refiner: {'; '.join(where)})")
            for remark, where in remarks.items()
        ]
    )


def _remarks(row: ReportRow) -> Iterator[str]:
    """List what the reader of a row must know: classes left out, resamples without a class, no intervals."""
    if row.scores.absent:
        yield f"Absent from truth and prediction, so in no mean: {', '.join(row.scores.absent)}."
    if row.scores.not_in_truth:
        yield f"Predicted but not in the truth, so IoU 0 in the means: {', '.join(row.scores.not_in_truth)}."
    if row.scores.too_few:
        yield f"In fewer than {MIN_IMAGES} images, so in no mean: {too_few_images(row.scores)}."
    elif (row.scores.images_of < MIN_IMAGES).all():
        yield f"No class is in {MIN_IMAGES} images: the means are over all classes, and tell little."
    if row.intervals is None:
        yield why_no_intervals(row.scores)
    else:
        counts = zip(row.scores.class_names, row.intervals.missing, strict=True)
        if missing := [f"{name} {count}" for name, count in counts if count and name not in row.scores.absent]:
            yield (
                f"The interval of a class leaves out the resamples without it (of {row.intervals.resamplings}:"
                f" {', '.join(missing)})."
            )


def _calibration_table(calibration: dict[str, Any], names: tuple[str, ...]) -> Iterator[str]:
    yield "## The gate by itself: presence of classes in images"
    yield (
        f"Of {calibration['images']} images; whole images are judged, so the treatment of background pixels plays no"
        " part. F1 of what the gate lets through and AUC (the chance that an image with the class scores higher than"
        " one without) in percent. Probabilities: expected calibration error in percent, in"
        f" {calibration['bins']} bins, Brier score in 0..1."
    )
    yield markdown_table(presence_table(calibration, names))


def presence_table(calibration: dict[str, Any], names: Sequence[str]) -> list[list[str]]:
    """Make the table of the gate's rates and calibration; the first line is the head."""
    columns = [[calibration[name], *calibration[f"class_{name}"]] for name in GATE_RATES]
    table = [["class", "F1 %", "AUC %", "ECE %", "Brier"]]
    for name, f1, auc, error, brier in zip(("all", *names), *columns, strict=True):
        table.append([name, _percent(f1), _percent(auc), _percent(error), f"{brier:.4f}"])
    return table


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Format a table of cells; the first line is the head."""
    escaped = [[markdown(cell) for cell in line] for line in lines]
    escaped.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def markdown_list(lines: Sequence[str]) -> str:
    """Format a list of sentences."""
    return "\n".join(f"- {markdown(line)}" for line in lines)


def _percent(value: float, low: float = NAN, high: float = NAN) -> str:
    if math.isnan(value):
        return "absent"
    return f"{100 * value:.1f}" + ("" if math.isnan(low) else f" [{100 * low:.1f}, {100 * high:.1f}]")


def _with_limits(row: ReportRow, metric: str, c: int | None = None) -> tuple[float, float, float]:
    """Value, low and high of `metric`, of class `c` where given; NaN where there is none."""
    found = getattr(row.scores, metric)
    value = float(found if c is None else found[c])
    if row.intervals is not None and c is None and metric in row.intervals.headline:
        return value, *row.intervals.headline[metric]
    if row.intervals is not None and c is not None and metric in ("iou", "recall"):
        return value, *getattr(row.intervals, metric)[c].tolist()
    return value, NAN, NAN


def _lines(rows: Sequence[ReportRow], calibration: dict[str, Any] | None) -> Iterator[Sequence[object]]:
    yield COLUMNS
    for row in rows:
        for metric, name, values in _tidy(row):
            yield row.gate, row.refiner, row.scores.background, metric, name, *values
    if calibration is not None:
        for metric in GATE_RATES:
            classes = zip(rows[0].scores.class_names, calibration[f"class_{metric}"], strict=True)
            for name, value in (("", calibration[metric]), *classes):
                yield "", "", "", f"presence_{metric}", name, value, "", ""


def _tidy(row: ReportRow) -> Iterator[tuple[str, str, tuple[float, float, float]]]:
    """List (metric, class or "", (value, low, high)) of everything in a row but its confusion matrix."""
    for metric in (*HEADLINES, "background_iou"):
        yield metric, "", _with_limits(row, metric)
    for metric in (*PER_CLASS, "pixels"):
        for c, name in enumerate(row.scores.class_names):
            yield metric, name, _with_limits(row, metric, c)


def _json(title: str, rows: Sequence[ReportRow], notes: Sequence[str], calibration: dict[str, Any] | None) -> str:
    content = {
        "title": title,
        "notice": NOTICE,
        "notes": list(notes),
        "backgrounds": BACKGROUNDS,
        "gates": GATES,
        "rows": [
            {
                "gate": row.gate,
                "refiner": row.refiner,
                "scores": vars(row.scores),
                "intervals": None if row.intervals is None else row.intervals._asdict(),
                "no_intervals": why_no_intervals(row.scores) if row.intervals is None else None,
            }
            for row in rows
        ],
        "calibration": calibration,
    }
    return json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """Arrays as lists and NaN as null, which JSON knows."""
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
