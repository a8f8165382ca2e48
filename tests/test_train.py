from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from napari_lpd import checkpoint
from napari_lpd.data import augment, tiles_from_folder, tiles_from_regions
from napari_lpd.encoder import build_encoder
from napari_lpd.errors import DataError, LpdError, SettingsError
from napari_lpd.jobs import run
from napari_lpd.model import LPD, load_model
from napari_lpd.regions import Region
from napari_lpd.train import fit, parameter_groups


@pytest.fixture
def tiles(tiny_slide, tiny_regions, classes, tiny_settings):
    return tiles_from_regions(tiny_slide, tiny_regions, classes, tiny_settings)


def test_tiles_take_the_labels_of_the_regions_they_lie_in(tiles):
    assert set(map(tuple, tiles.labels.tolist())) == {(1.0, 0.0), (0.0, 1.0)}
    for index in range(len(tiles)):
        image, labels = tiles[index]
        assert image.shape == (3, 64, 64)
        assert (image.float().mean() < 120) == bool(labels[0])


def test_a_region_of_two_tissues_labels_its_tiles_with_both(tiny_slide, classes, tiny_settings):
    square = np.array([[0, 100], [0, 300], [256, 300], [256, 100]], float)
    dark = np.array([[0, 0], [0, 90], [256, 90], [256, 0]], float)
    regions = [Region(square, ("dark", "pink")), Region(dark, ("dark",))]
    labels = tiles_from_regions(tiny_slide, regions, classes, tiny_settings).labels
    assert [1.0, 1.0] in labels.tolist()
    assert [1.0, 0.0] in labels.tolist()


def test_no_regions_one_class_and_small_regions_give_one_line(tiny_slide, tiny_regions, classes, tiny_settings):
    with pytest.raises(DataError, match="no regions"):
        tiles_from_regions(tiny_slide, [], classes, tiny_settings)
    with pytest.raises(DataError, match="only dark"):
        tiles_from_regions(tiny_slide, tiny_regions[:1], classes, tiny_settings)
    small = Region(tiny_regions[0].vertices / 20, ("dark",))
    with pytest.raises(DataError, match="no region holds a tile"):
        tiles_from_regions(tiny_slide, [small], classes, tiny_settings)


def folder_of_tiles(folder, names):
    folder.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (64, 64)).save(folder / name)
    return folder


def test_labels_come_from_the_file_name_alone(tmp_path, classes):
    names = ["b[01].png", "a+3[10].png", "c [1 1].png"]
    folder = folder_of_tiles(tmp_path / "set [11]" / "train", names).parent
    assert tiles_from_folder(folder, classes).labels.tolist() == [[1, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize("name", ["a.png", "a[1].png", "a[101].png"])
def test_a_name_without_the_right_digits_is_named(tmp_path, classes, name):
    folder = folder_of_tiles(tmp_path / "train", [name])
    with pytest.raises(DataError, match="wanted 2 digits"):
        tiles_from_folder(folder, classes)


def test_augmentation_keeps_range_and_is_seeded():
    images = torch.rand(4, 3, 16, 16)
    first, again = (augment(images, torch.Generator().manual_seed(3)) for _ in range(2))
    other = augment(images, torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1


def test_training_writes_a_model_that_loads_with_its_card(tiles, tiny_settings, tmp_path):
    seen = []
    path = run(fit(tiles, tiny_settings, tmp_path / "run", "napari-lpd train …"), seen.append)
    assert [progress.done for progress in seen] == [1, 2, 3]
    assert {"loss", "classification", "diversity", "lr"} <= seen[0].metrics.keys()
    model = load_model(path)
    assert [tissue.name for tissue in model.card.classes] == ["dark", "pink"]
    assert model.card.settings == tiny_settings
    assert model.card.command == "napari-lpd train …"
    assert len(model.card.map_scale) == 3
    assert checkpoint.read_card(path) == model.card
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.json", "model.safetensors"]


def test_the_same_seed_gives_the_same_model(tiles, tiny_settings, tmp_path):
    states = [checkpoint.load_tensors(run(fit(tiles, tiny_settings, tmp_path / str(i)))) for i in range(2)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_cancelled_training_leaves_nothing(tiles, tiny_settings, tmp_path):
    job = fit(tiles, tiny_settings, tmp_path / "run")
    next(job)
    job.close()
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_a_number_stops_and_says_where(tiles, tiny_settings, tmp_path):
    settings = tiny_settings.model_copy(update={"lr": 1.0, "head_lr_factor": 1e30, "max_steps": 5})
    with pytest.raises(LpdError, match=r"step \d of 5"):
        run(fit(tiles, settings, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_norms_scales_and_prototypes_are_not_decayed(tiny_settings):
    network = LPD(tiny_settings.model, 2, build_encoder(tiny_settings.model.encoder))
    free = {
        id(p)
        for group in parameter_groups(network, tiny_settings)
        if not group["weight_decay"]
        for p in group["params"]
    }
    assert id(network.prototypes) in free
    assert id(network.scales) in free
    assert all((id(p) in free) for p in network.parameters() if p.ndim == 1)
    assert id(network.adapters[0][0].weight) not in free


def test_an_encoder_that_is_missing_is_named(tiles, tiny_settings, tmp_path):
    model = tiny_settings.model.model_copy(update={"encoder_weights": "absent.pth"})
    with pytest.raises(LpdError, match="absent.pth"):
        run(fit(tiles, tiny_settings.model_copy(update={"model": model}), tmp_path / "run"))


def test_settings_out_of_limits_name_the_setting(tiny_settings):
    with pytest.raises(SettingsError, match="epochs=0"):
        type(tiny_settings).build({"epochs": 0})
    with pytest.raises(SettingsError, match="known settings"):
        type(tiny_settings).build({"epoch": 3})
