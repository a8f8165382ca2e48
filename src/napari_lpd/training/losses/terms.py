"""The training losses: pure functions of tensors.

Numbers L…, P… refer to the lists of discrepancies in docs/explanation/method.md.

The total is L_cls + λ_sim · L_sim + λ_div · L_div: image-level classification; contrast of the tissue that a prototype
cuts out of an image with what it leaves; diversity of a class's prototypes. Published variants stand beside defaults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate, log_softmax, normalize, softplus

from napari_lpd.models.network import cosine_maps, merge_prototypes

if TYPE_CHECKING:
    from collections.abc import Sequence


def classification_loss(
    stage_scores: Sequence[Tensor], labels: Tensor, weights: Sequence[float], known: Tensor | None = None
) -> Tensor:
    """Σ_i w_i · BCE(scores_i, labels): LPD eq. 2 with stage weights (L9).

    Args:
        stage_scores: Per stage (B, C) logits.
        labels: (B, C) in {0, 1}.
        weights: One weight per stage.
        known: (B, C) weights of the labels (`pixels.known_weight`); None: all alike.
    """
    terms = [
        weight * binary_cross_entropy_with_logits(scores, labels, known)
        for scores, weight in zip(stage_scores, weights, strict=True)
    ]
    return torch.stack(terms).sum()


class Regions(NamedTuple):
    """M regions to contrast, in row-major order.

    Attributes:
        images: (M,) index of the image each is cut from.
        channels: (M,) index of the map that cuts it out: a prototype, or a class.
        own: (M, N) bool, the prototypes that the region belongs to.
        others: (M, N) bool, the prototypes that it is told from.
    """

    images: Tensor
    channels: Tensor
    own: Tensor
    others: Tensor

    def take(self, chosen: Tensor) -> Regions:
        """Select the regions at the indices, or of the mask, `chosen`."""
        return Regions(*(part[chosen] for part in self))

    def to(self, device: torch.device) -> Regions:
        """Move the regions to another device."""
        return Regions(*(part.to(device, non_blocking=True) for part in self))


def responding_prototypes(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Prototypes of present classes that respond more than their class's mean (method.md §3.2): (B, C·k) bool.

    Args:
        scores: (B, C·k) stage-4 scores of the images.
        labels: (B, C) in {0, 1}.
        k: Prototypes per class; with k = 1 every present class's prototype is taken (L40).
    """
    present = labels.repeat_interleave(k, dim=1) > 0
    if k == 1:
        return present
    return present & (scores > merge_prototypes(scores, k, "mean").repeat_interleave(k, dim=1))


