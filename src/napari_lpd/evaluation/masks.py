"""Label one image with a model: views, gates, class probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from napari_lpd.models.cam import background, class_maps, gate, probabilities, scale_maps, with_background
from napari_lpd.models.compute import forward_pass
from napari_lpd.models.network import LoadedModel, used_stages

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
    needed, maps_of = used_stages(model.network), forward_pass(model, settings)
    mean = encoder.mean[0].flip(0) if encoder.reverse else encoder.mean[0]
    total, presence = [torch.zeros(()) for _ in needed], torch.zeros(())
    for flip in views.flips:
        for factor in views.factors:
            seen = (image - mean.cpu()) * factor + mean.cpu() if factor != 1 else image
            seen = seen.flip(2) if flip else seen
            outputs = maps_of(seen[None].to(model.device))
            if not flip and factor == 1:
                presence = model.network.presence(outputs)[0].cpu()
            for i, maps in enumerate(_unit_maps(model, outputs[: len(needed)], settings)):
                total[i] = total[i] + (maps.flip(2) if flip else maps)
    fused = torch.zeros(())
    for i, maps in zip(needed, total, strict=True):  # upsampling is linear: once, after the mean over the views
        if weight := model.network.settings.stage_fusion[i]:
            per_image = settings.normalise == "image"
            fine = interpolate(maps[None], size=size, mode="bilinear", align_corners=per_image)[0]
            fused = fused + weight / (len(views.flips) * len(views.factors)) * fine
    return fused, presence


def _unit_maps(model: LoadedModel, logits: list[Tensor], settings: EvaluateSettings) -> list[Tensor]:
    """Scale one view's class maps (C, h_i, w_i) to 0..1, of the stages that are used."""
    merged = [class_maps(model.network, maps)[0].cpu() for maps in logits]
    if settings.normalise == "image":
        return [stretch_image_maps(maps) for maps in merged]
    stages = used_stages(model.network)
    return [scale_maps(maps, model.card.map_scale[i]) for maps, i in zip(merged, stages, strict=True)]


def stretch_image_maps(class_maps: Tensor) -> Tensor:
    """Stretch each map of (..., h, w), its positive part, to 0..1 by itself, as published (L28)."""
    positive = class_maps.clamp(min=0)
    low, high = positive.amin((-2, -1), keepdim=True), positive.amax((-2, -1), keepdim=True)
    return (positive - low) / (high - low + 1e-6)


def class_probability(fused: Tensor, present: Tensor, settings: EvaluateSettings) -> Tensor:
    """Gate the fused maps (C, H, W) and return the labels' shares (C + 1, H, W), the background's last.

    They are the shares that the CRF of a slide is given. An absent class has none, so it can neither win nor be spread
    by the CRF; in the published form (per-image normalisation, background predicted) it is 0 before the softmax over
    0..1 values, which lifts it (L27).
    """
    here, power = present[:, None, None], settings.background_power
    if settings.normalise == "image" and settings.background == "predict":
        gated = fused * here
        return torch.cat([gated, background(gated, power)[None]]).softmax(0)
    return probabilities(with_background(gate(fused, here), power)).roll(-1, 0)


def predicted_labels(
    image: NDArray[np.uint8], probability: Tensor, refiner: Refiner, settings: EvaluateSettings, device: str = "cpu"
) -> NDArray[np.uint8]:
    """Label every pixel after the refiner on `device`: (H, W) uint8, C = background.

    Where the background is not to be predicted, it is the label only of an image in which no class is present.
    """
    shares = refined = probability.numpy()
    if refiner != "none":
        from napari_lpd.models.crf.dense_crf import dense_crf

        refined = dense_crf(image, shares, settings.crf, refiner, device, torch.get_num_threads())
    seen = np.array([share.any() for share in shares[:-1]])
    if settings.background != "predict" and seen.any():
        refined = np.where(seen[:, None, None], refined[:-1], -1)  # where all are 0, the first class seen elsewhere
    return refined.argmax(0).astype(np.uint8)  # five times as fast as torch's


def present_classes(mask: NDArray[np.uint8], class_count: int) -> NDArray[np.bool_]:
    """Tell which classes occur in a mask: (C,) bool."""
    return np.bincount(mask[mask < class_count], minlength=class_count) > 0
