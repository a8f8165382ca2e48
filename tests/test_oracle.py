"""Our network, losses, training step and rules against numbers from the published code (random weights and images).

Every vector file of a known kind in the oracle's folder is run, with the weights that lie beside it.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from napari_lpd.core.classes import CLASSES
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.core.settings.prediction import CrfSettings
from napari_lpd.core.settings.presets import PRESETS
from napari_lpd.core.settings.training import ModelSettings, TrainSettings
from napari_lpd.data.images import read_mask
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.evaluation.masks import (
    class_probability,
    fused_maps,
    predicted_labels,
    present_classes,
    stretch_image_maps,
)
from napari_lpd.evaluation.metrics import ImageResult, confusion_matrix, metrics
from napari_lpd.models.card import Card
from napari_lpd.models.clustering import prototypes_of, refine_centres, unit_rows
from napari_lpd.models.crf.dense_crf import dense_crf
from napari_lpd.models.encoder import build_encoder
from napari_lpd.models.network import LPD, LoadedModel, image_scores, merge_prototypes
from napari_lpd.models.published.checkpoints import rename_official
from napari_lpd.training.losses.objective import Objective
from napari_lpd.training.losses.published import (
    official_first_commit_diversity,
    official_head_diversity,
    official_pseudo_mask,
)
from napari_lpd.training.losses.terms import (
    Regions,
    contrastive_loss,
    cut_regions,
    diversity_loss,
    image_thresholds,
    prototype_regions,
    responding_prototypes,
    upsample,
)
from napari_lpd.training.step import parameter_groups, poly_factor

ORACLE = Path(os.environ.get("NAPARI_LPD_ORACLE", Path(__file__).parents[2] / "shared" / "spec" / "oracle"))
pytestmark = pytest.mark.skipif(
    not ORACLE.is_dir(), reason=f"{ORACLE} is absent: the vectors are not part of the project"
)


def vectors(name: str) -> dict[str, torch.Tensor]:
    with np.load(ORACLE / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if arrays[key].dtype.kind in "fiub"}


def of_kind(kind: str) -> list[str]:
    """The vector files of a kind; `kind` itself where none is there, so that its test is seen to be skipped."""
    return sorted(path.stem for path in ORACLE.glob(f"{kind}_*.npz")) or [kind]


@lru_cache
def weights(path: Path) -> dict[str, torch.Tensor]:
    return {key: value.float() for key, value in load_file(path).items()}


def weights_for(name: str) -> list[dict[str, torch.Tensor]]:
    """Weights that may be a vector file's own: of its encoder, its k and its method, as far as it names them."""
    parts = [part for part in name.split("_")[1:] if part not in ("mit", "step")]
    method = "pbip" if "pbip" in parts else "lpd"
    files = [path for path in sorted(ORACLE.glob("weights_*.safetensors")) if "stub" not in path.name]
    wanted = [part for part in parts if part != "pbip"]
    fitting = [path for path in files if all(part in path.stem for part in wanted)]
    fitting = [path for path in fitting if method in path.stem] or fitting
    assert fitting, f"no weights for {name} in {ORACLE}"
    return [weights(path) for path in fitting]


def network_of(
    state: dict[str, torch.Tensor], arrays: dict[str, torch.Tensor], name: str = "", class_count: int = 4
) -> LPD:
    """The published network of `state` as ours; PBIP's prototypes stand outside its weights, with the vectors."""
    learned = "prototypes" in state and "pbip" not in name
    if not learned:
        found = [value for key, value in arrays.items() if "proto" in key and value.ndim == 2 and "grad" not in key]
        state = {**state, "prototypes": found[0].float()}
    count, dim = state["prototypes"].shape
    settings = ModelSettings(
        encoder={32: "mit_b0", 64: "mit_b1"}[len(state["encoder.norm1.weight"])],
        prototypes_per_class=count // class_count,
        prototype_dim=dim,
        bank="learned" if learned else "clustered",
        normalise_prototypes=learned,
        merge_predict="soft",
        stage_fusion=(0.3, 0.3, 0.4),
        channel_order="bgr",
        input_statistics="tissue",
    )
    encoder = build_encoder(settings.encoder, statistics="tissue", channel_order="bgr")
    network = LPD(settings, class_count, encoder).eval()
    network.load_state_dict(rename_official(state))
    return network


