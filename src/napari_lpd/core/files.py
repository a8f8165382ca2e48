"""Files that are written whole or not at all, and never in place of another one unless that is wanted."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.core.errors import DataError, ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def refuse_overwrite(path: Path, overwrite: bool) -> None:
    """Raise ExportError where something is at `path` and `overwrite` is off."""
    if path.exists() and not overwrite:
        raise ExportError(f"{path} exists and is not overwritten: choose another name, or ask for it to be replaced")


@contextmanager
def atomic_write(path: Path, overwrite: bool) -> Iterator[Path]:
    """Give a file beside `path` to write to; it becomes `path` when all went well, else it goes.

    Raises:
        ExportError: `path` exists and `overwrite` is off, or the place cannot be written.
    """
    refuse_overwrite(path, overwrite)
    if path.is_dir():
        raise ExportError(f"{path} is a folder: choose another name")
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if partial.is_file():
            partial.unlink()


def write_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Write files into `folder`, made where it is missing; old ones are replaced only when all are written.

    Raises:
        ExportError: a file cannot be written.
    """
    partials = {folder / name: folder / f".{name}.partial" for name in contents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for partial, content in zip(partials.values(), contents.values(), strict=True):
            partial.write_bytes(content)
        for path, partial in partials.items():
            os.replace(partial, path)
    except OSError as error:
        raise ExportError(f"{folder}: the report cannot be written ({error.strerror or error})") from error
    finally:
        for partial in partials.values():
            if partial.is_file():
                partial.unlink()


KEY = "napari_lpd"  # under which every format keeps what is ours
HASH_BYTES = 8


def file_hashes(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """The first 8 bytes of each file's SHA-256: (n, 8).

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
    """The files of `test_paths` that were trained on, byte for byte, by `train_hashes` (n, 8) from `file_hashes`."""
    known = {row.tobytes() for row in train_hashes}
    return [path for path, row in zip(test_paths, file_hashes(test_paths), strict=True) if row.tobytes() in known]


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """Raise DataError now, not after an hour, if `folder` cannot be written."""
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
