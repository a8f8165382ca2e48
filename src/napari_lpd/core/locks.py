"""One writer at a time: a lock file says who writes to a folder or file; that of a process that is gone is taken over.

A lock is a file that is made exclusively, by a hard link where the file system has them, which holds on network
folders, too. It names host, process and time, so that who has to wait knows for whom. Its holder touches it again and
again: one of another host that was not touched for `SILENCE_S`, by the clock of the folder's own server, was left. A
holder that was only asleep meanwhile finds that it holds nothing before it writes again (`check_held`).
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
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil  # type: ignore[import-untyped]
from pydantic import TypeAdapter

from napari_lpd.core.errors import ExportError, LpdError, writing
from napari_lpd.core.reading import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 10  # how long to wait for another process's short work
PREFIX, PARTIAL = ".napari-lpd-", ".partial"  # beginning and end of the names of what is being written
UNKNOWN = -1  # start of a process that is there but may not be looked at
HALF_WRITTEN_S = 60  # a lock without content that is older was left by a process that was killed while it made it
JUST_BEGUN = "someone who has just begun"
RELEASES = 10  # how often a lock may be released between two looks at it
TAKEOVER_S = 5  # how long two processes may be busy with one lock of a process that is gone
BEAT_S = 20  # how often a holder touches its lock
SILENCE_S = 300  # after which a holder on another host counts as gone
DAY_S = 86400  # after which what another host was writing is no longer written


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
        """Return whether the process is known to have ended; of another host that is not known."""
        if self.machine != machine():
            return False
        now = started(self.pid)
        return now is None or (UNKNOWN not in (now, self.started) and now != self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine.split()[0]} since {self.since}"


HOLDER = TypeAdapter(Holder)


def partial_beside(path: Path) -> Path:
    """Name a new file beside `path` to write to: nobody can know it before, and `remove_leftovers` knows its writer."""
    own = Holder.own()
    return path.with_name(f"{PREFIX}{_own_host()}-{own.pid}-{own.started}-{own.token}{PARTIAL}")


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that are gone were writing in a folder when they ended; of other hosts, after a day."""
    for path in folder.glob(f"{PREFIX}*{PARTIAL}"):
        host, pid, began, *_ = [*path.name.removeprefix(PREFIX).split("-"), "", ""]
        with contextlib.suppress(FileNotFoundError):  # another process is faster
            if host != _own_host():
                gone = time.time() - path.lstat().st_mtime > DAY_S
            else:
                gone = pid.isdigit() and began.isdigit() and Holder(machine(), int(pid), int(began)).is_gone()
            if gone:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _own_host() -> str:
    return hashlib.sha256(machine().encode()).hexdigest()[:8]


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
    _OWN.add(own.token)
    try:
        with writing(what, error):
            lock.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(lock.parent)
            until = time.monotonic() + wait_s
            while (other := _taken(lock, own)) is not None:
                if time.monotonic() >= until:
                    raise error(f"{what}: is being written by another napari-lpd ({other}): {_remedy(other, lock)}")
                time.sleep(0.02)
        _HELD[own.token] = _Held(lock, what, own, error)
        _keep_touched()
        yield
    finally:
        _HELD.pop(own.token, None)
        _OWN.discard(own.token)
        with contextlib.suppress(OSError):  # then it is nobody's: the next one takes it over
            if _read(lock) == own:
                lock.unlink()


def _remedy(other: Holder | str, lock: Path) -> str:
    if isinstance(other, Holder) and other.machine != machine():
        return f"wait until it is done; if that one is gone, try again in {SILENCE_S // 60} minutes, or delete {lock}"
    return f"wait until it is done, or end it; if there is no such process, delete {lock}"


class _Held(NamedTuple):
    lock: Path
    what: Path
    own: Holder
    error: type[LpdError]


_HELD: dict[str, _Held] = {}  # the locks of this process, by token
_OWN: set[str] = set()  # tokens of these, and of those that it is about to take


