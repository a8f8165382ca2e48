"""What a killed prediction has left behind does not stay, and is not taken for a part of the next."""

from __future__ import annotations

import os

import numpy as np
import pytest
from killing import in_child, needs_fork
from made_predictions import predicted

from napari_lpd.core.errors import ExportError
from napari_lpd.core.locks import partial_beside
from napari_lpd.results.create import copy_prediction, start_prediction
from napari_lpd.results.prediction import Prediction
from napari_lpd.slides.tissue import TissueMask

LABELS = np.ones((600, 600), np.uint8)
TISSUE = TissueMask(np.ones((40, 40), bool), 16.0)


def again(prediction: Prediction, **changes) -> Prediction:
    return start_prediction(
        prediction.folder, prediction.card.model_copy(update=changes), lambda: (TISSUE, [[1.0] * 2] * 3), replace=True
    )


@pytest.fixture
def stopped(classes, tmp_path):
    return predicted(tmp_path / "a.zarr", LABELS, classes, finish=False)


def test_files_that_a_killed_prediction_was_writing_are_removed_when_it_goes_on(stopped):
    blocks = stopped.finished_blocks()
    left = [stopped.folder / place for place in ("labels/tissues/0/c/0/9.partial", "c/0.abc.partial", "z.json.partial")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert again(stopped).finished_blocks() == blocks
    assert not list(stopped.folder.rglob("*.partial"))


def killed_while_making(path):
    """Leave what a process that was killed leaves of a folder that it was making."""

    def work():
        partial = partial_beside(path)
        (partial / "foreign").mkdir(parents=True)
        os._exit(7)

    assert in_child(work) == 7


@needs_fork
def test_a_folder_that_a_killed_process_was_making_is_not_taken_over(stopped):
    killed_while_making(stopped.folder)
    assert again(stopped, model_hash="1").finished_blocks() == set()
    assert [path.name for path in stopped.folder.parent.iterdir()] == ["a.zarr"]


@needs_fork
def test_a_copy_has_nothing_of_a_copy_that_was_killed(stopped, tmp_path):
    killed_while_making(tmp_path / "b.zarr")
    copy = copy_prediction(stopped, tmp_path / "b.zarr")
    assert not (copy / "foreign").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


def test_a_place_that_cannot_be_written_keeps_the_older_prediction_and_nothing_half_done(stopped, monkeypatch):
    def full(partial, *_):
        (partial / "labels").mkdir(parents=True)
        raise OSError(28, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(ExportError, match=r"a\.zarr: cannot be written \(No space left"),
    ):
        patch.setattr("napari_lpd.results.create._write_metadata", full)
        again(stopped, model_hash="1")
    assert [path.name for path in stopped.folder.parent.iterdir()] == ["a.zarr"]
    assert Prediction.open(stopped.folder).card == stopped.card
