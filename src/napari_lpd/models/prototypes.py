"""Metrics of a prototype bank: how different a class's prototypes are, as vectors and on tissue.

Notation, of one class c with prototypes u = 1..k: s_u(x) is the cosine of prototype u and the features at location x,
after projection to stage 4; Ω_c are the class's locations; v_u is the softmax of s_u / τ over Ω_c (LPD eq. 3). No
metric depends on the length of a prototype, and only those per prototype depend on their order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FOCUS_SHARE = 0.1  # share of a class's locations that are a prototype's focus
OUTSIDE_SHARE = 0.05  # share of the locations outside a class that may reach its threshold θ_c
HITS = 100  # tiles counted for purity
CONSISTENT_SHARE = 0.8  # share of the hits in one tissue from which a prototype is consistent (Huang et al. 2023)
DEAD_SHARE = 0.01  # a prototype that reaches θ_c on a smaller share of Ω_c is dead
REDUNDANT_COSINE = 0.95  # a prototype whose cosine to a sibling is as large is redundant


def effective_number(prototypes: Tensor) -> float:
    """Count the different directions among k vectors (k, D): 1 where all are alike, k where all are orthogonal.

    exp(-Σ λ ln λ) over the eigenvalues λ of their cosine matrix divided by k (Vendi score; Friedman & Dieng 2023).
    """
    unit = normalize(prototypes.double(), dim=1)
    eigenvalues = torch.linalg.eigvalsh(unit @ unit.T / len(unit)).clamp(min=0)
    return float(torch.exp(torch.special.entr(eigenvalues).sum()))


def sibling_cosines(prototypes: Tensor) -> Tensor:
    """Compute the cosine of every prototype (k, D) to its siblings: (k, k - 1)."""
    unit = normalize(prototypes.double(), dim=1)
    k = len(unit)
    return (unit @ unit.T)[~torch.eye(k, dtype=torch.bool, device=unit.device)].reshape(k, k - 1)


def focus_distributions(cosines: Tensor, temperature: float) -> Tensor:
    """Compute v, where each prototype looks: softmax over locations of s / τ (LPD eq. 3).

    Args:
        cosines: (k, n), s at the n locations of a class.
        temperature: τ.
    """
    return (cosines.double() / temperature).softmax(1)


def _pairs(k: int) -> tuple[Tensor, Tensor]:
    """Return first and second of every pair u < w."""
    first, second = torch.triu_indices(k, k, offset=1)
    return first, second


def spatial_divergence(cosines: Tensor, temperature: float) -> float:
    """Average JSD(v_u, v_w) / ln 2 over pairs: 0 same locations, 1 disjoint locations; NaN where k = 1.

    JSD(v, w) = H((v + w) / 2) - (H(v) + H(w)) / 2 (Lin 1991), H the entropy in nats.

    Args:
        cosines: (k, n), s at the n locations of a class.
        temperature: τ of the softmax over locations (LPD eq. 3).
    """
    v = focus_distributions(cosines, temperature)
    first, second = _pairs(len(v))
    entropies = torch.special.entr(v).sum(1)
    divergence = torch.special.entr((v[first] + v[second]) / 2).sum(1) - (entropies[first] + entropies[second]) / 2
    return float(divergence.mean() / math.log(2))


def spatial_similarity(cosines: Tensor, temperature: float) -> float:
    """Average exp(-J), J = KL(v_u‖v_w) + KL(v_w‖v_u) (LPD eqs. 4-5), over pairs: 1 same locations; k = 1: NaN.

    Args:
        cosines: (k, n), s at the n locations of a class.
        temperature: τ.
    """
    log_v = (cosines.double() / temperature).log_softmax(1)
    first, second = _pairs(len(log_v))
    jeffreys = ((log_v[first].exp() - log_v[second].exp()) * (log_v[first] - log_v[second])).sum(1)
    return float(torch.exp(-jeffreys).mean())


def focus_overlap(cosines: Tensor, share: float = FOCUS_SHARE) -> float:
    """Average the IoU of foci, the `share` of the n locations with the largest s, over pairs; k = 1: NaN.

    Args:
        cosines: (k, n).
        share: Of the locations; at least one is in the focus.
    """
    k, n = cosines.shape
    focus = torch.zeros(k, n).scatter_(1, cosines.topk(_focus_size(n, share)).indices.cpu(), 1)
    first, second = _pairs(k)
    both = (focus[first] * focus[second]).sum(1)
    either = focus[first].sum(1) + focus[second].sum(1) - both
    return float((both / either).double().mean())  # independent of the order of the pairs


def chance_overlap(n: int, share: float = FOCUS_SHARE) -> float:
    """Compute the `focus_overlap` of unrelated prototypes on n locations: mean x / (2m - x), x hypergeometric.

    For many locations and a share of 0.1: 0.01 / 0.19 = 0.053.
    """
    from scipy.stats import hypergeom  # takes a second to import, and no training needs it

    m = _focus_size(n, share)
    shared = np.arange(m + 1)
    return float((hypergeom.pmf(shared, n, m, m) * shared / (2 * m - shared)).sum())


def _focus_size(n: int, share: float) -> int:
    return max(1, round(share * n))


def coverage_threshold(outside: Tensor, share: float = OUTSIDE_SHARE) -> float:
    """Compute θ_c, the least cosine that at most `share` of the locations outside the class reach.

    Args:
        outside: (m,) max_u s_u at the locations of all other classes, m ≥ 1.
        share: Of these locations; 0.05: their 95th percentile.
    """
    ordered = outside.double().sort(descending=True).values
    allowed = int(share * len(ordered))
    reached = ordered[ordered > ordered[allowed]]  # ties with the first one in excess are excluded, too
    return float(reached[-1]) if len(reached) else float(np.nextafter(np.float64(ordered[0]), np.inf))


class Coverage(NamedTuple):
    """Shares of a class's locations where prototypes reach the class's threshold θ_c.

    Attributes:
        bank: Where any does: max_u s_u ≥ θ_c.
        own: (k,) where each does.
        marginal: (k,) where each alone does, so that it would be lost without it.
    """

    bank: float
    own: Tensor
    marginal: Tensor


def coverage(cosines: Tensor, threshold: float) -> Coverage:
    """Measure the share of the class's locations (k, n) that the prototypes cover."""
    reached = cosines.double() >= threshold
    alone = reached & (reached.sum(0) == 1)
    return Coverage(float(reached.any(0).double().mean()), reached.double().mean(1), alone.double().mean(1))


