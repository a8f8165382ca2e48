from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from napari_lpd import samples
from napari_lpd.core.classes import read_classes
from napari_lpd.core.errors import DataError, LpdError, ModelError, SettingsError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.presets import PRESETS
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.data.regions import Region, read_regions
from napari_lpd.data.tileset import TileSet
from napari_lpd.models import checkpoint
from napari_lpd.models.card import read_card
from napari_lpd.models.checkpoint import load_model
from napari_lpd.models.encoder import build_encoder
from napari_lpd.models.network import LPD, encoder_of
from napari_lpd.training import step, trainer
from napari_lpd.training.augmentation import augment
from napari_lpd.training.fit import fit
from napari_lpd.training.runs.folder import STATE_NAME
from napari_lpd.training.step import parameter_groups
from napari_lpd.training.validation import Validation, ValidationScores, calibrate


@pytest.fixture
def tiles(tiny_slide, tiny_regions, classes, tiny_settings):
    return tiles_from_regions(tiny_slide, tiny_regions, classes, tiny_settings)


def test_tiles_take_the_labels_of_the_regions_they_lie_in(tiles):
    assert set(map(tuple, tiles.labels.tolist())) == {(1.0, 0.0), (0.0, 1.0)}
    for index in range(len(tiles)):
        image, labels = tiles[index]
        assert image.shape == (3, 64, 64)
        assert (image.mean() < 120) == bool(labels[0])


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
    assert labelled_tiles(folder, classes).labels.tolist() == [[1, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize("name", ["a.png", "a[1].png", "a[101].png"])
def test_a_name_without_the_right_digits_is_named(tmp_path, classes, name):
    folder = folder_of_tiles(tmp_path / "train", [name])
    with pytest.raises(DataError, match="wanted 2 digits"):
        labelled_tiles(folder, classes)


def test_augmentation_keeps_range_and_is_seeded():
    images = torch.rand(4, 3, 16, 16)
    first, again = (augment(images, torch.Generator().manual_seed(3)) for _ in range(2))
    other = augment(images, torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1


def test_training_writes_a_model_that_loads_with_its_card(tiles, pretrained_settings, tmp_path):
    seen = []
    path = run(fit(tiles, pretrained_settings, tmp_path / "run", "napari-lpd train …"), seen.append)
    assert [progress.done for progress in seen] == [0, 1, 2, 3, 3]  # the last says that the epoch was validated
    assert seen[0].message == (
        "computing on cpu (no GPU found), in float32; input mean 0.5, 0.5, 0.5, deviation 0.5, 0.5, 0.5"
        " (timm: tf_efficientnet_lite0.in1k)"
    )
    assert (tmp_path / "run" / "previews" / "epoch-0001.png").exists()
    assert {"loss", "classification", "contrast", "diversity", "lr"} <= seen[1].metrics.keys()
    model = load_model(path)
    assert [tissue.name for tissue in model.card.classes] == ["dark", "pink"]
    assert model.card.settings == pretrained_settings
    assert model.card.command == "napari-lpd train …"
    assert len(model.card.map_scale) == 3
    assert read_card(path) == model.card
    names = ["history.csv", "last.json", "last.safetensors", "model.json", "model.safetensors", "previews"]
    assert sorted(p.name for p in path.parent.iterdir()) == names


def test_the_same_seed_gives_the_same_model(tiles, tiny_settings, tmp_path):
    states = [checkpoint.load_tensors(run(fit(tiles, tiny_settings, tmp_path / str(i)))) for i in range(2)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_cancelled_training_leaves_its_state_alone(tiles, tiny_settings, tmp_path):
    job = fit(tiles, tiny_settings, tmp_path / "run")
    next(job)  # what it computes on
    next(job)
    job.close()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [STATE_NAME]


def test_a_loss_that_is_not_a_number_stops_and_says_where(tiles, tiny_settings, tmp_path, monkeypatch):
    calls = iter(range(10))

    def broken(images, *_):
        return images * (float("nan") if next(calls) == 2 else 1)

    monkeypatch.setattr(step, "augment", broken)
    settings = tiny_settings.model_copy(update={"max_steps": 5})
    with pytest.raises(LpdError, match=r"at step 3 of 5, tiles tiny #\d+, .* the last good state is kept in"):
        run(fit(tiles, settings, tmp_path / "run"))
    kept = checkpoint.load_tensors(tmp_path / "run" / "last.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())
    assert load_model(tmp_path / "run" / "last.safetensors").card.steps == 2


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
    with pytest.raises(SettingsError, match="there is no setting epoch; did you mean epochs?"):
        type(tiny_settings).build({"epoch": 3})
    with pytest.raises(SettingsError, match="no setting model.prototypes; did you mean model.prototype"):
        type(tiny_settings).build({"model": {"prototypes": 3}})
    with pytest.raises(SettingsError, match="no setting bank; did you mean model.bank?"):
        type(tiny_settings).build({"bank": "random"})
    with pytest.raises(SettingsError, match="no setting xyzzy; known settings: model.encoder, "):
        type(tiny_settings).build({"xyzzy": 3})
    with pytest.raises(SettingsError, match="contrast_weight=inf: Input should be a finite number"):
        type(tiny_settings).build({"contrast_weight": float("inf")})
    with pytest.raises(SettingsError, match="^model.bank=linear has no prototypes: set contrast_weight=0"):
        type(tiny_settings).build({"model": {"bank": "linear", "prototypes_per_class": 1}})
    with pytest.raises(SettingsError, match="^stage_weights: wanted 4 weights, none below 0, not all 0"):
        type(tiny_settings).build({"stage_weights": [0, 0, 0, 0]})
    with pytest.raises(SettingsError, match="--set stage_weights.x=1: stage_weights has no parts"):
        read_settings(TrainSettings, None, ["stage_weights.x=1"], "paper")


def test_a_share_of_the_slides_is_held_out_and_every_class_stays(tiles):
    slides = [f"s{i % 4}" for i in range(len(tiles))]
    spread = TileSet(tiles.classes, tiles.labels, tiles.read, "four", sources=slides, files=[])
    kept, held = spread.hold_out(0.3, 0)
    assert len(set(held.sources)) == 1
    assert not set(held.sources) & set(kept.sources)
    assert len(kept) + len(held) == len(tiles)
    first = slides.index(held.sources[0])
    assert np.array_equal(held[0][0], tiles[first][0])
    assert np.array_equal(held[0][1], tiles[first][1])
    assert tiles.hold_out(0.3, 0) == (tiles, None)  # one place, and nothing to split


def test_a_rare_class_among_many_tiles_is_calibrated_too(tiles, pretrained_settings):
    many = tiles.subset([i % len(tiles) for i in range(2000)])
    many.labels = np.repeat([[1.0, 0.0]], 2000, axis=0).astype(np.float32)
    many.labels[[777, 1333]] = (0, 1)
    network = LPD(pretrained_settings.model, 2, encoder_of(pretrained_settings.model, "embedded")).eval()
    assert np.array(calibrate(network, many, None, 32).map_scale).shape == (3, 2)


def test_shares_are_made_as_sure_as_right_on_held_out_tiles_alone(tiles, tiny_model):
    network = tiny_model.network.eval()
    first, second = (tiles.subset(range(start, len(tiles), 2)) for start in (0, 1))
    assert calibrate(network, first, None, 8).temperature == 1
    right = calibrate(network, first, second, 8).temperature
    wrong = second.subset(range(len(second)))
    wrong.labels = wrong.labels[:, ::-1].copy()
    assert 0.2 <= right < calibrate(network, first, wrong, 8).temperature <= 5


def test_a_network_that_sees_no_class_keeps_its_shares(tiles, tiny_model, monkeypatch):
    monkeypatch.setattr("napari_lpd.training.validation.PRESENCE", 1.1)  # more than any class is ever given
    assert calibrate(tiny_model.network.eval(), tiles, tiles, 8).temperature == 1


def test_a_random_encoder_learns_its_batch_statistics(tiles, pretrained_settings, tmp_path):
    for weights in ("embedded", "random"):
        model = pretrained_settings.model.model_copy(update={"encoder_weights": weights})
        paths = [
            run(
                fit(
                    tiles,
                    pretrained_settings.model_copy(update={"model": model, "max_steps": n}),
                    tmp_path / f"{weights}{n}",
                )
            )
            for n in (1, 3)
        ]
        means = [checkpoint.load_tensors(path)["encoder.backbone.bn1.running_mean"] for path in paths]
        assert torch.equal(*means) == (weights == "embedded")


def test_the_best_epoch_is_kept_beside_the_last(tiles, tiny_settings, tmp_path):
    scores = iter([0.5, 0.9, 0.1])
    settings = tiny_settings.model_copy(update={"epochs": 3, "max_steps": 0})
    path = run(
        fit(tiles, settings, tmp_path, validation=Validation(lambda _: ValidationScores({"score": next(scores)}, {})))
    )
    assert load_model(path).card.metrics["valid score"] == 0.9
    assert load_model(tmp_path / "last.safetensors").card.metrics["valid score"] == 0.1
    history = (tmp_path / "history.csv").read_text("utf-8-sig").splitlines()
    assert history[0].startswith("epoch,step,loss,classification,contrast,diversity")
    assert len(history) == 4


def test_classes_may_be_names_alone(tmp_path):
    (tmp_path / "classes.json").write_text('{"classes": ["tumour", {"name": "stroma", "color": "#112233"}]}')
    tumour, stroma = read_classes(tmp_path / "classes.json")
    assert (tumour.name, stroma.name, stroma.color) == ("tumour", "stroma", "#112233")
    (tmp_path / "classes.json").write_text('{"classes": ["tumour", "tumour"]}')
    with pytest.raises(LpdError, match=r"classes.json: a tissue name occurs twice"):
        read_classes(tmp_path / "classes.json")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_and_its_model_loads(preset, tiles, pretrained_settings, tmp_path):
    small = {"prototype_dim": 320, "encoder": pretrained_settings.model.encoder, "encoder_weights": "embedded"}
    small |= {"prototypes_per_class": 1 if preset == "cam" else 2}
    values = {**PRESETS[preset], "tile": 64, "batch": 4, "max_steps": 2, "epochs": 1, "threads": 1, "warm_up": 0.0}
    values |= {"model": values.get("model", {}) | small}
    if "region_encoder" in values:  # the published one is not embedded, and so has to be asked for
        with pytest.raises(LpdError, match="no weights are embedded for 'swin_tiny"):
            run(fit(tiles, TrainSettings.build(values), tmp_path))
        values |= {"region_encoder": "resnet18", "region_encoder_weights": "random"}
    seen = []
    path = run(fit(tiles, TrainSettings.build(values), tmp_path), seen.append)
    steps = [progress.metrics for progress in seen if "contrast" in progress.metrics]
    contrasts = preset not in ("cam", "fast")
    assert (steps[0]["contrast"] > 0) == contrasts
    model = load_model(path)
    assert model.network.settings.bank == values["model"].get("bank", "learned")
    stored = checkpoint.load_tensors(path)
    assert ("training.region_projection.weight" in stored) == contrasts


def test_a_fixed_bank_stays_and_a_learned_one_moves(tiles, tiny_settings, tmp_path):
    for bank, moves in (("clustered", False), ("random", False), ("seeded", True), ("learned", True)):
        banks = []
        for steps in (1, 3):
            model = tiny_settings.model.model_copy(update={"bank": bank})
            settings = tiny_settings.model_copy(update={"model": model, "max_steps": steps})
            path = run(fit(tiles, settings, tmp_path / f"{bank}{steps}"))
            banks.append(checkpoint.load_tensors(path)["prototypes"])
        assert torch.equal(*banks) != moves, bank


def test_a_gpu_without_room_for_a_batch_is_said_in_one_line(tiles, tiny_settings, tmp_path, monkeypatch):
    def lacking(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(trainer.Trainer, "_take_step", lacking)
    with pytest.raises(ModelError) as caught:
        run(fit(tiles, tiny_settings, tmp_path / "run"))
    assert str(caught.value) == (
        "cpu: not enough memory for a batch of 4 tiles of 64 pixels; use batch=2, a smaller tile=, or device=cpu"
    )


def test_regions_over_the_cap_are_counted(tiles, tiny_settings, tmp_path):
    seen = []
    settings = tiny_settings.model_copy(update={"max_regions": 2, "warm_up": 0.0, "max_steps": 1})
    run(fit(tiles, settings, tmp_path), seen.append)
    assert seen[1].metrics["regions"] == 2
    assert seen[1].metrics["regions left out"] > 0
    everything = settings.model_copy(update={"max_regions": 0})
    run(fit(tiles, everything, tmp_path), seen.append)
    assert seen[4].metrics["regions left out"] == 0


@pytest.mark.slow
def test_a_folder_of_200_tiles_starts_contrast_and_diversity(skin, tmp_path):
    names = [tissue.name for tissue in read_classes(samples.classes_path())]
    settings = read_settings(TrainSettings, samples.FOLDER / "train_settings.json", [])
    regions = read_regions(samples.regions_path("train"), names)
    cut = tiles_from_regions(skin, regions, read_classes(samples.classes_path()), settings)
    (tmp_path / "tiles [x]" / "train").mkdir(parents=True)
    for i in np.linspace(0, len(cut) - 1, 200).astype(int):
        image, labels = cut[i]
        digits = " ".join(str(int(value)) for value in labels)
        Image.fromarray(image.transpose(1, 2, 0)).save(
            tmp_path / "tiles [x]" / "train" / f"part{i % 10}+{i} [{digits}].png"
        )
    tiles = labelled_tiles(tmp_path / "tiles [x]", cut.classes)
    seen = []
    chosen = settings.model_copy(update={"epochs": 2, "batch": 10, "valid_share": 0.2})
    path = run(fit(tiles, chosen, tmp_path / "run"), seen.append)
    steps = [progress.metrics for progress in seen if "loss" in progress.metrics]
    warm = round(0.16 * len(steps))
    assert all(step["contrast"] == 0 for step in steps[:warm])
    assert all(step["contrast"] > 0 and step["diversity"] > 0 for step in steps[warm + 1 :])
    assert steps[-1]["classification"] < steps[0]["classification"]
    assert (tmp_path / "run" / "last.safetensors").exists()
    assert load_model(path).card.metrics["valid tiles"] > 0


def test_one_prototype_per_class_is_contrasted_and_trains(tiles, tiny_settings, tmp_path):
    model = tiny_settings.model.model_copy(update={"prototypes_per_class": 1})
    seen = []
    path = run(fit(tiles, tiny_settings.model_copy(update={"model": model, "warm_up": 0.0}), tmp_path), seen.append)
    steps = [progress.metrics for progress in seen if "loss" in progress.metrics]
    assert any(step["regions"] > 0 and step["contrast"] > 0 for step in steps)
    assert all(step["diversity"] == 0 for step in steps)
    assert load_model(path).network.k == 1


def test_one_tile_with_both_classes_trains_and_with_one_class_says_why_not(tiles, tiny_settings, tmp_path, classes):
    one = tiles.subset([0])
    one.labels = np.ones((1, 2), np.float32)
    assert run(fit(one, tiny_settings, tmp_path)).exists()
    (tmp_path / "tiles").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "tiles" / "a[10].png")
    with pytest.raises(LpdError, match="1 tiles hold only dark; training needs tiles of at least two classes"):
        labelled_tiles(tmp_path / "tiles", classes)


def test_tiles_that_are_not_square_are_named(classes, tmp_path):
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(tmp_path / "a[11].png")
    with pytest.raises(LpdError, match=r"a.11..png: 64 x 96 pixels; tiles have to be square"):
        labelled_tiles(tmp_path, classes)
