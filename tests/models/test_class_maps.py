"""Class maps of one stage, and how those of several stages become one, with numbers that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from napari_lpd.core.settings.training import ModelSettings
from napari_lpd.models.cam import class_maps, fuse_upsampled
from napari_lpd.models.network import new_network

LOGITS = torch.tensor([1.0, 3.0, -5.0, 1.0, 0.0, 4.0]).view(6, 1, 1)  # three classes with two prototypes each
SOFT = (1 + 3 * 7.389056) / (1 + 7.389056)


@pytest.fixture(scope="module")
def networks():
    heads = {how: ModelSettings(prototypes_per_class=2, prototype_dim=8, merge_predict=how) for how in ("mean", "soft")}
    return {how: new_network(head, 3) for how, head in heads.items()}


@pytest.mark.parametrize(
    ("how", "prototypes", "expected"),
    [
        ("mean", None, [2.0, 0.0, 2.0]),
        ("mean", [1], [3.0, 1.0, 4.0]),
        ("mean", [0], [1.0, 0.0, 0.0]),
        ("soft", None, [SOFT, 0.985164, 3.928055]),
        ("soft", [1], [3.0, 1.0, 4.0]),
    ],
)
def test_the_prototypes_of_a_class_are_merged_and_cut_off_at_0(networks, how, prototypes, expected):
    one = class_maps(networks[how], LOGITS, prototypes)
    assert one.shape == (3, 1, 1)
    assert one.flatten().tolist() == pytest.approx(expected, rel=1e-5)
    both = class_maps(networks[how], torch.stack([LOGITS, 0 * LOGITS]), prototypes)
    assert both.shape == (2, 3, 1, 1)
    assert both.flatten().tolist() == pytest.approx([*expected, 0, 0, 0], rel=1e-5)


def test_stages_of_different_sizes_are_fused_at_the_size_that_is_asked_for():
    coarse, fine = torch.tensor([[[0.8]]]), torch.tensor([[[0.0, 1.0]]])
    fused = fuse_upsampled([coarse, fine, fine], [0.25, 0.75, 0.0], (1, 4))
    expected = [0.2, 0.2 + 0.75 * 0.25, 0.2 + 0.75 * 0.75, 0.2 + 0.75]
    assert fused.shape == (1, 1, 4)
    assert fused.flatten().tolist() == pytest.approx(expected)
    batch = fuse_upsampled([torch.stack([maps, 0 * maps]) for maps in (coarse, fine)], [0.25, 0.75], (1, 4))
    assert batch.shape == (2, 1, 1, 4)
    assert batch.flatten().tolist() == pytest.approx([*expected, 0, 0, 0, 0])
