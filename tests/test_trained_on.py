from __future__ import annotations

import shlex

import numpy as np
import pytest

from napari_lpd.checkpoint import Card
from napari_lpd.compare_tiles import tiles_of_set
from napari_lpd.errors import DataError
from napari_lpd.formats import open_slide
from napari_lpd.regions import write_regions
from napari_lpd.trained_on import is_at_hand, training_tiles_of


@pytest.fixture
def card_of(classes, tiny_settings):
    """A card with the command that trained the model."""

    def make(*command, tiles=4):
        return Card(
            classes=classes, settings=tiny_settings.model_copy(update={"mpp": 1.0}), tiles_per_class={}, tiles=tiles,
            steps=1, map_scale=((1.0,) * 2,) * 3, presence=(0.0,) * 2,
            command=shlex.join(["napari-lpd", "train", *map(str, command)]) if command else "",
        )  # fmt: skip

    return make


def test_tiles_of_a_slide_are_found_again_with_their_places(card_of, tiny_tiff, tiny_regions, classes, tmp_path):
    regions = tmp_path / "my regions.geojson"
    write_regions(regions, tiny_regions, classes)
    card = card_of("--slide", tiny_tiff, "--regions", regions, "--set", "seed=1", "--out", tmp_path / "out")
    assert is_at_hand(card)
    tiles = tiles_of_set(training_tiles_of(card))
    assert len(tiles) > 4
    with open_slide(tiny_tiff) as slide:
        for tile in tiles[::5]:
            assert (tile.slide, tile.file) == ("tiny.tiff", None)
            assert np.array_equal(tile.read(), slide.read(tile.origin, (64, 64), 1.0))


def test_tiles_in_files_are_found_again_as_files(card_of, tile_folder):
    card = card_of("--data", tile_folder, "--preset", "pbip")
    tiles = tiles_of_set(training_tiles_of(card))
    assert len(tiles) == 24
    assert all(tile.file.name == tile.name and not tile.slide for tile in tiles)


def test_what_cannot_be_found_again_says_what_to_do(card_of, tile_folder, tmp_path):
    for card, message in (
        (card_of(), "the model's card does not say what it was trained on: give the training tiles"),
        (card_of("--slide", "a.tiff"), "the model's card does not say"),
        (card_of("--data", tmp_path / "gone"), "gone: the model was trained on it, but it is not there now"),
    ):
        assert not is_at_hand(card)
        with pytest.raises(DataError, match=message):
            training_tiles_of(card)
    with pytest.raises(DataError, match="24 tiles now, but the model was trained on 99"):
        training_tiles_of(card_of("--data", tile_folder, tiles=99))
