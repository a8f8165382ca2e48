"""Layout that all widgets share: titled sections in a scrolling column, rows of buttons, notes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import (
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QScrollBar,
    QStyle,
    QStyleOptionComboBox,
    QTabBar,
    QToolButton,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from napari_lpd.core.text import html_text
from napari_lpd.gui.common.recent_models import keep, kept

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH = 330
REVEAL_MS = 50
PRIMARY = "#2563c9"  # white text has a contrast of 5.6 on it
TURNED = (QComboBox, QAbstractSpinBox, QAbstractSlider, QTabBar)  # what a wheel changes
FOCUS = """
QComboBox:focus, QAbstractSpinBox:focus, QLineEdit:focus, QPushButton:focus, QToolButton:focus, QCheckBox:focus,
QSlider:focus, QTableWidget:focus, QPlainTextEdit:focus { border: 1px solid #2f7de1; }
"""  # a blue that stands out (3 : 1) from napari's dark and light backgrounds


class _WheelGuard(QObject):
    """Event filter that leaves the wheel to what scrolls around a field, unless the field has the focus."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() != QEvent.Type.Wheel or not isinstance(watched, QWidget) or watched.hasFocus():
            return super().eventFilter(watched, event)
        event.ignore()  # so that it goes on to the parent
        return True


def tip(text: str) -> str:
    """Make a tooltip of text as it is, with names of any letters; long lines are broken."""
    return f"<qt>{html_text(text)}</qt>"


def guard_wheel(*roots: QWidget) -> None:
    """Let the wheel change fields in `roots` only where they have the focus, which the wheel does not give."""
    for root in roots:
        for field in [root, *root.findChildren(QWidget)]:
            if isinstance(field, TURNED) and not isinstance(field, QScrollBar):
                field.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
                field.installEventFilter(_WheelGuard(field))


class Column(QScrollArea):
    """Scrolling column of widgets in titled sections."""

    def __init__(self) -> None:
        super().__init__()
        inner = QWidget()
        self._column = QVBoxLayout(inner)
        self._column.setContentsMargins(8, 8, 8, 8)
        self._column.setSpacing(6)
        self._column.addStretch(1)
        self.setWidget(inner)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumWidth(WIDTH)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setStyleSheet(FOCUS)
        self._target: QWidget | None = None
        self._revealer = QTimer(self)
        self._revealer.setSingleShot(True)
        self._revealer.setInterval(REVEAL_MS)
        self._revealer.timeout.connect(self._on_reveal)
        cast(QApplication, QApplication.instance()).focusChanged.connect(self._on_focus)

    def reveal(self, widget: QWidget) -> None:
        """Scroll to a widget after the layout is done."""
        self._target = widget
        self._revealer.start()

    def _on_reveal(self) -> None:
        if self._target is not None:
            self.ensureWidgetVisible(self._target, 0, 8)

    def _on_focus(self, _before: QWidget | None, field: QWidget | None) -> None:
        """Scroll to a field that Tab has reached from outside of the column."""
        if field is not None and self.isAncestorOf(field) and field.visibleRegion().isEmpty():
            self.ensureWidgetVisible(field, 0, 8)

    def add(self, *widgets: QWidget, title: str = "") -> None:
        """Add widgets at the bottom, under a bold title if one is given."""
        guard_wheel(*widgets)
        named = [heading(title)] if title else []
        for widget in [*named, *widgets]:
            self._column.insertWidget(self._column.count() - 1, widget)


def heading(title: str) -> QLabel:
    """Make a bold title of a section."""
    label = QLabel(f"<b>{title}</b>")
    label.setContentsMargins(0, 6, 0, 0)
    return label


def primary(button: QPushButton) -> None:
    """Show that a button is what most users of a widget want."""
    button.setStyleSheet(f"QPushButton:enabled {{ background-color: {PRIMARY}; color: white; font-weight: bold; }}")


def titled(*sections: tuple[str, QWidget]) -> QWidget:
    """Stack widgets under bold titles; those with the title "" have none."""
    return in_column([each for title, widget in sections for each in (*([heading(title)] if title else []), widget)])


def buttons(*entries: tuple[str, str, Callable[[], object]]) -> QWidget:
    """Make a row of buttons from (text, tooltip, action)."""
    row: list[QWidget] = []
    for text, help_text, action in entries:
        button = QPushButton(text)
        button.setToolTip(help_text)
        button.clicked.connect(lambda _=False, action=action: action())
        row.append(button)
    return in_row(row)


def foot(*widgets: QWidget) -> QWidget:
    """Arrange widgets in a column that stands below a `Column`, always in sight."""
    container = in_column(widgets)
    container.layout().setContentsMargins(8, 4, 8, 8)
    guard_wheel(container)
    return container


def in_row(widgets: Sequence[QWidget]) -> QWidget:
    """Arrange widgets in a row."""
    return _arranged(widgets, QHBoxLayout)


def in_column(widgets: Sequence[QWidget]) -> QWidget:
    """Arrange widgets in a column."""
    return _arranged(widgets, QVBoxLayout)


def _arranged(widgets: Sequence[QWidget], layout_type: type[QHBoxLayout | QVBoxLayout]) -> QWidget:
    container = QWidget()
    layout = layout_type(container)
    layout.setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        layout.addWidget(widget)
    return container


class Fold(QWidget):
    """Section under a title that hides and shows it; hidden at first.

    Hidden fields are out of the order of tabs, and text is measured as it is shown.

    Args:
        title: The title.
        content: The section.
        kept_as: Name under which it is stored, for the next session, whether the section is shown; "": it is not.
    """

    def __init__(self, title: str, content: QWidget, kept_as: str = "") -> None:
        super().__init__()
        self._title, self._content = title, content
        self.button = QToolButton()
        self.button.setCheckable(True)
        self.button.setAutoRaise(True)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.button)
        layout.addWidget(content)
        self.button.toggled.connect(self.open)
        self.open(bool(kept_as) and kept(kept_as) == "open")
        if kept_as:
            self.button.toggled.connect(lambda opened: keep(kept_as, "open" if opened else ""))

    def open(self, opened: bool = True) -> None:
        """Show or hide the content."""
        self.button.setChecked(opened)
        self.button.setText(f"{'▾' if opened else '▸'} {self._title}")
        self._content.setVisible(opened)


