from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lpd.errors import SettingsError
from napari_lpd.tiles import Stitcher, TileGrid, pieces_of


@settings(max_examples=60, deadline=None)
@given(
    y=st.integers(-100, 500),
    x=st.integers(-100, 500),
    h=st.integers(1, 400),
    w=st.integers(1, 400),
    tile=st.integers(16, 128),
    overlap=st.integers(0, 15),
    border=st.integers(0, 7),
)
def test_the_kept_parts_of_tiles_cover_a_box(y, x, h, w, tile, overlap, border):
    grid = TileGrid(tile, overlap, min(border, overlap // 2))
    origins = grid.touching((y, x, y + h, x + w))
    assert len(origins) == len(set(origins))
    covered = np.zeros((h, w), bool)
    for origin in origins:
        y0, x0, y1, x1 = grid.kept(origin)
        part = covered[max(y0 - y, 0) : max(y1 - y, 0), max(x0 - x, 0) : max(x1 - x, 0)]
        assert part.size
        part[...] = True
    assert covered.all()


def stitched(grid, image, stride=1, block=32):
    """Cut `image` into tiles, put them together again."""
    h, w = image.shape[1:]
    stitcher = Stitcher(grid, len(image), stride, block, [(0, 0, h, w)])
    padded = np.pad(image, ((0, 0), (64, 64), (64, 64)))
    for y, x in grid.touching((0, 0, h, w)):
        stitcher.add((y, x), padded[:, y + 64 : y + 128, x + 64 : x + 128])
    return stitcher.read((0, 0, h, w))


@pytest.mark.parametrize(("overlap", "border"), [(0, 0), (8, 0), (8, 4), (32, 8)])
@pytest.mark.parametrize("shape", [(64, 64), (96, 200), (40, 360)])
def test_stitched_tiles_give_back_the_image(shape, overlap, border):
    image = np.random.default_rng(0).random((3, *shape)).astype(np.float32)
    maps, known = stitched(TileGrid(64, overlap, border), image)
    assert known.all()
    assert np.allclose(maps, image, atol=1e-5)


def test_the_border_of_a_tile_does_not_count():
    grid = TileGrid(64, 32, 8)
    stitcher = Stitcher(grid, 1, 1, 32, [(0, 0, 64, 64)])
    stitcher.add((0, 0), np.ones((1, 64, 64), np.float32))
    known = stitcher.read((0, 0, 64, 64))[1]
    assert known[8:56, 8:56].all()
    assert known.sum() == 48 * 48


def test_neighbours_change_places_smoothly():
    grid = TileGrid(64, 32, 8)
    stitcher = Stitcher(grid, 1, 1, 32, [(0, 0, 48, 96)])
    for origin in grid.touching((0, 0, 48, 80)):
        stitcher.add(origin, np.full((1, 64, 64), origin[1] // grid.step % 2, np.float32))
    row = stitcher.read((24, 0, 25, 80))[0][0, 0]
    assert 0 < np.abs(np.diff(row)).max() < 0.15


def test_maps_are_held_only_while_they_are_needed():
    grid = TileGrid(64, 0)
    boxes = [(0, 0, 40, 40), (40, 0, 80, 40)]
    stitcher = Stitcher(grid, 1, 1, 32, boxes)
    for y in (0, 64, 128):
        for x in (0, 64):
            stitcher.add((y, x), np.ones((1, 64, 64), np.float32))
    assert len(stitcher._held) == 6
    stitcher.release(boxes[0])
    assert len(stitcher._held) == 4
    assert stitcher.read(boxes[1])[1].all()
    stitcher.release(boxes[1])
    assert not stitcher._held


def test_a_part_is_cut_like_the_whole():
    grid = TileGrid(128, 32, 8)
    assert set(grid.touching((300, 400, 500, 700))) <= set(grid.touching((0, 0, 1000, 1000)))


def test_every_tile_lies_in_its_piece():
    grid = TileGrid(128, 32, 8)
    tiles = grid.touching((0, 0, 1000, 1300))
    pieces = pieces_of(grid, reversed(tiles))
    assert sorted(origin for piece in pieces for origin in piece) == tiles
    for piece in pieces:
        y0, x0, y1, x1 = grid.piece_box(piece[0])
        assert all(y0 <= y and x0 <= x and y + 128 <= y1 and x + 128 <= x1 for y, x in piece)


@pytest.mark.parametrize(("tile", "overlap", "border"), [(64, 64, 0), (64, -1, 0), (64, 16, 9)])
def test_a_grid_that_cannot_be_is_refused(tile, overlap, border):
    with pytest.raises(SettingsError):
        TileGrid(tile, overlap, border)


def test_tiles_off_the_stride_are_refused():
    with pytest.raises(SettingsError, match="stride"):
        Stitcher(TileGrid(65, 0), 1, 8, 64, [])
