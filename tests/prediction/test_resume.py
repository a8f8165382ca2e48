"""A prediction that is killed anywhere goes on and ends with the same bytes."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import alone, ended, in_child, needs_fork, start_child
from made_models import save_small_model

from napari_lpd.core.jobs import run
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.models.checkpoint import load_model
from napari_lpd.prediction.predict import predict_slide
from napari_lpd.slides.slide import Slide
from napari_lpd.slides.tissue import TissueMask

SETTINGS = PredictSettings(tile=128, overlap=64, block=64, threads=1)
SHAPE = (384, 384)
TISSUE = TissueMask(np.ones((25, 25), bool), 16.0)


@pytest.fixture
def model(tmp_path, classes) -> Path:
    return save_small_model(tmp_path / "model.safetensors", classes, tile=128, mpp=0.998)


def predict(folder: Path, loaded):
    image = np.random.default_rng(0).integers(60, 220, (*SHAPE, 3), dtype=np.uint8)
    slide = Slide.from_levels([image], (0.998, 0.998), "noise")
    return run(predict_slide(slide, loaded, SETTINGS, folder, tissue=TISSUE))


def fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_job_that_is_closed_goes_on_with_the_same_bytes(tmp_path, model):
    image = np.random.default_rng(0).integers(60, 220, (*SHAPE, 3), dtype=np.uint8)
    slide = Slide.from_levels([image], (0.998, 0.998), "noise")
    loaded = load_model(model, "cpu")
    job = predict_slide(slide, loaded, SETTINGS, tmp_path / "stopped.zarr", tissue=TISSUE)
    for progress in job:
        if progress.done > progress.total / 3 > 0:
            break
    job.close()
    run(predict_slide(slide, loaded, SETTINGS, tmp_path / "stopped.zarr", tissue=TISSUE))
    run(predict_slide(slide, loaded, SETTINGS, tmp_path / "whole.zarr", tissue=TISSUE))
    assert fingerprint(tmp_path / "stopped.zarr") == fingerprint(tmp_path / "whole.zarr")


def kill(folder: Path, model: str) -> None:
    """Kill predictions at random moments until they are done, eight times; print how many blocks there were."""
    torch.set_num_threads(1)
    loaded = load_model(Path(model), "cpu")
    predict(folder / "first.zarr", loaded)  # what is imported by it is forked
    began = time.monotonic()
    in_child(lambda: predict(folder / "second.zarr", loaded))
    longest = (time.monotonic() - began) * 0.8
    moments = random.Random(4)
    kills = number = 0
    while kills < 8:
        out, blocks, finished = folder / f"{number}.zarr", 0, False
        while not finished:
            child = start_child(lambda out=out: predict(out, loaded))
            time.sleep(moments.uniform(0.05, longest))
            os.kill(child, signal.SIGKILL)
            code = ended(child)
            assert code in (0, -signal.SIGKILL), f"ended with {code}"
            finished = code == 0
            done = len(list(out.glob("labels/tissues/0/c/*/*")))
            assert done >= blocks, "finished blocks were lost"
            blocks, kills = done, kills + (not finished)
            print(done)  # noqa: T201
        number += 1


@pytest.mark.slow
@needs_fork
def test_a_prediction_killed_at_random_moments_ends_with_the_same_bytes(tmp_path, model):
    whole = tmp_path / "whole.zarr"
    predict(whole, load_model(model, "cpu"))
    (tmp_path / "killed").mkdir()
    stages = alone(kill, tmp_path / "killed", str(model)).split()
    assert len(set(stages)) > 3  # killed at different stages
    killed = sorted((tmp_path / "killed").glob("*.zarr"))
    assert killed
    for folder in killed:
        assert fingerprint(folder) == fingerprint(whole)
