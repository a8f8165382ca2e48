"""The live mask in the window: it follows what is drawn, changed and deleted."""

from __future__ import annotations

import numpy as np
import pytest

from napari_lpd.core.files import KEY
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.gui.common.recent_models import recent_models
from napari_lpd.gui.layers.regions import add_regions, new_regions_layer
from napari_lpd.gui.live.panel import LIVE
from napari_lpd.models.card import read_card

SMALL = ["tile=64", "tile_step=48", "mpp=1.0", "threads=1", "model.prototypes_per_class=2", "model.prototype_dim=32",
         "model.neck_width=32", "model.necks=2", "places=9", "lr=0.01"]  # fmt: skip


@pytest.fixture
def ready(train, viewer, tiny_layer, tiny_regions, classes, monkeypatch):
    """A Train widget with a slide, regions of two tissues, and a head of few numbers."""
    train.data.classes.set_classes(classes)
    layer = new_regions_layer(viewer, tiny_layer)
    add_regions(layer, tiny_regions, classes)
    train.live._settings = lambda: read_settings(TrainSettings, None, SMALL, "fast")
    viewer.canvas.size = (400, 500)
    viewer.scene.camera.zoom, viewer.scene.camera.center = 1.0, (0, 128, 192)
    return train, layer


def live_layers(viewer):
    return [layer for layer in viewer.layers if layer.metadata.get(KEY, {}).get("kind") == LIVE]


def learned(train, qtbot):
    qtbot.waitUntil(lambda: "learned in" in train.live.line.text() and not train.live.runner.running, timeout=60_000)


def test_the_mask_of_the_view_appears_and_follows_a_change(ready, viewer, qtbot, shown_errors):
    train, layer = ready
    active = viewer.layers.selection.active
    assert live_layers(viewer) == []
    train.live.switch.click()
    learned(train, qtbot)
    (mask,) = live_layers(viewer)
    assert train.live._engine._live.version == 1  # the new layer is no change
    assert "2 tissues, 2 regions" in train.live.line.text()
    assert viewer.layers.selection.active is active
    left, right = mask.data[:256, :150], mask.data[:256, 234:384]
    assert (left == 1).mean() > 0.5 and (right == 2).mean() > 0.5
    assert tuple(mask.scale) == (1, 1)
    assert tuple(mask.translate) == (0, 0)  # of the first pixel's centre, as the slide's
    before = train.live._engine.model
    train.live.line.setText("")
    layer.selected_data = {1}
    layer.remove_selected()
    qtbot.waitUntil(lambda: "two tissues" in train.live.line.text(), timeout=60_000)
    assert train.live._engine.model is before and live_layers(viewer) == [mask]  # it stays on screen
    assert shown_errors == []


def test_a_renamed_class_keeps_its_mask_under_the_new_name(ready, viewer, qtbot):
    train, _ = ready
    train.live.switch.click()
    learned(train, qtbot)
    train.live.line.setText("")
    train.data.classes._rows[0].name.setText("nuclei")
    train.data.classes._rows[0].name.editingFinished.emit()
    learned(train, qtbot)
    assert [tissue.name for tissue in train.live._engine.model.card.classes] == ["nuclei", "pink"]


def test_the_switch_takes_the_mask_away(ready, viewer, qtbot):
    train, _ = ready
    train.live.switch.click()
    learned(train, qtbot)
    train.live.switch.click()
    assert live_layers(viewer) == []
    assert train.live.actions.isHidden()


def test_a_model_that_is_kept_is_offered_in_predict(ready, qtbot):
    train, _ = ready
    train.live.switch.click()
    learned(train, qtbot)
    train.live._on_keep()
    qtbot.waitUntil(lambda: train.live.line.text().startswith("Kept"), timeout=60_000)
    path = recent_models.paths()[0]
    assert path.parent.name.startswith("tiny-live")
    assert [tissue.name for tissue in read_card(path).classes] == ["dark", "pink"]


def test_next_place_moves_the_view_to_where_the_model_is_not_sure(ready, viewer, qtbot):
    train, _ = ready
    train.live.switch.click()
    learned(train, qtbot)
    for cell in train.live._engine.cells.values():
        cell.unsure[:] = 0.1
        cell.unsure[:8, :8] = 0.9
    train.live._on_next()
    assert train.live.line.text() == "Is this dark? Outline what it is. "
    learned(train, qtbot)  # the question stays
    assert train.live.line.text().startswith("Is this dark? Outline what it is. 2 tissues, 2 regions")
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], (63.5, 63.5))


def test_without_two_tissues_the_line_says_what_to_draw(train, viewer, tiny_layer, tiny_regions, classes, shown_errors):
    train.data.classes.set_classes(classes)
    train.live.switch.click()
    assert "press Draw regions" in train.live.line.text()
    add_regions(new_regions_layer(viewer, tiny_layer), tiny_regions[:1], classes)
    train.live._learn()
    assert train.live.line.text() == "Draw a region of each of two tissues: the live mask begins with them."
    assert not train.live.runner.running
    assert shown_errors == []
