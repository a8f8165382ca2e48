"""Fast training: a joint head on features that are computed once, from end to end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_lpd.core.errors import ModelError, SettingsError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.data.tileset import training_colours
from napari_lpd.models.checkpoint import load_model, load_tensors
from napari_lpd.models.compute import choose_backend
from napari_lpd.models.joint.tiles import FrozenEncoder
from napari_lpd.models.network import STAGES_USED
from napari_lpd.prediction.predict import predict_slide
from napari_lpd.training.fit import fit
from napari_lpd.training.losses.joint import NOTHING, JointObjective
from napari_lpd.training.runs.folder import HISTORY, LAST_NAME, MODEL_NAME, STATE_NAME
from napari_lpd.training.trainer import Origin, Trainer

SMALL = ["tile=64", "tile_step=48", "mpp=1.0", "epochs=12", "batch=8", "threads=1", "model.prototypes_per_class=2",
         "model.prototype_dim=32", "model.neck_width=32", "model.necks=2", "places=9", "lr=0.01"]  # fmt: skip


def small(*changes):
    return read_settings(TrainSettings, None, [*SMALL, *changes], "fast")


@pytest.fixture
def tiles(tiny_slide, tiny_regions, classes):
    return tiles_from_regions(tiny_slide, tiny_regions, classes, small())


@pytest.fixture
def encoded(monkeypatch):
    """Count the images that a frozen encoder sees."""
    seen, encode = [], FrozenEncoder.__call__

    def counted(encoder, image):
        seen.append(image.shape)
        return encode(encoder, image)

    monkeypatch.setattr(FrozenEncoder, "__call__", counted)
    return seen


def test_two_tissues_are_learned_and_predicted(tiles, tiny_slide, tmp_path, encoded):
    said = []
    model = load_model(run(fit(tiles, small(), tmp_path / "run"), said.append), "cpu")
    assert len(encoded) == len(tiles.cells) == 1  # once, though there are twelve passes over 40 tiles
    assert any(progress.message == "features" for progress in said)
    assert "own maps" in [*said[-2].metrics]
    prediction = run(predict_slide(tiny_slide, model, PredictSettings(tissue_only=False), tmp_path / "p.zarr"))
    labels = np.asarray(prediction.labels.levels[0])
    left, right = labels[:, :150], labels[:, 234:]
    assert (left == 1).mean() > 0.6 and (right == 2).mean() > 0.6
    assert (left == 2).mean() < 0.15 and (right == 1).mean() < 0.15  # next to the edge of the two


@pytest.mark.parametrize("bank", ["learned", "clustered", "random", "linear"])
def test_every_bank_is_trained_fast(tiles, tmp_path, bank):
    off = ["model.prototypes_per_class=1", "contrast_weight=0", "diversity=off"] if bank == "linear" else []
    path = run(fit(tiles, small(f"model.bank={bank}", "epochs=2", *off), tmp_path / "run"))
    model = load_model(path)
    maps = model.network(torch.rand(1, 3, 64, 64), STAGES_USED)
    assert maps.logits[0].shape[1] == (2 if bank == "linear" else 4)
    state = load_tensors(path)
    assert bank == "linear" or state["prototypes"].shape == (4, 32)


def test_the_encoder_stays_as_it_was(tiles, tmp_path):
    from napari_lpd.models.encoder import build_encoder

    state = load_tensors(run(fit(tiles, small("epochs=2"), tmp_path / "run")))
    for name, tensor in build_encoder("tf_efficientnet_lite0", "embedded").state_dict().items():
        assert torch.equal(state[f"encoder.{name}"], tensor)


def test_the_same_seed_gives_the_same_fast_model(tiles, tmp_path):
    first, again, other = (
        load_tensors(run(fit(tiles, small("epochs=3", f"seed={seed}"), tmp_path / name)))
        for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["prototypes"], other["prototypes"])


@pytest.mark.parametrize("step", [1, 4, 9])  # before its own maps are learned from, at that step, and after
def test_a_fast_training_that_stopped_goes_on_as_if_it_had_not(tiles, tmp_path, step):
    settings = small("epochs=4", "self_training=0.5")
    whole = load_tensors(run(fit(tiles, settings, tmp_path / "whole")))
    job = fit(tiles, settings, tmp_path / "run")
    for progress in job:
        if progress.done == step and progress.metrics and "loss" in progress.metrics:
            break
    job.close()
    assert (tmp_path / "run" / STATE_NAME).exists()
    assert load_model(tmp_path / "run" / MODEL_NAME, "cpu").card.steps == step  # can be used as it is
    resumed = load_tensors(run(fit(tiles, settings, tmp_path / "run")))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_it_is_measured_once_at_the_end(tiles, tmp_path):
    path = run(fit(tiles, small("epochs=3"), tmp_path / "run"))
    rows = (path.parent / HISTORY).read_text(encoding="utf-8").splitlines()
    assert len(rows) == 4
    assert len(list((path.parent / "previews").iterdir())) == 1
    assert (path.parent / LAST_NAME).exists()


def test_masks_choose_nothing_but_are_measured_with_the_gate(tile_folder, classes, tmp_path):
    from napari_lpd.data.images import masked_images

    tiles = labelled_tiles(tile_folder, classes)
    images = masked_images(tile_folder / "valid")
    model = load_model(run(fit(tiles, small("epochs=2"), tmp_path / "run", "", images)))
    assert {"valid mIoU", "valid presence F1", "valid presence AUC"} <= model.card.metrics.keys()


def test_features_on_disk_are_not_computed_again(tiles, tmp_path, encoded):
    settings = small("epochs=2", f"feature_folder={tmp_path / 'features'}")
    first = load_tensors(run(fit(tiles, settings, tmp_path / "a")))
    count = len(encoded)
    again = load_tensors(run(fit(tiles, settings, tmp_path / "b")))
    assert count == len(encoded) == len(tiles.cells)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_another_encoder_s_features_on_disk_are_refused(tiles, tmp_path):
    folder = f"feature_folder={tmp_path / 'features'}"
    run(fit(tiles, small("max_steps=1", folder), tmp_path / "a"))
    other = small("max_steps=1", folder, "model.encoder=resnet18", "model.encoder_weights=random")
    with pytest.raises(ModelError, match="features of another encoder"):
        run(fit(tiles, other, tmp_path / "b"))


@pytest.mark.skipif(choose_backend("auto", torch.device("cpu")) != "onnx", reason="needs the extra onnx")
def test_onnx_runtime_gives_a_fast_model_s_masks(tiles, tiny_slide, tmp_path):
    model = load_model(run(fit(tiles, small("epochs=2"), tmp_path / "run")), "cpu")
    labels = []
    for backend in ("torch", "onnx"):
        how = PredictSettings(tissue_only=False, backend=backend)
        prediction = run(predict_slide(tiny_slide, model, how, tmp_path / f"{backend}.zarr"))
        labels.append(np.asarray(prediction.labels.levels[0]))
    assert (labels[0] == labels[1]).mean() > 0.999


def test_own_labels_are_of_the_tile_s_tissues_and_sure(tiles, tmp_path):
    settings = small()
    run_ = Trainer(tiles, None, settings, tmp_path, Origin("", {}, training_colours(tiles)))
    run_.start_joint()
    objective = run_.objective
    assert isinstance(objective, JointObjective)
    objective.label_tiles(run_.network, run_.seen)
    for own, labels in zip(objective.own, tiles.labels, strict=True):
        assert set(own.unique().tolist()) <= {NOTHING, *np.flatnonzero(labels).tolist()}
    assert (objective.own != NOTHING).all()  # every tile holds one tissue alone


@pytest.mark.parametrize(
    "change", ["diversity=official-head", "contrast=pooled", "negatives=all", "region_map=fused", "area_weight=0.1"]
)
def test_published_forms_of_losses_are_refused_in_a_line(change):
    with pytest.raises(SettingsError, match=r"joint|whole classes"):
        small(change)
