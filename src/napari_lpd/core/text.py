"""Text from files and people, made harmless where it is written: tables, Markdown, HTML, consoles."""

from __future__ import annotations

import codecs
import csv
import html
import io
import math
import re
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from napari_lpd.core.errors import CONTROL, SURROGATE, DataError, ExportError, LpdError, reason
from napari_lpd.core.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_FORMULA = re.compile("'*\\s*[-=+@\uff1d\uff0b\uff0d\uff20]")  # also the full-width signs, which Excel takes, too
_DEFUSED = re.compile(f"'(?={_FORMULA.pattern})")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_QUOTED = re.compile('[,;"\t]|^ | $')
_MARKDOWN = re.compile(
    r"[\\`|~$]|\*(?=\S)|(?<=\S)\*|\](?=[(\[:])|(?<!\w)_|_(?!\w)|^(?:[#=]|[-+](?=[-+\s]|$)|\d+(?=[.)](?:\s|$)))"
)
_STAND_INS = str.maketrans(
    {"µ": "u", "μ": "u", "×": "x", "−": "-", "–": "-", "—": "-", "·": "-", "•": "-", "→": "->", "⇄": "<->", "≥": ">="}
    | {"≤": "<=", "≈": "~", "±": "+-", "°": " degrees", "“": '"', "”": '"', "‘": "'", "’": "'", "„": '"', "»": '"'}
    | {"«": '"', "⚠": "!", "√": "sqrt", "Σ": "sum", "Δ": "delta", "α": "alpha", "θ": "theta", "λ": "lambda"}
    | {"σ": "sigma", "τ": "tau", "ψ": "psi", "Ω": "omega", "ß": "ss", "æ": "ae", "ø": "o", "■": "*", "✓": "ok"}
)
TABLES = (".csv", ".tsv")
MAX_TABLE_BYTES = 256 * 2**20
SEPARATORS = (",", ";", "\t")


def area_text(mm2: float, digits: int = 3) -> str:
    """Write an area in mm² with some digits after the point, and with as many more as a small one needs.

    Example:
        >>> area_text(0.2134), area_text(0.00031), area_text(0.0)
        ('0.213', '0.0003', '0.000')
    """
    needed = math.ceil(-math.log10(mm2)) if 0 < mm2 < 1 else 0
    return f"{mm2:.{max(digits, needed)}f}"


def is_clean(text: str) -> bool:
    """Return whether a text has no control characters, no line ends and no blanks around it."""
    return text == text.strip() and not CONTROL.search(text) and not SURROGATE.search(text)


def csv_cell(value: object) -> str:
    """Format one cell of a table: nothing for None and NaN; before what a spreadsheet takes for a formula stands a '.

    Numbers stay numbers, also those that are formatted already.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = SURROGATE.sub("\ufffd", CONTROL.sub(" ", str(value)))
    if isinstance(value, int | float) or _NUMBER.fullmatch(text):
        return text
    if _FORMULA.match(text) or str(value)[:1] in ("\t", "\r", "\n"):
        text = f"'{text}"
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if _QUOTED.search(text) else text


def undefused(cell: str) -> str:
    """Return a cell of a table, as it is read, without the ' that `csv_cell` put before it."""
    return _DEFUSED.sub("", cell, count=1) if cell.startswith("'") else cell


class Line(NamedTuple):
    """A line of a table: its number in the file, from 1, and its cells by column."""

    number: int
    cells: dict[str, str]


def table_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Format rows as CSV: UTF-8 with a byte order mark, without which Excel takes it for another encoding.

    Cells are made by `text.csv_cell`: None and NaN are empty, formulas are defused.
    """
    lines = [",".join(csv_cell(cell) for cell in row) for row in rows]
    return codecs.BOM_UTF8 + "".join(f"{line}\r\n" for line in lines).encode()


def write_table(
    path: Path, rows: Iterable[Sequence[object]], overwrite: bool = True, error: type[LpdError] = ExportError
) -> Path:
    """Write rows, the head first, as CSV; whole or not at all, as `files.atomic_write`.

    A table is replaced only by one of the same kind, whose first two columns are the same.
    """
    rows = list(rows)
    with atomic_write(path, overwrite, error, mark=",".join(csv_cell(cell) for cell in rows[0][:2])) as partial:
        partial.write_bytes(table_bytes(rows))
    return path


def read_table(path: Path, error: type[LpdError] = DataError) -> tuple[list[str], list[Line]]:
    """Read a table: its columns, and its lines.

    It may be separated by commas, semicolons or tabs, with blanks after them, in UTF-8 or UTF-16. Columns without a
    name and lines without content are left out.

    Args:
        path: The file.
        error: Class of the error that is raised where it cannot be read.
    """
    try:
        (_, head), *rows = _cells(_decoded(path))
        columns = [name for name in head if name]
        if repeated := next((name for name in columns if columns.count(name) > 1), ""):
            raise ValueError(f"two columns are called {repeated}")
        lines = [_line(head, number, row) for number, row in rows if any(row)]
    except (OSError, ValueError, csv.Error) as cause:
        raise error(f"{path}: not readable as a table ({reason(cause)}); save it as CSV in UTF-8") from cause
    return columns, lines


def _line(head: list[str], number: int, row: list[str]) -> Line:
    if any(row[len(head) :]):
        raise ValueError(f"line {number} has more cells than the first line has names")
    filled = row + [""] * (len(head) - len(row))
    return Line(number, {name: cell for name, cell in zip(head, filled, strict=False) if name})


def _decoded(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_TABLE_BYTES + 1)
    if len(content) > MAX_TABLE_BYTES:
        raise ValueError(f"larger than {MAX_TABLE_BYTES >> 20} MB")
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if utf_16 else "utf-8-sig")


def _cells(text: str) -> list[tuple[int, list[str]]]:
    """Split a text into numbered lines of stripped cells, at the separator that gives the first line the most of them.

    Excel's first line ``sep=;`` is passed over.
    """
    first, _, rest = text.partition("\n")
    skipped = int(first.lower().startswith("sep="))
    if skipped:
        text, first = rest, rest.partition("\n")[0]
    if not first.strip():
        raise ValueError("its first line is empty; wanted the columns' names")
    separator = max(SEPARATORS, key=lambda sign: len(next(csv.reader([first], delimiter=sign))))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    return [(reader.line_num + skipped, [undefused(cell.strip()) for cell in row]) for row in reader]


def markdown(text: str) -> str:
    """Escape a text for one line or cell of Markdown: it is shown as it is, whatever signs it has."""
    escaped = html.escape(" ".join(CONTROL.sub(" ", text).split()), quote=False)
    return _MARKDOWN.sub(lambda found: _backslashed(found[0]), SURROGATE.sub("\ufffd", escaped))


def _backslashed(sign: str) -> str:
    return f"{sign}\\" if sign.isdigit() else f"\\{sign}"  # "1." begins a list, "1\." does not


def html_text(text: str) -> str:
    """Escape a text for HTML, also between quotation marks."""
    return html.escape(SURROGATE.sub("\ufffd", CONTROL.sub(" ", text)))


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks in ASCII: mm² as mm2, µm as um, é as e; ? for what has no such form."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = unicodedata.normalize("NFKD", error.object[error.start : error.end].translate(_STAND_INS))
    shown = "".join(sign if sign.isascii() else "?" for sign in lacking if not unicodedata.combining(sign))
    return shown, error.end


READABLE = "napari_lpd.readable"  # name of the handler of errors, for streams
codecs.register_error(READABLE, _stand_in)
