from __future__ import annotations

import re

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from skimage import data

from napari_lpd.core.errors import ModelError
from napari_lpd.models.backbones.weights import embedded_weights, read_state
from napari_lpd.models.encoder import build_encoder, build_region_encoder
from napari_lpd.models.published.weight_names import rename_lite0, rename_mit

SWIN = "swin_tiny_patch4_window7_224"


def test_the_embedded_encoder_has_the_strides_of_the_method():
    encoder = build_encoder("tf_efficientnet_lite0", "embedded").eval()
    assert encoder.strides == [4, 8, 16, 16]
    assert encoder.widths == [24, 40, 112, 320]
    with torch.inference_mode():
        shapes = [tuple(f.shape) for f in encoder(torch.rand(1, 3, 128, 96))]
    assert shapes == [(1, 24, 32, 24), (1, 40, 16, 12), (1, 112, 8, 6), (1, 320, 8, 6)]


def test_the_embedded_weights_recognise_a_picture():
    """scikit-image's coffee.png is ImageNet class 967, espresso: names, values and input statistics are right."""
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    classifier.load_state_dict(rename_lite0(read_state(embedded_weights())))
    image = torch.from_numpy(np.ascontiguousarray(data.coffee()[:400, 100:500])).permute(2, 0, 1)[None] / 255
    image = torch.nn.functional.interpolate(image, size=(224, 224), mode="bilinear", antialias=True)
    with torch.inference_mode():
        probability = classifier((image - 0.5) / 0.5).softmax(1)[0]
    assert probability.argmax() == 967
    assert probability[967] > 0.5


def test_the_encoder_carries_the_embedded_weights():
    encoder = build_encoder("tf_efficientnet_lite0", "embedded")
    state = rename_lite0(read_state(embedded_weights()))
    own = encoder.backbone.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own)
    assert encoder.mean.flatten().tolist() == [0.5] * 3


@pytest.mark.parametrize("name", ["mit_b0", "mit_b1"])
def test_mit_has_strides_4_8_16_16(name):
    encoder = build_encoder(name).eval()
    assert encoder.strides == [4, 8, 16, 16]
    with torch.inference_mode():
        sides = [f.shape[-1] for f in encoder(torch.rand(1, 3, 224, 224))]
    assert sides == [56, 28, 14, 14]


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("mit_b0", [4, 8, 16, 16]),
        ("mit_b1", [4, 8, 16, 16]),
        ("mit_b2", [4, 8, 16, 16]),
        ("pvt_v2_b0", [4, 8, 16, 16]),
        ("tf_efficientnet_lite0", [4, 8, 16, 16]),
        ("resnet18", [4, 8, 16, 16]),
        ("convnext_atto", [4, 8, 16, 16]),
        ("densenet121", [4, 8, 16, 32]),  # has no dilated form
        ("mambaout_femto", [4, 8, 16, 32]),  # its own maps have the channels last
    ],
)
def test_the_maps_have_the_widths_and_strides_that_the_encoder_tells(name, strides):
    encoder = build_encoder(name).eval()
    assert encoder.strides == strides
    with torch.inference_mode():
        maps = encoder(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (1, width, 64 // stride, 96 // stride) for width, stride in zip(encoder.widths, strides, strict=True)
    ]


def test_the_encoder_may_take_the_statistics_of_tissue():
    encoder = build_encoder("resnet18", statistics="tissue")
    assert torch.equal(encoder.mean.flatten(), torch.tensor([0.70623304, 0.47791372, 0.66791496]))
    assert torch.equal(encoder.std.flatten(), torch.tensor([0.19820057, 0.22564577, 0.1736589]))
    assert not {"mean", "std"} & encoder.state_dict().keys()


def test_an_encoder_of_the_published_code_sees_blue_first():
    encoder = build_encoder("resnet18", statistics="tissue", channel_order="bgr").eval()
    images = torch.rand(1, 3, 64, 64)
    blue_first = images[:, [2, 1, 0]]
    mean = torch.tensor([0.66791496, 0.47791372, 0.70623304]).view(3, 1, 1)
    std = torch.tensor([0.1736589, 0.22564577, 0.19820057]).view(3, 1, 1)
    seen = (blue_first - mean) / std
    assert torch.allclose(encoder.normalise(images), seen)
    with torch.inference_mode():
        assert torch.allclose(encoder(images)[-1], encoder.backbone(seen)[-1])


def test_blue_first_reverses_the_encoders_own_statistics_too():
    mean = [build_encoder("resnet18", channel_order=order).mean.flatten().tolist() for order in ("rgb", "bgr")]
    assert mean[0] == mean[1][::-1] != mean[1]


def test_mit_b1_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in build_encoder("mit_b1").backbone.parameters()) == 13_151_424


