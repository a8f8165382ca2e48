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
    for path in sorted(parser.parse_args().folder.glob("*.json")):
        for figure in json.loads(path.read_text(encoding="utf-8")):
            found.setdefault(figure["device"], []).append(cells(figure))
    for device, rows in found.items():
        print(f"\nMeasured on {device}:\n")
        for row in (COLUMNS, ["---"] * len(COLUMNS), *rows):
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
