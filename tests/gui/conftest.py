"""A real napari viewer, and settings of its own so that the user's are left alone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from qtpy.QtCore import QSettings

from napari_lpd import jobs, samples
from napari_lpd.config import TissueClass
from napari_lpd.gui._io import read_slide
from napari_lpd.prediction import Prediction


@pytest.fixture(autouse=True)
def _own_settings(tmp_path, monkeypatch):
    folder = tmp_path / "settings"
    monkeypatch.setattr(
        "napari_lpd.gui._models._store", lambda: QSettings(str(folder / "recent.ini"), QSettings.Format.IniFormat)
    )


@pytest.fixture
def shown_errors(monkeypatch) -> list[str]:
    """Texts of the error notifications."""
    texts: list[str] = []
    monkeypatch.setattr("napari_lpd.gui._job.show_error", texts.append)
    return texts


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


def _add(viewer, path):
    data, options, _ = read_slide(str(path))[0]
    return viewer.add_image(data, **options)


@pytest.fixture
def skin_layer(viewer):
    """The skin sample as a layer of the viewer."""
    return _add(viewer, samples.skin_slide_path())


@pytest.fixture
def tiny_layer(viewer, tiny_tiff):
    """The tiny slide as a layer of the viewer."""
    return _add(viewer, tiny_tiff)


@pytest.fixture
def use_widget(viewer, qtbot):
    """Dock a widget of ours in the viewer."""

    def use(widget_class):
        widget = widget_class(viewer)
        viewer.window.add_dock_widget(widget)
        return widget

    return use


@pytest.fixture
def children(monkeypatch):
    """Child processes that a job started; each prints one progress line and then is busy for a minute."""
    started: list[subprocess.Popen] = []
    busy = 'import time; print(\'{"event": "progress", "done": 1, "total": 9}\', flush=True); time.sleep(60)'
    real = subprocess.Popen

    def start(command, **options):
        assert command[:3] == [sys.executable, "-m", "napari_lpd"]
        started.append(real([sys.executable, "-c", busy], **options))
        return started[-1]

    monkeypatch.setattr(jobs.subprocess, "Popen", start)
    return started


def _prediction(shape=(64, 96), mpp=2.0, origin_um=(32.0, 64.0), stride=4, slide="tiny.tiff") -> Prediction:
    labels = np.zeros(shape, np.uint8)
    labels[:, : shape[1] // 2] = 1
    labels[:, shape[1] // 2 :] = 2
    small = (-(-shape[0] // stride), -(-shape[1] // stride))
    return Prediction(
        labels=labels,
        prototypes=np.arange(4, dtype=np.uint8)[:, None, None] + np.full((4, *small), 150, np.uint8),
        presence=np.full((2, *small), 255, np.uint8),
        classes=(TissueClass(name="dark", color="#3b4cff"), TissueClass(name="pink", color="#ff8c1a")),
        prototypes_per_class=2,
        mpp=mpp,
        stride=stride,
        origin_um=origin_um,
        slide=slide,
        slide_mpp=(1.0, 1.0),
        slide_shape=(256, 384),
        mpp_source="given",
        model="m",
        model_hash="h",
    )


@pytest.fixture
def make_prediction():
    """A prediction of the tiny slide: left half dark, right half pink."""
    return _prediction
