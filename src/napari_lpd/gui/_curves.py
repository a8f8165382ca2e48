"""Live curves of the losses while a model is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyqtgraph as pg
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOWN = {"loss": "#c8c8c8", "classification": "#42d4f4", "diversity": "#ff8c1a"}


class LossCurves(QWidget):
    """One curve per loss over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self._points: dict[str, tuple[list[int], list[float]]] = {}
        self._plot = pg.PlotWidget(background=None)
        self._plot.setMouseEnabled(False, False)
        self._plot.hideButtons()
        self._plot.setMenuEnabled(False)
        self._plot.showGrid(y=True, alpha=0.2)
        self._plot.setLabel("bottom", "step")
        self._lines = {name: self._plot.plot(pen=pg.mkPen(color, width=2)) for name, color in SHOWN.items()}
        legend = QLabel(" ".join(f'<span style="color:{color}">● {name}</span>' for name, color in SHOWN.items()))
        self.setFixedHeight(190)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(legend)
        layout.addWidget(self._plot)

    def clear(self) -> None:
        """Start anew."""
        self._points = {name: ([], []) for name in SHOWN}
        self._draw()

    def show_steps(self, rows: Sequence[dict[str, float]]) -> None:
        """Draw steps that were taken before: ``step`` and the losses of each."""
        self.clear()
        for row in rows:
            self._take(int(row["step"]), row)
        self._draw()

    def add(self, step: int, metrics: dict[str, float]) -> None:
        """Add the losses of a step."""
        self._take(step, metrics)
        self._draw()

    def _take(self, step: int, metrics: dict[str, float]) -> None:
        for name, (steps, values) in self._points.items():
            if name in metrics:
                steps.append(step)
                values.append(metrics[name])

    def _draw(self) -> None:
        for name, (steps, values) in self._points.items():
            self._lines[name].setData(steps, values)
