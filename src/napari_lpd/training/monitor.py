"""What is watched while a model learns: how different its prototypes are, and its masks on a few tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_lpd.data.summary import save_sheet, sheet
from napari_lpd.models.cam import fuse_upsampled, gate, scale_maps, with_background
from napari_lpd.models.encoder import STAGES
from napari_lpd.models.network import cosine_maps
from napari_lpd.models.prototypes import effective_number, spatial_divergence
from napari_lpd.training.validation import score_tiles

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.data.tileset import TileSet
    from napari_lpd.models.card import Card
    from napari_lpd.models.network import LPD

SHOWN, LOOKED_AT = 8, 24  # tiles in the preview, and tiles on which diversity is measured
TEMPERATURE = 0.07  # τ of the divergence
TINT = 0.45
BACKGROUND_POWER = 10.0


class TrainingMonitor:
    """Looks at a network after every epoch, always on the same tiles.

    Args:
        tiles: Training tiles; up to 24 of them are looked at.
    """

    def __init__(self, tiles: TileSet) -> None:
        self._tiles = tiles.subset(tiles.spread(LOOKED_AT))
        self._shown = self._tiles.subset(self._tiles.spread(SHOWN)[:SHOWN])

    @torch.inference_mode()
    def diversity(self, network: LPD) -> dict[str, float]:
        """Measure per class the effective number of prototypes, and how their maps diverge on tiles that hold it.

        Ω_c are the places where the class's merged map is highest among the tile's classes. Nothing where k = 1.
        """
        if network.k < 2:
            return {}
        prototypes = network.projected(STAGES - 1)
        names = [tissue.name for tissue in self._tiles.classes]
        chunks = prototypes.cpu().chunk(network.class_count)
        found = {f"effective prototypes {name}": effective_number(own) for name, own in zip(names, chunks, strict=True)}
        device = next(network.parameters()).device
        divergences: dict[str, list[float]] = {}
        for index in range(len(self._tiles)):
            image, labels = (torch.from_numpy(part) for part in self._tiles[index])
            features = network(image[None].to(device).float() / 255, (STAGES - 1,)).features
            maps = cosine_maps(features, prototypes)[0].cpu().unflatten(0, (network.class_count, network.k))
            best = maps.mean(1).masked_fill(labels[:, None, None] == 0, -torch.inf).argmax(0)
            for c in torch.nonzero(labels).flatten().tolist():
                if (best == c).sum() >= 2:
                    divergences.setdefault(names[c], []).append(spatial_divergence(maps[c][:, best == c], TEMPERATURE))
        return found | {f"diversity {name}": float(np.mean(values)) for name, values in divergences.items()}

    @torch.inference_mode()
    def preview(self, network: LPD, card: Card, path: Path) -> Path:
        """Write a sheet (PNG): the tiles, and below them their masks among the classes that they are said to hold.

        Raises:
            DataError: the place cannot be written.
        """
        tiles = self._shown
        scored = score_tiles(network, tiles, card.settings.batch)
        rows: list[list[NDArray[np.uint8]]] = [[], []]
        for index in range(len(tiles)):
            image = tiles.read(index)
            maps = [
                scale_maps(stage[index], scale) for stage, scale in zip(scored.class_maps, card.map_scale, strict=True)
            ]
            fused = fuse_upsampled(maps, network.settings.stage_fusion, image.shape[:2])
            present = scored.labels[index][:, None, None]
            labels = with_background(gate(fused, present), BACKGROUND_POWER).argmax(0).numpy()
            colors = np.array([(255, 255, 255), *(tissue.rgb for tissue in tiles.classes)], np.float32)
            rows[0].append(image)
            rows[1].append(((1 - TINT) * image + TINT * colors[labels]).astype(np.uint8))
        white = (255, 255, 255)
        return save_sheet(sheet([("training tiles", white, rows[0]), ("masks so far", white, rows[1])]), path)
