"""The network is cut off, and the model's card names an encoder of a hub: every command works as it does with one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from napari_lpd.data.regions import write_regions
from napari_lpd.models.card import Architecture
from napari_lpd.models.checkpoint import save_checkpoint
from napari_lpd.models.network import new_network

CUT_OFF = """
import json, socket, sys
from napari_lpd.cli.main import main

for family, address in ((socket.AF_INET, ("1.1.1.1", 53)),):
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except OSError:
            continue
        sys.exit("the network is not cut off")
for command in json.load(sys.stdin):
    if (code := main(command)) != 0:
        sys.exit(f"{command}: exit code {code}")
"""
QUICK = ["--set", "tile=64", "--set", "overlap=16", "--set", "threads=1", "--set", "normalise=benchmark"]


@pytest.fixture
def cut_off():
    """What comes before a command to run it without a network."""
    command = ["unshare", "--user", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("unshare(1) cannot cut the network off here")
    return command


def hub_model(path, tiny_model, monkeypatch):
    """The tiny model's card and head on an encoder that the card names by its place on a hub."""
    from timm.models import _factory

    about = {"architecture": "resnet10t", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    monkeypatch.setattr(_factory, "load_model_config_from_hf", lambda *_, **__: (about, "resnet10t", {}))
    torch.manual_seed(0)
    model = tiny_model.card.settings.model.model_copy(update={"encoder": "hf-hub:lab/network"})
    network = new_network(model, len(tiny_model.card.classes))
    assert isinstance(network.encoder.architecture, Architecture)
    settings = tiny_model.card.settings.model_copy(update={"model": model})
    card = tiny_model.card.model_copy(update={"settings": settings, "encoder": network.encoder.architecture})
    return save_checkpoint(path, network.state_dict(), card)


@pytest.mark.slow
def test_every_command_works_without_a_network(
    tmp_path, tiny_tiff, tiny_regions, tiny_model, classes, monkeypatch, cut_off
):
    model = str(hub_model(tmp_path / "hub" / "model.safetensors", tiny_model, monkeypatch))
    other = str(tmp_path / "tiny_model" / "model.safetensors")
    regions = str(write_regions(tmp_path / "regions.geojson", tiny_regions, classes))
    (tmp_path / "classes.json").write_text(json.dumps({"classes": [tissue.name for tissue in classes]}), "utf-8")
    head = ["--set", "model.prototypes_per_class=2", "--set", "model.prototype_dim=32", "--set", "tile=64"]
    train = [
        "train",
        "--slide",
        str(tiny_tiff),
        "--regions",
        regions,
        "--classes",
        str(tmp_path / "classes.json"),
        *head,
    ]
    result = str(tmp_path / "out" / "tiny.zarr")
    commands = [
        ["doctor"],
        [*train, "--set", "tile_step=48", "--set", "max_steps=1", "--set", "batch=4", "--out", str(tmp_path / "run")],
        ["predict", str(tiny_tiff), "--model", model, *QUICK, "--out", str(tmp_path / "out")],
        ["measure", result, "--out", str(tmp_path / "areas.csv")],
        ["export", result, "--to", str(tmp_path / "tiny.geojson")],
        [
            "compare",
            model,
            other,
            "--names",
            "hub",
            "tiny",
            "--data",
            str(tiny_tiff),
            "--out",
            str(tmp_path / "compared"),
        ],
    ]
    done = subprocess.run(
        [*cut_off, sys.executable, "-c", CUT_OFF],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-500:]
