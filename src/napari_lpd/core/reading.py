"""Boundaries of what comes from outside: JSON, names of files in other files, and what lies in folders."""

from __future__ import annotations

import gzip
import json
import re
import sys
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from napari_lpd.core.errors import DataError, LpdError, absent, reason

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_BYTES = 16 * 2**20
MAX_BYTES_LARGE = 512 * 2**20
MAX_DEPTH = 64  # lists and objects in each other
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_OF_OTHER_SYSTEMS = {
    *("@eadir", "#recycle", "#snapshot", "@recycle", "$recycle.bin", "system volume information", "lost+found"),
    *("__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
}


def is_hidden(path: Path) -> bool:
    """Return whether systems put a file or folder there, not people: ``._tile.png``, ``@eaDir``, ``Thumbs.db``."""
    return path.name.startswith((".", "~$")) or path.name.lower() in _OF_OTHER_SYSTEMS


def visible(paths: Iterable[Path]) -> list[Path]:
    """List the paths, sorted, without what is hidden: the way to look into a folder."""
    return sorted(path for path in paths if not is_hidden(path))


def located(folder: Path, name: str | Path) -> Path:
    r"""Return the path that a file in `folder` names, also with the ``\`` of Windows."""
    path = folder / name
    if "\\" in str(name) and sys.platform != "win32" and not path.exists():
        return folder / str(name).replace("\\", "/")
    return path


def read_json(
    path: Path, error: type[LpdError] = DataError, what: str = "JSON", kind: type[Any] = object, large: bool = False
) -> Any:
    """Read a JSON file in UTF-8 or UTF-16, with or without a byte order mark, also one packed by gzip or zip.

    Args:
        path: The file.
        error: Class of the error that is raised where the file cannot be read.
        what: Name of the content in the message.
        kind: Type of the content: `dict` or `list`.
        large: Whether it is data, up to 512 MB, rather than what people set; see `parse_json`.
    """
    try:
        return parse_json(_unpacked(path, MAX_BYTES_LARGE if large else MAX_BYTES), kind, large)
    except FileNotFoundError as cause:
        raise error(absent(path, f"file; wanted {what}")) from cause
    except (OSError, ValueError, RuntimeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as cause:
        raise error(
            f"{path}: not readable as {what} ({reason(cause)}); check its name, or save it again as JSON"
        ) from cause


def read_header(path: Path, key: str) -> Any:
    """Read the JSON object that stands under `key` in the head of a safetensors file; None where there is none.

    Raises:
        ValueError: the file is no safetensors file, or what stands there is no object.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(key)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(reason(error)) from error
    return None if text is None else parse_json(text, dict, large=len(text) > MAX_BYTES)


def parse_json(content: bytes | str, kind: type[Any] = object, large: bool = False) -> Any:
    """Parse JSON that somebody else wrote; the only way to do so.

    NaN and infinite numbers, halves of characters and more than 64 lists or objects in each other are refused; where
    the content is not `large`, so are a name that occurs twice in an object, and numbers beyond those of a float.

    Args:
        content: The text, or its bytes.
        kind: Type of the content: `dict` or `list`.
        large: Whether it is data, of which numbers and names are checked by who uses them.

    Raises:
        ValueError: it is refused, or of another kind.
    """
    text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
    text = text.removeprefix("\ufeff")
    strict: dict[str, Any] = {"object_pairs_hook": _object, "parse_float": _number, "parse_int": _whole_number}
    try:
        value = json.loads(text, parse_constant=_refuse_constant, **({} if large else strict))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_depth(value)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    if not isinstance(value, kind):
        raise ValueError(f"wanted {'{…}' if kind is dict else '[…]'} in it")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            part
            for whole in level
            for part in (whole.values() if isinstance(whole, dict) else whole if isinstance(whole, list) else ())
            if isinstance(part, dict | list)
        ]
        if not level:
            return
    raise ValueError("nested too deeply")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice in an object")
    return found


def _number(text: str) -> float:
    value = float(text)
    if abs(value) == float("inf"):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _whole_number(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"{text[:20]}… is too large a number")
    return int(text)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _unpacked(path: Path, limit: int) -> bytes:
    with ExitStack() as stack:
        file: Any = stack.enter_context(path.open("rb"))
        start = file.peek(4)[:4]
        if start.startswith(b"\x1f\x8b"):
            file = gzip.GzipFile(fileobj=file)
        elif start == b"PK\x03\x04":
            archive = zipfile.ZipFile(file)
            names = [name for name in archive.namelist() if not name.endswith("/") and not _is_in_hidden(name)]
            if len(names) != 1:
                raise ValueError(f"a zip archive of {len(names)} files, wanted one")
            file = archive.open(names[0])
        content: bytes = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"larger than {limit >> 20} MB")
    return content


def _is_in_hidden(name: str) -> bool:
    path = Path(name)
    return any(is_hidden(part) for part in (path, *path.parents) if part.name)
