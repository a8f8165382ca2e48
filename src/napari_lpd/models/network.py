"""The prototype network: one bank of k prototypes per class, compared with the features of four encoder stages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from napari_lpd.core.errors import ModelError
from napari_lpd.core.settings.training import arguments_of
from napari_lpd.models.backbones.source import Given
from napari_lpd.models.encoder import STAGES, Encoder, RegionEncoder, build_encoder, build_region_encoder
from napari_lpd.models.joint.head import JointHead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.core.settings.training import ModelSettings, TrainSettings
    from napari_lpd.models.card import Architecture, Card

INITIAL_SCALE = 1 / 0.07
MIN_LENGTH = 1e-12  # of a vector that is compared
STAGES_USED = (1, 2, 3)  # the stages, 0-based, whose maps make the CAM; stage 1 is untrained by default (L9)


def cosine_maps(features: Tensor, prototypes: Tensor) -> Tensor:
    """Compare `features` (B, D, h, w) with `prototypes` (N, D): cosines (B, N, h, w), LPD eq. 1 without τ."""
    return torch.einsum("bdhw,nd->bnhw", normalize(features, dim=1), normalize(prototypes, dim=1))


def merge_prototypes(scores: Tensor, k: int, how: Literal["mean", "soft"]) -> Tensor:
    """Merge the k prototypes of each class: (B, C·k, ...) → (B, C, ...).

    ``mean`` is the plain mean (training). ``soft`` weighs each by a softmax over the class's prototypes at that
    location, on scaled logits (the published "max" of inference; method.md §2).
    """
    grouped = scores.reshape(scores.shape[0], -1, k, *scores.shape[2:])
    if how == "mean":
        return grouped.mean(2)
    return (grouped * grouped.softmax(2)).sum(2)


def disagreement(logits: Tensor) -> Tensor:
    """Measure how much necks disagree about the class of a place: (M, B, C, h, w) class logits → (B, 1, h, w) in 0..1.

    The Jensen-Shannon divergence of their softmaxes, H(mean) - mean of H, over its maximum: 0 all alike.
    """
    shares = logits.softmax(2)
    divergence = _entropy(shares.mean(0), 1) - _entropy(shares, 2).mean(0)
    return (divergence / math.log(min(logits.shape[0], logits.shape[2]))).clamp(0, 1)[:, None]


def _entropy(shares: Tensor, dim: int) -> Tensor:
    """Compute Σ -p ln p, with operators that ONNX has."""
    return -(shares * shares.clamp(min=1e-12).log()).sum(dim)


class Maps(NamedTuple):
    """Output of the network for B images and N prototypes.

    Attributes:
        logits: Per used stage: (B, N, h_i, w_i) scaled cosines s_i · cos; of a joint head the same for every stage.
        features: What prototypes are compared with (B, D, h, w): stage 4, not normalised, or a joint head's necks.
        prototypes: The prototypes there (N, D), not normalised.
        gating: Of a joint head: (B, G, h, w), whose mean over tissue tells which classes are in it; of several necks
            their `disagreement` is the last channel.
    """

    logits: list[Tensor]
    features: Tensor
    prototypes: Tensor
    gating: Tensor | None = None

    @property
    def outputs(self) -> list[Tensor]:
        """All that a prediction needs: the maps, and what tells presence where the maps themselves do not."""
        return self.logits if self.gating is None else [*self.logits, self.gating]


class _Gated(nn.Module):
    """Network whose maps also tell which classes are in an image."""

    settings: ModelSettings
    k: int
    joint: JointHead | None

    def gating(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Choose from `Maps.outputs` (B, N, h, w) those whose means tell presence, merged where that commutes."""
        if self.joint is not None:
            return [outputs[-1], merge_prototypes(outputs[0], self.k, "mean")]
        chosen, how = outputs[-len(GATED_BY) :], self.settings.merge_train
        return [merge_prototypes(maps, self.k, how) for maps in chosen] if how == "mean" else [*chosen]

    def presence_logits(self, means: Sequence[Tensor]) -> Tensor:
        """Score the presence of classes by the means (B, G[, h, w]) of `gating`: (S, B, C[, h, w]), to be averaged."""
        if self.joint is not None:
            return (means[1] + self.joint.presence_logits(means[0]))[None]
        how = self.settings.merge_train
        return torch.stack([part if how == "mean" else merge_prototypes(part, self.k, how) for part in means])

    def presence(self, outputs: Sequence[Tensor]) -> Tensor:
        """Compute the probability of each class in whole images (B, C)."""
        return torch.sigmoid(self.presence_logits([maps.mean((2, 3)) for maps in self.gating(outputs)]).mean(0))


