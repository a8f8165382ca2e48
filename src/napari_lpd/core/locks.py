"""One writer at a time: a lock file says who writes to a folder or file; that of a process that is gone is taken over.

A lock is a file that is made exclusively, by a hard link where the file system has them, which holds on network
folders, too. It names host, process and time, so that who has to wait knows for whom.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import secrets
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]

from napari_lpd.core.errors import ExportError, LpdError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 10  # how long to wait for another process's short work
PARTIAL = ".partial"  # ending of what is being written
UNKNOWN = -1  # start of a process that is there but may not be looked at
HALF_WRITTEN_S = 60  # a lock without content that is older was left by a process that was killed while it made it
JUST_BEGUN = "someone who has just begun"
RELEASES = 10  # how often a lock may be released between two looks at it
TAKEOVER_S = 5  # how long two processes may be busy with one lock of a process that is gone


@lru_cache
def machine() -> str:
    """Name the host, and on Linux the space in which its process numbers count."""
    space = Path("/proc/self/ns/pid")
    return f"{platform.node()} {os.readlink(space)}" if space.is_symlink() else platform.node()


def started(pid: int) -> int | None:
    """Return when a process of this host began, by a clock of the system's own; None where it is gone."""
    if sys.platform == "linux":
        try:
            state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except (OSError, ValueError):
            return UNKNOWN if psutil.pid_exists(pid) else None
        return None if state in "ZX" else int(fields[18])
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return UNKNOWN


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock.

    Attributes:
        machine: Its host; from `machine`.
        pid: Its number there.
        started: When it began; from `started`.
        since: When it took the lock, for people.
        token: Different for every lock that was ever taken.
    """

    machine: str
    pid: int
    started: int
    since: str = ""
    token: str = ""

    @classmethod
    def own(cls) -> Holder:
        """Describe this process, as the holder of a new lock."""
        pid, now = os.getpid(), datetime.datetime.now().astimezone()
        began = started(pid)
        return cls(
            machine(), pid, UNKNOWN if began is None else began, now.isoformat(" ", "seconds"), secrets.token_hex(8)
        )

    def is_gone(self) -> bool:
        """Return whether the process has ended; of another host that is not known, so it counts as there."""
        if self.machine != machine():
            return False
        now = started(self.pid)
        return now is None or (UNKNOWN not in (now, self.started) and now != self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine.split()[0]} since {self.since}"


def partial_beside(path: Path) -> Path:
    """Name a new file beside `path` to write to: nobody can know it before, and `remove_leftovers` knows its writer."""
    own = Holder.own()
    return path.with_name(f"{_prefix()}{own.pid}-{own.started}-{own.token}{PARTIAL}")


def remove_leftovers(folder: Path) -> None:
    """Remove what processes of this host that are gone were writing in a folder when they ended."""
    for path in folder.glob(f"{_prefix()}*{PARTIAL}"):
        pid, began, *_ = path.name.removeprefix(_prefix()).split("-")
        if pid.isdigit() and began.isdigit() and Holder(machine(), int(pid), int(began)).is_gone():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _prefix() -> str:
    return f".napari-lpd-{hashlib.sha256(machine().encode()).hexdigest()[:8]}-"


@contextmanager
def locked(lock: Path, what: Path, error: type[LpdError] = ExportError, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file while something is written.

    Args:
        lock: The file; from `beside` or `inside`.
        what: What is written, for the message.
        error: Class of the error.
        wait_s: How long to wait for another writer.

    Raises:
        ExportError: someone else holds it, or it cannot be made.
    """
    own = Holder.own()
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + wait_s
        while (other := _taken(lock, own)) is not None:
            if time.monotonic() >= until:
                raise error(
                    f"{what}: is being written by another napari-lpd ({other}): wait until it is done; if that one is"
                    f" gone, delete {lock}"
                )
            time.sleep(0.02)
    except OSError as cause:
        raise error(f"{what}: cannot be written ({reason(cause)})") from cause
    try:
        yield
    finally:
        if _read(lock) == own:
            lock.unlink(missing_ok=True)


def holder(lock: Path) -> str:
    """Describe who holds a lock; "" where it is free, or was left by a process that is gone."""
    other = _read(lock)
    return "" if other is None or _is_left(other, lock) else str(other)


def beside(path: Path) -> Path:
    """Return the lock file of a file, or of a folder that is replaced as a whole."""
    return path.with_name(f".{path.name}.lock")


def inside(folder: Path) -> Path:
    """Return the lock file of a folder that stays."""
    return folder / ".napari-lpd.lock"


def _taken(lock: Path, own: Holder) -> Holder | str | None:
    """Take the lock; return who holds it, None where it is ours now."""
    for _ in range(RELEASES):
        if _created(lock, own):
            return None
        other = _read(lock)
        if other is not None:
            return _take_over(lock, other, own) if _is_left(other, lock) else other
    return JUST_BEGUN


def _is_left(other: Holder | str, lock: Path) -> bool:
    if isinstance(other, Holder):
        return other.is_gone()
    with contextlib.suppress(FileNotFoundError):
        return time.time() - lock.stat().st_mtime > HALF_WRITTEN_S
    return False


def _take_over(lock: Path, other: Holder | str, own: Holder) -> Holder | str | None:
    """Replace the lock of a process that is gone; only one process does, so that no new lock is taken for the old."""
    with locked(lock.with_name(f"{lock.name}+"), lock, wait_s=TAKEOVER_S):
        now = _read(lock)
        if now != other:
            return now or JUST_BEGUN
        os.replace(_written(lock, own), lock)
    return None


def _created(lock: Path, own: Holder) -> bool:
    """Create the lock file exclusively, with its content at once; return whether it was not there."""
    new = _written(lock, own)
    try:
        os.link(new, lock)
    except FileExistsError:
        return _read(lock) == own  # a network may have lost the answer to a first try
    except OSError:  # no hard links there
        try:
            with lock.open("x", encoding="utf-8") as file:
                file.write(json.dumps(asdict(own)))
        except FileExistsError:
            return False
    finally:
        new.unlink(missing_ok=True)
    return True


def _written(lock: Path, own: Holder) -> Path:
    new = partial_beside(lock)
    with new.open("x", encoding="utf-8") as file:
        file.write(json.dumps(asdict(own)))
    return new


def _read(lock: Path) -> Holder | str | None:
    """Read who holds a lock: None where it is free, a text where the file says nothing."""
    try:
        content: dict[str, Any] = json.loads(lock.read_bytes())
        return Holder(**content)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return JUST_BEGUN
