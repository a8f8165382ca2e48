"""What a command is about to write, checked against all that it reads, before the work begins."""

from __future__ import annotations

import os
import unicodedata
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from napari_lpd.core.errors import ExportError
from napari_lpd.core.files import check_writable, refuse_overwrite
from napari_lpd.core.locks import inside, locked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

LONGEST_NAME, LONGEST_PATH = 255, 4096  # bytes, where the file system does not say


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Refuse outputs that would replace an input, or whose names cannot be written.

    Two paths are the same where they lead to one file through links, or differ only in upper and lower case, which many
    file systems do not tell apart, or in how accents are composed.

    Args:
        outputs: Files and folders that will be written.
        inputs: Files and folders that are read: slides, regions, models, settings, results.

    Raises:
        ExportError: one line that names the output, the input and the remedy.
    """
    read = [path for path in inputs if path is not None][::-1]  # where several match, the first is named
    by_key = {_key(path): path for path in read}
    files = {_file(path) for path in read} - {None}
    inside_of = {str(folder): path for key, path in by_key.items() for folder in Path(key).parents}
    for path in outputs:
        check_name(path)
        key = _key(path)
        if key in by_key or _file(path) in files:
            raise ExportError(f"{path}: is read for this, so nothing is written there: choose another place")
        if (held := inside_of.get(key)) is not None:
            raise ExportError(
                f"{path}: holds {held.name}, which is read for this, so it is not replaced: choose another"
            )
        for folder in map(str, Path(key).parents):
            if folder in by_key and (by_key[folder] / "zarr.json").exists():
                name = by_key[folder].name
                raise ExportError(f"{path}: lies in the result {name}, which is read for this: choose another place")


def check_distinct(outputs: Mapping[Path, Iterable[Path]]) -> None:
    """Refuse outputs of several inputs, by input, of which two would be one; what is one is as in `check_outputs`.

    Raises:
        ExportError: one line that names both inputs and the output.
    """
    taken: dict[str, Path] = {}
    for origin, paths in outputs.items():
        for path in paths:
            other = taken.setdefault(_key(path), origin)
            if other != origin:
                raise ExportError(
                    f"{other} and {origin} would both be written to {path.name} (upper and lower case count as one):"
                    " give them two folders"
                )


@contextmanager
def run_folder(
    folder: Path, marks: Mapping[str, str], inputs: Iterable[Path | None], overwrite: bool = False
) -> Iterator[None]:
    """Hold a folder while a command writes into it; all that it will write is checked first.

    Args:
        folder: Made where it is missing; removed if nothing was written.
        marks: The files that will be written, by name, with what an existing one must hold, as for
            `files.refuse_overwrite`.
        inputs: All that is read.
        overwrite: Whether the user has agreed to replace files of ours.

    Raises:
        ExportError: a file is there that is not to be replaced, or someone else is writing there.
        DataError: the folder cannot be written.
    """
    check_outputs([folder / name for name in marks], inputs)
    for name, mark in marks.items():
        refuse_overwrite(folder / name, overwrite, mark)
    check_writable(folder)
    try:
        with locked(inside(folder), folder):
            yield
    finally:
        with suppress(OSError):  # then an empty folder stays
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def check_name(path: Path) -> None:
    """Raise ExportError if a path is not UTF-8, or is longer than its file system takes."""
    check_text(path)
    parent = next(folder for folder in (path.absolute().parent, *path.absolute().parents) if folder.is_dir())
    for text, limit, what in (
        (path.name, _limit(parent, "PC_NAME_MAX", LONGEST_NAME), "name"),
        (str(path.absolute()), _limit(parent, "PC_PATH_MAX", LONGEST_PATH), "path"),
    ):
        if len(os.fsencode(text)) > limit:
            raise ExportError(
                f"{path.name[:60]}…: its {what} has {len(os.fsencode(text))} bytes, and {parent} takes {limit}: give"
                " the slide, or what else it is called after, a shorter name"
            )


def check_text(path: Path) -> None:
    """Raise ExportError if a name that goes into results is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="replace")
        raise ExportError(f"{shown}: its name is not UTF-8, as results need it: rename it") from error


def _limit(folder: Path, name: str, default: int) -> int:
    return os.pathconf(folder, name) if hasattr(os, "pathconf") else default


def _key(path: Path) -> str:
    """Return a text that is the same for two paths to one file."""
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()


def _file(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from all others, whatever it is called; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
