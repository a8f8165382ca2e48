"""The report of a comparison: one HTML file that needs no other, Markdown, tables (CSV), everything (JSON), figures."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from napari_lpd.comparison.report.figures import heatmap_figure, patch_strip, scatter_figure
from napari_lpd.comparison.report.tables import (
    card_table,
    difference_table,
    figure_table,
    meaning_table,
    model_banks,
    summary_of,
    tissue_table,
    title_of,
    verdicts_of,
)
from napari_lpd.core.errors import NOTICE
from napari_lpd.core.files import write_files
from napari_lpd.core.pictures.figure import FIGURE, FORMATS, encoded
from napari_lpd.core.pictures.page import html_image, html_list, html_page, html_table
from napari_lpd.core.text import html_text, markdown, table_bytes
from napari_lpd.evaluation.report import markdown_list, markdown_table, plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from napari_lpd.comparison.result import Comparison, Patch, PrototypeCard

    Table = list[list[str]]

MARKS = {  # our files, and what tells them from others
    "report.html": "<h2>Figures</h2>",
    "report.md": "## Figures",
    "figures.csv": "bank,kind",
    "differences.csv": "metric,first",
    "prototypes.csv": "bank,class",
    "report.json": '"chance_overlap"',
    **{f"{name}{suffix}": FIGURE for name in ("heatmaps", "scatter") for suffix in FORMATS},
}
FIELDS = ("usage", "own", "marginal", "purity", "stability", "spread", "loss", "sibling", "dead", "redundant")


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
    figures = {"heatmaps": heatmap_figure(comparison), "scatter": scatter_figure(comparison)}
    notes = [*notes, *comparison.notes]
    contents = {
        "report.html": _html(comparison, notes, figures).encode(),
        "report.md": _markdown(comparison, notes).encode(),
        "figures.csv": figures_csv(comparison),
        "differences.csv": table_bytes(_difference_rows(comparison)),
        "prototypes.csv": table_bytes(_prototype_rows(comparison)),
        "report.json": _json(comparison, notes).encode(),
    }
    for name, figure in figures.items():
        contents |= {f"{name}{suffix}": encoded(figure, suffix) for suffix in FORMATS}
    write_files(folder, contents, marks=MARKS)
    return folder / "report.html"


def figures_csv(comparison: Comparison) -> bytes:
    """Format a row per bank, metric and class, and one for the mean with its interval, as CSV."""
    return table_bytes(_figure_rows(comparison))


def _markdown(comparison: Comparison, notes: Sequence[str]) -> str:
    parts = [f"# {markdown(title_of(comparison))}", f"**{NOTICE}**", summary_of(comparison)]
    parts += [markdown_list(notes)]
    for head, lines in _conclusions(comparison):
        parts += [f"## {head}", markdown_list(lines)]
    parts += ["## Figures", markdown(_explained(comparison))]
    parts += [markdown_table(figure_table(comparison)), markdown_table(meaning_table(comparison))]
    parts += ["## Differences", _pairing(comparison), markdown_table(difference_table(comparison))]
    parts += ["## By tissue", markdown_table(tissue_table(comparison))]
    parts += ["![coverage against focus overlap](scatter.png)", "## Heatmaps", "![heatmaps](heatmaps.png)"]
    parts += ["## Prototypes"]
    for c, tissue in enumerate(comparison.classes):
        for bank in model_banks(comparison):
            parts += [f"### {markdown(f'{tissue.name}, {bank.name}')}", markdown_table(card_table(bank, c))]
    return "\n\n".join(parts) + "\n"


def _conclusions(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    if len(comparison.models) > 1:
        yield "What the intervals allow to say of the models", verdicts_of(comparison)
    yield "What they allow to say of each model and its controls", verdicts_of(comparison, controls=True)


def _explained(comparison: Comparison) -> str:
    """Explain what stands in the cells of the figures."""
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


def _html(comparison: Comparison, notes: Sequence[str], figures: dict[str, Figure]) -> str:
    parts = [f"<p>{html_text(summary_of(comparison))}</p>", html_list(notes)]
    parts += [f"<h2>{html_text(head)}</h2>{html_list(lines)}" for head, lines in _conclusions(comparison)]
    parts += ["<h2>Figures</h2>", f"<p>{html_text(_explained(comparison))}</p>", html_table(figure_table(comparison))]
    parts += [html_table(meaning_table(comparison)), "<h2>Differences</h2>"]
    parts += [f"<p>{html_text(_pairing(comparison))}</p>", html_table(difference_table(comparison))]
    parts += ["<h2>By tissue</h2>", html_table(tissue_table(comparison))]
    scatter, heatmaps = encoded(figures["scatter"], ".png"), encoded(figures["heatmaps"], ".png", dpi=100)
    parts += [html_image(scatter, "png", "coverage against focus overlap", "width='560'")]
    parts += ["<h2>Heatmaps</h2>", html_image(heatmaps, "png", "heatmaps"), "<h2>Prototypes</h2>"]
    for c, tissue in enumerate(comparison.classes):
        for bank in model_banks(comparison):
            parts += [f"<h3>{html_text(tissue.name)}, {html_text(bank.name)}</h3>"]
            parts += [html_table(card_table(bank, c), _strips([card.patches for card in bank.cards[c]]))]
            if any(card.places for card in bank.cards[c]):
                strips = _strips([card.places for card in bank.cards[c]])[1:]
                numbered = [["prototype"], *([str(u + 1)] for u in range(len(strips)))]
                parts += [html_table(numbered, ["nearest places in the compared tiles", *strips])]
    return html_page(title_of(comparison), parts)


def _strips(nearest: Sequence[tuple[Patch, ...]]) -> list[str]:
    """Make the column of a table: its head, and a prototype's patches in a row."""
    return ["nearest patches", *(_html_strip(patches) if patches else "" for patches in nearest)]


def _html_strip(patches: Sequence[Patch]) -> str:
    file = io.BytesIO()
    patch_strip(patches).save(file, "JPEG")
    return html_image(file.getvalue(), "jpeg", "")


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
