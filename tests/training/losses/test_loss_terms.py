from __future__ import annotations

import math

import pytest
import torch

from napari_lpd.models.network import image_scores
from napari_lpd.training.losses.terms import class_regions, classification_loss, diversity_loss


def test_classification_is_the_weighted_sum_of_binary_cross_entropies():
    scores = [torch.zeros(2, 3), torch.zeros(2, 3)]
    loss = classification_loss(scores, torch.ones(2, 3), [0.1, 1.0])
    assert loss.item() == pytest.approx(1.1 * math.log(2), rel=1e-6)


def test_image_scores_are_means_over_place_and_prototype():
    logits = torch.arange(8.0).view(1, 4, 1, 2)
    assert torch.allclose(image_scores(logits, 2), torch.tensor([[1.5, 5.5]]))


def regions_everywhere(b: int, c: int, h: int, w: int) -> torch.Tensor:
    return torch.ones(b, c, h, w, dtype=torch.bool)


def test_equal_prototypes_have_diversity_loss_one():
    features = torch.randn(2, 8, 4, 4)
    prototypes = torch.randn(1, 8).repeat(3, 1)
    assert diversity_loss(features, prototypes, regions_everywhere(2, 1, 4, 4), 0.07).item() == pytest.approx(1)


def test_two_prototypes_at_two_places_match_the_closed_form():
    features = torch.eye(2).view(1, 2, 1, 2)  # place x has the direction of axis x
    tau = 0.5
    p = math.exp(1 / tau) / (math.exp(1 / tau) + 1)
    jeffreys = 2 * (2 * p - 1) * math.log(p / (1 - p))
    loss = diversity_loss(features, torch.eye(2), regions_everywhere(1, 1, 1, 2), tau)
    assert loss.item() == pytest.approx(math.exp(-jeffreys), rel=1e-5)


def test_places_outside_the_region_do_not_matter():
    torch.manual_seed(0)
    features, prototypes = torch.randn(1, 8, 4, 4), torch.randn(3, 8)
    inside = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    inside[..., :2] = True
    changed = features.clone()
    changed[..., 2:] = torch.randn(1, 8, 4, 2)
    before, after = (diversity_loss(f, prototypes, inside, 0.07) for f in (features, changed))
    assert before.item() == pytest.approx(after.item(), rel=1e-5)


@pytest.mark.parametrize(("k", "place_count"), [(1, 16), (3, 1), (3, 0)])
def test_without_pairs_or_places_the_loss_is_a_zero_that_can_be_differentiated(k, place_count):
    features = torch.randn(1, 8, 4, 4, requires_grad=True)
    inside = torch.zeros(1, 1, 16, dtype=torch.bool)
    inside[..., :place_count] = True
    loss = diversity_loss(features, torch.randn(k, 8), inside.view(1, 1, 4, 4), 0.07)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_the_gradient_pushes_equal_maps_apart():
    torch.manual_seed(0)
    features = torch.randn(1, 8, 4, 4)
    base = torch.randn(8)
    prototypes = torch.stack([base, base + 0.01 * torch.randn(8)]).requires_grad_()
    start = diversity_loss(features, prototypes, regions_everywhere(1, 1, 4, 4), 0.07)
    optimiser = torch.optim.SGD([prototypes], lr=0.1)
    for _ in range(50):
        loss = diversity_loss(features, prototypes, regions_everywhere(1, 1, 4, 4), 0.07)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < start - 0.1


def test_regions_belong_to_present_classes_and_to_one_class_each():
    maps = torch.randn(2, 3, 5, 5) + 0.5
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    regions = class_regions(maps, labels)
    assert not regions[0, 1].any()
    assert not regions[1, [0, 2]].any()
    assert regions.sum(1).max() <= 1
    assert regions[1, 1].any()


def test_centred_diversity_is_blind_to_what_depends_on_the_place_alone():
    torch.manual_seed(0)
    place = torch.randn(1, 8, 4, 4).repeat(3, 1, 1, 1)
    prototypes = torch.randn(2, 8)
    inside = regions_everywhere(3, 1, 4, 4)
    assert diversity_loss(place, prototypes, inside, 0.07) < 0.3
    assert diversity_loss(place, prototypes, inside, 0.07, centred=True).item() == pytest.approx(1, abs=1e-4)
    tissue = torch.randn(3, 8, 4, 4)
    assert diversity_loss(tissue, prototypes, inside, 0.07, centred=True) < 0.3


def test_centred_diversity_leaves_out_a_class_in_one_image_only():
    torch.manual_seed(0)
    features, prototypes = torch.randn(2, 8, 4, 4), torch.randn(4, 8)
    inside = regions_everywhere(2, 2, 4, 4)
    inside[1, 1] = False
    both = diversity_loss(features, prototypes, inside, 0.07, centred=True)
    inside[0, 1] = False
    assert both.item() == pytest.approx(diversity_loss(features, prototypes, inside, 0.07, centred=True).item())
    inside[1, 0] = False
    assert diversity_loss(features, prototypes, inside, 0.07, centred=True).item() == 0
