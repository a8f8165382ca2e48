"""`make demo`: the sample slide is predicted and shown, and the pictures of the window show mask and heatmap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHECK = Path(__file__).parents[2] / "tools" / "check_demo.py"


def checked(picture: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(CHECK), str(picture)], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_demo_shows_the_mask_and_a_heatmap(tmp_path):
    picture = tmp_path / "demo.png"
    demo = [sys.executable, "-m", "napari_lpd", "demo", "--out", str(tmp_path), "--screenshot", str(picture)]
    done = subprocess.run(demo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check = checked(picture)
    assert check.returncode == 0, check.stderr
    # The check can fail: a picture without its mask, one of a single colour, and none at all.
    heatmap = tmp_path / "demo_prototypes.png"
    heatmap.rename(tmp_path / "bare.png")
    assert "there is no such picture" in checked(picture).stderr
    picture.rename(heatmap)
    (tmp_path / "bare.png").rename(picture)
    assert "the mask covers" in checked(picture).stderr
    Image.fromarray(np.zeros((940, 1500, 3), np.uint8)).save(picture)
    assert "one colour only" in checked(picture).stderr
