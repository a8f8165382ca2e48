"""What is counted of a prototype bank, tile by tile, and the figures made of it for every resample of the sources.

Every figure is made of sums over slides or patients (`source`), so that a resample is a row of weights, how often each
source was drawn: weights (R, S) → figures (R, C). The first row is all ones: the figure itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from napari_lpd.models.prototypes import (
    CONSISTENT_SHARE,
    HITS,
    OUTSIDE_SHARE,
    coverage_threshold,
    focus_overlap,
    spatial_divergence,
    spatial_similarity,
    usage_entropy,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MIN_LOCATIONS = 10  # of a class in a tile, for what is compared within one tile
CANDIDATES = 500  # thresholds tried for θ_c in a resample
OF_TILES = ("spatial_divergence", "spatial_similarity", "focus_overlap")
STABILITY = ("stability_stain", "stability_noise", "stability_rotation")


class Locations(NamedTuple):
    """Where banks are compared; the same places for all of them.

    Attributes:
        class_count: C.
        reference: Per tile (h, w) uint8: 0..C-1 class, more: not counted.
        source: (n,) per tile: number of its slide or patient, 0..S-1.
    """

    class_count: int
    reference: Sequence[NDArray[np.uint8]]
    source: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.uint8]:
        """The reference of all places of all tiles, one after the other: (P,)."""
        return np.concatenate([grid.ravel() for grid in self.reference])

    @property
    def place_source(self) -> NDArray[np.int64]:
        """The source of every place: (P,)."""
        return np.repeat(self.source, [grid.size for grid in self.reference])


class NearestLocations(NamedTuple):
    """The place of every tile that is nearest to each prototype, among those that count.

    Attributes:
        cosine: (n, N); NaN where no place of a tile counts.
        place: (n, N) index in the flattened map.
        label: (n, N) reference there.
    """

    cosine: NDArray[np.float32]
    place: NDArray[np.int64]
    label: NDArray[np.int64]


class BankRecord:
    """What a bank's cosine maps say of every tile.

    Args:
        class_count: C.
        k: Prototypes per class.
        temperature: τ of the softmax over places.

    Attributes:
        maps: Per tile (N, h, w) float32.
        of_tiles: Per tile (3, C): `OF_TILES`, NaN where the class has fewer than `MIN_LOCATIONS`.
        stability: Per tile (3, N): correlation of the maps after each change of the image, NaN where not measured.
    """

    def __init__(self, class_count: int, k: int, temperature: float) -> None:
        self.class_count, self.k, self.temperature = class_count, k, temperature
        self.maps: list[NDArray[np.float32]] = []
        self.of_tiles: list[NDArray[np.float64]] = []
        self.stability: list[NDArray[np.float64]] = []

    def add(self, maps: torch.Tensor, reference: NDArray[np.uint8], stability: NDArray[np.float64] | None) -> None:
        """Add a tile: cosine maps (N, h, w), reference (h, w), correlations (3, N)."""
        found = np.full((len(OF_TILES), self.class_count), np.nan)
        for c, own in enumerate(maps.chunk(self.class_count)):
            inside = own[:, torch.from_numpy(reference == c)]
            if inside.shape[1] >= MIN_LOCATIONS:
                found[:, c] = (
                    spatial_divergence(inside, self.temperature),
                    spatial_similarity(inside, self.temperature),
                    focus_overlap(inside),
                )
        self.maps.append(maps.numpy())
        self.of_tiles.append(found)
        self.stability.append(np.full((len(STABILITY), len(maps)), np.nan) if stability is None else stability)

    def cosines(self, c: int) -> NDArray[np.float32]:
        """Concatenate the maps of class c's prototypes at all locations of all tiles: (k, P)."""
        own = slice(c * self.k, (c + 1) * self.k)
        return np.concatenate([maps[own].reshape(self.k, -1) for maps in self.maps], axis=1)

    def hits(self, places: Locations) -> NearestLocations:
        """Find the nearest location in every tile."""
        count = self.class_count * self.k
        found = NearestLocations(
            np.full((len(self.maps), count), np.nan, np.float32),
            np.zeros((len(self.maps), count), np.int64),
            np.zeros((len(self.maps), count), np.int64),
        )
        for tile, (maps, reference) in enumerate(zip(self.maps, places.reference, strict=True)):
            counted = reference.ravel() < self.class_count
            if counted.any():
                cosines = np.where(counted, maps.reshape(count, -1), -np.inf)
                found.place[tile] = cosines.argmax(1)
                found.cosine[tile] = cosines.max(1)
                found.label[tile] = reference.ravel()[found.place[tile]]
        return found


