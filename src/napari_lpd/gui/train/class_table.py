"""Table of tissue classes: colour, name, marked area, and a button that marks regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QColorDialog, QGridLayout, QLabel, QLineEdit, QPushButton, QToolButton, QVBoxLayout, QWidget

from napari_lpd.core.classes import COLORS, TissueClass, check_classes
from napari_lpd.gui.common.layout import SWATCH, swatch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class _Row:
    """Widgets of one class."""

    def __init__(self, tissue: TissueClass) -> None:
        self.color = tissue.color
        self.known_as = tissue.name  # in the regions
        self.button = QToolButton()
        self.button.setIcon(swatch(tissue.color))
        self.button.setIconSize(QSize(SWATCH, SWATCH))
        self.button.setToolTip("Change the colour")
        self.name = QLineEdit(tissue.name)
        self.name.setMinimumWidth(90)
        self.count = QLabel("–")
        self.use = QPushButton("Mark")
        self.use.setToolTip(
            "Mark the selected regions as this tissue, or unmark them; with nothing selected: draw it next"
        )
        self.remove = QToolButton()
        self.remove.setText("✕")
        self.remove.setToolTip("Remove this class")

    @property
    def widgets(self) -> tuple[QWidget, ...]:
        return self.button, self.name, self.count, self.use, self.remove


class ClassTable(QWidget):
    """Editable list of tissue classes.

    Signals:
        used: the name of the class whose Mark button was pressed.
        renamed: a class's old name and its new one; `changed` follows.
        changed: a name, a colour or the list changed.
    """

    used = Signal(str)
    renamed = Signal(str, str)
    changed = Signal()

    def __init__(self, classes: Sequence[TissueClass]) -> None:
        super().__init__()
        self._rows: list[_Row] = []
        self._markable = True
        self._grid = QGridLayout()
        self._grid.setColumnStretch(1, 1)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setVerticalSpacing(3)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(self._grid)
        self.set_classes(classes)

    def classes(self) -> tuple[TissueClass, ...]:
        """Return the classes in the table.

        Raises:
            SettingsError: a name is empty.
            DataError: a name occurs twice, or there are fewer than two classes.
        """
        classes = tuple(TissueClass.build({"name": row.name.text().strip(), "color": row.color}) for row in self._rows)
        check_classes(classes, "classes")
        return classes

    def drafts(self) -> tuple[TissueClass, ...]:
        """Return the classes that have a name, without further checks."""
        return tuple(
            TissueClass(name=row.name.text().strip(), color=row.color) for row in self._rows if row.name.text().strip()
        )

    def set_classes(self, classes: Sequence[TissueClass]) -> None:
        """Replace the classes."""
        for row in self._rows:
            for widget in row.widgets:
                self._grid.removeWidget(widget)
                widget.deleteLater()
        self._rows = []
        for tissue in classes:
            self._add(tissue)
        self.changed.emit()

    def add(self) -> None:
        """Add a class with an unused colour."""
        used = {row.color for row in self._rows}
        color = next((color for color in COLORS if color not in used), COLORS[0])
        self._add(TissueClass(name=f"tissue {len(self._rows) + 1}", color=color))
        self.changed.emit()

    def set_markable(self, markable: bool) -> None:
        """Show or hide counts and Mark buttons, which apply to regions only."""
        self._markable = markable
        for row in self._rows:
            row.count.setVisible(markable)
            row.use.setVisible(markable)

    def set_counts(self, counts: Mapping[str, str]) -> None:
        """Show a text beside each class: how much of it is marked."""
        for row in self._rows:
            row.count.setText(counts.get(row.name.text().strip(), "none"))

    def _add(self, tissue: TissueClass) -> None:
        row = _Row(tissue)
        line = len(self._rows) and self._grid.rowCount()
        for column, widget in enumerate(row.widgets):
            self._grid.addWidget(widget, line, column)
        number = len(self._rows) + 1
        if number < 10:
            row.use.setText(f"Mark {number}")
            row.use.setToolTip(f"{row.use.toolTip()} (key {number})")
        row.button.clicked.connect(lambda: self._on_color(row))
        row.name.editingFinished.connect(lambda: self._on_name(row))
        row.use.clicked.connect(lambda: self.used.emit(row.name.text().strip()))
        row.remove.clicked.connect(lambda: self._on_remove(row))
        self._rows.append(row)
        self.set_markable(self._markable)

    def _on_name(self, row: _Row) -> None:
        old, new = row.known_as, row.name.text().strip()
        others = {other.name.text().strip() for other in self._rows if other is not row}
        if new and new != old and new not in others:
            row.known_as = new
            self.renamed.emit(old, new)
        self.changed.emit()

    def _on_color(self, row: _Row) -> None:
        color = QColorDialog.getColor(QColor(row.color), self, f"Colour of {row.name.text()}")
        if color.isValid():
            row.color = color.name()
            row.button.setIcon(swatch(row.color))
            self.changed.emit()

    def _on_remove(self, row: _Row) -> None:
        kept = [other for other in self._rows if other is not row]
        self.set_classes([TissueClass(name=other.name.text().strip() or "tissue", color=other.color) for other in kept])
