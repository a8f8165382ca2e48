from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageColor

from napari_lpd.comparison.report.figures import heat_colours
from napari_lpd.core.pictures.figure import encoded
from napari_lpd.gui.explore.heatmap_grid import CELL, LINE, MIN_HEAD, WIDTH, ModelView, heatmap_grid, scale_of
from napari_lpd.gui.explore.heatmap_window import SCREEN_DPI


def seen(name, low, high, k=10, shape=(20, 30)):
    """k flat heatmaps, from a low to a high cosine, with a corner that was not computed."""
    heatmaps = np.linspace(low, high, k, dtype=np.float32)[:, None, None] * np.ones((1, *shape), np.float32)
    heatmaps[:, :4, :4] = np.nan
    return ModelView(name, np.zeros((40, 60), np.uint8), heatmaps)


def pixels(grid):
    """What the screen shows of it."""
    return Image.open(io.BytesIO(encoded(grid.figure, ".png", SCREEN_DPI))).convert("RGB")


@pytest.fixture
def tissue():
    return np.full((100, 150, 3), 200, np.uint8)


def test_every_prototype_of_both_models_has_its_place(tissue, classes):
    grid = heatmap_grid(tissue, 300.0, [seen("A", 0, 1), seen("B", 0, 0.5)], 1, classes)
    assert [(slot.model, slot.prototype) for slot in grid.slots] == [(m, u) for m in (0, 1) for u in range(10)]
    width, height = pixels(grid).size
    assert width == WIDTH
    for slot in grid.slots:
        x0, y0, x1, y1 = slot.box
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert grid.at((x0 + x1) // 2, (y0 + y1) // 2) == slot
    assert grid.at(1, 1) is None


def test_both_models_share_one_colour_scale(tissue, classes):
    both = [seen("A", -0.2, 0.8), seen("B", 0.1, 0.3)]
    assert scale_of(both) == pytest.approx((-0.2, 0.8))
    grid = heatmap_grid(tissue, 300.0, both, 0, classes)
    picture = pixels(grid)
    for slot in grid.slots:
        cosine = both[slot.model].heatmaps[slot.prototype, -1, -1]
        wanted = heat_colours(np.array([[(cosine + 0.2) / 1.0]]))[0, 0]
        shown = picture.getpixel((slot.box[2] - 20, slot.box[3] - 20))
        assert np.abs(np.array(shown, int) - wanted).max() <= 2


def test_what_was_not_computed_is_grey(tissue, classes):
    grid = heatmap_grid(tissue, 300.0, [seen("A", 0, 1)], 0, classes)
    x0, y0, *_ = grid.slots[3].box
    assert len(set(pixels(grid).getpixel((x0 + 3, y0 + 3)))) == 1
    nothing = ModelView("A", np.full((4, 4), 255, np.uint8), np.full((2, 4, 4), np.nan, np.float32))
    assert heatmap_grid(tissue, 300.0, [nothing], 0, classes).slots


def test_the_mask_has_the_colour_of_its_class(tissue, classes):
    grid = heatmap_grid(tissue, 300.0, [seen("A", 0, 1)], 1, classes)
    x0, y0, *_ = grid.slots[0].box
    red, green, blue = pixels(grid).getpixel((x0 - CELL // 2, y0 + 40))
    assert (red < blue, green < blue) == (True, True)
    assert ImageColor.getrgb(classes[0].color)[2] == 255


@pytest.mark.parametrize("shape", [(20, 400), (400, 20)])
def test_flat_and_narrow_places_leave_room_for_scale_and_legend(classes, shape):
    grid = heatmap_grid(np.zeros((*shape, 3), np.uint8), 300.0, [seen("A", 0, 1)], 0, classes)
    assert min(slot.box[1] for slot in grid.slots) > LINE + MIN_HEAD
    assert "".join(text.get_text() for text in grid.figure.axes[0].texts).count("prototype ") == 10


def test_opening_the_widget_loads_no_matplotlib():
    code = "import napari_lpd.gui.explore.widget, sys; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
