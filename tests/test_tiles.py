from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lpd.errors import SettingsError
from napari_lpd.tiles import Stitcher, TileGrid


@settings(max_examples=60, deadline=None)
@given(
    y=st.integers(-100, 500),
    x=st.integers(-100, 500),
    h=st.integers(1, 400),
    w=st.integers(1, 400),
    tile=st.integers(16, 128),
    overlap=st.integers(0, 15),
)
def test_tiles_cover_the_box_once_counted(y, x, h, w, tile, overlap):
    grid = TileGrid((y, x, y + h, x + w), tile, overlap)
    origins = list(grid)
    assert len(origins) == len(grid) == len(set(origins))
    covered = np.zeros((h, w), bool)
    for ty, tx in origins:
        covered[max(ty - y, 0) : max(ty + tile - y, 0), max(tx - x, 0) : max(tx + tile - x, 0)] = True
    assert covered.all()


@pytest.mark.parametrize("overlap", [0, 8, 32])
@pytest.mark.parametrize("shape", [(64, 64), (96, 200), (40, 360)])
def test_stitched_tiles_give_back_the_image(shape, overlap):
    image = np.random.default_rng(0).random((3, *shape)).astype(np.float32)
    grid = TileGrid((0, 0, *shape), 64, overlap)
    stitcher = Stitcher(grid.box, 3, grid.tile, 1)
    padded = np.pad(image, ((0, 0), (64, 64), (64, 64)))
    for y, x in grid:
        stitcher.add((y, x), padded[:, y + 64 : y + 128, x + 64 : x + 128])
    assert np.allclose(stitcher.result(), image, atol=1e-5)


def test_a_part_is_cut_like_the_whole():
    whole = set(TileGrid((0, 0, 1000, 1000), 128, 32))
    assert set(TileGrid((300, 400, 500, 700), 128, 32)) <= whole


@pytest.mark.parametrize("box", [(0, 0, 0, 10), (5, 5, 4, 10)])
def test_an_empty_region_is_refused(box):
    with pytest.raises(SettingsError, match="empty region"):
        TileGrid(box, 64, 0)


def test_a_box_off_the_stride_is_refused():
    with pytest.raises(SettingsError, match="stride"):
        Stitcher((0, 0, 65, 64), 1, 64, 8)
