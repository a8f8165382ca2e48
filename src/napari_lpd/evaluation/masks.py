"""Label one image with a model: views, gates, class probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from napari_lpd.models.cam import background, scale_maps
from napari_lpd.models.compute import forward_pass, used_stages
from napari_lpd.models.network import LoadedModel, image_scores, merge_prototypes, presence_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_lpd.core.settings.evaluation import EvaluateSettings
    from napari_lpd.core.settings.prediction import Refiner

BRIGHTNESS = (0.9, 1.0, 1.1)  # factors of the published views, on the normalised image (L29)


class Views(NamedTuple):
    """Views of one image that are scored and averaged: mirrored or not, and a contrast factor."""

    flips: tuple[bool, ...]
    factors: tuple[float, ...]


VIEWS = {
    "one": Views((False,), (1.0,)),
    "flips": Views((False, True), (1.0,)),
    "official": Views((False, True), BRIGHTNESS),
}


@torch.inference_mode()
def fused_maps(model: LoadedModel, image: Tensor, settings: EvaluateSettings) -> tuple[Tensor, Tensor]:
    """Fused class maps of one image and the model's own presence scores.

    Per view and stage: merge, positive part, 0..1, upsample; mean over views; weighted sum of stages (method.md §7).

    Args:
        model: The model.
        image: (3, H, W) RGB in 0..1.
        settings: Views, normalisation and stage weights.

    Returns:
        (C, H, W) in 0..1, not gated; (C,) presence probability of the plain view.
    """
    views = VIEWS[settings.views]
    size = (image.shape[1], image.shape[2])
    encoder = model.network.encoder
    needed, maps_of = used_stages(model), forward_pass(model, settings)
    mean = encoder.mean[0].flip(0) if encoder.reverse else encoder.mean[0]
    total, presence = [torch.zeros(()) for _ in needed], torch.zeros(())
    for flip in views.flips:
        for factor in views.factors:
            seen = (image - mean.cpu()) * factor + mean.cpu() if factor != 1 else image
            seen = seen.flip(2) if flip else seen
            logits = maps_of(seen[None].to(model.device))
            if not flip and factor == 1:
                how = model.network.settings.merge_train
                presence = presence_scores([image_scores(part, model.network.k, how) for part in logits])[0].cpu()
            for i, maps in enumerate(_unit_maps(model, logits, settings)):
                total[i] = total[i] + (maps.flip(2) if flip else maps)
    fused = torch.zeros(())
    for i, maps in zip(needed, total, strict=True):  # upsampling is linear: once, after the mean over the views
        if weight := model.network.settings.stage_fusion[i]:
            per_image = settings.normalise == "image"
            fine = interpolate(maps[None], size=size, mode="bilinear", align_corners=per_image)[0]
            fused = fused + weight / (len(views.flips) * len(views.factors)) * fine
    return fused, presence


def _unit_maps(model: LoadedModel, logits: list[Tensor], settings: EvaluateSettings) -> list[Tensor]:
    """One view's class maps (C, h_i, w_i) in 0..1, of the stages that are needed."""
    found = []
    for i, maps in zip(used_stages(model), logits, strict=True):
        merged = merge_prototypes(maps, model.network.k, model.network.settings.merge_predict)[0].cpu()
        found.append(
            stretch_image_maps(merged) if settings.normalise == "image" else scale_maps(merged, model.card.map_scale[i])
        )
    return found


def stretch_image_maps(class_maps: Tensor) -> Tensor:
    """Published normalisation (L28): positive part of (..., h, w), each map stretched to 0..1 by itself."""
    positive = class_maps.clamp(min=0)
    low, high = positive.amin((-2, -1), keepdim=True), positive.amax((-2, -1), keepdim=True)
    return (positive - low) / (high - low + 1e-6)


def class_probability(fused: Tensor, present: Tensor, settings: EvaluateSettings) -> Tensor:
    """Gate the fused maps (C, H, W) and make probabilities (L, H, W); with background predicted, L = C + 1, last.

    An absent class is -inf, so it can neither win nor be spread by the CRF; in the published form (per-image
    normalisation, background predicted) it is 0, which the softmax over 0..1 values then lifts (L27).
    """
    absent = ~present[:, None, None]
    gated = fused * present[:, None, None]
    predicts = settings.background == "predict"
    scores = gated if settings.normalise == "image" and predicts else fused.masked_fill(absent, -torch.inf)
    if predicts or not present.any():
        scores = torch.cat([scores, background(gated, settings.background_power)[None]])
    return scores.softmax(0)


def predicted_labels(
    image: NDArray[np.uint8], probability: Tensor, refiner: Refiner, settings: EvaluateSettings, device: str = "cpu"
) -> NDArray[np.uint8]:
    """Winner at every pixel, after the refiner on `device`: (H, W) uint8, C = background."""
    if refiner == "none":
        return probability.numpy().argmax(0).astype(np.uint8)  # five times as fast as torch's
    from napari_lpd.models.crf.dense_crf import dense_crf

    refined = dense_crf(image, probability.numpy(), settings.crf, refiner, device, torch.get_num_threads())
    return refined.argmax(0).astype(np.uint8)


def present_classes(mask: NDArray[np.uint8], class_count: int) -> NDArray[np.bool_]:
    """Which classes occur in a mask: (C,) bool."""
    return np.bincount(mask[mask < class_count], minlength=class_count) > 0
