from __future__ import annotations

import math

import pytest
import torch

from napari_lpd.core.settings.training import ModelSettings
from napari_lpd.models.cam import (
    background,
    class_presence,
    fuse,
    gate,
    probabilities,
    scale_maps,
    stretch_tile_maps,
    uncertainty,
)
from napari_lpd.models.network import new_network

ALL = torch.ones(9, 9, dtype=torch.bool)


def of_two():
    """A network that merges its two prototypes per class by softmax, so that its gating maps are theirs."""
    settings = ModelSettings(prototypes_per_class=2, prototype_dim=8, merge_train="soft", encoder_weights="random")
    return new_network(settings, 2)


def test_normalisation_has_one_constant_per_class():
    maps = torch.tensor([[[-1.0, 1.0, 2.0, 9.0]]])
    assert scale_maps(maps, [4.0]).tolist() == [[[0.0, 0.25, 0.5, 1.0]]]


def test_an_absent_class_can_never_win():
    present = torch.tensor([[[False]], [[True]]])
    fused = gate(fuse([torch.tensor([[[1.0]], [[0.0]]])], [1.0]), present)
    assert fused[0].item() == -torch.inf
    assert fused.argmax(0).item() == 1


def test_where_all_classes_are_absent_the_background_wins():
    fused = torch.full((2, 1, 1), -torch.inf)
    assert background(fused, 10).item() == 1


def test_the_background_follows_its_formula():
    assert background(torch.tensor([[[0.3]], [[0.1]]]), 10).item() == pytest.approx(0.7**10)


def test_presence_is_the_training_score_in_a_window():
    maps = torch.zeros(4, 9, 9)
    maps[:2, 4, 4] = 9.0
    presence = class_presence(of_two(), [maps, maps], window=3, counted=ALL)
    assert presence.shape == (2, 9, 9)
    assert presence[0, 4, 4].item() == pytest.approx(torch.tensor(1.0).sigmoid().item())
    assert presence[1, 4, 4].item() == pytest.approx(0.5)
    assert presence[0, 0, 0].item() == pytest.approx(0.5)


def test_presence_counts_tissue_only():
    maps = torch.full((2, 9, 9), -5.0)
    maps[:, :, :3] = 2.0
    tissue = torch.zeros(9, 9, dtype=torch.bool)
    tissue[:, :3] = True
    presence = class_presence(of_two(), [maps, maps], window=5, counted=tissue)
    assert presence[0, 4, 2].item() == pytest.approx(torch.tensor(2.0).sigmoid().item())
    assert presence[0, 0, 0].item() == pytest.approx(torch.tensor(2.0).sigmoid().item())


def test_an_absent_class_has_no_share():
    scores = torch.tensor([0.5, -torch.inf, 1.5])
    assert probabilities(scores).tolist() == [0.25, 0.0, 0.75]


def test_shares_sum_to_1_however_low_the_scores_are():
    assert probabilities(torch.tensor([0.0625, 0.1875])).tolist() == [0.25, 0.75]
    assert probabilities(torch.zeros(2)).tolist() == [0.0, 0.0]


def test_uncertainty_is_the_share_of_the_highest_entropy():
    assert uncertainty(torch.tensor([1.0, 1.0, 1.0])).item() == pytest.approx(1)
    assert uncertainty(torch.tensor([0.0, 1.0, -torch.inf])).item() == pytest.approx(0)
    assert uncertainty(torch.tensor([1.0, 1.0, 0.0])).item() == pytest.approx(math.log(2) / math.log(3))


def test_per_tile_normalisation_stretches_every_class_of_a_tile():
    maps = torch.rand(4, 6, 6) * 0.2 + 0.3
    means = stretch_tile_maps(maps, k=2).unflatten(0, (2, 2)).mean(1)
    assert means.amin((1, 2)).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert means.amax((1, 2)).tolist() == pytest.approx([1, 1], abs=1e-5)
