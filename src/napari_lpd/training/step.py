"""A step of a training: its losses as one module, and what it says, which a CPU reads when the GPU has computed it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from napari_lpd.models.network import LPD
    from napari_lpd.training.losses.objective import Objective, StepLosses


class Numbers:
    """Numbers (n,) that a GPU may still be computing."""

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


class Taken(NamedTuple):
    """A step: its number from 0, its tiles, what it says, and the weights that gave that."""

    step: int
    indices: list[int]
    lr: float
    losses: StepLosses
    numbers: Numbers
    weights: dict[str, Tensor]


class Step(nn.Module):
    """The losses of a batch, as one module."""

    def __init__(self, network: LPD, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, images: Tensor, labels: Tensor, warm: bool) -> StepLosses:
        """As `Objective`."""
        losses: StepLosses = self.objective(self.network, images, labels, warm)
        return losses