class LPD(_Gated):
    """Encoder, prototype bank, one adaptive layer and one scale per stage (method.md §2).

    The bank is a parameter where it learns and a buffer where it is fixed (clustered: PBIP; random: a control). With
    ``bank="linear"`` there are no prototypes but one linear classifier per stage: the plain CAM control. With a joint
    head the stages are one: what is said of the fourth holds for all.
    """

    prototypes: Tensor

    def __init__(self, settings: ModelSettings, class_count: int, encoder: Encoder) -> None:
        super().__init__()
        self.settings = settings
        self.k = settings.prototypes_per_class
        self.class_count = class_count
        self.encoder = encoder
        self.joint = JointHead(settings, class_count, encoder) if settings.head == "joint" else None
        widths = encoder.widths if self.joint is None else [self.joint.width]
        if settings.bank == "linear":
            self.classifiers = nn.ModuleList(nn.Conv2d(width, class_count, 1) for width in widths)
            self.register_buffer("scales", torch.full((STAGES,), INITIAL_SCALE))  # only for display as cosines
            return
        dim, hidden = settings.prototype_dim, int(settings.prototype_dim * settings.hidden_ratio)
        bank = torch.randn(class_count * self.k, dim)
        if settings.bank in ("learned", "seeded"):
            self.prototypes = nn.Parameter(bank)
        else:
            self.register_buffer("prototypes", normalize(bank, dim=1))
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, width)) for width in widths
        )
        for layer in self.adapters.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.scales = nn.Parameter(torch.full((STAGES,), INITIAL_SCALE))

    @property
    def prototype_count(self) -> int:
        """N = classes · prototypes per class."""
        return self.class_count * self.k

    @torch.no_grad()
    def fill_bank(self, prototypes: Tensor) -> None:
        """Put `prototypes` (N, D) into the bank."""
        self.prototypes.copy_(prototypes)

    def projected(self, stage: int) -> Tensor:
        """Project the bank into the feature space of a stage (0-based): (N, D_i), not normalised."""
        stage = stage if self.joint is None else 0
        if self.settings.bank == "linear":
            weight: Tensor = self.classifiers[stage].get_parameter("weight")
            return weight[:, :, 0, 0]
        if self.joint is not None:
            return self.joint.unit(self.adapters[stage](self.prototypes))
        return self.adapters[stage](self.prototypes)

    def stage_logits(self, features: Tensor, stage: int) -> Tensor:
        """Compute the scaled cosines (B, N, h, w) of a stage's features (B, D_i, h, w)."""
        if self.settings.bank == "linear":
            return self.classifiers[stage](features)
        projected = self.projected(stage)
        if self.settings.normalise_prototypes:
            return self.scales[stage] * cosine_maps(features, projected)
        return self.scales[stage] * torch.einsum("bdhw,nd->bnhw", normalize(features, dim=1), projected)

    def forward(self, images: Tensor, stages: Sequence[int] = (0, 1, 2, 3)) -> Maps:
        """Compute the maps of the requested stages (0-based) for images (B, 3, H, W), RGB in 0..1."""
        features = self.encoder(images)
        if self.joint is not None:
            return self.from_joined(self.joint.join(features), stages)
        logits = [self.stage_logits(features[i], i) for i in stages]
        return Maps(logits, features[-1], self.projected(STAGES - 1))

    def from_joined(self, joined: Tensor, stages: Sequence[int] = (STAGES - 1,)) -> Maps:
        """Compute the maps of a joint head from the encoder's joined features (B, D, h, w), `JointHead.join`."""
        assert self.joint is not None
        features = self.joint(joined)
        necks, gating = self.neck_logits(features), self.joint.gating(features)
        if len(necks) > 1:
            merged = merge_prototypes(necks.flatten(0, 1), self.k, self.settings.merge_predict)
            gating = torch.cat([gating, disagreement(merged.unflatten(0, necks.shape[:2]))], dim=1)
        return Maps([necks.mean(0)] * len(stages), self.joint.unit(features), self.projected(0), gating)

    def neck_logits(self, features: Tensor) -> Tensor:
        """Compute the scaled cosines of every neck's features (B, width, h, w) by themselves: (necks, B, N, h, w)."""
        assert self.joint is not None
        projected = self.projected(0).unflatten(1, (self.joint.necks, -1))
        if self.settings.bank == "linear":
            apart = features.unflatten(1, (self.joint.necks, -1))
            bias = self.classifiers[0].get_parameter("bias")[:, None, None]
            return self.joint.necks * torch.einsum("bmdhw,nmd->mbnhw", apart, projected) + bias
        apart = features.unflatten(1, (self.joint.necks, -1))
        length = apart.norm(dim=2).clamp(min=MIN_LENGTH).movedim(1, 0)[:, :, None]
        return self.scales[-1] * torch.einsum("bmdhw,nmd->mbnhw", apart, projected) / length


