"""What is painted becomes strokes, and what is painted over or erased leaves them."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from napari_lpd.data.regions import Region
from napari_lpd.gui.layers.strokes import OTHER, Canvas

CANVAS = Canvas((40.0, 20.0), (60, 80), (2.0, 2.0), ("dark", "pink"))  # 120 x 160 level-0 pixels


def blank():
    return np.zeros(CANVAS.shape, np.uint8)


def paint(strokes, box, label):
    labels, changed = blank(), np.zeros(CANVAS.shape, bool)
    changed[box[0] : box[2], box[1] : box[3]] = True
    labels[changed] = label
    return CANVAS.painted(strokes, labels, changed)


def area(strokes, *tissues):
    return sum(each.polygon().area for each in strokes if each.tissues == tissues)


def test_a_stroke_has_its_place_and_size_on_the_slide():
    (stroke,) = paint([], (10, 5, 20, 35), 2)
    assert stroke.tissues == ("pink",) and stroke.pixels and stroke.named
    assert stroke.polygon().bounds == (20 + 2 * 5, 40 + 2 * 10, 20 + 2 * 35, 40 + 2 * 20)  # x, y
    assert (CANVAS.drawn([stroke]) == 2).sum() == 10 * 30


def test_strokes_of_a_tissue_that_touch_become_one_and_others_give_way():
    strokes = paint(paint([], (10, 5, 20, 35), 2), (15, 30, 25, 60), 2)
    assert len(strokes) == 1 and area(strokes, "pink") == 4 * (300 + 300 - 25)
    strokes = paint(strokes, (0, 10, 60, 20), 1)  # cuts it into two
    assert area(strokes, "pink") == 4 * (300 + 300 - 25 - 100) and area(strokes, "dark") == 4 * 600
    assert sorted(each.tissues for each in strokes) == [("dark",), ("pink",), ("pink",)]
    assert shapely.union_all([each.polygon() for each in strokes]).area == area(strokes, "pink") + area(strokes, "dark")


def test_the_eraser_leaves_a_hole_that_needs_no_ring():
    strokes = paint(paint([], (10, 10, 40, 40), 1), (20, 20, 30, 30), 0)
    assert area(strokes, "dark") == 4 * (900 - 100)
    drawn = CANVAS.drawn(strokes)
    assert (drawn[20:30, 20:30] == 0).all() and (drawn == 1).sum() == 800


def test_strokes_that_nothing_was_painted_on_stay_the_same():
    far = Region(np.array([[500.0, 500], [500, 520], [520, 520]]), ("dark",), pixels=True)
    (near,) = paint([], (10, 5, 20, 35), 2)
    strokes = paint([far, near], (50, 0, 60, 10), OTHER)
    assert strokes[0] is far and strokes[1] is near
    assert strokes[2].tissues == () and strokes[2].named
    assert (CANVAS.drawn(strokes)[50:60, :10] == OTHER).all()
    assert CANVAS.painted(strokes, blank(), np.zeros(CANVAS.shape, bool)) == strokes


@pytest.mark.parametrize("seed", range(5))
def test_a_brush_and_its_undo_come_back_to_a_pixel(seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:60, :80]
    before = blank()
    for label in (1, 2, OTHER, 1):
        cy, cx, r = rng.integers(5, 55), rng.integers(5, 75), rng.integers(4, 14)
        before[(y - cy) ** 2 + (x - cx) ** 2 <= r**2] = label
    strokes = CANVAS.painted([], before, before > 0)
    after = before.copy()
    after[(y - 30) ** 2 + (x - 40) ** 2 <= 15**2] = 2
    painted = CANVAS.painted(strokes, after, after != before)
    assert (CANVAS.drawn(painted) != after).mean() < 0.01
    undone = CANVAS.painted(painted, before, after != before)
    assert (CANVAS.drawn(undone) != before).mean() < 0.01
