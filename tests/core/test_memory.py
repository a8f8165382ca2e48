from __future__ import annotations

import numpy as np
import pytest
from torch.utils.data import DataLoader

from napari_lpd.data import tileset as memory
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.data.tileset import ImageCache, TileSet, room_for_images
from napari_lpd.slides.stain import colours_of


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(("room", "kept"), [(10**6, 5), (3 * 48 + 1, 3), (0, 0)])
def test_images_that_fit_are_read_once_and_stay_the_same(room, kept):
    source, read = images(5), []

    def reading(index):
        read.append(index)
        return source[index]

    held = ImageCache(reading, 5, room)
    read.clear()
    for _ in range(2):
        assert all(np.array_equal(held(index), source[index]) for index in range(5))
    assert held.kept == kept
    assert sorted(read) == sorted([*range(5), *range(kept, 5)])


def test_what_a_worker_process_reads_is_kept_for_all(tile_folder, classes):
    tiles = labelled_tiles(tile_folder, classes)
    expected = [tiles[index][0] for index in range(len(tiles))]
    kept = tiles.kept_in_memory()
    for _ in DataLoader(kept, batch_size=4, num_workers=1):
        pass
    for file in tiles.files:
        file.unlink()
    assert all(np.array_equal(kept[index][0], image) for index, image in enumerate(expected))


def test_worker_processes_that_are_started_anew_read_the_same(tile_folder, classes):
    """As on macOS and Windows, where nothing is forked."""
    tiles = labelled_tiles(tile_folder, classes)
    wanted = tiles.with_colours(colours_of(tiles.read(index) for index in range(4)))
    held = TileSet.joined([wanted.kept_in_memory(), tiles], "both").subset(range(0, 48, 6)).subset([6, 1, 0])
    expected = [held[index][0] for index in range(3)]
    loader = DataLoader(held, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert all(np.array_equal(image, own) for (image, _), own in zip(loader, expected, strict=True))


def test_a_container_and_processes_that_share_it_leave_less_room(monkeypatch, tmp_path):
    whole = room_for_images()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert room_for_images() == whole // 2
    (tmp_path / "memory.max").write_text("800\n")
    monkeypatch.setattr(memory, "CGROUP_LIMIT", tmp_path / "memory.max")
    assert room_for_images() == 100
