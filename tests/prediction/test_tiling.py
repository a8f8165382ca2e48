from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lpd.core.errors import SettingsError
from napari_lpd.prediction.tiling import Stitcher, TileShape, Tiling
from napari_lpd.slides.tissue import TissueMask

SHAPE = TileShape(128, 32, 8)


def kept_box(shape, origin):
    """The part that counts of the tile whose first pixel is at `origin`."""
    return tuple(value + edge for edge in (shape.border, shape.border + shape.kept) for value in origin)


WHOLE = TissueMask(np.ones((11, 14), bool), 100.0)


@st.composite
def masks(draw):
    """Rectangles of tissue on glass, with a resolution."""
    array = np.zeros((draw(st.integers(1, 60)), draw(st.integers(1, 60))), bool)
    for _ in range(draw(st.integers(0, 5))):
        y, x = (draw(st.integers(0, n - 1)) for n in array.shape)
        array[y : y + draw(st.integers(1, 20)), x : x + draw(st.integers(1, 20))] = True
    return TissueMask(array, draw(st.floats(1, 40)))


@settings(max_examples=100, deadline=None)
@given(
    mask=masks(),
    tile=st.integers(8, 40),
    overlap=st.integers(0, 7),
    border=st.integers(0, 3),
    stride=st.sampled_from([1, 4]),
)
def test_the_kept_parts_of_tiles_cover_the_tissue(mask, tile, overlap, border, stride):
    shape = TileShape(tile * stride, overlap * stride, min(border, overlap // 2) * stride)
    tiling = Tiling(shape, mask, 1.0, stride)
    size = [math.ceil(n * mask.mpp) for n in mask.array.shape]
    covered = np.zeros(size, bool)
    for origin in tiling.tiles:
        assert not any(value % stride for value in origin)
        y0, x0, y1, x1 = (max(edge, 0) for edge in kept_box(shape, origin))
        covered[y0:y1, x0:x1] = True
    assert covered[mask.at((0, 0), tuple(size), 1.0)].all()
    assert bool(tiling.tiles) == mask.array.any()


@settings(max_examples=60, deadline=None)
@given(mask=masks(), box=st.tuples(*[st.integers(-100, 900)] * 4))
def test_the_tiles_of_a_box_are_those_whose_kept_part_touches_it(mask, box):
    y0, x0, y1, x1 = min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]) + 1, max(box[1], box[3]) + 1
    tiling = Tiling(SHAPE, mask, 1.0)
    expected = []
    for origin in tiling.tiles:
        top, left, bottom, right = kept_box(SHAPE, origin)
        if top < y1 and bottom > y0 and left < x1 and right > x0:
            expected.append(origin)
    assert tiling.touching((y0, x0, y1, x1)) == expected


@pytest.mark.parametrize("place", [(0, 0), (13, 57), (70, 41)])
def test_a_piece_of_tissue_lies_amid_the_fewest_tiles_wherever_it_is(place):
    array = np.zeros((120, 120), bool)
    array[place[0] : place[0] + 20, place[1] : place[1] + 13] = True  # 200 x 130 pixels; a tile keeps 112
    tiling = Tiling(SHAPE, TissueMask(array, 10.0), 1.0)
    assert len(tiling.tiles) == 4
    boxes = np.array([kept_box(SHAPE, origin) for origin in tiling.tiles])
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    assert np.abs((low + high) / 2 - (np.array(place) * 10 + (100, 65))).max() <= 1


def test_pieces_far_apart_have_tiles_of_their_own_and_glass_has_none():
    array = np.zeros((100, 100), bool)
    array[5:10, 5:10] = array[5:10, 80:85] = array[70:75, 40:45] = True
    tiling = Tiling(SHAPE, TissueMask(array, 10.0), 1.0)
    assert len(tiling.tiles) == 3
    assert not Tiling(SHAPE, TissueMask(np.zeros((10, 10), bool), 10.0), 1.0).tiles