def check_held(path: Path) -> None:
    """Check, before `path` is written, that the locks under which this process writes there are still its own.

    Raises:
        LpdError: of the class that was given to `locked`: one was taken over, or deleted, as if this process were gone.
    """
    for lock, what, own, error in list(_HELD.values()):
        if (path == what or what in path.parents) and own.pid == os.getpid() and (other := _read(lock)) != own:
            taken = f"taken over by {other}" if other else "deleted"
            raise error(f"{what}: nothing more is written there: the lock of this process was {taken}; run it again")


def _keep_touched() -> None:
    """Touch the locks of this process again and again, in a thread that runs from the first lock on."""
    if not any(thread.name == _touch_all.__name__ for thread in threading.enumerate()):
        threading.Thread(target=_touch_all, name=_touch_all.__name__, daemon=True).start()


def _touch_all() -> None:
    while True:
        time.sleep(BEAT_S)
        _touch()


def _touch() -> None:
    for held in list(_HELD.values()):
        with contextlib.suppress(OSError):  # a network that is cut off: the next time, or it is held no more
            if _read(held.lock) == held.own:
                os.utime(held.lock)


def holder(lock: Path) -> str:
    """Describe who holds a lock; "" where it is free, or was left by a process that is gone."""
    other = _read(lock)
    return "" if other is None or _is_left(other, lock, time.time()) else str(other)


def beside(path: Path) -> Path:
    """Return the lock file of a file, or of a folder that is replaced as a whole."""
    return path.with_name(f".{path.name}.lock")


def inside(folder: Path) -> Path:
    """Return the lock file of a folder that stays."""
    return folder / ".napari-lpd.lock"


def _taken(lock: Path, own: Holder) -> Holder | str | None:
    """Take the lock; return who holds it, None where it is ours now."""
    for _ in range(RELEASES):
        now = _created(lock, own)
        if now is None:
            return None
        other = _read(lock)
        if other is not None:
            return _take_over(lock, other, own) if _is_left(other, lock, now) else other
    return JUST_BEGUN


def _is_left(other: Holder | str, lock: Path, now: float) -> bool:
    """Return whether the holder of a lock is gone; `now` is the time by the clock that times files there."""
    if isinstance(other, Holder) and other.machine == machine():
        return other.is_gone() or (other.pid == os.getpid() and other.token not in _OWN)
    with contextlib.suppress(FileNotFoundError):
        silent = now - lock.stat().st_mtime
        return silent > (SILENCE_S if isinstance(other, Holder) else HALF_WRITTEN_S)
    return False


def _take_over(lock: Path, other: Holder | str, own: Holder) -> Holder | str | None:
    """Replace the lock of a process that is gone; only one process does, so that no new lock is taken for the old."""
    with locked(lock.with_name(f"{lock.name}+"), lock, wait_s=TAKEOVER_S):
        now = _read(lock)
        if now != other:
            return now or JUST_BEGUN
        os.replace(_written(lock, own), lock)
    return None


def _created(lock: Path, own: Holder) -> float | None:
    """Create the lock file exclusively, with its content at once; None where that is done, else the time there."""
    new = _written(lock, own)
    now = new.stat().st_mtime
    try:
        os.link(new, lock)
    except FileExistsError:
        return None if _read(lock) == own else now  # a network may have lost the answer to a first try
    except OSError:  # no hard links there
        try:
            _write(lock, own)
        except FileExistsError:
            return now
    finally:
        with contextlib.suppress(OSError):  # then `remove_leftovers` of the next process removes it
            new.unlink()
    return None


def _written(lock: Path, own: Holder) -> Path:
    new = partial_beside(lock)
    _write(new, own)
    return new


def _write(new: Path, own: Holder) -> None:
    with new.open("x", encoding="utf-8") as file:
        file.write(json.dumps(asdict(own)))


def _read(lock: Path) -> Holder | str | None:
    """Read who holds a lock: None where it is free, a text where the file says nothing."""
    try:
        return HOLDER.validate_python(parse_json(lock.read_bytes(), dict))
    except FileNotFoundError:
        return None
    except ValueError:
        return JUST_BEGUN
