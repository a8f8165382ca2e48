"""``napari-lpd demo`` up to the window, which is another process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from napari_lpd import samples
from napari_lpd.cli import demo
from napari_lpd.cli.main import main


@pytest.fixture
def shown(monkeypatch):
    """Commands of the windows that are opened, and what they end with; predicting the sample takes minutes."""
    commands, ends = [], [0]

    def open_window(command, check):
        commands.append(command)
        return subprocess.CompletedProcess(command, ends[0])

    def predict(options, _):
        return {"slides": [{"slide": str(options.slides[0]), "prediction": str(options.out / "CMU-1_skin.zarr")}]}

    monkeypatch.setattr(demo.subprocess, "run", open_window)
    monkeypatch.setattr(demo, "predict", predict)
    return commands, ends


def test_the_demo_shows_the_sample_slide_with_its_prediction(shown, tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path)]) == 0
    place = ["--slide", str(samples.skin_slide_path()), "--prediction", str(tmp_path / "CMU-1_skin.zarr")]
    place += ["--model", str(samples.model_path())]
    assert shown[0] == [[sys.executable, "-m", "napari_lpd.gui.demo", *place]]
    assert "done" in capsys.readouterr().out


def test_the_demo_hands_on_where_the_picture_of_the_window_goes(shown, tmp_path, capsys):
    picture = str(tmp_path / "demo.png")
    assert main(["demo", "--out", str(tmp_path), "--screenshot", picture]) == 0
    assert shown[0][0][-2:] == ["--screenshot", picture]
    assert picture in capsys.readouterr().out


def test_a_window_that_does_not_open_is_one_line(shown, tmp_path, capsys):
    shown[1][0] = 1
    assert main(["demo", "--out", str(tmp_path)]) != 0
    assert "napari could not show the result; it needs a screen" in capsys.readouterr().err
