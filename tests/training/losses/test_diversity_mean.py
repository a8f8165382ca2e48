"""Over what the diversity loss is a mean: pairs of prototypes, then the classes of images that have places."""

from __future__ import annotations

import math

import pytest
import torch

from napari_lpd.training.losses.terms import diversity_loss

SAME = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # two prototypes that look at the same places: loss 1
APART = torch.eye(2)  # one at each of two places
FEATURES = torch.eye(2).view(1, 2, 1, 2)  # place x has the direction of axis x


def loss_of_apart(tau: float) -> float:
    p = math.exp(1 / tau) / (math.exp(1 / tau) + 1)
    return math.exp(-2 * (2 * p - 1) * math.log(p / (1 - p)))


def loss(prototypes, regions, tau=1.0, features=FEATURES) -> float:
    inside = torch.tensor(regions)[:, :, None, :]  # image, class, one row of two places
    return diversity_loss(features.repeat(len(inside), 1, 1, 1), prototypes, inside, tau).item()


def test_images_without_a_place_do_not_count_in_the_mean():
    assert loss(SAME, [[[True, True]], [[False, False]], [[False, False]]]) == pytest.approx(1)
    assert loss(APART, [[[True, True]], [[False, False]]]) == pytest.approx(loss_of_apart(1))


def test_an_image_with_a_single_place_does_not_count_in_the_mean():
    assert loss(APART, [[[True, True]], [[True, False]]]) == pytest.approx(loss_of_apart(1))


def test_absent_classes_do_not_count_in_the_mean():
    both = torch.cat([SAME, APART])
    assert loss(both, [[[True, True], [False, False]]]) == pytest.approx(1)
    assert loss(both, [[[False, False], [True, True]]]) == pytest.approx(loss_of_apart(1))


def test_every_class_of_every_image_counts_alike():
    both = torch.cat([SAME, APART])
    found = loss(both, [[[True, True], [True, True]], [[True, True], [False, False]]])
    assert found == pytest.approx((2 + loss_of_apart(1)) / 3)


def test_every_pair_of_prototypes_counts_alike():
    three = torch.cat([SAME, torch.tensor([[0.0, 1.0]])])
    assert loss(three, [[[True, True]]]) == pytest.approx((1 + 2 * loss_of_apart(1)) / 3)


@pytest.mark.parametrize("tau", [0.3, 0.5, 2.0])
def test_a_lower_temperature_tells_prototypes_further_apart(tau):
    assert loss(APART, [[[True, True]]], tau) == pytest.approx(loss_of_apart(tau), rel=1e-4)