def bank_figures(record: BankRecord, places: Locations, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute every figure of a bank that is made of sums over slides or patients: name → (R, C)."""
    labels, sources, hits = places.labels, places.place_source, record.hits(places)
    columns = np.array(record.of_tiles).transpose(1, 0, 2)  # (3, n, C)
    found = {
        name: weighted_means(values, places.source, weights) for name, values in zip(OF_TILES, columns, strict=True)
    }
    stability = np.array(record.stability).reshape(len(places.source), len(STABILITY), record.class_count, record.k)
    for i, name in enumerate(STABILITY):
        by_prototype = stability[:, i].reshape(len(places.source), -1)
        means = weighted_means(by_prototype, places.source, weights)
        found[name] = _mean_of_prototypes(means, record.k)
    per_class: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ("coverage", "usage_entropy")}
    per_class |= {name: [] for name in ("purity", "lift", "consistency")}
    counts = _sums_per_source(np.eye(record.class_count + 1)[np.minimum(labels, record.class_count)], sources, weights)
    for c in range(record.class_count):
        cosines = record.cosines(c)
        inside, outside = labels == c, (labels != c) & (labels < record.class_count)
        best = cosines.max(0)
        per_class["coverage"].append(
            resampled_coverage((best[inside], sources[inside]), (best[outside], sources[outside]), weights)
        )
        nearest = (cosines == best)[:, inside].T.astype(float)
        served = _sums_per_source(nearest / nearest.sum(1, keepdims=True), sources[inside], weights)
        with np.errstate(invalid="ignore"):
            per_class["usage_entropy"].append(usage_entropy(served))
        purity, consistency = _hit_figures(hits, places, weights, c, record.k)
        prior = _ratio(counts[:, c], counts[:, : record.class_count].sum(1))
        per_class["purity"].append(purity)
        per_class["lift"].append(_ratio(purity, prior))
        per_class["consistency"].append(consistency)
    return found | {name: np.stack(values, axis=1) for name, values in per_class.items()}


def _hit_figures(
    hits: NearestLocations, places: Locations, weights: NDArray[np.float64], c: int, k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Purity and consistency of class c's prototypes, means over them: (R,) each."""
    of_tiles = weights[:, places.source]
    holds = np.array([(grid == c).any() for grid in places.reference])
    wanted = np.minimum(of_tiles[:, holds].sum(1), HITS)
    shares = [
        hit_shares(hits.cosine[:, j], hits.label[:, j], of_tiles, wanted, places.class_count)
        for j in range(c * k, (c + 1) * k)
    ]
    purity = np.mean([share[:, c] for share in shares], axis=0)
    consistent = np.mean([share.max(1) >= CONSISTENT_SHARE for share in shares], axis=0)
    return purity, np.where(wanted > 0, consistent, np.nan)


def hit_shares(
    cosines: NDArray[np.floating],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64],
    wanted: NDArray[np.float64],
    class_count: int,
) -> NDArray[np.float64]:
    """Tissues of a prototype's nearest places, at most one per tile: shares (R, C); NaN where none is wanted.

    Args:
        cosines: (n,) its largest cosine in every tile; NaN: no place of the tile counts.
        labels: (n,) class there.
        weights: (R, n) how often each tile is drawn.
        wanted: (R,) how many hits are looked at.
        class_count: C.
    """
    order = np.argsort(-cosines, kind="stable")[: np.isfinite(cosines).sum()]
    drawn = weights[:, order]
    taken = np.clip(wanted[:, None] - (drawn.cumsum(1) - drawn), 0, drawn)
    return _ratio(taken @ np.eye(class_count)[labels[order]], taken.sum(1)[:, None])


