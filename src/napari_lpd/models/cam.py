"""From cosine maps to class maps and label scores: merge, scale, fuse, gate, background; pure functions.

Slides, images, tiles and previews are labelled by these functions alone; only the gate differs. An absent class is
switched off by `gate` alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from napari_lpd.core.labelling.rule import LEAST, Evidence, presence_bytes, unit
from napari_lpd.models.network import LPD, LoadedModel, Supervised, merge_prototypes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_lpd.core.labelling.rule import Rule
    from napari_lpd.core.settings.prediction import PredictSettings


def class_presence(network: LPD | Supervised, gating: Sequence[Tensor], window: int, counted: Tensor) -> Tensor:
    """Score the presence of each class around every location.

    This is the score of a tile in training (by means over the tile), computed over the tissue in a window of a training
    tile's size around every location.

    Args:
        network: Says how presence follows from means.
        gating: Its gating maps: (G, h, w) each.
        window: Edge of the window in map pixels, odd.
        counted: (h, w) bool, the locations that count: tissue.

    Returns:
        (C, h, w) in 0..1.
    """
    share = _window_mean(counted[None].float(), window).clamp(min=1e-6)
    means = [(_window_mean(maps * counted, window) / share)[None] for maps in gating]
    return torch.sigmoid(network.presence_logits(means).mean(0))[0]


def _window_mean(maps: Tensor, window: int) -> Tensor:
    """Average (N, h, w) in a window around each location; values outside count as 0."""
    rows = avg_pool2d(maps[None], (window, 1), 1, (window // 2, 0))
    return avg_pool2d(rows, (1, window), 1, (0, window // 2))[0]


def class_maps(network: LPD | Supervised, logits: Tensor, prototypes: Sequence[int] | None = None) -> Tensor:
    """Merge the scaled cosines (…, C·k, h, w) of every class's prototypes: (…, C, h, w), positive part.

    Args:
        network: Says how prototypes are merged in prediction.
        logits: Of one stage; with or without a batch axis.
        prototypes: Numbers within a class, to merge these alone; None: all.
    """
    batched = logits if logits.ndim == 4 else logits[None]
    count = network.k if prototypes is None else len(prototypes)
    if prototypes is not None:
        batched = batched.unflatten(1, (-1, network.k))[:, :, list(prototypes)].flatten(1, 2)
    merged = merge_prototypes(batched, count, network.settings.merge_predict)
    merged = merged.clamp(min=0) if network.joint is None else merged.sigmoid()
    return merged if logits.ndim == 4 else merged[0]


def scale_maps(maps: Tensor, scale: Sequence[float]) -> Tensor:
    """Scale class maps (…, C, h, w) to 0..1 by one constant per class from the training tiles, the same everywhere."""
    levels = torch.tensor(scale, device=maps.device)[:, None, None]
    return (maps.clamp(min=0) / levels).clamp(max=1)


def fuse(stages: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Sum the scaled class maps (C, h, w) in 0..1 of the used stages with their weights."""
    return torch.stack([weight * maps for weight, maps in zip(weights, stages, strict=True)]).sum(0)


def fuse_upsampled(stages: Sequence[Tensor], weights: Sequence[float], size: Sequence[int]) -> Tensor:
    """Upsample the scaled class maps (…, C, h_i, w_i) of stages with a weight to `size` (H, W), and fuse them."""
    weighted = [(maps, weight) for maps, weight in zip(stages, weights, strict=True) if weight]
    batched = [maps if maps.ndim == 4 else maps[None] for maps, _ in weighted]
    fine = [interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False) for maps in batched]
    fused = fuse(fine, [weight for _, weight in weighted])
    return fused if stages[0].ndim == 4 else fused[0]


def gate(fused: Tensor, present: Tensor) -> Tensor:
    """Set absent classes of fused maps (…, C, h, w) to -inf, so that they can never win; `present` broadcasts."""
    return fused.masked_fill(~present, -torch.inf)


def background(fused: Tensor, power: float) -> Tensor:
    """Compute the score of "none of the classes": (1 - max_c F_c)^power (method.md §7), (h, w)."""
    return (1 - fused.amax(-3).clamp(0, 1)) ** power