def usage(cosines: Tensor) -> Tensor:
    """Measure the share of locations (k, n) where each prototype is nearest: (k,); equal ones share a location."""
    nearest = cosines == cosines.amax(0)
    return (nearest / nearest.sum(0)).double().mean(1)


def usage_entropy(shares: NDArray[np.floating]) -> NDArray[np.float64]:
    """Compute the entropy of usage over ln k, (..., k) → (...): 0 one serves all locations, 1 all as many."""
    from scipy.stats import entropy

    entropies: NDArray[np.float64] = entropy(shares, axis=-1) / np.log(np.shape(shares)[-1])
    return entropies


def source_spread(sources: NDArray[np.generic]) -> float:
    """Count the slides or patients of the hits (n,): exp of the entropy of their shares (Hill number)."""
    counts = np.unique(sources, return_counts=True)[1]
    from scipy.stats import entropy

    return float(np.exp(entropy(counts)))


def nearest_tiles(
    scores: NDArray[np.floating], sources: Sequence[str], count: int, per_source: int
) -> NDArray[np.int64]:
    """Return the indices of the `count` best-scored tiles, best first, at most `per_source` of a slide or patient.

    Args:
        scores: (n,) of a prototype, one per tile; NaN where no location in the tile counts.
        sources: Slide or patient of every tile.
        count: Number of tiles; fewer where there are no more.
        per_source: Maximum of one slide or patient.
    """
    counts: dict[str, int] = {}
    chosen: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if len(chosen) == count or np.isnan(scores[index]):
            break
        if counts.get(sources[index], 0) < per_source:
            counts[sources[index]] = counts.get(sources[index], 0) + 1
            chosen.append(int(index))
    return np.array(chosen, np.int64)


def map_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Correlate (Pearson) maps (N, n) over locations with those of a changed image: (N,); constant maps: NaN."""
    first, second = (maps.double() - maps.double().mean(1, keepdim=True) for maps in (first, second))
    return (first * second).sum(1) / (first.square().sum(1) * second.square().sum(1)).sqrt()


def position_share(maps: Tensor) -> float:
    """Measure how far the location in the tile, not the tissue, tells a class's prototypes apart: 0 not, 1 wholly.

    The padding at the rims tells a network where in a tile it is, and prototypes can differ by that alone. Of
    the differences between two prototypes' maps, less their mean over the tile: variance of the mean tile over mean
    variance, less what as many unrelated tiles would give; mean over pairs.

    Args:
        maps: (n, k, h, w) cosine maps of n ≥ 2 tiles, k ≥ 2.
    """
    first, second = _pairs(maps.shape[1])
    differences = (maps[:, first] - maps[:, second]).double().flatten(2)
    differences = differences - differences.mean(2, keepdim=True)
    share = differences.mean(0).square().mean(1) / differences.square().mean((0, 2))
    return float(((share - 1 / len(maps)) / (1 - 1 / len(maps))).clamp(min=0).nanmean())  # 0 / 0: equal prototypes


def at_places(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Sample labels (H, W) at the centres of the cells of a map (h, w)."""
    rows, columns = ((torch.arange(n) + 0.5) * size / n for n, size in zip(grid, mask.shape, strict=True))
    return mask[rows.long()][:, columns.long()]
