"""Which device is taken where, and the reason that is given for it."""

from __future__ import annotations

import pytest
import torch

from napari_lpd.core.errors import SettingsError
from napari_lpd.models.compute import choose_device


@pytest.fixture
def machine(monkeypatch):
    """Give the machine so many NVIDIA GPUs, and an Apple GPU or none."""

    def with_gpus(cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA X1")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return with_gpus


@pytest.mark.parametrize(
    ("gpus", "wanted", "device", "reason"),
    [
        ({"cuda": 2}, "auto", "cuda", "NVIDIA X1 found"),
        ({"cuda": 1, "mps": True}, "auto", "cuda", "NVIDIA X1 found"),
        ({"mps": True}, "auto", "mps", "Apple GPU found"),
        ({}, "auto", "cpu", "no GPU found"),
        ({"cuda": 1}, "cpu", "cpu", "requested"),
        ({"cuda": 1}, "cuda", "cuda", "requested"),
        ({"cuda": 2}, "cuda:1", "cuda:1", "requested"),
        ({"mps": True}, "mps", "mps", "requested"),
    ],
)
def test_a_device_comes_with_its_reason(machine, gpus, wanted, device, reason):
    machine(**gpus)
    assert choose_device(wanted) == (torch.device(device), reason)


@pytest.mark.parametrize(
    ("gpus", "wanted"),
    [({}, "cuda"), ({"cuda": 1}, "cuda:1"), ({"cuda": 1}, "mps"), ({}, "cpu:1"), ({"mps": True}, "mps:1"), ({}, "xpu")],
)
def test_a_device_that_is_not_there_is_refused(machine, gpus, wanted):
    machine(**gpus)
    with pytest.raises(SettingsError) as caught:
        choose_device(wanted)
    why = " (napari-lpd doctor says why)" if wanted == "cuda" else ""
    assert str(caught.value) == f"device={wanted!r} is not available on this machine{why}; use cpu or auto"


def test_a_device_that_nobody_knows_is_refused(machine):
    machine()
    with pytest.raises(SettingsError) as caught:
        choose_device("gpu")
    assert str(caught.value) == "device='gpu': wanted auto, cpu, cuda, cuda:N or mps"
