"""What an encoder's input looks like follows from its source, or from the settings; never from a guess in silence."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from napari_lpd.core.errors import ModelError, SettingsError
from napari_lpd.core.settings.training import ModelSettings, TrainSettings
from napari_lpd.models.backbones.known import PUBLISHED
from napari_lpd.models.backbones.source import Given
from napari_lpd.models.card import Architecture
from napari_lpd.models.encoder import build_encoder, build_region_encoder

TINY = {"embed_dim": 32, "depth": 4, "num_heads": 2}
OWN = {"mean": [0.7, 0.5, 0.6], "std": [0.2, 0.25, 0.15]}
NO_STATISTICS: dict[str, list[float]] = {}


def vit_state(**arguments):
    return timm.create_model("vit_large_patch16_224", num_classes=0, **TINY, **arguments).state_dict()


@pytest.fixture
def hub_folder(tmp_path):
    """A folder as the hub keeps a model: weights and timm's configuration."""

    def write(statistics=OWN, name="vit_large_patch16_224", state=None, **more):
        folder = tmp_path / "model"
        folder.mkdir()
        config = {
            "architecture": name,
            "num_classes": 0,
            "model_args": {**TINY, "img_size": 112},
            "pretrained_cfg": {"input_size": [3, 112, 112], "fixed_input_size": True, **statistics},
            **more,
        }
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
        save_file(vit_state(img_size=112) if state is None else state, folder / "model.safetensors")
        return folder

    return write


def statistics_of(encoder):
    return [[round(value, 4) for value in part.flatten().tolist()] for part in (encoder.mean, encoder.std)]


def of_regions(name, weights, **options):
    return build_region_encoder(name, weights, 8, **options)


both = pytest.mark.parametrize("build", [build_encoder, of_regions], ids=["encoder", "region encoder"])


@both
@pytest.mark.parametrize("weights", ["hub", "random"])
def test_a_folder_of_the_hub_s_form_gives_weights_and_statistics(hub_folder, build, weights):
    folder = hub_folder()
    encoder = build(f"local-dir:{folder}", weights)
    assert statistics_of(encoder) == [OWN["mean"], OWN["std"]]
    vit = encoder.backbone.vit if build is build_encoder else encoder.backbone
    same = torch.equal(vit.patch_embed.proj.weight, vit_state_of(folder)["patch_embed.proj.weight"])
    assert same == (weights == "hub")


def vit_state_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_the_source_of_the_statistics_is_kept(hub_folder):
    folder = hub_folder()
    architecture = build_encoder(f"local-dir:{folder}", "hub").architecture
    assert architecture.name == "vit_large_patch16_224"
    assert architecture.source == f"config.json of local-dir:{folder}"
    assert "input mean 0.7, 0.5, 0.6, deviation 0.2, 0.25, 0.15" in architecture.about()


@both
@pytest.mark.parametrize("statistics", [NO_STATISTICS, {"mean": [0.5, 0.5, 0.5]}, {"mean": [0.5], "std": [0.5]}])
def test_a_configuration_without_statistics_is_no_reason_to_take_imagenet_s(hub_folder, build, statistics):
    name = f"local-dir:{hub_folder(statistics)}"
    with pytest.raises(ModelError, match=r"gives (no mean and std|mean and std that are not three).*input_mean"):
        build(name, "hub")
    given = Given(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert statistics_of(build(name, "hub", given=given)) == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]


@both
def test_a_folder_that_is_not_timm_s_is_told_so(tmp_path, build):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViTModel"], "hidden_size": 768}), "utf-8")
    with pytest.raises(ModelError, match=r"config\.json is not timm's.*--encoder NAME --encoder-weights FILE"):
        build(f"local-dir:{tmp_path}", "hub")
    with pytest.raises(ModelError, match=r"local-dir:.*cannot be read"):
        build(f"local-dir:{tmp_path / 'absent'}", "hub")
    with pytest.raises(ModelError, match=r"cannot be read.*source"):
        build("ftp:somewhere", "hub")