def with_background(gated: Tensor, power: float) -> Tensor:
    """Put the background's score before those of the classes: (C, h, w) → (C + 1, h, w)."""
    return torch.cat([background(gated, power)[None], gated])


def evidence(
    stages: Mapping[int, Tensor],
    presence: Tensor,
    levels: Sequence[Sequence[float]],
    model: LoadedModel,
    settings: PredictSettings,
) -> Evidence:
    """Compute from blended cosine maps what the model says of map pixels (C, h, w), in bytes: the labels' only source.

    Args:
        stages: (C·k, h, w) scaled cosines of the used stages that are needed, by index.
        presence: (C, h, w) from `class_presence`.
        levels: (3, C) level that counts as 1 in the class maps.
        model: Says how prototypes are merged and stages fused, and from which score a class is present.
        settings: Threshold of the gate.
    """
    weights = {i: weight for i, weight in enumerate(model.network.settings.stage_fusion) if weight}
    scaled = [scale_maps(class_maps(model.network, stages[i]), levels[i]) for i in weights]
    fused = fuse(scaled, list(weights.values())).float().clamp(0, 1).cpu().numpy()
    scores = np.rint(LEAST + fused * (255 - LEAST)).astype(np.uint8)
    if settings.normalise == "benchmark":
        return Evidence(scores, np.full_like(scores, 255))
    calibrated = [settings.presence] * len(scores) if settings.presence else model.card.presence
    thresholds = np.array(calibrated, np.float32)[:, None, None]
    return Evidence(scores, presence_bytes(presence.float().cpu().numpy(), thresholds))


def label_scores(found: Evidence, rule: Rule) -> Tensor:
    """Compute label scores (C + 1, h, w); index 0 is none of the classes, an absent class has -inf."""
    scores = torch.from_numpy(unit(found.scores))
    return with_background(gate(scores, torch.from_numpy(rule.present(found))), rule.background_power)


def probabilities(scores: Tensor, temperature: float = 1.0) -> Tensor:
    """Convert scores (L, …) to shares of their sum, of s^(1 / temperature); an absent class (-inf) has 0."""
    positive = scores.clamp(min=0) ** (1 / temperature)
    return positive / positive.sum(0).clamp(min=1e-12)


def uncertainty(scores: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the entropy of the labels' shares over its maximum: (L, …) → (…) in 0..1."""
    entropy: Tensor = torch.special.entr(probabilities(scores, temperature)).sum(0)
    return entropy / math.log(len(scores))


def unsureness(network: LPD | Supervised, scores: Tensor, gating: Tensor, temperature: float = 1.0) -> Tensor:
    """Say how unsure a label is: the `uncertainty` of its scores, or how much several necks disagree, if that is more.

    Args:
        network: Says whether there are several necks.
        scores: (L, h, w) from `label_scores`.
        gating: (G, h, w), the last of `Maps.outputs`.
        temperature: As for `uncertainty`.
    """
    unsure = uncertainty(scores, temperature)
    several = network.joint is not None and network.joint.necks > 1
    return torch.maximum(unsure, gating[-1]) if several else unsure


def stretch_tile_maps(maps: Tensor, k: int) -> Tensor:
    """Stretch every class's maps of one tile (C·k, h, w) on a common scale, so that their mean spans 0..1.

    The published per-tile normalisation: it makes seams, and serves for comparison (``normalise=benchmark``).
    """
    grouped = maps.unflatten(0, (-1, k))
    means = grouped.mean(1).clamp(min=0)
    low, high = means.amin((1, 2)), means.amax((1, 2))
    return ((grouped - low[:, None, None, None]) / (high - low).clamp(min=1e-6)[:, None, None, None]).flatten(0, 1)


def upsampled(scores: Tensor, stride: int) -> Tensor:
    """Upsample scores (L, h, w) bilinearly; -inf counts as a large negative score, so a gated class cannot win."""
    return interpolate(scores.clamp(min=-1e4)[None], scale_factor=stride, mode="bilinear", align_corners=False)[0]
