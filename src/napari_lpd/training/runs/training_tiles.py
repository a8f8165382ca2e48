"""The tiles that a model was trained on, found again by the command on its card."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from napari_lpd.core.errors import DataError
from napari_lpd.data.training_set import TrainingSource
from napari_lpd.models.card import read_card

if TYPE_CHECKING:
    from napari_lpd.data.tileset import TileSet
    from napari_lpd.models.card import Card

OF_MODEL = Path("model")
ELSEWHERE = ("\\\\", "//")  # beginnings of names that Windows asks another computer for
MAX_PATTERN = 200
REMEDY = "give the training tiles themselves, or compare without them"


def training_tiles_of(model: Path) -> TileSet:
    """Load the tiles that a model was trained on, those held out for validation included.

    Args:
        model: The model's file.

    Raises:
        DataError: the card names no data, they are not where they were, or are other tiles by now.
        ModelError: the file is no model.
        SlideError: a slide cannot be read.
    """
    card = read_card(model)
    source = _source_of(card, model)
    paths = source.paths()
    if not paths:
        raise DataError(f"the model's card does not say what it was trained on: {REMEDY}")
    if gone := next((path for path in paths if not path.exists()), None):
        raise DataError(f"{gone}: the model was trained on it, but it is not there now: {REMEDY}")
    tiles = source.load(card.classes, card.settings).tiles
    _check_same(tiles, model, card, paths)
    return tiles


def chosen_training_tiles(chosen: Path | None, model: Path, source: str = "") -> TileSet | None:
    """Load the labelled tiles at `chosen`, or, for the word ``model``, those that a model was trained on.

    Args:
        chosen: A folder or table of labelled tiles, `OF_MODEL`, or None for no tiles.
        model: The model's file, whose classes the labels have.
        source: Regular expression that finds the slide or patient in a tile's name.
    """
    from napari_lpd.data.labelled_tiles import labelled_tiles

    if chosen is None:
        return None
    return training_tiles_of(model) if chosen == OF_MODEL else labelled_tiles(chosen, read_card(model).classes, source)


def is_at_hand(model: Path) -> bool:
    """Tell whether the files that `training_tiles_of` reads are where the card says.

    Raises:
        ModelError: the file is no model.
    """
    try:
        paths = _source_of(read_card(model), model).paths()
    except DataError:  # what `training_tiles_of` says of it
        return False
    return bool(paths) and all(path.exists() for path in paths)


def _source_of(card: Card, model: Path) -> TrainingSource:
    """Read what a model was trained on from the command on its card; paths are looked for beside the model, too."""
    try:
        words = shlex.split(card.command)
    except ValueError as error:
        raise DataError(f"{model}: the command on its card is damaged ({error}): {REMEDY}") from error
    if any(word.startswith(ELSEWHERE) or "://" in word for word in (card.folder, *words)):
        raise DataError(f"{model}: its card names data on another computer, which are not looked for: {REMEDY}")
    source = TrainingSource.parse(words, [Path(card.folder), *model.absolute().parents])
    if len(source.source_pattern) > MAX_PATTERN:
        raise DataError(f"{model}: the pattern of slides on its card is too long: {REMEDY}")
    return source


def _check_same(tiles: TileSet, model: Path, card: Card, paths: list[Path]) -> None:
    """Raise DataError where the tiles from `paths` are not those of the model, by content and labels.

    A model of an earlier version knows its files alone, and how many tiles it learned from.
    """
    from napari_lpd.core.files import file_hashes
    from napari_lpd.data.tileset import tile_hashes
    from napari_lpd.models.checkpoint import TRAINING_HASHES, load_tensors

    tensors, files = load_tensors(model), file_hashes(tiles.files)
    for what, now in (("file", files), ("tile", tile_hashes(tiles, files))):
        held = tensors.get(TRAINING_HASHES[what])
        then, found = (Counter(row.tobytes() for row in rows) for rows in (now if held is None else held.numpy(), now))
        if gone := (then - found).total():
            raise DataError(
                f"{paths[0 if what == 'file' else -1]}: {gone} of {then.total()} {what}s that the model was trained on"
                f" are gone or changed: {REMEDY}"
            )
        if more := (found - then).total():
            raise DataError(f"{paths[-1]}: {more} {what}s that the model was not trained on: {REMEDY}")
    if len(tiles) < card.tiles:
        raise DataError(f"{paths[-1]}: {len(tiles)} tiles now, but the model was trained on {card.tiles}: {REMEDY}")
