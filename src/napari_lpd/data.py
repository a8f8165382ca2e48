"""Training tiles with image-level labels; tiles that are cut from regions drawn on a slide; augmentation."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from shapely import STRtree, unary_union
from shapely.geometry import box
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torch.utils.data import Dataset

from napari_lpd.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.classes import TissueClass
    from napari_lpd.config import TrainSettings
    from napari_lpd.regions import Region
    from napari_lpd.slide import Slide

MIN_TISSUE_SHARE = 0.1

# Ruifrok & Johnston 2001: optical density per stain (rows: haematoxylin, eosin, residual) and colour (R, G, B).
_HED = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


class TileSet(Dataset[tuple[Tensor, Tensor]]):
    """Labelled tiles: item i is (image (3, H, W) uint8 RGB, labels (C,) float in {0, 1}).

    Attributes:
        classes: The tissue classes.
        labels: (n, C) in {0, 1}.
        source: What the tiles come from, for messages.
        slides: Per tile: the slide or patient it comes from.
        files: The files that the tiles were read from.

    Raises:
        DataError: fewer than two classes occur, or one of `classes` never does.
    """

    def __init__(
        self,
        classes: tuple[TissueClass, ...],
        labels: NDArray[np.float32],
        read: Callable[[int], NDArray[np.uint8]],
        source: str,
        *,
        slides: Sequence[str],
        files: Sequence[Path],
    ) -> None:
        self.classes = classes
        self.labels = labels
        self.source = source
        self.slides = tuple(slides)
        self.files = tuple(files)
        self._read = read
        self._check()

    def _check(self) -> None:
        present = [name for name, count in self.tiles_per_class.items() if count]
        if len(present) < 2:
            only = f"only {present[0]}" if present else "no tissue at all"
            raise DataError(
                f"{self.source}: {len(self)} tiles hold {only}; training needs tiles of at least two classes"
                f" of {', '.join(tissue.name for tissue in self.classes)}"
            )
        if len(present) < len(self.classes):
            absent = [name for name, count in self.tiles_per_class.items() if not count]
            raise DataError(
                f"{self.source}: no tile holds {', '.join(absent)}; add some, or take it out of the classes"
            )

    @property
    def tiles_per_class(self) -> dict[str, int]:
        """Number of tiles in which each class occurs."""
        counts = self.labels.sum(0).astype(int) if len(self.labels) else np.zeros(len(self.classes), int)
        return {tissue.name: int(count) for tissue, count in zip(self.classes, counts, strict=True)}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = np.ascontiguousarray(self._read(index).transpose(2, 0, 1))
        return torch.from_numpy(image), torch.from_numpy(self.labels[index])

    @property
    def edge(self) -> int:
        """Edge of the tiles, in pixels."""
        return int(self._read(0).shape[0])

    def name(self, index: int) -> str:
        """What a tile is called in messages."""
        return self.files[index].name if len(self.files) == len(self) else f"{self.source} #{index}"

    def subset(self, indices: Sequence[int]) -> TileSet:
        """The tiles at `indices`, in their order."""
        part = copy.copy(self)
        part.labels = self.labels[list(indices)]
        part.slides = tuple(self.slides[i] for i in indices)
        part.files = tuple(self.files[i] for i in indices) if len(self.files) == len(self) else self.files
        part._read = lambda index: self._read(indices[index])
        return part

    def hold_out(self, share: float, seed: int) -> tuple[TileSet, TileSet | None]:
        """Tiles for training and for validation; whole slides go to validation, in random order, up to `share`.

        A slide stays in training where its loss would leave a class without tiles; so nothing is held out of one slide.
        """
        names, slide_of = np.unique(self.slides, return_inverse=True)
        kept = np.ones(len(self), bool)
        for slide in np.random.RandomState(seed).permutation(len(names)):
            without = kept & (slide_of != slide)
            if (~without).sum() <= share * len(self) and self.labels[without].any(0).all():
                kept = without
        if kept.all():
            return self, None
        return self.subset(np.flatnonzero(kept).tolist()), self.subset(np.flatnonzero(~kept).tolist())


def tiles_from_regions(
    slide: Slide, regions: Sequence[Region], classes: tuple[TissueClass, ...], settings: TrainSettings
) -> TileSet:
    """Cut the regions drawn on a slide into tiles; a tile takes the labels of all regions it lies in.

    A tile is used when at least ``settings.min_cover`` of it lies in regions; a region gives its tissues to the
    tiles of which it fills a tenth or more. A region smaller than a tile is tried with one tile around its centre.

    Raises:
        DataError: no tile fits, or fewer than two classes occur.
    """
    if not regions:
        raise DataError(f"{slide.name}: no regions; outline at least one region per tissue")
    polygons = [region.polygon((slide.mpp[0] / settings.mpp, slide.mpp[1] / settings.mpp)) for region in regions]
    tree = STRtree(polygons)
    names = [tissue.name for tissue in classes]
    origins, labels = [], []
    for y, x in sorted({origin for polygon in polygons for origin in _origins(polygon.bounds, settings)}):
        tile = box(x, y, x + settings.tile, y + settings.tile)
        hits = [(i, polygons[i].intersection(tile)) for i in tree.query(tile, predicate="intersects")]
        if not hits or unary_union([part for _, part in hits]).area < settings.min_cover * tile.area:
            continue
        tissues = {t for i, part in hits if part.area >= MIN_TISSUE_SHARE * tile.area for t in regions[i].tissues}
        origins.append((y, x))
        labels.append([float(name in tissues) for name in names])
    if not origins:
        raise DataError(
            f"{slide.name}: no region holds a tile of {settings.tile} pixels at {settings.mpp:g} µm per pixel"
            f" ({settings.tile * settings.mpp:.0f} µm); draw larger regions or choose a smaller tile"
        )
    shape = (settings.tile, settings.tile)
    images = [slide.read(origin, shape, settings.mpp) for origin in origins]
    return TileSet(
        classes,
        np.array(labels, np.float32),
        images.__getitem__,
        slide.name,
        slides=[slide.name] * len(labels),
        files=[slide.path] if slide.path else [],
    )


def _origins(bounds: tuple[float, float, float, float], settings: TrainSettings) -> list[tuple[int, int]]:
    """(y, x) of the tiles that are tried for a region with `bounds` (x0, y0, x1, y1): evenly spread, centred."""
    x0, y0, x1, y1 = bounds
    starts = []
    for low, high in ((y0, y1), (x0, x1)):
        free = high - low - settings.tile
        count = max(0, math.ceil(free / settings.tile_step)) + 1
        first = low if free > 0 else low + free / 2
        starts.append([round(first + max(free, 0) * i / max(count - 1, 1)) for i in range(count)])
    return [(y, x) for y in starts[0] for x in starts[1]]


def augment(images: Tensor, generator: torch.Generator, stain: float = 0.1, scale: float = 0.0) -> Tensor:
    """Random flips and quarter turns, and jitter of stains and size, per image.

    Args:
        images: (B, 3, H, W) in 0..1, square.
        generator: Source of randomness, on the CPU.
        stain: Half the range by which each stain's amount is multiplied (haematoxylin, eosin, residual), around 1.
        scale: Half the range by which the size changes, around 1; what is missing at the border is mirrored.
    """
    count = len(images)
    turned = _turned(images, _placements(count, scale, generator))
    return _restained(turned, 1 + stain * (2 * torch.rand(count, 3, generator=generator) - 1))


def augment_with_masks(
    images: Tensor, masks: Tensor, generator: torch.Generator, stain: float = 0.1, scale: float = 0.0
) -> tuple[Tensor, Tensor]:
    """`augment` for images with masks (B, H, W) int64, which turn with them (nearest neighbour)."""
    count = len(images)
    placements = _placements(count, scale, generator)
    turned = _turned(images, placements)
    masks = _turned(masks[:, None].float(), placements, "nearest")[:, 0].long()
    return _restained(turned, 1 + stain * (2 * torch.rand(count, 3, generator=generator) - 1)), masks


def _restained(images: Tensor, gain: Tensor) -> Tensor:
    """Each stain's amount multiplied by `gain` (B, 3)."""
    stains = _HED.to(images.device)
    density = -torch.log(images.clamp(min=1 / 255))
    amounts = torch.einsum("bchw,cs->bshw", density, torch.linalg.inv(stains))
    jittered = torch.einsum("bshw,sc->bchw", amounts * gain.to(images.device)[:, :, None, None], stains)
    return torch.exp(-jittered).clamp(0, 1)


def _placements(count: int, scale: float, generator: torch.Generator) -> Tensor:
    """Affine maps (count, 2, 3): a random symmetry of the square, sizes within 1 ± scale."""
    sizes = 1 + scale * (2 * torch.rand(count, generator=generator) - 1)
    turn = torch.randint(4, (count,), generator=generator) * (math.pi / 2)
    mirror = 1 - 2.0 * torch.randint(2, (count,), generator=generator)
    cos, sin = turn.cos().round() / sizes, turn.sin().round() / sizes
    rows = torch.stack([torch.stack([mirror * cos, -sin]), torch.stack([mirror * sin, cos])])  # (2, 2, count)
    return torch.cat([rows.permute(2, 0, 1), torch.zeros(count, 2, 1)], dim=2)


def _turned(images: Tensor, placements: Tensor, mode: str = "bilinear") -> Tensor:
    grid = affine_grid(placements.to(images.device), list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=False)
