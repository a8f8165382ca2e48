"""A comparison's tables and conclusions, as rows of text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from napari_lpd.comparison.metrics import METRICS
from napari_lpd.comparison.result import MIN_SOURCES_FOR_VERDICT, compared_banks

if TYPE_CHECKING:
    from napari_lpd.comparison.result import BankResult, Comparison, Difference, Figure, PrototypeCard

    Table = list[list[str]]

LABELS = {metric.name: metric for metric in METRICS}
CARD = ("usage", "own coverage", "marginal coverage", "purity", "stability", "slide spread", "ΔIoU", "nearest sibling")


def title_of(comparison: Comparison) -> str:
    """Return the report's title."""
    return f"Prototypes of {' and '.join(comparison.models)}"


def summary_of(comparison: Comparison) -> str:
    """Summarise in one sentence what was compared."""
    where = "the masks' truth" if comparison.reference == "truth" else "where the models agree"
    return (
        f"{comparison.k} prototypes for each of {len(comparison.classes)} tissues, compared on {comparison.tiles} tiles"
        f" of {comparison.sources} slide(s) or patient(s), at the same places for all ({where});"
        f" τ = {comparison.temperature:g}."
    )


def verdicts_of(comparison: Comparison, controls: bool = False) -> list[str]:
    """Say what the intervals allow, and nothing more, of the models, or of each model and its controls."""
    if not comparison.resamplings:
        return ["Without intervals nothing is concluded."]
    if (few := comparison.fewest_sources) < MIN_SOURCES_FOR_VERDICT:
        return [
            f"Nothing is concluded from {few} slides or patients, wanted {MIN_SOURCES_FOR_VERDICT}: as few lean all the"
            f" same way in {100 * 2 ** (1 - few):.0f} % of comparisons without any difference."
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
    """Make a table with a row per metric and a column per bank: value [low, high]."""
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
    """Make a table with a row per metric and a column per pair; * where the interval excludes zero."""
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
    """Make a table with a row per metric and a column per class and model: values alone."""
    columns = [(c, bank) for c in range(len(comparison.classes)) for bank in model_banks(comparison)]
    table = [["", *(f"{comparison.classes[c].name}, {bank.name}" for c, bank in columns)]]
    for metric in comparison.metrics:
        values = [bank.figures[metric.name].per_class[c] for c, bank in columns]
        table.append([metric.label, *("–" if math.isnan(value) else f"{value:.3f}" for value in values)])
    return table


def meaning_table(comparison: Comparison) -> Table:
    """Make a table of what each metric means."""
    return [["", "meaning"], *([metric.label, metric.meaning] for metric in comparison.metrics)]


def card_table(bank: BankResult, c: int) -> Table:
    """Make a table with a row per prototype of class c."""
    return [["prototype", *CARD, "flags"], *([str(u + 1), *_card(card)] for u, card in enumerate(bank.cards[c]))]


def _card(card: PrototypeCard) -> list[str]:
    numbers = (card.usage, card.own, card.marginal, card.purity, card.stability, card.spread, card.loss, card.sibling)
    flags = [name for name, set_ in (("dead", card.dead), ("redundant", card.redundant)) if set_]
    return ["–" if math.isnan(value) else f"{value:.2f}" for value in numbers] + [", ".join(flags)]


def model_banks(comparison: Comparison) -> list[BankResult]:
    """List the models' own banks, without controls."""
    return [bank for bank in comparison.banks if bank.kind == "model"]
