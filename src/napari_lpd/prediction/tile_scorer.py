"""Score batches of tiles with a model, in smaller batches where memory runs out."""

from __future__ import annotations

import copy
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from napari_lpd.core.errors import ModelError
from napari_lpd.models.cam import stretch_tile_maps
from napari_lpd.models.compute import CPU_BATCH, GPU_BATCH, forward_pass
from napari_lpd.models.network import LoadedModel, output_stride, used_stages

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from napari_lpd.core.settings.prediction import PredictSettings
    from napari_lpd.models.compute import ForwardPass


class TileScorer:
    """A model that is ready to score tiles under given settings.

    Attributes:
        batch: Most tiles per forward pass. Where the device's memory does not suffice it is halved, then threads take
            turns, and at last a GPU is left for the CPU; `warnings` says so. The maps are the same, but for the CPU's
            own rounding and float32.
    """

    def __init__(self, model: LoadedModel, settings: PredictSettings) -> None:
        self.model, self.settings = model, settings
        self.batch = settings.batch or (CPU_BATCH if model.device.type == "cpu" else GPU_BATCH)
        self._place = model.device, forward_pass(model, settings)
        self._said: deque[str] = deque()
        self._free, self._at_work, self._in_turns = threading.Condition(), 0, False

    @property
    def device(self) -> torch.device:
        """Where tiles are scored."""
        return self._place[0]

    def warnings(self) -> list[str]:
        """Return the warnings since the last call."""
        return [self._said.popleft() for _ in range(len(self._said))]  # threads may be adding to it

    @torch.inference_mode()
    def __call__(self, tiles: NDArray[np.uint8]) -> Tensor:
        """Scaled cosines of tiles (B, h, w, 3): (B, S·N, h / stride, w / stride) on `device`, stage by stage.

        Raises:
            ModelError: the CPU's memory does not suffice for one tile, or ONNX Runtime cannot take the network.
        """
        found: list[Tensor] = []
        first = 0
        while first < len(tiles):
            part = tiles[first : first + self.batch]
            try:
                with self._turn() as alone:
                    found.append(self._scored(part))
                first += len(part)
            except torch.OutOfMemoryError as error:
                self._take_fewer(part, alone, error)
        maps = torch.cat([part.to(found[-1].device) for part in found])
        if maps.is_cuda:  # of this thread's stream, to be used on the default one
            torch.cuda.current_stream(maps.device).synchronize()
            maps.record_stream(torch.cuda.default_stream(maps.device))
        return maps

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Score inside this block; gives whether no other thread does so meanwhile."""
        with self._free:
            self._free.wait_for(lambda: not (self._in_turns and self._at_work))
            self._at_work += 1
            alone = self._in_turns
        try:
            yield alone
        finally:
            with self._free:
                self._at_work -= 1
                self._free.notify_all()

    def _take_fewer(self, tiles: NDArray[np.uint8], alone: bool, error: torch.OutOfMemoryError) -> None:
        """Halve the batch after these tiles were too many; a single one is scored without another beside it."""
        device = self.device
        if len(tiles) == 1 and not alone:
            with self._free:
                if not self._in_turns:
                    self._said.append(f"{device}: not enough memory for tiles side by side; in turns from now on")
                self._in_turns = True
            return
        if len(tiles) == 1 and device.type != "cpu":
            self._leave_gpu()
            return
        if len(tiles) == 1:
            raise ModelError(
                f"{device}: not enough memory for one tile of {tiles.shape[1]} pixels;"
                " use a smaller tile=, or device=cpu"
            ) from error
        self.batch = min(self.batch, len(tiles) // 2)  # another thread may have been here, too
        self._said.append(f"{device}: not enough memory for {len(tiles)} tiles at once; {self.batch} from now on")
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def _leave_gpu(self) -> None:
        """Score on the CPU from now on, in float32: half precision is slow there, or not there at all."""
        cpu = torch.device("cpu")
        with self._free:
            if self.device == cpu:  # another thread was here before
                return
            self._said.append(f"{self.device}: not enough memory for one tile; computed on the CPU from now on")
            copied = self.model._replace(network=copy.deepcopy(self.model.network).to(cpu), device=cpu)
            self._place = cpu, forward_pass(copied, self.settings.model_copy(update={"precision": "float32"}))
            self.batch, self._in_turns = CPU_BATCH, False
            self._free.notify_all()

    def _scored(self, tiles: NDArray[np.uint8]) -> Tensor:
        (device, ready), network = self._place, self.model.network
        pixels = torch.from_numpy(tiles)
        if device.type == "cuda":
            pixels = pixels.pin_memory()
        images = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
        maps = self._stacked_maps(images, ready)
        if self.settings.flips:
            maps = (maps + self._stacked_maps(images.flip(3), ready).flip(3)) / 2
        if self.settings.normalise == "benchmark":
            count = network.prototype_count * len(used_stages(network))
            stages = maps[:, :count].unflatten(1, (-1, network.prototype_count))
            stretched = torch.stack([torch.cat([stretch_tile_maps(m, network.k) for m in tile]) for tile in stages])
            maps = torch.cat([stretched, maps[:, count:]], dim=1)
        return maps

    def _stacked_maps(self, images: Tensor, ready: ForwardPass) -> Tensor:
        size = [n // output_stride(self.model.network) for n in images.shape[2:]]
        fine = [interpolate(maps, size=size, mode="bilinear", align_corners=False) for maps in ready(images)]
        return torch.cat(fine, dim=1)
