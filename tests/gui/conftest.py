"""A real napari viewer, and settings of its own so that the user's are left alone."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import shapely
from qtpy.QtCore import QSettings
from qtpy.QtWidgets import QMessageBox

from napari_lpd import samples
from napari_lpd.core import jobs
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.gui.common.prediction_run import keep_triton_out
from napari_lpd.gui.common.recent_models import keep
from napari_lpd.gui.contributions import read_slide
from napari_lpd.gui.live.panel import KEPT
from napari_lpd.gui.train.widget import TrainWidget
from napari_lpd.results.card import PredictionCard
from napari_lpd.results.create import start_prediction
from napari_lpd.results.prediction import BlockResult, Prediction
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.tissue import TissueMask


@pytest.fixture
def live_mask() -> str:
    """Whether the live mask is on in a session before; tests that are about it have it on."""
    return "off"


@pytest.fixture(autouse=True)
def _collect_what_is_new():
    """Keep what was there before out of the garbage collections after every viewer, which take a sixth of the time."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_settings(tmp_path, monkeypatch, live_mask):
    folder = tmp_path / "settings"
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")  # where what is made on samples is kept
    monkeypatch.setattr(
        "napari_lpd.gui.common.recent_models._store",
        lambda: QSettings(str(folder / "recent.ini"), QSettings.Format.IniFormat),
    )
    keep(KEPT, live_mask)


@pytest.fixture(autouse=True)
def _no_triton():
    """Let torch be imported after another test has drawn."""
    keep_triton_out()


@pytest.fixture(autouse=True)
def _no_question_waits(monkeypatch):
    """Answer questions that a test does not answer itself, as on closing a window with a job, which would wait."""
    monkeypatch.setattr(QMessageBox, "question", lambda *_: QMessageBox.StandardButton.Close)


@pytest.fixture
def shown_errors(monkeypatch) -> list[str]:
    """Texts of the error notifications."""
    texts: list[str] = []
    for module in ("job", "slide_picker"):
        monkeypatch.setattr(f"napari_lpd.gui.common.{module}.show_error", texts.append)
    return texts


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


@pytest.fixture
def shown_viewer(make_napari_viewer):
    """A viewer in a window of a usual size, on the screen."""
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1500, 940)
    return viewer


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
def train(use_widget, classes, tmp_path):
    """The Train widget, with two tissue classes and a models folder of its own."""
    widget = use_widget(TrainWidget)
    widget.out.setText(str(tmp_path / "models"))
    widget.data.classes.set_classes(classes)
    return widget


@pytest.fixture
def said() -> tuple[str, ...]:
    """Lines that a child process prints."""
    return ('{"event": "progress", "done": 1, "total": 9}',)


@pytest.fixture
def children(monkeypatch, said):
    """Child processes that a job started; each prints its lines and then is busy for a minute."""
    started: list[subprocess.Popen] = []
    busy = f"import time; print({chr(10).join(said)!r}, flush=True); time.sleep(60)"
    real = subprocess.Popen

    def start(command, **options):
        assert command[:3] == [sys.executable, "-m", "napari_lpd"]
        started.append(real([sys.executable, "-c", busy], **options))
        return started[-1]

    monkeypatch.setattr(jobs.subprocess, "Popen", start)
    return started


MODEL_STRIDE = 4


@pytest.fixture
def make_prediction(tmp_path, tiny_tiff):
    """A prediction of the tiny slide: left half dark, right half pink, inside a box or everywhere."""

    with open_slide(tiny_tiff) as opened:
        fingerprint = opened.fingerprint

    def make(
        box=(32, 64, 160, 256),
        mpp=2.0,
        slide="tiny.tiff",
        slide_shape=(256, 384),
        finish=True,
        blocks=None,
        k=2,
        slide_hash="",
        refiner="none",
    ):
        folder = tmp_path / f"made-{len(list(tmp_path.glob('made-*')))}.zarr"
        classes = (TissueClass(name="dark", color="#3b4cff"), TissueClass(name="pink", color="#ff8c1a"))
        shape = (-(-slide_shape[0] // mpp), -(-slide_shape[1] // mpp))
        card = PredictionCard(
            classes=classes,
            prototypes_per_class=k,
            mpp=mpp,
            shape=(int(shape[0]), int(shape[1])),
            stride=MODEL_STRIDE,
            block=256,
            slide=slide,
            slide_mpp=(1.0, 1.0),
            slide_shape=slide_shape,
            slide_hash=slide_hash or (fingerprint if slide == "tiny.tiff" else slide),
            mpp_source="given",
            model="m",
            model_hash="h",
            settings=PredictSettings(block=256, refiner=refiner),
            tissue="found",
            scope=() if box is None else (shapely.box(box[1], box[0], box[3], box[2]).wkt,),
        )
        mask = TissueMask(np.ones([int(n // 16) + 2 for n in slide_shape], bool), 16.0)
        prediction = start_prediction(folder, card, lambda: (mask, [[1.0] * 2] * 3))
        h, w = card.shape
        for y in range(0, h, 256):
            for x in range(0, w, 256):
                if blocks is None or (y // 256, x // 256) in blocks:
                    prediction.write_block((y // 256, x // 256), _block(prediction, (y, x)))
        if finish:
            prediction.finish()
        return Prediction.open(folder)

    return make


def _block(prediction, origin) -> BlockResult:
    """Left half of the slide dark, right half pink."""
    h, w = (min(256, n - start) for n, start in zip(prediction.card.shape, origin, strict=True))
    columns = np.arange(origin[1], origin[1] + w)
    labels = np.where(columns < prediction.card.shape[1] / 2, 1, 2)[None].repeat(h, 0).astype(np.uint8)
    labels[~prediction.in_scope(origin, (h, w))] = 0
    cells = tuple(-(-n // MODEL_STRIDE) for n in (h, w))
    inside = np.pad(labels > 0, [(0, -n % MODEL_STRIDE) for n in (h, w)])
    there = inside.reshape(cells[0], MODEL_STRIDE, cells[1], MODEL_STRIDE).any((1, 3))
    k = prediction.card.prototypes_per_class
    values = np.arange(150, 150 + 2 * k, dtype=np.uint8).reshape(2, k, 1, 1)
    middle = prediction.card.shape[1] / 2 / MODEL_STRIDE
    dark = np.where(origin[1] // MODEL_STRIDE + np.arange(cells[1]) < middle, 200, 60)[None].repeat(cells[0], 0)
    scores = (there * np.stack([dark, 260 - dark])).astype(np.uint8)
    there = there.astype(np.uint8)
    return BlockResult(labels, scores, there * np.full((2, 1, 1), 255, np.uint8), there * values, there)
