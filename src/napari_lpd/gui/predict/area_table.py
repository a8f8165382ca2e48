"""Legend and areas of a mask: mm², share, expected area and opacity per class; ratios."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QHeaderView,
    QLineEdit,
    QSlider,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_lpd.core.classes import UNLABELLED, UNREADABLE_NAME, UNSURE_CLASS
from napari_lpd.core.errors import LpdError
from napari_lpd.core.settings.results import MeasureSettings
from napari_lpd.core.text import area_text
from napari_lpd.gui.common.layout import chooser, note, swatch, tip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qtpy.QtGui import QIcon

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.results.measures.areas import MeasureRow
    from napari_lpd.results.prediction import Prediction

COLUMNS = {
    "tissue": "Tick to show the class in the mask; click its name to change its opacity with the slider",
    "mm²": "Area of the pixels labelled with this tissue, including corrections",
    "%": "Share of the tissue inside the predicted area",
    "expected mm²": "Area by probability: sum of the class's probability over all pixels; 95 % interval in the tooltip",
}
WHY_UNSURE = (
    "Tissue without an answer: every class is absent there, or the model is less sure of the most likely one than the"
    " slider above asks for. Move it to the left to label more"
)
EXPECTED = list(COLUMNS).index("expected mm²")
NOT_MEASURED = "press Measure for expected areas"
ROLES = {
    "none": "",
    "tumour": "tumour",
    "stroma": "stroma",
    "lymphocyte-rich stroma": "lymphocyte_rich_stroma",
}


class AreaTable(QWidget):
    """Legend and areas of one prediction.

    Signals:
        chosen: a row was clicked, again or for the first time, or the keyboard moved to it: class, from 1.
        painted: opacity 0..1 per class name; emitted after a tick or a move of the slider.
    """

    chosen = Signal(int)
    painted = Signal(dict)

    def __init__(self) -> None:
        super().__init__()
        self.table = QTableWidget(0, len(COLUMNS))
        self.opacity = QSlider(Qt.Orientation.Horizontal)
        self.total = note("")
        self.ratios = note("")
        self._strength: dict[str, int] = {}
        self.opacity.setRange(0, 100)
        self.opacity.setToolTip("Opacity of the class that is selected in the table")
        self.opacity.setVisible(False)
        self.table.setHorizontalHeaderLabels(list(COLUMNS))
        for column, text in enumerate(COLUMNS.values()):
            self.table.horizontalHeaderItem(column).setToolTip(text)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self.table.verticalHeader().setVisible(False)
        self.table.verticalHeader().setDefaultSectionSize(24)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QTableWidget.SelectionMode.SingleSelection)
        self.table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        self.table.itemChanged.connect(self._paint)
        self.table.itemSelectionChanged.connect(self._on_selected)
        self.table.cellClicked.connect(lambda row, _: self._choose_row(row))
        self.table.currentCellChanged.connect(lambda row, *_: self._choose_row(row))
        self.opacity.valueChanged.connect(self._on_opacity)
        self.ratios.setVisible(False)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.table, self.opacity, self.total, self.ratios):
            layout.addWidget(widget)

    def show_prediction(self, prediction: Prediction | None, is_corrected: bool = False) -> None:
        """Show the legend and the model's areas; those of an unfinished or a corrected prediction are missing."""
        areas = {} if prediction is None or is_corrected else prediction.area_mm2()
        classes = () if prediction is None else prediction.card.classes
        self.table.blockSignals(True)
        self.table.setRowCount(len(classes) + bool(classes))
        for row, tissue in enumerate(classes):
            name = QTableWidgetItem(swatch(tissue.color), tissue.name)
            name.setCheckState(Qt.CheckState.Checked)
            name.setToolTip(tip(f"{tissue.name}: {COLUMNS['tissue'].lower()}"))
            self.table.setItem(row, 0, name)
        if classes:
            self.table.setItem(len(classes), 0, _bare_item(UNSURE_CLASS.name, swatch(UNSURE_CLASS.color)))
        for row in range(self.table.rowCount()):
            for column in range(1, len(COLUMNS)):
                self.table.setItem(row, column, _bare_item("") if row == len(classes) else QTableWidgetItem(""))
        if areas and prediction is not None:
            for row, area in enumerate([*areas.values(), prediction.unsure_mm2]):
                self._write(row, area, 100 * area / prediction.tissue_mm2 if prediction.tissue_mm2 else 0.0)
        self.table.setColumnHidden(EXPECTED, True)  # until it is measured; leaves room for names
        self.table.blockSignals(False)
        self._strength = {tissue.name: 100 for tissue in classes}
        self.opacity.setVisible(False)
        self.ratios.setVisible(False)
        self.table.setVisible(bool(classes))
        rows = sum(self.table.rowHeight(row) for row in range(self.table.rowCount()))
        self.table.setFixedHeight(self.table.horizontalHeader().sizeHint().height() + rows + 6)
        if prediction is None:
            self.total.setText("Nothing predicted yet.")
        elif prediction.finished and is_corrected:
            self.total.setText("Measuring with your corrections…")
        elif not areas:
            self.total.setText("Unfinished: areas are shown at the end.")
        else:
            total = f"of {area_text(prediction.tissue_mm2)} mm² tissue in the predicted area"
            self.total.setText(f"{total}; {NOT_MEASURED}")

    def _choose_row(self, row: int) -> None:
        if row in range(len(self._strength)):  # not the one of what is unsure
            self.chosen.emit(row + 1)

    def choose(self, label: int) -> None:
        """Select the row of a class, from 1; for 0, none."""
        self.table.blockSignals(True)
        self.table.clearSelection()
        self.table.setCurrentCell(label - 1, 0)
        self.table.blockSignals(False)
        self._on_selected()

    def show_measures(self, rows: Sequence[MeasureRow]) -> None:
        """Show measured areas, including corrections, and ratios below the table."""
        index = {self.table.item(row, 0).text(): row for row in range(self.table.rowCount())}
        whole = rows[0].region if rows else ""
        self.table.blockSignals(True)
        for row in rows:
            if row.region == whole and row.what in index:
                self._write(index[row.what], row.area_mm2, row.percent or 0.0)
                if row.expected_mm2 is not None:
                    self.table.setColumnHidden(EXPECTED, False)
                    item = self.table.item(index[row.what], EXPECTED)
                    item.setText(area_text(row.expected_mm2))
                    low, high = row.expected_low_mm2 or 0.0, row.expected_high_mm2 or 0.0
                    corrected = f"{area_text(row.corrected_mm2 or 0.0)} mm² corrected"
                    item.setToolTip(f"95 % interval {area_text(low)} to {area_text(high)} mm²; {corrected}")
        self.table.blockSignals(False)
        tissue = next((row for row in rows if row.region == whole and row.what == "tissue"), None)
        if tissue is not None:
            self.total.setText(f"of {area_text(tissue.area_mm2)} mm² tissue in the predicted area")
        lines = []
        for row in rows:
            if row.what == UNLABELLED and (row.region != whole or not row.area_mm2):
                continue
            if row.what == UNREADABLE_NAME:
                lines += [f"{row.region}: unreadable {area_text(row.area_mm2)} mm²"] if row.area_mm2 else []
            elif row.what not in index and row.what != "tissue":
                share = "not defined" if row.percent is None else f"{row.percent:.1f} % of {row.percent_of}"
                reported = "" if row.percent_reported is None else f", reported as {row.percent_reported} %"
                lines.append(f"{row.region}: {row.what} {share}{reported}")
            elif row.region != whole and row.what in index:
                share = "" if row.percent is None else f", {row.percent:.1f} % of tissue"
                lines.append(f"{row.region}: {row.what} {area_text(row.area_mm2)} mm²{share}")
        self.ratios.setText("\n".join(lines))
        self.ratios.setVisible(bool(lines))

    def _write(self, row: int, area: float, share: float) -> None:
        self.table.item(row, 1).setText(area_text(area))
        self.table.item(row, 2).setText(f"{share:.1f}")

    def _on_selected(self) -> None:
        chosen = self.table.currentRow()
        self.opacity.setVisible(is_class := chosen in range(len(self._strength)))
        if is_class:
            self.opacity.blockSignals(True)
            self.opacity.setValue(self._strength[self.table.item(chosen, 0).text()])
            self.opacity.blockSignals(False)

    def _on_opacity(self, value: int) -> None:
        self._strength[self.table.item(self.table.currentRow(), 0).text()] = value
        self._paint()

    def _paint(self) -> None:
        items = (self.table.item(row, 0) for row in range(len(self._strength)))
        ticked = {item.text(): item.checkState() == Qt.CheckState.Checked for item in items}
        self.painted.emit({name: self._strength[name] / 100 * on for name, on in ticked.items()})


