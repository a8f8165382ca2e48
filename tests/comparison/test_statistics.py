from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lpd.comparison.statistics import (
    BankRecord,
    DropCounts,
    Locations,
    bank_figures,
    drop_figures,
    hit_shares,
    resampled_coverage,
    weighted_means,
)
from napari_lpd.evaluation.metrics import source_draws
from napari_lpd.models.prototypes import coverage, coverage_threshold, spatial_divergence, usage, usage_entropy

ONCE = np.ones((1, 1))
TAU = 0.07


def record_of(maps: list[torch.Tensor], places: Locations, k: int) -> BankRecord:
    record = BankRecord(places.class_count, k, TAU)
    for tile, reference in zip(maps, places.reference, strict=True):
        record.add(tile, reference, None)
    return record


def random_places(tiles: int, seed: int, sources: int = 3, class_count: int = 2) -> Locations:
    rng = np.random.default_rng(seed)
    grids = [rng.integers(0, class_count + 1, (6, 7)).astype(np.uint8) for _ in range(tiles)]
    return Locations(class_count, grids, np.arange(tiles) % sources)


def random_maps(tiles: int, count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.rand(count, 6, 7, generator=generator) - 1 for _ in range(tiles)]


def test_perfect_prototypes_are_perfect():
    """One-hot maps: each of a class's two prototypes is 1 on its half of the class and 0 elsewhere."""
    grid = np.repeat(np.array([0, 0, 1, 1], np.uint8)[:, None], 24, axis=1)
    maps = torch.zeros(4, 4, 24)
    for j in range(4):
        maps[j, j] = 1
    places = Locations(2, [grid] * 3, np.arange(3))
    figures = bank_figures(record_of([maps] * 3, places, 2), places, np.ones((1, 3)))
    for name in ("coverage", "usage_entropy", "purity", "consistency"):
        assert figures[name][0] == pytest.approx([1, 1]), name
    assert figures["lift"][0] == pytest.approx([2, 2])
    assert figures["focus_overlap"][0] == pytest.approx([0, 0])
    assert figures["spatial_divergence"][0] == pytest.approx([1, 1], abs=1e-3)
    assert np.isnan(figures["stability_noise"]).all()  # not measured


def test_prototypes_of_another_tissue_have_no_purity_but_keep_to_one_tissue():
    """Of four places per tile, class 0's first prototype likes class 1, its second one class in one tile each."""
    grid = np.array([[0, 0, 1, 1]], np.uint8)
    first, second = torch.zeros(4, 1, 4), torch.zeros(4, 1, 4)
    first[0, 0, 2] = second[0, 0, 2] = first[1, 0, 0] = second[1, 0, 3] = 1
    places = Locations(2, [grid] * 2, np.arange(2))
    figures = bank_figures(record_of([first, second], places, 2), places, np.ones((1, 2)))
    assert figures["purity"][0, 0] == pytest.approx((0 + 0.5) / 2)
    assert figures["lift"][0, 0] == pytest.approx(0.25 / 0.5)
    assert figures["consistency"][0, 0] == pytest.approx((1 + 0) / 2)  # 2 of 2 hits of class 1; one of each


def test_opposed_prototypes_share_no_place():
    ramp = torch.linspace(-1, 1, 42).reshape(1, 6, 7)
    places = Locations(2, [np.zeros((6, 7), np.uint8), np.ones((6, 7), np.uint8)], np.arange(2))
    figures = bank_figures(record_of([torch.cat([ramp, -ramp, ramp, -ramp])] * 2, places, 2), places, np.ones((1, 2)))
    assert figures["focus_overlap"][0] == pytest.approx([0, 0])
    assert figures["spatial_divergence"][0] == pytest.approx([1, 1], abs=0.02)
    assert figures["spatial_similarity"][0] == pytest.approx([0, 0], abs=1e-6)
    assert figures["usage_entropy"][0] == pytest.approx([1, 1])  # each serves its half


def test_collapsed_prototypes_are_seen_to_be():
    places, maps = random_places(4, 0), [m[:1].repeat(4, 1, 1) for m in random_maps(4, 4, 1)]
    figures = bank_figures(record_of(maps, places, 2), places, np.ones((1, 3)))
    assert figures["spatial_divergence"][0] == pytest.approx([0, 0], abs=1e-6)
    assert figures["spatial_similarity"][0] == pytest.approx([1, 1])
    assert figures["focus_overlap"][0] == pytest.approx([1, 1])


def test_random_prototypes_are_at_chance():
    places = Locations(2, random_places(400, 0).reference, np.zeros(400, np.int64))
    figures = bank_figures(record_of(random_maps(400, 6, 1), places, 3), places, ONCE)
    assert figures["coverage"][0] == pytest.approx([0.05, 0.05], abs=0.01)
    assert figures["usage_entropy"][0] == pytest.approx([1, 1], abs=0.01)
    assert figures["purity"][0] == pytest.approx([0.5, 0.5], abs=0.1)
    assert figures["lift"][0] == pytest.approx([1, 1], abs=0.2)