def prototype_regions(responding: Tensor, k: int, negatives: Literal["other-classes", "all"]) -> Regions:
    """Cut one region per responding prototype (B, C·k), apart from other classes' or all others' (L18)."""
    images, prototypes = responding.nonzero(as_tuple=True)
    index = torch.arange(responding.shape[1], device=responding.device)
    own = index[None] == prototypes[:, None]
    same = (index // k)[None] == (prototypes // k)[:, None]
    return Regions(images, prototypes, own, ~own if negatives == "all" else ~same)


def class_map_regions(labels: Tensor, k: int) -> Regions:
    """Cut one region per present class (L11, the papers' form): it belongs to all prototypes of its class."""
    images, classes = (labels > 0).nonzero(as_tuple=True)
    index = torch.arange(labels.shape[1] * k, device=labels.device)
    own = (index // k)[None] == classes[:, None]
    return Regions(images, classes, own, ~own)


def to_unit_range(maps: Tensor) -> Tensor:
    """Positive part of each map (..., h, w), divided by the map's own maximum: in [0, 1] (L12)."""
    positive = maps.clamp(min=0)
    return positive / positive.amax((-2, -1), keepdim=True).clamp(min=1e-6)


def split_regions(
    images: Tensor,
    maps: Tensor,
    threshold: Tensor,
    rescale: bool = False,
) -> tuple[Tensor, Tensor]:
    """Foreground A·X·mask and background (1 - A)·X·(1 - mask), mask = A ≥ threshold (PBIP eqs. 4, 5).

    Args:
        images: (M, 3, H, W), zero where nothing is to be seen (the frozen encoder's own normalisation, L14).
        maps: (M, H, W), A.
        threshold: (M,).
        rescale: Stretch each product to 0..1 per image and colour channel before it is masked (PBIP's code).
    """
    weight = maps[:, None]
    mask = (weight >= threshold[:, None, None, None]).to(weight.dtype)
    products = (weight * images, (1 - weight) * images)
    if rescale:
        products = (_stretched(products[0]), _stretched(products[1]))
    return products[0] * mask, products[1] * (1 - mask)


def _stretched(images: Tensor) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return (images - low) / (high - low + 1e-8)


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample (B, N, h, w) to (B, N, *size), bilinearly with aligned corners, as the published code does."""
    return interpolate(maps, size=size, mode="bilinear", align_corners=True)


def cut_regions(
    images: Tensor, maps: Tensor, regions: Regions, alpha: float, form: Literal["unit", "raw", "rescaled"]
) -> tuple[Tensor, Tensor]:
    """Foreground and background images (M, 3, H, W) of `regions`.

    Args:
        images: (B, 3, H, W), normalised for the frozen encoder.
        maps: (B, N, h, w): logits, or fused maps in 0..1.
        regions: The M regions; their channels index `maps`.
        alpha: α, the share of the maximum from which a place is foreground.
        form: ``unit``: each map in 0..1, thresholded at α of its own maximum (L12, L13). ``raw`` and ``rescaled``:
            as published, thresholded at α of the image's maximum over all maps, the product rescaled or not.
    """
    size = (images.shape[2], images.shape[3])
    if form == "unit":
        chosen = upsample(to_unit_range(maps[regions.images, regions.channels])[:, None], size)[:, 0]
        threshold = alpha * chosen.amax((1, 2))
    else:
        large = upsample(maps, size)
        chosen = large[regions.images, regions.channels]
        threshold = image_thresholds(large, alpha)[regions.images]
    return split_regions(images[regions.images], chosen, threshold.detach(), rescale=form == "rescaled")


def weighted_means(features: Tensor, maps: Tensor, regions: Regions, alpha: float) -> tuple[Tensor, Tensor]:
    """Foreground and background of `regions` in the features themselves: means weighted by the map, and by the rest.

    Args:
        features: (B, D, h, w).
        maps: (B, N, h, w) logits.
        regions: The M regions; their channels index `maps`.
        alpha: α, the share of a map's maximum from which a place is foreground.

    Returns:
        (M, D) each.
    """
    weight = to_unit_range(maps)
    inside = (weight >= alpha).to(weight.dtype)
    parts = [part.flatten(2) for part in (weight * inside, (1 - weight) * (1 - inside))]
    weights = torch.cat([part / part.sum(2, keepdim=True).clamp(min=1e-6) for part in parts], dim=1)
    means = (weights @ features.flatten(2).transpose(1, 2)).chunk(2, dim=1)  # of all maps: less than copying features
    foreground, background = (part[regions.images, regions.channels] for part in means)
    return foreground, background


def image_thresholds(maps: Tensor, alpha: float) -> Tensor:
    """Compute α of an image's maximum over all its maps (B, N, h, w) → (B,), as published (method.md §3.4; L13)."""
    return alpha * maps.amax((1, 2, 3))


class Contrast(NamedTuple):
    """The two parts of the contrastive loss, unweighted."""

    foreground: Tensor
    background: Tensor


def contrastive_loss(
    embedded: tuple[Tensor, Tensor],
    bank: Tensor,
    regions: Regions,
    temperature: float,
    form: Literal["infonce", "pooled", "sums"] = "infonce",
) -> Contrast:
    """Contrast region embeddings with the prototype bank (method.md §3.8, §8; all vectors of unit length; float32).

    Args:
        embedded: (M, D) embeddings of the foreground and of the background regions.
        bank: (N, D) raw prototypes.
        regions: Which prototypes each region belongs to and is told from.
        temperature: T.
        form: ``infonce``: mean over regions (LPD). ``pooled``: ratio of sums over the batch (PBIP's code, P9).
            ``sums``: similarities are summed (foreground) or averaged (background) first (PBIP eqs. 9-12).
    """
    unit = normalize(bank.float(), dim=1)
    foreground, background = (normalize(part.float(), dim=1) @ unit.T / temperature for part in embedded)
    if form == "sums":
        return _summed_contrast(foreground, background, regions)
    own = [logits.masked_fill(~regions.own, -torch.inf) for logits in (foreground, background)]
    others = [logits.masked_fill(~regions.others, -torch.inf).logsumexp(1) for logits in (foreground, background)]
    if form == "pooled":
        return pooled_contrast(own[0].logsumexp(1), others[0], own[1].logsumexp(1), others[1], regions.others.sum(1))
    return Contrast(
        _mean_where(softplus(others[0][:, None] - foreground), regions.own),
        _mean_where(softplus(background - others[1][:, None]), regions.own),
    )


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum()


def pooled_contrast(fg_own: Tensor, fg_others: Tensor, bg_own: Tensor, bg_others: Tensor, count: Tensor) -> Contrast:
    """Ratios of sums over the batch, as PBIP's code computes them (method.md §8); all inputs (M,) in log space.

    FG = -log(Σ e^own / Σ (e^own + Σ_q e^other)); BG = -log(Σ mean_q e^other / Σ (mean_q e^other + e^own)).
    """
    mean_others = bg_others - count.to(bg_others.dtype).log()
    return Contrast(
        torch.logaddexp(fg_own, fg_others).logsumexp(0) - fg_own.logsumexp(0),
        torch.logaddexp(mean_others, bg_own).logsumexp(0) - mean_others.logsumexp(0),
    )


def _summed_contrast(foreground: Tensor, background: Tensor, regions: Regions) -> Contrast:
    """PBIP eqs. 9-12: a region's own class against all others; own is the whole class whatever cut the region out."""
    own, others = (~regions.others).to(foreground.dtype), regions.others.to(foreground.dtype)
    fg_margin = (foreground * others).sum(1) - (foreground * own).sum(1)
    bg_margin = (background * own).sum(1) / own.sum(1) - (background * others).sum(1) / others.sum(1)
    return Contrast(softplus(fg_margin).mean(), softplus(bg_margin).mean())


def class_regions(class_maps: Tensor, labels: Tensor, background: float = 0.2) -> Tensor:
    """Ω_c: where each present class is the strongest on its own scale (L7).

    Args:
        class_maps: (B, C, h, w) merged logits.
        labels: (B, C); absent classes get no region.
        background: Share of a class's own maximum below which a place belongs to no class.

    Returns:
        (B, C, h, w) bool, at most one class per place.
    """
    relative = to_unit_range(class_maps) * labels[:, :, None, None]
    best = relative.argmax(1, keepdim=True)
    is_best = torch.zeros_like(relative, dtype=torch.bool).scatter_(1, best, True)
    return is_best & (relative > background)


def diversity_loss(
    features: Tensor, prototypes: Tensor, regions: Tensor, temperature: float, centred: bool = False
) -> Tensor:
    """Penalty on prototypes of a class that look at the same places: LPD eqs. 3-5.

    v_u = softmax over Ω_c of cos(f(x), p_u) / τ; J = Σ_x (v_u - v_w)(log v_u - log v_w); the loss is the mean of
    exp(-J) over pairs u < w, then over all (image, class) pairs with two or more places. Computed in float32.

    A network knows by the padding at the rims where in a tile it is, and telling prototypes apart by that alone
    satisfies the equations. `centred` takes that way out away: from every cosine its mean at the same place of the
    tile, over the batch's images of the class, is taken off. A class that is in one image only gives no term then.

    Args:
        features: (B, D, h, w).
        prototypes: (C·k, D), projected to the features' space (L5).
        regions: (B, C, h, w) bool, Ω_c of each image.
        temperature: τ; the paper uses 1, our default is 0.07 (L6).
        centred: Compare what is left of the cosines after their mean tile.

    Returns:
        A scalar in [0, 1]; zero, still joined to the graph, when k = 1 or no class has a region.
    """
    features, prototypes = features.float(), prototypes.float()
    k = prototypes.shape[0] // regions.shape[1]
    cosines = cosine_maps(features, prototypes).reshape(*regions.shape[:2], k, -1)  # (B, C, k, h·w)
    inside = regions.flatten(2)  # (B, C, h·w)
    valid = inside.sum(2) >= 2
    if centred:
        held = valid.to(cosines.dtype)[:, :, None, None]
        count = held.sum(0)
        cosines = cosines - (cosines * held).sum(0) / count.clamp(min=1)
        valid = valid & (count.flatten() >= 2)
    if k == 1:
        return cosines.sum() * 0
    omega = inside[:, :, None]  # (B, C, 1, h·w)
    log_v = log_softmax((cosines / temperature).masked_fill(~omega, -1e9), dim=3)
    v = log_v.exp() * omega
    cross = torch.einsum("bcux,bcwx->bcuw", v, log_v.masked_fill(~omega, 0)).flatten(0, 1)
    alike = torch.exp(-pairwise_jeffreys(cross)).mean(1)  # (B·C,); 1 where there is no region
    return (alike * valid.flatten()).sum() / valid.sum().clamp(min=1)  # nothing here makes the CPU wait for a GPU


def pairwise_jeffreys(cross: Tensor) -> Tensor:
    """Σ_x v_u log v_w, (P, k, k) → J of every pair u < w, (P, k(k - 1)/2)."""
    own = cross.diagonal(dim1=1, dim2=2)
    jeffreys = own[:, :, None] + own[:, None, :] - cross - cross.transpose(1, 2)
    first, second = torch.triu_indices(cross.shape[1], cross.shape[1], offset=1, device=cross.device)
    return jeffreys[:, first, second]
