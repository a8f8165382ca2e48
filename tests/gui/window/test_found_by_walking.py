"""Faults that random walks found, each in the fewest actions."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hand import button, click
from napari.layers._layer_actions import _duplicate_layer
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.data.geojson import read_features
from napari_lpd.data.project import regions_beside
from napari_lpd.data.regions import regions_in
from napari_lpd.gui.layers.regions import tissues_of
from napari_lpd.gui.layers.results import show_prediction
from napari_lpd.gui.layers.slides import kind
from napari_lpd.gui.predict.widget import PredictWidget
from napari_lpd.gui.train.region_autosave import RegionFiles
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.slide_corrections import keep_corrections, lay_over

CONTROL = Qt.KeyboardModifier.ControlModifier
BOX, OTHER_BOX = ((20, 20), (90, 90)), ((20, 120), (90, 190))


def saved(slide):
    return sorted(regions_in(read_features(regions_beside(slide))), key=lambda region: region.vertices.min())


def clicked(user, *places):
    for place in places:
        QTest.mouseMove(user.canvas.native, user.at(*place))
        QTest.mouseClick(user.canvas.native, Qt.MouseButton.LeftButton, pos=user.at(*place))
        QApplication.processEvents()


def test_a_polygon_that_another_tool_interrupts_is_closed_and_all_regions_are_saved(drawing, tiny_tiff):
    viewer, _, _, user, layer = drawing
    user.polygon(*BOX)
    clicked(user, (20, 120), (20, 190), (90, 190), (90, 120))
    user.key("s")
    assert layer.shape_type == ["polygon", "polygon"]
    RegionFiles.of(viewer).save()
    assert [region.tissues for region in saved(tiny_tiff)] == [("dark",), ("dark",)]


@pytest.mark.parametrize("end", ["s", Qt.Key.Key_Escape, "2"])
def test_a_polygon_that_is_given_up_shifts_no_tissues(drawing, end):
    _, _, train, user, layer = drawing
    user.polygon(*BOX)
    clicked(user, (120, 120))
    user.key(end)
    QTest.qWait(1)
    user.key("2")
    user.key("p")
    user.polygon(*OTHER_BOX)
    assert tissues_of(layer) == [("dark",), ("pink",)]
    assert len(layer.features) == len(layer.data) == len(layer.edge_color) == len(layer.face_color) == 2
    assert (layer.edge_color[0] != layer.edge_color[1]).any()
    colours = layer.edge_color.copy()
    user.key("p")
    user.polygon((100, 120), (160, 190))
    user.key("z", Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_array_equal(layer.edge_color, colours)
    assert train.data.classes._rows[1].count.text().startswith("1 ·")


def test_a_line_or_a_click_keeps_no_region_from_being_saved_now_or_the_next_day(drawing, tiny_tiff):
    viewer, _, train, user, layer = drawing
    user.polygon(*BOX)
    layer.add_lines(np.array([[10.0, 10], [50, 50]]))
    layer.add_rectangles(np.full((4, 2), 40.0))  # a click with the tool
    layer.add_rectangles(np.array([[10.0, -60], [10, -20], [50, -20], [50, -60]]))  # dragged off the slide
    RegionFiles.of(viewer).save()
    assert "⚠ 3 shapes enclose nothing of the slide" in train.data.drawn.saved.text()
    assert len(saved(tiny_tiff)) == 1
    RegionFiles.of(viewer)._ours.clear()  # the next day
    user.key("2")
    user.polygon(*OTHER_BOX)
    RegionFiles.of(viewer).save()
    assert "Regions saved" in train.data.drawn.saved.text()
    assert len(saved(tiny_tiff)) == 2


def test_regions_are_saved_though_train_is_closed_and_when_napari_closes(drawing, tiny_tiff):
    viewer, dock, train, user, layer = drawing
    user.polygon(*BOX)
    click(dock.title.close_button)
    del dock, train
    gc.collect()
    QApplication.processEvents()
    user.activate(layer)
    user.key("p")
    user.polygon(*OTHER_BOX)
    user.key("z", CONTROL)
    assert len(layer.data) == 1
    user.polygon(*OTHER_BOX)
    viewer.close()
    assert len(saved(tiny_tiff)) == 2


def crop(label):
    return np.full((10, 12), label, np.uint8)


def test_corrections_of_a_slide_stay_when_a_result_that_does_not_hold_them_is_corrected(make_prediction, tmp_path):
    kept, whole = tmp_path / "slide.corrections.geojson", make_prediction(box=None)
    Corrections(whole).apply_crop(4, 4, crop(2))  # beside the view
    Corrections(whole).apply_crop(40, 60, crop(2))
    keep_corrections(whole, kept)
    view = make_prediction()
    lay_over(view, kept)
    assert not Corrections(view).stored_labels((0, 0), (16, 30)).any()  # shown and measured is the view alone
    Corrections(view).apply_crop(60, 90, crop(2))
    keep_corrections(view, kept)
    again = make_prediction(box=None)
    lay_over(again, kept)
    assert [int(Corrections(again).levels[0][y, x]) for y, x in ((5, 5), (41, 61), (61, 91))] == [2, 2, 2]


def test_what_was_taken_back_does_not_return_with_a_result_of_before(make_prediction, tmp_path):
    kept, old = tmp_path / "slide.corrections.geojson", make_prediction(box=None)
    Corrections(old).apply_crop(4, 4, crop(2))
    keep_corrections(old, kept)
    new = make_prediction(box=None)
    lay_over(new, kept)
    Corrections(new).apply_crop(4, 4, crop(1))  # the model's own label
    keep_corrections(new, kept)
    assert kept.exists()
    lay_over(old, kept, exactly=True)
    assert not Corrections(old).stored_labels((0, 0), (20, 20)).any()


def test_a_correction_and_its_undo_are_seen_in_every_result_that_is_shown(
    shown_viewer, tiny_tiff, make_prediction, qtbot
):
    viewer = shown_viewer
    _, predict = viewer.window.add_plugin_dock_widget("napari-lpd", "Predict")
    predict.slides.open(tiny_tiff)
    masks = [show_prediction(viewer, make_prediction(box=None, mpp=m), predict.slides.layer()) for m in (1.0, 2.0)]
    viewer.reset_view()
    predict.panel.refresh()
    before = [np.array(mask.data) for mask in masks]
    click(button(predict, "Correct mask"))
    edit = predict.panel.correct.layer()
    edit.data[:20, :20] = 2
    predict.panel.place()  # a circle that reaches outside this slide keeps nothing from being measured
    click(button(predict, "Apply"))
    assert [int((mask.data == 2).sum() - (old == 2).sum()) for mask, old in zip(masks, before, strict=True)] == [
        1600,
        400,
    ]
    qtbot.waitUntil(lambda: not predict.panel.measurer.running, timeout=60_000)
    table = predict.panel.areas.table
    assert float(table.item(1, 1).text()) == pytest.approx((masks[1].data == 2).sum() * 4e-6, abs=6e-4)
    predict.panel.results.combo.setCurrentIndex(1)  # the other result
    assert viewer.layers[-1] is masks[0]
    click(button(predict, "Undo"))
    assert [(mask.data == old).all() for mask, old in zip(masks, before, strict=True)] == [True, True]
    assert not button(predict, "Undo").isVisible()


def test_the_result_of_a_view_can_be_corrected_and_measured_after_predict_was_closed(shown_viewer, tiny_tiff, qtbot):
    viewer = shown_viewer
    dock, predict = viewer.window.add_plugin_dock_widget("napari-lpd", "Predict")
    predict.slides.open(tiny_tiff)
    predict.form.set_value(PredictSettings(threads=1, tile=64, overlap=32, block=64))
    viewer.reset_view()
    click(predict.job.button)
    qtbot.waitUntil(lambda: not predict.job.runner.running, timeout=120_000)
    folder = predict.panel.shown().folder
    click(dock.title.close_button)
    del dock, predict
    gc.collect()
    assert folder.is_dir()
    _, predict = viewer.window.add_plugin_dock_widget("napari-lpd", "Predict")
    click(button(predict, "Correct mask"))
    edit = predict.panel.correct.layer()
    edit.data[:20, :20] = 1 + edit.data[:20, :20] % 2
    click(button(predict, "Apply"))
    qtbot.waitUntil(lambda: not predict.panel.measurer.running, timeout=60_000)
    assert (np.asarray(viewer.layers[-1].data)[:20, :20] == edit.data[:20, :20]).all()


def test_a_copy_of_a_mask_follows_its_corrections(viewer, tiny_layer, make_prediction, use_widget):
    mask = show_prediction(viewer, make_prediction(box=None), tiny_layer)
    predict = use_widget(PredictWidget)
    viewer.layers.selection = {mask}
    _duplicate_layer(viewer.layers)
    viewer.canvas.size, viewer.scene.camera.center, viewer.scene.camera.zoom = (400, 500), (0, 128, 192), 1.0
    predict.panel.correct.start()
    predict.panel.correct.layer().data[:20, :20] = 2
    predict.panel.correct.finish()
    copies = [each for each in viewer.layers if kind(each) == "labels"]
    assert [(each.data[:20, :20] == 2).all() for each in copies] == [True, True]


def test_a_mask_that_appears_does_not_take_the_tool_out_of_the_hand(drawing, make_prediction):
    viewer, _, train, user, layer = drawing
    clicked(user, (20, 120), (20, 190))
    show_prediction(viewer, make_prediction(), train.data.drawn.slides.layer())
    assert viewer.layers.selection.active is layer
    clicked(user, (90, 190), (90, 120))
    user.key("s")
    assert tissues_of(layer) == [("dark",)]
    user.key("z")  # the hand, with which nothing is drawn
    show_prediction(viewer, make_prediction(), train.data.drawn.slides.layer())
    assert viewer.layers.selection.active is layer
