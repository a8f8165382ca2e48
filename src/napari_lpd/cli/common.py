"""Progress, results and errors on the command line: text for people, JSON lines for a parent process."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_lpd.core.errors import MAX_LINE, one_line
from napari_lpd.core.jobs import WARNING, Progress, to_json_line

if TYPE_CHECKING:
    import argparse

Result = dict[str, Any]
PAUSE_S = 0.1  # between two checks whether a paused job is resumed


class Printer:
    """Print progress: JSON lines for a parent process, else one line that is updated about twice a second.

    Args:
        as_json: Print JSON lines.
        errors_only: Print errors only: for the further processes of a distributed training.
    """

    def __init__(self, as_json: bool, errors_only: bool = False) -> None:
        self.as_json, self._errors_only = as_json, errors_only
        self._started = self._printed = time.monotonic()
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
        if self.as_json:
            return
        if progress.message.startswith(WARNING):
            self.note(progress.message)
            return
        now = time.monotonic()
        at = (progress.done, progress.total)
        if at == self._at or (progress.done < progress.total and now - self._printed < (0.5 if self._live else 10)):
            return
        self._printed, self._at = now, at
        left = (now - self._started) / max(progress.done, 1) * (progress.total - progress.done)
        shown = {name: value for name, value in progress.metrics.items() if name != "valid score"}
        numbers = "  ".join(f"{name} {value + 0.0:.3g}" for name, value in shown.items())
        message = one_line(progress.message, MAX_LINE // 2)
        line = f"{progress.done}/{progress.total} {message}  {left:.0f} s left  {numbers}".rstrip()
        if not progress.total:
            line = f"{message} …"
        print(f"\r{line:<110}" if self._live else line, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def note(self, line: str) -> None:
        """Print a line at the end of a stage, not as JSON, and restart the estimate of the time left."""
        self._started = time.monotonic()
        if not self.as_json and not self._errors_only:
            line = one_line(line)
            print(f"\r{line:<110}" if self._live else line, file=sys.stderr, flush=True)

    def slide(self, row: Result, line: str) -> None:
        """Print the row of one of many slides as soon as it is done: as JSON, or its line."""
        if self.as_json:
            print(to_json_line("slide", row), flush=True)
        self.note(line)

    def result(self, result: Result) -> None:
        """Print a command's result."""
        if self._errors_only:
            return
        if self.as_json:
            print(to_json_line("result", result), flush=True)
            return
        if self._live:
            print(file=sys.stderr)
        _print_nested(result)

    def error(self, message: str) -> None:
        """Print an error as one line."""
        message = one_line(message)
        if self.as_json:
            print(to_json_line("error", {"message": message}), flush=True)
        else:
            print(f"napari-lpd: error: {message}", file=sys.stderr)


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


def add_settings_options(sub: argparse.ArgumentParser) -> None:
    """Add ``--settings`` and ``--set``."""
    sub.add_argument("--settings", type=Path, metavar="JSON", help="settings file, as saved by a widget")
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; may be repeated")


def add_override_option(sub: argparse.ArgumentParser) -> None:
    """Add ``--override-mpp``."""
    sub.add_argument(
        "--override-mpp", type=float, metavar="MPP", help="the slide's µm per pixel, in place of what the file says"
    )


def add_source_option(sub: argparse.ArgumentParser) -> None:
    """Add ``--source``."""
    sub.add_argument(
        "--source",
        default="",
        metavar="REGEX",
        help="slide or patient in a tile's name: the first group (default: the name before + or [)",
    )
