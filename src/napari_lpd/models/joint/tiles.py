"""Labelled tiles as a frozen encoder's features, from which a joint head learns and is measured."""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from napari_lpd.core.errors import ModelError
from napari_lpd.core.geometry import common, within
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.data.region_tiles import GLASS_LEVEL
from napari_lpd.data.tileset import CELL, RIM, UNPAINTED
from napari_lpd.models.clustering import bank_of, is_mostly_white
from napari_lpd.models.compute import choose_backend, load_batches, prepared
from napari_lpd.models.encoder import seeded_projection
from napari_lpd.models.network import LPD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.geometry import Box
    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.tileset import Cell, TileSet
    from napari_lpd.models.joint.head import JointHead
    from napari_lpd.models.joint.store import FeatureStore
    from napari_lpd.models.network import Maps, Supervised

logger = logging.getLogger(__name__)
KEY_LENGTH = 32  # hexadecimal digits of a SHA-256
HALF = 65504.0  # the largest number in float16


class _Joined(NamedTuple):
    outputs: list[Tensor]


class _Joining(nn.Module):
    """An encoder whose output are its joined features."""

    def __init__(self, network: LPD) -> None:
        super().__init__()
        assert network.joint is not None
        self.encoder, self.joint = network.encoder, network.joint

    def forward(self, images: Tensor, stages: Sequence[int]) -> _Joined:
        del stages
        joint: JointHead = self.joint
        return _Joined([joint.join(self.encoder(images))])


