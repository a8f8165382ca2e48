"""Hash files, and write files atomically: completely or not at all, over others only on request."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.core.errors import DataError, ExportError, LpdError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

KEY = "napari_lpd"  # of our metadata in every file format
HASH_BYTES = 8  # of a SHA-256; enough to tell files apart, and small in a checkpoint


def refuse_overwrite(path: Path, overwrite: bool) -> None:
    """Raise ExportError if `path` exists and `overwrite` is off."""
    if path.exists() and not overwrite:
        raise ExportError(f"{path} exists and is not overwritten: choose another name, or allow overwriting")


@contextmanager
def atomic_write(path: Path, overwrite: bool = True, error: type[LpdError] = ExportError) -> Iterator[Path]:
    """Yield a temporary file beside `path`, which replaces `path` on success and is removed on an error.

    Args:
        path: File to write.
        overwrite: Replace an existing file.
        error: Class of the error that is raised where the file cannot be written.

    Raises:
        ExportError: `path` is a folder, or exists and `overwrite` is off.
    """
    refuse_overwrite(path, overwrite)
    if path.is_dir():
        raise ExportError(f"{path} is a folder: choose another name")
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as cause:
        raise error(f"{path}: cannot be written ({cause.strerror or cause})") from cause
    finally:
        if partial.is_file():
            partial.unlink()


def write_text(path: Path, text: str, overwrite: bool = True, error: type[LpdError] = ExportError) -> Path:
    """Write a text file in UTF-8 atomically, as `atomic_write`."""
    with atomic_write(path, overwrite, error) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def write_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Write files into `folder`, created if missing; existing files are replaced only when all are written.

    Raises:
        ExportError: a file cannot be written.
    """
    with ExitStack() as stack:
        for name, content in contents.items():
            stack.enter_context(atomic_write(folder / name)).write_bytes(content)


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
        rivals = [other.parts for other in paths if other != path]
        count = 1
        while count < len(path.parts) and any(other[-count:] == path.parts[-count:] for other in rivals):
            count += 1
        names.append("/".join(path.parts[-count:]))
    return names


def check_writable(folder: Path) -> None:
    """Raise DataError, before long work begins, if `folder` cannot be written."""
    created = not folder.exists()
    if folder.is_file():
        raise DataError(f"{folder}: is a file, not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror})") from error
    if created:
        folder.rmdir()
