"""The live mask in the window: it begins by itself and follows what is drawn, changed and deleted."""

from __future__ import annotations

import re

import numpy as np

from napari_lpd.core.errors import DataError
from napari_lpd.core.jobs import Progress
from napari_lpd.core.labelling.rule import UNSURE
from napari_lpd.data.regions import Region
from napari_lpd.gui.common.recent_models import recent_models
from napari_lpd.gui.layers.regions import add_regions, new_regions_layer
from napari_lpd.gui.layers.slides import kind
from napari_lpd.gui.live.shown import HATCH, HEATMAP
from napari_lpd.gui.train.widget import TrainWidget
from napari_lpd.models.card import read_card


def test_the_mask_of_the_view_appears_and_follows_a_change(live, drawn, viewer, live_layers, settled, shown_errors):
    active = viewer.layers.selection.active
    line = settled(live)
    (mask,) = live_layers()
    assert live.live._engine._live.version == 1  # the new layer is no change
    assert re.match(r"2 tissues, 2 regions, updated in \d+\.\d s", line)
    assert viewer.layers.selection.active is active
    left, right = mask.data[:256, :150], mask.data[:256, 234:384]
    assert (left == 1).mean() > 0.5 and (right == 2).mean() > 0.5
    assert tuple(mask.scale) == (1, 1)
    assert tuple(mask.translate) == (0, 0)  # of the first pixel's centre, as the slide's
    before = live.live._engine.model
    drawn.selected_data = {1}
    drawn.remove_selected()
    settled(live)
    assert live.live.line.text() == "Draw a region of each of two tissues: the live mask begins with them."
    assert live.live._engine.model is before and live_layers() == [mask]  # it stays on screen
    assert shown_errors == []


def test_nothing_is_computed_until_two_tissues_have_a_region(
    live, viewer, tiny_layer, tiny_regions, classes, live_layers, settled
):
    assert "press Draw regions" in settled(live)
    add_regions(new_regions_layer(viewer, tiny_layer), [tiny_regions[0]] * 2, classes)
    assert settled(live) == "Draw a region of each of two tissues: the live mask begins with them."
    assert live.live._engine is None and live_layers() == []
    assert not live.keep.isEnabled()


def test_a_renamed_class_keeps_its_mask_under_the_new_name(live, drawn, settled):
    settled(live)
    live.data.classes._rows[0].name.setText("nuclei")
    live.data.classes._rows[0].name.editingFinished.emit()
    settled(live)
    assert [tissue.name for tissue in live.live._engine.model.card.classes] == ["nuclei", "pink"]


def test_a_class_without_a_region_is_left_out_and_named(live, drawn, settled):
    live.data.classes.add()
    assert "2 tissues, 2 regions (none of tissue 3)" in settled(live)
    assert [tissue.name for tissue in live.live._engine.model.card.classes] == ["dark", "pink"]


def test_the_switch_takes_the_mask_away_closes_the_slide_and_is_remembered(
    live, drawn, viewer, live_layers, settled, use_widget
):
    settled(live)
    slide = live.live._engine._slide
    live.live.switch.click()
    assert live_layers() == [] and live.live._engine is None
    assert slide.slide._closed
    assert live.live.guide.isHidden() and not live.keep.isEnabled()
    assert live.live.line.text().startswith("Off.")
    assert not use_widget(TrainWidget).live.switch.isChecked()


def test_a_model_that_is_kept_is_offered_in_predict(live, drawn, qtbot, settled):
    settled(live)
    live.keep.click()
    qtbot.waitUntil(lambda: live.job.status.text().startswith("Kept, and ready in Predict"), timeout=60_000)
    path = recent_models.paths()[0]
    assert path.parent.name.startswith("tiny-live")
    assert [tissue.name for tissue in read_card(path).classes] == ["dark", "pink"]


def test_a_refused_region_leaves_the_model_to_keep_and_nothing_once_it_is_undone(
    live, drawn, qtbot, settled, monkeypatch, tiny_regions, classes
):
    before = settled(live)
    with monkeypatch.context() as patched:
        patched.setattr("napari_lpd.training.live.LiveModel.learn", lambda *_: _refuse("too dark"))
        add_regions(drawn, [Region(tiny_regions[0].vertices + 3, ("dark",))], classes)
        assert "too dark" in settled(live)
    live.keep.click()
    qtbot.waitUntil(lambda: live.job.status.text().startswith("Kept, and ready in Predict"), timeout=60_000)
    drawn.selected_data = {2}
    drawn.remove_selected()
    assert settled(live).split(",")[:2] == before.split(",")[:2]
    assert live.live._engine.refusal == ""


def test_unsure_places_are_hatched_by_a_tick(live, drawn, live_layers, settled):
    settled(live)
    (mask,) = live_layers()
    assert not (mask.data == HATCH).any()
    for cell in live.live._engine.cells.values():
        cell.labels[:] = 1
        cell.labels[:128, :128] = UNSURE
    live.live.hatched.click()
    places = np.argwhere(mask.data == HATCH)
    assert 0.15 < len(places) / 128**2 < 0.4  # lines in the first 128 pixels
    assert places.max() < 128
    assert mask.features["class"][mask.features["index"] == HATCH].tolist() == ["unsure"]
    live.live.hatched.click()
    assert not (mask.data == HATCH).any()


def _refuse(why):
    yield Progress(0, 0, "clustering")
    raise DataError(why)


def test_prototypes_of_a_tissue_are_shown_at_once_and_follow_the_model(live, drawn, viewer, settled, monkeypatch):
    settled(live)
    mapped = live.live.mapped.box
    assert [mapped.itemData(i) for i in range(mapped.count())] == ["", "dark", "pink"]
    mapped.setCurrentIndex(1)
    mapped.activated.emit(1)
    settled(live)
    (layer,) = [each for each in viewer.layers if kind(each) == HEATMAP]
    assert layer.data.shape == (2, 32, 32)  # two prototypes, a place per 16 pixels of a cell
    assert tuple(layer.scale) == (1, 16, 16) and tuple(layer.translate) == (0, 7.5, 7.5)
    left, right = layer.data[:, 1:15, 1:11].max(0), layer.data[:, 1:15, 14:23].max(0)
    assert left.mean() > 2 * right.mean()
    first = layer.data
    drawn.selected_data = {0}
    drawn.remove_selected()
    add_regions(drawn, [Region(np.array([[0, 0], [0, 150], [250, 150], [250, 0]], float), ("dark",))], classes=())
    settled(live)
    assert layer.data is not first
    learned = layer.data
    assert layer.name == "dark prototypes (live, learned)"
    live.live.mapped.clustered.click()
    settled(live)
    assert layer.name == "dark prototypes (live, clustered)"
    assert layer.data.shape == learned.shape and not np.allclose(layer.data, learned)
    live.live.mapped.clustered.click()
    settled(live)
    np.testing.assert_array_equal(layer.data, learned)
    few = "dark has 0 usable tiles"
    monkeypatch.setattr("napari_lpd.training.live.LiveModel.clustered", lambda self: _refuse(few))
    live.live._engine._clustered = None
    live.live.mapped.clustered.click()
    line = settled(live)
    assert line.split("\n")[-1] == f"⚠ {few}." and live.live._engine.refusal == ""  # the mask goes on
    mapped.setCurrentIndex(0)
    mapped.activated.emit(0)
    assert not [each for each in viewer.layers if kind(each) == HEATMAP]
