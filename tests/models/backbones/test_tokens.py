"""The maps of a ViT: one token per place, at its place, whatever the patch and the size of the image."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from napari_lpd.core.errors import ModelError
from napari_lpd.models.backbones.source import Given
from napari_lpd.models.backbones.tokens import TokenMaps
from napari_lpd.models.encoder import build_encoder

TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 112}


def tiny(name="vit_tiny_patch16_224", blocks=(), **arguments):
    return build_encoder(name, given=Given({**TINY, **arguments}, blocks)).eval()


@pytest.mark.parametrize(("patch", "stride"), [(8, 8), (14, 16), (16, 16), (12, 16), (28, 32), (32, 32)])
@pytest.mark.parametrize(("height", "width"), [(128, 96), (640, 112), (224, 130), (99, 65), (9, 31)])
def test_every_size_gives_whole_places_whatever_the_patch(patch, stride, height, width):
    encoder = tiny(patch_size=patch, img_size=2 * patch)
    assert encoder.strides == [stride] * 4
    assert encoder.widths == [32] * 4
    with torch.inference_mode():
        maps = encoder(torch.rand(2, 3, height, width))
    assert {tuple(m.shape) for m in maps} == {(2, 32, math.ceil(height / stride), math.ceil(width / stride))}


def without_mixing(vit):
    """A ViT whose tokens are the mean of the first channel over their patch, and nothing else."""
    vit.blocks = torch.nn.Sequential(*(torch.nn.Identity() for _ in vit.blocks))
    vit.norm = torch.nn.Identity()
    for tensor in (vit.pos_embed, vit.patch_embed.proj.weight, vit.patch_embed.proj.bias):
        torch.nn.init.zeros_(tensor)
    for tensor in (vit.cls_token, vit.reg_token):
        if tensor is not None:
            torch.nn.init.constant_(tensor, 1e6)
    torch.nn.init.constant_(vit.patch_embed.proj.weight[:, 0], 1 / vit.patch_embed.patch_size[0] ** 2)
    return vit


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("patch", [8, 14, 16, 28])
def test_the_place_of_a_feature_is_the_middle_of_what_it_saw(patch, registers):
    """Of an image whose colour is its pixels' position; class and register tokens, a million, are in no map."""
    vit = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True, patch_size=patch, reg_tokens=registers, **TINY
    )
    maps = TokenMaps(without_mixing(vit))
    rows, columns = torch.meshgrid(torch.arange(320.0), torch.arange(256.0), indexing="ij")
    for position, axis in ((rows, 0), (columns, 1)):
        with torch.inference_mode():
            found = maps(position.expand(1, 3, -1, -1))[-1][0, 0].movedim(axis, 0)[:, 1]
        middle = (torch.arange(len(found)) + 0.5) * maps.stride - 0.5
        assert torch.allclose(found[1:-1], middle[1:-1], atol=1e-3)
        assert abs(found[-1] - middle[-1]) < patch / 2  # the image is continued by its last pixels


def test_an_image_s_features_move_with_it_by_a_whole_period():
    encoder = tiny(patch_size=14, pos_embed="none")
    assert encoder.period == 112
    image = torch.rand(1, 3, 336, 336)
    with torch.inference_mode():
        tokens = encoder.backbone.vit.patch_embed(image)
        moved = encoder.backbone.vit.patch_embed(image[:, :, 112:, 112:])
    assert torch.allclose(tokens[:, 8:, 8:], moved, atol=1e-5)


@pytest.mark.parametrize(
    ("depth", "chosen", "blocks"),
    [(12, (), (2, 5, 8, 11)), (24, (), (5, 11, 17, 23)), (6, (), (0, 2, 3, 5)), (4, (), (0, 1, 2, 3)),
     (12, (3, 5, 7, 9), (3, 5, 7, 9))],
)  # fmt: skip
def test_four_blocks_are_evenly_spaced_or_chosen(depth, chosen, blocks):
    encoder = tiny(depth=depth, blocks=chosen)
    assert encoder.architecture.blocks == encoder.backbone.blocks == blocks
    assert len(encoder.backbone.vit.blocks) == blocks[-1] + 1  # later ones cost nothing


def test_the_maps_are_those_of_the_chosen_blocks():
    encoder = tiny(depth=6, blocks=(0, 1, 3, 5))
    image = torch.rand(1, 3, 64, 48)
    with torch.inference_mode():
        found = encoder(image)
        wanted = encoder.backbone.vit.forward_intermediates(
            encoder.normalise(image), norm=True, intermediates_only=True
        )
    assert all(torch.equal(found[i], wanted[block]) for i, block in enumerate((0, 1, 3, 5)))


@pytest.mark.parametrize("blocks", [(0, 1, 2, 4), (0, 1, 1, 2), (3, 2, 1, 0), (-1, 0, 1, 2)])
def test_blocks_that_are_not_there_are_refused_in_a_line(blocks):
    with pytest.raises(ModelError, match=r"wanted 4 different blocks of 0 to 3, in order|blocks\.0=-1"):
        tiny(blocks=blocks)


def test_a_vit_of_fewer_blocks_is_refused():
    with pytest.raises(ModelError, match="a ViT of 3 blocks gives no 4 maps"):
        tiny(depth=3)


def test_blocks_of_a_network_without_any_are_refused():
    with pytest.raises(ModelError, match="encoder_blocks are of ViTs"):
        build_encoder("resnet18", given=Given(blocks=(0, 1, 2, 3)))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit3_small_patch16_224", "vit_small_patch16_dinov3"])
def test_every_kind_of_vit_gives_maps_of_any_size(name):
    encoder = build_encoder(name, given=Given({"depth": 4})).eval()
    with torch.inference_mode():
        assert [tuple(m.shape[2:]) for m in encoder(torch.rand(1, 3, 80, 64))] == [(5, 4)] * 4
