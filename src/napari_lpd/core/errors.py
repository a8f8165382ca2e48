"""Errors that a user can fix, as one line that names the object, the value and what was expected; and all others."""

from __future__ import annotations

import datetime
import errno
import os
import re
import tempfile
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG, KEPT_LOGS = "error-", 20  # name of the logs of unexpected errors, and how many stay
MAX_LINE = 300  # characters of a printed line
SURROGATE = re.compile("[\ud800-\udfff]")
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
NOTICE = "Research use only; not for diagnosis."  # stands in every result, report and window


class LpdError(Exception):
    """Base of every error that is reported as one line instead of a traceback."""


class SlideError(LpdError):
    """A slide cannot be opened or read, or gives no usable resolution."""


class ChangedSlideError(SlideError):
    """A slide's file is not what it was when it was opened."""


class DataError(LpdError):
    """Training data, regions or labels are missing or contradict each other."""


class ModelError(LpdError):
    """A checkpoint or encoder cannot be built or loaded."""


class SettingsError(LpdError):
    """A setting is unknown or out of its limits."""


class ExportError(LpdError):
    """A result cannot be read or written."""


def reason(error: Exception) -> str:
    """Return an error's text; of a file system's error without number and path, as our message names the file."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def not_written(path: Path, error: OSError, kept: str = "") -> str:
    """Say that a file or folder cannot be written, why, what is kept of it, and what to do."""
    if error.errno in FULL:
        remedy = "free some disk space, and run it again"
    elif error.errno in REFUSED:
        remedy = "make it writable, or choose another folder"
    else:
        remedy = "run it again, or choose another folder"
    return f"{path}: cannot be written ({reason(error)}); {kept}{remedy}"


@contextmanager
def writing(path: Path, error: type[LpdError] = ExportError) -> Iterator[None]:
    """Raise what the file system says inside as an error that names `path`, the cause and what to do."""
    try:
        yield
    except OSError as cause:
        raise error(not_written(path, cause)) from cause


def absent(path: Path, what: str = "file") -> str:
    """Say that a file or folder, which the user has named, is not there."""
    return f"{path}: no such {what}; check its name and folder"


def one_line(what: BaseException | str, limit: int = MAX_LINE) -> str:
    """Make a text, or that of an error, one line without control characters, cut in its middle to `limit` characters.

    An error without a text is named by its type.
    """
    text = str(what)
    if len(text) > 20 * limit:
        text = f"{text[: 10 * limit]} {text[-10 * limit :]}"
    line = " ".join(SURROGATE.sub("\ufffd", CONTROL.sub(" ", text)).split())
    if not line and isinstance(what, BaseException):
        return type(what).__name__
    if len(line) <= limit:
        return line
    head = limit * 2 // 3
    return f"{line[:head]} … {line[len(line) - (limit - head - 3) :]}"


def described(error: BaseException) -> str:
    """Describe any error in one line: an `LpdError` by its text, another as unexpected, with the file of its traceback.

    The files are kept in the user's folder of logs, the newest `KEPT_LOGS` of them.
    """
    if isinstance(error, LpdError):
        return one_line(error)
    if isinstance(error, MemoryError):
        return "not enough memory: close other programs, or choose smaller settings"
    if type(error).__name__ == "OutOfMemoryError":  # torch's; it is not loaded for that
        return "not enough memory on the GPU: close other programs, choose a smaller tile or batch, or device=cpu"
    log = _log(error)
    end = f"; please report it with {log}" if log else ""
    room = max(60, MAX_LINE - len("unexpected napari-lpd: error: ") - len(end))
    return f"unexpected {one_line(f'{type(error).__name__}: {error}', room).rstrip(': ')}{end}"


def _log(error: BaseException) -> Path | None:
    """Write an error's traceback to a new file; None where no folder can be written."""
    now = datetime.datetime.now(datetime.UTC)
    for folder in (
        platformdirs.user_log_path("napari-lpd", appauthor=False),
        Path(tempfile.gettempdir(), "napari-lpd"),
    ):
        path = folder / f"{LOG}{now:%Y-%m-%d-%H%M%S-%f}-{os.getpid()}.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(traceback.format_exception(error))
            for old in sorted(folder.glob(f"{LOG}*.log"))[:-KEPT_LOGS]:
                old.unlink(missing_ok=True)
        except OSError:
            continue
        return path
    return None