def mit_names(state):
    """timm's names → MiT's, the inverse of what the loader does, for writing a file like the published one."""
    renamed = {}
    for key, value in state.items():
        new = key.replace("patch_embed.", "patch_embed1.").replace("mlp.dwconv.", "mlp.dwconv.dwconv.")
        for i in (1, 2, 3):
            new = new.replace(f"stages_{i}.downsample.", f"patch_embed{i + 1}.")
        for i in range(4):
            new = new.replace(f"stages_{i}.blocks.", f"block{i + 1}.").replace(f"stages_{i}.norm.", f"norm{i + 1}.")
        renamed[new] = value
    return renamed


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_mit_weights_load_from_a_path_with_their_own_names(tmp_path, suffix):
    original = build_encoder("mit_b0").backbone.state_dict()
    path = tmp_path / f"mit_b0{suffix}"
    published = mit_names(original) | {"head.weight": torch.zeros(10, 256)}
    if suffix == ".pth":
        torch.save(published, path)
    else:
        save_file(published, path)
    assert rename_mit(published).keys() >= original.keys()
    loaded = build_encoder("mit_b0", str(path)).backbone.state_dict()
    assert all(torch.equal(loaded[key], original[key]) for key in original)


def segformer_names(state):
    """timm's names → Hugging Face's SegFormer, the inverse of what the loader does."""
    parts = [
        ("patch_embed.", "patch_embeddings.0."),
        *((f"stages_{i}.downsample.", f"patch_embeddings.{i}.") for i in (1, 2, 3)),
        *((f"stages_{i}.blocks.", f"block.{i}.") for i in range(4)),
        *((f"stages_{i}.norm.", f"layer_norm.{i}.") for i in range(4)),
        (".attn.norm.", ".attention.self.layer_norm."),
        (".attn.proj.", ".attention.output.dense."),
        (".attn.sr.", ".attention.self.sr."),
        (".attn.q.", ".attention.self.query."),
        (".mlp.fc", ".mlp.dense"),
        (".mlp.dwconv.", ".mlp.dwconv.dwconv."),
        (".norm1.", ".layer_norm_1."),
        (".norm2.", ".layer_norm_2."),
    ]
    renamed = {}
    for key, value in state.items():
        new = key
        for ours, theirs in parts:
            new = new.replace(ours, theirs)
        if new.startswith("patch_embeddings"):
            new = new.replace(".norm.", ".layer_norm.")
        if ".attn.kv." in new:
            for part, rows in zip(("key", "value"), value.chunk(2), strict=True):
                renamed["encoder." + new.replace(".attn.kv.", f".attention.self.{part}.")] = rows.clone()
        else:
            renamed["encoder." + new] = value
    return renamed


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", ["segformer.", ""])
def test_segformer_weights_load_with_the_names_of_hugging_face(tmp_path, prefix, suffix):
    original = build_encoder("mit_b0").backbone.state_dict()
    published = {f"{prefix}{key}": value for key, value in segformer_names(original).items()}
    assert f"{prefix}encoder.block.3.1.attention.self.value.weight" in published
    assert f"{prefix}encoder.patch_embeddings.0.layer_norm.bias" in published
    path = tmp_path / f"segformer{suffix}"
    if suffix == ".pth":
        torch.save(published, path)
    else:
        save_file(published, path)
    loaded = build_encoder("mit_b0", str(path)).backbone.state_dict()
    assert all(torch.equal(loaded[key], original[key]) for key in original)


@pytest.mark.parametrize("name", ["pvt_v2_b0", "convnext_atto", "resnet18"])
def test_a_file_of_the_whole_classifier_fits_the_encoder(tmp_path, name):
    classifier = timm.create_model(name).state_dict()
    path = tmp_path / "classifier.safetensors"
    save_file(classifier, path)
    loaded = build_encoder(name, str(path)).backbone.state_dict()
    whole = {key: re.sub(r"^(stem|stages)_", r"\1.", key) for key in loaded}
    assert all(torch.equal(loaded[key], classifier[whole[key]]) for key in loaded)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}, "loops": {}},
    ],
    ids=["state_dict", "model", "DataParallel", "Lightning"],
)
def test_weights_load_from_within_what_trainers_save(tmp_path, wrap):
    original = build_encoder("resnet18").backbone.state_dict()
    torch.save(wrap(original), tmp_path / "run.ckpt")
    loaded = build_encoder("resnet18", str(tmp_path / "run.ckpt")).backbone.state_dict()
    assert all(torch.equal(loaded[key], original[key]) for key in original)


