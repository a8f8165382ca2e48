"""The report of a comparison: one HTML file that needs no other, Markdown, tables (CSV), everything (JSON), figures."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from html import escape
from typing import TYPE_CHECKING

from napari_lpd.comparison.report.drawing import FINEST, FORMATS
from napari_lpd.comparison.report.figures import heatmap_figure, patch_strip, scatter_figure
from napari_lpd.comparison.result import FEWEST_FOR_VERDICT, METRICS, compared_banks
from napari_lpd.evaluation.report import NOTICE, markdown_table, plain, write_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from PIL import Image

    from napari_lpd.comparison.report.drawing import Drawing
    from napari_lpd.comparison.result import BankResult, Comparison, Difference, Figure, Patch, PrototypeCard

    Table = list[list[str]]

LABELS = {metric.name: metric for metric in METRICS}
CARD = ("usage", "own coverage", "marginal coverage", "purity", "stability", "slide spread", "ΔIoU", "nearest sibling")
FIELDS = ("usage", "own", "marginal", "purity", "stability", "spread", "loss", "sibling", "dead", "redundant")
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1250px;padding:0 1em;color:#111}"
    "table{border-collapse:collapse;margin:1em 0;display:block;overflow-x:auto}"
    "th,td{border:1px solid #ccc;padding:3px 8px;text-align:left;vertical-align:top}th{background:#f2f2f2}"
    "img{max-width:100%}td img{max-width:none}"
)


def write_comparison(folder: Path, comparison: Comparison, notes: Sequence[str] = ()) -> Path:
    """Write the report into `folder`; old files are replaced only when all are written.

    report.html (self-contained), report.md, figures.csv, differences.csv, prototypes.csv, report.json, and the figures
    heatmaps and scatter as PNG, SVG and PDF.

    Args:
        folder: Made where it is missing.
        comparison: The result.
        notes: What else the reader has to know: data, model files.

    Returns:
        The path of report.html.

    Raises:
        ExportError: a file cannot be written.
    """
    drawings = {"heatmaps": heatmap_figure(comparison), "scatter": scatter_figure(comparison)}
    notes = [*notes, *comparison.notes]
    contents = {
        "report.html": _html(comparison, notes, drawings).encode(),
        "report.md": _markdown(comparison, notes).encode(),
        "figures.csv": figures_csv(comparison),
        "differences.csv": _csv(_difference_rows(comparison)),
        "prototypes.csv": _csv(_prototype_rows(comparison)),
        "report.json": _json(comparison, notes).encode(),
    }
    for name, drawing in drawings.items():
        contents |= {f"{name}{suffix}": drawing.encoded(suffix) for suffix in FORMATS}
    write_files(folder, contents)
    return folder / "report.html"


def figures_csv(comparison: Comparison) -> bytes:
    """A row per bank, metric and class, and one for the mean with its interval."""
    return _csv(_figure_rows(comparison))


def title_of(comparison: Comparison) -> str:
    """What the report is called."""
    return f"Prototypes of {' and '.join(comparison.models)}"


def summary_of(comparison: Comparison) -> str:
    """One sentence on what was compared."""
    where = "the masks' truth" if comparison.reference == "truth" else "where the models agree"
    return (
        f"{comparison.k} prototypes for each of {len(comparison.classes)} tissues, compared on {comparison.tiles} tiles"
        f" of {comparison.sources} slide(s) or patient(s), at the same places for all ({where});"
        f" τ = {comparison.temperature:g}."
    )


def verdicts_of(comparison: Comparison, controls: bool = False) -> list[str]:
    """What the intervals allow to say, and nothing more, of the models, or of each model and its controls."""
    if not comparison.resamplings:
        return ["Without intervals nothing is concluded."]
    if (few := comparison.fewest_sources) < FEWEST_FOR_VERDICT:
        return [
            f"Nothing is concluded from {few} slides or patients, wanted {FEWEST_FOR_VERDICT}: as few lean all the same"
            f" way in {100 * 2 ** (1 - few):.0f} % of comparisons without any difference."
        ]
    asked = [
        d for d in comparison.differences if math.isfinite(d.low) and (d.second not in comparison.models) == controls
    ]
    lines = [
        f"{d.verdict}: {LABELS[d.metric].label} {d.value:+.3f} [{d.low:.3f}, {d.high:.3f}]." for d in asked if d.verdict
    ]
    return [
        *(lines or ["No difference's interval excludes zero: nothing is concluded."]),
        f"{len(lines)} of {len(asked)} intervals exclude zero; of as many without any difference, about"
        f" {math.ceil(len(asked) / 20)} would by chance.",
    ]


def figure_table(comparison: Comparison) -> Table:
    """A row per metric, a column per bank: value [low, high]."""
    table = [["", *(bank.name for bank in comparison.banks)]]
    for metric in comparison.metrics:
        cells = [_value(bank.figures.get(metric.name)) for bank in comparison.banks]
        table.append([metric.label, *cells])
    return table


def _value(figure: Figure | None) -> str:
    if figure is None or math.isnan(figure.value):
        return "–"
    interval = "" if math.isnan(figure.low) else f" [{figure.low:.3f}, {figure.high:.3f}]"
    return f"{figure.value:.3f}{interval}"


def difference_table(comparison: Comparison) -> Table:
    """A row per metric with intervals, a column per pair; * where the interval excludes zero."""
    pairs = [(first.name, second.name) for first, second in compared_banks(comparison.banks)]
    found = {(d.metric, d.first, d.second): d for d in comparison.differences}
    table = [["", *(f"{first} − {second}" for first, second in pairs)]]
    for metric in comparison.metrics:
        if metric.by_source:
            table.append([metric.label, *(_difference(found.get((metric.name, *pair))) for pair in pairs)])
    return table


def _difference(found: Difference | None) -> str:
    if found is None or math.isnan(found.value):
        return "–"
    interval = "" if math.isnan(found.low) else f" [{found.low:.3f}, {found.high:.3f}]"
    return f"{found.value:+.3f}{interval}{' *' if found.verdict else ''}"


def tissue_table(comparison: Comparison) -> Table:
    """A row per metric, a column per class and model: values alone."""
    columns = [(c, bank) for c in range(len(comparison.classes)) for bank in model_banks(comparison)]
    table = [["", *(f"{comparison.classes[c].name}, {bank.name}" for c, bank in columns)]]
    for metric in comparison.metrics:
        values = [bank.figures[metric.name].per_class[c] for c, bank in columns]
        table.append([metric.label, *("–" if math.isnan(value) else f"{value:.3f}" for value in values)])
    return table


def meaning_table(comparison: Comparison) -> Table:
    """What each metric means."""
    return [["", "meaning"], *([metric.label, metric.meaning] for metric in comparison.metrics)]


def card_table(bank: BankResult, c: int) -> Table:
    """A row per prototype of class c."""
    return [["prototype", *CARD, "flags"], *([str(u + 1), *_card(card)] for u, card in enumerate(bank.cards[c]))]


def _card(card: PrototypeCard) -> list[str]:
    numbers = (card.usage, card.own, card.marginal, card.purity, card.stability, card.spread, card.loss, card.sibling)
    flags = [name for name, set_ in (("dead", card.dead), ("redundant", card.redundant)) if set_]
    return ["–" if math.isnan(value) else f"{value:.2f}" for value in numbers] + [", ".join(flags)]


def model_banks(comparison: Comparison) -> list[BankResult]:
    return [bank for bank in comparison.banks if bank.kind == "model"]


def _markdown(comparison: Comparison, notes: Sequence[str]) -> str:
    parts = [f"# {title_of(comparison)}", f"**{NOTICE}**", summary_of(comparison)]
    parts += ["\n".join(f"- {note}" for note in notes)]
    for head, lines in _conclusions(comparison):
        parts += [f"## {head}", "\n".join(f"- {line}" for line in lines)]
    parts += ["## Figures", _explained(comparison)]
    parts += [markdown_table(figure_table(comparison)), markdown_table(meaning_table(comparison))]
    parts += ["## Differences", _pairing(comparison), markdown_table(difference_table(comparison))]
    parts += ["## By tissue", markdown_table(tissue_table(comparison))]
    parts += ["![coverage against focus overlap](scatter.png)", "## Heatmaps", "![heatmaps](heatmaps.png)"]
    parts += ["## Prototypes"]
    for c, tissue in enumerate(comparison.classes):
        for bank in model_banks(comparison):
            parts += [f"### {tissue.name}, {bank.name}", markdown_table(card_table(bank, c))]
    return "\n\n".join(parts) + "\n"


def _conclusions(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    if len(comparison.models) > 1:
        yield "What the intervals allow to say of the models", verdicts_of(comparison)
    yield "What they allow to say of each model and its controls", verdicts_of(comparison, controls=True)


def _explained(comparison: Comparison) -> str:
    """What stands in the cells of the figures."""
    interval = f"[low, high]: 95 % of {comparison.resamplings} resamplings of the slides or patients. "
    return (
        f"Means over {', '.join(comparison.judged)}. {interval if comparison.resamplings else ''}Focus overlap of"
        f" unrelated prototypes on these places: {comparison.chance_overlap:.3f}. Figures of the vectors or of a"
        " ranking alone have no interval."
    )


def _pairing(comparison: Comparison) -> str:
    if not comparison.resamplings:
        return "First bank less second."
    return "First bank less second, in the same resamples; * where the 95 % interval excludes zero."


def _html(comparison: Comparison, notes: Sequence[str], drawings: dict[str, Drawing]) -> str:
    title = escape(title_of(comparison))
    parts = [f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"]
    parts += [f"<style>{STYLE}</style></head><body><h1>{title}</h1><p><b>{escape(NOTICE)}</b></p>"]
    parts += [f"<p>{escape(summary_of(comparison))}</p>", _html_list(notes)]
    parts += [f"<h2>{escape(head)}</h2>{_html_list(lines)}" for head, lines in _conclusions(comparison)]
    parts += ["<h2>Figures</h2>", f"<p>{escape(_explained(comparison))}</p>", _html_table(figure_table(comparison))]
    parts += [_html_table(meaning_table(comparison)), "<h2>Differences</h2>"]
    parts += [f"<p>{escape(_pairing(comparison))}</p>", _html_table(difference_table(comparison))]
    parts += ["<h2>By tissue</h2>", _html_table(tissue_table(comparison))]
    parts += [_html_image(drawings["scatter"].pixels(FINEST), "coverage against focus overlap", "width='660'")]
    parts += ["<h2>Heatmaps</h2>", _html_image(drawings["heatmaps"].pixels(), "heatmaps"), "<h2>Prototypes</h2>"]
    for c, tissue in enumerate(comparison.classes):
        for bank in model_banks(comparison):
            parts += [f"<h3>{escape(tissue.name)}, {escape(bank.name)}</h3>"]
            parts += [_html_table(card_table(bank, c), _strips([card.patches for card in bank.cards[c]]))]
            if any(card.places for card in bank.cards[c]):
                strips = _strips([card.places for card in bank.cards[c]])[1:]
                numbered = [["prototype"], *([str(u + 1)] for u in range(len(strips)))]
                parts += [_html_table(numbered, ["nearest places in the compared tiles", *strips])]
    return "\n".join([*parts, "</body></html>\n"])


def _strips(nearest: Sequence[tuple[Patch, ...]]) -> list[str]:
    """The column of a table: its head, and a prototype's patches in a row."""
    return ["nearest patches", *(_html_image(patch_strip(patches), "", quality=True) for patches in nearest)]