def test_a_card_s_encoder_may_still_take_the_statistics_of_tissue():
    of_card = Architecture(name="resnet18", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert statistics_of(build_encoder("hf-hub:lab/x", architecture=of_card))[0] == [0.1, 0.2, 0.3]
    tissue = build_encoder("hf-hub:lab/x", statistics="tissue", architecture=of_card)
    assert statistics_of(tissue)[0] == [0.7062, 0.4779, 0.6679]


@both
def test_a_file_of_a_network_whose_weights_differ_in_their_input_needs_a_word(tmp_path, build):
    """timm's vit_large_patch16_224 has 0.5 or ImageNet's, and UNI and others have the same network."""
    save_file(vit_state(init_values=1e-5), tmp_path / "uni.safetensors")
    given, file = Given({**TINY, "init_values": 1e-5}), str(tmp_path / "uni.safetensors")
    with pytest.raises(
        ModelError, match=r"uni\.safetensors: a file does not say.*vit_large_patch16_224\.\w+.*input_mean"
    ):
        build("vit_large_patch16_224", file, given=given)
    tagged = build("vit_large_patch16_224.mae", file, given=given)
    assert statistics_of(tagged) == [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
    named = build("uni", file, given=given)
    assert statistics_of(named)[0] == [0.485, 0.456, 0.406]


@both
def test_a_file_that_is_none_of_timm_s_has_unknown_statistics(tmp_path, build):
    """H-optimus-0 is DINOv2's network of another image size, and its input's mean is another."""
    state = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=112, **TINY).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"none of timm's weights of vit_small_patch14_dinov2 \(img_size=112\)"):
        build("vit_small_patch14_dinov2", str(tmp_path / "w.safetensors"), given=Given(TINY))


@both
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_what_lies_beside_a_file_says_what_it_wants(hub_folder, build, suffix):
    folder = hub_folder()
    file = folder / f"weights{suffix}"
    if suffix == ".bin":
        torch.save(vit_state_of(folder), file)
    else:
        (folder / "model.safetensors").rename(file)
    assert statistics_of(build("vit_large_patch16_224", str(file))) == [OWN["mean"], OWN["std"]]
    (folder / "config.json").write_text(json.dumps({"architectures": ["Dinov2Model"]}), "utf-8")
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), "utf-8")
    found = build("vit_large_patch16_224", str(file), given=Given(TINY))
    assert statistics_of(found) == [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]


def test_a_network_whose_weights_agree_says_whose_statistics_it_took(tmp_path):
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "w.safetensors")
    encoder = build_encoder("resnet18", str(tmp_path / "w.safetensors"))
    assert encoder.architecture.about().endswith("(timm: resnet18)")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_encoder_is_known_with_its_input(name):
    from napari_lpd.models.backbones.source import architecture_of

    row = PUBLISHED[name]
    found = architecture_of(name, "random", Given())
    assert (found.mean, found.std) == row.statistics
    if row.hub:
        assert architecture_of(f"hf-hub:{row.hub}", "random", Given()) == found


@pytest.mark.parametrize("name", ["phikon", "hibou-b", "hf-hub:owkin/phikon"])
def test_a_repository_that_is_not_timm_s_is_told_with_the_remedy(name):
    with pytest.raises(
        ModelError, match=r"not timm's repository: download.*--encoder (phikon|hibou-b) --encoder-weights"
    ):
        build_encoder(name, "hub", given=Given(TINY))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"input_mean": [0.5, 0.5], "input_std": [0.5, 0.5]}, "wanted three numbers each"),
        ({"input_mean": [0.5, 0.5, 0.5]}, "wanted three numbers each"),
        ({"input_mean": [123.7, 116.3, 103.5], "input_std": [58.4, 57.1, 57.4]}, "in 0..1, not 0..255"),
        ({"input_mean": [0.5] * 3, "input_std": [0, 0.5, 0.5]}, "in 0..1"),
        ({"input_mean": [0.5] * 3, "input_std": [0.5] * 3, "input_statistics": "tissue"}, "input_statistics=tissue"),
        ({"encoder_blocks": [1, 2, 3]}, "wanted four blocks"),
        ({"encoder_arguments": ["depth"]}, "wanted NAME=VALUE, not 'depth'"),
    ],
)
def test_statistics_of_another_form_are_refused_in_a_line(values, said):
    with pytest.raises(SettingsError, match=said) as caught:
        ModelSettings.build(values)
    assert "\n" not in str(caught.value)


def test_statistics_of_regions_are_checked_in_the_same_way():
    with pytest.raises(SettingsError, match="region_input_mean and region_input_std: wanted three numbers each"):
        TrainSettings.build({"region_input_mean": [0.5, 0.5, 0.5]})


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained", "features_only", "pretrained_cfg"])
def test_an_argument_that_is_no_architecture_s_is_refused(name):
    with pytest.raises(ModelError, match=rf"{name} is no argument of an architecture"):
        build_encoder("resnet18", given=Given({name: True}))