def test_a_pickle_with_code_is_refused(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"model": print}, path)
    with pytest.raises(ModelError, match=r"evil.pth.*not readable.*run code.*safetensors"):
        build_encoder("mit_b0", str(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>404</html>", "web page.*download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS pointer.*download"),
        (b"\x80\x02not a pickle", "not readable"),
        (b"", "not readable"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_weights_file_is_told_apart(tmp_path, content, said, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"weights{suffix}.*{said}") as caught:
        build_encoder("resnet18", str(path))
    assert "\n" not in str(caught.value)


def test_a_tensor_of_another_size_is_named(tmp_path):
    state = build_encoder("resnet18").backbone.state_dict()
    state["conv1.weight"] = torch.zeros(64, 4, 7, 7)
    save_file(state, tmp_path / "rgba.safetensors")
    with pytest.raises(ModelError, match=r"rgba.*conv1.weight is \(64, 4, 7, 7\), wanted \(64, 3, 7, 7\)"):
        build_encoder("resnet18", str(tmp_path / "rgba.safetensors"))


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("no_such_net", "random", "no_such_net"),
        ("mit_b1", "embedded", "non-commercial"),
        ("mit_b1", "hub", "pass their file"),
        ("mit_b1", "absent.pth", "absent.pth"),
        ("levit_128s", "random", "3 feature maps, wanted 4"),
        (SWIN, "random", "only images of 224×224"),
    ],
)
def test_wrong_encoders_and_weights_give_one_line(name, weights, said):
    with pytest.raises(ModelError, match=said):
        build_encoder(name, weights)


def test_weights_of_another_encoder_are_refused(tmp_path):
    path = tmp_path / "b0.safetensors"
    save_file(build_encoder("mit_b0").backbone.state_dict(), path)
    with pytest.raises(ModelError, match=r"mit_b1|missing"):
        build_encoder("mit_b1", str(path))


@pytest.mark.parametrize(
    ("name", "width", "size"),
    [
        ("tf_efficientnet_lite0", 1280, None),
        ("resnet18", 512, None),
        ("vit_tiny_patch16_224", 192, (224, 224)),
        ("resnet50_clip.openai", 2048, (224, 224)),
        (SWIN, 768, (224, 224)),
    ],
)
def test_a_region_encoder_gives_a_vector_per_image_of_any_size(name, width, size):
    encoder = build_region_encoder(name, "random", 32)
    assert encoder.size == size
    assert encoder.projection_state()["weight"].shape == (32, width)
    with torch.inference_mode():
        assert encoder(torch.rand(2, 3, 64, 96)).shape == (2, 32)


def test_a_region_encoder_stays_frozen_in_evaluation_mode_and_lets_gradients_through():
    encoder = build_region_encoder("tf_efficientnet_lite0", "embedded", 512)
    parent = torch.nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in parent.parameters())
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    encoder(images).square().sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in parent.parameters())


def test_the_embedded_region_encoder_pools_the_classifiers_features():
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    classifier.load_state_dict(rename_lite0(read_state(embedded_weights())))
    encoder = build_region_encoder("tf_efficientnet_lite0", "embedded", 16)
    images = encoder.normalise(torch.rand(1, 3, 64, 64))
    with torch.inference_mode():
        pooled = classifier.forward_head(classifier.forward_features(images), pre_logits=True)
        assert torch.allclose(encoder(images), pooled @ encoder.projection_state()["weight"].T, atol=1e-5)


