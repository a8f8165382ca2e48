"""A model file from a stranger: whatever its card and its tensors say, it is loaded or refused with one line."""

from __future__ import annotations

import copy
import json
import socket

import pytest
import safetensors
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from napari_lpd import samples
from napari_lpd.core.errors import LpdError, ModelError
from napari_lpd.core.files import KEY
from napari_lpd.models.backbones.weights import read_state
from napari_lpd.models.card import Architecture, Card, read_card
from napari_lpd.models.checkpoint import TRAINING_HASHES, load_model
from napari_lpd.models.encoder import build_encoder
from napari_lpd.models.network import new_network

with safetensors.safe_open(samples.model_path(), framework="numpy") as file:
    CARD = json.loads(file.metadata()[KEY])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


def leaves(value, path=()):
    if isinstance(value, dict | list) and value:
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(entry, (*path, key))
    yield path


PATHS = sorted((path for path in leaves(CARD) if path), key=str)


def changed(path, value):
    card = copy.deepcopy(CARD)
    *parents, last = path
    target = card
    for key in parents:
        target = target[key]
    target[last] = value
    return card


def written(path, card, tensors=None):
    save_file(
        tensors or {"a": torch.zeros(1)}, path, metadata={KEY: card if isinstance(card, str) else json.dumps(card)}
    )
    return path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **_):
        raise AssertionError(f"the network was asked for {arguments[:2]}")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(PATHS), value=JSON)
def test_a_card_with_any_change_is_read_or_refused_in_one_line(tmp_path, path, value):
    try:
        card = read_card(written(tmp_path / "m.safetensors", changed(path, value)))
    except ModelError as error:
        assert "m.safetensors" in str(error)
        return
    assert len(card.presence) == len(card.classes) == len({tissue.name for tissue in card.classes})


