"""Models that are made in a moment, for the tests in which what they have learned is not the point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.settings.training import ModelSettings, TrainSettings
from napari_lpd.models.card import Card
from napari_lpd.models.checkpoint import save_checkpoint
from napari_lpd.models.network import new_network

QUICK_TO_TRAIN = {
    "model": ModelSettings(
        encoder="test_efficientnet", encoder_weights="random", prototypes_per_class=3, prototype_dim=16
    ),
    "contrast_weight": 0.0,  # which takes another encoder
    "threads": 1,
}
"""Settings of a training whose steps take a moment."""


def save_small_model(path: Path, classes: Sequence[TissueClass], tile: int = 64, mpp: float = 1.0) -> Path:
    """Save a model that was not trained, of the smallest encoder; its scores are what they are."""
    torch.manual_seed(0)
    model = ModelSettings(encoder="test_efficientnet", prototypes_per_class=1, prototype_dim=8)
    about = {"classes": classes, "settings": TrainSettings(model=model, tile=tile, mpp=mpp), "tiles": 2, "steps": 1}
    about |= {"tiles_per_class": dict.fromkeys((tissue.name for tissue in classes), 1)}
    card = Card(**about, map_scale=((1.0, 1.0),) * 3, presence=(0.0, 0.0))
    return save_checkpoint(path, new_network(model, len(classes)).state_dict(), card)