def test_the_projection_follows_from_its_seed_alone():
    before = torch.get_rng_state()
    weights = [
        build_region_encoder("resnet18", "random", 512, seed=seed).projection_state()["weight"] for seed in (42, 42, 7)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert 0.99 / 512**0.5 < weights[0].abs().max() <= 1 / 512**0.5
    assert torch.equal(torch.get_rng_state(), before)


def test_random_weights_of_a_region_encoder_are_seeded_too():
    states = [build_region_encoder("resnet18", "random", 8, seed=seed).backbone.state_dict() for seed in (42, 42, 7)]
    assert torch.equal(states[0]["conv1.weight"], states[1]["conv1.weight"])
    assert not torch.equal(states[0]["conv1.weight"], states[2]["conv1.weight"])


def test_what_is_not_to_be_seen_is_zero_for_a_region_encoder():
    encoder = build_region_encoder("resnet18", "random", 8)
    assert encoder.normalise(encoder.mean.expand(1, 3, 4, 4)).abs().max() == 0


def test_an_image_of_another_size_is_resized_for_an_encoder_of_fixed_size():
    encoder = build_region_encoder("vit_tiny_patch16_224", "random", 8)
    images = torch.rand(1, 3, 112, 112, requires_grad=True)
    resized = torch.nn.functional.interpolate(images, size=(224, 224), mode="bilinear", align_corners=False)
    assert torch.allclose(encoder(images), encoder(resized))
    encoder(images).sum().backward()
    assert images.grad.abs().sum() > 0


def swin_names(state):
    """timm's names → Hugging Face's Swin, the inverse of what the loader does."""
    parts = [
        ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
        ("patch_embed.norm.", "embeddings.norm."),
        (".norm1.", ".layernorm_before."),
        (".norm2.", ".layernorm_after."),
        (".attn.proj.", ".attention.output.dense."),
        (".attn.relative", ".attention.self.relative"),
        (".mlp.fc1.", ".intermediate.dense."),
        (".mlp.fc2.", ".output.dense."),
        *((f"layers.{i}.downsample", f"encoder.layers.{i - 1}.downsample") for i in (1, 2, 3)),
        *((f"layers.{i}.blocks", f"encoder.layers.{i}.blocks") for i in range(4)),
    ]
    renamed = {}
    for key, value in state.items():
        new = f"layernorm.{key[5:]}" if key.startswith("norm.") else key
        for ours, theirs in parts:
            new = new.replace(ours, theirs)
        if ".attn.qkv." in new:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[new.replace(".attn.qkv.", f".attention.self.{part}.")] = rows.clone()
        else:
            renamed[new] = value
    return renamed


def test_a_swin_loads_with_the_names_of_hugging_face(tmp_path):
    original = timm.create_model(SWIN, num_classes=0).state_dict()
    published = {f"swin.{key}": value for key, value in swin_names(original).items()}
    assert "swin.encoder.layers.2.downsample.reduction.weight" in published
    save_file(published, tmp_path / "swin.safetensors")
    loaded = build_region_encoder(SWIN, str(tmp_path / "swin.safetensors"), 8)
    assert all(torch.equal(value, original[key]) for key, value in loaded.backbone.state_dict().items())
    assert loaded.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_medclip_brings_its_own_projection_and_statistics(tmp_path):
    original = timm.create_model(SWIN, num_classes=0).state_dict()
    published = {f"vision_model.model.{key}": value for key, value in swin_names(original).items()}
    projection = torch.randn(512, 768)
    path = tmp_path / "pytorch_model.bin"
    torch.save(published | {"vision_model.projection_head.weight": projection, "logit_scale": torch.ones(())}, path)
    encoder = build_region_encoder(SWIN, str(path), 512)
    assert all(torch.equal(value, original[key]) for key, value in encoder.backbone.state_dict().items())
    assert torch.equal(encoder.projection_state()["weight"], projection)
    assert encoder.mean.flatten().tolist() == pytest.approx([0.5862785803] * 3)
    with pytest.raises(ModelError, match=r"pytorch_model.bin.*512.*prototype_dim=256"):
        build_region_encoder(SWIN, str(path), 256)
    with pytest.raises(ModelError, match=r"pytorch_model.bin.*weights of 'resnet18' are missing"):
        build_region_encoder("resnet18", str(path), 512)


@pytest.mark.parametrize(
    ("weights", "said"),
    [("embedded", "no weights are embedded for 'resnet18'"), ("absent.pth", "absent.pth: no such weights file")],
)
def test_wrong_weights_of_a_region_encoder_give_one_line(weights, said):
    with pytest.raises(ModelError, match=said):
        build_region_encoder("resnet18", weights, 8)


class ConnectError(Exception):
    """As httpx raises it: no OSError."""


@pytest.mark.parametrize("build", [build_encoder, lambda name, weights: build_region_encoder(name, weights, 8)])
@pytest.mark.parametrize("error", [OSError("offline\nsecond line"), ConnectError("Name or service not known")])
def test_without_internet_the_hub_gives_one_line_with_the_remedy(monkeypatch, build, error):
    def offline(*args, **kwargs):
        assert kwargs["pretrained"]
        raise error

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ModelError, match=r"resnet18.*hub.*(offline|not known).*pass the path") as caught:
        build("resnet18", "hub")
    assert "\n" not in str(caught.value)


def test_weights_of_the_hub_are_loaded_by_timm(monkeypatch, tmp_path):
    classifier, create = timm.create_model("convnext_atto"), timm.create_model
    save_file(classifier.state_dict(), tmp_path / "model.safetensors")
    local = {"file": str(tmp_path / "model.safetensors")}
    monkeypatch.setattr(timm, "create_model", lambda name, **kw: create(name, pretrained_cfg_overlay=local, **kw))
    stem = classifier.state_dict()["stem.0.weight"]
    assert torch.equal(build_encoder("convnext_atto", "hub").backbone.stem_0.weight, stem)
    assert torch.equal(build_region_encoder("convnext_atto", "hub", 8).backbone.stem[0].weight, stem)


def test_a_region_encoder_with_weights_in_half_precision_gives_what_autocast_gives():
    cast, stored = (build_region_encoder("tf_efficientnet_lite0", "embedded", 32) for _ in range(2))
    cast.precision = torch.bfloat16
    stored.compute_in(torch.bfloat16)
    images = torch.rand(2, 3, 64, 64)
    assert stored.backbone.conv_stem.weight.dtype == torch.bfloat16
    assert stored(images).dtype == torch.float32
    assert torch.equal(stored(images), cast(images))
