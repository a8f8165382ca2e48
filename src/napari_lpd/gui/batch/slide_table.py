"""Table of the slides of a batch: state, areas, time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHeaderView, QTableWidget, QTableWidgetItem

from napari_lpd.core.files import told_apart
from napari_lpd.core.jobs import TimeLeft, duration
from napari_lpd.core.text import html_text
from napari_lpd.gui.common.layout import tip
from napari_lpd.prediction.batch import EMPTY, OK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_lpd.core.jobs import Progress
    from napari_lpd.prediction.batch import SlideTask

COLUMNS = {
    "slide": "Double click or Enter: open the slide with its result",
    "state": "Of a slide that failed: why, and what to do; all of it in the tooltip",
    "mm²": "Area of each tissue, without corrections; all of them in the tooltip",
    "time": "What the slide took, or what is left of it",
}
SLIDE, STATE, AREAS, TIME = range(len(COLUMNS))
WAITING, BEGUN, RUNNING = "waiting", "begun", "running"
MM2 = " mm²"


class Entry(NamedTuple):
    """A slide of the batch.

    Attributes:
        task: What it is to become.
        cells: Its line in the table of the folder, by column; empty where it has none.
    """

    task: SlideTask
    cells: Mapping[str, str]

    @property
    def is_done(self) -> bool:
        """Whether its result is there, and finished."""
        return self.cells.get("state") in (OK, EMPTY) and self.task.folder.exists()

    @property
    def error(self) -> str:
        """Why it failed, without its name; "" where it did not."""
        state = self.cells.get("state", "")
        reason = state.removeprefix(f"{self.task.slide}: ").removeprefix(f"{self.task.slide.name}: ")
        return "" if state in (OK, EMPTY) else reason

    @property
    def state(self) -> str:
        """State in words."""
        if self.is_done:
            return self.cells["state"]
        if self.error:
            return f"⚠ {self.error}"
        return BEGUN if self.task.folder.exists() else WAITING

    def areas(self) -> dict[str, float]:
        """Area per tissue in mm², unsure last."""
        areas = {name.removesuffix(MM2): cell for name, cell in self.cells.items() if name.endswith(MM2) and cell}
        areas.pop("tissue", None)
        unsure = areas.pop("unsure", "")
        numbers = {name: number(cell) for name, cell in (areas | {"unsure": unsure}).items()}
        return {name: area for name, area in numbers.items() if area is not None}

    @property
    def seconds(self) -> float | None:
        """How long its work took, if it is done and that is known."""
        return number(self.cells.get("seconds", "")) if self.is_done else None


def number(cell: str) -> float | None:
    """Return the number in a cell; None where there is none, as a spreadsheet may have changed the table."""
    try:
        return float(cell)
    except ValueError:
        return None


class SlideTable(QTableWidget):
    """Table of the slides of a batch, one of which may be running.

    Signals:
        opened: the task of a slide that was double clicked, or on which Enter was pressed.
    """

    opened = Signal(object)

    def __init__(self) -> None:
        super().__init__(0, len(COLUMNS))
        self.entries: list[Entry] = []
        self._time_left = TimeLeft()
        self._running: int | None = None
        self.setHorizontalHeaderLabels(list(COLUMNS))
        for column, text in enumerate(COLUMNS.values()):
            self.horizontalHeaderItem(column).setToolTip(tip(text))
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setStretchLastSection(True)
        for column, width in enumerate((150, 230, 230)):
            self.setColumnWidth(column, width)
        self.verticalHeader().setVisible(False)
        self.verticalHeader().setDefaultSectionSize(24)
        self.setWordWrap(False)
        self.setMinimumHeight(160)
        self.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        self.itemActivated.connect(lambda item: self.opened.emit(self.entries[item.row()].task))

    def show_entries(self, entries: Sequence[Entry]) -> None:
        """List slides, in their order; those whose names are the same are told apart by their folders."""
        self.entries, self._running = list(entries), None
        self.setRowCount(len(entries))
        for row, name in enumerate(told_apart([entry.task.slide for entry in entries])):
            self._write(row, SLIDE, name, [str(entries[row].task.slide)])
            self._show(row)

    def chosen(self) -> list[int]:
        """List the selected rows."""
        return sorted({index.row() for index in self.selectionModel().selectedRows()})

    def show_running(self, row: int | None, progress: Progress) -> None:
        """Show how far the slide that is running has come; None: none is."""
        if row != self._running:
            before, self._running = self._running, row
            self._time_left.restart()
            if before is not None:
                self._show(before)
        if row is None:
            return
        share = f" {100 * progress.done / progress.total:.0f} %" if progress.total else ""
        self._write(row, STATE, f"▸ {RUNNING}{share}", [progress.message])
        if left := self._time_left(progress):
            self._write(row, TIME, left)

    def seconds_left(self, row: int | None, progress: Progress | None) -> float | None:
        """Estimate what is left of the batch by what its slides took up to here; None while that is not known."""
        took = [entry.seconds for entry in self.entries if entry.seconds is not None]
        if not took:
            return None
        ahead = sum(not entry.is_done and number >= (row or 0) for number, entry in enumerate(self.entries))
        share = progress.done / progress.total if row is not None and progress and progress.total else 0.0
        return max(ahead - share, 0) * sum(took) / len(took)

    def _show(self, row: int) -> None:
        entry = self.entries[row]
        areas = entry.areas() if entry.is_done else {}
        self._write(row, STATE, entry.state, [entry.state, *filter(None, [entry.cells.get("warnings")])])
        shown = [f"{name} {area:.3g}" for name, area in areas.items()]
        self._write(row, AREAS, " · ".join(shown), shown)
        self._write(row, TIME, "" if entry.seconds is None else duration(entry.seconds))

    def _write(self, row: int, column: int, text: str, more: Sequence[str] = ()) -> None:
        item = self.item(row, column)
        if item is None:
            item = QTableWidgetItem()
            item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable)
            self.setItem(row, column, item)
        item.setText(text)
        item.setToolTip(f"<qt>{'<br>'.join(html_text(line) for line in more)}</qt>" if more else "")
