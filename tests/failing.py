"""A disk whose n-th file operation fails: full from there on, or with a single error of the device or of rights.

Opening for writing, writing, syncing, renaming, linking, making and removing are counted below given folders, whoever
asks for them: our own code, zarr, tifffile, Pillow or NumPy. Nothing is undone: use it in a forked process.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from killing import in_child

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
GROWING = ("open", "write", "fsync", "mkdir", "link")  # what a full disk refuses
LEFT = re.compile(r"(^|/)\.[^/]*(\.partial|\.lock|\.old)(/|$)")  # what the next process removes
REMEDIES = ("run it again", "choose another folder", "see the reasons in")


class Disk:
    """Counts the operations below folders, and lets one fail.

    Args:
        folders: Where.
        number: Which operation fails, from 1; 0: none.
        error: How, one of `ERRORS`.

    Attributes:
        seen: The operations so far: "write /folder/a.txt".
        failed: Those that failed.
    """

    def __init__(self, folders: tuple[Path, ...], number: int = 0, error: int = 0) -> None:
        self._folders = tuple(str(folder) for folder in folders)
        self._number, self._error, self._one_at_a_time = number, error, threading.Lock()
        self.seen, self.failed = list[str](), list[str]()

    def check(self, operation: str, path: Any) -> None:
        """Count an operation; raise OSError if it is the one that fails, or if the disk is full."""
        place = os.path.abspath(os.fspath(path))
        if not place.startswith(self._folders):
            return
        with self._one_at_a_time:
            self.seen.append(f"{operation} {place}")
            if self._error == errno.ENOSPC:
                fails = operation in GROWING and 0 < self._number <= len(self.seen)
            else:
                fails = len(self.seen) == self._number
            if fails:
                self.failed.append(f"{operation} {place}")
                raise OSError(self._error, os.strerror(self._error), place)

    def install(self) -> None:
        """Put itself between this process and its files."""
        disk = self

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                disk.check("write", self.name)
                return super().write(data)

            def fileno(self) -> int:  # so that libraries write by `write` alone
                raise io.UnsupportedOperation("fileno")

        def opened(file: Any, mode: str = "r", buffering: int = -1, *given: Any, **named: Any) -> Any:
            if isinstance(file, int) or "opener" in named or not set("wax+") & set(mode):
                return plain(file, mode, buffering, *given, **named)
            disk.check("open", file)
            raw = File(file, mode.replace("b", "").replace("t", ""))
            buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *given, **named)

        plain = io.open
        io.open = builtins.open = opened
        self._wrap_system_calls()

    def _wrap_system_calls(self) -> None:
        def wrapped(name: str, operation: str, which: int = 0) -> None:
            function = getattr(os, name)

            def call(*given: Any, **named: Any) -> Any:
                if operation != "open" or given[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                    self.check(operation, _path(given[which], named.get("dir_fd")))
                return function(*given, **named)

            setattr(os, name, call)

        for name in ("open", "fsync", "mkdir", "rmdir", "unlink", "remove", "truncate"):
            wrapped(name, name)
        for name in ("rename", "replace", "link"):
            wrapped(name, name, 1)


def _path(given: Any, folder: int | None) -> Any:
    if isinstance(given, int):
        return os.readlink(f"/proc/self/fd/{given}")
    return given if folder is None else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fspath(given))


class Outcome(NamedTuple):
    """What a command did on a failing disk: exit code, what it printed as errors, its operations, those that failed."""

    code: int
    said: str
    seen: list[str]
    failed: list[str]


class Job(NamedTuple):
    """A command, and how to look at what it leaves.

    Attributes:
        work: Does it below a folder; prints its errors; returns the exit code.
        look: Looks at a folder in which it failed; raises where something there is believed that should not be.
        content: All that is in a folder, so that two can be compared.
    """

    work: Callable[[Path], int]
    look: Callable[[Path], object]
    content: Callable[[Path], dict[str, object]]


def spread(count: int) -> Iterator[tuple[int, int]]:
    """List which operation fails how: a spread of them, or, with NAPARI_LPD_FAULTS=all, each with every error."""
    if os.environ.get("NAPARI_LPD_FAULTS") == "all":
        yield from ((number, error) for number in range(1, count + 1) for error in ERRORS)
        return
    few = 1 + count // 300
    yield from (((2 * i + 1) * count // (2 * few) + 1, ERRORS[(i + count) % 3]) for i in range(few))


def fail_everywhere(job: Job, before: Path, keep: Path) -> tuple[int, list[str]]:
    """Do a job on a copy of `before` once for each failing operation; return how often, and what was wrong.

    Wanted: one line that names a file and a remedy and the exit code 2 (or a whole result, if it could do without);
    nothing half-done that is believed; and the same content as ever once it is done again on a sound disk.
    """
    whole = _copy(before, keep / "whole")
    first = _run(job, whole, keep / "said")
    assert first.code == 0, first.said
    wanted, wrong, tried = job.content(whole), [], 0
    for number, error in spread(len(first.seen)):
        out, tried = _copy(before, keep / "out"), tried + 1
        outcome = _run(job, out, keep / "said", number, error)
        try:
            _check(job, out, outcome, wanted, keep)
        except Exception as problem:  # noqa: BLE001  all are listed together
            where = ", ".join(outcome.failed[:1]) or "nothing failed"
            wrong.append(
                f"{number}/{len(first.seen)} {os.strerror(error)}, {where}: {type(problem).__name__}: {problem}"
            )
    return tried, wrong


def _copy(before: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(before, to)
    return to


def _run(job: Job, out: Path, log: Path, number: int = 0, error: int = 0) -> Outcome:
    """Do a job in a forked process, where an operation below `out` fails; without a number none does."""

    def work() -> None:
        said, disk = io.StringIO(), Disk((out,), number, error)
        disk.install()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = job.work(out)
        log.write_text(json.dumps([code, said.getvalue(), disk.seen, disk.failed]), encoding="utf-8")

    log.unlink(missing_ok=True)
    ended = in_child(work)
    return Outcome(*json.loads(log.read_bytes())) if log.exists() else Outcome(ended, "it ended without a line", [], [])


def _check(job: Job, out: Path, outcome: Outcome, wanted: dict[str, object], keep: Path) -> None:
    job.look(out)
    lines = [line for line in outcome.said.splitlines() if "error: " in line]
    if outcome.code == 0:
        assert not lines, lines
        different = [name for name in _different(job.content(out), wanted) if not LEFT.search(name)]
        assert not different, f"exit code 0, but {different}"
    else:
        assert outcome.code == 2, f"exit code {outcome.code}: {outcome.said[-600:]}"
        assert len(lines) == 1, f"{len(lines)} lines: {outcome.said[-600:]}"
        assert str(out) in lines[0], f"names no file: {lines[0]}"
        assert any(remedy in lines[0] for remedy in REMEDIES), f"no remedy: {lines[0]}"
    again = _run(job, out, keep / "again")
    if outcome.code == 0 and "is not overwritten" in again.said:
        return
    assert again.code == 0, f"again: {again.said[-600:]}"
    if different := _different(job.content(out), wanted):
        raise AssertionError(f"done again, but {different}")


def _different(found: dict[str, object], wanted: dict[str, object]) -> list[str]:
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