WRONG = {
    "a name twice": (("classes", 0, "name"), "fat", "occurs twice"),
    "a name with a line end": (("classes", 0, "name"), "a\nb", "one line"),
    "a name that turns the text round": (("classes", 0, "name"), "a\u202eb", "one line"),
    "a long name": (("classes", 0, "name"), "a" * 101, "at most 100"),
    "a colour that is none": (("classes", 0, "color"), "red", "color"),
    "one class": (("classes",), CARD["classes"][:1], "at least two|presence"),
    "300 classes": (("classes",), [{"name": str(i), "color": "#000000"} for i in range(300)], "250"),
    "too few thresholds": (("presence",), [0.5], "presence"),
    "a threshold above 1": (("presence", 0), 1.5, "presence"),
    "a map level of 0": (("map_scale", 0, 0), 0, "map_scale"),
    "too few map levels": (("map_scale",), CARD["map_scale"][:2], "map_scale"),
    "a count below 0": (("tiles",), -1, "tiles"),
    "a temperature of 0": (("temperature",), 0, "temperature"),
    "another format": (("format",), 2, "format"),
    "a setting out of range": (("settings", "tile"), 10**6, "tile"),
    "a setting that is unknown": (("settings", "shell"), "rm", "shell"),
    "a path in an architecture": (("encoder",), {"name": "../a", "mean": [0, 0, 0], "std": [1, 1, 1]}, "encoder"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_card_that_contradicts_itself_is_refused_with_the_reason(tmp_path, name):
    path, value, why = WRONG[name]
    with pytest.raises(ModelError, match=why):
        read_card(written(tmp_path / "m.safetensors", changed(path, value)))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", "{", '"x"', "\ufeff{}", "", '{"a": NaN}', '{"a": 1, "a": 2}', "\x00"]
)
def test_a_card_that_is_no_object_is_refused(tmp_path, text):
    with pytest.raises(ModelError, match=r"m\.safetensors"):
        read_card(written(tmp_path / "m.safetensors", text))


ARGUMENTS = [*Architecture.OURS]


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_an_architecture_cannot_ask_for_weights_files_or_devices(name):
    with pytest.raises(LpdError):
        Architecture.build({"name": "resnet18", "arguments": {name: True}, "mean": [0, 0, 0], "std": [1, 1, 1]})


@pytest.mark.parametrize("value", ["/etc/passwd", "http://a.example", "hf-hub:a/b", {"url": "x"}, [["x"]], 10**9, None])
def test_an_architecture_holds_plain_values_alone(value):
    with pytest.raises(LpdError):
        Architecture.build({"name": "resnet18", "arguments": {"a": value}, "mean": [0, 0, 0], "std": [1, 1, 1]})


@pytest.mark.parametrize(
    "encoder", ["hf-hub:stranger/tracker", "hf_hub:a/b", "local-dir:/tmp", "timm/resnet18", "nosuch", ""]
)
def test_no_encoder_of_a_card_reaches_the_hub_or_a_folder(tmp_path, no_network, encoder):
    card = changed(("settings", "model", "encoder"), encoder)
    path = written(tmp_path / "m.safetensors", card, load_file(samples.model_path()))
    with pytest.raises(ModelError, match=r"m\.safetensors: .*encoder"):
        load_model(path)


@pytest.fixture
def hub(monkeypatch):
    """timm's network of a repository of the hub, without the hub."""
    from timm.models import _factory

    def of_hub(name, *_, **__):
        return (
            {"architecture": "resnet18", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)},
            "resnet18",
            {"stem_width": 32},
        )

    monkeypatch.setattr(_factory, "load_model_config_from_hf", of_hub)
    yield
    monkeypatch.undo()


def test_a_model_with_an_encoder_of_the_hub_is_loaded_without_the_hub(tmp_path, hub, monkeypatch, no_network):
    card = Card.build(CARD)
    model = card.settings.model.model_copy(update={"encoder": "hf-hub:lab/network"})
    network = new_network(model, len(card.classes))
    assert network.encoder.architecture == Architecture(
        name="resnet18",
        arguments={"stem_width": 32},
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        source="config.json of hf-hub:lab/network",
    )
    update = {"settings": card.settings.model_copy(update={"model": model}), "encoder": network.encoder.architecture}
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    path = written(tmp_path / "m.safetensors", card.model_copy(update=update).model_dump_json(), tensors)
    monkeypatch.setattr(timm.models._factory, "load_model_config_from_hf", None)
    loaded = load_model(path).network
    assert loaded.encoder.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert all(torch.equal(value, tensors[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["prototypes", "scales", "running_mean"])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value, kind):
    tensors = load_file(samples.model_path())
    name = next(name for name in tensors if name.endswith(kind))
    tensors[name].view(-1)[-1] = value
    with pytest.raises(ModelError, match=rf"m\.safetensors: its weights {name} are no numbers"):
        load_model(written(tmp_path / "m.safetensors", CARD, tensors))


def test_a_variance_below_zero_is_refused(tmp_path):
    tensors = load_file(samples.model_path())
    next(value for name, value in tensors.items() if name.endswith("running_var"))[0] = -1
    with pytest.raises(ModelError, match="are no numbers"):
        load_model(written(tmp_path / "m.safetensors", CARD, tensors))


@pytest.mark.parametrize(
    "hashes", [torch.zeros(3), torch.zeros(3, 2, dtype=torch.uint8), torch.zeros(8, dtype=torch.uint8)]
)
def test_hashes_of_another_form_are_refused(tmp_path, hashes):
    tensors = load_file(samples.model_path()) | {TRAINING_HASHES["file"]: hashes}
    with pytest.raises(ModelError, match="no hashes"):
        load_model(written(tmp_path / "m.safetensors", CARD, tensors))


@pytest.mark.parametrize("damage", ["", "x", b"\x08\0\0\0\0\0\0\0{}      ", "cut"])
def test_a_file_that_is_no_model_is_refused(tmp_path, damage):
    path = tmp_path / "m.safetensors"
    content = samples.model_path().read_bytes()[:100_000] if damage == "cut" else damage
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelError, match=r"m\.safetensors"):
        load_model(path)


STATE = timm.create_model("resnet18").state_dict()
WRAPPED = {
    "bare": STATE,
    **{
        name: {name: STATE}
        for name in ("state_dict", "model_state_dict", "model", "net", "model_ema", "ema", "weights")
    },
    "teacher": {"teacher": {f"backbone.{name}": value for name, value in STATE.items()}},
    "module": {"state_dict": {f"module.{name}": value for name, value in STATE.items()}},
    "compiled": {"model": {f"_orig_mod.{name}": value for name, value in STATE.items()}},
    "with optimiser": {
        "epoch": 3,
        "model": STATE,
        "model_ema": STATE,
        "optimizer": {"state": {0: {"m": torch.ones(1)}}},
    },
    "nested": {"checkpoint": {"model": STATE}, "lr": 0.1, "optimizer_states": [{"a": torch.ones(2)}]},
}


@pytest.mark.parametrize("suffix", [".pth", ".PT", ".bin", ".ckpt"])
@pytest.mark.parametrize("name", WRAPPED)
def test_weights_are_taken_out_of_every_wrapping(tmp_path, name, suffix):
    torch.save(WRAPPED[name], tmp_path / f"w{suffix}")
    encoder = build_encoder("resnet18", str(tmp_path / f"w{suffix}"))
    assert torch.equal(encoder.backbone.conv1.weight, STATE["conv1.weight"])


@pytest.mark.parametrize("suffix", [".safetensors", ".SAFETENSORS", ".SafeTensors"])
def test_suffixes_may_be_written_in_capitals(tmp_path, suffix):
    save_file({name: value.contiguous() for name, value in STATE.items()}, tmp_path / f"w{suffix}")
    assert build_encoder("resnet18", str(tmp_path / f"w{suffix}")).strides == [4, 8, 16, 16]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"teacher": STATE, "student": STATE}, r"several sets of weights \(teacher, student\)"),
        ({"epoch": 1, "args": {"lr": 1.0}}, "holds no tensors by name, but epoch, args"),
        ([1, 2], "holds no tensors by name, but list"),
        ({"model": {"conv1.weight": torch.full((2,), float("nan")), "b": torch.ones(1)}}, "are no numbers"),
        (torch.nn.Linear(1, 1), "would run code"),
    ],
)
def test_what_cannot_be_taken_is_named_truthfully(tmp_path, content, why):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=rf"w\.pth: .*{why}"):
        read_state(tmp_path / "w.pth")
