"""Hash files, and write files atomically: completely or not at all, over others only on request."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.core.errors import DataError, ExportError, LpdError, not_written, writing
from napari_lpd.core.locks import check_held, partial_beside, remove_leftovers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

KEY = "napari_lpd"  # of our metadata in every file format
MARKED = 2**16  # bytes at either end of a file in which our mark stands
HASH_BYTES = 8  # of a SHA-256; enough to tell files apart, and small in a checkpoint


def refuse_overwrite(path: Path, overwrite: bool, mark: str = "") -> None:
    """Raise ExportError if `path` exists, unless it may be overwritten and is a file of ours of the same kind.

    Args:
        path: What is to be written.
        overwrite: Whether the user has agreed to replace a file.
        mark: What every file of that kind has in its first or last bytes; from `mark_of`, or a table's first columns.
    """
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise ExportError(
            f"{path} exists and is not overwritten: choose another name, or allow overwriting (--overwrite)"
        )
    if not path.is_dir() and not is_ours(path, mark):
        raise ExportError(
            f"{path} exists and is no file of this kind written by napari-lpd, so it is not replaced: choose another"
            " name, or move it away"
        )


def mark_of(kind: str) -> str:
    """Return what tells our files of one kind from all others."""
    return f"napari-lpd {kind}"


def is_ours(path: Path, mark: str) -> bool:
    """Return whether a file has a mark in its first or last 64 kB."""
    try:
        with path.open("rb") as file:
            start = file.read(MARKED)
            file.seek(max(path.stat().st_size - MARKED, 0))
            return mark.encode() in start or mark.encode() in file.read(MARKED)
    except OSError:
        return False


@contextmanager
def atomic_write(
    path: Path, overwrite: bool = True, error: type[LpdError] = ExportError, mark: str = ""
) -> Iterator[Path]:
    """Yield a new file beside `path`, which takes its place on success and is removed on an error.

    Nobody can know the file's name before, it is no link, and what is in it has reached the disk when it gets its name.

    Args:
        path: File to write.
        overwrite: Replace an existing file.
        error: Class of the error that is raised where the file cannot be written.
        mark: What an existing file must hold to be replaced, as for `refuse_overwrite`; "": it is known to be ours.

    Raises:
        ExportError: `path` is a folder, or exists and `overwrite` is off, or is none of ours.
    """
    refuse_overwrite(path, overwrite, mark)
    if path.is_dir():
        raise ExportError(f"{path} is a folder: choose another name")
    check_held(path)
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clean(path.parent, os.getpid())
        partial = partial_beside(path)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666))
        yield partial
        _reach_disk(partial)
        check_held(path)
        (os.replace if overwrite else _rename_new)(partial, path)
        _reach_disk(path.parent)
    except OSError as cause:
        if isinstance(cause, FileExistsError) and not overwrite:
            refuse_overwrite(path, overwrite)  # someone else was faster
        raise error(not_written(path, cause)) from cause
    finally:
        if partial is not None:
            with suppress(OSError):  # then `remove_leftovers` of the next process removes it
                partial.unlink()


@lru_cache(maxsize=1024)
def _clean(folder: Path, process: int) -> None:
    """Remove what others left in a folder, once per process."""
    del process
    remove_leftovers(folder)


def _reach_disk(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk, as far as the file system offers that."""
    if path.is_dir() and os.name != "posix":
        return
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(file)


def _rename_new(partial: Path, path: Path) -> None:
    """Rename a file to a name that nobody has taken in the meantime."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links there
        refuse_overwrite(path, overwrite=False)
        os.replace(partial, path)


def write_text(
    path: Path, text: str, overwrite: bool = True, error: type[LpdError] = ExportError, mark: str = ""
) -> Path:
    """Write a text file in UTF-8 atomically, as `atomic_write`."""
    with atomic_write(path, overwrite, error, mark) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def write_files(
    folder: Path, contents: dict[str, bytes], overwrite: bool = True, marks: Mapping[str, str] | None = None
) -> None:
    """Write files into `folder`, created if missing; existing files are replaced only when all are written.

    Args:
        folder: Where to.
        contents: By name.
        overwrite: Replace existing files.
        marks: By name, what an existing file must hold to be replaced, as for `refuse_overwrite`.

    Raises:
        ExportError: a file cannot be written, or one is there that is not to be replaced.
    """
    with ExitStack() as stack:
        for name, content in contents.items():
            partial = stack.enter_context(atomic_write(folder / name, overwrite, mark=(marks or {}).get(name, "")))
            partial.write_bytes(content)
            _reach_disk(partial)


def file_hashes(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Return the first 8 bytes of each file's SHA-256: (n, 8) uint8.

    Raises:
        DataError: a file cannot be read.
    """
    hashes = np.zeros((len(paths), HASH_BYTES), np.uint8)
    for row, path in zip(hashes, paths, strict=True):
        try:
            row[:] = list(bytes.fromhex(file_hash(path))[:HASH_BYTES])
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return hashes


def overlap(train_hashes: NDArray[np.uint8], test_paths: Sequence[Path]) -> list[Path]:
    """List the `test_paths` with the content of a training file, by `train_hashes` (n, 8) from `file_hashes`."""
    known = {row.tobytes() for row in train_hashes}
    return [path for path, row in zip(test_paths, file_hashes(test_paths), strict=True) if row.tobytes() in known]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def told_apart(paths: Sequence[Path]) -> list[str]:
    """Name files for people: by their names, and where these repeat, with the folders that tell them apart."""
    names = []
    for path in paths:
        others = [other.parts for other in paths if other != path]
        count = 1
        while count < len(path.parts) and any(other[-count:] == path.parts[-count:] for other in others):
            count += 1
        names.append("/".join(path.parts[-count:]))
    return names


def check_writable(folder: Path) -> None:
    """Raise DataError, before long work begins, if `folder` cannot be written."""
    created = not folder.exists()
    if folder.is_file():
        raise DataError(f"{folder}: is a file, not a folder")
    with writing(folder, DataError):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if created:
            folder.rmdir()
