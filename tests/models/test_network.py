from __future__ import annotations

import pytest
import torch

from napari_lpd.core.errors import ModelError, SettingsError
from napari_lpd.core.settings.training import ModelSettings
from napari_lpd.models.checkpoint import load_model
from napari_lpd.models.compute import choose_device
from napari_lpd.models.encoder import build_encoder
from napari_lpd.models.network import LPD, cosine_maps, merge_prototypes


def test_a_feature_equal_to_a_prototype_has_cosine_one():
    prototypes = torch.randn(3, 8)
    features = 5 * prototypes[1].view(1, 8, 1, 1).expand(1, 8, 2, 2)
    maps = cosine_maps(features, prototypes)
    assert torch.allclose(maps[:, 1], torch.ones(1, 2, 2), atol=1e-6)
    assert maps.abs().max() <= 1 + 1e-6


def test_a_zero_feature_gives_zero_not_nan():
    assert torch.equal(cosine_maps(torch.zeros(1, 8, 2, 2), torch.randn(3, 8)), torch.zeros(1, 3, 2, 2))


def test_merging_by_mean_is_the_mean_of_each_class():
    scores = torch.tensor([[1.0, 3.0, 10.0, 20.0]])
    assert torch.equal(merge_prototypes(scores, 2, "mean"), torch.tensor([[2.0, 15.0]]))


def test_soft_merging_weighs_by_a_softmax_within_the_class():
    scores = torch.tensor([[1.0, 3.0, 0.0, 0.0]])
    weight = torch.tensor([1.0, 3.0]).softmax(0)
    merged = merge_prototypes(scores, 2, "soft")
    assert torch.allclose(merged, torch.tensor([[weight[0] + 3 * weight[1], 0.0]]))


@pytest.mark.parametrize("how", ["mean", "soft"])
def test_one_prototype_per_class_is_left_alone(how):
    scores = torch.randn(2, 4, 5, 5)
    assert torch.allclose(merge_prototypes(scores, 1, how), scores)


def test_the_network_has_one_bank_for_four_stages():
    settings = ModelSettings(prototypes_per_class=2, prototype_dim=16)
    network = LPD(settings, 3, build_encoder("tf_efficientnet_lite0")).eval()
    maps = network(torch.rand(2, 3, 64, 64))
    assert network.prototypes.shape == (6, 16)
    assert [tuple(m.shape) for m in maps.logits] == [(2, 6, 16, 16), (2, 6, 8, 8), (2, 6, 4, 4), (2, 6, 4, 4)]
    assert maps.prototypes.shape == (6, 320)
    assert all(m.abs().max() <= 1 / 0.07 + 1e-3 for m in maps.logits)


def test_the_papers_network_has_the_published_size():
    network = LPD(ModelSettings(encoder="mit_b1"), 4, build_encoder("mit_b1"))
    assert sum(p.numel() for p in network.parameters()) == 13_946_052


@pytest.mark.parametrize("content", [None, b"", b"not safetensors"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match="model.safetensors"):
        load_model(path)


def test_an_unknown_device_is_refused():
    with pytest.raises(SettingsError, match="wanted auto"):
        choose_device("abacus")


def test_auto_gives_a_device_and_its_reason():
    device, reason = choose_device("auto")
    assert device.type in ("cpu", "cuda", "mps")
    assert reason
