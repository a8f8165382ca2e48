"""The table of tissue classes: colour, name, what is there of it, and a button that gives it to regions."""

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
        self.known_as = tissue.name  # to the regions
        self.button = QToolButton()
        self.button.setIcon(swatch(tissue.color))
        self.button.setIconSize(QSize(SWATCH, SWATCH))
        self.button.setToolTip("Change the colour")
        self.name = QLineEdit(tissue.name)
        self.name.setMinimumWidth(90)
        self.count = QLabel("–")
        self.use = QPushButton("Mark")
        self.use.setToolTip(
            "Give this tissue to the selected regions, or take it away again; with nothing selected: draw it next"
        )
        self.remove = QToolButton()
        self.remove.setText("✕")
        self.remove.setToolTip("Remove this class")

    @property
    def parts(self) -> tuple[QWidget, ...]:
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
        """The classes as they stand.

        Raises:
            SettingsError: a name is empty.
            DataError: a name occurs twice, or there are fewer than two classes.
        """
        classes = tuple(TissueClass.build({"name": row.name.text().strip(), "color": row.color}) for row in self._rows)
        check_classes(classes, "classes")
        return classes

    def drafts(self) -> tuple[TissueClass, ...]:
        """The classes that have a name, checked no further."""
        return tuple(
            TissueClass(name=row.name.text().strip(), color=row.color) for row in self._rows if row.name.text().strip()
        )

    def set_classes(self, classes: Sequence[TissueClass]) -> None:
        """Show other classes."""
        for row in self._rows:
            for part in row.parts:
                self._grid.removeWidget(part)
                part.deleteLater()
        self._rows = []
        for tissue in classes:
            self._add(tissue)
        self.changed.emit()

    def add(self) -> None:
        """Add a class with a free colour."""
        taken = {row.color for row in self._rows}
        color = next((color for color in COLORS if color not in taken), COLORS[0])
        self._add(TissueClass(name=f"tissue {len(self._rows) + 1}", color=color))
        self.changed.emit()

    def set_markable(self, markable: bool) -> None:
        """Show or hide what is about regions: counts and Mark buttons."""
        self._markable = markable
        for row in self._rows:
            row.count.setVisible(markable)
            row.use.setVisible(markable)

    def set_counts(self, counts: Mapping[str, str]) -> None:
        """Say beside each class what there is of it."""
        for row in self._rows:
            row.count.setText(counts.get(row.name.text().strip(), "none yet"))

    def _add(self, tissue: TissueClass) -> None:
        row = _Row(tissue)
        line = len(self._rows) and self._grid.rowCount()
        for column, part in enumerate(row.parts):
            self._grid.addWidget(part, line, column)
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
