"""The tiles that a model was trained on, found again by the command on its card."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from napari_lpd.errors import DataError

if TYPE_CHECKING:
    from napari_lpd.checkpoint import Card
    from napari_lpd.data import TileSet

REMEDY = "give the training tiles themselves, or go on without"


def training_tiles_of(card: Card) -> TileSet:
    """The tiles that a model was trained on, those held out for validation included.

    Raises:
        DataError: the card names no data, they are not where they were, or are fewer by now.
        SlideError: a slide cannot be read.
    """
    from napari_lpd.labelled import labelled_tiles
    from napari_lpd.project import AnnotatedSlide
    from napari_lpd.training_set import from_project, from_slides

    given = _data_of(card)
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
    if len(tiles) < card.tiles:
        raise DataError(f"{paths[0]}: {len(tiles)} tiles now, but the model was trained on {card.tiles}: {REMEDY}")
    return tiles


def is_at_hand(card: Card) -> bool:
    """Whether the files that `training_tiles_of` reads are where the card says."""
    paths = _paths_of(_data_of(card))
    return bool(paths) and all(path.exists() for path in paths)


def _data_of(card: Card) -> argparse.Namespace:
    """What the command that trained the model was given to train on."""
    parser = argparse.ArgumentParser(add_help=False)
    for name in ("--slide", "--regions", "--project", "--data"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--slide-mpp", type=float)
    parser.add_argument("--source", default="")
    return parser.parse_known_args(shlex.split(card.command))[0]


def _paths_of(given: argparse.Namespace) -> list[Path]:
    of_slide = [given.slide, given.regions] if given.slide and given.regions else []
    return [path for path in (given.project, given.data, *of_slide) if path]
