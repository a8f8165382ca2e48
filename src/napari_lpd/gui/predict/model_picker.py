"""Choice of the model: recent models, their cards, and whether they fit the slide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_lpd.core.errors import LpdError, ModelError, one_line
from napari_lpd.gui.common.layout import buttons, chooser, folded, in_row, note, warning_note
from napari_lpd.gui.common.recent_models import describe, recent_models
from napari_lpd.gui.layers.slides import UM
from napari_lpd.models.card import read_card
from napari_lpd.samples import model_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Image

    from napari_lpd.models.card import Card

COARSER = 1.25  # times the model's µm per pixel; a coarser slide lacks detail that the model was trained on


class ModelPicker(QWidget):
    """List of models, with the card of the chosen one and a warning about the slide's resolution.

    Args:
        slide_layer: Returns the chosen slide's layer, or None.

    Signals:
        failed: an error message.
    """

    failed = Signal(str)

    def __init__(self, slide_layer: Callable[[], Image | None]) -> None:
        super().__init__()
        self._slide_layer = slide_layer
        self.combo = chooser()
        self.card = note("")
        self.reading = warning_note()
        self.details = note("", rich=True)
        self.details.setTextFormat(Qt.TextFormat.RichText)
        self._more = folded("Model card", self.details)
        row = in_row([self.combo, buttons(("Browse…", "Open a model file (.safetensors)", self._on_browse))])
        row.layout().setStretch(0, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (row, self.card, self.reading, self._more):
            layout.addWidget(widget)
        self.combo.currentIndexChanged.connect(self.refresh)
        recent_models.changed.connect(self._fill)
        self._fill()

    def path(self) -> Path:
        """Return the chosen model's file.

        Raises:
            ModelError: there is no model.
        """
        if self.combo.currentIndex() < 0:
            raise ModelError("no model yet: train one, or press Browse…")
        return Path(self.combo.currentData())

    def use(self, path: Path) -> None:
        """Choose a model file and add it to the recent models.

        Raises:
            ModelError: the file is not one of our models.
        """
        read_card(path)
        recent_models.add(path)

    def choose(self, path: Path) -> None:
        """Choose a model file as it stands in the list; one that is not listed is added.

        Raises:
            ModelError: the file is not one of our models.
        """
        listed = [Path(self.combo.itemData(i)).resolve() for i in range(self.combo.count())]
        if path.resolve() in listed:
            self.combo.setCurrentIndex(listed.index(path.resolve()))
        else:
            self.use(path)

    def refresh(self) -> None:
        """Show the chosen model's card, and a warning if it does not fit the slide."""
        try:
            card = read_card(self.path())
        except LpdError as error:
            self.card.setText(one_line(error))
            self._more.setVisible(False)
            self.reading.setVisible(False)
            return
        names = ", ".join(tissue.name for tissue in card.classes)
        recall = card.metrics.get("mean recall")
        checked = "" if recall is None else f" · mean recall {recall:.2f} on check regions"
        self.card.setText(f"{names}\n{card.settings.mpp:g} µm per pixel · {card.tiles} tiles{checked}")
        self.details.setText(describe(card))
        self._more.setVisible(True)
        layer = self._slide_layer()
        line = "" if layer is None else reading_line(card, layer)
        self.reading.setText(line)
        self.reading.setVisible(bool(line))

    def _fill(self, chosen: str = "") -> None:
        self.combo.blockSignals(True)
        self.combo.clear()
        for path in recent_models.paths():
            sample = path == model_path()
            self.combo.addItem("sample model (skin)" if sample else f"{path.parent.name}/{path.name}", str(path))
            self.combo.setItemData(self.combo.count() - 1, str(path), Qt.ItemDataRole.ToolTipRole)
        self.combo.setCurrentIndex(max(0, self.combo.findData(chosen)))
        self.combo.blockSignals(False)
        self.refresh()

    def _on_browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Model", "", "Models (*.safetensors)")
        if path:
            try:
                self.use(Path(path))
            except LpdError as error:
                self.failed.emit(str(error))


def reading_line(card: Card, layer: Image) -> str:
    """Return a warning if the slide's resolution is missing or not the model's, else ""."""
    model_mpp, slide_mpp = card.settings.mpp, float(max(layer.scale[-2:]))
    if any(str(unit) != UM for unit in layer.units):
        return "⚠ This slide has no resolution yet: enter its µm per pixel above."
    if slide_mpp > COARSER * model_mpp:
        return (
            f"⚠ The slide has {slide_mpp:.4g} µm per pixel and is enlarged to the model's {model_mpp:g}: it"
            " lacks detail that the model was trained on, so expect a worse mask."
        )
    if slide_mpp < model_mpp / COARSER:
        return f"The slide's {slide_mpp:.4g} µm per pixel are resampled to the model's {model_mpp:g}."
    return ""
