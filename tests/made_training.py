"""Small settings and tiles for trainings of every kind."""

from __future__ import annotations

import numpy as np
import torch

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.tileset import Shares, TileSet

CLASSES = tuple(TissueClass(name=name, color="#3b4cff") for name in ("dark", "pink", "pale"))
BASE = {"encoder": "test_efficientnet", "encoder_weights": "random", "prototypes_per_class": 2, "prototype_dim": 64}
LINEAR = {"bank": "linear", "prototypes_per_class": 1}
JOINT = {"head": "joint", "necks": 2, "neck_width": 8, "presence_width": 4}
UNSHAPED = {"contrast_weight": 0.0, "diversity": "off"}
SMALL = {"tile": 64, "region_encoder": "test_efficientnet", "region_encoder_weights": "random", "region_size": 32,
         "max_regions": 4, "places": 9, "share_weight": 1.0, "pixel_weight": 1.0, "stain_jitter": 0.1}  # fmt: skip
INDICES = [0, 1, 2, 3]
LABELS = torch.tensor([[1.0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 0]])


def settings_of(model=None, **more) -> TrainSettings:
    """Of a training with regions, shares and strokes."""
    return TrainSettings.build({"model": BASE | (model or {})} | SMALL | more)


def made_tiles() -> TileSet:
    """Four tiles of which the shares are known, that are painted, and of which a class is not known."""
    image = np.full((64, 64, 3), 99, np.uint8)
    tiles = TileSet(CLASSES, LABELS.numpy(), lambda _: image, "made", sources=[""] * 4, files=[])
    tiles.shares = {i: Shares("region", np.float32([0.1, 0.3, 0.3, 0.3])) for i in range(4)}
    tiles.painted = dict.fromkeys(range(4), np.ones((64, 64), np.int8))
    tiles.known[:, 0] = False
    return tiles
