from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lpd.prototypes import effective_number, position_share, spatial_divergence


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
