"""Scoring tiles: pixels → scaled cosine maps, as fast as the device allows, the same whatever way was taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from napari_lpd.cam import GATED_BY, minimum_maximum
from napari_lpd.errors import ModelError
from napari_lpd.model import STAGES_USED, LoadedModel, output_stride

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_lpd.config import PredictSettings

CPU_BATCH, GPU_BATCH = 1, 16


def stages_needed(model: LoadedModel) -> list[int]:
    """Which of the used stages take part: those that are fused and those that gate."""
    fused = model.network.settings.stage_fusion
    return [i for i in range(len(STAGES_USED)) if fused[i] or i in GATED_BY]


class TileScorer:
    """A model that is ready to score tiles under given settings.

    Attributes:
        batch: Tiles that should be given at once. Where the device's memory does not suffice it is halved, which
            `warnings` says, and the tiles are scored in smaller parts; their maps are the same.
    """

    def __init__(self, model: LoadedModel, settings: PredictSettings) -> None:
        self.model, self.settings = model, settings
        self.batch = settings.batch or (CPU_BATCH if model.device.type == "cpu" else GPU_BATCH)
        self._said: list[str] = []

    def warnings(self) -> list[str]:
        """What is to be said since this was last asked."""
        said, self._said = self._said, []
        return said

    @torch.inference_mode()
    def __call__(self, tiles: NDArray[np.uint8]) -> Tensor:
        """Scaled cosines of tiles (B, h, w, 3): (B, S·N, h / stride, w / stride), the needed stages one after another.

        Raises:
            ModelError: the device's memory does not suffice for one tile.
        """
        try:
            return self._scored(tiles)
        except torch.OutOfMemoryError as error:
            if len(tiles) == 1:
                raise ModelError(
                    f"{self.model.device}: out of memory with one tile of {tiles.shape[1]} pixels;"
                    " use a smaller tile=, or device=cpu"
                ) from error
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        half = len(tiles) // 2
        if half < self.batch:
            self._said.append(
                f"{self.model.device}: out of memory with {len(tiles)} tiles at once; going on with {half}"
            )
            self.batch = half
        return torch.cat([self(tiles[i : i + half]) for i in range(0, len(tiles), half)])

    def _scored(self, tiles: NDArray[np.uint8]) -> Tensor:
        model = self.model
        images = torch.from_numpy(tiles).to(model.device).permute(0, 3, 1, 2).float() / 255
        maps = self._stacked_maps(images)
        if self.settings.flips:
            maps = (maps + self._stacked_maps(images.flip(3)).flip(3)) / 2
        if self.settings.normalise == "benchmark":
            stages = maps.unflatten(1, (-1, model.network.prototype_count))
            maps = torch.stack([torch.cat([minimum_maximum(m, model.network.k) for m in tile]) for tile in stages])
        return maps.cpu()

    def _stacked_maps(self, images: Tensor) -> Tensor:
        network = self.model.network
        size = [n // output_stride(network) for n in images.shape[2:]]
        logits = network(images, [STAGES_USED[i] for i in stages_needed(self.model)]).logits
        return torch.cat([interpolate(maps, size=size, mode="bilinear", align_corners=False) for maps in logits], dim=1)
