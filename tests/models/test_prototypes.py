from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lpd.models.network import cosine_maps
from napari_lpd.models.prototypes import (
    at_places,
    chance_overlap,
    coverage,
    coverage_threshold,
    effective_number,
    focus_overlap,
    map_correlation,
    nearest_tiles,
    position_share,
    sibling_cosines,
    source_spread,
    spatial_divergence,
    spatial_similarity,
    usage,
    usage_entropy,
)
from napari_lpd.training.losses.terms import diversity_loss


def test_equal_vectors_are_one_and_orthogonal_ones_are_all():
    assert effective_number(torch.ones(4, 8)) == pytest.approx(1)
    assert effective_number(torch.eye(4, 8) * torch.tensor([[1.0], [2], [3], [4]])) == pytest.approx(4)


def test_two_vectors_match_the_closed_form():
    angle = math.pi / 3  # eigenvalues (1 ± cos) / 2
    vectors = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_number(vectors) == pytest.approx(expected, rel=1e-6)


@given(st.integers(1, 6), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_the_effective_number_lies_between_one_and_k_in_any_order_and_scale(k, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(k, 5, generator=generator)
    number = effective_number(vectors)
    assert 1 - 1e-6 <= number <= k + 1e-6
    assert effective_number(3 * vectors.flip(0)) == pytest.approx(number)


def test_equal_maps_diverge_by_nothing_and_disjoint_ones_wholly():
    assert spatial_divergence(torch.rand(1, 9).repeat(3, 1), 0.07) == pytest.approx(0, abs=1e-6)
    disjoint = torch.full((3, 9), -1.0)
    disjoint[0, :3] = disjoint[1, 3:6] = disjoint[2, 6:] = 1.0
    assert spatial_divergence(disjoint, 0.02) == pytest.approx(1, abs=1e-6)


def test_the_share_of_position_is_found_between_none_and_all():
    generator = torch.Generator().manual_seed(0)
    tissue = torch.randn(200, 2, 8, 8, generator=generator)
    place = torch.randn(1, 2, 8, 8, generator=generator).expand(200, -1, -1, -1)
    place = place * ((tissue[:, 0] - tissue[:, 1]).std() / (place[:, 0] - place[:, 1]).std())
    assert position_share(tissue) == pytest.approx(0, abs=0.02)
    assert position_share(place) == pytest.approx(1)
    assert position_share(place + tissue) == pytest.approx(0.5, abs=0.08)
    assert position_share(tissue + tissue.mean(1, keepdim=True) * 9) == pytest.approx(0, abs=0.02)  # what they share
    assert math.isnan(position_share(torch.ones(3, 2, 4, 4)))


# Vectors


def test_cosines_to_siblings_of_equal_opposed_and_orthogonal_vectors():
    vectors = torch.tensor([[1.0, 0], [5, 0], [-2, 0], [0, 1]])
    expected = [[1, -1, 0], [1, -1, 0], [-1, -1, 0], [0, 0, 0]]
    assert sibling_cosines(vectors).tolist() == expected
    assert sibling_cosines(vectors[:1]).shape == (1, 0)


@given(st.integers(2, 6), st.integers(0, 1000), st.floats(0.01, 100))
@settings(deadline=None, max_examples=30)
def test_sibling_cosines_do_not_depend_on_length(k, seed, scale):
    vectors = torch.randn(k, 5, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(sibling_cosines(scale * vectors), sibling_cosines(vectors), atol=1e-6)
    assert (sibling_cosines(vectors).abs() <= 1 + 1e-9).all()


# Where prototypes look


def test_two_maps_on_two_places_match_the_closed_form():
    maps = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # v = (1-p, p) and (p, 1-p), p = 1 / (1 + e^(-1/τ)), mean (½, ½)
    tau = 0.5
    p = 1 / (1 + math.exp(-1 / tau))
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert spatial_divergence(maps, tau) == pytest.approx((math.log(2) - entropy) / math.log(2))
    jeffreys = 2 * (2 * p - 1) / tau  # (p - (1 - p)) (log p - log (1 - p)), twice
    assert spatial_similarity(maps, tau) == pytest.approx(math.exp(-jeffreys))


def test_equal_maps_are_wholly_similar_and_disjoint_ones_not_at_all():
    assert spatial_similarity(torch.rand(1, 9).repeat(3, 1), 0.07) == pytest.approx(1)
    disjoint = torch.full((3, 9), -1.0)
    disjoint[0, :3] = disjoint[1, 3:6] = disjoint[2, 6:] = 1.0
    assert spatial_similarity(disjoint, 0.02) == pytest.approx(0, abs=1e-6)


def test_the_papers_similarity_is_that_of_the_training_loss():
    generator = torch.Generator().manual_seed(0)
    features, prototypes = torch.randn(1, 5, 4, 6, generator=generator), torch.randn(3, 5, generator=generator)
    inside = torch.rand(1, 1, 4, 6, generator=generator) > 0.3
    loss = diversity_loss(features, prototypes, inside, temperature=0.3)
    cosines = cosine_maps(features, prototypes)[0][:, inside[0, 0]]
    assert spatial_similarity(cosines, 0.3) == pytest.approx(float(loss), rel=1e-4)


def test_of_one_prototype_nothing_is_compared():
    one = torch.rand(1, 9)
    assert math.isnan(spatial_divergence(one, 0.07))
    assert math.isnan(spatial_similarity(one, 0.07))
    assert math.isnan(focus_overlap(one))


@given(st.integers(2, 5), st.integers(10, 60), st.integers(0, 1000), st.floats(0.02, 2))
@settings(deadline=None, max_examples=40)
def test_what_compares_maps_is_bounded_and_does_not_depend_on_their_order(k, n, seed, tau):
    maps = 2 * torch.rand(k, n, generator=torch.Generator().manual_seed(seed)) - 1
    for figure in (lambda m: spatial_divergence(m, tau), lambda m: spatial_similarity(m, tau), focus_overlap):
        value = figure(maps)
        assert -1e-9 <= value <= 1 + 1e-9
        assert figure(maps.flip(0)) == pytest.approx(value, abs=1e-9)
    assert focus_overlap(3 * maps) == focus_overlap(maps)


def test_foci_of_equal_opposed_and_half_shared_maps():
    rising = torch.arange(40.0)
    assert focus_overlap(torch.stack([rising, rising])) == 1
    assert focus_overlap(torch.stack([rising, -rising])) == 0
    shifted = rising.roll(-2)  # two of the four best places are shared: 2 / 6
    assert focus_overlap(torch.stack([rising, shifted])) == pytest.approx(1 / 3)


def test_unrelated_foci_overlap_by_chance():
    assert chance_overlap(100_000) == pytest.approx(0.01 / 0.19, rel=1e-3)
    assert chance_overlap(2, 0.5) == pytest.approx(0.5)  # one of two places each: the same one every other time
    generator = torch.Generator().manual_seed(0)
    found = [focus_overlap(torch.rand(2, 40, generator=generator)) for _ in range(4000)]
    assert sum(found) / len(found) == pytest.approx(chance_overlap(40), rel=0.05)


# How much of a class prototypes cover


def test_the_threshold_is_reached_by_no_more_than_five_percent_outside():
    outside = torch.arange(100.0)
    threshold = coverage_threshold(outside)
    assert threshold == 95
    assert (outside >= threshold).sum() == 5
    assert coverage_threshold(torch.arange(10.0)) > 9  # of ten places none may reach it
    tied = torch.tensor([0.0] * 90 + [1.0] * 10, dtype=torch.float64)
    assert (tied >= coverage_threshold(tied)).sum() == 0


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]) | st.floats(-1, 1), min_size=1, max_size=200))
@settings(deadline=None, max_examples=60)
def test_whatever_is_outside_the_threshold_keeps_its_promise(values):
    outside = torch.tensor(values, dtype=torch.float64)
    threshold = coverage_threshold(outside)
    assert (outside >= threshold).sum() <= 0.05 * len(values)
    below = outside[outside < threshold]
    assert not len(below) or (outside >= below.max()).sum() > 0.05 * len(values)  # and it is the least such


