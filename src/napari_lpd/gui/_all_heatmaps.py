"""A window with every prototype of a class, of both models, on one colour scale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QImage, QMouseEvent, QPixmap
from qtpy.QtWidgets import QDialog, QFileDialog, QLabel, QScrollArea, QVBoxLayout, QWidget

from napari_lpd.files import written_whole
from napari_lpd.gui._layout import buttons, chooser, in_row, note
from napari_lpd.heatmap_grid import HeatmapGrid, heatmap_grid, seen_by

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from PIL.Image import Image

    from napari_lpd.prediction import Prediction

HIGHEST, RIM, FRAME = 800, 50, 120  # pixels
PRINT_SCALE = 2


class _Picture(QLabel):
    """A picture that says where it was pressed."""

    pressed = Signal(int, int)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        place = event.position().toPoint()
        self.pressed.emit(place.x(), place.y())


class AllHeatmaps(QDialog):
    """Choose a class; a click on a heatmap shows it in the viewer.

    Signals:
        picked: a heatmap was clicked: class and prototype, from 0.

    Args:
        parent: The window that it belongs to.
        predictions: (name of the model, prediction) of one place.
        image: (H, W, 3) of that place.
        reporting: Shows errors that are raised inside.
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
        save = buttons(("Save…", "This picture as PNG or PDF, in twice as many pixels", self._on_save))
        layout = QVBoxLayout(self)
        top = in_row([self.tissue, save])
        top.layout().setStretch(0, 1)
        for part in (top, area, note("Click a heatmap to see it on the slide. Grey: not computed. Research use only.")):
            layout.addWidget(part)
        self.tissue.currentIndexChanged.connect(self._draw)
        self.picture.pressed.connect(self._on_pressed)
        self.grid = self._made()
        self._draw()
        space = self.screen().availableGeometry()
        wide, high = self.grid.picture.width + RIM, self.grid.picture.height + FRAME
        self.resize(min(wide, space.width() - RIM), min(high, HIGHEST, space.height() - RIM))

    def save(self, path: Path) -> None:
        """Write the picture (``.png`` or ``.pdf``).

        Raises:
            ExportError: the place cannot be written.
        """
        with written_whole(path, overwrite=True) as partial:
            kind = "PDF" if path.suffix.lower() == ".pdf" else "PNG"
            self._made(PRINT_SCALE).picture.save(partial, kind)

    def _made(self, scale: int = 1) -> HeatmapGrid:
        index = self.tissue.currentIndex()
        seen = [seen_by(name, prediction, index) for name, prediction in self._predictions]
        first = self._predictions[0][1]
        _, x0, _, x1 = first.bounds()
        return heatmap_grid(self._image, (x1 - x0) * first.card.mpp, seen, index, first.card.classes, scale)

    def _draw(self) -> None:
        self.grid = self._made()
        self.picture.setPixmap(pixmap_of(self.grid.picture))

    def _on_pressed(self, x: int, y: int) -> None:
        slot = self.grid.at(x, y)
        if slot:
            self.picked.emit(self.tissue.currentIndex(), slot.prototype)

    def _on_save(self) -> None:
        name = f"{self.tissue.currentText()} prototypes.png"
        path, _ = QFileDialog.getSaveFileName(self, "Every prototype", name, "Pictures (*.png *.pdf)")
        if path:
            with self._reporting():
                self.save(Path(path))


def pixmap_of(picture: Image) -> QPixmap:
    """A picture for Qt."""
    rgb = np.ascontiguousarray(picture.convert("RGB"))
    height, width = rgb.shape[:2]
    return QPixmap.fromImage(QImage(rgb.data, width, height, 3 * width, QImage.Format.Format_RGB888).copy())
