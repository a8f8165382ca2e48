"""A store of features: computed once, the last used ones in memory, all of them on disk where a folder is given."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.core.errors import ModelError
from napari_lpd.core.files import atomic_write, write_text
from napari_lpd.core.reading import read_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

ABOUT = "features.json"  # in a store's folder: whose features it holds
FORMAT = 1


class FeatureStore:
    """Features of cells, (h, w, D) float16, by key.

    Args:
        encoder: Hash of the encoder, and of how it sees pixels: what the features depend on beside the cell.
        room: Most bytes in memory; those used longest ago are dropped.
        folder: Where every cell is kept, too; None: nowhere.

    Raises:
        ModelError: the folder holds another encoder's features, or cannot be written.
    """

    def __init__(self, encoder: str, room: int, folder: Path | None = None) -> None:
        self._room, self._folder, self._held = room, folder, 0
        self._cells: OrderedDict[str, NDArray[np.float16]] = OrderedDict()
        if folder is not None:
            self._claim(folder, {"format": FORMAT, "encoder": encoder})

    def _claim(self, folder: Path, wanted: dict[str, object]) -> None:
        path = folder / ABOUT
        if not path.exists():
            write_text(path, json.dumps(wanted), error=ModelError)
        elif read_json(path, ModelError, "a store of features", dict) != wanted:
            raise ModelError(f"{folder}: holds features of another encoder; choose another folder, or delete it")

    def get(self, key: str, compute: Callable[[], NDArray[np.float16]]) -> NDArray[np.float16]:
        """Return the features of the cell `key`; they are computed and kept where they are not there.

        Raises:
            ModelError: the folder has no room, or its file of this cell is damaged.
        """
        found = self._cells.get(key)
        if found is not None:
            self._cells.move_to_end(key)
            return found
        found = self._read(key)
        if found is None:
            found = compute()
            self._write(key, found)
        self._cells[key] = found
        self._held += found.nbytes
        while self._held > self._room and len(self._cells) > 1:
            self._held -= self._cells.popitem(last=False)[1].nbytes
        return found

    def has_room(self, key: str) -> bool:
        """Return whether a cell is in memory, or another of the same size fits beside those that are."""
        largest = max((cell.nbytes for cell in self._cells.values()), default=0)
        return key in self._cells or self._held + largest <= self._room

    def _read(self, key: str) -> NDArray[np.float16] | None:
        if self._folder is None or not (path := self._folder / f"{key}.npy").exists():
            return None
        try:
            stored: NDArray[np.float16] = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise ModelError(f"{path}: damaged ({error}); delete it to have it computed anew") from error
        return stored

    def _write(self, key: str, cell: NDArray[np.float16]) -> None:
        if self._folder is not None:
            path = self._folder / f"{key}.npy"
            with atomic_write(path, error=ModelError) as partial, partial.open("wb") as file:
                np.save(file, cell)
