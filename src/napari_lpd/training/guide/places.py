"""Where a region would help most: places that may hold a class and are unsure, every class in its turn, spread out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_lpd.core.labelling.rule import unit
from napari_lpd.data.tileset import CELL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_lpd.training.live import CellIndex, LiveCell

PATCH = 8  # places of an edge of what is suggested: about a training tile
NEAR = 3.0  # of these edges: a place this near to one that was suggested is not suggested again


class Suggestion(NamedTuple):
    """A place to draw at.

    Attributes:
        place: Its middle (y, x) in µm from the slide's corner.
        label: The class, from 1, that it may hold.
    """

    place: tuple[float, float]
    label: int


class Places:
    """Suggests places on a slide, none of them twice.

    Attributes:
        before: Places (y, x) in µm that were suggested.
    """

    def __init__(self) -> None:
        self.before: list[tuple[float, float]] = []
        self._turn = 0

    def next(self, cells: Mapping[CellIndex, LiveCell], mpp: float, classes: int) -> Suggestion | None:
        """Suggest where a region would help most, for every class in its turn.

        Args:
            cells: What is labelled.
            mpp: Its resolution.
            classes: The number of classes.

        Returns:
            Of the class whose turn it is, the place where its share of the scores times how unsure the model is is
            largest, away from those that were suggested before; a class without such a place loses its turn. None where
            none has one.
        """
        for _ in range(classes):
            index = self._turn % classes
            self._turn += 1
            if place := self._best(cells, mpp, index):
                self.before.append(place)
                return Suggestion(place, index + 1)
        return None

    def _best(self, cells: Mapping[CellIndex, LiveCell], mpp: float, index: int) -> tuple[float, float] | None:
        best, found = 0.0, None
        for (row, column), cell in cells.items():
            scores = unit(cell.scores)
            worth = scores[index] / np.maximum(scores.sum(0), 1e-6) * cell.unsure
            count = len(worth) // PATCH
            patches = worth.reshape(count, PATCH, count, PATCH).mean((1, 3))
            edge = CELL / count * mpp
            for y, x in np.argwhere(patches > best).tolist():
                place = ((row * count + y + 0.5) * edge, (column * count + x + 0.5) * edge)
                if patches[y, x] > best and all(math.dist(place, other) > NEAR * edge for other in self.before):
                    best, found = float(patches[y, x]), place
        return found
