"""The boundary to zarr: metadata must be what we would have written, chunks must match their checksums.

Nothing of an array's metadata reaches zarr: an array is opened with what its place in a result asks for, after its file
was found to say the same. So a damaged or hostile file is one line, whatever is wrong with it.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore, StorePath

from napari_lpd.core.errors import ExportError, one_line, reason
from napari_lpd.core.files import write_text
from napari_lpd.core.reading import MAX_BYTES, parse_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

METADATA = "zarr.json"
CHECKSUM_BYTES = 4
AGAIN = "run predict again to make what is lost, or with --overwrite all of it"
ANEW = "run predict again with --overwrite"
BY_HAND = "remove its folder labels/corrections to go on without them"


class DamagedResultError(ExportError):
    """A result lacks something, or says what it cannot mean.

    Attributes:
        what: What is wrong with it.
    """

    def __init__(self, folder: Path, what: str, remedy: str = ANEW) -> None:
        self.what = what
        super().__init__(f"{folder}: the result is damaged: {one_line(what, 120)}; {remedy}")


class ArraySpec(NamedTuple):
    """What an array of a result must be; uint8, filled with 0.

    Attributes:
        node: Its place in the result's folder: "labels/tissues/0".
        shape: Of the array.
        chunks: Shape of its chunks.
    """

    node: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]

    def metadata(self) -> dict[str, Any]:
        """Return the part of the metadata that says how chunks are found and read, without codecs."""
        return {
            "shape": list(self.shape),
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunks)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
        }


class StoredArray:
    """An array of a result; what cannot be read is one line that names the folder.

    A chunk of zeros is a finished block without labels; in a `sparse` array it is no chunk.

    Attributes:
        shape: Of the array.
        dtype: Of the array.
        size: Number of its values.
        ndim: Number of its dimensions.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, folder: Path, spec: ArraySpec, write: bool = False, sparse: bool = False) -> None:
        found = read_metadata(folder, spec.node, "array")
        for name, wanted in spec.metadata().items():
            if found.get(name) != wanted:
                raise DamagedResultError(folder, f"{spec.node} has {name} {found.get(name)!r}, not {wanted!r}")
        codecs = found.get("codecs")
        parts = codecs if isinstance(codecs, list) else []
        names = [part.get("name") if isinstance(part, dict) else None for part in parts]
        if names != ["bytes", "zstd", "crc32c"] or found.get("storage_transformers"):
            raise DamagedResultError(folder, f"{spec.node} has codecs {names!r}, which are not ours")
        self._folder, self._spec, self.shape = folder, spec, spec.shape
        self.size, self.ndim = int(np.prod(spec.shape)), len(spec.shape)
        compression = [{"name": "zstd", "configuration": {"level": 0, "checksum": False}}, {"name": "crc32c"}]
        about: dict[str, Any] = spec.metadata() | {"zarr_format": 3, "node_type": "array", "attributes": {}}
        about["codecs"] = [{"name": "bytes"}, *compression]
        self._remedy = BY_HAND if sparse else AGAIN
        with zarr.config.set({"array.write_empty_chunks": not sparse}):
            place = StorePath(LocalStore(folder, read_only=not write), spec.node)
            self._array: Any = zarr.Array.from_dict(place, about)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        try:
            return np.asarray(self._array[key])
        except (OSError, RuntimeError, ValueError) as error:  # what zarr and its codecs raise
            why = "its checksum is another" if isinstance(error, ValueError) else reason(error)
            what = f"{self._spec.node} cannot be read ({why})"
            raise DamagedResultError(self._folder, what, self._remedy) from error

    def __setitem__(self, key: Any, values: NDArray[np.uint8]) -> None:
        self._array[key] = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype)

    @property
    def node(self) -> str:
        """Its place in the result's folder."""
        return self._spec.node

    @property
    def edge(self) -> int:
        """Edge of a chunk in pixels."""
        return self._spec.chunks[-1]

    def chunks(self) -> set[tuple[int, int]]:
        """List the (row, column) of the chunks that exist."""
        rows, columns = (-(-n // self.edge) for n in self.shape[-2:])
        found: set[tuple[int, int]] = set()
        folder = str(self._folders())
        for row in (row for row in _numbered(folder, files=False) if row < rows):
            here = _numbered(f"{folder}/{row}", files=True)
            found.update((row, column) for column in here if column < columns)
        return found

    def _folders(self) -> Path:
        return self._folder / self._spec.node / "/".join(["c", *("0" for _ in self.shape[:-2])])

    def _file(self, chunk: tuple[int, int]) -> Path:
        return self._folders() / str(chunk[0]) / str(chunk[1])

    def is_sound(self, chunk: tuple[int, int]) -> bool:
        """Return whether a chunk can be read and is what was written."""
        try:
            content = self._file(chunk).read_bytes()
        except OSError:
            return False
        stored = int.from_bytes(content[-CHECKSUM_BYTES:], "little")
        return len(content) > CHECKSUM_BYTES and google_crc32c.value(content[:-CHECKSUM_BYTES]) == stored

    def remove(self, chunk: tuple[int, int]) -> None:
        """Delete a chunk, or what is in its place."""
        path = self._file(chunk)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _numbered(folder: str, files: bool) -> list[int]:
    """List the files, or the folders, in a folder that have a number for a name; nothing where it is missing."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if (entry.is_file() if files else entry.is_dir())]
    return [int(name) for name in names if name.isascii() and name.isdigit()]


def create_array(group: zarr.Group, name: str, spec: ArraySpec) -> None:
    """Create an empty array, whose chunks will end with a checksum, in a group."""
    group.create_array(
        name,
        shape=spec.shape,
        dtype="uint8",
        chunks=spec.chunks,
        fill_value=0,
        compressors=(ZstdCodec(level=0), Crc32cCodec()),
        dimension_names=[*("c" for _ in spec.shape[:-2]), "y", "x"],
    )


def read_metadata(folder: Path, node: str, kind: str) -> dict[str, Any]:
    """Read the metadata of a group or array of a result.

    Raises:
        DamagedResultError: the file is missing or not readable, or describes something else.
    """
    path = folder / node / METADATA
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES >> 20} MB")
        found: dict[str, Any] = parse_json(path.read_bytes(), dict)
    except (OSError, ValueError, RuntimeError) as error:
        name = f"{node}/{METADATA}".lstrip("/")
        raise DamagedResultError(folder, f"{name} is not readable ({reason(error)})") from error
    if found.get("zarr_format") != 3 or found.get("node_type") != kind:
        raise DamagedResultError(folder, f"{node or METADATA} is no {kind} of zarr 3")
    return found


def read_attributes(folder: Path, key: str) -> dict[str, Any]:
    """Read what stands under `key` in the attributes of a result's folder.

    Raises:
        DamagedResultError: nothing does, or it is no object.
    """
    attributes = read_metadata(folder, "", "group").get("attributes")
    found = attributes.get(key) if isinstance(attributes, dict) else None
    if not isinstance(found, dict):
        raise DamagedResultError(folder, f"{METADATA} says nothing of the prediction")
    return found


def write_attributes(folder: Path, key: str, values: Any, node: str = "") -> None:
    """Replace what stands under `key` in the attributes of a group of a result, atomically."""
    found = read_metadata(folder, node, "group")
    attributes = found.get("attributes")
    found["attributes"] = {**(attributes if isinstance(attributes, dict) else {}), key: values}
    write_text(folder / node / METADATA, json.dumps(found, indent=1))
