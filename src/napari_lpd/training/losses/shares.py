"""Learning from shares: how much of a tile's, or a region's, tissue is of which class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.data.tileset import TileSet

EPSILON = 1e-6


def shares_in(maps: Tensor, tissue: Tensor) -> Tensor:
    """Average class probabilities over tissue, with none of the classes as one more label, as in `pixel_entropy`.

    Args:
        maps: Logits of the classes, (…, B, C, h, w).
        tissue: Share of a place that is tissue, (B, h, w).

    Returns:
        (…, B, 1 + C) that sum to 1, or to 0 where there is no tissue.
    """
    probability = pad(maps, (0, 0, 0, 0, 1, 0)).softmax(-3)
    tissue = tissue.to(maps)
    weights = tissue[:, None] / tissue.sum((1, 2)).clamp(min=EPSILON)[:, None, None, None]
    return (probability * weights).sum((-2, -1))


def divergence(found: Tensor, wanted: Tensor, tolerance: float) -> Tensor:
    """Compute the divergence of shares from the nearest that are within the tolerance: 0 there.

    t = w + (p - w) · min(1, tolerance / max|p - w|), and Σ t · log(t / p).

    Args:
        found: p, (…, 1 + C) that sum to 1.
        wanted: w, in the same way.
        tolerance: Largest difference of a share that costs nothing.
    """
    gap = (found - wanted).detach()
    factor = (tolerance / gap.abs().amax(-1, keepdim=True).clamp(min=EPSILON)).clamp(max=1)
    target = (wanted + gap * factor).clamp(min=EPSILON)
    return (target * (target / (found + EPSILON)).log()).sum(-1)


class SharedTiles(nn.Module):
    """The training tiles of which shares are known, and what the model last found in each of them.

    What is known of a region holds for all its tiles together: the shares that are compared are the mean of what was
    found in each when it was last looked at; the tiles of a step are pulled to where it should be.

    Args:
        tiles: The training tiles.
        necks: Number of maps that learn side by side.
    """

    region: Tensor  # (m,) int64: of which region it is
    wanted: Tensor  # (m, 1 + C)
    last: Tensor  # (K, m, 1 + C), NaN before a tile was looked at

    def __init__(self, tiles: TileSet, necks: int = 1) -> None:
        super().__init__()
        numbers = {name: i for i, name in enumerate(dict.fromkeys(said.of for said in tiles.shares.values()))}
        self.regions = len(numbers)
        self._rows = {index: row for row, index in enumerate(tiles.shares)}
        wanted = torch.stack([torch.from_numpy(said.parts) for said in tiles.shares.values()])
        self.register_buffer("region", torch.tensor([numbers[said.of] for said in tiles.shares.values()]), False)
        self.register_buffer("wanted", wanted, False)
        self.register_buffer("last", torch.full((necks, *wanted.shape), torch.nan))

    def forward(self, found: Tensor, indices: Sequence[int], tolerance: float) -> Tensor:
        """Compare the shares that were found in a batch with those that are known.

        Args:
            found: (K, B, 1 + C), of `shares_in`.
            indices: Of the batch's tiles.
            tolerance: As for `divergence`.

        Returns:
            The mean over necks and the tiles with shares and tissue; 0 where there are none.
        """
        pairs = [(place, self._rows[index]) for place, index in enumerate(indices) if index in self._rows]
        chosen = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).to(found.device, non_blocking=True)
        places, rows = chosen.unbind(1)
        found = found[:, places]
        with_tissue = found[0].detach().sum(-1) > 0.5  # how many that are is not asked: on a GPU the CPU would wait
        self.last[:, rows] = torch.where(with_tissue[:, None], found.detach(), self.last[:, rows])
        seen = ~self.last[0, :, 0].isnan()
        ones = torch.zeros(self.regions, device=rows.device).index_add_(0, self.region, seen.float())
        sums = self.last.new_zeros(len(self.last), len(ones), self.wanted.shape[1])
        sums.index_add_(1, self.region, self.last.nan_to_num())
        regions = self.region[rows]
        of_region = sums[:, regions] / ones[regions, None].clamp(min=1)
        apart = divergence(of_region + found - found.detach(), self.wanted[rows], tolerance)
        return (apart * with_tissue).sum() / (len(apart) * with_tissue.sum()).clamp(min=1)