def advanced(widget: QWidget) -> Fold:
    """Put settings into a section "Advanced", collapsed at first."""
    return folded("Advanced", widget)


def folded(title: str, widget: QWidget) -> Fold:
    """Put a widget into a section that is collapsed at first."""
    return Fold(title, widget)


class _Chooser(QComboBox):
    """Combo box whose tooltip begins with its text where that is cut."""

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and self._is_cut():
            text = "<br>".join(part for part in (tip(self.currentText()), self.toolTip()) if part)
            QToolTip.showText(event.globalPos(), text, self)
            return True
        return bool(super().event(event))

    def _is_cut(self) -> bool:
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        part = QStyle.SubControl.SC_ComboBoxEditField
        room = self.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, option, part, self).width()
        return bool(self.fontMetrics().horizontalAdvance(self.currentText()) > room)


def chooser(entries: Sequence[str] = ()) -> QComboBox:
    """Make a combo box whose width does not depend on its entries."""
    box = _Chooser()
    box.addItems(entries)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(6)
    guard_wheel(box)
    return box


class OriginChoice(_Chooser):
    """Choice of where coordinates in GeoJSON begin; hidden where the slide and what was scanned of it begin alike."""

    def __init__(self) -> None:
        super().__init__()
        for value, text in (("bounds", "at the scanned part, as in QuPath"), ("slide", "at the slide's own corner")):
            self.addItem(f"GeoJSON counts {text}", value)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setToolTip("The scanner's file says which part was scanned; most programs show and count that part alone")
        guard_wheel(self)
        self.follow((0, 0))

    def follow(self, origin: Sequence[int]) -> None:
        """Show the choice for a slide whose scanned part begins at (x, y)."""
        self.setVisible(any(origin))

    def value(self) -> Literal["bounds", "slide"]:
        """Return the choice, as `Frame.of` takes it."""
        return "slide" if self.currentData() == "slide" else "bounds"


def note(text: str, rich: bool = False) -> QLabel:
    """Make a label in small print, in the colour of napari's theme.

    Args:
        text: Text as it is, or rich text.
        rich: Whether it is rich text, whose names have to be escaped.
    """
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.RichText if rich else Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setStyleSheet("font-size: 11px;")
    return label


def warning_note() -> QLabel:
    """Make a label for a warning, hidden at first: in the colour of napari's theme, beside an orange bar."""
    label = note("")
    label.setStyleSheet("font-size: 11px; border-left: 3px solid #d9822b; padding-left: 5px;")
    label.setVisible(False)
    return label


SWATCH = 14


def swatch(color: str) -> QIcon:
    """Make a square icon of one colour."""
    pixmap = QPixmap(SWATCH, SWATCH)
    pixmap.fill(QColor(color))
    return QIcon(pixmap)
