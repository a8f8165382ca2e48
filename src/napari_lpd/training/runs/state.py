"""Where a training stands: everything that a run needs to resume as if it had never stopped.

One safetensors file in the run's folder, written whole every half minute, after a stop, and at the end of an epoch; the
end of the training removes it. On a CPU a run that went on ends with the same weights, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BeforeValidator, TypeAdapter
from safetensors.torch import save
from torch import Tensor, nn

from napari_lpd.core.errors import DataError, ModelError, one_line, writing
from napari_lpd.core.files import atomic_write
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.models.published.weight_files import read_safetensors
from napari_lpd.training.distributed import is_rank_zero, on_rank_zero
from napari_lpd.training.runs.folder import STATE_KEY, STATE_NAME, read_state

if TYPE_CHECKING:
    from pathlib import Path

    from napari_lpd.data.tileset import TileSet


Figure = Annotated[int | float, BeforeValidator(lambda value: math.nan if value is None else value)]


@dataclass
class TrainingPosition:
    """How far a training is.

    Attributes:
        epoch: Epochs that are finished.
        step: Steps taken.
        order: The tiles of the current epoch, in the order in which they are taken; empty before it is drawn.
        taken: How many of them have been.
        sums: Per metric: its sum over the tiles taken in this epoch.
        curve: What every step said, for drawing.
        history: Rows of the finished epochs.
        best: Highest validation score.
        best_epoch: The epoch that had it, from 1.
    """

    epoch: int = 0
    step: int = 0
    order: list[int] = field(default_factory=list)
    taken: int = 0
    sums: dict[str, Figure] = field(default_factory=dict)
    curve: list[dict[str, Figure]] = field(default_factory=list)
    history: list[dict[str, Figure]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = 0


POSITION = TypeAdapter(TrainingPosition)


class TrainingState:
    """Everything that changes while a model is trained.

    Args:
        folder: The run's folder.
        identity: What is trained, on what; from `identity_of`.
        modules: What is trained, by name.
        optimiser: AdamW over their parameters.
        schedule: Its learning rates.
        generator: Source of the order of tiles and of augmentation.
        scaler: Of the loss, in float16.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        modules: dict[str, nn.Module],
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LambdaLR,
        generator: torch.Generator,
        scaler: torch.amp.GradScaler,
    ) -> None:
        self.place = TrainingPosition()
        self._path, self._identity = folder / STATE_NAME, identity
        self._modules, self._optimiser, self._schedule, self._generator = modules, optimiser, schedule, generator
        self._scaler = scaler
        self._random: dict[str, Tensor] = {}

    def save(self) -> None:
        """Write the state, whole or not at all; of several processes the first does.

        Raises:
            ModelError: the folder cannot be written; what was saved before stays.
        """
        if not is_rank_zero():
            return
        tensors = {f"{name}.{key}": value for name, module in self._modules.items()
                   for key, value in module.state_dict().items()}  # fmt: skip
        moments = self._optimiser.state_dict()["state"]
        tensors |= {f"moments.{i}.{key}": value for i, held in moments.items() for key, value in held.items()}
        tensors |= {f"random.{name}": value for name, value in _random_states(self._generator).items()}
        about = {"identity": self._identity, "place": asdict(self.place), "schedule": _plain(self._schedule)}
        about["scaler"] = self._scaler.state_dict()
        stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        with atomic_write(self._path, error=ModelError) as partial:
            partial.write_bytes(save(stored, metadata={STATE_KEY: json.dumps(_without_nan(about), allow_nan=False)}))

    def load(self) -> bool:
        """Go on where the folder's state says, if it has one.

        Raises:
            DataError: the folder's training is another one.
            ModelError: the state cannot be read.
        """
        found = on_rank_zero(self._read)
        if found is None:
            return False
        try:
            self._restore(*found)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            reason = one_line(str(error).partition("\n")[0], 150)
            raise ModelError(f"{self._path}: damaged ({reason}); delete it to train anew") from error
        return True

    def _restore(self, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        place = POSITION.validate_python(about["place"])
        for name, module in self._modules.items():
            module.load_state_dict(_below(tensors, name))
        state = self._optimiser.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _below(tensors, "moments").items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = value
        self._schedule.load_state_dict(about["schedule"])
        for group, lr in zip(state["param_groups"], about["schedule"]["_last_lr"], strict=True):
            group["lr"] = lr
        self._optimiser.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
        self._scaler.load_state_dict(about["scaler"])
        self.place = place
        self._random = _below(tensors, "random")

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        about = read_state(self._path.parent)
        if about is None:
            return None
        if other := _difference(about["identity"], self._identity):
            raise DataError(f"{self._path.parent}: holds half a training with another {other}; choose another folder")
        return about, read_safetensors(self._path)

    def restore_random(self) -> None:
        """Set all sources of randomness as they were, once."""
        if self._random:
            self._generator.set_state(self._random["tiles"])
            torch.set_rng_state(self._random["torch"])
            if "cuda" in self._random and torch.cuda.is_available():
                torch.cuda.set_rng_state(self._random["cuda"])
        self._random = {}

    def remove(self) -> None:
        """Forget the state: the training is over."""
        if is_rank_zero():
            with writing(self._path, ModelError):
                self._path.unlink(missing_ok=True)


def _without_nan(value: Any) -> Any:
    """Write NaN as null, which JSON knows; infinite numbers, too."""
    if isinstance(value, dict):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def identity_of(tiles: TileSet, settings: TrainSettings, total: int) -> dict[str, Any]:
    """Describe what makes a training what it is: two with the same identity take the same steps."""
    pixels = hashlib.sha256(b"".join(tiles.said_of(i) for i in range(len(tiles))))
    for index in range(0, len(tiles), max(1, len(tiles) // 16)):
        pixels.update(tiles[index][0].tobytes())
    return {
        "classes": [tissue.name for tissue in tiles.classes],
        "tiles": f"{len(tiles)} of {tiles.description}, {pixels.hexdigest()[:16]}",
        "steps": total,
        "settings": settings.model_dump(mode="json", exclude=set(TrainSettings.RUNTIME_SETTINGS)),
    }


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Name the first thing in which two identities differ; "" where they are the same."""
    for name, value in one.items():
        if isinstance(value, dict):
            if found := _difference(value, held if isinstance(held := other.get(name), dict) else {}):
                return found
        elif value != other.get(name):
            return f"{name} ({value})"
    return ""


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def _plain(schedule: torch.optim.lr_scheduler.LambdaLR) -> dict[str, Any]:
    """Return the schedule's state without its functions."""
    return {**schedule.state_dict(), "lr_lambdas": [None] * len(schedule.base_lrs)}


def _random_states(generator: torch.Generator) -> dict[str, Tensor]:
    states = {"tiles": generator.get_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
