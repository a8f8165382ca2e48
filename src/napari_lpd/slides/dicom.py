"""DICOM slides as labs have them: any file name, or a folder of one series."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from napari_lpd.core.errors import SlideError
from napari_lpd.core.reading import visible

if TYPE_CHECKING:
    from pathlib import Path

HEAD = 2**16  # bytes of a file in which its series is named
LOOKED_AT = 256  # files of a folder, to see whether it holds DICOM
SHOWN = 4  # series that a message lists
SERIES = (0x0020, 0x000E)  # tag of the SeriesInstanceUID


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM by its first bytes, or a folder holds such a file; hidden files do not count."""
    if path.is_dir():
        return any(is_dicom(file) for file in _files(path)[:LOOKED_AT])
    return _head(path, 132)[128:] == b"DICM"


def dicom_series(path: Path) -> list[Path]:
    """List the files of one slide, sorted, whatever their names: those of a file's series, or all of a folder.

    Raises:
        SlideError: a folder holds no DICOM, or more than one series.
    """
    if path.is_file():
        uid = _series_uid(path)
        return [other for other in _dicom_files(path.parent) if _series_uid(other) == uid] if uid else [path]
    series: dict[bytes, list[Path]] = {}
    for file in _dicom_files(path):
        series.setdefault(_series_uid(file), []).append(file)
    if not series:
        raise SlideError(f"{path}: a folder without DICOM files is not a slide")
    if len(named := {uid: files for uid, files in series.items() if uid}) > 1:
        shown = ", ".join(files[0].name for files in list(named.values())[:SHOWN])
        raise SlideError(f"{path}: holds {len(named)} DICOM series: open a file of one instead, e.g. {shown}")
    return sorted(file for files in series.values() for file in files)


def _files(folder: Path) -> list[Path]:
    try:
        return [file for file in visible(folder.iterdir()) if file.is_file()]
    except OSError as error:
        raise SlideError(f"{folder}: cannot be read ({error.strerror})") from error


def _dicom_files(folder: Path) -> list[Path]:
    return [file for file in _files(folder) if is_dicom(file)]


def _head(path: Path, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(length)
    except OSError:  # another file of the folder, which is not asked for
        return b""


def _series_uid(path: Path) -> bytes:
    """Read the SeriesInstanceUID in the head of a DICOM file; b"" if absent."""
    head = _head(path, HEAD)
    # Explicit types, implicit ones, explicit ones in big-endian order.
    for order, kind, length in (("<", b"UI", "H"), ("<", b"", "I"), (">", b"UI", "H")):
        tag = struct.pack(f"{order}HH", *SERIES) + kind
        place = head.find(tag, 132) + len(tag)
        if len(tag) <= place <= len(head) - 4:
            (size,) = struct.unpack_from(f"{order}{length}", head, place)
            return head[place + struct.calcsize(length) :][:size].rstrip(b"\0 ")
    return b""