def test_the_figures_are_those_of_the_formulas():
    places, maps = random_places(5, 3), random_maps(5, 4, 4)
    figures = bank_figures(record_of(maps, places, 2), places, np.ones((1, 3)))
    for c in range(2):
        own = torch.cat([m[2 * c : 2 * c + 2].flatten(1) for m in maps], dim=1)
        inside, outside = torch.from_numpy(places.labels == c), torch.from_numpy(places.labels == 1 - c)
        covered = coverage(own[:, inside], coverage_threshold(own[:, outside].amax(0)))
        assert figures["coverage"][0, c] == pytest.approx(covered.bank)
        assert figures["usage_entropy"][0, c] == pytest.approx(usage_entropy(usage(own[:, inside]).numpy()))
        of_tiles = [
            spatial_divergence(m[2 * c : 2 * c + 2][:, torch.from_numpy(grid == c)], TAU)
            for m, grid in zip(maps, places.reference, strict=True)
        ]
        assert figures["spatial_divergence"][0, c] == pytest.approx(np.mean(of_tiles))


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=15)
def test_drawing_a_source_twice_is_having_its_tiles_twice(seed):
    places, maps = random_places(6, seed), random_maps(6, 4, seed + 1)
    record = record_of(maps, places, 2)
    twice = [i for i in range(6) for _ in range(int((2, 1, 0)[places.source[i]]))]
    drawn = bank_figures(record, places, np.array([[1.0, 1, 1], [2, 1, 0]]))
    doubled = Locations(2, [places.reference[i] for i in twice], places.source[twice])
    again = bank_figures(record_of([maps[i] for i in twice], doubled, 2), doubled, np.ones((1, 3)))
    for name, values in again.items():
        assert drawn[name][1] == pytest.approx(values[0], nan_ok=True), name


@given(st.integers(0, 1000), st.integers(2, 4))
@settings(deadline=None, max_examples=20)
def test_figures_are_bounded_and_do_not_depend_on_the_order_of_prototypes(seed, k):
    places, maps = random_places(4, seed), random_maps(4, 2 * k, seed + 1)
    weights = np.vstack([np.ones(3), source_draws(3, 20, seed)])
    figures = bank_figures(record_of(maps, places, k), places, weights)
    flipped = [m.unflatten(0, (2, k)).flip(1).flatten(0, 1) for m in maps]
    again = bank_figures(record_of(flipped, places, k), places, weights)
    for name, values in figures.items():
        finite = values[np.isfinite(values)]
        assert (finite >= -1e-9).all(), name
        assert name == "lift" or (finite <= 1 + 1e-9).all(), name
        assert again[name] == pytest.approx(values, nan_ok=True), name


def test_a_class_without_places_has_no_figures_and_harms_no_other():
    places = Locations(3, [np.zeros((6, 7), np.uint8), np.ones((6, 7), np.uint8)], np.array([0, 1]))
    figures = bank_figures(record_of(random_maps(2, 6, 0), places, 2), places, np.ones((1, 2)))
    for name, values in figures.items():
        assert np.isnan(values[0, 2]), name
    assert np.isfinite(figures["coverage"][0, :2]).all()


def test_a_class_alone_has_no_coverage():
    inside = (np.ones(5), np.zeros(5, np.int64))
    nothing = (np.empty(0), np.empty(0, np.int64))
    assert np.isnan(resampled_coverage(inside, nothing, ONCE)).all()
    assert np.isnan(resampled_coverage(nothing, inside, ONCE)).all()


def test_hits_are_the_best_tiles_drawn():
    cosines, labels = np.array([0.9, 0.1, 0.8, np.nan, 0.7]), np.array([0, 1, 1, 9, 0])
    shares = hit_shares(cosines, labels, np.ones((1, 5)), np.array([2.0]), 2)
    assert shares.tolist() == [[0.5, 0.5]]
    drawn = np.array([[3.0, 1, 1, 1, 1], [0, 1, 0, 1, 2]])
    assert hit_shares(cosines, labels, drawn, np.array([2.0, 3.0]), 2) == pytest.approx(
        np.array([[1, 0], [2 / 3, 1 / 3]])
    )
    assert np.isnan(hit_shares(cosines, labels, np.ones((1, 5)), np.array([0.0]), 2)).all()


def test_what_a_dropped_prototype_takes_from_the_mask():
    whole = np.array([[[6.0, 10], [2, 4]]])  # one tile, two classes: IoU 0.6 and 0.5
    dropped = np.array([[[6.0, 10], [3, 10], [2, 4], [0, 0]]])
    figures = drop_figures(DropCounts(whole, dropped), Locations(2, [], np.zeros(1, np.int64)), ONCE)
    assert figures["iou"].tolist() == [[0.6, 0.5]]
    assert figures["prototype_loss"][0] == pytest.approx([0, 0.3, 0, 0.5])
    assert figures["faithfulness"][0] == pytest.approx([0.15, 0.25])


def test_means_leave_out_what_is_not_there():
    values = np.array([[1.0, math.nan], [3.0, math.nan], [5.0, 7.0]])
    weights = np.array([[1.0, 1], [0, 2], [2, 0]])
    means = weighted_means(values, np.array([0, 0, 1]), weights)
    assert means[:, 0].tolist() == [3, 5, 2]
    assert means[:2, 1].tolist() == [7, 7]
    assert math.isnan(means[2, 1])
