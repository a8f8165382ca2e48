"""The tiles that a model was trained on, found again by the command on its card."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from napari_lpd.core.errors import DataError
from napari_lpd.models.card import read_card
from napari_lpd.models.checkpoint import load_tensors

if TYPE_CHECKING:
    from napari_lpd.data.tileset import TileSet
    from napari_lpd.models.card import Card

REMEDY = "give the training tiles themselves, or go on without"


def training_tiles_of(model: Path) -> TileSet:
    """The tiles that a model was trained on, those held out for validation included.

    Args:
        model: The model's file.

    Raises:
        DataError: the card names no data, they are not where they were, or are other tiles by now.
        ModelError: the file is no model.
        SlideError: a slide cannot be read.
    """
    from napari_lpd.data.labelled_tiles import labelled_tiles
    from napari_lpd.data.project import AnnotatedSlide
    from napari_lpd.data.training_set import from_project, from_slides

    card = read_card(model)
    given = _data_of(card, model)
    paths = _paths_of(given)
    if not paths:
        raise DataError(f"the model's card does not say what it was trained on: {REMEDY}")
    if gone := next((path for path in paths if not path.exists()), None):
        raise DataError(f"{gone}: the model was trained on it, but it is not there now: {REMEDY}")
    if given.project:
        tiles = from_project(given.project, card.settings).tiles
    elif given.data:
        tiles = labelled_tiles(given.data, card.classes, given.source)
    else:
        annotated = AnnotatedSlide(slide=given.slide, regions=given.regions, mpp=given.slide_mpp)
        tiles = from_slides([annotated], card.classes, card.settings).tiles
    _check_same(tiles, model, card, paths)
    return tiles


def is_at_hand(model: Path) -> bool:
    """Whether the files that `training_tiles_of` reads are where the card says.

    Raises:
        ModelError: the file is no model.
    """
    paths = _paths_of(_data_of(read_card(model), model))
    return bool(paths) and all(path.exists() for path in paths)


def _data_of(card: Card, model: Path) -> argparse.Namespace:
    """What the command that trained the model was given to train on, its paths as `_found` finds them."""

    def path(text: str) -> Path:
        return _found(Path(text), [Path(card.folder), *model.absolute().parents])

    parser = argparse.ArgumentParser(add_help=False)
    for name in ("--slide", "--regions", "--project", "--data"):
        parser.add_argument(name, type=path)
    parser.add_argument("--slide-mpp", type=float)
    parser.add_argument("--source", default="")
    return parser.parse_known_args(shlex.split(card.command))[0]


def _found(path: Path, folders: list[Path]) -> Path:
    """Where `path` is: in the first of `folders` that has it; in the first of all where none has."""
    places = [folder / path for folder in folders]
    return next((place for place in places if place.exists()), places[0])


def _paths_of(given: argparse.Namespace) -> list[Path]:
    of_slide = [given.slide, given.regions] if given.slide and given.regions else []
    return [path for path in (given.project, given.data, *of_slide) if path]


def _check_same(tiles: TileSet, model: Path, card: Card, paths: list[Path]) -> None:
    """Raise DataError where the tiles from `paths` are not those of the model, by content and labels.

    A model of an earlier version knows its files alone, and how many tiles it learned from.
    """
    from napari_lpd.core.files import file_hashes
    from napari_lpd.data.tileset import tile_hashes
    from napari_lpd.models.checkpoint import TRAINING_ONLY

    tensors, files = load_tensors(model), file_hashes(tiles.files)
    for what, now in (("file", files), ("tile", tile_hashes(tiles, files))):
        held = tensors.get(f"{TRAINING_ONLY}{what}_hashes")
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
