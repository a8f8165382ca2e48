"""Image encoders, all through timm, and their weights.

`Encoder` gives four feature maps and is trained; `RegionEncoder` gives one vector per image and stays frozen.
MiT-B0..B2 (SegFormer) are timm's PVTv2 with MLP ratios of 4; they and PVTv2 get stage-4 stride 1, so that the four
stages have the output strides 4, 8, 16, 16 of both papers. The four maps of a ViT are those of four of its blocks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from napari_lpd.core.errors import LpdError, ModelError, one_line
from napari_lpd.models.backbones.known import published
from napari_lpd.models.backbones.source import MIT, NOTHING_GIVEN, TISSUE_MEAN, TISSUE_STD, Given, architecture_of
from napari_lpd.models.backbones.tokens import TokenMaps, is_vit
from napari_lpd.models.backbones.weights import build, completed, load, state_of

if TYPE_CHECKING:
    from napari_lpd.models.card import Architecture

STAGES = 4
MEDCLIP_MEAN, MEDCLIP_STD = 0.5862785803043838, 0.27950088968644304  # one grey level, of MedCLIP's preprocessing
_MEDCLIP_PROJECTION = "vision_model.projection_head.weight"
_UNSUPPORTED_OPTION = (TypeError, NotImplementedError, AssertionError)  # how timm's networks refuse an output_stride


class _WithStatistics(nn.Module):
    """Network with the mean and deviation of its input's three channels."""

    mean: Tensor
    std: Tensor
    precision: torch.dtype | None = None
    """Number format of the backbone's arithmetic (autocast); its output is always float32."""

    def arithmetic(self, device: torch.device) -> torch.autocast:
        """Return the context in which the backbone computes on `device`."""
        return torch.autocast(device.type, self.precision, enabled=self.precision is not None)

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W), RGB in 0..1, by the network's mean and deviation."""
        return (images - self.mean) / self.std


class Encoder(_WithStatistics):
    """Timm backbone with four feature maps, of RGB in 0..1, to which it applies its own input statistics.

    Args:
        backbone: timm network made with ``features_only=True``, or the maps of a ViT.
        strides: Input pixels per feature-map pixel, of the four stages.
        architecture: What builds the network again, and the mean and deviation of its input.
        channel_order: Order in which the backbone sees the channels.

    Attributes:
        widths: Channels of the four stages.
        strides: Input pixels per feature-map pixel.
        mean: (1, 3, 1, 1), in the backbone's channel order.
        std: (1, 3, 1, 1), in the backbone's channel order.
        period: Pixels by which an image moves so that its features move with it.
        architecture: As given, with the blocks that were chosen.
    """

    def __init__(
        self,
        backbone: nn.Module,
        strides: list[int],
        architecture: Architecture,
        channel_order: Literal["rgb", "bgr"] = "rgb",
    ) -> None:
        reverse = channel_order == "bgr"
        mean, std = architecture.mean, architecture.std
        super().__init__(mean[::-1] if reverse else mean, std[::-1] if reverse else std)
        self.reverse = reverse
        self.backbone = backbone
        self.architecture = architecture
        info: Any = getattr(backbone, "feature_info", None)
        self.widths: list[int] = info.channels()[-STAGES:] if info else [int(backbone.width)] * STAGES  # type: ignore[arg-type]
        self.strides = strides
        self.period = math.lcm(*strides, int(getattr(backbone, "patch", 1)))
        self._channels_last = getattr(backbone, "output_fmt", None) == "NHWC"

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W), RGB in 0..1, in the channel order of the backbone."""
        return super().normalise(images.flip(1) if self.reverse else images)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (B, 3, H, W), RGB in 0..1, to four features (B, widths[i], H / strides[i], W / strides[i])."""
        with self.arithmetic(images.device):
            features: list[Tensor] = self.backbone(self.normalise(images))[-STAGES:]
        features = [f.float() for f in features] if self.precision else features
        return [f.permute(0, 3, 1, 2) for f in features] if self._channels_last else features


