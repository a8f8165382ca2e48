"""Weights of ViTs by the names under which they are published, and out of every wrapping; or a line that tells them."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from napari_lpd.core.errors import ModelError
from napari_lpd.models.backbones.known import IMAGENET, PUBLISHED
from napari_lpd.models.backbones.source import Given, architecture_of
from napari_lpd.models.backbones.weights import build, completed
from napari_lpd.models.encoder import build_encoder, build_region_encoder

TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2}
SWIGLU = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU, "mlp_ratio": 5.33334}
KNOWN = Given(TINY, mean=IMAGENET[0], std=IMAGENET[1])


def network(name, **arguments):
    """timm's network with random numbers everywhere, scales and biases too."""
    torch.manual_seed(0)
    vit = timm.create_model(name, num_classes=0, **{**TINY, "img_size": 112, **arguments})
    for tensor in vit.state_dict().values():
        tensor.normal_()
    return vit


def renamed(state, *rules):
    named = dict(state)
    for pattern, new in rules:
        named = {re.sub(pattern, new, name): value for name, value in named.items()}
    return named


def with_class_position(state, register_name):
    """The published form of a network with registers: its class token has a position embedding of its own."""
    named = dict(state)
    named[register_name] = named.pop("reg_token")
    position = torch.randn_like(named["cls_token"])
    named["cls_token"] = named["cls_token"] - position
    named["pos_embed"] = torch.cat([position, named["pos_embed"]], dim=1)
    return named


def apart(state, joint, names):
    """One layer as several, of its rows."""
    named = {}
    for name, value in state.items():
        if joint in name:
            parts = value.chunk(3)
            named |= {name.replace(joint, new): part.clone() for new, part in zip(names, parts, strict=True) if new}
        else:
            named[name] = value
    return named


