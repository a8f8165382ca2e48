"""What a model says of one tile: masks, masks without one of the prototypes, cosine maps, maps of a changed tile."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from skimage.color import hed2rgb, rgb2hed
from torch import Tensor
from torch.nn.functional import interpolate

from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.evaluation.masks import class_probability, predicted_labels
from napari_lpd.models.cam import class_maps, fuse_upsampled, scale_maps
from napari_lpd.models.encoder import STAGES
from napari_lpd.models.network import STAGES_USED, LoadedModel, cosine_maps
from napari_lpd.models.prototypes import map_correlation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

STAIN_GAIN = (1.1, 0.9, 1.0)  # haematoxylin, eosin, residual
NOISE = 8 / 255  # standard deviation
RULES = EvaluateSettings()  # of masks: those of `evaluate` with the predicted gate


class TileObservation(NamedTuple):
    """A model on one tile.

    Attributes:
        features: Stage-4 features (1, D, h, w).
        logits: Per used stage (1, C·k, h_i, w_i).
        present: (C,) classes that the model's own scores say are there.
        fused: (C, H, W) class maps, not gated.
        labels: (H, W) mask; C where no class is present.
    """

    features: Tensor
    logits: list[Tensor]
    present: Tensor
    fused: Tensor
    labels: NDArray[np.uint8]


@torch.inference_mode()
def observe_tile(model: LoadedModel, image: NDArray[np.uint8]) -> TileObservation:
    """Look at a tile (H, W, 3): the mask is that of `evaluation.evaluate` with the predicted gate and no refiner."""
    network = model.network
    maps = network(_batch(image).to(model.device), STAGES_USED)
    present = network.presence(maps.outputs)[0].cpu() >= torch.tensor(model.card.presence)
    fused = fused_class_maps(model, maps.logits, image.shape[:2])
    labels = predicted_labels(image, class_probability(fused, present, RULES), "none", RULES)
    return TileObservation(maps.features, maps.logits, present, fused, labels)


def _batch(image: NDArray[np.uint8]) -> Tensor:
    return torch.tensor(image).permute(2, 0, 1)[None].float() / 255  # a copy: a slide's pixels may be read-only


def fused_class_maps(
    model: LoadedModel, logits: Sequence[Tensor], size: Sequence[int], prototypes: Sequence[int] | None = None
) -> Tensor:
    """Fuse the class maps of a tile (C, H, W), as `evaluation.masks.fused_maps` does of its plain view.

    Args:
        model: Says how prototypes are merged, maps scaled, and stages fused.
        logits: Per used stage (1, C·k, h, w).
        size: H, W.
        prototypes: Numbers within a class, to take these alone; None: all.
    """
    merged = [class_maps(model.network, maps, prototypes)[0].cpu() for maps in logits]
    scaled = [scale_maps(maps, scale) for maps, scale in zip(merged, model.card.map_scale, strict=True)]
    return fuse_upsampled(scaled, model.network.settings.stage_fusion, size)


@torch.inference_mode()
def drop_counts(
    model: LoadedModel, image: NDArray[np.uint8], seen: TileObservation, truth: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intersection and union of masks and truth, with all prototypes, and without each: (C, 2) and (C·k, 2) pixels.

    The gate stays as it is; a class that it leaves out loses nothing. Pixels without a class in the truth do not count.

    Args:
        model: A model with two or more prototypes per class.
        image: (H, W, 3).
        seen: Of this tile.
        truth: (H, W): 0..C-1 class, more: not counted.
    """
    k, class_count = model.network.k, model.network.class_count
    whole = np.array([_overlap(seen.labels, truth, c, class_count) for c in range(class_count)])
    dropped = whole.repeat(k, axis=0)
    for u in range(k):
        without = fused_class_maps(model, seen.logits, truth.shape, [v for v in range(k) if v != u])
        for c in seen.present.nonzero().flatten().tolist():
            fused = seen.fused.clone()
            fused[c] = without[c]
            labels = predicted_labels(image, class_probability(fused, seen.present, RULES), "none", RULES)
            dropped[c * k + u] = _overlap(labels, truth, c, class_count)
    return whole, dropped


def _overlap(labels: NDArray[np.uint8], truth: NDArray[np.uint8], c: int, class_count: int) -> tuple[float, float]:
    painted, real = (labels == c) & (truth < class_count), truth == c
    return float((painted & real).sum()), float((painted | real).sum())


@torch.inference_mode()
def bank_maps(features: Tensor, bank: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cosine maps of a bank (N, D) on features (1, D, h, w), at the places of `grid`: (N, h', w') on the CPU."""
    maps = cosine_maps(features, bank.to(features)).cpu()
    if maps.shape[2:] != grid:
        maps = interpolate(maps, size=grid, mode="bilinear", align_corners=False)
    return maps[0]


def _more_haematoxylin(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    stained: NDArray[np.float32] = hed2rgb(rgb2hed(image) * np.array(STAIN_GAIN)).astype(np.float32)
    return stained


def _noisy(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    noise = np.random.default_rng(0).normal(0, NOISE, image.shape)
    return np.clip(image / 255 + noise, 0, 1).astype(np.float32)


def _turned(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.rot90(image / 255).astype(np.float32)


CHANGES: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {
    "stability_stain": _more_haematoxylin,
    "stability_noise": _noisy,
    "stability_rotation": _turned,
}
"""Changes of a tile (H, W, 3) that leave its tissue what it is; the noise is the same in every tile."""


@torch.inference_mode()
def stability(
    model: LoadedModel, image: NDArray[np.uint8], banks: Sequence[Tensor], maps: Sequence[Tensor], counted: Tensor
) -> list[NDArray[np.float64]]:
    """Correlate the maps of a tile with those of the changed tile: per bank (3, N) Pearson, as in `CHANGES`.

    Args:
        model: The model.
        image: (H, W, 3).
        banks: (N, D) each, in the space of the model's features.
        maps: Of each bank: its maps (N, h, w) of the tile as it is.
        counted: (h, w) bool, the places that count, two or more.
    """
    found = []
    grid = (counted.shape[0], counted.shape[1])
    for name, change in CHANGES.items():
        changed = torch.from_numpy(np.ascontiguousarray(change(image))).permute(2, 0, 1)[None]
        features = model.network(changed.to(model.device), (STAGES - 1,)).features
        if name == "stability_rotation":
            features = features.rot90(-1, (2, 3))
        after = [bank_maps(features, bank, grid) for bank in banks]
        pairs = zip(maps, after, strict=True)
        found.append([map_correlation(m[:, counted], a[:, counted]).numpy() for m, a in pairs])
    return [np.stack(rows) for rows in zip(*found, strict=True)]
