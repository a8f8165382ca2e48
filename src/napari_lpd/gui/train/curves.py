"""Live curves of a training: losses per step; validation and prototypes per class and epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyqtgraph as pg
from qtpy.QtCore import QEvent, QTimer
from qtpy.QtGui import QPalette, QShowEvent
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_lpd.gui.common.layout import chooser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.core.classes import TissueClass

LOSSES = {"loss": "", "classification": "#42d4f4", "contrast": "#bfef45", "diversity": "#ff8c1a", "pixels": "#f032e6"}
OVERALL = ""  # the colour of texts in napari's theme
REDRAW_MS = 200
PAGES = {
    "losses": "",
    "validation": "valid ",
    "effective number of prototypes": "effective prototypes ",
    "diversity of the prototypes' maps": "diversity ",
}
"""Page → prefix of the names of its metrics."""
HELP = {
    "losses": "The weighted loss, which is minimised, and its terms without weights.",
    "validation": "On held-out data: IoU per class where there are masks, else how often the presence of a class is"
    " predicted correctly. 1 is perfect.",
    "effective number of prototypes": "Number of different directions among a class's prototypes: 1 means that all"
    " have collapsed into one.",
    "diversity of the prototypes' maps": "Jensen-Shannon divergence of a class's prototype maps on tiles with the"
    " class: 0 same locations, 1 disjoint locations.",
}
Points = tuple[list[int], list[float]]


class Curves(QWidget):
    """Curves of one training, one page at a time, drawn at most five times a second."""

    def __init__(self) -> None:
        super().__init__()
        self.page = chooser(list(PAGES))
        self._points: dict[str, Points] = {}
        self._colors: dict[str, str] = {}
        self._drawn: dict[str, pg.PlotDataItem] = {}
        self._legend = QLabel()
        self._legend.setWordWrap(True)
        self._plot = pg.PlotWidget(background=None)
        self._plot.setMouseEnabled(False, False)
        self._plot.hideButtons()
        self._plot.setMenuEnabled(False)
        self._plot.showGrid(y=True, alpha=0.2)
        self._plot.setLabel("bottom", "step")
        self._plot.setFixedHeight(190)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(REDRAW_MS)
        self._timer.timeout.connect(self._draw)
        self.page.currentTextChanged.connect(self._on_page)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for widget in (self.page, self._legend, self._plot):
            layout.addWidget(widget)
        self._on_page(self.page.currentText())

    def start(self, classes: Sequence[TissueClass], history: Sequence[dict[str, float]] = ()) -> None:
        """Clear the curves and draw earlier steps, if any: ``step`` and the metrics of each."""
        self._points = {}
        self._colors = dict(LOSSES)
        for tissue in classes:
            self._colors[tissue.name] = tissue.color
        for row in history:
            self.add(int(row["step"]), row)

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Add the metrics of a step."""
        for name, value in metrics.items():
            steps, values = self._points.setdefault(name, ([], []))
            if not steps or step > steps[-1]:
                steps.append(step)
                values.append(value)
        if not self._timer.isActive():
            self._timer.start()

    def points(self, name: str) -> Points:
        """Return the steps and values of a metric so far."""
        return self._points.get(name, ([], []))

    def changeEvent(self, event: QEvent) -> None:
        """Draw axes and curves anew in another theme's colours."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and self.isVisible():
            self._on_page(self.page.currentText())

    def showEvent(self, event: QShowEvent) -> None:
        """Take the colours of the theme, which are known once the widget is shown."""
        super().showEvent(event)
        self._on_page(self.page.currentText())

    def _text_color(self) -> str:
        return str(self._legend.palette().color(QPalette.ColorRole.WindowText).name())

    def _shown(self) -> dict[str, tuple[str, Points]]:
        """Return title → (colour, points) of the curves of the current page."""
        prefix = PAGES[self.page.currentText()]
        if not prefix:
            return {name: (color, self._points[name]) for name, color in LOSSES.items() if name in self._points}
        curves = {}
        for name, points in self._points.items():
            title = name.removeprefix(prefix)
            tissue = title.removeprefix("IoU ").removeprefix("right about ")
            if name.startswith(prefix) and (tissue in self._colors or title == "mIoU"):
                curves[title] = (self._colors.get(tissue, OVERALL), points)
        return curves

    def _on_page(self, name: str) -> None:
        self.page.setToolTip(HELP[name])
        for line in self._drawn.values():
            self._plot.removeItem(line)
        self._drawn = {}
        for side in ("bottom", "left"):
            axis = self._plot.getAxis(side)
            axis.setTextPen(self._text_color())
            axis.setPen(self._text_color())
        self._draw()

    def _draw(self) -> None:
        shown = self._shown()
        for name, (color, (steps, values)) in shown.items():
            if name not in self._drawn:
                color = color or self._text_color()
                symbol = (
                    {"symbol": "o", "symbolSize": 5, "symbolBrush": color} if PAGES[self.page.currentText()] else {}
                )
                self._drawn[name] = self._plot.plot(pen=pg.mkPen(color, width=2), **symbol)
            self._drawn[name].setData(steps, values)
        for name in [name for name in self._drawn if name not in shown]:
            self._plot.removeItem(self._drawn.pop(name))
        empty = "no held-out data to validate on" if "valid" in self.page.currentText() else "no values yet"
        marks = (
            f'<span style="color:{color or self._text_color()}">●</span> {name}' for name, (color, _) in shown.items()
        )
        self._legend.setText(" ".join(marks) or empty)
