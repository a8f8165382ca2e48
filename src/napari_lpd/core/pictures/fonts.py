"""Fonts for names in any script: DejaVu Sans, which comes with matplotlib, then the system's for letters it lacks.

A letter that no font has is written by its number, as U+6BCD, so that names stay different.
"""

from __future__ import annotations

from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ImageFont

if TYPE_CHECKING:
    from PIL import ImageDraw


@cache
def _own() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@cache
def _of_system() -> list[str]:
    from matplotlib.font_manager import findSystemFonts

    return sorted(findSystemFonts())


@cache
def _letters(path: str) -> frozenset[int]:
    """Return the letters of a font; none of a file that is no outline font."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap()) if ImageFont.truetype(path, 9) else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@cache
def _font_of(letter: str) -> str | None:
    """Return the first font that has a letter."""
    if ord(letter) in _letters(_own()):
        return _own()
    return next((path for path in _of_system() if ord(letter) in _letters(path)), None)


def runs(text: str) -> list[tuple[str, str]]:
    """Divide a text into (font file, piece), in order; letters that no font has are written by their numbers."""
    written = "".join(letter if _font_of(letter) or not letter.isprintable() else _number(letter) for letter in text)
    return [(path or _own(), "".join(piece)) for path, piece in groupby(written, _font_of)]


def _number(letter: str) -> str:
    return f"U+{ord(letter):04X} "


def width_of(text: str, size: float) -> float:
    """Return the width of a text in pixels."""
    return sum(ImageFont.truetype(path, size).getlength(piece) for path, piece in runs(text))


def draw_text(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, fill: Any, size: float) -> None:
    """Draw a text whose first line begins at `place` (x, y)."""
    x, y = place
    base = y + ImageFont.truetype(_own(), size).getmetrics()[0]
    for path, piece in runs(text):
        font = ImageFont.truetype(path, size)
        draw.text((x, base), piece, fill, font, anchor="ls")
        x += font.getlength(piece)


def in_figure(text: str) -> dict[str, Any]:
    """Return a text of a matplotlib figure and the families that have its letters, as options `s` and `family`."""
    from matplotlib.font_manager import fontManager, get_font

    pieces = runs(text)
    families = []
    for path in dict.fromkeys([_own(), *(path for path, _ in pieces)]):
        fontManager.addfont(path)
        families.append(get_font(path).family_name)
    return {"s": "".join(piece for _, piece in pieces), "family": families}
