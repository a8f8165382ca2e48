"""Wheel, tab key, themes, long names and file dialogs of the three widgets, as a hand meets them."""

from __future__ import annotations

import html

import pytest
from hand import button, click, tick
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QColor, QHelpEvent, QWheelEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QFileDialog,
    QLabel,
    QScrollBar,
    QTabBar,
    QToolTip,
)

from napari_lpd.core.classes import TissueClass
from napari_lpd.gui.common.layout import FOCUS, Column, Fold, chooser
from napari_lpd.gui.layers.results import show_prediction
from napari_lpd.gui.predict.widget import PredictWidget
from napari_lpd.gui.train.widget import TrainWidget

WIDGETS = ("Train", "Predict", "Explore prototypes")
LONG = "a sebaceous gland with its duct and the whole of the follicle it belongs to"


@pytest.fixture
def docked(shown_viewer):
    """The three widgets in their docks, on the screen."""
    viewer = shown_viewer
    docks = [viewer.window.add_plugin_dock_widget("napari-lpd", name, tabify=True) for name in WIDGETS]
    QApplication.setActiveWindow(viewer.window._qt_window)  # no window manager does it
    return viewer, docks


def in_front(docks):
    """Each widget, brought to the front by its tab."""
    for dock, widget in docks:
        dock.raise_()
        QApplication.processEvents()
        yield widget


def state(field):
    if isinstance(field, QComboBox):
        return field.currentIndex()
    if isinstance(field, QTabBar):
        return field.currentIndex()
    return field.text() if isinstance(field, QAbstractSpinBox) else field.value()


def turn(field, notches):
    """Turn the wheel over a field; who ignores it leaves it to the parent, as Qt does with events of a real mouse."""
    place, under = field.mapToGlobal(field.rect().center()), field
    while under is not None:
        at, turned = QPointF(under.mapFromGlobal(place)), QPoint(0, 120 * notches)
        none = Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False
        wheel = QWheelEvent(at, QPointF(place), QPoint(), turned, *none)
        QApplication.sendEvent(under, wheel)
        under = None if wheel.isAccepted() or under.isWindow() else under.parentWidget()


def test_the_wheel_scrolls_the_column_and_changes_nothing_that_has_no_focus(docked):
    viewer, docks = docked
    for widget in in_front(docks):
        column = widget.findChild(Column)
        for fold in widget.findChildren(Fold):
            click(fold.button)
        kinds = (QComboBox, QAbstractSpinBox, QAbstractSlider, QTabBar)
        fields = [f for kind in kinds for f in widget.findChildren(kind) if not isinstance(f, QScrollBar)]
        fields = [f for f in fields if f.isVisible()]
        assert len(fields) > 3
        viewer.window._qt_viewer.canvas.native.setFocus()
        before, scrolled = [state(field) for field in fields], 0
        bar = column.verticalScrollBar()
        for field in fields:
            for notches in (-1, 1, -1):
                at = bar.value()
                turn(field, notches)
                scrolled += bar.value() != at
            assert not field.hasFocus()
        assert [state(field) for field in fields] == before
        assert scrolled > len(fields) or bar.maximum() == 0
        number = next((f for f in fields if isinstance(f, QAbstractSpinBox) and f.isEnabled()), None)
        if number is not None:  # with the focus it does change
            column.ensureWidgetVisible(number)
            QTest.mouseClick(number.lineEdit(), Qt.MouseButton.LeftButton)
            had = state(number)
            turn(number, 1)
            assert state(number) != had


def test_tab_goes_through_what_is_seen_only_and_the_focus_is_seen(docked):
    _viewer, docks = docked
    for widget in in_front(docks):
        widget.findChild(QComboBox).setFocus()
        visited = []
        for _ in range(120):
            QTest.keyClick(QApplication.focusWidget(), Qt.Key.Key_Tab)
            QApplication.processEvents()
            field = QApplication.focusWidget()
            if field in visited:
                break
            visited.append(field)
            if any(other.isAncestorOf(field) for _, other in docks):
                assert widget.isAncestorOf(field), f"{field} is behind another tab"
                assert not field.visibleRegion().isEmpty(), f"{field} is out of sight"
        assert sum(widget.isAncestorOf(field) for field in visited) > 8
        assert FOCUS in widget.findChild(Column).styleSheet()


def luminance(color: QColor) -> float:
    parts = (color.redF(), color.greenF(), color.blueF())
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(label: QLabel) -> float:
    """The contrast of a label's text with its background, of which the most frequent colour is taken."""
    image = label.grab().toImage()
    colors = [image.pixelColor(x, y).name() for x in range(image.width()) for y in range(image.height())]
    back = luminance(QColor(max(set(colors), key=colors.count)))
    text = luminance(label.palette().color(label.foregroundRole()))
    dark, bright = sorted((back, text))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_every_line_can_be_read_in_both_themes(docked, theme):
    viewer, docks = docked
    viewer.theme = theme
    for widget in in_front(docks):
        if isinstance(widget, PredictWidget):
            widget.warning.setText("⚠ the slide's colours are far from the training tiles'")
            widget.warning.setVisible(True)
        if isinstance(widget, TrainWidget):
            widget.tabs.data.setText("<b>⚠</b> fat is never alone")
            widget.tabs.setVisible(True)
            assert "color" not in widget.tabs.data.text()
        QApplication.processEvents()
        labels = [label for label in widget.findChildren(QLabel) if label.isVisible() and label.text().strip()]
        assert len(labels) > 4
        assert {label.text()[:40]: round(contrast(label), 1) for label in labels if contrast(label) < 4.5} == {}
    docks[0][0].raise_()
    docks[0][1].tabs.setCurrentIndex(1)
    QApplication.processEvents()
    axis = docks[0][1].tabs.curves._plot.getAxis("left").textPen().color()
    assert (luminance(axis) > 0.4) == (theme == "dark")


