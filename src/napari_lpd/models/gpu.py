"""Why torch uses no GPU here, and what to do about it, in words for who has a card and does not see it used."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

import torch

INDEX = "https://download.pytorch.org/whl"
BUILDS = (("13.0", "cu130"), ("12.8", "cu128"), ("12.6", "cu126"), ("11.8", "cu118"))  # newest first
DRIVERS = "https://www.nvidia.com/drivers"
CARD = Path("/proc/driver/nvidia/version")  # there where Linux has loaded NVIDIA's driver


def gpu_advice() -> str:
    """Say in a line whether a GPU is used, else the reason, and the command or the step that helps."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} is used"
    if torch.backends.mps.is_available():
        return "the Apple GPU is used"
    if sys.platform == "darwin":
        return "none is used: torch has GPUs on Macs with Apple silicon and macOS 12.3 or later only"
    if torch.version.cuda is None:
        built = "for AMD cards" if torch.version.hip else "without CUDA"
        if torch.version.hip or not _nvidia_driver_is_there():
            return (
                f"none is used: this PyTorch is built {built}, and it finds no card that it can use; with an NVIDIA"
                f" card, install its driver ({DRIVERS}), then: {_install(BUILDS[1][1])}"
            )
        return f"none is used though an NVIDIA driver is there: this PyTorch is built {built}; {_install(BUILDS[1][1])}"
    return f"none is used: {_refused()}"


def _refused() -> str:
    """Say why a build with CUDA finds no card, by what torch says when it is asked for one."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        said = str(error)
    else:
        said = ""
    if found := re.search(r"driver on your system is too old \(found version (\d+)\)", said):
        has = f"{int(found[1]) // 1000}.{int(found[1]) % 1000 // 10}"
        build = next((name for cuda, name in BUILDS if _number(cuda) <= _number(has)), "")
        other = f"; or take the PyTorch for this one: {_install(build)}" if build else ""
        return (
            f"the NVIDIA driver is for CUDA up to {has}, and this PyTorch wants {torch.version.cuda}: update the driver"
            f" ({DRIVERS}){other}"
        )
    if "no NVIDIA driver" in said:
        return f"no NVIDIA driver was found; with an NVIDIA card, install its driver ({DRIVERS}) and restart"
    if (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"CUDA_VISIBLE_DEVICES={hidden!r} hides the cards; unset that variable"
    return (
        f"the driver is there, and no card answers ({said.splitlines()[0] if said else 'no reason given'}); nvidia-smi"
        " shows whether the system sees it; restart after an update of the driver"
    )


def _nvidia_driver_is_there() -> bool:
    """Return whether NVIDIA's driver is installed; it is not asked, as torch without CUDA cannot."""
    root = os.environ.get("SYSTEMROOT", r"C:\Windows")
    return CARD.exists() or (platform.system() == "Windows" and Path(root, "System32", "nvcuda.dll").exists())


def _install(build: str) -> str:
    return f"pip install --force-reinstall torch torchvision --index-url {INDEX}/{build}"


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
