"""Progress, results and errors on the command line: text for people, JSON lines for a parent process."""

from __future__ import annotations

import glob
import os
import shutil
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import combining, east_asian_width

from napari_lpd.core.errors import MAX_LINE, DataError, one_line
from napari_lpd.core.jobs import VALIDATION, WARNING, Progress, TimeLeft, to_json_line
from napari_lpd.core.reading import is_hidden

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

Result = dict[str, Any]
UNSAID = ("valid score", "valid tiles")  # figures of a validation that people are not told
PAUSE_S = 0.1  # between two checks whether a paused job is resumed


class Printer:
    """Print progress: JSON lines for a parent process, else one line that is updated about twice a second.

    Args:
        as_json: Print JSON lines.
        errors_only: Print errors only: for the further processes of a distributed training.
        quiet: Of text, print results, warnings and errors only.
    """

    def __init__(self, as_json: bool, errors_only: bool = False, quiet: bool = False) -> None:
        self.as_json, self._errors_only, self._quiet = as_json, errors_only, quiet
        self._printed, self._time_left = time.monotonic(), TimeLeft()
        self._at = (-1, -1)
        self.stopping, self.paused = threading.Event(), threading.Event()
        self._live = sys.stderr.isatty()

    def progress(self, progress: Progress) -> None:
        """Show one step; while the job is paused, wait.

        Raises:
            KeyboardInterrupt: the user has asked to stop; the job stops between two steps.
        """
        if self._errors_only:
            return
        if self.as_json:
            print(to_json_line("progress", progress), flush=True)
        while self.paused.is_set() and not self.stopping.wait(PAUSE_S):
            pass
        if self.stopping.is_set():
            raise KeyboardInterrupt
        if progress.message.startswith(WARNING):
            self.note(progress.message)
        elif progress.message.endswith(VALIDATION):
            self.note(_validation_line(progress))
        elif not self.as_json and not self._quiet:
            self._show(progress)

    def _show(self, progress: Progress) -> None:
        """Print a step in the line of the present phase, not too often."""
        left, now, at = self._time_left(progress), time.monotonic(), (progress.done, progress.total)
        if at == self._at or (progress.done < progress.total and now - self._printed < (0.5 if self._live else 10)):
            return
        self._printed, self._at = now, at
        message = one_line(progress.message, MAX_LINE // 2)
        if not progress.total:
            line = f"{message} …"
        else:
            shown = {name: value for name, value in progress.metrics.items() if name != "valid score"}
            numbers = "  ".join(f"{name} {value + 0.0:.3g}" for name, value in shown.items())
            line = "  ".join(part for part in (f"{at[0]}/{at[1]} {message}", left, numbers) if part)
        if self._live:
            print(f"\r{_fitted(line, _terminal_width() - 1)}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def note(self, line: str) -> None:
        """Print a line at the end of a stage, not as JSON; on a terminal, broken at its width."""
        if self.as_json or self._errors_only or (self._quiet and not line.startswith(WARNING)):
            return
        line = one_line(line)
        if self._live:
            width = _terminal_width() - 1
            parts = textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
            line = "\r" + "\n".join([parts[0].ljust(width), *parts[1:]])
        print(line, file=sys.stderr, flush=True)

    def slide(self, row: Result, line: str) -> None:
        """Print the row of one of many slides as soon as it is done: as JSON, or its line."""
        if self.as_json:
            print(to_json_line("slide", row), flush=True)
        self.note(line)

    def text(self, text: str) -> None:
        """Print text that is a command's result; JSON lines have the result itself."""
        if not self.as_json:
            print(text)

    def result(self, result: Result) -> None:
        """Print a command's result."""
        if self._errors_only:
            return
        if self.as_json:
            print(to_json_line("result", result), flush=True)
            return
        if self._live and not self._quiet:
            print(file=sys.stderr)
        _print_nested(result)

    def error(self, message: str) -> None:
        """Print an error as one line."""
        message = one_line(message)
        if self.as_json:
            print(to_json_line("error", {"message": message}), flush=True)
        else:
            print(f"napari-lpd: error: {message}", file=sys.stderr)


def _validation_line(progress: Progress) -> str:
    """Say how good the epoch was that has ended, and which one is the best so far."""
    values = {name: value for name, value in progress.metrics.items() if name.startswith("valid ")}
    shown = [f"{name.removeprefix('valid ')} {value:.3f}" for name, value in values.items() if name not in UNSAID]
    if not shown:
        return f"{progress.message.removesuffix(VALIDATION)}: no data to validate on; the last epoch is kept"
    return f"{progress.message}: {', '.join(shown)}; best so far: epoch {progress.metrics['best epoch']:.0f}"


def _terminal_width() -> int:
    try:
        fallback = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        fallback = 0
    return max(shutil.get_terminal_size((fallback or 80, 24)).columns, 20)


def _fitted(line: str, width: int) -> str:
    """Cut or pad a line to exactly `width` columns of a terminal, in which some characters take two and some none."""
    columns, fitted = 0, ""
    for character in line:
        own = 0 if combining(character) else 1 + (east_asian_width(character) in "WF")
        if columns + own > width - 1:  # room for the dots
            return fitted + "…" + " " * (width - 1 - columns)
        columns, fitted = columns + own, fitted + character
    return fitted + " " * (width - columns)


def _print_nested(result: Result, indent: str = "") -> None:
    for name, value in result.items():
        if isinstance(value, dict):
            print(indent + one_line(f"{name}:"))
            _print_nested(value, indent + "  ")
        elif isinstance(value, list):
            for entry in value:
                if isinstance(entry, dict):
                    _print_nested(entry, indent)
                else:
                    print(indent + one_line(f"{name}: {entry}"))
        else:
            print(indent + one_line(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}"))


def expanded(paths: Sequence[Path]) -> list[Path]:
    """Fill in the files that patterns as ``*.svs`` stand for, which not every shell does; none that is hidden.

    Raises:
        DataError: a pattern that no file fits.
    """
    found: list[Path] = []
    for path in paths:
        if path.exists() or not glob.has_magic(str(path)):
            found.append(path)
        elif fitting := [match for match in map(Path, glob.glob(str(path))) if not _is_left_by_others(match, path)]:
            found += sorted(fitting)
        else:
            raise DataError(f"{path}: no file fits this pattern")
    return found


def _is_left_by_others(path: Path, pattern: Path) -> bool:
    """Return whether a pattern's wildcard has taken a hidden file or folder, as ``@eaDir`` in ``*/*.svs``."""
    parts = zip(path.parts, pattern.parts, strict=True)
    return any(part != wanted and is_hidden(Path(part)) for part, wanted in parts)


def add_settings_options(sub: argparse.ArgumentParser) -> None:
    """Add ``--settings`` and ``--set``."""
    sub.add_argument("--settings", type=Path, metavar="JSON", help="settings file, as saved by a widget")
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; may be repeated")


def add_override_option(sub: argparse.ArgumentParser) -> None:
    """Add ``--override-mpp``."""
    sub.add_argument(
        "--override-mpp", type=float, metavar="MPP", help="the slide's µm per pixel, in place of what the file says"
    )


def add_image_option(sub: argparse.ArgumentParser) -> None:
    """Add ``--image``."""
    sub.add_argument(
        "--image",
        type=int,
        metavar="N",
        help="number of an image in the slide's file, from 1, where it holds several (default: the biggest in RGB)",
    )


def add_origin_option(sub: argparse.ArgumentParser) -> None:
    """Add ``--origin``."""
    sub.add_argument(
        "--origin",
        choices=("bounds", "slide"),
        default="bounds",
        help="where GeoJSON coordinates begin: at the part that was scanned, as in QuPath (default), or at the slide",
    )


def add_source_option(sub: argparse.ArgumentParser) -> None:
    """Add ``--source``."""
    sub.add_argument(
        "--source",
        default="",
        metavar="REGEX",
        help="slide or patient in a tile's name: the first group (default: the name before + or [)",
    )


def add_overwrite_option(sub: argparse.ArgumentParser, what: str) -> None:
    """Add ``--overwrite``."""
    sub.add_argument("--overwrite", action="store_true", help=f"replace {what}")
