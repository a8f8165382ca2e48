"""A step of a training: its losses as one module, and what it says, which a CPU reads when the GPU has computed it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from napari_lpd.data.region_tiles import GLASS_LEVEL
from napari_lpd.training.augmentation import Jitter, augment, augment_with_masks
from napari_lpd.training.distributed import local_slice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.tileset import TileSet
    from napari_lpd.models.network import LPD, Supervised
    from napari_lpd.training.losses.joint import JointObjective
    from napari_lpd.training.losses.objective import Objective, StepLosses


class PendingScalars:
    """Scalars (n,) that a GPU may still be computing."""

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=values.is_cuda)
        self._there = torch.cuda.Event() if values.is_cuda else None
        if self._there is not None:
            self._there.record()

    def read(self) -> list[float]:
        """Wait for them."""
        if self._there is not None:
            self._there.synchronize()
        found: list[float] = self._values.tolist()
        return found


class TakenStep(NamedTuple):
    """A step: its number from 0, its tiles, what it says, and the weights that gave that."""

    step: int
    indices: list[int]
    lr: float
    losses: StepLosses
    numbers: PendingScalars
    weights: dict[str, Tensor]


class Step(nn.Module):
    """The losses of a batch, as one module."""

    def __init__(self, network: LPD, objective: Objective | JointObjective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, *batch: object) -> StepLosses:
        """Compute the losses of a batch, as `Objective` or `JointObjective`."""
        losses: StepLosses = self.objective(self.network, *batch)
        return losses


class Said(NamedTuple):
    """What is said of a batch beside its labels.

    Attributes:
        known: (B, C) bool, of the whole batch: the labels that count; None: all.
        painted: (B, H, W) int64, of this process's images: what is painted, as `painted_entropy`; None: nothing.
        tissue: (B, H, W) int64 in {0, 1}, of these images: what is not glass; None: no tile has shares.
        indices: Of the whole batch's tiles.
    """

    known: Tensor | None = None
    painted: Tensor | None = None
    tissue: Tensor | None = None
    indices: Sequence[int] = ()


def varied(
    tiles: TileSet,
    raw: Tensor,
    indices: Sequence[int],
    settings: TrainSettings,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[Tensor, Said]:
    """Bring a batch to the device, and vary it, with what is said of its pixels.

    Args:
        tiles: Training tiles.
        raw: (B, 3, H, W) uint8, this process's share of the batch.
        indices: Of the whole batch's tiles.
        settings: How images are varied.
        generator: Source of randomness.
        device: Where they are wanted.

    Returns:
        Images (B, 3, H, W) in 0..1, and what is said of them.
    """
    images, own = raw.to(device, non_blocking=True).float() / 255, local_slice(len(indices))
    known, pixels = tiles.known[list(indices)], tiles.painted_in(indices)
    masks = {}
    if pixels is not None:
        masks["painted"] = torch.from_numpy(pixels[own]).to(device, non_blocking=True).long()
    if settings.share_weight and any(i in tiles.shares for i in indices):
        masks["tissue"] = (raw.amin(1) <= GLASS_LEVEL).to(device, non_blocking=True).long()
    if settings.augment:
        part, jitter = (len(indices), own), Jitter.of(settings)
        if masks:
            images, turned = augment_with_masks(images, torch.stack([*masks.values()], 1), generator, jitter, part)
            masks = dict(zip(masks, turned.unbind(1), strict=True))
        else:
            images = augment(images, generator, jitter, part)
    there = None if known.all() else torch.from_numpy(known).to(device, non_blocking=True)
    return images, Said(there, indices=indices, **masks)


LR_WARM_UP_RATIO = 1e-6


def poly_factor(step: int, total: int, warm_up: int = 0, power: float = 1.0, ratio: float = LR_WARM_UP_RATIO) -> float:
    """Compute the share of the learning rate at a step (0-based), as published (method.md §5): rise, then decay.

    The decay is (1 - (step - warm_up) / total)^power, so with a warm-up it does not reach zero.
    """
    if step < warm_up:
        return 1 - (1 - step / warm_up) * (1 - ratio)
    return float((1 - (min(step, total - 1) - warm_up) / total) ** power)


def parameter_groups(network: LPD | Supervised, settings: TrainSettings) -> list[dict[str, object]]:
    """AdamW groups: encoder and head with their rates; 1-d tensors, scales and prototypes without decay (L42)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        head = not name.startswith("encoder.")
        decay = settings.decay_all or (parameter.ndim > 1 and name != "prototypes")
        groups.setdefault((head, decay), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.lr * (settings.head_lr_factor if head else 1),
            "weight_decay": settings.weight_decay if decay else 0.0,
        }
        for (head, decay), parameters in groups.items()
    ]


def set_training(network: LPD | Supervised, settings: TrainSettings) -> None:
    """Training mode, but for the encoder's batch statistics where they are to stay (`TrainSettings.freeze_norm`).

    The encoder below a joint head does not learn at all.
    """
    network.train()
    if network.joint is not None:
        network.encoder.eval().requires_grad_(False)
    if settings.freeze_norm and settings.model.encoder_weights != "random":
        for module in network.encoder.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
