"""Table of tissue classes: a button that takes the class in hand, colour, name, and the area marked so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QGuiApplication
from qtpy.QtWidgets import QColorDialog, QGridLayout, QLabel, QLineEdit, QPushButton, QToolButton, QVBoxLayout, QWidget

from napari_lpd.core.classes import COLORS, TissueClass, check_classes
from napari_lpd.core.text import area_text
from napari_lpd.data.regions import NONE
from napari_lpd.gui.common.layout import SWATCH, swatch, tip
from napari_lpd.gui.layers.class_keys import text_color
from napari_lpd.gui.layers.regions import NO_TISSUE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST = 1000  # line of the last row
NO_REGIONS = "no regions"
OTHER = "other, glass"  # shown for NONE
HELP = (
    "Draw {name} next{key}; what is drawn already stays as it is."
    " {control} adds it to the selected regions, or removes it."
)


class _Row:
    """Widgets of one class, or of the regions that are none of the classes, which have no colour and no other name."""

    def __init__(self, tissue: TissueClass | None, number: int) -> None:
        self.color = NO_TISSUE if tissue is None else tissue.color
        self.known_as = NONE if tissue is None else tissue.name  # in the regions
        self.use = QPushButton(f"{number}" if number < 10 else "●")
        self.use.setCheckable(True)
        self.use.setFixedWidth(30)
        self.button = QToolButton()
        self.button.setIcon(swatch(self.color))
        self.button.setIconSize(QSize(SWATCH, SWATCH))
        self.button.setToolTip("Change the colour")
        self.name = QLineEdit(OTHER if tissue is None else tissue.name)
        self.name.setMinimumWidth(90)
        self.count = QLabel(NO_REGIONS)
        self.remove = QToolButton()
        self.remove.setText("✕")
        self.remove.setToolTip("Remove this class")
        self.describe(number)
        if tissue is None:
            self.name.setReadOnly(True)
            self.name.setFrame(False)
            self.name.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            for widget in (self.button, self.remove):
                widget.setEnabled(False)
            self.remove.setText("")

    @property
    def widgets(self) -> tuple[QWidget, ...]:
        return self.use, self.button, self.name, self.count, self.remove

    def describe(self, number: int) -> None:
        """Name the class and its keys in the tooltips."""
        key, control = (f" (key {number})", f"Ctrl+{number}") if number < 10 else ("", "Ctrl and a click")
        self.use.setToolTip(tip(HELP.format(name=self.name.text(), key=key, control=control)))
        self.name.setToolTip(tip(self.name.text()))
        self.name.setCursorPosition(0)  # show the start of a long name

    def show_in_hand(self, in_hand: bool) -> None:
        """Show whether the class is in hand."""
        self.use.setChecked(in_hand)
        style = f"background-color: {self.color}; color: {text_color(self.color)}; font-weight: bold;"
        self.use.setStyleSheet(f"QPushButton {{ {style} }}" if in_hand else "")
        self.name.setStyleSheet("QLineEdit { font-weight: bold; }" if in_hand else "")


class ClassTable(QWidget):
    """Editable list of tissue classes.

    Signals:
        used: the button of a class was pressed: its name, NONE for none of the classes.
        toggled: the same with Ctrl.
        renamed: a class's old name and its new one; `changed` follows.
        changed: a name, a colour or the list changed.
    """

    used = Signal(str)
    toggled = Signal(str)
    renamed = Signal(str, str)
    changed = Signal()

    def __init__(self, classes: Sequence[TissueClass]) -> None:
        super().__init__()
        self._rows: list[_Row] = []
        self._none = _Row(None, 0)
        self._markable = True
        self._in_hand = ""
        self._grid = QGridLayout()
        self._grid.setColumnStretch(2, 1)
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
        for row in [*self._rows, self._none]:
            for widget in row.widgets:
                self._grid.removeWidget(widget)
                widget.deleteLater()
        self._rows = []
        for tissue in classes:
            self._add(tissue)
        self._none = _Row(None, 0)
        self._lay_out(self._none, MOST)
        self.take(self._in_hand)
        self.changed.emit()

    def add(self) -> None:
        """Add a class with an unused colour."""
        used = {row.color for row in self._rows}
        color = next((color for color in COLORS if color not in used), COLORS[0])
        self._add(TissueClass(name=f"tissue {len(self._rows) + 1}", color=color))
        self.changed.emit()

    def set_markable(self, markable: bool) -> None:
        """Show or hide what applies to regions only: counts, buttons, the row of none of the classes."""
        self._markable = markable
        for row in self._rows:
            row.count.setVisible(markable)
            row.use.setVisible(markable)
        for widget in self._none.widgets:
            widget.setVisible(markable)

    def set_counts(self, counts: Mapping[str, tuple[int, float]]) -> None:
        """Show beside each class, and beside NONE, how many regions of it there are, and their area in mm²."""
        for row in [*self._rows, self._none]:
            name = NONE if row is self._none else row.name.text().strip()
            count, area = counts.get(name, (0, 0.0))
            row.count.setText(f"{count} · {area_text(area, 2)} mm²" if count else NO_REGIONS)

    def take(self, name: str) -> None:
        """Show a class, or NONE, as the one in hand."""
        self._in_hand = name
        for row in [*self._rows, self._none]:
            row.show_in_hand(name == row.known_as)

    def numbered(self, number: int) -> str | None:
        """Return the name of a class by its number, from 1; of NONE for 0; None for numbers without a class."""
        if number == 0:
            return NONE
        drafts = self.drafts()
        return drafts[number - 1].name if number <= len(drafts) else None

    def _add(self, tissue: TissueClass) -> None:
        row = _Row(tissue, len(self._rows) + 1)
        row.button.clicked.connect(lambda: self._on_color(row))
        row.name.editingFinished.connect(lambda: self._on_name(row))
        row.remove.clicked.connect(lambda: self._on_remove(row))
        self._rows.append(row)
        self._lay_out(row, len(self._rows))

    def _lay_out(self, row: _Row, line: int) -> None:
        for column, widget in enumerate(row.widgets):
            self._grid.addWidget(widget, line, column)
        row.use.clicked.connect(lambda: self._on_use(row))
        self.set_markable(self._markable)

    def _on_use(self, row: _Row) -> None:
        row.show_in_hand(row.known_as == self._in_hand)  # the owner decides
        name = NONE if row is self._none else row.name.text().strip()
        control = QGuiApplication.keyboardModifiers() & Qt.KeyboardModifier.ControlModifier
        (self.toggled if control else self.used).emit(name)

    def _on_name(self, row: _Row) -> None:
        row.describe(self._rows.index(row) + 1)
        old, new = row.known_as, row.name.text().strip()
        others = {other.name.text().strip() for other in self._rows if other is not row}
        if new and new != old and new not in others:
            row.known_as = new
            self._in_hand = new if self._in_hand == old else self._in_hand
            self.renamed.emit(old, new)
        self.changed.emit()

    def _on_color(self, row: _Row) -> None:
        color = QColorDialog.getColor(QColor(row.color), self, f"Colour of {row.name.text()}")
        if color.isValid():
            row.color = color.name()
            row.button.setIcon(swatch(row.color))
            self.take(self._in_hand)
            self.changed.emit()

    def _on_remove(self, row: _Row) -> None:
        kept = [other for other in self._rows if other is not row]
        self.set_classes([TissueClass(name=other.name.text().strip() or "tissue", color=other.color) for other in kept])
