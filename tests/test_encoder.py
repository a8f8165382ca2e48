from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from skimage import data

from napari_lpd.encoder import build_encoder, embedded_weights, read_state
from napari_lpd.errors import ModelError
from napari_lpd.weight_names import rename_lite0, rename_mit


def test_the_embedded_encoder_has_the_strides_of_the_method():
    encoder = build_encoder("tf_efficientnet_lite0", "embedded").eval()
    assert encoder.strides == [4, 8, 16, 16]
    assert encoder.widths == [24, 40, 112, 320]
    with torch.inference_mode():
        shapes = [tuple(f.shape) for f in encoder(torch.rand(1, 3, 128, 96))]
    assert shapes == [(1, 24, 32, 24), (1, 40, 16, 12), (1, 112, 8, 6), (1, 320, 8, 6)]


def test_the_embedded_weights_recognise_a_picture():
    """scikit-image's coffee.png is ImageNet class 967, espresso: names, values and input statistics are right."""
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    classifier.load_state_dict(rename_lite0(read_state(embedded_weights())))
    image = torch.from_numpy(np.ascontiguousarray(data.coffee()[:400, 100:500])).permute(2, 0, 1)[None] / 255
    image = torch.nn.functional.interpolate(image, size=(224, 224), mode="bilinear", antialias=True)
    with torch.inference_mode():
        probability = classifier((image - 0.5) / 0.5).softmax(1)[0]
    assert probability.argmax() == 967
    assert probability[967] > 0.5


def test_the_encoder_carries_the_embedded_weights():
    encoder = build_encoder("tf_efficientnet_lite0", "embedded")
    state = rename_lite0(read_state(embedded_weights()))
    own = encoder.backbone.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in own)
    assert encoder.mean.flatten().tolist() == [0.5] * 3


@pytest.mark.parametrize("name", ["mit_b0", "mit_b1"])
def test_mit_has_strides_4_8_16_16(name):
    encoder = build_encoder(name).eval()
    assert encoder.strides == [4, 8, 16, 16]
    with torch.inference_mode():
        sides = [f.shape[-1] for f in encoder(torch.rand(1, 3, 224, 224))]
    assert sides == [56, 28, 14, 14]


def test_mit_b1_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in build_encoder("mit_b1").backbone.parameters()) == 13_151_424


def mit_names(state):
    """timm's names → MiT's, the inverse of what the loader does, for writing a file like the published one."""
    renamed = {}
    for key, value in state.items():
        new = key.replace("patch_embed.", "patch_embed1.").replace("mlp.dwconv.", "mlp.dwconv.dwconv.")
        for i in (1, 2, 3):
            new = new.replace(f"stages_{i}.downsample.", f"patch_embed{i + 1}.")
        for i in range(4):
            new = new.replace(f"stages_{i}.blocks.", f"block{i + 1}.").replace(f"stages_{i}.norm.", f"norm{i + 1}.")
        renamed[new] = value
    return renamed


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_mit_weights_load_from_a_path_with_their_own_names(tmp_path, suffix):
    original = build_encoder("mit_b0").backbone.state_dict()
    path = tmp_path / f"mit_b0{suffix}"
    published = mit_names(original) | {"head.weight": torch.zeros(10, 256)}
    if suffix == ".pth":
        torch.save(published, path)
    else:
        save_file(published, path)
    assert rename_mit(published).keys() >= original.keys()
    loaded = build_encoder("mit_b0", str(path)).backbone.state_dict()
    assert all(torch.equal(loaded[key], original[key]) for key in original)


def test_a_pickle_with_code_is_refused(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"model": print}, path)
    with pytest.raises(ModelError, match=r"evil.pth.*not readable"):
        build_encoder("mit_b0", str(path))


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("no_such_net", "random", "no_such_net"),
        ("mit_b1", "embedded", "non-commercial"),
        ("mit_b1", "hub", "pass their file"),
        ("mit_b1", "absent.pth", "absent.pth"),
    ],
)
def test_wrong_encoders_and_weights_give_one_line(name, weights, said):
    with pytest.raises(ModelError, match=said):
        build_encoder(name, weights)


def test_weights_of_another_encoder_are_refused(tmp_path):
    path = tmp_path / "b0.safetensors"
    save_file(build_encoder("mit_b0").backbone.state_dict(), path)
    with pytest.raises(ModelError, match=r"mit_b1|missing"):
        build_encoder("mit_b1", str(path))
