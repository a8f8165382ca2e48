"""Our network and losses against numbers from the published code (random weights, synthetic images)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from napari_lpd.config import ModelSettings
from napari_lpd.encoder import build_encoder, rename_mit
from napari_lpd.evaluate import ImageResult, confusion_matrix, metrics
from napari_lpd.losses import diversity_loss
from napari_lpd.model import LPD, merge_prototypes

ORACLE = Path(os.environ.get("NAPARI_LPD_ORACLE", Path(__file__).parents[2] / "shared" / "spec" / "oracle"))
pytestmark = pytest.mark.skipif(
    not ORACLE.is_dir(), reason=f"{ORACLE} is absent: the vectors are not part of the project"
)


def vectors(name: str) -> dict[str, torch.Tensor]:
    with np.load(ORACLE / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if arrays[key].dtype.kind in "fi"}


@pytest.fixture(scope="module")
def network():
    """MiT-B0, k = 2, 256-d prototypes, with the oracle's weights under our names."""
    state = {key: value.float() for key, value in load_file(ORACLE / "weights_lpd_mit_b0_k2_d256.safetensors").items()}
    encoder = rename_mit({key: value for key, value in state.items() if key.startswith("encoder.")})
    ours = {f"encoder.backbone.{key}": value for key, value in encoder.items()}
    ours["prototypes"] = state["prototypes"]
    ours["scales"] = torch.cat([state[f"logit_scale{i}"].reshape(1) for i in (1, 2, 3, 4)])
    for i in (1, 2, 3, 4):
        for layer, place in (("fc1", 0), ("fc2", 2)):
            for kind in ("weight", "bias"):
                ours[f"adapters.{i - 1}.{place}.{kind}"] = state[f"l_fc{i}.{layer}.{kind}"]
    settings = ModelSettings(encoder="mit_b0", prototypes_per_class=2, prototype_dim=256)
    model = LPD(settings, 4, build_encoder("mit_b0")).eval()
    model.load_state_dict(ours)
    return model


def forward(network, images):
    """The oracle's images are normalised already."""
    mean, std = network.encoder.mean, network.encoder.std
    with torch.inference_mode():
        return network(images.float() * std + mean)


@pytest.mark.parametrize("size", ["x64", "x100x76"])
def test_the_encoder(network, size):
    oracle = vectors("encoder_mit_b0")
    with torch.inference_mode():
        stages = network.encoder.backbone(oracle[size].float())
    for i, stage in enumerate(stages, start=1):
        assert torch.allclose(stage, oracle[f"{size}_stage{i}"], atol=5e-5)


@pytest.mark.parametrize("size", ["x64", "x96x128"])
def test_the_networks_maps_and_scores(network, size):
    oracle = vectors("clsnetwork_b0_k2")
    maps = forward(network, oracle[size])
    for i, logits in enumerate(maps.logits, start=1):
        assert torch.allclose(logits, oracle[f"{size}_cam{i}"], atol=5e-4)
        assert torch.allclose(logits.mean((2, 3)), oracle[f"{size}_cls{i}"], atol=5e-4)
    assert torch.allclose(maps.features, oracle[f"{size}_feat4"], atol=5e-5)
    assert torch.allclose(maps.prototypes, oracle["projected_p4"], atol=5e-5)


@pytest.mark.parametrize("case", ["rand", "noclass", "all_nec", "nec_but_one", "structured"])
@pytest.mark.parametrize(("temperature", "name"), [(1.0, "paper_valid"), (0.07, "paper_valid_t007")])
def test_the_diversity_loss(case, temperature, name):
    oracle = vectors("diversity")
    features, prototypes, mask = (oracle[f"{case}_{part}"] for part in ("feat", "protos", "mask"))
    class_count = len(prototypes) // int(oracle[f"{case}_k"])
    regions = torch.stack([mask == c + 1 for c in range(class_count)], dim=1)
    features, prototypes = features.requires_grad_(), prototypes.requires_grad_()
    loss = diversity_loss(features, prototypes, regions, temperature)
    assert loss.item() == pytest.approx(float(oracle[f"{case}_ref_{name}"]), rel=1e-4)
    if name == "paper_valid_t007":
        loss.backward()
        assert torch.allclose(prototypes.grad, oracle[f"{case}_ref_{name}_dprotos"].float(), rtol=1e-3, atol=1e-6)
        assert torch.allclose(features.grad, oracle[f"{case}_ref_{name}_dfeat"].float(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("how", "published"), [("mean", "mean"), ("soft", "max")])
def test_merging_prototypes(k, how, published):
    oracle = vectors("merge")
    for part in ("cams", "preds"):
        merged = merge_prototypes(oracle[f"k{k}_{part}"], k, how)
        assert torch.allclose(merged, oracle[f"k{k}_{part}_{published}"], atol=1e-5)


@pytest.mark.parametrize("case", ["normal", "with_ignore", "absent_class"])
def test_the_metrics_of_masks(case):
    """Published code turns all means to NaN where a class is absent; we leave it out and name it."""
    with np.load(ORACLE / "confusion.npz") as arrays:
        oracle = dict(arrays)
    confusion = confusion_matrix(oracle[f"{case}_gt"], oracle[f"{case}_pred"], 4)
    assert np.array_equal(confusion, oracle[f"{case}_mat"])
    names = ("TUM", "STR", "LYM", "NEC")
    nothing = np.zeros((4, 2), np.int64), np.zeros(4), np.zeros(4, bool)
    scores = metrics([ImageResult("all", "all", confusion, *nothing)], names, "predict")
    iou, dice, recall = (oracle[f"{case}_{key}"] for key in ("iu", "dice", "acc"))
    np.testing.assert_allclose([*scores.iou, scores.background_iou], iou, rtol=1e-6)
    np.testing.assert_allclose(scores.dice, dice[:4], rtol=1e-6)
    np.testing.assert_allclose(scores.recall, recall[:4], rtol=1e-6)
    assert scores.pixel_accuracy == pytest.approx(float(oracle[f"{case}_acc_global"]), rel=1e-6)
    means = {"mIoU_pct": 100 * scores.mean_iou, "mDice_pct": 100 * scores.mean_dice}
    means["fw_iu"] = scores.frequency_weighted_iou
    if case == "absent_class":
        assert scores.absent == ("NEC",)
        assert all(np.isnan(oracle[f"{case}_{name}"]) for name in means)
        frequency = oracle[f"{case}_mat"].sum(1) / oracle[f"{case}_mat"].sum()
        expected = [100 * np.nanmean(iou[:4]), 100 * np.nanmean(dice[:4]), np.nansum(frequency * iou)]
    else:
        assert scores.absent == ()
        expected = [oracle[f"{case}_{name}"] for name in means]
    np.testing.assert_allclose(list(means.values()), expected, rtol=1e-6)
