"""Only the training that was stopped goes on; what another one has left in the folder is not taken over."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import nn

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import DataError, ModelError
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.tileset import TileSet
from napari_lpd.training.runs.folder import ARGUMENTS, STATE_NAME, unfinished_run
from napari_lpd.training.runs.state import TrainingState, identity_of

CLASSES = tuple(TissueClass(name=name, color="#3b4cff") for name in ("dark", "pink"))
SETTINGS = TrainSettings(max_steps=3)


def tile_set(labels=((1, 0), (0, 1)), shade=10, classes=CLASSES, description="made") -> TileSet:
    return TileSet(
        classes, np.array(labels, np.float32), lambda i: np.full((8, 8, 3), shade + i, np.uint8), description,
        sources=["a"] * len(labels), files=[],
    )  # fmt: skip


def state_in(folder, tiles, settings=SETTINGS, total=3, seed=0) -> TrainingState:
    torch.manual_seed(seed)
    head = nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(head.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.5**step)
    return TrainingState(
        folder, identity_of(tiles, settings, total), {"head": head}, optimiser, schedule,
        torch.Generator().manual_seed(seed), torch.amp.GradScaler("cpu", enabled=False),
    )  # fmt: skip


def saved(folder) -> TrainingState:
    """A training that stopped after two steps."""
    state = state_in(folder, tile_set())
    for _ in range(2):
        state._modules["head"](torch.ones(1, 2)).sum().backward()
        state._optimiser.step()
        state._schedule.step()
    state.place.step = 2
    state.save()
    return state


def test_the_same_training_goes_on_with_its_weights_moments_and_learning_rate(tmp_path):
    before, again = saved(tmp_path), state_in(tmp_path, tile_set(), seed=1)
    assert again.load()
    assert again.place.step == 2
    assert torch.equal(again._modules["head"].weight, before._modules["head"].weight)
    assert again._optimiser.state_dict()["param_groups"][0]["lr"] == pytest.approx(0.025)
    moments = again._optimiser.state_dict()["state"]
    assert all(torch.equal(moments[i][name], value) for i, held in before._optimiser.state_dict()["state"].items()
               for name, value in held.items())  # fmt: skip
    again.restore_random()
    assert torch.equal(again._generator.get_state(), before._generator.get_state())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tiles": tile_set(shade=11)}, "another tiles (2 of made, "),
        ({"tiles": tile_set(labels=((0, 1), (1, 0)))}, "another tiles (2 of made, "),
        ({"tiles": tile_set(labels=((1, 0), (0, 1), (1, 1)))}, "another tiles (2 of made, "),
        ({"tiles": tile_set(description="other")}, "another tiles (2 of made, "),
        ({"tiles": tile_set(classes=CLASSES[::-1])}, "another classes (['dark', 'pink'])"),
        ({"total": 4}, "another steps (3)"),
        ({"settings": TrainSettings(max_steps=3, lr=1e-3)}, f"another lr ({SETTINGS.lr})"),
        (
            {"settings": TrainSettings(max_steps=3, model={"prototypes_per_class": 5})},
            "another prototypes_per_class (3)",
        ),
    ],
    ids=["pixels", "labels", "number", "source", "classes", "steps", "setting", "setting of the model"],
)
def test_another_training_does_not_take_over_what_this_one_has_left(tmp_path, change, named):
    saved(tmp_path)
    other = state_in(tmp_path, **({"tiles": tile_set()} | change), seed=1)
    weights = other._modules["head"].weight.clone()
    with pytest.raises(DataError) as caught:
        other.load()
    assert str(caught.value).startswith(f"{tmp_path}: holds half a training with {named}")
    assert torch.equal(other._modules["head"].weight, weights)
    assert other.place.step == 0


def test_a_training_goes_on_with_other_threads_workers_and_device(tmp_path):
    saved(tmp_path)
    assert state_in(tmp_path, tile_set(), TrainSettings(max_steps=3, threads=2, workers=1, device="cpu")).load()


def test_an_empty_folder_holds_no_training(tmp_path):
    assert not state_in(tmp_path, tile_set()).load()


def test_nothing_half_written_is_left_where_a_state_cannot_be_written(tmp_path, monkeypatch):
    saved(tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ModelError, match="No space left on device"):
        state_in(tmp_path, tile_set()).save()
    assert sorted(path.name for path in tmp_path.iterdir()) == files


def test_a_stopped_training_is_not_looked_for_in_hidden_folders(tmp_path):
    for name in (".a", "@eaDir", "#recycle", "run"):
        (tmp_path / name).mkdir()
        for file in (ARGUMENTS, STATE_NAME):
            (tmp_path / name / file).touch()
    assert unfinished_run(tmp_path) == tmp_path / "run"
    assert unfinished_run(tmp_path / "absent") is None
