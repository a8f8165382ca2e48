"""Tiles of slides share the features of cells, which depend on the slide alone; tiles in files have their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_lpd.core.settings.training import ModelSettings, TrainSettings
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.data.regions import Region
from napari_lpd.models.joint.store import FeatureStore
from napari_lpd.models.joint.tiles import FeatureTiles, FrozenEncoder
from napari_lpd.models.network import new_network
from napari_lpd.slides.slide import Slide

ROOM = 2**30
SETTINGS = TrainSettings(model=ModelSettings(head="joint", prototype_dim=32, neck_width=16), tile=64, tile_step=32)


@pytest.fixture(scope="module")
def encoder():
    network = new_network(SETTINGS.model, 2, "embedded").eval()
    return FrozenEncoder(network, torch.device("cpu"), None)


@pytest.fixture(scope="module")
def slide():
    """(1200, 900) of 1 µm per pixel: spots of two colours, so that every place differs."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 240, (75, 57, 3))
    image = np.kron(coarse, np.ones((16, 16, 1)))[:1200, :900] + rng.normal(0, 8, (1200, 900, 3))
    return Slide.from_levels([np.clip(image, 0, 255).astype(np.uint8)], (1.0, 1.0), "spots")


def regions(*boxes):
    """Rectangles (y, x, height, width), in turn of two tissues."""
    corners = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
    return [
        Region(corners * (h, w) + (y, x), (("dark", "pink")[i % 2],)) for i, (y, x, h, w) in enumerate(boxes)
    ]  # fmt: skip


def features_of(slide, encoder, classes, *boxes, store=None):
    tiles = tiles_from_regions(slide, regions(*boxes), classes, SETTINGS)
    return FeatureTiles(tiles, encoder, store or FeatureStore("", ROOM))


def at(found, y, x):
    """The features of the tile at (y, x)."""
    (index,) = [i for i, origin in enumerate(found.tiles.origins) if (origin.y, origin.x) == (y, x)]
    return found.of(index)


def test_a_tile_has_the_same_features_whatever_else_was_asked_for(slide, encoder, classes):
    alone = features_of(slide, encoder, classes, (496, 480, 64, 64), (100, 100, 64, 64))
    among = features_of(slide, encoder, classes, (400, 416, 224, 256), (700, 100, 64, 64))
    assert np.array_equal(at(alone, 496, 480), at(among, 496, 480))  # it lies in four cells


def test_overlapping_tiles_share_their_places(slide, encoder, classes):
    found = features_of(slide, encoder, classes, (480, 480, 96, 96), (100, 100, 64, 64))
    assert at(found, 480, 480).shape == (4, 4, 472)
    assert np.array_equal(at(found, 480, 480)[2:, 2:], at(found, 512, 512)[:2, :2])


def test_cells_join_without_a_seam(slide, encoder, classes):
    found = at(features_of(slide, encoder, classes, (496, 200, 64, 64), (100, 100, 64, 64)), 496, 200)
    around = slide.read(
        (
            496 - 192,
            200 - 200,
        ),
        (448, 464),
        1.0,
    )
    whole = encoder(np.ascontiguousarray(around.transpose(2, 0, 1)))[12:16, 12:16]  # read at once, off the grid by 8
    cosine = (found * whole.astype(np.float32)).sum(2) / np.linalg.norm(found.astype(np.float32), axis=2)
    cosine /= np.linalg.norm(whole.astype(np.float32), axis=2)
    assert cosine.min() > 0.8


@pytest.mark.parametrize("origin", [(-20, -20), (1160, 860)])
def test_a_tile_at_the_slide_s_edge_has_features(slide, encoder, classes, origin):
    y, x = (min(max(v, 0), limit) for v, limit in zip(origin, (1176, 876), strict=True))
    found = features_of(slide, encoder, classes, (y, x, 24, 24), (500, 400, 64, 64), (600, 400, 64, 64))
    assert all(np.isfinite(found.of(i)).all() for i in range(len(found.tiles)))


def test_tiles_in_files_have_the_features_of_their_image(tile_folder, encoder, classes):
    tiles = labelled_tiles(tile_folder, classes)
    found = FeatureTiles(tiles, encoder, FeatureStore("", ROOM))
    assert np.array_equal(found.of(3), encoder(tiles[3][0]))
    assert np.array_equal(found.subset([5, 3]).of(1), found.of(3))


def test_features_are_measured_over_all_places(tile_folder, encoder, classes):
    found = FeatureTiles(labelled_tiles(tile_folder, classes), encoder, FeatureStore("", ROOM))
    every = np.concatenate([found.of(i).reshape(-1, 472) for i in range(len(found))]).astype(np.float64)
    mean, deviation = found.statistics()
    assert np.allclose(mean, every.mean(0), atol=1e-3)
    assert np.allclose(deviation, every.std(0), atol=1e-3)


def test_matched_colours_change_cells_as_they_change_tiles(slide, encoder, classes):
    from napari_lpd.data.tileset import training_colours

    tiles = tiles_from_regions(slide, regions((0, 0, 200, 200), (300, 300, 200, 200)), classes, SETTINGS)
    darker = training_colours(tiles)
    darker = darker.model_copy(update={"density": tuple(value * 1.3 for value in darker.density)})
    other = tiles.with_colours(darker)
    assert other.cells.keys() == tiles.cells.keys()
    cell = next(iter(tiles.cells))
    assert other.cells[cell].mean() < tiles.cells[cell].mean()
    assert other.read(0).mean() < tiles.read(0).mean()
