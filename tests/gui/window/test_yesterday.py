"""What was drawn and set yesterday is there today; what cannot be used is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hand import User, button, click
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.project import regions_beside
from napari_lpd.data.region_tiles import cut_tiles
from napari_lpd.data.regions import Region
from napari_lpd.data.summary import warnings
from napari_lpd.gui.layers.regions import tissues_of
from napari_lpd.gui.layers.slides import kind
from napari_lpd.slides.formats import open_slide


def regions_in(viewer):
    [layer] = [each for each in viewer.layers if kind(each) == "regions"]
    return layer


def train_in(viewer, slide):
    _, train = viewer.window.add_plugin_dock_widget("napari-lpd", "Train")
    train.data.drawn.slides.open(slide)
    viewer.reset_view()
    QApplication.processEvents()
    return train


def test_classes_keys_preset_settings_and_regions_are_there_the_next_day(shown_viewer, tiny_tiff):
    viewer, user = shown_viewer, User(shown_viewer)
    train = train_in(viewer, tiny_tiff)
    while len(train.data.classes._rows) > 1:
        click(train.data.classes._rows[-1].remove)
    click(button(train, "Add class"))
    for row, name in zip(train.data.classes._rows, ("tumour", "gland"), strict=True):
        row.name.setFocus()
        row.name.selectAll()
        QTest.keyClicks(row.name, name)
        QTest.keyClick(row.name, Qt.Key.Key_Return)
    classes = train.data.classes.drafts()
    train.chosen.preset.setCurrentText("paper")
    train.chosen.form.set_value(TrainSettings.build({**train.settings().model_dump(), "epochs": 20}))
    settings = train.settings()
    click(button(train, "Draw regions"))
    for key, box in zip("21", [((20, 20), (90, 90)), ((20, 120), (90, 190))], strict=True):
        user.key(key)
        user.polygon(*box)
    train.data.drawn.files.save()
    [dock] = viewer.window._wrapped_dock_widgets.values()
    click(dock.title.close_button)
    regions_in(viewer).locked = False
    viewer.layers.clear()

    train = train_in(viewer, tiny_tiff)
    assert train.data.classes.drafts() == classes
    assert (train.chosen.preset.currentText(), train.settings()) == ("paper", settings)
    assert tissues_of(regions_in(viewer)) == [("gland",), ("tumour",)]
    user.key("2")
    assert user.shown() == "Draw: gland"

    saved = regions_beside(tiny_tiff).read_text()
    layer = regions_in(viewer)
    user.activate(layer)
    user.key("s")
    user.drag((5, 5), (100, 200))
    user.key(Qt.Key.Key_Delete)
    assert len(layer.data) == 0
    train.data.drawn.files.save()
    user.key("2")
    user.polygon((150, 120), (220, 190))
    train.data.drawn.files.save()
    assert len(json.loads(regions_beside(tiny_tiff).read_text())["features"]) == 1
    kept = tiny_tiff.with_name(f"{regions_beside(tiny_tiff).name}.bak")
    assert json.loads(kept.read_text())["features"] == json.loads(saved)["features"]


def test_regions_of_a_layer_that_was_removed_come_back_with_the_next_one(viewer, tiny_layer, train):
    click(button(train, "Draw regions"))
    layer = regions_in(viewer)
    layer.add_polygons([np.array([[10.0, 10], [10, 90], [90, 90]]), np.array([[110.0, 10], [110, 90], [190, 90]])])
    train.data.drawn.files.save()
    viewer.layers.remove(layer)
    click(button(train, "Draw regions"))
    assert len(regions_in(viewer).data) == 2


def test_a_slide_that_is_chosen_is_raised_and_fitted(shown_viewer, tiny_tiff, tmp_path):
    import tifffile

    other = tmp_path / "other.tiff"
    tifffile.imwrite(other, np.full((1200, 900, 3), 90, np.uint8), photometric="rgb", tile=(256, 256))
    viewer = shown_viewer
    train = train_in(viewer, tiny_tiff)
    slides = train.data.drawn.slides
    click(button(train, "Draw regions"))
    regions, tiny = regions_in(viewer), slides.find()
    slides.open(other)
    viewer.layers[-1].visible = True
    tiny.visible = False
    viewer.reset_view()
    zoom = viewer.scene.camera.zoom
    slides.combo.setFocus()
    QTest.keyClick(slides.combo, Qt.Key.Key_Up if slides.combo.currentIndex() else Qt.Key.Key_Down)
    QApplication.processEvents()
    assert slides.find() is tiny
    assert tiny.visible
    assert list(viewer.layers)[-2:] == [tiny, regions]
    assert viewer.scene.camera.zoom > 2 * zoom
    assert viewer.scene.camera.center[-2:] == pytest.approx((127.5, 191.5), abs=1)


def test_regions_too_small_for_a_tile_are_counted(tiny_tiff, classes):
    square = np.array([[0.0, 0], [0, 100], [100, 100], [100, 0]])
    small = [Region(square * 0.1 + (150, 20 * i), ("dark",)) for i in range(5)]
    regions = [Region(square, ("dark",)), Region(square + np.array([0, 200]), ("pink",)), *small]
    settings = TrainSettings.build({"tile": 64, "mpp": 1.0, "tile_step": 32})
    with open_slide(tiny_tiff) as slide:
        tiles = cut_tiles(slide, regions, classes, settings, "tiny")
    [line] = [line for line in warnings(tiles) if "not used" in line]
    assert line.startswith("tiny: 5 of 7 regions are not used: too small for a tile of 64 pixels (64 µm)")
    assert "enlarge them, or choose smaller tiles" in line
