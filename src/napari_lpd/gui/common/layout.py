"""What every widget of the plugin looks like: titled parts in a column that scrolls."""

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
    """A column of parts that scrolls when the window is low."""

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
        self._part: QWidget | None = None
        self._revealer = QTimer(self)
        self._revealer.setSingleShot(True)
        self._revealer.setInterval(REVEAL_MS)
        self._revealer.timeout.connect(self._on_reveal)

    def reveal(self, part: QWidget) -> None:
        """Scroll, once all is laid out, until a part is in view."""
        self._part = part
        self._revealer.start()

    def _on_reveal(self) -> None:
        if self._part is not None:
            self.ensureWidgetVisible(self._part, 0, 8)

    def add(self, *parts: QWidget, title: str = "") -> None:
        """Put parts below those that are there, with a title in bold."""
        heading = [_heading(title)] if title else []
        for part in [*heading, *parts]:
            self._column.insertWidget(self._column.count() - 1, part)


def _heading(title: str) -> QLabel:
    label = QLabel(f"<b>{title}</b>")
    label.setContentsMargins(0, 6, 0, 0)
    return label


def buttons(*entries: tuple[str, str, Callable[[], object]]) -> QWidget:
    """A row of buttons: (text, help, what it does)."""
    made: list[QWidget] = []
    for text, help_text, action in entries:
        button = QPushButton(text)
        button.setToolTip(help_text)
        button.clicked.connect(lambda _=False, action=action: action())
        made.append(button)
    return in_row(made)


def in_row(parts: Sequence[QWidget]) -> QWidget:
    """Parts side by side."""
    return _together(parts, QHBoxLayout)


def in_column(parts: Sequence[QWidget]) -> QWidget:
    """Parts below each other."""
    return _together(parts, QVBoxLayout)


def _together(parts: Sequence[QWidget], how: type[QHBoxLayout | QVBoxLayout]) -> QWidget:
    whole = QWidget()
    layout = how(whole)
    layout.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        layout.addWidget(part)
    return whole


def advanced(part: QWidget) -> QCollapsible:
    """Settings that are folded away at first."""
    return folded("Advanced", part)


def folded(title: str, part: QWidget) -> QCollapsible:
    """A part that is folded away at first."""
    fold = QCollapsible(title, expandedIcon="▾", collapsedIcon="▸")
    inner: QLayout = fold.content().layout()
    inner.setContentsMargins(10, 0, 0, 0)
    fold.addWidget(part)
    return fold


def chooser(entries: Sequence[str] = ()) -> QComboBox:
    """A combo box that takes the width it is given, however long its entries are."""
    box = QComboBox()
    box.addItems(entries)
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(6)
    return box


def note(text: str) -> QLabel:
    """A line of small print."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setStyleSheet("font-size: 11px; color: #9aa0a8;")
    return label


def warning_note() -> QLabel:
    """A line for a warning, hidden until there is one."""
    label = note("")
    label.setStyleSheet("font-size: 11px; color: #ffb454;")
    label.setVisible(False)
    return label


SWATCH = 14


def swatch(color: str) -> QIcon:
    """A square of a colour."""
    pixmap = QPixmap(SWATCH, SWATCH)
    pixmap.fill(QColor(color))
    return QIcon(pixmap)
