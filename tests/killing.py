"""Processes that are killed, and what is left at each of their file operations."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
FAILED = 1
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
RANDOM = re.compile(r"(?<=\.napari-lpd-)[0-9a-f-]+(?=\.partial)|(?<=\.)[0-9a-f]{32}(?=\.partial)")  # parts of names
MADE = re.compile(r"(.*/)?\.napari-lpd-\.partial/")
TRIES = 20  # to copy a folder whose names another thread is changing


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


def states_left(work: Callable[[Path], object], folder: Path, keep: Path) -> list[Path]:
    """Do some work below a folder in a forked process; return copies of what a kill before each change would leave.

    They are in order, and what differs as `state_of` says is there once. The last is what is left by the end.
    """
    keep.mkdir()
    code = in_child(lambda: _copying(folder, keep, work))
    assert code == 0, f"the work itself ended with {code}"
    return sorted(keep.iterdir())


def _copying(folder: Path, keep: Path, work: Callable[[Path], object]) -> None:
    one_at_a_time, seen = threading.RLock(), set[str]()

    def copy(event: str, given: tuple) -> None:
        if _changes(event, given, str(folder)):
            with one_at_a_time:
                _copy_new(folder, keep, seen)

    sys.addaudithook(copy)
    work(folder)
    _copy_new(folder, keep, seen)


def _changes(event: str, given: tuple, below: str) -> bool:
    if event == "open":
        return isinstance(given[2], int) and bool(given[2] & WRITING) and str(given[0]).startswith(below)
    if event not in CHANGES:
        return False
    path, parent = str(given[0]), given[{"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2}.get(event, 0)]
    if isinstance(parent, int) and parent >= 0:  # as shutil.rmtree says what it removes
        path = os.path.join(os.readlink(f"/proc/self/fd/{parent}"), path)
    return path.startswith(below)


def _copy_new(folder: Path, keep: Path, seen: set[str]) -> None:
    new = keep / f"{len(seen):04}"
    for left in reversed(range(TRIES)):
        try:
            shutil.copytree(folder, new)
            break
        except (shutil.Error, FileNotFoundError):
            shutil.rmtree(new, ignore_errors=True)
            if not left:
                raise
    if (content := state_of(new)) in seen:
        shutil.rmtree(new)
    seen.add(content)


def state_of(folder: Path) -> str:
    """Return a text that is the same for folders that differ in random names and in who holds a lock alone.

    Nor does it count what is in a folder that is being made under a random name: the next process removes it first.
    """
    digest = hashlib.sha256()
    names = {RANDOM.sub("", str(path.relative_to(folder))): path for path in folder.rglob("*")}
    for name, path in sorted((name, path) for name, path in names.items() if not MADE.match(name)):
        digest.update(name.encode())
        if path.is_file() and path.suffix != ".lock":
            digest.update(path.read_bytes())
    return digest.hexdigest()


def alone(function: Callable[..., object], folder: Path, *others: str) -> str:
    """Call a test module's function in a new process, of one thread, so that it can fork; return what it prints."""
    code = "import pathlib, sys, importlib; m, f, p, *o = sys.argv[1:]"
    code += "; getattr(importlib.import_module(m), f)(pathlib.Path(p), *o)"
    new = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, function.__module__, function.__name__, str(folder), *others]
    done = subprocess.run(command, capture_output=True, text=True, env=new, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