class Supervised(_Gated):
    """A segmenter trained on masks (stage 2): torchvision's DeepLabV3 head on the encoder's last stage.

    It replaces an `LPD`: its maps, the same for every stage, are class probabilities, one per class.
    """

    scales: Tensor

    def __init__(self, settings: ModelSettings, class_count: int, encoder: Encoder) -> None:
        super().__init__()
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead

        self.settings = settings
        self.k = 1
        self.class_count = self.prototype_count = class_count
        self.joint = None
        self.encoder = encoder
        self.head = DeepLabHead(encoder.widths[-1], class_count)
        self.register_buffer("scales", torch.ones(STAGES))

    def projected(self, stage: int) -> Tensor:
        """Return an empty bank (C, 0), as there are no prototypes."""
        del stage
        return self.scales.new_zeros(self.class_count, 0)

    def class_logits(self, images: Tensor) -> Tensor:
        """Compute class logits (B, C, H, W) for images (B, 3, H, W), RGB in 0..1."""
        size = [images.shape[2], images.shape[3]]
        return interpolate(self.head(self.encoder(images)[-1]), size=size, mode="bilinear", align_corners=False)

    def forward(self, images: Tensor, stages: Sequence[int] = (0, 1, 2, 3)) -> Maps:
        """Compute class probabilities, once per requested stage, for images (B, 3, H, W), RGB in 0..1."""
        features = self.encoder(images)[-1]
        probability = self.head(features).softmax(1)
        return Maps([probability for _ in stages], features, self.projected(STAGES - 1))


def network_of(card: Card) -> LPD | Supervised:
    """Build the network that a card describes, without weights, and without the hub.

    Raises:
        ModelError: its encoder is one of the hub, and the card does not hold its architecture.
    """
    settings, architecture = card.settings.model, card.encoder
    if ":" in settings.encoder and architecture is None:
        raise ModelError(
            f"its encoder {settings.encoder!r} is kept on a hub, and its card does not hold the architecture, so it"
            " cannot be built without the hub; train it anew with this version"
        )
    return new_network(settings, len(card.classes), "random", architecture)


def new_network(
    settings: ModelSettings, class_count: int, weights: str = "random", architecture: Architecture | None = None
) -> LPD | Supervised:
    """Build the network that `settings` describe, with the named weights in its encoder."""
    kind = Supervised if settings.bank == "supervised" else LPD
    return kind(settings, class_count, encoder_of(settings, weights, architecture))


def encoder_of(settings: ModelSettings, weights: str, architecture: Architecture | None = None) -> Encoder:
    """Build the encoder that `settings` describe, with the named weights, as `build_encoder`."""
    arguments = arguments_of(settings.encoder_arguments)
    return build_encoder(
        settings.encoder,
        weights,
        statistics=settings.input_statistics,
        channel_order=settings.channel_order,
        architecture=architecture,
        given=Given(arguments, settings.encoder_blocks, settings.input_mean, settings.input_std),
    )


def region_encoder_of(settings: TrainSettings) -> RegionEncoder:
    """Build the frozen encoder of regions that `settings` describe, with its weights."""
    arguments = arguments_of(settings.region_encoder_arguments)
    given = Given(arguments, (), settings.region_input_mean, settings.region_input_std)
    name, weights = settings.region_encoder, settings.region_encoder_weights
    return build_region_encoder(name, weights, settings.model.prototype_dim, given=given)


class LoadedModel(NamedTuple):
    """Network ready for prediction, with its card, its name (`card.model_name`) and its file's hash."""

    network: LPD | Supervised
    card: Card
    name: str
    hash: str
    device: torch.device


def output_stride(network: LPD | Supervised) -> int:
    """Return the pixels per pixel of the fused maps: the stride of the finest used stage."""
    if network.joint is not None:
        return network.joint.stride
    return math.gcd(*(network.encoder.strides[i] for i in STAGES_USED))


def used_stages(network: LPD | Supervised) -> list[int]:
    """List the indices of the used stages that are fused or gate, as a prediction computes them."""
    if network.joint is not None:
        return [len(STAGES_USED) - 1]
    fused = network.settings.stage_fusion
    return [i for i in range(len(STAGES_USED)) if fused[i] or i in GATED_BY]


def output_channels(network: LPD | Supervised) -> list[int]:
    """List the channels of each of the maps that a prediction computes, `Maps.outputs` of the used stages."""
    settings = network.settings
    gating = [] if network.joint is None else [2 * settings.presence_width + (settings.necks > 1)]
    return [network.prototype_count] * len(used_stages(network)) + gating


def image_scores(logits: Tensor, k: int, how: Literal["mean", "soft"] = "mean") -> Tensor:
    """Score whole images (B, C): prototype maps (B, C·k, h, w), averaged over locations, then merged."""
    return merge_prototypes(logits.mean((2, 3)), k, how)


GATED_BY = (1, 2)  # of the used stages, those whose scores tell whether a class is present