def resampled_coverage(
    inside: tuple[NDArray[np.floating], NDArray[np.int64]],
    outside: tuple[NDArray[np.floating], NDArray[np.int64]],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Compute the whole bank's coverage, with θ_c chosen anew in every resample: (R,); NaN where either is empty.

    In a resample θ_c is one of `CANDIDATES` values between the median and the largest; in the first row it is exact.

    Args:
        inside: max_u s_u at the class's places, and the source of each.
        outside: The same of the other classes' places.
        weights: (R, S).
    """
    if not len(outside[0]) or not len(inside[0]):
        return np.full(len(weights), np.nan)
    values = outside[0].astype(np.float64)
    tried = np.quantile(values, np.linspace(0.5, 1, CANDIDATES), method="nearest")
    exact = coverage_threshold(torch.from_numpy(values))
    thresholds = np.unique([*tried, exact, np.nextafter(values.max(), np.inf)])
    reached, total = _reached(*outside, thresholds, weights)
    fewest = reached[np.arange(len(weights)), (reached <= OUTSIDE_SHARE * total[:, None]).argmax(1)]
    chosen = (reached >= fewest[:, None]).sum(1) - 1  # the largest that as many reach: a value that was drawn
    covered, own = _reached(*inside, thresholds, weights)
    share = _ratio(covered[np.arange(len(weights)), chosen], own)
    return np.where(total > 0, share, np.nan)


def _reached(
    values: NDArray[np.floating],
    sources: NDArray[np.int64],
    thresholds: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count the values that reach each threshold (R, G), and all values (R,)."""
    table = np.zeros((weights.shape[1], len(thresholds) + 1))
    np.add.at(table, (sources, np.searchsorted(thresholds, values.astype(np.float64), side="right")), 1)
    reaching = table[:, ::-1].cumsum(1)[:, ::-1]
    return weights @ reaching[:, 1:], weights @ reaching[:, 0]


class DropCounts(NamedTuple):
    """Pixels of a model's masks against the reference: intersection and union, per tile.

    Attributes:
        whole: (n, C, 2).
        dropped: (n, C·k, 2) of prototype j's class, without j.
    """

    whole: NDArray[np.float64]
    dropped: NDArray[np.float64]


def drop_figures(counts: DropCounts, places: Locations, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """IoU of the classes (R, C), and what dropping a prototype takes from it (R, C·k): its faithfulness."""
    whole = _sums_per_source(counts.whole.reshape(len(counts.whole), -1), places.source, weights)
    dropped = _sums_per_source(counts.dropped.reshape(len(counts.whole), -1), places.source, weights)
    whole, dropped = (sums.reshape(len(weights), -1, 2) for sums in (whole, dropped))
    iou = _ratio(whole[..., 0], whole[..., 1])
    without = _ratio(dropped[..., 0], dropped[..., 1])
    k = without.shape[1] // iou.shape[1]
    loss = iou.repeat(k, 1) - np.where(np.isnan(without), 0, without)
    return {"iou": iou, "prototype_loss": loss, "faithfulness": _mean_of_prototypes(loss, k)}


def weighted_means(
    values: NDArray[np.float64], sources: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Means over tiles (n, M), NaN left out, of every resample: (R, M); NaN where nothing is left."""
    present = np.isfinite(values)
    sums = _sums_per_source(np.where(present, values, 0), sources, weights)
    return _ratio(sums, _sums_per_source(present.astype(float), sources, weights))


def _sums_per_source(
    values: NDArray[np.float64], sources: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Rows (n, M) summed per source, then over the sources drawn: (R, M)."""
    sums = np.zeros((weights.shape[1], values.shape[1]))
    np.add.at(sums, sources, values)
    return weights @ sums


def _mean_of_prototypes(values: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Average over a class's prototypes: (R, C·k) → (R, C), NaN left out."""
    grouped = values.reshape(len(values), -1, k)
    return _ratio(np.nansum(grouped, axis=2), np.isfinite(grouped).sum(2))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
