"""The table of areas: mm² and share of the tissue, per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QHeaderView, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget

from napari_lpd.gui._classes import swatch
from napari_lpd.gui._layout import note

if TYPE_CHECKING:
    from napari_lpd.prediction import Prediction

AREA_HELP = "Area of the pixels labelled with this tissue, from the resolution of the slide"
SHARE_HELP = "Share of the area that was looked at (tissue inside the predicted part); the rest is unlabelled"


class AreaTable(QWidget):
    """Areas of one prediction, and a line that says of what they are shares."""

    def __init__(self) -> None:
        super().__init__()
        self.table = QTableWidget(0, 3)
        self.total = note("")

        self.table.setHorizontalHeaderLabels(["tissue", "mm²", "%"])
        for column, text in ((1, AREA_HELP), (2, SHARE_HELP)):
            self.table.horizontalHeaderItem(column).setToolTip(text)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.table.verticalHeader().setVisible(False)
        self.table.verticalHeader().setDefaultSectionSize(24)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table)
        layout.addWidget(self.total)

    def show_prediction(self, prediction: Prediction | None) -> None:
        """Show the areas of a finished prediction; of another, what is missing."""
        areas = {} if prediction is None else prediction.area_mm2()
        self.table.setRowCount(len(areas))
        if prediction is not None and areas:
            self._fill(prediction, areas)
        self.table.setVisible(bool(areas))
        rows = sum(self.table.rowHeight(row) for row in range(len(areas)))
        self.table.setFixedHeight(self.table.horizontalHeader().sizeHint().height() + rows + 6)
        if prediction is None:
            self.total.setText("Nothing predicted yet.")
        elif not areas:
            self.total.setText("Half done: areas follow at the end.")
        else:
            self.total.setText(f"of {prediction.tissue_mm2:.3f} mm² tissue in what was predicted")

    def _fill(self, prediction: Prediction, areas: dict[str, float]) -> None:
        for row, tissue in enumerate(prediction.card.classes):
            area = areas[tissue.name]
            share = 100 * area / prediction.tissue_mm2 if prediction.tissue_mm2 else 0.0
            for column, text in enumerate((tissue.name, f"{area:.3f}", f"{share:.1f}")):
                self.table.setItem(row, column, QTableWidgetItem(text))
            self.table.item(row, 0).setIcon(swatch(tissue.color))