def _bare_item(text: str, icon: QIcon | None = None) -> QTableWidgetItem:
    """Make a cell of the row of unsure tissue, which can be neither ticked nor selected."""
    item = QTableWidgetItem(text) if icon is None else QTableWidgetItem(icon, text)
    item.setFlags(Qt.ItemFlag.ItemIsEnabled)
    item.setToolTip(tip(WHY_UNSURE))
    return item


class RolesDialog(QDialog):
    """Dialog that asks which class is tumour, stroma, lymphocyte-rich stroma, and for bands along the tumour's border.

    Args:
        parent: The parent widget.
        classes: The classes.
        settings: How they are measured at present.

    Attributes:
        settings: How they are to be measured; of an accepted dialog.
        bands: The distances of the bands, as text.
    """

    def __init__(self, parent: QWidget, classes: Sequence[TissueClass], settings: MeasureSettings) -> None:
        super().__init__(parent)
        self.setWindowTitle("Tumour and stroma")
        self.settings, self.choices = settings, {}
        self.bands, self._wrong = QLineEdit(", ".join(f"{um:g}" for um in settings.margin.bands_um)), note("")
        layout = QFormLayout(self)
        layout.addRow(note("Choose which classes are tumour and stroma, for ratios; nothing is guessed from names."))
        for tissue in classes:
            choice = self.choices[tissue.name] = chooser(list(ROLES))
            role = next(
                (label for label, key in ROLES.items() if key and tissue.name in getattr(settings.roles, key)), "none"
            )
            choice.setCurrentText(role)
            layout.addRow(tissue.name, choice)
        self.bands.setPlaceholderText("none; 100, 500")
        self.bands.setToolTip("Distances between which bands inside and outside of the tumour's border are measured")
        layout.addRow("bands, µm", self.bands)
        layout.addRow(self._wrong)
        self._wrong.setVisible(False)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        layout.addRow(buttons)

    def accept(self) -> None:
        """Take over what was chosen; while it cannot be measured so, stay open and say why."""
        classes: dict[str, list[str]] = {}
        for name, choice in self.choices.items():
            if role := ROLES[choice.currentText()]:
                classes.setdefault(role, []).append(name)
        try:
            bands_um = [float(text) for text in self.bands.text().split(",") if text.strip()]
            margin = self.settings.margin.model_dump() | {"bands_um": bands_um}
            chosen = MeasureSettings.build(self.settings.model_dump() | {"roles": classes, "margin": margin})
            if bands_um:
                chosen.margin.check(chosen.margin.of or chosen.roles.tumour, list(self.choices), "bands")
        except ValueError:
            self._say(f"⚠ {self.bands.text()!r}: bands are numbers of µm, separated by commas")
        except LpdError as error:
            self._say(f"⚠ {error}")
        else:
            self.settings = chosen
            super().accept()

    def _say(self, text: str) -> None:
        self._wrong.setText(text)
        self._wrong.setVisible(True)
