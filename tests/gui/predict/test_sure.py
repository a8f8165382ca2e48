"""How sure a label has to be, in the window."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_lpd.cli.main import main
from napari_lpd.core.jobs import run
from napari_lpd.core.labelling.rule import UNSURE
from napari_lpd.core.settings.prediction import CleanSettings, LabelSettings
from napari_lpd.gui.layers.results import labels_of, show_prediction
from napari_lpd.gui.predict.widget import PredictWidget
from napari_lpd.prediction.relabel import relabel
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.prediction import Prediction


def settled(bar, qtbot):
    qtbot.waitUntil(lambda: not (bar._rest.isActive() or bar.runner.running) and bar.layer() is None, timeout=30_000)


def test_the_slider_shows_at_once_and_then_makes_the_result(shown, viewer, qtbot, shown_errors):
    widget, prediction = shown
    bar, areas = widget.panel.sure, widget.panel.areas
    [mask] = labels_of(viewer, prediction)
    before = np.asarray(mask.data).copy()
    assert bar.sure.value() == 40
    viewer.layers.selection.active = viewer.layers["tiny.tiff"]
    bar.sure.setValue(95)
    preview = bar.layer()
    assert (preview.data == UNSURE).all()  # 0.78 of 0.78 + 0.23
    assert not mask.visible
    assert np.array_equal(preview.scale, mask.scale)
    assert viewer.layers.selection.active is viewer.layers["tiny.tiff"]  # neither selection nor tool is taken
    assert np.array_equal(mask.data, before)
    settled(bar, qtbot)
    assert shown_errors == []
    assert mask.visible
    assert (mask.data == UNSURE).all()
    stored = Prediction.open(prediction.folder)
    assert stored.card.settings.labels == LabelSettings(sure=0.95)
    assert areas.table.item(2, 0).text() == "unsure"
    assert float(areas.table.item(2, 1).text()) == pytest.approx(stored.tissue_mm2, abs=1e-3)
    assert widget.settings().labels.sure == 0.95  # the next prediction is as sure
    bar.sure.setValue(40)
    settled(bar, qtbot)
    assert np.array_equal(mask.data, before)


def test_more_of_a_tissue_is_one_slider_away(shown, viewer, qtbot):
    widget, prediction = shown
    bar, table = widget.panel.sure, widget.panel.areas.table
    assert bar.more.isHidden()
    table.cellClicked.emit(1, 0)
    assert not bar.more.isHidden()
    bar.more.setValue(10)  # ten times as much: 0.23 to 0.78
    assert set(np.unique(bar.layer().data)) == {2}
    settled(bar, qtbot)
    assert Prediction.open(prediction.folder).card.settings.labels.favour == (("pink", 10.0),)
    assert float(table.item(0, 1).text()) == 0


def test_corrections_stay_in_the_preview_and_above_the_result(shown, viewer, qtbot):
    widget, prediction = shown
    Corrections(prediction).apply_crop(0, 0, np.full((10, 20), 2, np.uint8))
    bar = widget.panel.sure
    bar.sure.setValue(95)
    shown_labels = bar.layer().data
    assert (shown_labels[:10, :20] == 2).all()
    assert (shown_labels == UNSURE).sum() == shown_labels.size - 200
    settled(bar, qtbot)
    [mask] = labels_of(viewer, prediction)
    assert (np.asarray(mask.data)[:10, :20] == 2).all()


def test_of_a_refined_result_the_next_prediction_is_as_sure_as_the_slider_says(
    shown, viewer, tiny_layer, make_prediction, qtbot
):
    widget, plain = shown
    bar = widget.panel.sure
    assert bar.refined.isHidden()
    refined = make_prediction(box=None, refiner="lattice")
    show_prediction(viewer, refined, tiny_layer)
    assert not bar.refined.isHidden()
    assert "after the next Predict" in bar.refined.text()
    assert bar.isEnabled()
    bar.sure.setValue(95)
    viewer.add_points(np.zeros((1, 2)))  # the panel shows its result anew
    assert (bar.sure.value(), bar.layer(), bar._rest.isActive()) == (95, None, False)
    assert widget.settings().labels.sure == 0.95
    assert Prediction.open(refined.folder).card.settings.labels.sure == 0.4
    show_prediction(viewer, plain, tiny_layer)
    widget.panel.refresh()
    assert bar.refined.isHidden()
    assert bar.sure.value() == 40


def test_the_main_path_is_in_sight_without_scrolling(make_napari_viewer, tiny_tiff, make_prediction, qtbot):
    from napari_lpd.gui.contributions import read_slide

    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    data, options, _ = read_slide(str(tiny_tiff))[0]
    layer = viewer.add_image(data, **options)
    show_prediction(viewer, make_prediction(box=None), layer)
    widget = PredictWidget(viewer)
    viewer.window.add_dock_widget(widget)
    qtbot.waitUntil(lambda: widget.job.button.isVisible() and widget.height() > 400)
    qtbot.wait(200)
    for each in (widget.slides.combo, widget.model.combo, widget.scope, widget.panel.areas.table, widget.job.button):
        assert not each.visibleRegion().isEmpty(), each
        assert each.visibleRegion().boundingRect().height() == each.height(), each
        assert each.mapTo(widget.window(), QPoint(0, each.height())).y() <= 800
    qtbot.mouseClick(widget.job.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: widget.job.runner.running)
    widget.job.stop_button.click()
    qtbot.waitUntil(lambda: not widget.job.runner.running, timeout=30_000)


def speckled(prediction):
    """Give a prediction a few small areas of the other tissue, by its maps."""
    scores = np.asarray(prediction.scores.levels[0]).copy()
    for y, x, edge in ((4, 4, 1), (10, 6, 3), (20, 30, 1), (20, 12, 5)):
        part = (slice(None), slice(y, y + edge), slice(x, x + edge))
        scores[part] = scores[(slice(None, None, -1), *part[1:])]
    return scores


def test_areas_are_cleaned_in_view_and_result_as_the_command_line_does(
    viewer, tiny_layer, make_prediction, use_widget, qtbot, shown_errors, tmp_path
):
    prediction = make_prediction(box=None)
    written = Prediction.open(prediction.folder, write=True)
    written.scores.levels[0][:] = speckled(prediction)
    run(relabel(prediction.folder, LabelSettings()))
    shutil.copytree(prediction.folder, tmp_path / "other.zarr")
    prediction = Prediction.open(prediction.folder)
    show_prediction(viewer, prediction, tiny_layer)
    widget = use_widget(PredictWidget)
    viewer.canvas.size = (400, 500)
    viewer.scene.camera.zoom, viewer.scene.camera.center = 1.0, (0, 128, 192)
    bar, [mask] = widget.panel.sure, labels_of(viewer, prediction)
    form, before = bar.clean, np.asarray(mask.data).copy()
    assert [form.of.itemText(i) for i in range(form.of.count())] == ["all tissues", "dark", "pink", "unsure"]
    typed(form.smallest, "1000", qtbot)
    assert not mask.visible
    preview = bar.layer().data
    settled(bar, qtbot)
    assert np.array_equal(mask.data, preview)
    assert not np.array_equal(mask.data, before)
    form.of.setCurrentText("pink")
    assert form.smallest.value() == 1000
    typed(form.smallest, "12000", qtbot)
    typed(form.smooth, "9", qtbot)
    settled(bar, qtbot)
    assert shown_errors == []
    clean = CleanSettings(smallest_um2=1000, smallest_of=(("pink", 12000),), smooth_of=(("pink", 9),))
    stored = Prediction.open(prediction.folder)
    assert stored.card.settings.labels == LabelSettings(clean=clean)
    assert widget.settings().labels.clean == CleanSettings(smallest_um2=1000)  # the next, of a model without "pink"
    argv = ["relabel", str(tmp_path / "other.zarr"), "--smallest", "1000", "--smallest", "pink=12000"]
    assert main([*argv, "--smooth", "pink=9"]) == 0
    other = Prediction.open(tmp_path / "other.zarr")
    assert np.array_equal(np.asarray(other.labels.levels[0]), np.asarray(mask.data))
    assert other.area_mm2() == stored.area_mm2()
    assert float(widget.panel.areas.table.item(1, 1).text()) == pytest.approx(other.area_mm2()["pink"], abs=6e-4)
    for box, of in ((form.smallest, "pink"), (form.smooth, "pink"), (form.smallest, "all tissues")):
        form.of.setCurrentText(of)
        typed(box, "0", qtbot)
    settled(bar, qtbot)
    assert np.array_equal(mask.data, before)


def typed(box, text, qtbot):
    box.setFocus()
    box.selectAll()
    qtbot.keyClicks(box, text)
    qtbot.keyClick(box, Qt.Key.Key_Return)


def test_what_is_changed_while_labels_are_made_comes_next(shown, qtbot):
    widget, prediction = shown
    bar = widget.panel.sure
    bar.sure.setValue(95)
    qtbot.waitUntil(lambda: bar.runner.running, timeout=5000)
    bar.clean.smooth.setValue(5)
    settled(bar, qtbot)
    expected = LabelSettings(sure=0.95, clean=CleanSettings(smooth_um=5))
    assert Prediction.open(prediction.folder).card.settings.labels == expected
    assert Prediction.open(prediction.folder).finished


def test_a_number_that_the_result_cannot_have_is_said_and_what_was_set_before_is_made(shown, qtbot):
    widget, prediction = shown
    bar, said = widget.panel.sure, []
    bar.failed.connect(said.append)
    bar.clean.holes.setValue(1e6)  # a block is 512 x 512 µm
    assert said == ["holes of 1e+06 µm² are to be filled; at most 262144 µm², as large as a block of the result"]
    assert not bar._rest.isActive()
    assert bar.clean.holes.value() == 0
    bar.clean.smooth.setValue(5)
    bar.clean.holes.setValue(1e6)
    assert bar.clean.smooth.value() == 5
    settled(bar, qtbot)
    assert Prediction.open(prediction.folder).card.settings.labels == LabelSettings(clean=CleanSettings(smooth_um=5))
    assert widget.job.status.text() == "The labels are made again."
