"""Who has a card that is not used is told why, and what to do; torch's own words are those of its source."""

from __future__ import annotations

import pytest
import torch

from napari_lpd.cli.main import main
from napari_lpd.models import gpu
from napari_lpd.models.gpu import gpu_advice

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version {}). Please update your GPU driver by downloading and"
    " installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to:"
    " https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver."
NONE = "No CUDA GPUs are available"
INSTALL = "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A Linux machine: what torch was built for, what it says when it is asked for CUDA, whether a driver is loaded."""

    def machine(cuda=None, said="", driver=False, hip=None):
        def init():
            if said:
                raise RuntimeError(said)

        if driver:
            (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14")
        monkeypatch.setattr(gpu, "CARD", tmp_path / "version")
        monkeypatch.setattr(gpu.sys, "platform", "linux")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return machine


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"driver": True}, ["an NVIDIA driver is there", "built without CUDA", f"{INSTALL}cu128"]),
        ({}, ["built without CUDA", "finds no card", f"then: {INSTALL}cu128"]),
        ({"hip": "6.4"}, ["built for AMD cards"]),
        ({"cuda": "13.0", "said": NO_DRIVER}, ["no NVIDIA driver was found", "https://www.nvidia.com/drivers"]),
        (
            {"cuda": "13.0", "said": TOO_OLD.format(12040)},
            ["the NVIDIA driver is for CUDA up to 12.4, and this PyTorch wants 13.0: update", f"{INSTALL}cu118"],
        ),
        ({"cuda": "13.0", "said": TOO_OLD.format(12080)}, ["CUDA up to 12.8", f"{INSTALL}cu128"]),
        ({"cuda": "13.0", "said": NONE, "driver": True}, ["no card answers", NONE, "nvidia-smi"]),
    ],
)
def test_the_reason_and_the_remedy_are_said_in_a_line(machine, found, words, capsys):
    machine(**found)
    said = gpu_advice()
    assert said.startswith("none is used")
    assert "\n" not in said
    for part in words:
        assert part in said
    assert main(["doctor"]) == 0
    assert f"GPU: {said}" in capsys.readouterr().out


def test_a_driver_that_is_too_old_for_any_build_is_to_be_updated(machine):
    machine("13.0", TOO_OLD.format(9020))
    assert gpu_advice().endswith("update the driver (https://www.nvidia.com/drivers)")


def test_cards_that_a_variable_hides_are_named(machine, monkeypatch):
    machine("13.0", NONE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES='' hides the cards; unset that variable" in gpu_advice()


def test_a_card_that_is_used_is_named(machine, monkeypatch):
    machine("13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA X1")
    assert gpu_advice() == "NVIDIA X1 is used"
