"""The checkpoint's format: one safetensors file whose header carries the card (JSON) that describes the model.

A readable copy of the card is written beside it (``NAME.json``); only the header is ever read.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from napari_lpd.core.errors import ModelError, absent, one_line
from napari_lpd.core.files import HASH_BYTES, KEY, atomic_write, file_hash, write_text
from napari_lpd.models.card import Card, model_name, read_card
from napari_lpd.models.compute import choose_device
from napari_lpd.models.network import LoadedModel, network_of
from napari_lpd.models.published.weight_files import read_safetensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TRAINING_ONLY = "training."  # prefix of tensors that prediction ignores
TRAINING_HASHES = {
    "file": f"{TRAINING_ONLY}file_hashes",
    "tile": f"{TRAINING_ONLY}tile_hashes",
    "validation": f"{TRAINING_ONLY}validation_hashes",
}  # of the files and tiles that were trained on, and of the files that chose the best epoch


def save_checkpoint(path: Path, tensors: dict[str, Tensor], card: Card) -> Path:
    """Write `tensors` and `card` to `path` (``.safetensors``), atomically.

    Raises:
        ModelError: the folder cannot be written.
    """
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path, error=ModelError) as partial:
        partial.write_bytes(save(contiguous, metadata={KEY: card.model_dump_json()}))
    write_text(path.with_suffix(".json"), card.model_dump_json(indent=1) + "\n", error=ModelError)
    return path


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, on the CPU.

    Raises:
        ModelError: damaged, with numbers that are none, or with hashes of another form.
    """
    tensors = read_safetensors(path)
    for name in TRAINING_HASHES.values():
        held = tensors.get(name)
        if held is not None and (held.dtype is not torch.uint8 or held.ndim != 2 or held.shape[1] != HASH_BYTES):
            raise ModelError(f"{path}: damaged ({name} are no hashes of files); train anew")
    return tensors


def load_model(path: Path, device: str = "auto") -> LoadedModel:
    """Load a checkpoint for prediction (evaluation mode, no gradients).

    Examples:
        >>> from napari_lpd import load_model, samples
        >>> [tissue.name for tissue in load_model(samples.model_path()).card.classes]
        ['epidermis', 'naevus nests', 'collagen', 'fat']

    Raises:
        ModelError: missing, foreign or damaged file.
    """
    card = read_card(path)
    try:
        network = network_of(card)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    tensors = {name: value for name, value in load_tensors(path).items() if not name.startswith(TRAINING_ONLY)}
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"{path}: tensors do not fit the card ({one_line(str(error).splitlines()[-1], 200)})"
        ) from error
    chosen = choose_device(device)[0]
    network.eval().requires_grad_(False).to(chosen)
    return LoadedModel(network, card, model_name(path), file_hash(path), chosen)


def load_cached(path: Path, device: str = "auto") -> LoadedModel:
    """Load a checkpoint as `load_model`, or return it as loaded before; the two used last are cached.

    Raises:
        ModelError: missing, foreign or damaged file.
    """
    if not path.is_file():
        raise ModelError(absent(path, "model file"))
    return _load_cached(path.absolute(), path.stat().st_mtime_ns, device)


@lru_cache(maxsize=2)
def _load_cached(path: Path, changed_ns: int, device: str) -> LoadedModel:
    del changed_ns  # tells a new file from the old one
    return load_model(path, device)
