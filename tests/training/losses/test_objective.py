from __future__ import annotations

import pytest
import torch

from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.models.network import LPD, encoder_of
from napari_lpd.training.losses.objective import Objective


@pytest.mark.parametrize("trains", ["prototypes", "all"])
def test_diversity_moves_the_encoder_only_where_asked_to(trains, pretrained_settings):
    torch.manual_seed(0)
    values = pretrained_settings.model_dump() | {"contrast_weight": 0.0, "diversity_trains": trains}
    settings = TrainSettings.build(values)
    network = LPD(settings.model, 2, encoder_of(settings.model, "embedded"))
    objective = Objective(settings, None, torch.Generator())
    losses = objective(network, torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 0], [1, 1]]), warm=False)
    losses.diversity.backward()
    assert network.prototypes.grad.abs().sum() > 0
    moved = [p for p in network.encoder.parameters() if p.grad is not None and p.grad.any()]
    assert bool(moved) == (trains == "all")
