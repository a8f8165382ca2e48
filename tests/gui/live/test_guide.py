"""What guides the user: the next place by a key, the mask that is accepted, labels that are doubtful, numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hand import User, button, click
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication

from napari_lpd.data.project import regions_beside
from napari_lpd.data.regions import Verdict, read_regions
from napari_lpd.gui.layers.regions import painted_of
from napari_lpd.gui.layers.slides import kind
from napari_lpd.gui.live.guide import PLACE
from napari_lpd.gui.live.shown import LIVE
from napari_lpd.gui.train.paint import PAINT


def layers_of(viewer, *kinds):
    return [layer for layer in viewer.layers if kind(layer) in kinds]


def test_next_place_and_a_mask_that_looks_right(live, drawn, viewer, settled):
    settled(live)
    engine = live.live._engine
    for cell in engine.cells.values():
        cell.unsure[:] = 0.1
        cell.unsure[:8, :8] = 0.9
        cell.scores[0], cell.scores[1] = 255, 1
        cell.labels[:200, :192], cell.labels[:200, 192:384] = 1, 2
    click(button(live, "Looks right (Y)"))
    assert live.live.line.text().startswith("Press N first")
    live.live.guide.next_place()
    assert live.live.line.text().startswith("Is this dark? Draw what it is, or press Y if the mask is right. 2 tissues")
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], (63.5, 63.5))  # world of (64, 64) µm
    (square,) = layers_of(viewer, PLACE)
    assert square.visible and square.data.tolist() == [[63.5, 63.5]]
    assert not any(painted_of(drawn))
    click(button(live, "Looks right (Y)"))
    assert not square.visible
    (number,) = np.flatnonzero(painted_of(drawn))
    region = next(each for each in live.data.drawn.checked() if each.pixels)
    assert region.tissues == ("dark",) and region.polygon().bounds == (0, 0, 128, 128)
    assert drawn.features["tissues"][number] == "dark"


def test_numbers_and_doubtful_labels_are_said_and_lead_there(live, drawn, viewer, settled):
    settled(live)
    engine = live.live._engine
    box = (150.0, 205.0, 220.0, 275.0)
    engine.verdicts = {n: Verdict(("dark",), {"dark": 90, "pink": 10}, box) for n in range(3)}
    live.live._show_line()
    lines = live.live.line.text().split("\n")
    assert lines[0].endswith("held-out regions right: 3 of 3")  # too few for a share
    assert lines[1].startswith("In view, 0.098 mm²: ") and len(lines) == 2
    engine.verdicts |= {n: Verdict(("pink",), {"dark": 30, "pink": 70}, box) for n in (3, 4)}
    engine.verdicts[5] = Verdict(("dark",), {"dark": 386, "pink": 614}, box)
    live.live._show_line()
    live.live.guide.follow(engine)
    assert "held-out regions right: 83 % (5 of 6)\n" in live.live.line.text()
    held_out = live.live.held_out
    held_out.follow(engine)
    held_out.open()
    table = held_out.panel.confusion
    shown = [[table.item(y, x).text() for x in range(3)] for y in range(2)]
    assert shown == [["50 %\n656", "50 %\n644", "0 %\n0"], ["30 %\n60", "70 %\n140", "0 %\n0"]]
    assert "dark: 3 of 4 right<br>pink: 2 of 2 right" in live.live.line.toolTip()
    doubts = live.live.guide.doubts
    assert [doubts.item(n).text() for n in range(doubts.count())] == ["dark: 61 % of it is pink"]
    assert live.live.guide.heading.text() == "1 label is doubtful; click to go there:"
    doubts.itemClicked.emit(doubts.item(0))
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], (184.5, 239.5))
    assert viewer.scene.camera.zoom == pytest.approx(400 / 210)  # three times the region


@pytest.fixture
def shown(shown_viewer, tiny_tiff, classes, small):
    """Train in a window of 1280 × 800 pixels, with a slide and a user."""
    shown_viewer.window.resize(1280, 800)
    _, train = shown_viewer.window.add_plugin_dock_widget("napari-lpd", "Train")
    train.live._settings = lambda: small
    train.data.classes.set_classes(classes)
    train.data.drawn.slides.open(tiny_tiff)
    shown_viewer.reset_view()
    QApplication.processEvents()
    return train, User(shown_viewer)


def test_the_main_path_is_seen_without_scrolling_and_painted_with_the_mouse(
    shown, shown_viewer, tiny_tiff, settled, shown_errors
):
    train, user = shown
    viewer = shown_viewer
    for _ in range(3):
        train.data.classes.add()
    click(button(train, "Draw regions"))
    user.key("1")
    user.polygon((20, 20), (110, 170))
    user.key("2")
    user.polygon((150, 210), (240, 370))
    click(button(train, "Paint"))
    (layer,) = layers_of(viewer, PAINT)
    assert user.shown() == "Paint: pink" and viewer.layers.selection.active is layer
    user.key("2")
    assert user.shown() == "Paint: pink" and layer.selected_label == 2
    assert layer.brush_size * layer.scale[-1] * viewer.scene.camera.zoom == pytest.approx(24, rel=0.1)  # on the screen
    layer.brush_size = round(30 / layer.scale[-1])
    user.drag((60, 230), (60, 350))
    strokes = [region for region in train.data.drawn.checked() if region.pixels]
    assert [stroke.tissues for stroke in strokes] == [("pink",)]
    assert strokes[0].polygon().area == pytest.approx(120 * 30 + np.pi * 15**2, rel=0.1)
    user.key("1")
    assert user.shown() == "Paint: dark"
    user.drag((130, 290), (130, 350))
    user.key("z", Qt.KeyboardModifier.ControlModifier)
    strokes = [region for region in train.data.drawn.checked() if region.pixels]
    assert [stroke.tissues for stroke in strokes] == [("pink",)]
    user.key("e")
    user.drag((20, 290), (100, 290))  # erases the middle
    strokes = [region for region in train.data.drawn.checked() if region.pixels]
    assert [stroke.tissues for stroke in strokes] == [("pink",)] * 2
    added = "(none of tissue 3, tissue 4, tissue 5)"
    assert settled(train).startswith(f"2 tissues, 2 regions, 2 strokes {added}, updated in ")
    assert layers_of(viewer, LIVE)
    user.key("n")
    asked = train.live.line.text()
    assert "?" in asked or asked.startswith(("No place", "The model is not sure"))
    assert layer.visible and layer.mode == "erase"  # what shows the place takes no tool out of the hand
    names = ("Draw regions", "Paint", "Add class", "Next place (N)", "Looks right (Y)", "Keep model", "Train fully")
    seen = [train.data.drawn.slides.combo, train.live.line, train.live.switch, *(button(train, name) for name in names)]
    window = viewer.window._qt_window
    assert train._column.verticalScrollBar().value() == 0
    for widget in seen:
        place = widget.mapTo(window, QPoint(0, 0))
        assert widget.visibleRegion().boundingRect() == widget.rect(), widget
        assert place.y() + widget.height() <= 800 and place.x() + widget.width() <= 1280
    train.data.drawn.files.save()
    assert [region.pixels for region in read_regions(regions_beside(tiny_tiff))] == [False, False, True, True]
    click(button(train, "Draw regions"))
    assert user.shown() == "Draw: dark" and not layer.visible
    assert shown_errors == []