class FrozenEncoder:
    """The encoder of a network with a joint head, prepared for a device: images → joined features.

    Attributes:
        hash: Of its weights and of how it sees pixels.
        stride: Pixels per place.
    """

    def __init__(self, network: LPD, device: torch.device, precision: torch.dtype | None) -> None:
        backend = choose_backend("auto", device, "float32" if precision is None else "half")
        assert network.joint is not None
        self.hash, self.stride = _hash_of(network, str(precision)), network.joint.stride
        self._device, self._backend = device, backend
        self._prepare = partial(prepared, _Joining(network), (), device, precision=precision)
        self._forward = self._prepare(backend=backend)

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Compute the features (h, w, D) of an image (3, H, W)."""
        pixels = torch.from_numpy(image).to(self._device)[None].float() / 255
        try:
            (joined,) = self._forward(pixels)
        except ModelError as error:
            if self._backend == "torch":
                raise
            logger.warning("%s: the features are computed by PyTorch", error)
            self._backend, self._forward = "torch", self._prepare(backend="torch")
            (joined,) = self._forward(pixels)
        return joined[0].clamp(-HALF, HALF).half().movedim(0, 2).contiguous().cpu().numpy()


def _hash_of(network: LPD, precision: str) -> str:
    encoder = network.encoder
    seen = f"{precision} {encoder.reverse} {encoder.strides}"
    digest = hashlib.sha256(
        f"{seen} {encoder.architecture.blocks}".encode() if encoder.architecture.blocks else seen.encode()
    )
    for name, tensor in [*sorted(encoder.state_dict().items()), ("mean", encoder.mean), ("std", encoder.std)]:
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def content_key(image: NDArray[np.uint8]) -> str:
    """Name the features of an image (3, H, W) in a store, by its pixels."""
    return hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()[:KEY_LENGTH]


class FeatureTiles:
    """Labelled tiles, each as its joined features.

    A tile of a slide is cut from the features of the slide's cells, which are computed with a rim around them: so they
    are those of a prediction, and tiles that overlap share them. A tile that is a file has the features of its image.

    Args:
        tiles: The tiles.
        encoder: What computes features.
        store: What keeps them, by the content of an image.
    """

    def __init__(self, tiles: TileSet, encoder: FrozenEncoder, store: FeatureStore) -> None:
        self.tiles, self._encoder, self._store = tiles, encoder, store
        self._edge = tiles.edge
        self._keys: dict[int | Cell, str] = {}

    @property
    def classes(self) -> tuple[TissueClass, ...]:
        """The tissue classes."""
        return self.tiles.classes

    @property
    def labels(self) -> NDArray[np.float32]:
        """Labels of the tiles (n, C) in {0, 1}."""
        return self.tiles.labels

    def __len__(self) -> int:
        return len(self.tiles)

    def of(self, index: int) -> NDArray[np.float16]:
        """Return the features (h, w, D) of a tile."""
        if not self.tiles.cells:
            return self._features(index)
        origin, edge, stride = self.tiles.origins[index], self._edge, self._encoder.stride
        count = max(edge // stride, 1)
        top, left = (round(first / stride) for first in (origin.y, origin.x))
        return self._cut(origin.slide, (top, left, top + count, left + count))

    def _cut(self, slide: str, box: Box) -> NDArray[np.float16]:
        """Cut a box of places from the cells of a slide."""
        places, rim = CELL // self._encoder.stride, RIM // self._encoder.stride
        found: NDArray[np.float16] | None = None
        for y in range(box[0] // places, -(-box[2] // places)):
            for x in range(box[1] // places, -(-box[3] // places)):
                whole = self._features((slide, y, x))[rim : rim + places, rim : rim + places]
                of_cell = (y * places, x * places, (y + 1) * places, (x + 1) * places)
                part = common(of_cell, box)
                if found is None:
                    found = np.empty((box[2] - box[0], box[3] - box[1], whole.shape[2]), np.float16)
                found[within(box, part)[1:]] = whole[within(of_cell, part)[1:]]
        assert found is not None
        return found

    def _features(self, of: int | Cell) -> NDArray[np.float16]:
        """Return the features of a tile's or a cell's image."""
        if key := self._keys.get(of):
            return self._store.get(key, lambda: self._encoder(self._image(of)))
        image = self._image(of)
        key = self._keys[of] = content_key(image)
        return self._store.get(key, lambda: self._encoder(image))

    def _image(self, of: int | Cell) -> NDArray[np.uint8]:
        if isinstance(of, int):
            return self.tiles[of][0]
        return np.ascontiguousarray(self.tiles.cells[of].transpose(2, 0, 1))

    def painted_in(self, index: int) -> NDArray[np.float32] | None:
        """Measure the share of every place's pixels that is painted with none of the classes, and with each.

        Returns:
            (h, w, 1 + C); None where nothing is painted in the tile.
        """
        painted = self.tiles.painted.get(index)
        if painted is None:
            return None
        on_grid = self._on_grid(index, painted, UNPAINTED)
        shares = [(on_grid == label).mean((1, 3)) for label in range(len(self.classes) + 1)]
        return np.stack(shares, -1).astype(np.float32)

    def tissue_in(self, index: int) -> NDArray[np.float32]:
        """Measure the share of every place's pixels that are not glass (h, w)."""
        tissue = self.tiles.read(index).min(-1) <= GLASS_LEVEL
        found: NDArray[np.float32] = self._on_grid(index, tissue, 0).mean((1, 3), dtype=np.float32)
        return found

    def _on_grid(self, index: int, pixels: NDArray[Any], outside: int) -> NDArray[Any]:
        """Cut what is said of a tile's pixels (H, W) into those of its places: (h, stride, w, stride)."""
        stride, (h, w) = self._encoder.stride, self.of(index).shape[:2]
        y, x = self.tiles.origins[index][1:3] if self.tiles.cells else (0, 0)
        top, left = (round(first / stride) * stride - first + stride for first in (y, x))  # in what is padded
        wide = np.pad(pixels, 2 * stride, constant_values=outside)[stride:, stride:]
        return wide[top : top + h * stride, left : left + w * stride].reshape(h, stride, w, stride)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Stack the features of tiles: (B, D, h, w) float16."""
        return torch.from_numpy(np.stack([self.of(i) for i in indices])).movedim(3, 1)

    def compute(self) -> Job[None]:
        """Compute the features of all tiles, as far as they are not kept yet."""
        for index in range(len(self)):
            self.of(index)
            yield Progress(index + 1, len(self), "features")

    def subset(self, indices: Sequence[int]) -> FeatureTiles:
        """Select the tiles at `indices`, in their order."""
        chosen = FeatureTiles(self.tiles.subset(indices), self._encoder, self._store)
        whole = not self.tiles.cells
        chosen._keys = {n: self._keys[i] for n, i in enumerate(indices) if i in self._keys} if whole else self._keys
        return chosen

    def spread(self, most: int) -> list[int]:
        """Return the indices of up to `most` tiles, evenly spread over every class's tiles."""
        return self.tiles.spread(most)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Measure the mean and the deviation of the channels (D,) over all places of all tiles."""
        width = self.of(0).shape[2]
        total, squares, count = np.zeros(width), np.zeros(width), 0
        for index in range(len(self)):
            places = self.of(index).reshape(-1, width).astype(np.float32)
            total += places.sum(0)
            squares += np.square(places).sum(0)
            count += len(places)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
        return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def as_images(tiles: TileSet | FeatureTiles) -> TileSet:
    """Return the tiles whose features these are, or the tiles themselves."""
    return tiles.tiles if isinstance(tiles, FeatureTiles) else tiles


def clustered_bank_of_features(tiles: FeatureTiles, network: LPD, settings: TrainSettings) -> Tensor:
    """Cluster a bank (C·k, prototype_dim) from the mean standardised features of tiles that hold one class alone.

    The means are brought to the prototypes' length by a seeded projection, as a region encoder's are.

    Raises:
        DataError: a class has fewer usable tiles than prototypes.
    """
    assert network.joint is not None
    mean, deviation = network.joint.mean.flatten().cpu(), network.joint.deviation.flatten().cpu()
    single = np.flatnonzero(tiles.tiles.single).tolist()
    images = (torch.from_numpy(tiles.tiles[i][0]) for i in single)
    kept = [i for i, image in zip(single, images, strict=True) if not is_mostly_white(image, settings.white_limit)]
    means = [torch.from_numpy(tiles.of(i).mean((0, 1), dtype=np.float32)) for i in kept]
    projection = seeded_projection(settings.model.prototype_dim, len(mean))
    vectors = ((torch.stack(means) - mean) / deviation) @ projection.T if means else torch.zeros(0, 1)
    return bank_of(vectors.double().numpy(), kept, tiles.tiles, settings)


def maps_of_tiles(
    network: LPD | Supervised, tiles: TileSet | FeatureTiles, batch: int, stages: Sequence[int]
) -> Iterator[tuple[Maps, Tensor]]:
    """Run a network on tiles, or on their features: its maps and the labels (B, C), batch by batch."""
    device = next(network.parameters()).device
    if isinstance(tiles, FeatureTiles):
        assert isinstance(network, LPD)
        for start in range(0, len(tiles), batch):
            chosen = range(start, min(start + batch, len(tiles)))
            joined = tiles.batch(chosen).to(device).float()
            yield network.from_joined(joined, stages), torch.from_numpy(tiles.labels[list(chosen)])
        return
    for raw, held in load_batches(tiles, batch_size=batch):
        yield network(raw.to(device).float() / 255, stages), held
