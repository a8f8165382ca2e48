"""The dense CRF's mean field in torch's operations, for GPUs: the maths of `lattice.py`, other means.

A vertex is found by sorting the vertices' numbers, and every sum is a gather (`embedding_bag`): nothing is added to the
same place by several threads, so that one device always gives the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn.functional import embedding_bag

from napari_lpd.models.crf.lattice import FACTORS, SMALLEST_MASS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_lpd.core.settings.prediction import CrfSettings


class Lattice(NamedTuple):
    """A permutohedral lattice of m vertices over n points in d dimensions.

    Attributes:
        corners: (n, d + 1) vertices of each point's simplex.
        weights: (n, d + 1) barycentric weight of each.
        points: (n (d + 1),) the points at a vertex, one vertex after the other.
        point_weights: The weight of each.
        first: (m,) where a vertex's points begin.
        neighbours: (d + 1, 2, m) the two neighbours of a vertex along each direction; m where there is none.
    """

    corners: Tensor
    weights: Tensor
    points: Tensor
    point_weights: Tensor
    first: Tensor
    neighbours: Tensor

    def filtered(self, values: Tensor) -> Tensor:
        """Filter values (n, L) with the Gaussian, up to a constant."""
        vertices = embedding_bag(self.points, values, self.first, mode="sum", per_sample_weights=self.point_weights)
        vertices = torch.cat([vertices, vertices.new_zeros(1, values.shape[1])])
        for before, after in self.neighbours:
            vertices[:-1] = vertices[:-1] + (vertices[before] + vertices[after]) / 2
        return embedding_bag(self.corners, vertices, mode="sum", per_sample_weights=self.weights)

    def scaled(self, factor: Tensor) -> Lattice:
        """Weight the points by `factor` (n, 1), on the way in and on the way out."""
        return self._replace(weights=self.weights * factor, point_weights=self.point_weights * factor[self.points, 0])


def mean_field(
    image: NDArray[np.uint8], unary: NDArray[np.float32], settings: CrfSettings, device: str
) -> NDArray[np.float32]:
    """Find Q (L, H, W) from an image (H, W, 3) and energies (L, H, W) on a device of torch's."""
    height, width = image.shape[:2]
    rows, columns = (torch.arange(n, device=device, dtype=torch.float32) for n in (height, width))
    places = torch.stack([columns.repeat(height), rows.repeat_interleave(width)], 1)
    colours = torch.from_numpy(np.array(image)).to(device).reshape(-1, 3) / settings.colour_sigma
    kernels = (
        (settings.gaussian_weight, places / settings.gaussian_sigma),
        (settings.bilateral_weight, torch.cat([places / settings.bilateral_sigma, colours], 1)),
    )
    lattices = []
    for weight, features in kernels:
        if weight:
            lattice = build_lattice(features)
            mass = lattice.filtered(torch.ones_like(places[:, :1]))
            lattices.append(lattice.scaled((weight / (mass + float(SMALLEST_MASS))).sqrt()))
    energy = torch.from_numpy(unary).to(device).flatten(1).T.contiguous()
    q = (-energy).softmax(1)
    for _ in range(settings.iterations):
        q = (sum((lattice.filtered(q) for lattice in lattices), -energy)).softmax(1)
    return np.ascontiguousarray(q.T.reshape(unary.shape).cpu().numpy())


def build_lattice(features: Tensor) -> Lattice:
    """Build the lattice of points (n, d), in units of the kernel's standard deviation."""
    c = features.shape[1] + 1
    numbers, weights = _embedded(features)
    vertices, corners = numbers.unique(return_inverse=True)
    order = corners.flatten().argsort(stable=True)
    counts = torch.zeros_like(vertices).scatter_add_(0, corners.flatten(), torch.ones_like(order))
    steps = _steps(c, features.device)
    wanted = vertices + torch.stack([-steps, steps], 1)[..., None]  # (c, 2, m)
    place = torch.searchsorted(vertices, wanted).clamp(max=len(vertices) - 1)
    return Lattice(
        corners=corners,
        weights=weights,
        points=order // c,
        point_weights=weights.flatten()[order],
        first=counts.cumsum(0) - counts,
        neighbours=torch.where(vertices[place] == wanted, place, len(vertices)),
    )


def _steps(c: int, device: torch.device) -> Tensor:
    """Find what the number of a vertex changes by along c directions."""
    factors = torch.tensor([*FACTORS[: c - 1].tolist(), 0], device=device)
    return factors.sum() - c * factors


def _embedded(features: Tensor) -> tuple[Tensor, Tensor]:
    """Find the numbers of the vertices of points' simplices, and the points' weights there, both (n, d + 1)."""
    n, d = features.shape
    c = d + 1
    index = torch.arange(1, c, device=features.device, dtype=torch.float32)
    along = features * ((2 / 3) ** 0.5 * c / (index * (index + 1)).sqrt())
    along = torch.cat([along.new_zeros(n, 1), along], 1)
    above = along.flip(1).cumsum(1).flip(1) - along
    lifted = above - along * torch.arange(c, device=features.device)  # on the plane where coordinates sum to 0
    multiple = (lifted / c).round()
    x = lifted - multiple * c
    order = x.sort(dim=1, descending=True, stable=True).indices
    rank = order.argsort(1) + multiple.sum(1, keepdim=True).long()
    turn = (rank < 0).long() - (rank > d).long()
    rank = rank + turn * c  # the corner is back on the plane
    ordered = torch.empty_like(x).scatter_(1, rank, x - turn * c).flip(1)
    weights = (ordered - ordered.roll(1, 1)) / c
    weights[:, 0] += 1
    steps = _steps(c, features.device)
    moves = torch.empty_like(rank).scatter_(1, rank, steps.expand(n, c)).flip(1)
    factors = torch.tensor([*FACTORS[:d].tolist(), 0], device=features.device)
    lowest = ((multiple.long() + turn) * c * factors).sum(1, keepdim=True)
    return torch.cat([lowest, moves[:, :-1]], 1).cumsum(1), weights
