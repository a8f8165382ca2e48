"""A ViT as encoder, from end to end: fast and full training, prediction, ONNX Runtime, resumption, the card."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from napari_lpd.core.errors import ModelError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.models.card import read_card
from napari_lpd.models.checkpoint import load_model, load_tensors
from napari_lpd.models.compute import choose_backend
from napari_lpd.prediction.predict import predict_slide
from napari_lpd.training.ancestor import Ancestor
from napari_lpd.training.fit import fit

SMALL = ["tile=64", "tile_step=48", "mpp=1.0", "batch=8", "threads=1", "model.prototypes_per_class=2",
         "model.prototype_dim=32", "model.encoder_weights=random"]  # fmt: skip
FAST = ["epochs=8", "model.neck_width=32", "places=9", "lr=0.01"]
TINY = {"embed_dim": 64, "depth": 4, "num_heads": 2, "img_size": 112}
NAMES = ["vit_small_patch14_dinov2", "vit_small_patch16_224"]
ONNX = choose_backend("auto", torch.device("cpu")) == "onnx"


def written(arguments):
    return json.dumps([f"{name}={value}" for name, value in arguments.items()])


def settings(preset, *changes, tiny=True):
    sizes = [f"model.encoder_arguments={written(TINY)}"] if tiny else []
    return read_settings(TrainSettings, None, [*SMALL, *(FAST if preset == "fast" else []), *sizes, *changes], preset)


@pytest.fixture
def tiles(tiny_slide, tiny_regions, classes):
    return tiles_from_regions(tiny_slide, tiny_regions, classes, settings("fast"))


def labels_by(model, slide, folder, backend="auto"):
    how = PredictSettings(tissue_only=False, backend=backend)
    return np.asarray(run(predict_slide(slide, model, how, folder / f"{backend}.zarr")).labels.levels[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_vit_learns_fast_and_predicts(tiles, tiny_slide, tmp_path, name):
    model = load_model(run(fit(tiles, settings("fast", f"model.encoder={name}"), tmp_path / "run")), "cpu")
    assert model.card.encoder.blocks == (0, 1, 2, 3)
    labels = labels_by(model, tiny_slide, tmp_path)
    left, right = labels[:, :150], labels[:, 234:]
    assert (left == 1).mean() > 0.6 and (right == 2).mean() > 0.6
    assert (left == 2).mean() < 0.1 and (right == 1).mean() < 0.1


def stopped_and_resumed(tiles, how, folder, step):
    """Stop a training after a step, and return the tensors of the one that goes on from there."""
    job = fit(tiles, how, folder)
    for progress in job:
        if progress.done == step and progress.metrics and "loss" in progress.metrics:
            break
    job.close()
    return load_tensors(run(fit(tiles, how, folder)))


@pytest.mark.parametrize("name", NAMES)
def test_a_vit_s_fast_training_that_stopped_goes_on_as_if_it_had_not(tiles, tmp_path, name):
    how = settings("fast", f"model.encoder={name}", "epochs=2", "self_training=0.5")
    whole = load_tensors(run(fit(tiles, how, tmp_path / "whole")))
    resumed = stopped_and_resumed(tiles, how, tmp_path / "run", 3)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("name", NAMES)
def test_full_training_changes_a_vit_and_goes_on_where_it_stopped(tiles, tmp_path, name):
    of_regions = [
        "region_encoder=vit_tiny_patch16_224",
        'region_encoder_arguments=["depth=1","img_size=64"]',
        "region_encoder_weights=random",
        "warm_up=0",
    ]
    how = settings("default", f"model.encoder={name}", "max_steps=3", *of_regions)
    whole = load_tensors(run(fit(tiles, how, tmp_path / "whole")))
    resumed = stopped_and_resumed(tiles, how, tmp_path / "run", 1)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    fresh = load_tensors(run(fit(tiles, how.model_copy(update={"max_steps": 1}), tmp_path / "one")))
    weight = "encoder.backbone.vit.blocks.0.attn.qkv.weight"
    assert not torch.equal(fresh[weight], whole[weight])


@pytest.mark.skipif(not ONNX, reason="needs the extra onnx")
@pytest.mark.parametrize("name", [*NAMES, "vit_small_patch16_dinov3"])
def test_onnx_runtime_computes_a_vit_s_maps(tiles, tiny_slide, tmp_path, name):
    sizes = [] if "dinov3" not in name else ['model.encoder_arguments=["embed_dim=64","depth=4","num_heads=2"]']
    preset = "default" if name == NAMES[0] else "fast"
    how = settings(preset, f"model.encoder={name}", "max_steps=1", "contrast_weight=0", *sizes)
    model = load_model(run(fit(tiles, how, tmp_path / "run")), "cpu")
    assert (
        labels_by(model, tiny_slide, tmp_path, "torch") == labels_by(model, tiny_slide, tmp_path, "onnx")
    ).mean() > 0.999


@pytest.mark.skipif(not ONNX, reason="needs the extra onnx")
def test_features_that_onnx_runtime_cannot_compute_are_pytorch_s_and_that_is_said(tiles, tmp_path, caplog):
    sizes = 'model.encoder_arguments=["embed_dim=64","depth=4","num_heads=2"]'
    how = settings("fast", "model.encoder=eva02_tiny_patch14_224", "max_steps=1", sizes)
    assert run(fit(tiles, how, tmp_path / "run")).exists()
    assert "the features are computed by PyTorch" in caplog.text


@pytest.mark.slow
def test_a_real_vit_s_learns_and_predicts(tiles, tiny_slide, tmp_path):
    how = settings("fast", f"model.encoder={NAMES[0]}", "epochs=4", tiny=False)
    model = load_model(run(fit(tiles, how, tmp_path / "run")), "cpu")
    assert model.card.encoder.blocks == (2, 5, 8, 11)
    assert model.network.encoder.widths == [384] * 4
    prediction = run(
        predict_slide(tiny_slide, model, PredictSettings(tissue_only=False, tile=256, overlap=32), tmp_path / "p.zarr")
    )
    assert (np.asarray(prediction.labels.levels[0])[:, :150] == 1).mean() > 0.5


@pytest.fixture
def folder(tmp_path):
    """A model folder in the hub's form, whose input is nothing usual."""
    place = tmp_path / "hub"
    place.mkdir()
    config = {
        "architecture": "vit_small_patch16_224",
        "num_classes": 0,
        "model_args": {**TINY, "init_values": 0.1},
        "pretrained_cfg": {"mean": [0.7, 0.5, 0.6], "std": [0.2, 0.25, 0.15], "input_size": [3, 112, 112]},
    }
    (place / "config.json").write_text(json.dumps(config), "utf-8")
    vit = timm.create_model("vit_small_patch16_224", num_classes=0, init_values=0.1, **TINY)
    save_file(vit.state_dict(), place / "model.safetensors")
    return place


