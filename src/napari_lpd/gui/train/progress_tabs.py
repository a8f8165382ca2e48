"""Tabs that follow a training: data, curves, tiles with masks, log, model card."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import QLabel, QPlainTextEdit, QSlider, QTabWidget, QVBoxLayout, QWidget

from napari_lpd.core.jobs import VALIDATION
from napari_lpd.core.reading import read_json
from napari_lpd.core.text import html_text
from napari_lpd.data.training_set import SHEET, SUMMARY
from napari_lpd.gui.common.layout import WIDTH, note
from napari_lpd.gui.train.curves import Curves
from napari_lpd.training.runs.folder import PREVIEWS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.jobs import Progress

SHEET_WIDTH = WIDTH - 40
MAX_LINES = 2000
CARD = 4  # index of the model's tab


class ProgressTabs(QTabWidget):
    """Tabs about one run: Data, Curves, Tiles, Log, and at the end the model's card."""

    def __init__(self) -> None:
        super().__init__()
        self.curves = Curves()
        self.data, self.card = QLabel(), QLabel()
        self.sheet, self.preview = QLabel(), QLabel()
        self.epoch = QSlider(Qt.Orientation.Horizontal)
        self.log = QPlainTextEdit()
        self._epoch_text = note("no epoch finished yet")
        self._run: Path | None = None
        self._last_message = ""
        for label in (self.data, self.card):
            label.setWordWrap(True)
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.log.setReadOnly(True)
        self.log.setMaximumBlockCount(MAX_LINES)
        self.epoch.setVisible(False)
        self.epoch.valueChanged.connect(self._show_preview)
        for title, widgets in {
            "Data": (self.data, self.sheet),
            "Curves": (self.curves,),
            "Tiles": (self._epoch_text, self.epoch, self.preview),
            "Log": (self.log,),
            "Model": (self.card,),
        }.items():
            self.addTab(_page(widgets, stretch=title != "Log"), title)
        self.setTabVisible(CARD, False)
        self.setVisible(False)

    def start(self, run: Path, classes: Sequence[TissueClass], history: Sequence[dict[str, float]]) -> None:
        """Follow a run from its start or from where it resumes."""
        self._run = run
        self.curves.start(classes, history)
        self._show_summary()
        self._count_previews()
        self.setTabVisible(CARD, False)
        self.setVisible(True)
        self.setCurrentIndex(1)

    def show_data(self, folder: Path, summary: dict[str, Any]) -> None:
        """Show a summary of a training set and its sheet of tiles."""
        self.data.setText(summary_html(summary))
        self.sheet.setPixmap(_fitted(folder / SHEET))
        self.setVisible(True)
        self.setCurrentIndex(0)

    def show_card(self, html: str) -> None:
        """Show the card of the trained model."""
        self.card.setText(html)
        self.setTabVisible(CARD, True)

    def add(self, progress: Progress) -> None:
        """Add a step of the run to curves and log."""
        if progress.metrics:
            self.curves.add(progress.done, progress.metrics)
        if progress.message and progress.message != self._last_message:
            self._last_message = progress.message
            numbers = {name: value for name, value in progress.metrics.items() if name != "valid score"}
            if progress.message.endswith(VALIDATION):
                self._count_previews()
            elif progress.total:
                numbers = {}
            self.write(" ".join([progress.message, *(f"· {name} {value:.3g}" for name, value in numbers.items())]))
        if not self.data.text():
            self._show_summary()

    def write(self, line: str) -> None:
        """Add a line to the log."""
        self.log.appendPlainText(f"{time.strftime('%H:%M:%S')}  {line}")

    def _show_summary(self) -> None:
        self.data.clear()
        if self._run is not None and (self._run / SUMMARY).exists() and (self._run / SHEET).exists():
            self.data.setText(summary_html(read_json(self._run / SUMMARY)))
            self.sheet.setPixmap(_fitted(self._run / SHEET))

    def _previews(self) -> list[Path]:
        return [] if self._run is None else sorted((self._run / PREVIEWS).glob("epoch-*.png"))

    def _count_previews(self) -> None:
        count = len(self._previews())
        self.epoch.setVisible(count > 1)
        self.epoch.setRange(1, max(count, 1))
        self.epoch.setValue(max(count, 1))
        self._show_preview()

    def _show_preview(self) -> None:
        previews = self._previews()
        if previews:
            path = previews[min(self.epoch.value(), len(previews)) - 1]
            self.preview.setPixmap(_fitted(path))
            self._epoch_text.setText(f"after epoch {int(path.stem.rpartition('-')[2])} of {len(previews)} so far")


def summary_html(summary: dict[str, Any]) -> str:
    """Format a training set's summary as rich text."""
    per_class = ", ".join(f"{html_text(name)} {count}" for name, count in summary["tiles per class"].items())
    slides = summary["tiles per slide"]
    first = ", ".join(f"{html_text(name)} {count}" for name, count in list(slides.items())[:6])
    more = f", and {len(slides) - 6} more" if len(slides) > 6 else ""
    lines = [
        f"<b>{summary['tiles']} tiles</b> of {summary['tile edge']}",
        f"with {per_class}",
        f"from {len(slides)} slide{'s' * (len(slides) > 1)} or patients: {first}{more}" if len(slides) > 1 else "",
        html_text(summary["split"]),
        *(f"<b>⚠</b> {html_text(line)}" for line in summary["warnings"]),
    ]
    return "<br>".join(line for line in lines if line)


def _fitted(path: Path) -> QPixmap:
    pixmap = QPixmap(str(path))
    return pixmap.scaledToWidth(min(SHEET_WIDTH, pixmap.width()), Qt.TransformationMode.SmoothTransformation)


def _page(widgets: Sequence[QWidget], stretch: bool) -> QWidget:
    page = QWidget()
    layout = QVBoxLayout(page)
    layout.setContentsMargins(4, 6, 4, 4)
    for widget in widgets:
        layout.addWidget(widget)
    if stretch:
        layout.addStretch(1)
    return page
