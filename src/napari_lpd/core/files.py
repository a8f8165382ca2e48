"""Files that are written whole or not at all, and never in place of another one unless that is wanted."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from napari_lpd.core.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def check_free(path: Path, overwrite: bool) -> None:
    """Raise ExportError where something is at `path` and `overwrite` is off."""
    if path.exists() and not overwrite:
        raise ExportError(f"{path} exists and is not overwritten: choose another name, or ask for it to be replaced")


@contextmanager
def written_whole(path: Path, overwrite: bool) -> Iterator[Path]:
    """Give a file beside `path` to write to; it becomes `path` when all went well, else it goes.

    Raises:
        ExportError: `path` exists and `overwrite` is off, or the place cannot be written.
    """
    check_free(path, overwrite)
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
