"""Learning from what is known alone: painted pixels, and the presence of classes of which somebody has spoken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, pad

from napari_lpd.models.network import LPD, STAGES_USED, merge_prototypes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_lpd.models.joint.tiles import FeatureTiles


def known_weight(known: Tensor | None) -> Tensor | None:
    """Weigh presence labels (B, C) for a mean over those that are known alone; None where all are."""
    if known is None:
        return None
    return known * (known.numel() / known.sum().clamp(min=1))


def pixel_entropy(maps: Tensor, wanted: Tensor) -> Tensor:
    """Partial cross-entropy of painted places (Tang et al. 2018), with none of the classes as one more label.

    That label's logit is 0, where the map of a class says one half: to be labelled, a class has to beat it, too.

    Args:
        maps: Logits of the classes, (P, C).
        wanted: Share of a place that is painted with none of the classes, and with each: (P, 1 + C).

    Returns:
        Of each place (P,), as much as it is painted.
    """
    return cross_entropy(pad(maps, (1, 0)), wanted, reduction="none")


class PaintedPlaces:
    """The painted places of training tiles, as features of a frozen encoder; every step looks at some of them.

    Args:
        tiles: The tiles, of which features are kept.
        device: Where they are wanted.

    Attributes:
        mask: (n, h, w) bool, the places of each tile that are painted, as far as tiles are.
    """

    MOST = 512  # places of a step

    def __init__(self, tiles: FeatureTiles, device: torch.device) -> None:
        features, wanted = [], []
        self.mask: dict[int, Tensor] = {}
        for index in tiles.tiles.painted:
            shares = tiles.painted_in(index)
            assert shares is not None
            painted = shares.sum(2) > 0
            self.mask[index] = torch.from_numpy(painted).to(device)
            features.append(torch.from_numpy(tiles.of(index)[painted]))
            wanted.append(torch.from_numpy(shares[painted]))
        self._features, self._wanted = torch.cat(features).to(device), torch.cat(wanted).to(device)
        self._weights = (self._wanted / self._wanted.sum(0).clamp(min=1e-6)).sum(1) / self._wanted.sum(1)

    def __len__(self) -> int:
        return len(self._features)

    def loss(self, network: LPD, dropout: float, generator: torch.Generator) -> Tensor:
        """Compute the mean over places, and necks, in which every label counts alike."""
        assert network.joint is not None
        count = len(self._features)
        order = torch.randperm(count, generator=generator) if count > self.MOST else torch.arange(count)
        chosen = order[: self.MOST].to(self._features.device, non_blocking=True)
        joined = self._features[chosen].float()[:, :, None, None]
        logits = network.neck_logits(network.joint(joined, dropout))[..., 0, 0]
        merged = merge_prototypes(logits.flatten(0, 1), network.k, network.settings.merge_train)
        wanted, weights = self._wanted[chosen], self._weights[chosen]
        found = pixel_entropy(merged, wanted.repeat(len(logits), 1)).unflatten(0, (len(logits), -1))
        return (found * weights).sum(1).mean() / (wanted.sum(1) * weights).sum()


def painted_entropy(network: LPD, logits: Mapping[int, Tensor], painted: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropy of the fused class maps at painted pixels.

    Args:
        network: Says how prototypes are merged and stages fused.
        logits: (B, C·k, h_i, w_i) of the stages that are fused, by index.
        painted: (B, H, W) int64: -1, 0 none of the classes, c + 1 class c.

    Returns:
        The sum and the number of painted pixels of every image, (B,) each.
    """
    fused = fused_logits(network, logits, painted.shape[1:])
    found = cross_entropy(pad(fused, (0, 0, 0, 0, 1, 0)), painted, ignore_index=-1, reduction="none")
    return found.sum((1, 2)), (painted >= 0).sum((1, 2)).to(found)


def fused_logits(network: LPD, logits: Mapping[int, Tensor], size: Sequence[int]) -> Tensor:
    """Fuse the class maps of stages, `logits` as in `painted_entropy`, at `size` (H, W): (B, C, H, W)."""
    merged = (
        weight * interpolate(merge_prototypes(logits[i], network.k, network.settings.merge_train), size=list(size),
                             mode="bilinear", align_corners=False)
        for i, weight in zip(STAGES_USED, network.settings.stage_fusion, strict=True)
        if weight
    )  # fmt: skip
    return torch.stack([*merged]).sum(0)


def fused_stages(fusion: Sequence[float]) -> list[int]:
    """List the stages, 0-based, that are fused with a weight."""
    return [i for i, weight in zip(STAGES_USED, fusion, strict=True) if weight]
