"""Processes that are killed at a chosen file operation, for the tests of what is left then."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
KILLED, FAILED = 137, 1
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")


def start_child(work: Callable[[], object]) -> int:
    """Begin some work in a forked process; returns its number."""
    child = os.fork()
    if not child:
        code = FAILED
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Wait for a child; returns its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(work: Callable[[], object]) -> int:
    """Do some work in a forked process; returns its exit code."""
    return ended(start_child(work))


def killed_at_every_file_operation(work: Callable[[Path], object], new_folder: Callable[[], Path]) -> Iterator[Path]:
    """Yield a folder for every n: in it some work was killed just before its n-th change of a file below it."""
    number, code = 0, KILLED
    while code == KILLED:
        number += 1
        folder = new_folder()
        code = in_child(lambda folder=folder, number=number: _killed_at(number, folder, work))
        if code == KILLED:
            yield folder
    assert code == 0, f"the work itself ended with {code}"
    assert number > 1


def _killed_at(number: int, folder: Path, work: Callable[[Path], object]) -> None:
    left, below = number, str(folder)

    def count(event: str, given: tuple) -> None:
        nonlocal left
        changes = event in CHANGES or (event == "open" and isinstance(given[2], int) and given[2] & WRITING)
        if changes and isinstance(given[0], str | Path) and str(given[0]).startswith(below):
            left -= 1
            if not left:
                os._exit(KILLED)

    sys.addaudithook(count)
    work(folder)
