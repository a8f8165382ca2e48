"""The joint head: stages 2 to 4 of an encoder together, standardised, through necks; and what tells presence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, dropout2d, gelu, interpolate, normalize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.core.settings.training import ModelSettings
    from napari_lpd.models.encoder import Encoder

JOINED = (1, 2, 3)  # the stages, 0-based, that are joined
GRID = 2  # the one whose places they are brought to
HIDDEN = 128  # width of the presence scores' hidden layer
MIN_VARIANCE = 1e-5


class JointHead(nn.Module):
    """Standardise joined features, bring them through necks, and score the presence of classes.

    A neck is a 1×1 convolution, GELU, and another. Presence is told by the mean and deviation, over a tile's tissue,
    of some bounded channels of the necks' features: both follow from means, so that windows of a slide are scored as
    tiles are.

    Attributes:
        mean: (1, D, 1, 1) of the joined features' channels on the training tiles.
        deviation: (1, D, 1, 1) theirs.
        stride: Input pixels per place.
        width: Channels of all necks.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: ModelSettings, class_count: int, encoder: Encoder) -> None:
        super().__init__()
        self.necks, self.stride = settings.necks, encoder.strides[GRID]
        self.width = settings.necks * settings.neck_width
        self._strides = encoder.strides
        joined, gates = sum(encoder.widths[i] for i in JOINED), settings.presence_width
        self.register_buffer("mean", torch.zeros(1, joined, 1, 1))
        self.register_buffer("deviation", torch.ones(1, joined, 1, 1))
        self.first = nn.Conv2d(joined, self.width, 1)
        self.second = nn.Conv2d(self.width, self.width, 1, groups=self.necks)
        self.gate = nn.Conv2d(self.width, gates, 1)
        self.presence = nn.Sequential(nn.Linear(2 * gates, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, class_count))

    def join(self, features: Sequence[Tensor]) -> Tensor:
        """Bring an encoder's four features to the grid of stage 3 and join those of `JOINED`: (B, D, h, w)."""
        return torch.cat([self._on_grid(features[i], i, features[GRID].shape[2:]) for i in JOINED], dim=1)

    def _on_grid(self, features: Tensor, stage: int, size: torch.Size) -> Tensor:
        if (ratio := self._strides[GRID] // self._strides[stage]) > 1:
            features = avg_pool2d(features, ratio, ratio, ceil_mode=True, count_include_pad=False)
        if features.shape[2:] != size:  # an encoder of another stride, or of other sizes at the rim
            features = interpolate(features, size=list(size), mode="bilinear", align_corners=False)
        return features

    @torch.no_grad()
    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Take note of the channels' mean and deviation (D,)."""
        self.mean.copy_(mean.view(1, -1, 1, 1))
        self.deviation.copy_(deviation.view(1, -1, 1, 1))

    @torch.no_grad()
    def standardise_anew(self, mean: Tensor, deviation: Tensor) -> None:
        """Take note of other statistics (D,), and change the first convolution so that the output stays as it is."""
        weight, bias = self.first.weight, self.first.bias
        assert bias is not None
        mean, deviation = mean.to(weight).view(1, -1, 1, 1), deviation.to(weight).view(1, -1, 1, 1)
        bias += (weight * (mean - self.mean) / self.deviation).sum((1, 2, 3))
        weight *= deviation / self.deviation
        self.standardise(mean, deviation)

    def forward(self, joined: Tensor, dropout: float = 0.0) -> Tensor:
        """Bring joined features (B, D, h, w) through the necks: (B, width, h, w), neck after neck.

        In training a share of an image's channels is left out, so that no few of them decide.
        """
        seen = dropout2d((joined - self.mean) / self.deviation, dropout, self.training)
        features: Tensor = self.second(gelu(self.first(seen)))
        return features

    def unit(self, vectors: Tensor) -> Tensor:
        """Scale every neck's part of vectors (B, width, …) to unit length: cosines of all are means over necks then."""
        return normalize(vectors.unflatten(1, (self.necks, -1)), dim=2).flatten(1, 2)

    def gating(self, features: Tensor) -> Tensor:
        """Compute from the necks' features the channels and squares (B, 2G, h, w) whose means tell presence."""
        bounded = torch.tanh(self.gate(features))
        return torch.cat([bounded, bounded.square()], dim=1)

    def presence_logits(self, means: Tensor, dropout: float = 0.0) -> Tensor:
        """Score the presence of classes (B, C, …) by the means (B, 2G or more, …) of `gating` over tissue."""
        mean, squares = means.movedim(1, -1)[..., : 2 * self.gate.out_channels].chunk(2, dim=-1)
        deviation = (squares - mean.square()).clamp(min=MIN_VARIANCE).sqrt()
        first, activation, last = self.presence
        seen = nn.functional.dropout(torch.cat([mean, deviation], dim=-1), dropout)
        scores: Tensor = last(nn.functional.dropout(activation(first(seen)), dropout))
        return scores.movedim(-1, 1)
