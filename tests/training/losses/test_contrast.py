"""The contrastive loss from responding prototypes to its two parts, with numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from napari_lpd.training.losses.terms import (
    Regions,
    class_map_regions,
    contrastive_loss,
    cut_regions,
    image_thresholds,
    prototype_regions,
    responding_prototypes,
    split_regions,
)

OWN, OTHERS = [[1, 0, 0], [0, 1, 0]], [[0, 1, 1], [1, 0, 1]]
REGIONS = Regions(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor(OWN) > 0, torch.tensor(OTHERS) > 0)
FOREGROUND = torch.tensor([[2.0, 0.0, 0.0], [0.6, 0.8, 0.0]])  # cosines to the bank below: 1, 0, 0 and 0.6, 0.8, 0
BACKGROUND = torch.tensor([[0.0, 0.6, 0.8], [0.0, 0.0, 3.0]])
BANK = torch.diag(torch.tensor([1.0, 5.0, 0.5]))  # its lengths do not matter


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def lse(*values: float) -> float:
    return math.log(sum(math.exp(value) for value in values))


def test_prototypes_of_present_classes_respond_above_their_classs_mean():
    scores = torch.tensor([[1.0, 3.0, 2.0, 2.0], [0.0, -1.0, 5.0, 4.0]])
    found = responding_prototypes(scores, torch.tensor([[1.0, 1.0], [1.0, 0.0]]), 2)
    assert found.tolist() == [[False, True, False, False], [True, False, False, False]]
    one = responding_prototypes(scores, torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0]]), 1)
    assert one.long().tolist() == [[1, 0, 0, 1], [0, 1, 0, 0]]


@pytest.mark.parametrize(
    ("negatives", "others"),
    [
        ("other-classes", [[0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]),
        ("all", [[1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]),
    ],
)
def test_a_region_of_a_prototype_is_told_from_other_classes_or_all_others(negatives, others):
    responding = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1]]) > 0
    regions = prototype_regions(responding, 2, negatives)
    assert regions.images.tolist() == [0, 0, 1]
    assert regions.channels.tolist() == [1, 2, 3]
    assert regions.own.long().tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert regions.others.long().tolist() == others


def test_a_region_of_a_class_map_belongs_to_all_prototypes_of_the_class():
    regions = class_map_regions(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), 2)
    assert (regions.images.tolist(), regions.channels.tolist()) == ([0, 1, 1], [0, 0, 1])
    assert regions.own.long().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]
    assert regions.others.long().tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]]
    chosen = regions.take(torch.tensor([2]))
    assert (chosen.images.tolist(), chosen.own.long().tolist()) == ([1], [[0, 0, 1, 1]])


def test_infonce_is_the_mean_over_regions():
    found = contrastive_loss((FOREGROUND, BACKGROUND), BANK, REGIONS, 0.5)
    assert found.foreground.item() == pytest.approx((softplus(lse(0, 0) - 2) + softplus(lse(1.2, 0) - 1.6)) / 2)
    assert found.background.item() == pytest.approx((softplus(0 - lse(1.2, 1.6)) + softplus(0 - lse(0, 6 / 3))) / 2)


def test_infonce_of_a_region_with_several_prototypes_is_the_mean_over_them():
    regions = Regions(*(part[:1] for part in REGIONS[:2]), torch.tensor([[1, 1, 0]]) > 0, torch.tensor([[0, 0, 1]]) > 0)
    found = contrastive_loss((FOREGROUND[:1], BACKGROUND[:1]), BANK, regions, 1.0)
    assert found.foreground.item() == pytest.approx((softplus(0 - 1) + softplus(0 - 0)) / 2)
    assert found.background.item() == pytest.approx((softplus(0 - 0.8) + softplus(0.6 - 0.8)) / 2)


def test_the_pooled_form_is_a_ratio_of_sums_over_the_batch():
    found = contrastive_loss((FOREGROUND, BACKGROUND), BANK, REGIONS, 1.0, "pooled")
    own, every = math.exp(1) + math.exp(0.8), math.exp(1) + 2 + math.exp(0.8) + math.exp(0.6) + 1
    assert found.foreground.item() == pytest.approx(-math.log(own / every))
    others = (math.exp(0.6) + math.exp(0.8)) / 2 + (1 + math.exp(1)) / 2
    assert found.background.item() == pytest.approx(-math.log(others / (others + 1 + 1)))


def test_the_form_of_sums_adds_similarities_first():
    regions = REGIONS._replace(others=torch.tensor([[0, 1, 1], [0, 0, 1]]) > 0)  # the second's class has two prototypes
    found = contrastive_loss((FOREGROUND, BACKGROUND), BANK, regions, 1.0, "sums")
    assert found.foreground.item() == pytest.approx((softplus(0 + 0 - 1) + softplus(0 - 1.4)) / 2)
    assert found.background.item() == pytest.approx((softplus(0 - (0.6 + 0.8) / 2) + softplus(0 - 1)) / 2)


IMAGES = torch.tensor([8.0, 4.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)


@pytest.mark.parametrize(
    ("rescale", "foreground", "background"), [(False, [4.0, 0.0], [0.0, 3.0]), (True, [1.0, 0.0], [0.0, 0.0])]
)
def test_a_region_is_split_at_its_threshold(rescale, foreground, background):
    """Where A is 0.5 and 0.25, products are 4 and 1 in the foreground, 4 and 3 in the background."""
    maps = torch.tensor([[[0.5, 0.25]]])
    found = split_regions(IMAGES, maps, torch.tensor([0.5]), rescale)
    for part, expected in zip(found, (foreground, background), strict=True):
        assert torch.allclose(part[0, :, 0], torch.tensor(expected).expand(3, 2), atol=1e-6)


def test_products_are_not_stretched_unless_that_is_asked_for():
    foreground, _ = split_regions(IMAGES, torch.tensor([[[0.5, 0.25]]]), torch.tensor([0.0]))
    assert foreground[0, :, 0].tolist() == [[4.0, 1.0]] * 3


def test_an_images_threshold_is_a_share_of_its_highest_map():
    maps = torch.tensor([[[[1.0, 2.0]], [[0.0, 8.0]]], [[[3.0, 2.0]], [[1.0, 0.0]]]])
    assert image_thresholds(maps, 0.25).tolist() == [2.0, 0.75]


@pytest.mark.parametrize(
    ("form", "foreground", "background"),
    [
        ("unit", [[0.0, 8.0], [8.0, 0.0]], [[8.0, 0.0], [0.0, 4.0]]),
        ("raw", [[0.0, 32.0], [0.0, 0.0]], [[40.0, 0.0], [-8.0, 0.0]]),
        ("rescaled", [[0.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]),
    ],
)
def test_regions_are_cut_by_their_own_maps_in_each_form(form, foreground, background):
    """Maps -4, 4 and 2, 1: as units 0, 1 and 1, 0.5, each cut at 0.6; raw, at 0.6 of the image's highest, 4."""
    maps = torch.tensor([[[[-4.0, 4.0]], [[2.0, 1.0]]]])
    regions = Regions(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.eye(2) > 0, torch.eye(2) < 1)
    found = cut_regions(torch.full((1, 3, 4, 2), 8.0), maps, regions, 0.6, form)
    for part, expected in zip(found, (foreground, background), strict=True):
        assert torch.allclose(part[:, :, 0], torch.tensor(expected)[:, None].expand(2, 3, 2), atol=1e-6)
