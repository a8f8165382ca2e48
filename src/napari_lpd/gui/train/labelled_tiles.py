"""Form for labelled tiles as training data: path, resolution, and the slide in their names."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QFormLayout, QLineEdit, QVBoxLayout, QWidget

from napari_lpd.core.errors import DataError
from napari_lpd.data.training_set import TrainingSource
from napari_lpd.gui.common.layout import buttons, in_row, note
from napari_lpd.gui.layers.slides import entered_mpp

FORMS = (
    "A folder of NAME[1010].png (BCSS-WSSS, LUAD-HistoSeg: a digit per class, in the classes' order) or of"
    " CLASS/NAME.png, or a table (CSV, TSV) with a column path and one of 0 and 1 per class."
)
PATTERN_HELP = (
    "A regular expression whose first group, in a tile's name, is its slide or patient; empty: the name before + or [,"
    " or the table's column source. Tiles of one slide are never split between training and validation."
)


class LabelledTiles(QWidget):
    """Form to choose a folder or table of tiles and enter what the files do not contain."""

    def __init__(self) -> None:
        super().__init__()
        self.folder, self.resolution, self.pattern = QLineEdit(), QLineEdit(), QLineEdit()
        self.folder.setPlaceholderText("folder or table")
        self.resolution.setPlaceholderText("required; the files do not contain it")
        self.pattern.setPlaceholderText("optional: a regular expression")
        self.pattern.setToolTip(PATTERN_HELP)
        browse = ("Folder…", "Choose the folder of tiles", self._on_folder)
        table = ("Table…", "Choose a CSV or TSV table of tiles", self._on_table)
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("µm per pixel", self.resolution)
        form.addRow("slide in names", self.pattern)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(in_row([self.folder, buttons(browse, table)]))
        layout.addWidget(note(FORMS))
        layout.addLayout(form)

    def name(self) -> str:
        """Return a short name for models trained on these tiles."""
        return Path(self.folder.text()).expanduser().stem or "tiles"

    def mpp(self) -> float:
        """Return the resolution of the tiles in µm per pixel.

        Raises:
            DataError: the resolution is missing or not plausible.
        """
        return entered_mpp(self.resolution.text(), "the tiles'")

    def training_source(self) -> TrainingSource:
        """Check the form and return the training source.

        Raises:
            DataError: no folder or table is chosen, or it does not exist.
        """
        if not self.folder.text().strip():
            raise DataError("no labelled tiles: choose a folder or a table")
        data = Path(self.folder.text()).expanduser()
        if not data.exists():
            raise DataError(f"{data}: no such folder or table")
        self.mpp()
        pattern = self.pattern.text().strip()
        return TrainingSource(data=data, source_pattern=pattern)

    def _on_folder(self) -> None:
        self.folder.setText(QFileDialog.getExistingDirectory(self, "Folder of tiles") or self.folder.text())

    def _on_table(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Table of tiles", "", "Tables (*.csv *.tsv)")
        self.folder.setText(path or self.folder.text())
