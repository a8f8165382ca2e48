"""Banks that a model's own is held against, in the space of its stage-4 features: random directions, and clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from napari_lpd.comparison.statistics import BankRecord
from napari_lpd.comparison.tiles import spread
from napari_lpd.core.errors import DataError, SettingsError
from napari_lpd.models.clustering import clustered_bank
from napari_lpd.models.encoder import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.comparison.metrics import Kind
    from napari_lpd.core.jobs import Job
    from napari_lpd.core.settings.evaluation import CompareSettings
    from napari_lpd.data.tileset import TileSet
    from napari_lpd.models.network import LoadedModel

TILES_PER_CLUSTER = 5  # of a class alone, that are looked at


class _MeanFeatures:
    """Tiles as the mean of their stage-4 features, each of unit length: the trained encoder's own space."""

    def __init__(self, model: LoadedModel) -> None:
        self._network = model.network

    def normalise(self, images: Tensor) -> Tensor:
        """Return the images as they are: the network normalises them itself."""
        return images

    def __call__(self, images: Tensor) -> Tensor:
        """Average the features of images (B, 3, H, W) in 0..1: (B, D)."""
        return normalize(self._network(images, (STAGES - 1,)).features, dim=1).mean((2, 3))


def random_control(model: LoadedModel, seed: int) -> Tensor:
    """Draw as many random directions as the model has prototypes: (N, D)."""
    shape = model.network.projected(STAGES - 1).shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clustered_control(model: LoadedModel, tiles: TileSet, seed: int) -> Job[Tensor]:
    """Spherical k-means of labelled tiles' mean features (N, D), made as PBIP makes its bank.

    Raises:
        DataError: a class has fewer usable tiles than prototypes.
    """
    how = model.card.settings.model_copy(update={"seed": seed, "batch": 8, "workers": 0})
    return (yield from clustered_bank(tiles, _MeanFeatures(model), how, model.device))


def training_sample(tiles: TileSet, limit: int, k: int) -> TileSet:
    """About `limit` tiles, 0: all; per class as many, half of them with it alone, enough of these for k clusters."""
    if not limit:
        return tiles
    share = max(TILES_PER_CLUSTER * k, limit // (2 * len(tiles.classes)))
    chosen: set[int] = set()
    for held in tiles.labels.T > 0:
        for candidates in (np.flatnonzero(held & tiles.single), np.flatnonzero(held)):
            chosen |= set(candidates[spread(len(candidates), share)].tolist())
    return tiles.subset(sorted(chosen))


class Bank(NamedTuple):
    """A bank in the space of a model's stage-4 features, and what is counted of it."""

    name: str
    kind: Kind
    vectors: Tensor  # (N, D)
    record: BankRecord


def common_temperature(models: Sequence[LoadedModel]) -> float:
    """Return the temperature τ that all models were trained with.

    Raises:
        SettingsError: theirs differ.
    """
    found = {model.card.settings.diversity_temperature for model in models}
    if len(found) > 1:
        raise SettingsError(f"the models' diversity_temperature differ ({sorted(found)}): set temperature for both")
    return found.pop()


def banks_of(
    model: LoadedModel, sample: TileSet | None, settings: CompareSettings, temperature: float
) -> Job[tuple[list[Bank], str]]:
    """Collect a model's own bank, the controls in its feature space, and why there are no clusters among these."""
    found: list[tuple[str, Kind, Tensor]] = [(model.name, "model", model.network.projected(STAGES - 1).cpu())]
    found.append((f"random in {model.name}'s space", "random", random_control(model, settings.seed)))
    reason = ""
    if sample is not None:
        try:
            clusters = yield from clustered_control(model, sample, settings.seed)
            found.append((f"clustered in {model.name}'s space", "clustered", clusters))
        except DataError as error:  # of this control alone: the report says why it is missing
            reason = str(error)
    shape = (model.network.class_count, model.network.k, temperature)
    return [Bank(name, kind, vectors, BankRecord(*shape)) for name, kind, vectors in found], reason