def rgb_of(network: LPD, normalised: torch.Tensor) -> torch.Tensor:
    """The image that our encoder turns into `normalised`, which is in BGR order."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in BGR_STATISTICS)
    return (normalised.float() * std + mean).flip(1)


BGR_STATISTICS = ((0.66791496, 0.47791372, 0.70623304), (0.1736589, 0.22564577, 0.19820057))


def sizes_in(arrays: dict[str, torch.Tensor]) -> list[str]:
    return [key for key, value in arrays.items() if key.startswith("x") and "_" not in key and value.ndim == 4]


@pytest.mark.parametrize("name", of_kind("encoder"))
def test_the_encoder(name):
    if not (ORACLE / f"{name}.npz").is_file():
        pytest.skip(f"no {name}_*.npz")
    oracle = vectors(name)
    assert sizes_in(oracle)

    def agrees(state):
        encoder = network_of(state, oracle).encoder
        with torch.inference_mode():
            return all(
                torch.allclose(stage, oracle[f"{size}_stage{i}"], atol=5e-5)
                for size in sizes_in(oracle)
                for i, stage in enumerate(encoder.backbone(oracle[size].float()), start=1)
            )

    assert any(agrees(state) for state in weights_for(name))


@pytest.mark.parametrize("name", of_kind("clsnetwork"))
def test_the_networks_maps_and_scores(name):
    if not (ORACLE / f"{name}.npz").is_file():
        pytest.skip(f"no {name}_*.npz")
    oracle = vectors(name)
    assert sizes_in(oracle)
    networks = [network_of(state, oracle, name) for state in weights_for(name)]
    size = sizes_in(oracle)[0]
    with torch.inference_mode():  # of several weights that fit the name, one made these vectors
        apart = [(n(rgb_of(n, oracle[size])).logits[0] - oracle[f"{size}_cam1"]).abs().max().item() for n in networks]
    network = networks[apart.index(min(apart))]
    for size in sizes_in(oracle):
        with torch.inference_mode():
            maps = network(rgb_of(network, oracle[size]))
        for i, logits in enumerate(maps.logits, start=1):
            assert torch.allclose(logits, oracle[f"{size}_cam{i}"], atol=5e-4)
            assert torch.allclose(logits.mean((2, 3)), oracle[f"{size}_cls{i}"], atol=5e-4)
            if f"projected_p{i}" in oracle:
                assert torch.allclose(network.projected(i - 1), oracle[f"projected_p{i}"], atol=5e-5)
        assert torch.allclose(maps.features, oracle[f"{size}_feat4"], atol=5e-5)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("how", "published"), [("mean", "mean"), ("soft", "max")])
def test_merging_prototypes(k, how, published):
    oracle = vectors("merge")
    for part in ("cams", "preds"):
        merged = merge_prototypes(oracle[f"k{k}_{part}"], k, how)
        assert torch.allclose(merged, oracle[f"k{k}_{part}_{published}"], atol=1e-5)


def test_the_selection_of_responding_prototypes():
    oracle = vectors("merge")
    selected = responding_prototypes(oracle["k3_preds"], oracle["k3_labels"], 3)
    assert torch.equal(selected.float(), oracle["k3_selected"])
    assert not oracle["k1_selected"].any()
    present = responding_prototypes(oracle["k1_preds"], oracle["k1_labels"], 1)
    assert torch.equal(present.float(), oracle["k1_labels"])  # on purpose: published code contrasts nothing here


def test_the_pairing_of_regions_with_prototypes():
    oracle = vectors("pair_features")
    regions = prototype_regions(oracle["labels"] > 0, 3, "all")
    for m, (own, others) in enumerate(zip(regions.own, regions.others, strict=True)):
        assert torch.equal(oracle["prototypes"][own][0], oracle["out_fg_text"][m])
        assert torch.equal(oracle["prototypes"][others], oracle["out_bg_text"][m])
    siblings = prototype_regions(oracle["labels"] > 0, 3, "other-classes")
    assert (siblings.others.sum(1) == 3).all()
    assert not (siblings.others & ~regions.others).any()


@pytest.mark.parametrize("alpha", ["0.15", "0.5", "0.8"])
def test_the_mask_adapter(alpha):
    oracle = vectors("mask_adapter")
    mask = oracle["cam"] >= image_thresholds(oracle["cam"], float(alpha))[:, None, None, None]
    assert torch.equal(mask.float(), oracle[f"mask_alpha{alpha}"])


class StubEncoder(nn.Module):
    """The oracle's frozen encoder."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        tensors = list(state.values())
        shape = {value.ndim: value for value in tensors}
        self.layers = nn.Sequential(
            nn.Conv2d(3, 12, 7, stride=16, padding=3),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(192, len(shape[2]), bias=False),
        )
        with torch.no_grad():
            self.layers[0].weight.copy_(shape[4])
            self.layers[0].bias.copy_(shape[1])
            self.layers[4].weight.copy_(shape[2])
        self.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def stub_encoder(dim: int) -> StubEncoder | None:
    path = ORACLE / f"weights_stub_encoder_d{dim}.safetensors"
    return StubEncoder(weights(path)) if path.is_file() else None