QKV = ("attention.attention.query.", "attention.attention.key.", "attention.attention.value.")
HF = (
    (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    (r"attn\.proj\.", "attention.output.dense."),
    (r"\.ls([12])\.gamma", r".layer_scale\1.lambda1"),
)


def dinov2(state):
    return {**state, "mask_token": torch.zeros(1, 32)}


def dinov2_giant(state):
    return dinov2(renamed(state, (r"mlp\.fc1\.", "mlp.w12."), (r"mlp\.fc2\.", "mlp.w3.")))


def dinov2_registers(state):
    return dinov2(with_class_position(state, "register_tokens"))


def dinov2_in_chunks(state):
    return renamed(dinov2(state), (r"^blocks\.(\d)\.", r"blocks.0.\1."))


def dinov3(state):
    named = renamed(state, (r"gamma_([12])$", r"ls\1.gamma"), (r"^reg_token$", "storage_tokens"))
    extra = {f"blocks.{i}.attn.qkv.bias": torch.zeros(96) for i in range(4)}
    extra |= {f"blocks.{i}.attn.qkv.bias_mask": torch.ones(96) for i in range(4)}
    return {**named, **extra, "rope_embed.periods": torch.ones(4), "mask_token": torch.zeros(1, 32)}


def hf_vit(state):
    rules = ((r"norm1", "layernorm_before"), (r"norm2", "layernorm_after"), (r"mlp\.fc1", "intermediate.dense"),
             (r"mlp\.fc2", "output.dense"))  # fmt: skip
    return {**renamed(apart(state, "attn.qkv.", QKV), *HF, *rules), "pooler.dense.bias": torch.zeros(32)}


def hf_dinov2(state):
    return renamed(apart(dinov2(state), "attn.qkv.", QKV), *HF)


def hibou(state):
    """Hugging Face's DINOv2 with registers and a gated MLP."""
    named = apart(dinov2(with_class_position(state, "register_tokens")), "attn.qkv.", QKV)
    return renamed(named, *HF, (r"mlp\.fc1\.", "mlp.weights_in."), (r"mlp\.fc2\.", "mlp.weights_out."))


def hf_dinov3(state):
    names = [f"attention.{part}_proj." for part in "qkv"]
    named = apart(renamed(state, (r"^reg_token$", "register_tokens")), "attn.qkv.", names)
    named = renamed(
        named,
        (r"^(cls_token|register_tokens)$", r"embeddings.\1"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
        (r"^blocks\.(\d+)\.", r"layer.\1."),
        (r"gamma_([12])$", r"layer_scale\1.lambda1"),
        (r"attn\.proj\.", "attention.o_proj."),
        (r"mlp\.fc1\.", "mlp.up_proj."),
        (r"mlp\.fc2\.", "mlp.down_proj."),
    )
    return {**named, "embeddings.mask_token": torch.zeros(1, 1, 32)}


SCALED = {"init_values": 1e-5}
LAYOUTS = {
    "timm, UNI": ("vit_large_patch16_224", SCALED, dict),
    "timm, Virchow": ("vit_huge_patch14_224", {**SCALED, **SWIGLU}, dict),
    "timm, Virchow2": ("vit_huge_patch14_224", {**SCALED, **SWIGLU, "reg_tokens": 4}, dict),
    "timm, UNI2-h": ("vit_giant_patch14_224", {**SCALED, **SWIGLU, "reg_tokens": 8, "no_embed_class": True}, dict),
    "timm, H-optimus-0": ("vit_giant_patch14_reg4_dinov2", {}, dict),
    "DINOv2": ("vit_small_patch14_dinov2", {}, dinov2),
    "DINOv2, giant": ("vit_giant_patch14_dinov2", {}, dinov2_giant),
    "DINOv2, registers": ("vit_base_patch14_reg4_dinov2", {}, dinov2_registers),
    "DINOv2, training": ("vit_base_patch14_dinov2", {}, dinov2_in_chunks),
    "DINOv3": ("vit_small_patch16_dinov3", {}, dinov3),
    "Hugging Face, Phikon": ("vit_base_patch16_224", {}, hf_vit),
    "Hugging Face, Phikon-v2": ("vit_large_patch16_224", SCALED, hf_dinov2),
    "Hugging Face, Hibou": ("vit_base_patch14_reg4_dinov2", SWIGLU, hibou),
    "Hugging Face, DINOv3": ("vit_small_patch16_dinov3", {}, hf_dinov3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_weights_load_by_their_own_names_and_show_their_arguments(tmp_path, layout):
    name, arguments, publish = LAYOUTS[layout]
    original = network(name, **arguments).eval()
    save_file(
        {key: value.contiguous() for key, value in publish(original.state_dict()).items()}, tmp_path / "w.safetensors"
    )
    encoder = build_encoder(name, str(tmp_path / "w.safetensors"), given=KNOWN).eval()
    wanted = original.state_dict()
    for key, value in encoder.backbone.vit.state_dict().items():
        assert torch.allclose(value, wanted[key], atol=1e-6), key
    image = torch.rand(1, 3, 112, 112)
    with torch.inference_mode():
        found = encoder.backbone.vit.forward_intermediates(image, norm=True, intermediates_only=True)
        expected = original.forward_intermediates(image, norm=True, intermediates_only=True)
    assert all(torch.allclose(f, e, atol=1e-4) for f, e in zip(found, expected, strict=True))
    regions = build_region_encoder(name, str(tmp_path / "w.safetensors"), 8, given=KNOWN)
    assert torch.allclose(regions.backbone.patch_embed.proj.weight, wanted["patch_embed.proj.weight"])


SHAPES = {
    "uni": {"pos_embed": (1, 197, 1024), "blocks.23.ls2.gamma": (1024,), "blocks.23.mlp.fc1.weight": (4096, 1024)},
    "uni2-h": {"pos_embed": (1, 256, 1536), "reg_token": (1, 8, 1536), "blocks.23.mlp.fc1.weight": (8192, 1536)},
    "h-optimus-0": {"pos_embed": (1, 256, 1536), "reg_token": (1, 4, 1536), "blocks.39.mlp.fc2.weight": (1536, 4096)},
    "virchow": {"pos_embed": (1, 257, 1280), "blocks.31.mlp.fc1.weight": (6832, 1280), "blocks.0.ls1.gamma": (1280,)},
    "virchow2": {"pos_embed": (1, 261, 1280), "reg_token": (1, 4, 1280), "blocks.31.mlp.fc2.weight": (1280, 3416)},
    "phikon": {"pos_embed": (1, 197, 768), "blocks.11.mlp.fc1.weight": (3072, 768)},
    "phikon-v2": {"pos_embed": (1, 197, 1024), "blocks.23.ls1.gamma": (1024,)},
    "prov-gigapath": {"pos_embed": (1, 197, 1536), "patch_embed.proj.weight": (1536, 3, 16, 16)},
    "hibou-b": {"pos_embed": (1, 256, 768), "reg_token": (1, 4, 768)},
    "hibou-l": {"pos_embed": (1, 256, 1024), "reg_token": (1, 4, 1024)},
    "dinov2-s": {"pos_embed": (1, 1370, 384), "patch_embed.proj.weight": (384, 3, 14, 14)},
    "dinov3-s": {"reg_token": (1, 4, 384), "blocks.11.gamma_1": (384,)},
    "kather100k-resnet18": {"layer4.1.conv2.weight": (512, 512, 3, 3)},
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_published_encoder_has_the_shapes_of_its_file(name):
    with torch.device("meta"):
        state = build(architecture_of(name, "random", Given())).state_dict()
    assert {key: tuple(state[key].shape) for key in SHAPES[name]} == SHAPES[name]


@pytest.mark.parametrize("name", ["uni", "uni2-h", "virchow2", "h-optimus-0", "prov-gigapath"])
def test_the_arguments_of_a_published_encoder_are_those_that_its_file_shows(name):
    row = PUBLISHED[name]
    architecture = architecture_of(name, "random", Given({"depth": 1}))
    sizes = {key: row.arguments[key] for key in ("patch_size", "embed_dim", "num_heads") if key in row.arguments}
    plain = architecture.model_copy(update={"arguments": {**sizes, "depth": 1}, "source": "test"})
    with torch.device("meta"):
        state = build(architecture).state_dict()
        again = build(completed(plain, state, "w")).state_dict()
    assert {key: value.shape for key, value in again.items()} == {key: value.shape for key, value in state.items()}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_tiatoolbox_s_resnets_load_by_their_numbered_layers(tmp_path, name):
    original = timm.create_model(name).state_dict()
    layers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    published = {"classifier.weight": torch.zeros(9, 2)}
    for key, value in original.items():
        layer, _, rest = key.partition(".")
        if layer in layers:
            published[f"feat_extract.{layers[layer]}.{rest}"] = value
    torch.save(published, tmp_path / "kather.pth")
    encoder = build_encoder(f"kather100k-{name}", str(tmp_path / "kather.pth"))
    assert all(torch.equal(value, original[key]) for key, value in encoder.backbone.state_dict().items())
    assert encoder.mean.flatten().tolist() == [0, 0, 0]
    assert encoder.std.flatten().tolist() == [1, 1, 1]


WRAPPINGS = {
    "state_dict": lambda state: {"state_dict": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state},
    "teacher": lambda state: {"teacher": {f"backbone.{key}": value for key, value in state.items()}},
    "module": lambda state: {f"module.{key}": value for key, value in state.items()},
    "trunk": lambda state: {f"visual.trunk.{key}": value for key, value in state.items()},
    "fine-tuned": lambda state: {
        **{f"model.encoder.{key}": value for key, value in state.items()},
        "model.decoder.0.weight": torch.ones(2),
        "model.head.bias": torch.ones(2),
    },
    "segmenter": lambda state: {"net": {f"vit.features.{key}": v for key, v in state.items()}, "lr": 0.1},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("name", ["vit_small_patch16_224", "resnet18"])
def test_a_network_is_found_inside_a_fine_tuned_model(tmp_path, wrapping, name):
    state = network(name).state_dict() if name.startswith("vit") else timm.create_model(name).state_dict()
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "w.pth")
    given = KNOWN if name.startswith("vit") else Given()
    encoder = build_encoder(name, str(tmp_path / "w.pth"), given=given)
    parts = encoder.backbone.vit if name.startswith("vit") else encoder.backbone
    assert all(torch.equal(value, state[key]) for key, value in parts.state_dict().items())


@pytest.mark.parametrize(
    "prefixes", [("teacher.backbone.", "student.backbone."), ("encoder_q.", "encoder_k."), ("online.", "target.")]
)
def test_two_networks_in_one_file_are_not_mixed(tmp_path, prefixes):
    state = timm.create_model("resnet18").state_dict()
    torch.save({f"{prefix}{key}": value for prefix in prefixes for key, value in state.items()}, tmp_path / "w.pth")
    with pytest.raises(
        ModelError, match=r"w\.pth: (holds several sets.*student|.*missing.*the file holds \d+ tensors)"
    ):
        build_encoder("resnet18", str(tmp_path / "w.pth"))


@pytest.mark.parametrize("build_one", [build_encoder, lambda n, w, given: build_region_encoder(n, w, 8, given=given)])
@pytest.mark.parametrize("change", [{"embed_dim": 48}, {"depth": 6}, {"patch_size": 14}])
def test_another_size_of_the_same_vit_is_told_in_a_line(tmp_path, change, build_one):
    save_file(network("vit_small_patch16_224", **change).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(
        ModelError, match=r"w\.safetensors: holds a ViT of width \d+, \d blocks, patch \d+; .*patch 16"
    ) as e:
        build_one("vit_small_patch16_224", str(tmp_path / "w.safetensors"), given=KNOWN)
    assert "\n" not in str(e.value)


def test_a_file_of_something_else_is_described(tmp_path):
    save_file({"gene.weight": torch.ones(2), "gene.bias": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"missing.*the file holds 2 tensors, as gene\.bias, gene\.weight"):
        build_encoder("vit_small_patch16_224", str(tmp_path / "w.safetensors"), given=KNOWN)


def test_a_classifier_of_pooled_tokens_has_no_last_norm(tmp_path):
    state = timm.create_model("vit_small_patch16_224", global_pool="avg", num_classes=2, **TINY).state_dict()
    assert "fc_norm.weight" in state
    save_file(state, tmp_path / "w.safetensors")
    encoder = build_encoder("vit_small_patch16_224", str(tmp_path / "w.safetensors"), given=KNOWN)
    assert isinstance(encoder.backbone.vit.norm, torch.nn.Identity)


def test_the_biases_of_a_dinov3_are_used_where_they_are_not_zero(tmp_path):
    state = dinov3(network("vit_small_patch16_dinov3").state_dict())
    save_file({k: v + 1 if k.endswith("qkv.bias") else v for k, v in state.items()}, tmp_path / "w.safetensors")
    encoder = build_encoder("vit_small_patch16_dinov3", str(tmp_path / "w.safetensors"), given=KNOWN)
    assert (encoder.backbone.vit.blocks[0].attn.q_bias == 1).all()
