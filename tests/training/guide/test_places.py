"""Where to draw next: by what a class's share of the scores and the doubt are together, away from earlier places."""

from __future__ import annotations

import numpy as np

from napari_lpd.training.guide.places import Places
from napari_lpd.training.live import CELL, LiveCell


def cell_with(*spots):
    """A cell of two classes; every spot is a row and a column of 8 x 8 places, a byte for each class, and a doubt."""
    scores, unsure = np.ones((2, 32, 32), np.uint8), np.zeros((32, 32), np.float32)
    for y, x, first, second, doubt in spots:
        part = (slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8))
        scores[0][part], scores[1][part], unsure[part] = first, second, doubt
    return LiveCell(np.ones((CELL, CELL), np.uint8), unsure, scores)


def test_every_class_has_its_turn_with_its_most_worthwhile_place():
    far = cell_with((0, 0, 255, 1, 0.5), (0, 3, 1, 255, 0))
    cells = {(0, 1): far, (3, 1): cell_with((0, 0, 128, 128, 0.8), (3, 3, 1, 255, 0.3))}
    places = Places()  # worth for the first class: 0.5, 0, 0.4, 0; for the second: 0, 0, 0.4, 0.3
    assert places.next(cells, 4.0, 2) == ((256.0, 2048 + 256.0), 1)
    assert places.next(cells, 4.0, 2) == ((6144 + 256.0, 2048 + 256.0), 2)
    assert places.next(cells, 4.0, 2) == ((6144 + 1792.0, 2048 + 1792.0), 2)  # of the first class nothing is left
    assert places.next(cells, 4.0, 2) is None


def test_a_place_near_one_that_was_suggested_is_not_suggested_again():
    cells = {(0, 0): cell_with((0, 0, 255, 1, 0.9), (0, 2, 255, 1, 0.8), (3, 1, 255, 1, 0.1))}
    places = Places()
    assert places.next(cells, 1.0, 1).place == (64.0, 64.0)
    assert places.next(cells, 1.0, 1).place == (448.0, 192.0)  # 404 µm away; (0, 2) is at 256 µm
    assert places.next(cells, 1.0, 1) is None
    assert places.before == [(64.0, 64.0), (448.0, 192.0)]
