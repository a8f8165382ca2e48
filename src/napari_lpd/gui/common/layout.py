"""Layout that all widgets share: titled sections in a scrolling column, rows of buttons, notes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QColor, QIcon, QPixmap
from qtpy.QtWidgets import QComboBox, QFrame, QHBoxLayout, QLabel, QPushButton, QScrollArea, QVBoxLayout, QWidget
from superqt import QCollapsible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qtpy.QtWidgets import QLayout

WIDTH = 330
REVEAL_MS = 50


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
        self._target: QWidget | None = None
        self._revealer = QTimer(self)
        self._revealer.setSingleShot(True)
        self._revealer.setInterval(REVEAL_MS)
        self._revealer.timeout.connect(self._on_reveal)

    def reveal(self, widget: QWidget) -> None:
        """Scroll to a widget after the layout is done."""
        self._target = widget
        self._revealer.start()

    def _on_reveal(self) -> None:
        if self._target is not None:
            self.ensureWidgetVisible(self._target, 0, 8)

    def add(self, *widgets: QWidget, title: str = "") -> None:
        """Add widgets at the bottom, under a bold title if one is given."""
        heading = [_heading(title)] if title else []
        for widget in [*heading, *widgets]:
            self._column.insertWidget(self._column.count() - 1, widget)


def _heading(title: str) -> QLabel:
    label = QLabel(f"<b>{title}</b>")
    label.setContentsMargins(0, 6, 0, 0)
    return label


def buttons(*entries: tuple[str, str, Callable[[], object]]) -> QWidget:
    """Make a row of buttons from (text, tooltip, action)."""
    row: list[QWidget] = []
    for text, help_text, action in entries:
        button = QPushButton(text)
        button.setToolTip(help_text)
        button.clicked.connect(lambda _=False, action=action: action())
        row.append(button)
    return in_row(row)


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


def advanced(widget: QWidget) -> QCollapsible:
    """Put settings into a section "Advanced", collapsed at first."""
    return folded("Advanced", widget)


def folded(title: str, widget: QWidget) -> QCollapsible:
    """Put a widget into a section that is collapsed at first."""
    fold = QCollapsible(title, expandedIcon="▾", collapsedIcon="▸")
    inner: QLayout = fold.content().layout()
    inner.setContentsMargins(10, 0, 0, 0)
    fold.addWidget(widget)
    return fold


def chooser(entries: Sequence[str] = ()) -> QComboBox:
    """Make a combo box whose width does not depend on its entries."""
    box = QComboBox()
    box.addItems(entries)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(6)
    return box


def note(text: str, rich: bool = False) -> QLabel:
    """Make a label in small print, of text as it is, or rich text, whose names have to be escaped."""
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.RichText if rich else Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setStyleSheet("font-size: 11px; color: #9aa0a8;")
    return label


def warning_note() -> QLabel:
    """Make a label for a warning, hidden at first."""
    label = note("")
    label.setStyleSheet("font-size: 11px; color: #ffb454;")
    label.setVisible(False)
    return label


SWATCH = 14


def swatch(color: str) -> QIcon:
    """Make a square icon of one colour."""
    pixmap = QPixmap(SWATCH, SWATCH)
    pixmap.fill(QColor(color))
    return QIcon(pixmap)