def stitched(shape, image, stride=1, block=32):
    """Cut `image` into tiles, put them together again."""
    h, w = image.shape[1:]
    stitcher = Stitcher(shape, len(image), stride, block, [(0, 0, h, w)])
    padded = torch.from_numpy(np.pad(image, ((0, 0), (64, 64), (64, 64))))
    for y, x in Tiling(shape, TissueMask(np.ones((h, w), bool), 1.0), 1.0, stride).tiles:
        stitcher.add((y, x), padded[:, y + 64 : y + 128, x + 64 : x + 128])
    return stitcher.read((0, 0, h, w))


@pytest.mark.parametrize(("overlap", "border"), [(0, 0), (8, 0), (8, 4), (32, 8)])
@pytest.mark.parametrize("shape", [(64, 64), (96, 200), (40, 360)])
def test_stitched_tiles_give_back_the_image(shape, overlap, border):
    image = np.random.default_rng(0).random((3, *shape)).astype(np.float32)
    maps, known = stitched(TileShape(64, overlap, border), image)
    assert known.all()
    assert np.allclose(maps, image, atol=1e-5)


def test_the_border_of_a_tile_does_not_count():
    shape = TileShape(64, 32, 8)
    stitcher = Stitcher(shape, 1, 1, 32, [(0, 0, 64, 64)])
    stitcher.add((0, 0), torch.ones(1, 64, 64))
    known = stitcher.read((0, 0, 64, 64))[1]
    assert known[8:56, 8:56].all()
    assert known.sum() == 48 * 48


def test_neighbours_change_places_smoothly():
    shape = TileShape(64, 32, 8)
    stitcher = Stitcher(shape, 1, 1, 32, [(0, 0, 48, 96)])
    for i, x in enumerate(range(-8, 80, shape.step)):
        stitcher.add((-8, x), torch.full((1, 64, 64), float(i % 2)))
    row = stitcher.read((24, 0, 25, 80))[0][0, 0]
    assert 0 < row.diff().abs().max() < 0.15


def test_maps_are_held_only_while_they_are_needed():
    shape = TileShape(64, 0)
    boxes = [(0, 0, 40, 40), (40, 0, 80, 40)]
    stitcher = Stitcher(shape, 1, 1, 32, boxes)
    for y in (0, 64, 128):
        for x in (0, 64):
            stitcher.add((y, x), torch.ones(1, 64, 64))
    assert len(stitcher._held) == 6
    stitcher.release(boxes[0])
    assert len(stitcher._held) == 4
    assert stitcher.read(boxes[1])[1].all()
    stitcher.release(boxes[1])
    assert not stitcher._held


def test_every_tile_lies_in_its_piece_whichever_are_wanted():
    tiling = Tiling(SHAPE, WHOLE, 1.0)
    pieces = tiling.pieces(reversed(tiling.tiles))
    assert sorted(origin for piece in pieces for origin in piece.origins) == tiling.tiles
    boxes = {}
    for piece in pieces:
        y0, x0, y1, x1 = piece.box
        assert all(y0 <= y and x0 <= x and y + 128 <= y1 and x + 128 <= x1 for y, x in piece.origins)
        boxes |= dict.fromkeys(piece.origins, piece.box)
    assert len(pieces) < len(tiling.tiles) / 4
    for origin in tiling.tiles:
        assert tiling.pieces([origin]) == [([origin], boxes[origin])]


@pytest.mark.parametrize(("tile", "overlap", "border"), [(64, 64, 0), (64, -1, 0), (64, 16, 9)])
def test_a_tile_that_cannot_be_is_refused(tile, overlap, border):
    with pytest.raises(SettingsError):
        TileShape(tile, overlap, border)


def test_tiles_off_the_stride_are_refused():
    with pytest.raises(SettingsError, match="stride"):
        Stitcher(TileShape(65, 0), 1, 8, 64, [])
