"""A Train widget whose live mask is on, as it is at first, with a head of few numbers."""

from __future__ import annotations

import pytest

from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.gui.layers.regions import add_regions, new_regions_layer
from napari_lpd.gui.layers.slides import kind
from napari_lpd.gui.live.shown import LIVE

SMALL = ["tile=64", "tile_step=48", "mpp=1.0", "threads=1", "model.prototypes_per_class=2", "model.prototype_dim=32",
         "model.neck_width=32", "model.necks=2", "places=9", "lr=0.01"]  # fmt: skip


@pytest.fixture
def live_mask() -> str:
    return ""


@pytest.fixture(autouse=True)
def _quick(monkeypatch, _no_triton):
    """Take fewer steps; torch is imported before a window is drawn."""
    monkeypatch.setattr("napari_lpd.training.live.FRESH", 40)
    monkeypatch.setattr("napari_lpd.training.live.WARM", 10)
    monkeypatch.setattr("napari_lpd.training.guide.held_out.STEPS", 10)


@pytest.fixture
def small() -> TrainSettings:
    """Settings that are quick to learn with."""
    return read_settings(TrainSettings, None, SMALL, "fast")


@pytest.fixture
def live(train, viewer, tiny_layer, classes, small):
    """A Train widget with a slide in view, and quick to learn."""
    train.live._settings = lambda: small
    viewer.canvas.size = (400, 500)
    viewer.scene.camera.zoom, viewer.scene.camera.center = 1.0, (0, 128, 192)
    return train


@pytest.fixture
def drawn(live, viewer, tiny_layer, tiny_regions, classes):
    """Its regions layer, with regions of two tissues."""
    layer = new_regions_layer(viewer, tiny_layer)
    add_regions(layer, tiny_regions, classes)
    live.data.drawn.files.note(layer)
    return layer


@pytest.fixture
def settled(qtbot):
    """Wait until the live mask is complete and nothing is to be checked any more."""

    def wait(train):
        live = train.live

        def is_settled():
            engine = live._engine
            waits = live._rest.isActive() or live._look.isActive() or live.runner.running
            box = live._box()
            is_filled = engine is None or box is None or engine.is_filled(box)
            return not waits and (engine is None or bool(engine.refusal) or (not engine.unchecked and is_filled))

        qtbot.wait(20)  # napari tells of a drawing just before it is finished
        qtbot.waitUntil(is_settled, timeout=90_000)
        return live.line.text()

    return wait


@pytest.fixture
def live_layers(viewer):
    """List the layers of live masks."""
    return lambda: [layer for layer in viewer.layers if kind(layer) == LIVE]