def build_encoder(
    name: str,
    weights: str = "random",
    *,
    statistics: Literal["encoder", "tissue"] = "encoder",
    channel_order: Literal["rgb", "bgr"] = "rgb",
    architecture: Architecture | None = None,
    given: Given = NOTHING_GIVEN,
) -> Encoder:
    """Build an encoder with four feature maps, the last of stride 16 where the architecture allows it.

    Args:
        name: A published encoder, ``mit_b0``..``mit_b2``, any timm model with four or more feature stages that takes
            images of any size, a ViT, or ``hf-hub:`` or ``local-dir:`` and a place.
        weights: ``random``, ``embedded`` (only for the encoder that is installed with the package), ``hub`` (timm's
            download, or what the place in the name holds), or the path of a file.
        statistics: Mean and deviation of the input: the encoder's own, or those of H&E tissue (method.md §6).
        channel_order: Order in which the backbone sees the channels (L30); `Encoder` itself always takes RGB.
        architecture: From the card of a model: the network is built from that alone.
        given: What settings say of the network and its input.

    Raises:
        ModelError: unknown or unfit network, or weights that are missing or do not fit.
    """
    if name in MIT and weights == "hub":
        raise ModelError("MiT weights are NVIDIA's, non-commercial, and not on timm's hub: pass their file's path")
    state = state_of(weights, name)
    if architecture is None:
        architecture = completed(architecture_of(name, weights, given, statistics == "tissue"), state, weights)
    elif statistics == "tissue":  # older cards hold the encoder's own
        architecture = architecture.model_copy(update={"mean": TISSUE_MEAN, "std": TISSUE_STD})
    backbone: nn.Module
    if is_vit(architecture.name):
        vit = _create(name, weights, architecture, {})
        backbone = TokenMaps(vit, architecture.blocks)
        architecture, strides = architecture.model_copy(update={"blocks": backbone.blocks}), [backbone.stride] * STAGES
        parts: nn.Module = vit
    else:
        parts = backbone = _create(name, weights, architecture, {"features_only": True, "output_stride": 16})
        strides = _strides(backbone, name, architecture)
    if state:
        load(parts, state, weights, name)
    return Encoder(backbone, strides, architecture, channel_order)


def _strides(backbone: Any, name: str, architecture: Architecture) -> list[int]:
    """Return the strides of a network's four maps, and set that of PVTv2's last as the papers have it."""
    strides: list[int] = backbone.feature_info.reduction()[-STAGES:]
    if len(strides) < STAGES:
        raise ModelError(
            f"encoder {name!r} has {len(strides)} feature maps, wanted {STAGES}: choose another, e.g. resnet18"
        )
    if architecture.blocks:
        raise ModelError(f"encoder_blocks are of ViTs, and {name!r} is none: leave them out")
    if side := _fixed_size(backbone):
        raise ModelError(f"encoder {name!r} takes only images of {side[0]}×{side[1]}, wanted any size: e.g. pvt_v2_b1")
    if architecture.name.startswith("pvt_v2"):
        backbone.stages_3.downsample.proj.stride = (1, 1)
        return [4, 8, 16, 16]
    return strides


def _fixed_size(backbone: Any) -> tuple[int, int] | None:
    """Return the (height, width) of images that a network requires; None for any."""
    config = backbone.pretrained_cfg
    if not config.get("fixed_input_size"):
        return None
    size = getattr(getattr(backbone, "patch_embed", None), "img_size", None) or config["input_size"][1:]
    return int(size[0]), int(size[1])


