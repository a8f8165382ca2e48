"""A prediction that is killed anywhere goes on and ends with the same bytes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_lpd import samples
from napari_lpd.config import PredictSettings
from napari_lpd.jobs import run
from napari_lpd.model import load_model
from napari_lpd.predict import predict_slide
from napari_lpd.slide import Slide
from napari_lpd.tissue import Mask

SETTINGS = PredictSettings(tile=128, overlap=64, block=64, threads=1)
SHAPE = (640, 640)
TISSUE = Mask(np.ones((41, 41), bool), 16.0)

# Forks before torch has started any thread: importing it 20 times would take most of the time.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
import test_resume as here
here.model()
folder = Path(sys.argv[1])
random.seed(4)
kills = blocks = 0
while True:
    child = os.fork()
    if not child:
        here.predict(folder)
        os._exit(0)
    time.sleep(random.uniform(0.05, float(sys.argv[2])))
    os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] == 0:
        break
    done = len(list(folder.glob("labels/tissues/0/c/*/*")))
    assert done >= blocks, "finished blocks were lost"
    kills, blocks = kills + 1, done
print(kills)
"""


def model():
    return load_model(samples.model_path(), "cpu")


def predict(folder: Path):
    image = np.random.default_rng(0).integers(60, 220, (*SHAPE, 3), dtype=np.uint8)
    slide = Slide.from_levels([image], (0.998, 0.998), "noise")
    return run(predict_slide(slide, model(), SETTINGS, folder, tissue=TISSUE))


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
    killed, whole = tmp_path / "killed.zarr", tmp_path / "whole.zarr"
    command = [sys.executable, "-c", KILLER, str(killed), "2.0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parent, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20
    predict(whole)
    assert fingerprint(killed) == fingerprint(whole)
