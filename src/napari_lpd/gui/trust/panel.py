"""Can I trust it? What was found in regions whose tissue is known: confusion, rates, calibration, contradictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyqtgraph as pg
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QHeaderView,
    QListWidget,
    QListWidgetItem,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_lpd.core.classes import UNSURE_CLASS
from napari_lpd.gui.common.layout import PRIMARY, note, tip

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_lpd.evaluation.regions import Trust

ROW, LINE, CURVE = 34, 24, 170  # pixels: a row with two lines and with one, the plot's height
MOST_ROWS = 5  # of the list that are in view
CONFUSION = (
    "Rows: what the regions carry; columns: what was found in them, in % of the row and in pixels. Click a cell to go"
    " to the region with most of it, again for the next"
)
CURVED = "How often the most likely tissue is right where the model is so sure of it: on the line, as often as it says."
BOX = Qt.ItemDataRole.UserRole


class TrustPanel(QWidget):
    """Tables and a curve of what was found in regions.

    Signals:
        asked: a `Verdict` to whose region the camera is to go.
    """

    asked = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.found: Trust | None = None
        self._turn = (-1, -1, 0)  # the cell that was clicked last, and how often
        self.line = note("")
        self.confusion, self.rates = _table(ROW), _table(LINE)
        self.confusion.setToolTip(tip(CONFUSION))
        self.curve = pg.PlotWidget(background=None)
        self.wrong = QListWidget()
        self._heading = note("")
        self._curved = note(CURVED)
        self._draw_axes()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (self.line, self.confusion, self.rates, self._heading, self.wrong, self._curved, self.curve):
            layout.addWidget(widget)
        self.confusion.cellClicked.connect(self._on_cell)
        self.wrong.itemActivated.connect(lambda item: self.asked.emit(item.data(BOX)))
        self.wrong.itemClicked.connect(lambda item: self.asked.emit(item.data(BOX)))
        self.show_trust(None)

    def _draw_axes(self) -> None:
        self.curve.setMouseEnabled(False, False)
        self.curve.hideButtons()
        self.curve.setMenuEnabled(False)
        self.curve.setFixedHeight(CURVE)
        self.curve.setXRange(0, 1)
        self.curve.setYRange(0, 1)
        self.curve.setLabel("bottom", "how sure the model is")
        self.curve.setLabel("left", "share right")

    def show_trust(self, found: Trust | None, why_not: str = "") -> None:
        """Show what was found; None: nothing is known yet, and why."""
        self.found, self._turn = found, (-1, -1, 0)
        for widget in (self.confusion, self.rates, self._heading, self.wrong):
            widget.setVisible(found is not None)
        for widget in (self._curved, self.curve):
            widget.setVisible(found is not None and found.curve is not None)
        self.line.setText(why_not if found is None else found.note())
        if found is not None:
            self._show_confusion(found)
            self._show_rates(found)
            self._show_wrong(found)
            self._show_curve(found)

    def _show_confusion(self, found: Trust) -> None:
        names = found.scores.class_names
        counts = found.counts.tolist()
        rows = [[f"{100 * n / sum(row):.0f} %\n{_short(n)}" if sum(row) else "–" for n in row] for row in counts]
        _fill(self.confusion, [*names, UNSURE_CLASS.name], names, rows)
        for row, of_row in enumerate(counts):
            for column, count in enumerate(of_row):
                shade = QColor(PRIMARY)
                shade.setAlphaF(0.7 * count / max(sum(of_row), 1))
                self.confusion.item(row, column).setBackground(shade)
                self.confusion.item(row, column).setToolTip(tip(f"{count:,} pixels. {CONFUSION}"))

    def _show_rates(self, found: Trust) -> None:
        scores, limits = found.scores, found.intervals
        rows = [
            [_rate(scores.recall[c], None if limits is None else limits.recall[c]),
             _rate(scores.iou[c], None if limits is None else limits.iou[c])]
            for c in range(len(scores.class_names))
        ]  # fmt: skip
        rows.append(["", _rate(scores.mean_iou, None if limits is None else limits.headline["mean_iou"])])
        _fill(self.rates, ["recall", "IoU"], [*scores.class_names, "mean"], rows)

    def _show_wrong(self, found: Trust) -> None:
        self.wrong.clear()
        for verdict in found.contradicted:
            item = QListWidgetItem(f"{verdict.tissues[0]}: {100 * verdict.share:.0f} % of it is {verdict.found}")
            item.setData(BOX, verdict)
            item.setToolTip(tip(verdict.source))
            self.wrong.addItem(item)
        count = self.wrong.count()
        which = "1 region contradicts" if count == 1 else f"{count or 'No'} regions contradict"
        self._heading.setText(f"{which} the model{': click to go there' if count else '.'}")
        self.wrong.setVisible(count > 0)
        self.wrong.setFixedHeight((self.wrong.sizeHintForRow(0) + 2) * min(count, MOST_ROWS) + 4)

    def _show_curve(self, found: Trust) -> None:
        self.curve.clear()
        if found.curve is not None:
            self.curve.plot([0, 1], [0, 1], pen=pg.mkPen("#999999", style=Qt.PenStyle.DashLine))
            probability, frequency, number = found.curve.probability, found.curve.frequency, found.curve.number
            sizes = 5 + 12 * (number / number.max()) ** 0.5
            self.curve.plot(probability, frequency, pen="#42d4f4", symbol="o", symbolSize=sizes, symbolBrush="#42d4f4")

    def _on_cell(self, row: int, column: int) -> None:
        """Go to a place of the cell: the next one where it is clicked again."""
        assert self.found is not None
        places = self.found.places(row, column)
        turn = self._turn[2] + 1 if self._turn[:2] == (row, column) else 0
        self._turn = (row, column, turn)
        if places:
            self.asked.emit(places[turn % len(places)])


def _short(count: int) -> str:
    """Format a number of pixels for a narrow cell."""
    if count < 10_000:
        return f"{count:,}"
    return f"{count / 1e3:.0f} k" if count < 1e6 else f"{count / 1e6:.1f} M"


def _table(row: int) -> QTableWidget:
    table = QTableWidget()
    table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
    table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
    table.horizontalHeader().setDefaultAlignment(Qt.AlignmentFlag.AlignLeft)
    table.verticalHeader().setDefaultSectionSize(row)
    table.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    table.setStyleSheet("font-size: 11px;")
    return table


def _fill(table: QTableWidget, columns: Sequence[str], rows: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Fill a table, as high as its rows."""
    table.setColumnCount(len(columns))
    table.setRowCount(len(rows))
    for names, header in ((columns, table.setHorizontalHeaderItem), (rows, table.setVerticalHeaderItem)):
        for index, name in enumerate(names):
            item = QTableWidgetItem(name)
            item.setToolTip(tip(name))
            header(index, item)
    for row, texts in enumerate(cells):
        for column, text in enumerate(texts):
            item = QTableWidgetItem(text)
            item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
            table.setItem(row, column, item)
    table.verticalHeader().setMaximumWidth(85)
    table.setFixedHeight(LINE + 8 + table.verticalHeader().defaultSectionSize() * len(rows))


def _rate(value: float, limits: NDArray[np.float64] | Sequence[float] | None) -> str:
    """Format a share with its interval; NaN: there is none."""
    if value != value:
        return "–"
    low, high = (float("nan"),) * 2 if limits is None else limits
    return f"{100 * value:.0f} %" + (f" [{100 * low:.0f}, {100 * high:.0f}]" if low == low else "")