class RegionEncoder(_WithStatistics):
    """Frozen image encoder: one vector per image, through a fixed linear projection (L15, P7).

    Always in evaluation mode and without trainable parameters; gradients flow through it to its input.

    Args:
        backbone: timm network made with ``num_classes=0``: images → (M, width).
        projection: (dim, width) matrix.
        mean: Mean of the input's channels, RGB, in 0..1.
        std: Their standard deviation.
        size: (height, width) that the backbone requires, or None for any.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projection: Tensor,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(mean, std)
        self.backbone = backbone
        dim, width = projection.shape
        self.projection = nn.Linear(width, dim, bias=False, device="meta")  # on meta: draws no random numbers
        self.projection.weight = nn.Parameter(projection.float())
        self.size = size
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> RegionEncoder:
        """Stay in evaluation mode, whatever `mode`: batch statistics and dropout are frozen too."""
        return super().train(False)

    def compute_in(self, precision: torch.dtype | None) -> None:
        """Compute in a number format, with the backbone's weights stored in it: frozen, they are cast once only."""
        self.precision = precision
        for part in self.backbone.modules():
            if precision is not None and isinstance(part, nn.Conv2d | nn.Linear):  # norms stay in float32
                part.to(precision)

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images (M, 3, H, W), 0 where masked, as vectors (M, dim), not normalised."""
        if self.size and images.shape[2:] != self.size:
            images = interpolate(images, size=self.size, mode="bilinear", align_corners=False)
        with self.arithmetic(images.device):
            features = self.backbone(images)
        vectors: Tensor = self.projection(features.float() if self.precision else features)
        return vectors

    def projection_state(self) -> dict[str, Tensor]:
        """Return the projection, ``weight`` (dim, width), to be stored with models trained against it."""
        return dict(self.projection.state_dict())


def build_region_encoder(
    name: str, weights: str, dim: int, seed: int = 42, given: Given = NOTHING_GIVEN
) -> RegionEncoder:
    """Build a frozen image encoder with a seeded projection.

    Args:
        name: Any timm image encoder: CNN, Swin, ViT, an image tower of CLIP; or as for `build_encoder`.
        weights: As for `build_encoder`; besides timm's names, MedCLIP's Swin, whose file brings its own projection
            and input statistics. ``random`` is seeded too.
        dim: Length of the vectors.
        seed: Seed of the projection, U(-1/√width, 1/√width) as nn.Linear's default.
        given: What settings say of the network and its input.

    Raises:
        ModelError: unknown or unfit network, weights that are missing or do not fit, or a `dim` other than MedCLIP's.
    """
    state = state_of(weights, name)
    medclip = state.get(_MEDCLIP_PROJECTION)
    if medclip is not None and not given.mean:
        given = given._replace(mean=(MEDCLIP_MEAN,) * 3, std=(MEDCLIP_STD,) * 3)
    architecture = completed(architecture_of(name, weights, given), state, weights)
    vit = {"dynamic_img_size": False} if is_vit(architecture.name) else {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone = _create(name, weights, architecture, {"num_classes": 0, **vit}).eval()
    if state:
        load(backbone, state, weights, name)
    size = _fixed_size(backbone)
    with torch.inference_mode():
        width = backbone(torch.zeros(1, 3, *(size or backbone.pretrained_cfg["input_size"][1:]))).shape[-1]
    projection = seeded_projection(dim, width, seed) if medclip is None else medclip
    if len(projection) != dim:
        raise ModelError(f"{weights}: MedCLIP's vectors have length {len(projection)}, not prototype_dim={dim}")
    return RegionEncoder(backbone, projection, architecture.mean, architecture.std, size)


def seeded_projection(dim: int, width: int, seed: int = 42) -> Tensor:
    """Draw a projection (dim, width) from U(-1/√width, 1/√width), as nn.Linear's default."""
    bound = 1 / math.sqrt(width)
    return torch.empty(dim, width).uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))


def _create(name: str, weights: str, architecture: Architecture, choices: dict[str, Any]) -> Any:
    """Build timm's network; without an output stride where it has none."""
    pretrained = _hub_name(name) if weights == "hub" else ""
    try:
        return build(architecture, pretrained, **choices)
    except LpdError:
        raise
    except Exception as error:  # timm and the hub's client raise many kinds here
        if isinstance(error, _UNSUPPORTED_OPTION) and choices.get("output_stride"):
            return _create(name, weights, architecture, {**choices, "output_stride": None})
        reason = one_line(str(error).partition("\n")[0] or type(error).__name__, 150)
        if pretrained:
            raise ModelError(
                f"encoder {name!r}: no weights from the hub ({reason}); pass the path of a weights file instead"
            ) from error
        raise ModelError(f"encoder {name!r}: timm cannot build it ({reason})") from error


def _hub_name(name: str) -> str:
    """Return the name under which timm finds the weights of an encoder."""
    known, row = published(name) or (name, None)
    if row is None or (":" in name and row.timm):
        return name
    if not row.timm:
        raise ModelError(
            f"encoder {name!r}: {row.hub} is not timm's repository: download its file of weights, and pass it"
            f" (--encoder {known} --encoder-weights FILE)"
        )
    return f"hf-hub:{row.hub}" if row.hub else row.name