def test_one_hot_prototypes_cover_their_own_places_alone():
    covered = coverage(torch.eye(4), 0.5)
    assert covered.bank == 1
    assert covered.own.tolist() == covered.marginal.tolist() == [0.25] * 4


def test_an_equal_sibling_covers_nothing_of_its_own():
    covered = coverage(torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]), 0.5)
    assert covered.bank == 0.75
    assert covered.own.tolist() == [0.5, 0.5, 0.25]
    assert covered.marginal.tolist() == [0, 0, 0.25]


@given(st.integers(1, 5), st.integers(1, 50), st.integers(0, 1000), st.floats(-1, 1))
@settings(deadline=None, max_examples=40)
def test_coverage_is_bounded_by_its_parts(k, n, seed, threshold):
    maps = 2 * torch.rand(k, n, generator=torch.Generator().manual_seed(seed)) - 1
    covered = coverage(maps, threshold)
    assert covered.own.max() - 1e-9 <= covered.bank <= covered.own.sum() + 1e-9
    assert (covered.marginal <= covered.own).all()
    assert covered.marginal.sum() <= covered.bank + 1e-9
    assert coverage(maps.flip(0), threshold).own.flip(0).tolist() == covered.own.tolist()


@given(st.integers(2, 5), st.integers(2, 50), st.integers(0, 1000), st.floats(0.1, 10))
@settings(deadline=None, max_examples=40)
def test_usage_is_shared_out_whole_in_any_order_and_scale(k, n, seed, scale):
    maps = 2 * torch.rand(k, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    shares = usage(maps)
    assert float(shares.sum()) == pytest.approx(1)
    assert usage(scale * maps).tolist() == pytest.approx(shares.tolist())
    assert usage(maps.flip(0)).flip(0).tolist() == pytest.approx(shares.tolist())
    assert -1e-9 <= float(usage_entropy(shares.numpy())) <= 1 + 1e-9


def test_usage_of_one_hot_equal_and_idle_prototypes():
    assert usage(torch.eye(4)).tolist() == [0.25] * 4
    assert usage(torch.ones(3, 7)).tolist() == pytest.approx([1 / 3] * 3)  # equal ones share
    assert usage(torch.tensor([[1.0, 1, 1], [0, 0, 0]])).tolist() == [1, 0]
    assert usage_entropy(np.array([0.25] * 4)) == pytest.approx(1)
    assert usage_entropy(np.array([1.0, 0])) == 0
    assert usage_entropy(np.array([0.5, 0.5, 0, 0])) == pytest.approx(0.5)


# Hits, stability


def test_sources_of_hits_count_by_their_shares():
    assert source_spread(np.array(["a"] * 5)) == pytest.approx(1)
    assert source_spread(np.array(["a", "b", "c", "d"])) == pytest.approx(4)
    assert source_spread(np.array(["a", "a", "a", "b"])) == pytest.approx(
        math.exp(0.75 * math.log(4 / 3) + math.log(4) / 4)
    )


def test_nearest_tiles_are_the_best_few_of_each_source():
    scores = np.array([0.9, 0.8, 0.7, 0.6, np.nan, 0.5])
    sources = ["a", "a", "a", "b", "c", "b"]
    assert nearest_tiles(scores, sources, 3, 3).tolist() == [0, 1, 2]
    assert nearest_tiles(scores, sources, 3, 2).tolist() == [0, 1, 3]
    assert nearest_tiles(scores, sources, 9, 1).tolist() == [0, 3]


@given(st.lists(st.tuples(st.floats(-1, 1), st.sampled_from("abc")), max_size=30), st.integers(0, 9), st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_nearest_tiles_are_never_too_many_and_never_twice(tiles, count, per_source):
    sources = [source for _, source in tiles]
    chosen = nearest_tiles(np.array([score for score, _ in tiles]), sources, count, per_source).tolist()
    assert len(chosen) == len(set(chosen)) <= count
    assert all([sources[i] for i in chosen].count(source) <= per_source for source in "abc")


def test_maps_correlate_whatever_their_scale_and_level():
    maps = torch.rand(2, 30, generator=torch.Generator().manual_seed(0))
    assert map_correlation(maps, 3 * maps + 1).tolist() == pytest.approx([1, 1])
    assert map_correlation(maps, -maps).tolist() == pytest.approx([-1, -1])
    assert map_correlation(maps, torch.ones(2, 30)).isnan().all()


def test_labels_are_taken_at_the_middle_of_every_cell():
    mask = torch.arange(36).reshape(6, 6)
    assert at_places(mask, (2, 3)).tolist() == [[7, 9, 11], [25, 27, 29]]
    assert at_places(mask, (6, 6)).tolist() == mask.tolist()
