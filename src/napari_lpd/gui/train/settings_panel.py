"""Training settings: a preset, the most important settings, and all others under Advanced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_warning
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QLabel, QVBoxLayout, QWidget

from napari_lpd.core.errors import LpdError, one_line
from napari_lpd.core.settings.base import nested, read_settings, write_settings
from napari_lpd.core.settings.presets import ABOUT, PRESETS
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.gui.common.forms import SettingsForm
from napari_lpd.gui.common.layout import advanced, buttons, chooser, in_row, note
from napari_lpd.gui.common.recent_models import keep, kept

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = "train/settings"
FIRST = "fast"  # preset of the first session
MAIN = ("epochs", "max_steps", "model.prototypes_per_class", "mpp", "tile")
OF_TILES = ("mpp", "tile")  # fixed for labelled tiles


class TrainingSettings(QWidget):
    """Panel to choose a preset and change its settings.

    Args:
        on_copy: Copies the whole command to the clipboard.

    Signals:
        message: a line for the status.
        failed: an error message.
    """

    message = Signal(str)
    failed = Signal(str)

    def __init__(self, on_copy: Callable[[], None]) -> None:
        super().__init__()
        self.preset = chooser(list(PRESETS))
        self.about = note(ABOUT["default"])
        self.form = SettingsForm(TrainSettings(), only=MAIN)
        self.more = SettingsForm(TrainSettings(), without=MAIN)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (
            in_row([QLabel("Preset"), self.preset]),
            self.about,
            self.form,
            advanced(self.more),
            buttons(
                ("Load…", "Settings from a JSON file", self._on_load),
                ("Save…", "Settings as a JSON file, also for the command line", self._on_save),
                ("Copy as command", "Copy the command for this training to the clipboard", on_copy),
            ),
        ):
            layout.addWidget(widget)
        self.preset.currentTextChanged.connect(self._on_preset)
        self._restore()

    def store(self) -> None:
        """Store preset and settings for the next session."""
        try:
            settings = self.value().model_dump(mode="json")
        except LpdError:  # a value is out of its limits, which nobody wants back
            return
        keep(KEPT, json.dumps({"preset": self.preset.currentText(), "settings": settings}))

    def _restore(self) -> None:
        """Show what was set in the session before, or the first preset."""
        stored = json.loads(kept(KEPT) or "{}")
        if stored.get("preset") not in PRESETS:
            self.preset.setCurrentText(FIRST)
            return
        self.preset.setCurrentText(stored["preset"])
        try:
            self.show_value(TrainSettings.build(stored["settings"]))
        except LpdError as error:
            show_warning(f"The settings of the last session cannot be shown: {one_line(error)}")

    def value(self, mpp: float | None = None) -> TrainSettings:
        """Return the settings in the forms, with another resolution if one is given.

        Raises:
            SettingsError: a value is out of its limits.
        """
        values = self.form.changes() | self.more.changes() | ({} if mpp is None else {"mpp": mpp})
        return TrainSettings.build(nested(values))

    def show_value(self, settings: TrainSettings) -> None:
        """Show settings in both forms."""
        self.form.set_value(settings)
        self.more.set_value(settings)

    def ask_for_resolution(self, asked: bool) -> None:
        """Show or hide resolution and tile size, which are fixed for labelled tiles."""
        self.form.show_rows(OF_TILES, asked)

    def load(self, path: Path) -> None:
        """Show the settings of a JSON file."""
        try:
            self.show_value(read_settings(TrainSettings, path, []))
        except LpdError as error:
            self.failed.emit(str(error))
            return
        self.message.emit(f"Settings from {path.name}.")

    def save(self, path: Path) -> None:
        """Write the settings as JSON, for ``napari-lpd train --settings``."""
        try:
            write_settings(path, self.value())
        except LpdError as error:
            self.failed.emit(str(error))
            return
        self.message.emit(f"Settings written: {path}")

    def _on_preset(self, name: str) -> None:
        self.about.setText(ABOUT[name])
        self.show_value(TrainSettings.build(PRESETS[name]))

    def _on_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Settings", "", "Settings (*.json)")
        if path:
            self.load(Path(path))

    def _on_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Settings", "train_settings.json", "Settings (*.json)")
        if path:
            self.save(Path(path))
