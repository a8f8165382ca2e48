"""What is said and measured is of the slide that is chosen, at its resolution."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hand import LEFT, User, button, click, tick
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_lpd.gui.layers.regions import WHOLE, outlines_of
from napari_lpd.gui.layers.results import our_layers, show_prediction
from napari_lpd.gui.layers.slides import kind, slide_id
from napari_lpd.results.measures.areas import FIELD_MM2


def write_slide(path, shape, value=200, mpp=1.0):
    tags = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    image = np.full((*shape, 3), value, np.uint8)
    tifffile.imwrite(path, image, photometric="rgb", tile=(256, 256), **tags)
    return path


@pytest.fixture
def docked(shown_viewer):
    """Predict on the screen, and the user before it."""
    _, widget = shown_viewer.window.add_plugin_dock_widget("napari-lpd", "Predict")
    return shown_viewer, widget, User(shown_viewer)


def enter(field, text):
    field.setFocus()
    field.selectAll()
    QTest.keyClicks(field, text)
    QTest.keyClick(field, Qt.Key.Key_Return)
    QApplication.processEvents()


def test_a_resolution_is_corrected_and_view_and_regions_stay_on_what_they_show(docked, tmp_path, shown_errors):
    viewer, widget, user = docked
    slides = widget.slides
    slides.open(write_slide(tmp_path / "scan.tiff", (600, 800), mpp=None))
    viewer.reset_view()
    layer = slides.find()
    corner = user.at(0, 0)
    enter(slides.mpp, "5")
    assert layer.scale.tolist() == [5.0, 5.0]
    at = lambda mpp: user.at(300 * mpp, 400 * mpp)  # noqa: E731
    middle = at(5)
    assert (user.at(0, 0) - corner).manhattanLength() <= 8  # half a pixel of the slide
    assert not slides.mpp.isVisible()

    _, train = viewer.window.add_plugin_dock_widget("napari-lpd", "Train")
    click(button(train, "Draw regions"))
    user.polygon((500, 500), (1500, 1500))
    [regions] = [each for each in viewer.layers if kind(each) == "regions"]
    drawn = outlines_of(regions, layer)[0].vertices
    for text, mpp in (("20x", 0.5), ("0,25", 0.25)):
        assert slides.change.isVisible()
        click(slides.change)
        assert slides.mpp.isVisible()
        enter(slides.mpp, text)
        assert layer.scale.tolist() == [mpp, mpp]
        assert (at(mpp) - middle).manhattanLength() <= 4
        assert outlines_of(regions, layer)[0].vertices == pytest.approx(drawn, abs=0.01)
    click(slides.change)
    enter(slides.mpp, "2000x")
    assert "is not between" in shown_errors[0]
    assert layer.scale.tolist() == [0.25, 0.25]
    slides.open(write_slide(tmp_path / "known.tiff", (600, 800)))
    assert not slides.change.isVisible()
    assert not slides.mpp.isVisible()


def test_what_is_said_of_one_slide_goes_when_another_is_chosen(docked, tmp_path, qtbot, shown_errors):
    viewer, widget, _ = docked
    widget.slides.open(write_slide(tmp_path / "glass.tiff", (512, 512), value=245))
    widget.scope.setCurrentText(WHOLE)
    widget.job.button.click()
    qtbot.waitUntil(lambda: not widget.job.runner.running, timeout=120_000)
    assert widget.warning.isVisible()
    assert widget.job.status.text().startswith("Done")
    widget.slides.open(write_slide(tmp_path / "other.tiff", (300, 200)))
    assert not widget.warning.isVisible()
    assert not widget.job.status.isVisible()
    widget.slides.combo.setCurrentText("glass.tiff")
    assert "no tissue was found" in widget.warning.text()
    assert widget.warning.isVisible()
    viewer.layers.clear()
    QApplication.processEvents()
    assert not widget.warning.isVisible()
    assert not widget.job.status.isVisible()
    assert shown_errors == []


def test_a_circle_is_moved_and_not_resized_and_no_training_region_is_measured(
    docked, tmp_path, make_prediction, qtbot, shown_errors
):
    viewer, widget, user = docked
    widget.slides.open(write_slide(tmp_path / "big.tiff", (2600, 2800)))
    layer = widget.slides.find()
    prediction = make_prediction(
        box=None, mpp=8.0, slide="big.tiff", slide_shape=(2600, 2800), slide_hash=slide_id(layer)
    )
    show_prediction(viewer, prediction, layer)
    assert our_layers(viewer, slide_id(layer), "labels")
    viewer.reset_view()
    _, train = viewer.window.add_plugin_dock_widget("napari-lpd", "Train")
    click(button(train, "Draw regions"))
    user.polygon((100, 100), (600, 600))  # stays selected
    widget.panel.refresh()
    widget.parentWidget().raise_()
    QApplication.processEvents()

    widget.panel.place()
    [circles] = [each for each in viewer.layers if kind(each) == "fields"]
    y, x = circles.data[0]
    user.drag((y, x), (y - 60, x + 80))
    moved = circles.data[0]
    assert moved == pytest.approx((y - 60, x + 80), abs=8)
    radius = float(circles.size[0]) / 2
    user.drag(tuple(moved + radius * 1.05), tuple(moved + radius / 3))  # where a handle would be
    QTest.mouseClick(viewer.window._qt_viewer.controls.widgets[circles].select_button, LEFT)
    circles.selected_data = {0}
    circles.current_size = 300  # napari's slider
    assert float(circles.size[0]) == pytest.approx(2 * radius)
    widget.panel.measure()
    qtbot.waitUntil(lambda: not widget.panel.runner.running, timeout=60_000)
    assert shown_errors == []
    regions = {row.region for row in widget.panel.rows}
    [field] = regions - {"whole slide"}
    centre = circles.data[0] + 0.5
    assert field == f"field x {centre[1]:.0f} y {centre[0]:.0f}"
    [tissue] = [row for row in widget.panel.rows if row.region == field and row.what == "tissue"]
    assert tissue.area_mm2 == pytest.approx(FIELD_MM2, rel=0.01)


def test_results_stack_and_the_chosen_one_is_shown_measured_and_corrected(docked, tiny_tiff, make_prediction, qtbot):
    viewer, widget, _ = docked
    slides, panel = widget.slides, widget.panel
    slides.open(tiny_tiff)
    whole, view = make_prediction(box=None), make_prediction()
    show_prediction(viewer, whole, slides.layer())
    panel.refresh()
    QApplication.processEvents()
    assert not panel.results.combo.isVisible()
    show_prediction(viewer, view, slides.layer())
    panel.refresh()
    QApplication.processEvents()
    tick(panel.results.button, "Heatmap: pink")
    qtbot.waitUntil(lambda: "pink heatmap" in viewer.layers)
    [heatmap] = our_layers(viewer, slide_id(slides.layer()), "heatmap")
    assert heatmap.metadata["napari_lpd"]["prediction"] is view
    tick(panel.results.button, "Mask")
    first, second = our_layers(viewer, slide_id(slides.layer()), "labels")
    assert (first.metadata["napari_lpd"]["prediction"], panel.shown()) == (whole, view)
    assert (first.visible, second.visible) == (True, True)
    y0, x0, y1, x1 = view.scope_box()
    assert not first.data[y0:y1, x0:x1].any()  # they overlap: no colours mix
    assert first.data[y1:].any()
    names = [panel.results.combo.itemText(index) for index in range(2)]
    assert names[0].startswith("part of 0.0246 mm², ")
    assert names[1].startswith("whole slide, ")
    of_view = [panel.areas.table.item(row, 1).text() for row in range(2)]
    panel.results.combo.setFocus()
    QTest.keyClick(panel.results.combo, Qt.Key.Key_Down)
    QApplication.processEvents()
    assert (first.visible, second.visible, panel.shown()) == (True, False, whole)
    assert [panel.areas.table.item(row, 1).text() for row in range(2)] != of_view
    assert panel.results.combo.currentText().startswith("whole slide, ")
    assert our_layers(viewer, slide_id(slides.layer()), "heatmap") == [heatmap]
    assert heatmap.metadata["napari_lpd"]["prediction"] is whole
    click(button(widget, "Correct mask"))
    assert panel.correct.layer().metadata["napari_lpd"]["prediction"] is whole
    click(button(widget, "Discard"))
    assert (first.visible, second.visible) == (True, False)
    others = [make_prediction(box=box) for box in ((200, 300, 250, 380), (170, 0, 190, 50))]
    masks = [show_prediction(viewer, each, slides.layer()) for each in others]
    assert [each.visible for each in (second, first, *masks)] == [False, True, True, True]  # below the whole slide
    viewer.layers.remove(second)
    assert panel.results.combo.count() == 3