@pytest.mark.parametrize("alpha", ["0.5", "0.15"])
@pytest.mark.parametrize(("method", "form"), [("lpd", "raw"), ("pbip", "rescaled")])
def test_the_foreground_and_background_regions(method, form, alpha):
    oracle = vectors("fgbg_features")
    image, cam = oracle["image"].float(), oracle["cam"].clone().requires_grad_()
    regions = prototype_regions(oracle["label"] > 0, 3, "all")
    assert torch.allclose(upsample(cam, (224, 224))[:, :2], oracle["cam_224"], atol=5e-4)
    foreground, background = cut_regions(image, cam, regions, float(alpha), form)
    large = upsample(cam, (224, 224))
    mask = large[regions.images, regions.channels] >= image_thresholds(large, float(alpha))[regions.images, None, None]
    bits = np.unpackbits(oracle[f"fg_mask_a{alpha}_bits"].numpy()).reshape(5, 224, 224)
    assert (mask.numpy() == bits).mean() > 0.9999  # a pixel at the threshold may fall to either side
    assert torch.equal(foreground != 0, (foreground != 0) & mask[:, None])
    assert torch.equal(background != 0, (background != 0) & ~mask[:, None])
    encoder = stub_encoder(512)
    if encoder is None:
        return  # the stub of this width is not handed out: the masks above are what can be checked
    features = encoder(foreground), encoder(background)
    for ours, part in zip(features, ("fg", "bg"), strict=True):
        assert torch.allclose(ours, oracle[f"{method}_a{alpha}_{part}_features"], rtol=1e-3, atol=5e-4)
    if f"{method}_a{alpha}_dcam" in oracle:
        (features[0].sum() + 0.5 * features[1].sum()).backward()
        assert torch.allclose(cam.grad, oracle[f"{method}_a{alpha}_dcam"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", ["small", "d512", "k10"])
@pytest.mark.parametrize("temperature", ["0.07", "1.0"])
@pytest.mark.parametrize(("method", "form"), [("lpd", "infonce"), ("pbip", "pooled")])
def test_the_contrastive_loss(method, form, temperature, case):
    oracle = vectors("infonce")
    fg, bg, own, others = (oracle[f"{case}_{part}"].float() for part in ("fg_img", "bg_img", "fg_pro", "bg_pro"))
    m, q = others.shape[:2]
    fg, bg, own = fg.requires_grad_(), bg.requires_grad_(), own.requires_grad_()
    index = torch.arange(m)
    own_of, others_of = torch.zeros(m, m + m * q, dtype=torch.bool), torch.zeros(m, m + m * q, dtype=torch.bool)
    own_of[index, index] = True
    for i in range(m):
        others_of[i, m + i * q : m + (i + 1) * q] = True
    bank = torch.cat([own, others.reshape(m * q, -1)])
    regions = Regions(index, index, own_of, others_of)
    loss = contrastive_loss((fg, bg), bank, regions, float(temperature), form)
    key = f"{case}_{method}_{{}}_T{temperature}_unit"
    assert loss.foreground.item() == pytest.approx(oracle[key.format("fg")].item(), rel=1e-4, abs=1e-6)
    assert loss.background.item() == pytest.approx(oracle[key.format("bg")].item(), rel=1e-4, abs=1e-6)
    if f"{key.format('fg')}_dimg" in oracle:
        for part, image in ((loss.foreground, fg), (loss.background, bg)):
            name = key.format("fg" if image is fg else "bg")
            (gradient,) = torch.autograd.grad(part, image, retain_graph=True)
            assert torch.allclose(gradient, oracle[f"{name}_dimg"], rtol=1e-3, atol=1e-6)
    if method == "lpd":
        raw = f"{case}_lpd_{{}}_T{temperature}_raw"
        assert loss.foreground.item() == pytest.approx(oracle[raw.format("fg")].item(), rel=1e-4, abs=1e-6)
        assert loss.background.item() == pytest.approx(oracle[raw.format("bg")].item(), rel=1e-4, abs=1e-6)


DIVERSITY_CASES = ["rand", "noclass", "all_bg", "all_nec", "nec_but_one", "tiny", "k1", "structured"]


@pytest.mark.parametrize("case", [case for case in DIVERSITY_CASES if case not in ("all_bg", "tiny", "k1")])
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


@pytest.mark.parametrize("case", DIVERSITY_CASES)
@pytest.mark.parametrize(
    ("name", "loss_of"), [("head", official_head_diversity), ("first", official_first_commit_diversity)]
)
def test_the_published_diversity_losses(case, name, loss_of):
    oracle = vectors("diversity")
    features, prototypes = (oracle[f"{case}_{part}"].requires_grad_() for part in ("feat", "protos"))
    loss = loss_of(features, prototypes, oracle[f"{case}_mask"], int(oracle[f"{case}_k"]))
    expected = oracle.get(f"{case}_{name}_loss")  # absent where the published code fails
    assert loss.item() == pytest.approx(0.0 if expected is None else expected.item(), rel=1e-4, abs=1e-9)
    loss.backward()
    for ours, part in ((prototypes, "dprotos"), (features, "dfeat")):
        if f"{case}_{name}_{part}" in oracle:
            assert torch.allclose(ours.grad, oracle[f"{case}_{name}_{part}"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("case", ["a", "b"])
def test_the_published_normalisation_of_maps(case):
    oracle = vectors("get_seg_label")
    gated = stretch_image_maps(oracle[f"{case}_cam"]) * oracle[f"{case}_label"][:, :, None, None]
    size = tuple(oracle[f"{case}_size"].tolist())
    assert torch.allclose(upsample(gated, size), oracle[f"{case}_out"], atol=1e-5)


@pytest.mark.parametrize("case", ["official", "warm", "warm_p1"])
def test_the_schedule_and_the_optimiser(case):
    oracle = vectors("poly_schedule")
    warm_up, total, ratio, power, lr, decay = oracle[f"{case}_params"].tolist()
    parameter = nn.Parameter(torch.ones(3))
    optimiser = torch.optim.AdamW([parameter], lr=lr, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: poly_factor(step, int(total), int(warm_up), power, ratio)
    )
    for step, (rate, after) in enumerate(zip(oracle[f"{case}_lr"], oracle[f"{case}_w"], strict=True)):
        assert schedule.get_last_lr()[0] == pytest.approx(rate.item(), rel=1e-6, abs=1e-12)
        parameter.grad = torch.tensor([1, -2, 0.5]) * (1 + 0.1 * step)
        optimiser.step()
        schedule.step()
        assert torch.allclose(parameter.detach(), after, atol=1e-6)


@pytest.mark.parametrize("case", ["small", "d512", "k10"])
def test_cosine_k_means(case):
    oracle = {key: value.numpy() for key, value in vectors("kmeans_cosine").items()}
    rows = unit_rows(oracle[f"{case}_X"].astype(np.float64))
    clusters = refine_centres(rows, rows[oracle[f"{case}_init_idx"]])
    assert np.allclose(clusters.centres, oracle[f"{case}_centers"], atol=1e-5)
    assert np.array_equal(clusters.labels, oracle[f"{case}_labels"])
    assert np.allclose(prototypes_of(rows, clusters, 0), oracle[f"{case}_centers"], atol=1e-5)
    for c, centre in enumerate(clusters.centres):
        members = np.flatnonzero(clusters.labels == c)
        nearest = members[np.argsort(-(rows[members] @ centre))][:5]
        assert np.array_equal(nearest, oracle[f"{case}_top5_c{c}"])


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


class RegionStub(nn.Module):
    """The stub in the region encoder's place; the published forms do not ask it to normalise."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        stub = stub_encoder(dim)
        assert stub is not None, f"no weights_stub_encoder_d{dim}.safetensors"
        self.stub = stub

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.stub(images)


PRESET_OF_PREFIX = {"head": "official-code", "first": "official-first-commit", "pbip": "pbip-official-code"}


def training_steps() -> list[tuple[str, str]]:
    """(vector file, prefix of its arrays) of every published training step."""
    found = []
    for name in of_kind("train_step"):
        path = ORACLE / f"{name}.npz"
        keys = vectors(name) if path.is_file() else {}
        found += [(name, key.removesuffix("total")) for key in keys if key == "total" or key.endswith("_total")]
    return found or [("train_step", "")]


def our_parameter(network: LPD, official: str) -> nn.Parameter | None:
    """Our parameter for a published name; scales are one vector here, four there."""
    if official.startswith("logit_scale"):
        return None
    names = {f"logit_scale{i}": torch.zeros(1) for i in (1, 2, 3, 4)} | {"prototypes": torch.zeros(1, 1)}
    for i in (1, 2, 3, 4):
        for layer in ("fc1", "fc2"):
            names |= {f"l_fc{i}.{layer}.{kind}": torch.full((1,), -1.0) for kind in ("weight", "bias")}
    names[official] = torch.full((1,), 7.0)
    (ours,) = (key for key, value in rename_official(names).items() if value.ndim == 1 and value[0] == 7)
    return network.get_parameter(ours)


@pytest.mark.parametrize(("name", "prefix"), training_steps())
def test_a_training_step_with_gradients_and_three_optimiser_steps(name, prefix):
    if not (ORACLE / f"{name}.npz").is_file():
        pytest.skip("no train_step_*.npz")
    oracle = vectors(name)
    ours = {key.removeprefix(prefix): value for key, value in oracle.items() if key.startswith(prefix)}
    with np.load(ORACLE / f"{name}.npz") as arrays:
        param_names = arrays[f"{prefix}param_names"].tolist()
    (state,) = weights_for(name)
    network = network_of(state, oracle, name)
    preset = PRESET_OF_PREFIX[prefix.rstrip("_") or "pbip"]
    settings = TrainSettings.build({**PRESETS[preset], "model": network.settings.model_dump(), "warm_up": 0.0})
    objective = Objective(settings, RegionStub(network.prototypes.shape[1]), torch.Generator())
    images, labels = rgb_of(network, oracle["image"]), oracle["labels"].float()
    optimiser = torch.optim.AdamW(parameter_groups(network, settings), betas=(0.9, 0.999), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: poly_factor(step, 10))
    for step in range(3):
        losses = objective(network, images, labels, warm=False)
        optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        if step == 0:
            check_losses(network, losses, images, labels, ours)
            check_gradients(network, param_names, ours)
        trace = [losses.total, losses.classification, losses.foreground, losses.background, losses.diversity]
        traced = ours[next(key for key in ours if key.startswith("trace_total"))][step]
        for value, expected in zip(trace, traced, strict=False):
            assert value.item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)
        optimiser.step()
        schedule.step()
    scales = network.scales.detach().double()
    assert torch.allclose(scales, ours["logit_scales_after3"].double(), atol=2e-6)
    for key, value in (
        ("prototypes_after3", network.prototypes),
        ("l_fc4_fc2_bias_after3", network.adapters[3][2].bias),
        ("patch_embed1_after3", network.encoder.backbone.patch_embed.proj.weight),
    ):
        if key in ours:  # Adam turns the rounding of a vanishing gradient into a whole step: a few may differ
            assert ((value - ours[key]).abs() < 2e-6).float().mean() > 0.99, key


def check_losses(network, losses, images, labels, ours):
    with torch.no_grad():
        maps = network(images)
    for i, logits in enumerate(maps.logits, start=1):
        score = image_scores(logits, network.k)
        expected = ours[f"loss_cls{i}"].item()
        assert binary_cross_entropy_with_logits(score, labels).item() == pytest.approx(expected, rel=1e-4)
    for value, key in (
        (losses.classification, "cls_loss"),
        (losses.foreground, "fg_loss"),
        (losses.background, "bg_loss"),
        (losses.area, "mean_cam4"),
        (losses.diversity, "div_loss"),
        (losses.total, "total"),
    ):
        if key in ours:
            assert value.item() == pytest.approx(ours[key].item(), rel=1e-4, abs=1e-6), key
    if "selected" in ours:
        selected = responding_prototypes(maps.logits[3].mean((2, 3)), labels, network.k)
        assert torch.equal(selected.float(), ours["selected"])
    if "pseudo_mask" in ours:
        mask = official_pseudo_mask(merge_prototypes(maps.logits[3], network.k, "mean"))
        assert torch.equal(mask, ours["pseudo_mask"])


def check_gradients(network, param_names, ours):
    scales = network.scales.grad.double()
    assert torch.allclose(scales, ours["grad_logit_scales"].double(), rtol=1e-3, atol=1e-6)
    if network.prototypes.requires_grad:
        assert torch.allclose(network.prototypes.grad, ours["grad_prototypes"], rtol=1e-3, atol=1e-6)
    if "grad_patch_embed1" in ours:
        ours_grad = network.encoder.backbone.patch_embed.proj.weight.grad
        assert torch.allclose(ours_grad, ours["grad_patch_embed1"], rtol=1e-3, atol=1e-5)
    for official, expected in zip(param_names, ours["grad_norms"].tolist(), strict=True):
        parameter = our_parameter(network, official)
        if parameter is not None:
            norm = 0.0 if parameter.grad is None else parameter.grad.double().norm().item()
            assert norm == pytest.approx(expected, rel=1e-3, abs=1e-6), official


def test_the_published_data_reading(tmp_path):
    oracle = vectors("dataset_fixture")
    with np.load(ORACLE / "dataset_fixture.npz") as arrays:
        names = arrays["train_names"].tolist()
    encoder = build_encoder("mit_b0", statistics="tissue", channel_order="bgr")
    for j, name in enumerate(names):
        Image.fromarray(oracle[f"train{j}_rgb"].numpy()).save(tmp_path / name)
    tiles = labelled_tiles(tmp_path, CLASSES["bcss"])
    for j in range(3):
        image, labels = map(torch.from_numpy, tiles[j])
        assert torch.allclose(encoder.normalise(image[None] / 255)[0], oracle[f"train{j}_tensor"], atol=1e-5)
        assert torch.equal(labels.long(), oracle[f"train{j}_label"])
        mask_path = tmp_path / f"mask{j}.tif"
        Image.fromarray(oracle[f"valid{j}_mask"].numpy()).save(mask_path)
        mask = read_mask(mask_path, CLASSES["bcss"])
        assert np.array_equal(mask, oracle[f"valid{j}_mask_out"].numpy())
        assert np.array_equal(present_classes(mask, 4), oracle[f"valid{j}_label"].numpy() > 0)


@pytest.mark.parametrize("name", of_kind("validate"))
def test_the_published_validation(name):
    if not (ORACLE / f"{name}.npz").is_file():
        pytest.skip("no validate_*.npz")
    crf = pytest.importorskip("pydensecrf.densecrf", reason="the published CRF is not installed")
    assert crf
    oracle = vectors(name)

    def agrees(state):
        network = network_of(state, oracle, name)
        settings = TrainSettings(model=network.settings)
        card = Card(
            classes=CLASSES["bcss"],
            settings=settings,
            tiles_per_class={},
            tiles=0,
            steps=0,
            map_scale=((1.0,) * 4,) * 3,
            presence=(0.5,) * 4,
        )
        return check_validation(LoadedModel(network, card, name, "", torch.device("cpu")), oracle)

    assert any(agrees(state) for state in weights_for(name))


def check_validation(model, oracle):
    """Whether this is the model whose validation was published; from there on every figure must agree."""
    published = EvaluateSettings(
        gates=("truth",), refiners=("pydensecrf",), background="predict", views="official", normalise="image"
    )
    results = []
    for i in range(3):
        rgb, mask = oracle[f"img{i}_rgb"], oracle[f"img{i}_mask"].numpy()
        present = torch.from_numpy(present_classes(mask, 4))
        assert torch.equal(present.long(), oracle[f"img{i}_cls"])
        image = rgb.permute(2, 0, 1).float() / 255
        if i == 0:
            fused = fused_maps(model, image, published)[0]
            if not torch.allclose(
                class_probability(fused, present, published), oracle["img0_tta_prob_softmax"], atol=5e-4
            ):
                return False
        for views, part, label in (("official", "tta", "pred_crf"), ("one", "notta", "gencam_pred")):
            settings = published.model_copy(update={"views": views})
            probability = class_probability(fused_maps(model, image, settings)[0], present, settings)
            assert torch.allclose(probability, oracle[f"img{i}_{part}_prob_softmax"], atol=5e-4)
            crf_image = oracle[f"img{i}_crf_image_bgr"].numpy()
            labels = predicted_labels(crf_image, probability, "pydensecrf", settings)
            assert (labels == oracle[f"img{i}_{label}"].numpy()).mean() >= 0.98
            if views == "official":
                results.append(image_result(i, confusion_matrix(mask, labels, 4)))
    scores = metrics(results, [tissue.name for tissue in CLASSES["bcss"]], "predict")
    assert 100 * scores.mean_iou == pytest.approx(oracle["mIoU"].item(), abs=1.0)
    assert 100 * scores.mean_dice == pytest.approx(oracle["mean_dice"].item(), abs=1.0)
    assert 100 * scores.frequency_weighted_iou == pytest.approx(oracle["fw_iu"].item(), abs=1.0)
    return True


def image_result(i, confusion):
    return ImageResult(str(i), str(i), confusion, np.zeros((4, 2), np.int64), np.zeros(4), np.zeros(4, bool))


@pytest.mark.parametrize("case", ["s24", "s40x32", "zeroclass", "s96"])
@pytest.mark.parametrize(("backend", "tolerance"), [("lattice", 1e-3), ("pydensecrf", 1e-6)])
def test_the_dense_crf(backend, tolerance, case):
    if backend == "pydensecrf":
        pytest.importorskip("pydensecrf.densecrf", reason="the extra crf is not installed")
    oracle = {key: value.numpy() for key, value in vectors("crf").items()}
    q = dense_crf(oracle[f"{case}_image"], oracle[f"{case}_prob"], CrfSettings(), backend)
    assert np.allclose(q, oracle[f"{case}_crf_q"], atol=tolerance)
    assert np.array_equal(q.argmax(0), oracle[f"{case}_crf_mask"])
    if f"{case}_exact_q" in oracle:
        assert (q.argmax(0) == oracle[f"{case}_exact_q"].argmax(0)).mean() >= 0.98