def test_a_model_keeps_its_encoder_and_its_input_without_the_folder(tiles, tiny_slide, tmp_path, folder):
    how = settings("fast", f"model.encoder=local-dir:{folder}", "model.encoder_weights=hub", "epochs=1", tiny=False)
    said = []
    path = run(fit(tiles, how, tmp_path / "run"), said.append)
    (folder / "config.json").unlink()
    card = read_card(path)
    assert (card.encoder.mean, card.encoder.std) == ((0.7, 0.5, 0.6), (0.2, 0.25, 0.15))
    assert card.encoder.source == f"config.json of local-dir:{folder}"
    assert any("input mean 0.7, 0.5, 0.6" in progress.message for progress in said)
    model = load_model(path, "cpu")
    assert model.network.encoder.mean.flatten().tolist() == pytest.approx([0.7, 0.5, 0.6])
    assert labels_by(model, tiny_slide, tmp_path).shape == tiny_slide.shape_at(1.0)
    again = load_model(run(fit(tiles, how, tmp_path / "again", ancestor=Ancestor(path))), "cpu")
    assert again.card.encoder == card.encoder


def test_given_statistics_are_kept_and_used(tiles, tmp_path):
    given = ["model.input_mean=[0.7,0.5,0.6]", "model.input_std=[0.2,0.25,0.15]"]
    path = run(fit(tiles, settings("fast", f"model.encoder={NAMES[1]}", "epochs=1", *given), tmp_path / "run"))
    assert read_card(path).encoder.source == "settings"
    assert load_model(path).network.encoder.std.flatten().tolist() == pytest.approx([0.2, 0.25, 0.15])


@pytest.mark.parametrize(
    "change",
    [["model.encoder_blocks=[0,1,3,4]"], ["model.input_mean=[0.7,0.5,0.6]", "model.input_std=[0.2,0.25,0.15]"]],
)
def test_features_of_other_blocks_or_another_input_are_another_encoder_s(tiles, tmp_path, change):
    deep = f"model.encoder_arguments={written({**TINY, 'depth': 5})}"
    how = [f"model.encoder={NAMES[1]}", f"feature_folder={tmp_path / 'features'}", "max_steps=1", deep]
    run(fit(tiles, settings("fast", *how, "model.encoder_blocks=[0,1,2,4]"), tmp_path / "a"))
    with pytest.raises(ModelError, match="features of another encoder"):
        run(fit(tiles, settings("fast", *how, "model.encoder_blocks=[0,1,2,4]", *change), tmp_path / "b"))
