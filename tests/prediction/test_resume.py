"""A prediction that is killed anywhere goes on and ends with the same bytes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from napari_lpd import samples
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.models.checkpoint import load_model
from napari_lpd.prediction.predict import predict_slide
from napari_lpd.slides.slide import Slide
from napari_lpd.slides.tissue import TissueMask

SETTINGS = PredictSettings(tile=128, overlap=64, block=64, threads=1)
SHAPE = (640, 640)
TISSUE = TissueMask(np.ones((41, 41), bool), 16.0)

# Forks what has imported torch and loaded the model, in one thread: doing so 20 times would take most of the time.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
import test_resume as here
torch.set_num_threads(1)
loaded = here.model()
random.seed(4)
kills = number = 0
while kills < 8:
    folder, blocks, finished = Path(sys.argv[1]) / f"{number}.zarr", 0, False
    while not finished:
        child = os.fork()
        if not child:
            here.predict(folder, loaded)
            os._exit(0)
        time.sleep(random.uniform(0.05, float(sys.argv[2])))
        os.kill(child, signal.SIGKILL)
        how = os.waitpid(child, 0)[1]
        assert how in (0, signal.SIGKILL), f"ended with {how}"
        finished = how == 0
        done = len(list(folder.glob("labels/tissues/0/c/*/*")))
        assert done >= blocks, "finished blocks were lost"
        blocks, kills = done, kills + (not finished)
        print(done, flush=True)
    number += 1
"""


def model():
    return load_model(samples.model_path(), "cpu")


def predict(folder: Path, loaded):
    image = np.random.default_rng(0).integers(60, 220, (*SHAPE, 3), dtype=np.uint8)
    slide = Slide.from_levels([image], (0.998, 0.998), "noise")
    return run(predict_slide(slide, loaded, SETTINGS, folder, tissue=TISSUE))


def fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_job_that_is_closed_goes_on_with_the_same_bytes(tmp_path):
    image = np.random.default_rng(0).integers(60, 220, (*SHAPE, 3), dtype=np.uint8)
    slide = Slide.from_levels([image], (0.998, 0.998), "noise")
    loaded = model()
    job = predict_slide(slide, loaded, SETTINGS, tmp_path / "stopped.zarr", tissue=TISSUE)
    for progress in job:
        if progress.done > progress.total / 3 > 0:
            break
    job.close()
    run(predict_slide(slide, loaded, SETTINGS, tmp_path / "stopped.zarr", tissue=TISSUE))
    run(predict_slide(slide, loaded, SETTINGS, tmp_path / "whole.zarr", tissue=TISSUE))
    assert fingerprint(tmp_path / "stopped.zarr") == fingerprint(tmp_path / "whole.zarr")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs os.fork")
def test_a_prediction_killed_at_random_moments_ends_with_the_same_bytes(tmp_path):
    whole = tmp_path / "whole.zarr"
    began = time.monotonic()
    predict(whole, model())
    longest = (time.monotonic() - began) * 0.8
    command = [sys.executable, "-c", KILLER, str(tmp_path / "killed"), str(longest)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parent, check=False)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) > 3  # killed at different stages
    killed = sorted((tmp_path / "killed").glob("*.zarr"))
    assert killed
    for folder in killed:
        assert fingerprint(folder) == fingerprint(whole)
