"""Files of tensors: the boundary to safetensors and to torch's pickles, of which no code is ever run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from napari_lpd.core.errors import ModelError, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SAFETENSORS = ".safetensors"
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
FIRST = ("state_dict", "model_state_dict", "model", "net", "network", "module")  # taken before a moving average
NO_WEIGHTS = ("optim", "sched", "scaler", "hyper", "callbacks", "loops")  # beginnings of keys that hold other things
MAX_WRAPPINGS = 4


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, on the CPU; their numbers have to be finite.

    Raises:
        ModelError: missing, damaged, or with numbers that are none.
    """
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except Exception as error:  # its own error, the file system's, and torch's for types that it lacks
        raise ModelError(f"{path}: not readable as safetensors ({one_line(error, 150)}); copy it again") from error
    check_finite(path, tensors)
    return tensors


def read_pickle(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """Read a file of ``torch.save`` without running code that it may carry.

    Args:
        path: The file.
        allowed: Classes that it may name besides those of tensors, as for ``torch.serialization.safe_globals``.

    Raises:
        ModelError: missing, damaged, or with more than tensors and plain values.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here; all mean that the file is refused
        reason = one_line(str(error).partition("\n")[0] or type(error).__name__, 150)
        if "weights_only" in str(error) and "nsupported" in str(error):
            reason = "it would run code, which is refused; save its state_dict as safetensors"
        raise ModelError(f"{path}: not readable as weights ({reason})") from error


def weights_in(stored: Any, path: Path) -> dict[str, Tensor]:
    """Return the one set of named tensors in a checkpoint, however it is wrapped.

    Of several the one under a usual name (`FIRST`) is taken.

    Raises:
        ModelError: there is none, or the choice is not clear; the message names what there is.
    """
    found = dict(_tensor_sets(stored, "", 0))
    usual = [name for first in FIRST for name in found if name == first]
    if not found:
        held = ", ".join(str(key) for key in list(stored)[:8]) if isinstance(stored, dict) else type(stored).__name__
        raise ModelError(f"{path}: holds no tensors by name, but {one_line(held, 150) or 'nothing'}")
    if len(found) > 1 and not usual:
        held = one_line(", ".join(found), 150)
        raise ModelError(f"{path}: holds several sets of weights ({held}); save the one that is wanted by itself")
    tensors = found[usual[0]] if usual else next(iter(found.values()))
    check_finite(path, tensors)
    return tensors


def _tensor_sets(stored: Any, name: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(stored, dict) or depth > MAX_WRAPPINGS:
        return
    named = {str(key): value for key, value in stored.items() if isinstance(value, Tensor)}
    if len(named) > 1 or (named and depth):
        yield name, named
        return
    for key, value in stored.items():
        if isinstance(key, str) and not key.lower().startswith(NO_WEIGHTS):
            yield from _tensor_sets(value, f"{name}.{key}" if name else key, depth + 1)


def check_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise ModelError if a number in `tensors` is NaN or infinite, or a variance is below zero."""
    for name, value in tensors.items():
        if not (value.is_floating_point() or value.is_complex()) or not value.numel():
            continue
        lowest = value.float().amin() if name.endswith("running_var") else 0
        if not torch.isfinite(value.float() if value.itemsize == 1 else value).all() or lowest < 0:
            raise ModelError(f"{path}: its weights {one_line(name, 80)} are no numbers, so it is not used; train anew")
