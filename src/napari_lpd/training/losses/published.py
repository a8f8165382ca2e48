"""The published codes' loss terms, as released."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from napari_lpd.models.network import cosine_maps
from napari_lpd.training.losses.terms import pairwise_jeffreys

OFFICIAL_BACKGROUND = 0.2  # logit of the constant background plane of the published pseudo-mask (method.md §3.9)


def official_pseudo_mask(class_maps: Tensor) -> Tensor:
    """Label by argmax of a constant plane and raw class logits (B, C, h, w) → (B, h, w); published Ω (method.md §3.9).

    Returns:
        int64, 0 = background, c + 1 = class c.
    """
    plane = torch.full_like(class_maps[:, :1], OFFICIAL_BACKGROUND)
    return torch.cat([plane, class_maps], dim=1).argmax(1)


def official_head_diversity(features: Tensor, prototypes: Tensor, pseudo_mask: Tensor, k: int) -> Tensor:
    """Compute the diversity term of the published code's last version (method.md §4 "HEAD"; L2, L3, L5, L8).

    The wrong class's region (mask == c where the mask codes class c as c + 1), softmax twice, raw prototypes and raw
    features, images without a class counted as 0. Inert: e^{-J} stays at 0.98..1.

    Args:
        features: (B, D, h, w).
        prototypes: (C·k, D), raw.
        pseudo_mask: (B, h, w), 0 = background, c + 1 = class c.
        k: Prototypes per class.

    Returns:
        A scalar; zero, still joined to the graph, where the published code fails on a Python number.
    """
    cosines = cosine_maps(features.float(), prototypes.float())
    total = cosines.sum() * 0
    if k == 1:
        return total
    for image, mask in zip(cosines, pseudo_mask, strict=True):
        terms = []
        for c in range(len(prototypes) // k):
            inside = image[c * k : (c + 1) * k, mask == c]  # (k, |Ω|)
            if inside.shape[1]:
                v = inside.softmax(1).softmax(1)
                cross = torch.einsum("ux,wx->uw", v, (v + 1e-10).log())
                terms.append(torch.exp(-pairwise_jeffreys(cross[None])).mean())
        if terms:
            total = total + torch.stack(terms).mean()
    return total / len(features)


def official_first_commit_diversity(
    features: Tensor, prototypes: Tensor, pseudo_mask: Tensor, k: int, window: int = 7, min_mass: float = 0.05
) -> Tensor:
    """Compute the diversity term of the published code's first version (method.md §4 "First commit"; L4).

    Squared correlations of a class's smoothed cosine maps over its region, divided by the region's size twice: inert.

    Args:
        features: (B, D, h, w).
        prototypes: (C·k, D), raw.
        pseudo_mask: (B, h, w), 0 = background, c + 1 = class c.
        k: Prototypes per class.
        window: Edge of the smoothing window, in map pixels.
        min_mass: Share of the window that must lie in the region for a place to count.
    """
    cosines = cosine_maps(features.float(), prototypes.float())
    total = cosines.sum() * 0
    if k == 1:
        return total

    def box_mean(maps: Tensor) -> Tensor:
        return avg_pool2d(maps[None], window, stride=1, padding=window // 2)[0]

    for image, mask in zip(cosines, pseudo_mask, strict=True):
        terms = []
        for c in range(len(prototypes) // k):
            inside = (mask == c + 1).to(image.dtype)[None]
            mass = box_mean(inside)
            kept = mass[0] > min_mass
            if inside.any() and kept.sum() >= 2:
                smooth = box_mean(image[c * k : (c + 1) * k] * inside) / mass.clamp(min=1e-6)
                columns = smooth[:, kept]  # (k, n)
                columns = normalize(columns - columns.mean(1, keepdim=True), dim=1)
                gram = columns @ columns.T / columns.shape[1]
                off_diagonal = gram - torch.diag_embed(gram.diagonal())
                terms.append((off_diagonal**2).sum() / (k * (k - 1)))
        if terms:
            total = total + torch.stack(terms).mean()
    return total / len(features)
