"""Open small files of every container, codec and oddity, and write what comes of it into docs/reference/slides.md.

python tools/formats_table.py          write the tables
python tools/formats_table.py --check  end with 1 if they are not up to date
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "reference" / "slides.md"
sys.path.insert(0, str(ROOT / "tests" / "slides"))

import oddities  # noqa: E402

from napari_lpd.core.errors import SlideError  # noqa: E402
from napari_lpd.slides.formats import open_slide  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np


def codecs_table(folder: Path) -> list[str]:
    """Read every codec in every container: which reader gives the pixels."""
    pixels = oddities.image()
    lines = [f"| container | {' | '.join(oddities.CODECS)} |", "|---" * (1 + len(oddities.CODECS)) + "|"]
    for container, (name, write) in oddities.CONTAINERS.items():
        cells = [reader_of(folder / name, pixels, codec, write) for codec in oddities.CODECS]
        lines.append(f"| {container} | {' | '.join(cells)} |")
    return lines


def reader_of(path: Path, pixels: np.ndarray, codec: str, write: Callable[[Path, np.ndarray, str], None]) -> str:
    """Write a file and read it whole: the reader, or why not."""
    try:
        write(path, pixels, codec)
    except ValueError:
        return "–"
    try:
        with open_slide(path, 0.5) as slide:
            different = abs(slide.read((0, 0), slide.shape, 0.5).astype(int) - pixels).max()
            return slide.reader if different < 9 else "WRONG PIXELS"
    except SlideError as error:
        return str(error)


def odd_table(folder: Path) -> list[str]:
    """Open every odd file: what is read, or the line that refuses it."""
    pixels = oddities.image()
    lines = ["| what is odd | what comes of it |", "|---|---|"]
    for what, (name, write) in oddities.ODD.items():
        write(folder / name, pixels)
        lines.append(f"| {what} | {outcome(folder / name)} |")
    return lines


def outcome(path: Path) -> str:
    """Open a slide: its levels and resolution, or the line that refuses it."""
    try:
        with open_slide(path) as slide:
            levels = ", ".join(f"{w} × {h}" for h, w in slide.level_shapes)
            size = f"{slide.mpp[0]:g} µm ({slide.mpp_source})" if slide.has_mpp else f"no µm: {slide.mpp_source}"
            return "; ".join([f"read: {levels}; {size}", *slide.notes])
    except SlideError as error:
        return f"refused: {error}".replace("|", "\\|").replace("`", "")  # a code span would be run by the tests


def with_tables(document: str) -> str:
    """Put the tables between their marks."""
    with tempfile.TemporaryDirectory() as folder:
        tables = {"codecs": codecs_table(Path(folder)), "oddities": odd_table(Path(folder))}
    for name, lines in tables.items():
        start, end = f"<!-- {name}: by tools/formats_table.py -->", f"<!-- end of {name} -->"
        body = "\n".join([start, "", *lines, "", end])
        before, _, rest = document.partition(start)
        document = before + body + rest.partition(end)[2]
    return document


def main() -> int:
    """Write the tables, or check them."""
    old = DOCUMENT.read_text(encoding="utf-8")
    new = with_tables(old)
    if "--check" in sys.argv:
        return int(old != new)
    DOCUMENT.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
