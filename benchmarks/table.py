"""The figures of all benchmarks as Markdown tables, one per machine: ``python benchmarks/table.py bench_out``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from figures import COLUMNS, cells


def main() -> None:
    """Read every JSON file of a folder and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("bench_out"))
    found: dict[str, list[list[str]]] = {}
    others = []
    for path in sorted(parser.parse_args().folder.glob("*.json")):
        figures = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(figures, list):  # a benchmark that writes figures of a form of its own
            others.append(path.name)
            continue
        for figure in figures:
            found.setdefault(figure["device"], []).append(cells(figure))
    for device, rows in found.items():
        print(f"\nMeasured on {device}:\n")
        for row in (COLUMNS, ["---"] * len(COLUMNS), *rows):
            print(f"| {' | '.join(row)} |")
    if others:
        print(f"\nNot in the table, figures of another form: {', '.join(others)}")


if __name__ == "__main__":
    main()
