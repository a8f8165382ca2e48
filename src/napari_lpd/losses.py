"""The training losses: pure functions of tensors. Numbers L… refer to the list of discrepancies in docs/method.md.

The total is L_cls + λ_div · L_div; the foreground/background contrastive term has its place here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from napari_lpd.model import cosine_maps, merge_prototypes

if TYPE_CHECKING:
    from collections.abc import Sequence


def image_scores(logits: Tensor, k: int) -> Tensor:
    """Class scores of whole images: prototype maps (B, C·k, h, w) → mean over place and prototypes (B, C)."""
    return merge_prototypes(logits.mean((2, 3)), k, "mean")


def classification_loss(stage_scores: Sequence[Tensor], labels: Tensor, weights: Sequence[float]) -> Tensor:
    """Σ_i w_i · BCE(scores_i, labels): LPD eq. 2 with stage weights (L9).

    Args:
        stage_scores: Per stage (B, C) logits.
        labels: (B, C) in {0, 1}.
        weights: One weight per stage.
    """
    terms = [
        weight * binary_cross_entropy_with_logits(scores, labels)
        for scores, weight in zip(stage_scores, weights, strict=True)
    ]
    return torch.stack(terms).sum()


def class_regions(class_maps: Tensor, labels: Tensor, background: float = 0.2) -> Tensor:
    """Ω_c: where each present class is the strongest on its own scale (L7).

    Args:
        class_maps: (B, C, h, w) merged logits.
        labels: (B, C); absent classes get no region.
        background: Share of a class's own maximum below which a place belongs to no class.

    Returns:
        (B, C, h, w) bool, at most one class per place.
    """
    positive = class_maps.clamp(min=0)
    relative = positive / positive.amax((2, 3), keepdim=True).clamp(min=1e-6)
    relative = relative * labels[:, :, None, None]
    best = relative.argmax(1, keepdim=True)
    is_best = torch.zeros_like(relative, dtype=torch.bool).scatter_(1, best, True)
    return is_best & (relative > background)


def diversity_loss(features: Tensor, prototypes: Tensor, regions: Tensor, temperature: float) -> Tensor:
    """Penalty on prototypes of a class that look at the same places: LPD eqs. 3-5.

    v_u = softmax over Ω_c of cos(f(x), p_u) / τ; J = Σ_x (v_u - v_w)(log v_u - log v_w); the loss is the mean of
    exp(-J) over pairs u < w, then over all (image, class) pairs with two or more places. Computed in float32.

    Args:
        features: (B, D, h, w).
        prototypes: (C·k, D), projected to the features' space (L5).
        regions: (B, C, h, w) bool, Ω_c of each image.
        temperature: τ; the paper uses 1, our default is 0.07 (L6).

    Returns:
        A scalar in [0, 1]; zero, still joined to the graph, when k = 1 or no class has a region.
    """
    features, prototypes = features.float(), prototypes.float()
    k = prototypes.shape[0] // regions.shape[1]
    cosines = cosine_maps(features, prototypes).reshape(*regions.shape[:2], k, -1)  # (B, C, k, h·w)
    inside = regions.flatten(2)  # (B, C, h·w)
    valid = inside.sum(2) >= 2
    if k == 1 or not valid.any():
        return cosines.sum() * 0
    omega = inside[valid][:, None]  # (P, 1, h·w), P valid (image, class) pairs
    log_v = log_softmax((cosines[valid] / temperature).masked_fill(~omega, -1e9), dim=2)
    v = log_v.exp() * omega
    cross = torch.einsum("pux,pwx->puw", v, log_v.masked_fill(~omega, 0))
    own = cross.diagonal(dim1=1, dim2=2)
    jeffreys = own[:, :, None] + own[:, None, :] - cross - cross.transpose(1, 2)
    first, second = torch.triu_indices(k, k, offset=1, device=features.device)
    return torch.exp(-jeffreys[:, first, second]).mean()