def tooltip_of(widget):
    centre = widget.rect().center()
    QApplication.sendEvent(widget, QHelpEvent(QEvent.Type.ToolTip, centre, widget.mapToGlobal(centre)))
    text = html.unescape(QToolTip.text())
    QToolTip.hideText()
    return text


def test_a_name_that_is_cut_is_in_its_tooltip_and_begins_at_its_start(docked, tiny_tiff, make_prediction):
    viewer, docks = docked
    (_, train), (_, predict), _ = docks
    docks[0][0].raise_()
    train.data.classes.set_classes([TissueClass(name=LONG, color="#3b4cff"), TissueClass(name="b", color="#ff8c1a")])
    row = train.data.classes._rows[0]
    assert LONG in tooltip_of(row.name)
    row.name.setText(f"not {LONG}")
    row.name.editingFinished.emit()
    assert f"not {LONG}" in tooltip_of(row.name)
    assert row.name.cursorPosition() == 0
    assert f"not {LONG}" in tooltip_of(row.use)
    docks[1][0].raise_()
    QApplication.processEvents()
    box = chooser([LONG])
    predict.layout().addWidget(box)
    box.setFixedWidth(90)
    box.show()
    assert LONG in tooltip_of(box)
    box.setFixedWidth(900)
    assert not box._is_cut()
    predict.slides.open(tiny_tiff)
    show_prediction(viewer, make_prediction(), predict.slides.layer())
    predict.panel.refresh()
    table = predict.panel.areas.table
    assert "pink" in html.unescape(table.item(1, 0).toolTip())
    assert table.columnWidth(0) > table.viewport().width() / 2  # no column of dashes beside it
    for bar in viewer.window._qt_window.findChildren(QTabBar):
        titles = [bar.tabText(index) for index in range(bar.count())]
        assert "napari-lpd" not in "".join(titles)


def test_a_folded_text_is_shown_whole_and_leaves_no_gap(docked, qtbot):
    _, docks = docked
    docks[1][0].raise_()
    predict = docks[1][1]
    fold, details = predict.model._more, predict.model.details
    closed = fold.height()
    assert closed <= fold.button.height() + 4
    click(fold.button)
    qtbot.waitUntil(lambda: details.height() >= details.heightForWidth(details.width()) > 50)
    click(fold.button)
    qtbot.waitUntil(lambda: fold.height() == closed)


def test_the_export_dialog_offers_what_fits_beside_the_slide(
    viewer, tiny_layer, tiny_tiff, make_prediction, use_widget, monkeypatch
):
    show_prediction(viewer, make_prediction(), tiny_layer)
    asked = []
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *given: asked.append(given) or ("", ""))
    predict = use_widget(PredictWidget)
    click(button(predict, "Export…"))
    _, _, name, filters = asked[0]
    assert name == str(tiny_tiff.parent / "tiny")  # the chosen form gives the ending
    assert "Outlines for QuPath (*.geojson)" in filters
    assert "Everything (*.zarr)" in filters
    assert "dcm" not in filters
    dicom = tiny_tiff.parent / "slide.dcm"
    tiny_layer.metadata["napari_lpd"] = {**tiny_layer.metadata["napari_lpd"], "path": str(dicom)}
    click(button(predict, "Export…"))
    assert "Segmentation of a DICOM slide (*.dcm)" in asked[1][3]


def test_saving_regions_asks_for_a_name_only_when_there_are_regions(
    viewer, tiny_tiff, use_widget, monkeypatch, shown_errors, classes
):
    asked = []
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *given: asked.append(given) or ("", ""))
    train = use_widget(TrainWidget)
    train.data.classes.set_classes(classes)
    click(button(train, "Save as…"))
    train.data.drawn.slides.open(tiny_tiff)
    click(button(train, "Save as…"))
    assert asked == []
    assert "no slide is open" in shown_errors[0]
    assert "no regions yet" in shown_errors[1]
    click(button(train, "Draw regions"))
    click(button(train, "Save as…"))
    assert asked[0][2] == str(tiny_tiff.parent / "tiny.geojson")
    click(button(train, "Add class"))  # a new class says the same as those without regions
    texts = {row.count.text() for row in [*train.data.classes._rows, train.data.classes._none]}
    assert texts == {"no regions"}


def test_naparis_slider_of_prototypes_is_there_only_while_it_moves_something(
    shown_viewer, tiny_tiff, make_prediction, qtbot
):
    viewer = shown_viewer
    sliders = viewer.window._qt_viewer.dims
    _, predict = viewer.window.add_plugin_dock_widget("napari-lpd", "Predict")
    predict.slides.open(tiny_tiff)
    show_prediction(viewer, make_prediction(), predict.slides.layer())
    QApplication.processEvents()
    assert not sliders.isVisible()  # the mask alone
    tick(predict.panel.results.button, "Heatmap: dark")
    qtbot.waitUntil(lambda: "dark heatmap" in viewer.layers)
    heatmap = viewer.layers["dark heatmap"]
    assert sliders.isVisible()
    dock, explore = viewer.window.add_plugin_dock_widget("napari-lpd", "Explore prototypes")
    explore.show_heatmap(0, 1)
    assert heatmap.visible
    assert not sliders.isVisible()  # Explore has its own, which counts from 1
    assert explore.which.text() == "Prototype 2 of 2"
    click(dock.title.close_button)
    heatmap.visible = False
    heatmap.visible = True
    assert sliders.isVisible()
    viewer.layers.remove(heatmap)
    assert not sliders.isVisible()
