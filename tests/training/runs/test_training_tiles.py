from __future__ import annotations

import shlex

import numpy as np
import pytest
import torch

from napari_lpd.comparison.tiles import tiles_of_set
from napari_lpd.core.errors import DataError
from napari_lpd.core.files import file_hashes
from napari_lpd.data.images import image_files
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.data.regions import Region, write_regions
from napari_lpd.data.tileset import tile_hashes
from napari_lpd.models.card import Card
from napari_lpd.models.checkpoint import TRAINING_ONLY, save_checkpoint
from napari_lpd.slides.formats import open_slide
from napari_lpd.training.runs.training_tiles import is_at_hand, training_tiles_of


@pytest.fixture
def model_of(classes, tiny_settings, tmp_path):
    """A model file with the command that trained it, and what it knows of the tiles that it learned from."""

    def make(*command, tiles=4, learned=None, folder=""):
        card = Card(
            classes=classes, settings=tiny_settings.model_copy(update={"mpp": 1.0}), tiles_per_class={}, tiles=tiles,
            steps=1, map_scale=((1.0,) * 2,) * 3, presence=(0.0,) * 2, folder=str(folder),
            command=shlex.join(["napari-lpd", "train", *map(str, command)]) if command else "",
        )  # fmt: skip
        known = {"prototypes": torch.zeros(1)}
        if learned is not None:
            files = file_hashes(learned.files)
            hashes = {"file_hashes": files, "tile_hashes": tile_hashes(learned, files)}
            known |= {TRAINING_ONLY + name: torch.from_numpy(rows) for name, rows in hashes.items()}
        return save_checkpoint(tmp_path / "runs" / "first" / "model.safetensors", known, card)

    return make


@pytest.fixture
def of_slide(tiny_tiff, tiny_regions, classes, tiny_settings, tmp_path):
    """The tiny slide's training tiles, and the file of their regions."""
    regions = write_regions(tmp_path / "my regions.geojson", tiny_regions, classes)
    with open_slide(tiny_tiff) as slide:
        return tiles_from_regions(slide, tiny_regions, classes, tiny_settings.model_copy(update={"mpp": 1.0})), regions


def test_tiles_of_a_slide_are_found_again_with_their_places(model_of, of_slide, tiny_tiff, tmp_path):
    learned, regions = of_slide
    model = model_of(
        "--slide", tiny_tiff, "--regions", regions, "--set", "seed=1", "--out", tmp_path / "out", learned=learned
    )
    assert is_at_hand(model)
    tiles = tiles_of_set(training_tiles_of(model))
    assert len(tiles) > 4
    with open_slide(tiny_tiff) as slide:
        for tile in tiles[::5]:
            assert (tile.slide, tile.file) == ("tiny.tiff", None)
            assert np.array_equal(tile.read(), slide.read(tile.origin, (64, 64), 1.0))


def test_tiles_in_files_are_found_again_as_files(model_of, tile_folder, classes):
    model = model_of("--data", tile_folder, "--preset", "pbip", learned=labelled_tiles(tile_folder, classes))
    tiles = tiles_of_set(training_tiles_of(model))
    assert len(tiles) == 24
    assert all(tile.file.name == tile.name and not tile.slide for tile in tiles)


def test_relative_paths_start_where_the_command_ran_or_above_the_model(
    model_of, tile_folder, classes, tmp_path, monkeypatch
):
    learned = labelled_tiles(tile_folder, classes)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for folder, data in ((tmp_path / "runs", f"../{tile_folder.name}"), ("/moved/away", tile_folder.name)):
        model = model_of("--data", data, learned=learned, folder=folder)
        assert is_at_hand(model)
        assert len(training_tiles_of(model)) == 24


def test_other_tiles_in_the_same_place_are_refused(model_of, tile_folder, classes):
    model = model_of("--data", tile_folder, learned=labelled_tiles(tile_folder, classes))
    first, *_, last = image_files(tile_folder / "train")
    content = first.read_bytes()
    first.write_bytes(last.read_bytes())
    changed = r"tiles \[11\]: 1 of 24 files that the model was trained on are gone or changed: give the training tiles"
    with pytest.raises(DataError, match=changed):
        training_tiles_of(model)
    first.write_bytes(content)
    more = tile_folder / "train" / "e+1[10].png"
    more.write_bytes(content)
    with pytest.raises(DataError, match="1 files that the model was not trained on: give the training tiles"):
        training_tiles_of(model)
    more.unlink()
    first.rename(first.with_name(first.name.replace("[10]", "[11]")))
    with pytest.raises(DataError, match="1 of 24 tiles that the model was trained on are gone or changed"):
        training_tiles_of(model)


def test_other_regions_or_another_slide_of_the_same_name_are_refused(
    model_of, of_slide, tiny_regions, tiny_tiff, classes
):
    learned, regions = of_slide
    model = model_of("--slide", tiny_tiff, "--regions", regions, learned=learned)
    count = len(learned)
    moved = [Region(region.vertices + np.array([0, 1.0]), region.tissues) for region in tiny_regions]
    write_regions(regions, moved, classes)
    with pytest.raises(DataError, match=f"my regions.geojson: \\d+ of {count} tiles that the model was trained on"):
        training_tiles_of(model)
    write_regions(regions, tiny_regions, classes)
    assert len(training_tiles_of(model)) == count
    content = bytearray(tiny_tiff.read_bytes())
    content[5000] ^= 1  # a pixel
    tiny_tiff.write_bytes(content)
    with pytest.raises(DataError, match=r"tiny\.tiff: 1 of 1 files that the model was trained on are gone or changed"):
        training_tiles_of(model)


def test_what_cannot_be_found_again_says_what_to_do(model_of, tile_folder, tmp_path):
    for command, message in (
        ((), "the model's card does not say what it was trained on: give the training tiles"),
        (("--slide", "a.tiff"), "the model's card does not say"),
        (("--data", tmp_path / "gone"), "gone: the model was trained on it, but it is not there now"),
    ):
        model = model_of(*command)
        assert not is_at_hand(model)
        with pytest.raises(DataError, match=message):
            training_tiles_of(model)
    with pytest.raises(DataError, match="24 tiles now, but the model was trained on 99"):
        training_tiles_of(model_of("--data", tile_folder, tiles=99))
