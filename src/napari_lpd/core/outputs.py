"""What a command is about to write, checked against all that it reads, before the work begins."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from napari_lpd.core.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LONGEST_NAME, LONGEST_PATH = 255, 4096  # bytes, where the file system does not say


def check_outputs(outputs: Mapping[str, Iterable[Path]], inputs: Iterable[Path | None]) -> None:
    """Refuse outputs that would replace an input, that meet each other, or whose names cannot be written.

    Two paths are the same where they lead to one file through links, or differ only in upper and lower case, which many
    file systems do not tell apart, or in how accents are composed.

    Args:
        outputs: Files and folders that will be written, by the name of what they are made of.
        inputs: Files and folders that are read: slides, regions, models, settings, results.

    Raises:
        ExportError: one line that names the output, the input and the remedy.
    """
    read = [path for path in inputs if path is not None]
    for path in read:
        _check_text(path)
    keys = {path: _key(path) for path in read}
    taken: dict[str, str] = {}
    for origin, paths in outputs.items():
        for path in paths:
            check_name(path)
            key = _key(path)
            if key in taken:
                raise ExportError(
                    f"{taken[key]} and {origin} would both be written to {path.name} (upper and lower case count as"
                    " one): give them two folders"
                )
            taken[key] = origin
            for other, its in keys.items():
                _check_apart(path, key, other, its)


def check_name(path: Path) -> None:
    """Raise ExportError if a path is not UTF-8, or is longer than its file system takes."""
    _check_text(path)
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


def _check_text(path: Path) -> None:
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


def _check_apart(output: Path, key: str, read: Path, its: str) -> None:
    there = output.exists() and read.exists()
    if key == its or (there and output.samefile(read)):
        raise ExportError(f"{output}: is read for this, so nothing is written there: choose another place")
    if Path(its).is_relative_to(key):
        raise ExportError(f"{output}: holds {read.name}, which is read for this, so it is not replaced: choose another")
    if Path(key).is_relative_to(its) and (read / "zarr.json").exists():
        raise ExportError(f"{output}: lies in the result {read.name}, which is read for this: choose another place")
