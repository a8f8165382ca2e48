"""Labelled tiles in files: digits in their names (BCSS-WSSS, LUAD-HistoSeg), a folder per class, or a table."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_lpd.core.classes import whole_shares
from napari_lpd.core.errors import DataError
from napari_lpd.core.reading import located, visible
from napari_lpd.core.text import TABLES, read_table
from napari_lpd.data.images import IGNORE, PARTS, by_stem, image_files, part_of, read_image, read_mask, sources_of
from napari_lpd.data.region_tiles import GLASS_LEVEL
from napari_lpd.data.regions import NONE
from napari_lpd.data.tileset import UNPAINTED, Shares, TileSet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass

PATH, SOURCE = "path", "source"  # columns of a table
YES, NO = ("1", "1.0", "true", "yes"), ("", "0", "0.0", "false", "no")


class _Said(NamedTuple):
    """What is said of a tile: the presence of each class, and the shares of none and of each where they are known."""

    labels: list[bool]
    shares: NDArray[np.float32] | None = None


class _Labelled(NamedTuple):
    """Files of tiles, what is said of each (C), and its slide or patient where a table states it."""

    paths: list[Path]
    said: list[_Said]
    sources: list[str]


def labelled_tiles(data: Path, classes: tuple[TissueClass, ...], source: str = "") -> TileSet:
    """Read tiles with image-level labels, in one of three forms.

    * ``NAME[1010].png``: one digit per class, in the classes' order, in the last brackets of the name. Blanks between
      the digits (LUAD-HistoSeg) are allowed; brackets in folder names do not matter (L36). Or a share per class with
      blanks between them, ``NAME[60 40 0 0].png``, that sum to 1 or to 100.
    * ``CLASS/NAME.png``: a folder per class, named like it; every tile holds that class alone.
    * A table (CSV, TSV) with a column ``path``, relative to the table, a column of 0 and 1 per class, and
      optionally a column ``source`` with the slide or patient. A row with other numbers has shares, which sum to 1 or
      to 100, with what is none of the classes in a column ``none``.

    Args:
        data: The table, the folder of tiles, or the folder that holds it as ``train``.
        classes: The classes.
        source: Regular expression for the slide or patient in a tile's name (see `images.source_of`).

    Raises:
        DataError: no tiles, labels that do not fit `classes`, or tiles of several sizes.
    """
    if data.suffix.lower() in TABLES:
        return _tile_set(_from_table(data, classes), classes, data, source)
    train = part_of(data, "train")
    root = train if train.is_dir() else data
    by_folder = any((root / tissue.name).is_dir() for tissue in classes)
    labelled = _from_class_folders(root, classes) if by_folder else _from_names(root, classes)
    return _tile_set(labelled, classes, root, source)


def _tile_set(labelled: _Labelled, classes: tuple[TissueClass, ...], data: Path, source: str) -> TileSet:
    paths = labelled.paths
    size = read_image(paths[0]).shape
    if size[0] != size[1]:
        raise DataError(f"{paths[0]}: {size[0]} x {size[1]} pixels; tiles have to be square, as training turns them")
    sources = labelled.sources or sources_of([path.stem for path in paths], source)
    read = partial(_read_tile, paths, size)
    labels = np.array([said.labels for said in labelled.said], np.float32)
    tiles = TileSet(classes, labels, read, str(data), sources=sources, files=paths)
    known = ((i, said.shares) for i, said in enumerate(labelled.said))
    tiles.shares = {i: Shares(str(paths[i]), shares) for i, shares in known if shares is not None}
    return tiles


def _read_tile(paths: list[Path], size: tuple[int, ...], index: int) -> NDArray[np.uint8]:
    image = read_image(paths[index])
    if image.shape != size:
        raise DataError(f"{paths[index]}: {image.shape[:2]} pixels, but {paths[0].name} has {size[:2]}")
    return image


def _from_names(root: Path, classes: Sequence[TissueClass]) -> _Labelled:
    paths = list(by_stem(root).values())
    return _Labelled(paths, [_in_name(path, classes) for path in paths], [])


def _in_name(path: Path, classes: Sequence[TissueClass]) -> _Said:
    groups, count = re.findall(r"\[([^\]]*)\]", path.stem), len(classes)
    text = groups[-1].replace(" ", "") if groups else ""
    digits = [digit == "1" for digit in text if digit in "01"]
    if len(digits) == count == len(text):
        return _Said(digits)
    numbers = groups[-1].split() if groups else []
    if len(numbers) != count:
        brackets = f"[{groups[-1]}]" if groups else "no brackets"
        raise DataError(
            f"{path}: {brackets} in the name; wanted {count} digits 0 or 1, one per class, or {count} shares with"
            " blanks between them, or a folder per class"
        )
    return _shared(dict(zip((tissue.name for tissue in classes), numbers, strict=True)), str(path))


def _shared(said: dict[str, str], where: str) -> _Said:
    """Read shares of all classes; what is none of them may be among them."""
    shares = whole_shares(said, where)
    rest = shares.pop(NONE, 0.0)
    return _Said([share > 0 for share in shares.values()], np.array([rest, *shares.values()], np.float32))


def _from_class_folders(root: Path, classes: tuple[TissueClass, ...]) -> _Labelled:
    names = [tissue.name for tissue in classes]
    parts = {name for names_of_part in PARTS.values() for name in names_of_part}
    unknown = [path for path in visible(root.iterdir()) if path.is_dir() and path.name not in (*names, *parts)]
    if unknown:
        raise DataError(
            f"{unknown[0]}: a folder that is no class ({', '.join(names)}); add the class, or move the folder away"
        )
    labelled = _Labelled([], [], [])
    for number, name in enumerate(names):
        for path in image_files(root / name):
            labelled.paths.append(path)
            labelled.said.append(_Said([number == c for c in range(len(names))]))
    return labelled


def _from_table(table: Path, classes: tuple[TissueClass, ...]) -> _Labelled:
    names = [tissue.name for tissue in classes]
    columns, rows = read_table(table)
    missing = [name for name in (PATH, *names) if name not in columns]
    if missing:
        raise DataError(
            f"{table}: no column {missing[0]!r}; wanted {PATH}, {', '.join(names)}; has {', '.join(columns)}"
        )
    if not rows:
        raise DataError(f"{table}: holds no tiles")
    labelled = _Labelled([], [], [])
    for line, row in rows:
        path = located(table.parent, row[PATH])
        if not row[PATH] or not path.is_file():
            raise DataError(f"{table}, line {line}: no such file {row[PATH]!r}; paths are relative to the table")
        labelled.paths.append(path)
        said = {name: row[name] for name in (*names, NONE) if name in columns}
        labelled.said.append(_in_row(said, f"{table}, line {line}", len(names)))
        if SOURCE in columns:
            labelled.sources.append(row[SOURCE])
    repeated = [path for path, count in Counter(labelled.paths).items() if count > 1]
    if repeated:
        raise DataError(f"{table}: {repeated[0].name} occurs twice")
    return labelled


def _in_row(said: dict[str, str], where: str, count: int) -> _Said:
    """Read a row of a table: the presence of `count` classes, or shares."""
    values = [value.lower() for value in said.values()]
    if all(value in (*YES, *NO) for value in values):
        return _Said([value in YES for value in values[:count]])
    wrong = next((name for name, value in said.items() if not (value in (*YES, *NO) or _is_number(value))), None)
    if wrong is not None:
        raise DataError(f"{where}, {wrong}: {said[wrong]!r}; wanted 0 or 1, or a share")
    return _shared({name: value or "0" for name, value in said.items()}, where)


def _is_number(text: str) -> bool:
    try:
        float(text.removesuffix("%"))
    except ValueError:
        return False
    return True


def add_masks(tiles: TileSet, folder: Path, as_shares: bool = False) -> None:
    """Learn more of labelled tiles from masks of the same names in a folder (as `read_mask`); not every tile needs one.

    As pixels, what a mask labels is painted on the tile, and its classes are present there. As shares, it says how much
    of the tile's tissue, less what is not counted, is of which class, and so which are present.

    Raises:
        DataError: no masks, one that cannot be read, fits no tile or has another size, or labels no tissue as shares.
    """
    numbers: dict[str, list[int]] = {}
    for i, path in enumerate(tiles.files):
        numbers.setdefault(path.stem, []).append(i)
    masks = by_stem(folder)
    for stem, path in masks.items():
        if len(found := numbers.get(stem, [])) != 1:
            what = f"{len(found)} tiles" if found else "no tile"
            raise DataError(f"{path}: {what} of the same name in {tiles.description}; wanted one: rename or remove it")
        mask, (index,) = read_mask(path, tiles.classes), found
        if mask.shape != (tiles.edge, tiles.edge):
            raise DataError(f"{path}: {mask.shape} pixels, but its tile has {(tiles.edge, tiles.edge)}")
        count, counted = len(tiles.classes), mask != IGNORE
        if not as_shares:
            painted = np.where(counted, (mask.astype(np.int16) + 1) % (count + 1), UNPAINTED)
            tiles.painted[index] = painted.astype(np.int8)
            tiles.labels[index] = np.maximum(tiles.labels[index], np.isin(range(count), mask))
            continue
        counted &= tiles.read(index).min(-1) <= GLASS_LEVEL
        pixels = np.bincount(mask[counted], minlength=count + 1)
        if not pixels.sum():
            raise DataError(f"{path}: labels no tissue of its tile, so there are no shares; remove it")
        parts = np.roll(pixels / pixels.sum(), 1).astype(np.float32)
        tiles.shares[index], tiles.labels[index] = Shares(str(path), parts), parts[1:] > 0