def _html_list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _html_table(table: Table, last: Sequence[str] = ()) -> str:
    """A table; `last` is a column that is HTML already."""
    rows = []
    for i, line in enumerate(table):
        tag = "th" if i == 0 else "td"
        cells = [escape(cell) for cell in line] + ([last[i]] if last else [])
        rows.append("<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _html_image(picture: Image.Image, text: str, attributes: str = "", *, quality: bool = False) -> str:
    if not picture.width:
        return ""
    kind = "JPEG" if quality else "PNG"
    data = base64.b64encode(_encoded(picture, kind)).decode()
    return f"<img {attributes} alt='{escape(text)}' src='data:image/{kind.lower()};base64,{data}'>"


def _encoded(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def _csv(rows: Iterator[Sequence[object]]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for row in rows:
        writer.writerow(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row])
    return file.getvalue().encode()


def _figure_rows(comparison: Comparison) -> Iterator[Sequence[object]]:
    yield "bank", "kind", "space", "metric", "class", "value", "low", "high"
    for bank in comparison.banks:
        for name, figure in bank.figures.items():
            yield bank.name, bank.kind, bank.space, name, "", *figure[:3]
            for tissue, value in zip(comparison.classes, figure.per_class, strict=True):
                yield bank.name, bank.kind, bank.space, name, tissue.name, value, "", ""


def _difference_rows(comparison: Comparison) -> Iterator[Sequence[object]]:
    yield "metric", "first", "second", "value", "low", "high", "verdict"
    yield from comparison.differences


def _prototype_rows(comparison: Comparison) -> Iterator[Sequence[object]]:
    yield "bank", "class", "prototype", *FIELDS, "nearest", "nearest_compared"
    for bank in comparison.banks:
        for tissue, cards in zip(comparison.classes, bank.cards, strict=True):
            for u, card in enumerate(cards, start=1):
                nearest = (_named(patches) for patches in (card.patches, card.places))
                yield bank.name, tissue.name, u, *(getattr(card, name) for name in FIELDS), *nearest


def _named(patches: Sequence[Patch]) -> str:
    return "; ".join(f"{patch.tile} ({patch.place[0]}, {patch.place[1]})" for patch in patches)


def _json(comparison: Comparison, notes: Sequence[str]) -> str:
    content = {
        "title": title_of(comparison),
        "notice": NOTICE,
        "notes": list(notes),
        "classes": [tissue.name for tissue in comparison.classes],
        "prototypes_per_class": comparison.k,
        "temperature": comparison.temperature,
        "reference": comparison.reference,
        "resamplings": comparison.resamplings,
        "judged": list(comparison.judged),
        "chance_overlap": comparison.chance_overlap,
        "fewest_sources": comparison.fewest_sources,
        "tiles": comparison.tiles,
        "sources": comparison.sources,
        "metrics": {metric.name: metric.meaning for metric in comparison.metrics},
        "banks": [
            {
                "name": bank.name,
                "kind": bank.kind,
                "space": bank.space,
                "figures": {name: figure._asdict() for name, figure in bank.figures.items()},
                "prototypes": [[_card_content(card) for card in cards] for cards in bank.cards],
            }
            for bank in comparison.banks
        ],
        "differences": [difference._asdict() for difference in comparison.differences],
        "verdicts": dict(_conclusions(comparison)),
    }
    return json.dumps(plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _card_content(card: PrototypeCard) -> dict[str, object]:
    names = ("tile", "source", "place", "cosine")
    nearest, places = (
        [{name: getattr(patch, name) for name in names} for patch in patches] for patches in (card.patches, card.places)
    )
    return {name: getattr(card, name) for name in FIELDS} | {"nearest": nearest, "nearest_compared": places}
