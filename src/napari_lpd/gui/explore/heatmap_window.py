"""Window with every prototype of a class, of both models, on one colour scale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QMouseEvent, QPixmap
from qtpy.QtWidgets import QDialog, QFileDialog, QLabel, QScrollArea, QVBoxLayout, QWidget

from napari_lpd.core.errors import NOTICE
from napari_lpd.gui.common.layout import buttons, chooser, in_row, note

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from napari_lpd.gui.explore.heatmap_grid import HeatmapGrid
    from napari_lpd.results.prediction import Prediction

HIGHEST, RIM, FRAME = 800, 50, 120  # pixels
SCREEN_DPI = 72  # a point is a pixel
PICTURES = "Pictures (*.png *.svg *.pdf)"


class _Picture(QLabel):
    """Label that emits where it was pressed."""

    pressed = Signal(int, int)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        point = event.position().toPoint()
        self.pressed.emit(point.x(), point.y())


class AllHeatmaps(QDialog):
    """Window with all heatmaps of a chosen class; a click on one shows it in the viewer.

    Signals:
        picked: a heatmap was clicked: class and prototype, from 0.

    Args:
        parent: The parent window.
        predictions: (name of the model, prediction) of one area.
        image: Image (H, W, 3) of that area.
        reporting: Context that shows errors raised inside.
    """

    picked = Signal(int, int)

    def __init__(
        self,
        parent: QWidget,
        predictions: Sequence[tuple[str, Prediction]],
        image: NDArray[np.uint8],
        reporting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle("Every prototype")
        self.setModal(False)
        self._predictions, self._image, self._reporting = predictions, image, reporting
        self.tissue = chooser([tissue.name for tissue in predictions[0][1].card.classes])
        self.picture = _Picture()
        self.picture.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        area = QScrollArea()
        area.setWidget(self.picture)
        area.setWidgetResizable(True)
        area.setStyleSheet("background: white;")
        save = buttons(("Save…", "Save this figure as PNG, SVG or PDF", self._on_save))
        layout = QVBoxLayout(self)
        top = in_row([self.tissue, save])
        top.layout().setStretch(0, 1)
        for widget in (top, area, note("Click a heatmap to see it on the slide. Grey: not computed. " + NOTICE)):
            layout.addWidget(widget)
        self.tissue.currentIndexChanged.connect(self._draw)
        self.picture.pressed.connect(self._on_pressed)
        self._draw()
        space, shown = self.screen().availableGeometry(), self.picture.pixmap()
        wide, high = shown.width() + RIM, shown.height() + FRAME
        self.resize(min(wide, space.width() - RIM), min(high, HIGHEST, space.height() - RIM))

    def _make_grid(self) -> HeatmapGrid:
        from napari_lpd.gui.explore.heatmap_grid import heatmap_grid, seen_by

        index = self.tissue.currentIndex()
        views = [seen_by(name, prediction, index) for name, prediction in self._predictions]
        first = self._predictions[0][1]
        _, x0, _, x1 = first.scope_box()
        return heatmap_grid(self._image, (x1 - x0) * first.card.mpp, views, index, first.card.classes)

    def _draw(self) -> None:
        self.grid = self._make_grid()
        self.picture.setPixmap(pixmap_of(self.grid.figure, SCREEN_DPI))

    def _on_pressed(self, x: int, y: int) -> None:
        cell = self.grid.at(x, y)
        if cell:
            self.picked.emit(self.tissue.currentIndex(), cell.prototype)

    def _on_save(self) -> None:
        from napari_lpd.core.pictures.figure import write_figure

        path = chosen_picture(self, f"{self.tissue.currentText()} prototypes")
        if path:
            with self._reporting():
                write_figure(self.grid.figure, path)


def chosen_picture(parent: QWidget, name: str) -> Path | None:
    """Ask for a figure's path; add ``.png`` to a name without a suffix."""
    chosen, _ = QFileDialog.getSaveFileName(parent, name, f"{name}.png", PICTURES)
    path = Path(chosen)
    return (path if path.suffix else path.with_suffix(".png")) if chosen else None


def pixmap_of(figure: Figure, dpi: float) -> QPixmap:
    """Render a figure as a Qt pixmap."""
    from napari_lpd.core.pictures.figure import encoded

    pixmap = QPixmap()
    pixmap.loadFromData(encoded(figure, ".png", dpi))
    return pixmap
