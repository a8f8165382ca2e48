"""What each prototype of a bank has learned, one by one: shares, flags, nearest patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from napari_lpd.comparison.result import NAN, Patch, PrototypeCard
from napari_lpd.comparison.statistics import MIN_LOCATIONS, BankRecord, Locations, NearestLocations, hit_shares
from napari_lpd.models.prototypes import (
    DEAD_SHARE,
    HITS,
    REDUNDANT_COSINE,
    coverage,
    coverage_threshold,
    effective_number,
    nearest_tiles,
    position_share,
    sibling_cosines,
    source_spread,
    usage,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_lpd.comparison.tiles import Tile

PATCH_SHARE = 0.4  # edge of a patch, as a share of its tile's


class PatchSource(NamedTuple):
    """Tiles among which a bank's nearest patches are.

    Attributes:
        hits: The nearest place of every tile.
        grids: (h, w) of every tile's maps.
        tiles: The tiles.
    """

    hits: NearestLocations
    grids: Sequence[tuple[int, int]]
    tiles: Sequence[Tile]


def nearest_patches(searched: PatchSource, j: int, count: int, per_source: int) -> tuple[Patch, ...]:
    """Cut the patches around prototype j's `count` nearest locations: one per tile, a few per slide, best first."""
    hits, sources = searched.hits, [tile.source for tile in searched.tiles]
    chosen = nearest_tiles(hits.cosine[:, j], sources, count, per_source)
    patches = []
    for i in chosen:
        tile = searched.tiles[i]
        image = tile.read()
        row, column = divmod(int(hits.place[i, j]), searched.grids[i][1])
        centre = [
            int((cell + 0.5) * size / cells)
            for cell, size, cells in zip((row, column), image.shape, searched.grids[i], strict=False)
        ]
        edge = round(PATCH_SHARE * min(image.shape[:2]))
        y, x = (max(0, min(at - edge // 2, size - edge)) for at, size in zip(centre, image.shape, strict=False))
        place = (tile.origin[0] + centre[0], tile.origin[1] + centre[1])
        patch = np.ascontiguousarray(image[y : y + edge, x : x + edge])
        cosine = float(hits.cosine[i, j])
        patches.append(Patch(tile.name, tile.source, place, cosine, patch, tile.slide, tile.fingerprint, tile.file))
    return tuple(patches)


def vector_figures(vectors: Tensor, record: BankRecord, places: Locations) -> dict[str, NDArray[np.float64]]:
    """Figures without an interval, of a bank's vectors (N, D) and maps: name → (1, C)."""
    own = vectors.cpu().chunk(record.class_count)
    siblings = [sibling_cosines(part) for part in own]
    return {
        "effective_number": np.array([[effective_number(part) for part in own]]),
        "mean_cosine": np.array([[float(cosines.mean()) for cosines in siblings]]),
        "max_cosine": np.array([[float(cosines.max()) for cosines in siblings]]),
        "position_share": np.array([[_position_share(record, places, c) for c in range(record.class_count)]]),
    }


def _position_share(record: BankRecord, places: Locations, c: int) -> float:
    """Over the tiles that hold the class; NaN where there are fewer than two, or they differ in size."""
    own = slice(c * record.k, (c + 1) * record.k)
    held = zip(record.maps, places.reference, strict=True)
    maps = [tile[own] for tile, reference in held if (reference == c).sum() >= MIN_LOCATIONS]
    if len(maps) < 2 or len({tile.shape for tile in maps}) > 1:
        return NAN
    return position_share(torch.from_numpy(np.stack(maps)))


def prototype_cards(
    vectors: Tensor,
    record: BankRecord,
    places: Locations,
    losses: NDArray[np.float64] | None,
    nearest: Sequence[tuple[tuple[Patch, ...], tuple[Patch, ...]]],
) -> tuple[tuple[PrototypeCard, ...], ...]:
    """Make a card per class and prototype (C, k).

    Args:
        vectors: (N, D) the bank, in the features' space.
        record: Its maps.
        places: Where they are looked at.
        losses: (N,) IoU that each prototype's class loses without it; None: not measured.
        nearest: Per prototype (N) its patches and places; empty for none.
    """
    k, count = record.k, record.class_count * record.k
    hits, spreads = record.hits(places), hit_spreads(record, places)
    stability = np.array(record.stability).reshape(-1, count)
    measured = np.isfinite(stability).sum(0)
    stable = np.divide(np.nansum(stability, axis=0), measured, out=np.full(count, NAN), where=measured > 0)
    cards = []
    for c, own in enumerate(vectors.cpu().chunk(record.class_count)):
        shares = _shares(record, places, c)
        siblings = sibling_cosines(own).amax(1)
        purity = _purity(hits, places, c, k)
        cards.append(
            tuple(
                PrototypeCard(
                    usage=float(shares[0][u]),
                    own=float(shares[1][u]),
                    marginal=float(shares[2][u]),
                    purity=float(purity[u]),
                    stability=float(stable[c * k + u]),
                    spread=float(spreads[c * k + u]),
                    loss=NAN if losses is None else float(losses[c * k + u]),
                    sibling=float(siblings[u]),
                    dead=bool(shares[1][u] < DEAD_SHARE),
                    redundant=bool(siblings[u] >= REDUNDANT_COSINE),
                    patches=nearest[c * k + u][0] if nearest else (),
                    places=nearest[c * k + u][1] if nearest else (),
                )
                for u in range(k)
            )
        )
    return tuple(cards)


def _shares(record: BankRecord, places: Locations, c: int) -> tuple[Tensor, Tensor, Tensor]:
    """Usage, own and marginal coverage of class c's prototypes: (k,) each; NaN where a class has no place."""
    labels = places.labels
    inside, outside = labels == c, (labels != c) & (labels < record.class_count)
    cosines = torch.from_numpy(record.cosines(c))
    nothing = torch.full((record.k,), NAN)
    if not inside.any():
        return nothing, nothing, nothing
    within = cosines[:, torch.from_numpy(inside)]
    if not outside.any():
        return usage(within), nothing, nothing
    covered = coverage(within, coverage_threshold(cosines[:, torch.from_numpy(outside)].amax(0)))
    return usage(within), covered.own, covered.marginal


def _wanted(places: Locations, c: int) -> int:
    return min(HITS, sum(bool((grid == c).any()) for grid in places.reference))


def _purity(hits: NearestLocations, places: Locations, c: int, k: int) -> NDArray[np.float64]:
    once = np.ones((1, len(places.source)))
    wanted = np.array([_wanted(places, c)], float)
    columns = range(c * k, (c + 1) * k)
    shares = [hit_shares(hits.cosine[:, j], hits.label[:, j], once, wanted, places.class_count) for j in columns]
    return np.array([share[0, c] for share in shares])


def hit_spreads(record: BankRecord, places: Locations) -> NDArray[np.float64]:
    """Slides or patients that each prototype's nearest places amount to: (N,); NaN where its class has no place."""
    cosines = record.hits(places).cosine
    spreads = np.full(cosines.shape[1], NAN)
    for j in range(len(spreads)):
        order = np.argsort(-cosines[:, j], kind="stable")[: np.isfinite(cosines[:, j]).sum()]
        chosen = order[: _wanted(places, j // record.k)]
        if len(chosen):
            spreads[j] = source_spread(places.source[chosen])
    return spreads
