"""A joint head: one map of three stages, and presence that follows from means."""

from __future__ import annotations

import pytest
import torch

from napari_lpd.core.settings.training import ModelSettings
from napari_lpd.models.cam import class_maps, class_presence
from napari_lpd.models.network import (
    STAGES_USED,
    cosine_maps,
    disagreement,
    new_network,
    output_channels,
    output_stride,
    used_stages,
)


def joint(bank="learned", necks=3, k=2, encoder="tf_efficientnet_lite0"):
    torch.manual_seed(0)
    settings = ModelSettings(
        encoder=encoder, encoder_weights="random", head="joint", bank=bank, necks=necks, neck_width=16,
        prototypes_per_class=k, prototype_dim=32, presence_width=8,
    )  # fmt: skip
    return new_network(settings, 3).eval().requires_grad_(False)


@pytest.mark.parametrize("necks", [1, 3])
def test_the_maps_are_the_scaled_cosines_of_features_and_prototypes(necks):
    network, images = joint(necks=necks), torch.rand(2, 3, 64, 96)
    maps = network(images, STAGES_USED)
    expected = network.scales[-1] * cosine_maps(maps.features, maps.prototypes)
    assert [part.shape for part in maps.logits] == [(2, 6, 4, 6)] * 3
    assert torch.allclose(maps.logits[-1], expected, atol=1e-4)


def test_a_place_of_which_no_class_is_sure_still_has_a_likeliest_class():
    network, logits = joint(k=1), torch.tensor([-0.5, -1.5, -4.0]).view(1, 3, 1, 1)
    maps = class_maps(network, logits)
    assert torch.allclose(maps.flatten(), logits.flatten().sigmoid())
    assert maps.argmax(1) == 0 and maps.amin() > 0 and maps.amax() < 1


def test_channels_are_left_out_of_whole_tiles_in_training_alone():
    network, joined = joint(necks=1), torch.randn(4, 472, 3, 3)
    plain = network.joint(joined)
    assert torch.equal(network.joint(joined, 0.5), plain)
    network.train()
    assert torch.equal(network.joint(joined), plain)
    assert not torch.allclose(network.joint(joined, 0.5), plain, atol=0.1)
    same = network.joint(torch.ones(1, 472, 3, 3), 0.5)
    assert torch.allclose(
        same, same[:, :, :1, :1].expand_as(same), atol=1e-6
    )  # a channel is there everywhere or nowhere


def test_the_map_is_the_mean_of_the_necks_maps():
    network, joined = joint(), torch.randn(2, 472, 4, 5)
    found = network.neck_logits(network.joint(joined))
    assert found.shape == (3, 2, 6, 4, 5)
    assert torch.allclose(found.mean(0), network.from_joined(joined).logits[0], atol=1e-5)
    assert found.std(0).max() > 0.1  # they see different things


def test_a_linear_head_has_no_prototypes():
    network, joined = joint("linear", k=1), torch.randn(1, 472, 2, 2)
    features = network.joint(joined)
    assert torch.allclose(network.from_joined(joined).logits[0], network.classifiers[0](features), atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (100, 76), (97, 131), (224, 224)])
@pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "resnet18", "mit_b0"])
def test_images_of_any_size_have_places_of_the_third_stage(encoder, size):
    network = joint(encoder=encoder)
    maps = network(torch.rand(1, 3, *size))
    grid = network.encoder(torch.rand(1, 3, *size))[2].shape[2:]
    assert maps.logits[0].shape[2:] == grid
    assert output_stride(network) == network.encoder.strides[2]


def test_a_window_of_a_slide_is_scored_as_a_tile_is():
    network = joint()
    outputs = network.from_joined(torch.randn(1, 472, 5, 5)).outputs
    tile = network.presence(outputs)[0]
    gating = [part[0] for part in network.gating(outputs)]
    window = class_presence(network, gating, 5, torch.ones(5, 5, dtype=torch.bool))
    assert torch.allclose(window[:, 2, 2], tile, atol=1e-5)


def test_glass_does_not_count_for_presence():
    network = joint()
    gating = [part[0] for part in network.gating(network.from_joined(torch.randn(1, 472, 5, 5)).outputs)]
    tissue = torch.zeros(5, 5, dtype=torch.bool)
    tissue[:, :2] = True
    other = [part.clone() for part in gating]
    for part in other:
        part[:, :, 2:] = 9.0
    assert torch.equal(class_presence(network, gating, 5, tissue), class_presence(network, other, 5, tissue))


def test_a_prediction_computes_one_map_and_what_gates_it():
    network = joint()
    outputs = network(torch.rand(1, 3, 64, 64), [STAGES_USED[i] for i in used_stages(network)]).outputs
    assert [part.shape[1] for part in outputs] == output_channels(network) == [6, 17]
    alone = joint(necks=1)
    outputs = alone(torch.rand(1, 3, 64, 64), [STAGES_USED[i] for i in used_stages(alone)]).outputs
    assert [part.shape[1] for part in outputs] == output_channels(alone) == [6, 16]


def test_necks_that_agree_or_not():
    sure = torch.tensor([20.0, 0.0, 0.0])[:, None, None]
    alike = torch.stack([sure, sure])[:, None]
    apart = torch.stack([sure, sure.flip(0)])[:, None]
    assert disagreement(alike).item() == pytest.approx(0, abs=1e-4)
    assert disagreement(apart).item() == pytest.approx(1, abs=1e-4)


def test_settings_that_a_joint_head_does_not_have_are_refused():
    with pytest.raises(ValueError, match="one map of all stages"):
        ModelSettings(head="joint", stage_fusion=(0.3, 0.3, 0.4))
