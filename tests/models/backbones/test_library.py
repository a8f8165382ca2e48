"""timm is loaded without torch's compiler, and whoever wants the compiler has it all the same."""

from __future__ import annotations

import sys

import torch
from torch._dynamo.utils import is_compile_supported
from torchvision.ops import roi_align

from napari_lpd.models.backbones.library import timm


def test_what_torchvision_asks_the_compiler_is_answered_by_it():
    asking = sys.modules[roi_align.__module__]
    assert [asking.is_compile_supported(device) for device in ("cpu", "meta")] == [
        is_compile_supported(device) for device in ("cpu", "meta")
    ]
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    pooled = roi_align(image, torch.tensor([[0, 0.0, 0.0, 8.0, 8.0]]), 2, sampling_ratio=2, aligned=True)
    assert torch.allclose(pooled[0, 0], torch.tensor([[13.5, 17.5], [45.5, 49.5]]))  # means of quarters


def test_a_network_whose_methods_are_not_to_be_compiled_computes():
    network = timm.create_model("naflexvit_base_patch16_gap", num_classes=3, embed_dim=32, depth=1, num_heads=2).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_the_compiler_s_own_names_are_as_torch_has_them():
    assert torch.compiler.disable.__module__ == "torch.compiler"
    assert torch._dynamo.utils is sys.modules["torch._dynamo.utils"]
