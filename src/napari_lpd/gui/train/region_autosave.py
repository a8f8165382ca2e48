"""Regions are kept in a file beside their slide, as they are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_lpd import samples
from napari_lpd.core.errors import DataError, LpdError
from napari_lpd.core.files import KEY
from napari_lpd.data.project import regions_beside
from napari_lpd.data.regions import classes_in, write_regions
from napari_lpd.gui.common.layout import note
from napari_lpd.gui.layers.regions import outlines_of
from napari_lpd.gui.layers.slides import slide_layers, slide_path

if TYPE_CHECKING:
    from pathlib import Path

    import napari.viewer
    from napari.layers import Image, Shapes

    from napari_lpd.gui.train.class_table import ClassTable

SAVE_MS = 1500  # after the last change of a region
SAMPLE = "A sample's regions are not kept by themselves: Save as… keeps them."


class RegionFiles(QWidget):
    """Saves every changed regions layer beside its slide, a moment after the change; a line says so.

    Args:
        viewer: The viewer.
        classes: The tissue classes, for the colours in the files.

    Signals:
        failed: a slide's regions cannot be saved; said once until it changes.
    """

    failed = Signal(str)

    def __init__(self, viewer: napari.viewer.Viewer, classes: ClassTable) -> None:
        super().__init__()
        self._viewer, self._classes = viewer, classes
        self._changed: dict[Shapes, Image] = {}
        self._ours: set[Path] = set()  # written here, so that they can be replaced
        self.line: QLabel = note("")
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SAVE_MS)
        self._timer.timeout.connect(self.save)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.line)
        self.setVisible(False)

    def change(self, layer: Shapes) -> None:
        """Note that regions changed; layers that are not ours are left alone."""
        name = layer.metadata.get(KEY, {}).get("slide")
        slide = next((image for image in slide_layers(self._viewer) if image.name == name), None)
        if slide is not None:
            self._changed[layer] = slide
            self._timer.start()

    def save(self) -> None:
        """Save what has changed now; where that cannot be done, say so."""
        self._timer.stop()
        changed, self._changed = self._changed, {}
        for layer, slide in changed.items():
            path = slide_path(slide)
            if path is None or not len(layer.data):
                continue
            if samples.is_sample(path):
                self._say(SAMPLE)
                continue
            try:
                self._say(f"Regions saved: {self.write(layer, slide).name}")
            except LpdError as error:
                line = f"Regions are not saved: {error}. Save as… keeps them elsewhere."
                if self._say(line):
                    self.failed.emit(line)

    def write(self, layer: Shapes, slide: Image) -> Path:
        """Write a layer's regions beside the slide's file; returns where they are.

        Raises:
            DataError: the slide is no file or a sample, or what is there cannot be read and is not to be lost.
            ExportError: the place cannot be written.
        """
        path = slide_path(slide)
        if path is None or samples.is_sample(path):
            raise DataError(f"{slide.name}: regions are kept beside slide files of yours; copy it to a folder of yours")
        beside = regions_beside(path)
        if beside not in self._ours and beside.exists():
            try:
                classes_in(beside)
            except DataError as error:
                raise DataError(f"{error}; it is not replaced: mend it, or move it away") from error
        write_regions(beside, outlines_of(layer, slide), self._classes.drafts())
        self._ours.add(beside)
        return beside

    def _say(self, line: str) -> bool:
        """Show a line; returns whether it is a new one."""
        new = line != self.line.text()
        self.line.setText(line)
        self.setVisible(True)
        return new
