"""What every benchmark hands on: figures, each beside a baseline that was measured in the same process.

A benchmark prints its figures and, with ``--json FILE``, writes them as a JSON list of objects with the fields of
`Figure`; ``table.py`` makes a Markdown table of such files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


def device() -> str:
    """The machine in words: the GPU, if torch has used one, and the processor with the cores that we may use."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text("utf-8")) if cpuinfo.exists() else None
    model = named[1] if named else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch = sys.modules.get("torch")
    gpu = f"{torch.cuda.get_device_name()}, " if torch and torch.cuda.is_initialized() else ""
    return f"{gpu}{model}, {cores} core{'s' if cores > 1 else ''}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table.

    Attributes:
        what: What was measured.
        value: The median of its repeats.
        unit: Of both values.
        baseline: What it is compared with; empty where it is compared with `wanted` alone.
        baseline_value: The median of the baseline's repeats.
        ratio: value / baseline_value.
        spread: Lowest and highest ratio of the repeats; of the value where there is no ratio.
        wanted: The goal, in words.
        note: What was found beside it, such as the share of equal labels.
        device: The machine.
    """

    what: str
    value: float
    unit: str = "s"
    baseline: str = ""
    baseline_value: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    wanted: str = ""
    note: str = ""
    device: str = field(default_factory=device)


def alone(what: str, values: Sequence[float], unit: str = "s", wanted: str = "") -> Figure:
    """A figure without a baseline, from its repeats."""
    return Figure(
        what=what, value=statistics.median(values), unit=unit, wanted=wanted, spread=(min(values), max(values))
    )


def against(
    what: str, values: Sequence[float], baseline: str, others: Sequence[float], unit: str = "s", wanted: str = ""
) -> Figure:
    """A figure and its baseline, from their repeats; repeats measured in turns are compared pair by pair."""
    value, other = statistics.median(values), statistics.median(others)
    pairs = zip(values, others, strict=True) if len(values) == len(others) else ((v, other) for v in values)
    ratios = [one / two for one, two in pairs]
    return Figure(
        what=what, value=value, unit=unit, baseline=baseline, baseline_value=other, ratio=value / other, wanted=wanted,
        spread=(min(ratios), max(ratios)),
    )  # fmt: skip


def in_turns(repeats: int, *calls: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> list:
    """Seconds of every call, `repeats` times one after the other, so that a busy moment hits all of them."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for seconds, call in zip(found, calls, strict=True):
            began = clock()
            call()
            seconds.append(clock() - began)
    return found


def parser(doc: str) -> argparse.ArgumentParser:
    """Options of a benchmark that all have in common."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    return made


def report(figures: Iterable[Figure], path: Path | None) -> None:
    """Print every figure as it comes, and write all of them to `path`."""
    found = []
    for figure in figures:
        found.append(asdict(figure))
        print(" | ".join(cells(found[-1])), flush=True)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")


COLUMNS = ("what", "ours", "baseline", "ratio", "spread", "wanted", "note")


def cells(figure: dict) -> list[str]:
    """A figure, as read from JSON, as the cells of `COLUMNS`."""
    unit, other, ratio = figure["unit"], figure["baseline_value"], figure["ratio"]
    spread = figure["spread"]
    return [
        figure["what"],
        f"{figure['value']:.3g} {unit}",
        figure["baseline"] + ("" if other is None else f": {other:.3g} {unit}"),
        "" if ratio is None else f"{ratio:.3g}",
        "" if spread is None else "–".join(f"{end:.3g}" for end in spread),
        figure["wanted"],
        figure["note"],
    ]
