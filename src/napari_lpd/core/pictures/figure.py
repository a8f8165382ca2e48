"""Figures of matplotlib in our style, as files that are the same whenever they are written."""

from __future__ import annotations

import io
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from matplotlib import style

from napari_lpd.core.errors import ExportError
from napari_lpd.core.files import atomic_write, mark_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("figures.mplstyle")
FIGURE = mark_of("figure")
FORMATS: dict[str, dict[str, Any]] = {  # with what they are saved: fast, and without a date
    ".png": {"metadata": {"Software": FIGURE}, "pil_kwargs": {"compress_level": 1}},
    ".svg": {"metadata": {"Date": None, "Creator": FIGURE}},
    ".pdf": {"metadata": {"CreationDate": None, "Creator": FIGURE}},
}
_LOCK = RLock()


@contextmanager
def styled() -> Iterator[None]:
    """Draw in our style, whatever the user's; one thread at a time, as matplotlib has one style for all."""
    with _LOCK, style.context(["default", STYLE]):
        yield


@styled()
def encoded(figure: Figure, suffix: str, dpi: float | None = None) -> bytes:
    """Encode a figure as a file whose name has this ending, one of `FORMATS`; the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format=suffix[1:], dpi=dpi, **FORMATS[suffix])
    return file.getvalue()


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure, in place of another figure of ours; the name's ending says the format.

    Raises:
        ExportError: another ending than those of `FORMATS`, or the place cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ExportError(f"{path.name}: figures are written as {', '.join(FORMATS)}; end the name in one of these")
    with atomic_write(path, mark=FIGURE) as partial:
        partial.write_bytes(encoded(figure, suffix))
