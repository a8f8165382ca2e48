"""A training goes on from a model: its weights are taken over, and its classes by name."""

from __future__ import annotations

import pytest
import torch

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import ModelError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.training import ModelSettings, TrainSettings
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.models.checkpoint import load_model, load_tensors
from napari_lpd.models.network import new_network
from napari_lpd.training.ancestor import Ancestor, take_over
from napari_lpd.training.fit import fit

SMALL = ["tile=64", "tile_step=48", "mpp=1.0", "epochs=4", "batch=8", "threads=1", "model.prototypes_per_class=2",
         "model.prototype_dim=32", "model.neck_width=32", "places=9"]  # fmt: skip
HEAD = {"prototypes_per_class": 2, "prototype_dim": 32}
PRESETS = {"fast": HEAD | {"neck_width": 32, "head": "joint"}, "default": HEAD}


def named(*names):
    return tuple(TissueClass(name=name, color="#123456") for name in names)


@pytest.fixture
def parent(tiny_slide, tiny_regions, classes, tmp_path, once):
    settings = read_settings(TrainSettings, None, SMALL, "fast")

    def train(folder):
        run(fit(tiles_from_regions(tiny_slide, tiny_regions, classes, settings), settings, folder))

    return once("parent", train, tmp_path / "parent") / "model.safetensors"


def rows(network, name):
    """What the network knows of class `name` (0, 1, ...): its prototypes and the last weights of its presence."""
    return network.prototypes.unflatten(0, (-1, 2))[name], network.joint.presence[2].weight[name]


@pytest.mark.parametrize(
    ("wanted", "renamed", "taken"),
    [
        (("dark", "pink"), {}, {0: 0, 1: 1}),
        (("pink", "dark"), {}, {0: 1, 1: 0}),  # another order
        (("pink",), {}, {0: 1}),  # one removed
        (("new", "dark", "pink"), {}, {1: 0, 2: 1}),  # one added
        (("night", "pink"), {"dark": "night"}, {0: 0, 1: 1}),  # one renamed
        (("pink", "dark"), {"dark": "pink", "pink": "dark"}, {0: 0, 1: 1}),  # names exchanged
    ],
)
def test_classes_are_taken_over_by_name(parent, wanted, renamed, taken):
    old = load_model(parent, "cpu").network
    torch.manual_seed(3)
    fresh = ModelSettings(**PRESETS["fast"])
    network, before = (new_network(fresh, len(wanted)) for _ in range(2))
    before.load_state_dict(network.state_dict())
    take_over(network, named(*wanted), Ancestor(parent, renamed))
    assert torch.equal(network.joint.first.weight, old.joint.first.weight)
    assert torch.equal(network.joint.mean, old.joint.mean)
    for c in range(len(wanted)):
        expected = rows(old, taken[c]) if c in taken else rows(before, c)
        assert all(torch.equal(own, other) for own, other in zip(rows(network, c), expected, strict=True))


def test_a_training_that_goes_on_starts_where_its_ancestor_ended(parent, tiny_slide, tiny_regions, classes, tmp_path):
    settings = read_settings(TrainSettings, None, [*SMALL, "max_steps=1", "lr=1e-9"], "fast")
    tiles = tiles_from_regions(tiny_slide, tiny_regions, classes, settings)
    child = run(fit(tiles, settings, tmp_path / "child", ancestor=Ancestor(parent)))
    old, new = load_tensors(parent), load_tensors(child)
    assert all(torch.allclose(old[name], new[name], atol=1e-6) for name in load_model(parent).network.state_dict())
    grandchild = run(fit(tiles, settings, tmp_path / "grandchild", ancestor=Ancestor(child)))
    names = [line.split() for line in load_model(grandchild).card.ancestors]
    assert [name for name, _ in names] == ["parent", "child"]
    assert [digits for _, digits in names] == [load_model(path).hash[:16] for path in (parent, child)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prototypes_per_class": 3}, "cannot go on from it with model.prototypes_per_class=3: it has 2"),
        ({"head": "stages"}, "model.head=stages: it has joint"),
        ({"encoder": "resnet18", "encoder_weights": "random"}, "model.encoder=resnet18"),
        ({"bank": "random"}, "model.bank=random: it has learned"),
    ],
)
def test_a_network_of_another_kind_is_refused_in_a_line(parent, change, words):
    network = new_network(ModelSettings(**(PRESETS["fast"] | change)), 2)
    with pytest.raises(ModelError, match=words) as caught:
        take_over(network, named("dark", "pink"), Ancestor(parent))
    assert "\n" not in str(caught.value)


def test_a_class_that_is_not_there_cannot_be_renamed(parent):
    network = new_network(ModelSettings(**PRESETS["fast"]), 2)
    with pytest.raises(ModelError, match="no class 'blue' to rename; it has dark, pink"):
        take_over(network, named("dark", "pink"), Ancestor(parent, {"blue": "dark"}))
