"""Augmentation of H&E tiles: symmetries of the square, and jitter of stains, size and sharpness, all seeded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

if TYPE_CHECKING:
    from napari_lpd.core.settings.training import TrainSettings

# Ruifrok & Johnston 2001: optical density per stain (rows: haematoxylin, eosin, residual) and colour (R, G, B).
_HED = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_TO_STAINS = torch.linalg.inv(_HED)


class Jitter(NamedTuple):
    """How much tiles are varied in training.

    Attributes:
        stain: Half the range by which each stain's amount is multiplied (haematoxylin, eosin, residual), around 1.
        size: Half the range by which the size changes, around 1; what is missing at the border is mirrored.
        blur: Largest standard deviation of a Gaussian blur, in pixels.
    """

    stain: float = 0.1
    size: float = 0.0
    blur: float = 0.0

    @classmethod
    def of(cls, settings: TrainSettings) -> Jitter:
        """Take the strengths from the settings."""
        return cls(settings.stain_jitter, settings.size_jitter, settings.blur_jitter)


def augment(
    images: Tensor,
    generator: torch.Generator,
    jitter: Jitter = Jitter(),  # noqa: B008  a constant
    part: tuple[int, slice] | None = None,
) -> Tensor:
    """Random flips and quarter turns, and jitter of stains, size and sharpness, per image.

    Args:
        images: (B, 3, H, W) in 0..1, square.
        generator: Source of randomness, on the CPU.
        jitter: How much.
        part: Of how many images these are a part, and which: random numbers are drawn for all of them.
    """
    count, own = part or (len(images), slice(None))
    turned = _turned(images, _placements(count, jitter.size, generator)[own])
    return _varied(turned, generator, jitter, count, own)


def augment_with_masks(
    images: Tensor,
    masks: Tensor,
    generator: torch.Generator,
    jitter: Jitter = Jitter(),  # noqa: B008  a constant
    part: tuple[int, slice] | None = None,
) -> tuple[Tensor, Tensor]:
    """Augment images with masks (B, …, H, W) int64, which turn with them (nearest neighbour), as `augment` does."""
    count, own = part or (len(images), slice(None))
    placements = _placements(count, jitter.size, generator)[own]
    turned = _turned(images, placements)
    planes = masks.reshape(len(masks), -1, *masks.shape[-2:]).float()
    masks = _turned(planes, placements, "nearest").long().reshape(masks.shape)
    return _varied(turned, generator, jitter, count, own), masks


def _varied(images: Tensor, generator: torch.Generator, jitter: Jitter, count: int, own: slice) -> Tensor:
    """Images with other amounts of stain and another sharpness, drawn for `count` images of which these are `own`."""
    stained = _restained(images, 1 + jitter.stain * (2 * torch.rand(count, 3, generator=generator) - 1)[own])
    if not jitter.blur:
        return stained
    sigmas = jitter.blur * torch.rand(count, generator=generator)
    return _blurred(stained, sigmas[own], max(1, math.ceil(3 * float(sigmas.max()))))


def _blurred(images: Tensor, sigmas: Tensor, radius: int) -> Tensor:
    """Blur every image (B, 3, H, W) with its own Gaussian; `sigmas` (B,) and the kernels' `radius` in pixels."""
    count, channels = images.shape[:2]
    at = torch.arange(-radius, radius + 1)
    kernels = torch.exp(-0.5 * (at / sigmas.clamp(min=1e-3)[:, None]) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).to(images, non_blocking=True)
    weights = kernels.repeat_interleave(channels, 0)[:, None, :, None]
    planes = pad(images, [radius] * 4, "reflect").flatten(0, 1)[None]
    planes = conv2d(planes, weights, groups=count * channels)
    planes = conv2d(planes, weights.transpose(2, 3), groups=count * channels)
    return planes[0].unflatten(0, (count, channels))


def _restained(images: Tensor, gain: Tensor) -> Tensor:
    """Each stain's amount multiplied by `gain` (B, 3)."""
    density = -torch.log(images.clamp(min=1 / 255))
    amounts = torch.einsum("bchw,cs->bshw", density, _on(images, _TO_STAINS))
    jittered = torch.einsum("bshw,sc->bchw", amounts * _on(images, gain)[:, :, None, None], _on(images, _HED))
    return torch.exp(-jittered).clamp(0, 1)


def _on(images: Tensor, numbers: Tensor) -> Tensor:
    """Copy `numbers` to the images' device, without waiting for it."""
    return numbers.to(images.device, non_blocking=True)


def _placements(count: int, scale: float, generator: torch.Generator) -> Tensor:
    """Affine maps (count, 2, 3): a random symmetry of the square, sizes within 1 ± scale."""
    sizes = 1 + scale * (2 * torch.rand(count, generator=generator) - 1)
    turn = torch.randint(4, (count,), generator=generator) * (math.pi / 2)
    mirror = 1 - 2.0 * torch.randint(2, (count,), generator=generator)
    cos, sin = turn.cos().round() / sizes, turn.sin().round() / sizes
    rows = torch.stack([torch.stack([mirror * cos, -sin]), torch.stack([mirror * sin, cos])])  # (2, 2, count)
    return torch.cat([rows.permute(2, 0, 1), torch.zeros(count, 2, 1)], dim=2)


def _turned(images: Tensor, placements: Tensor, mode: str = "bilinear") -> Tensor:
    grid = affine_grid(_on(images, placements), list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=False)
