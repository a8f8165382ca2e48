"""Automatic saving of regions in a file beside their slide."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_lpd import samples
from napari_lpd.core.errors import DataError, ExportError, LpdError
from napari_lpd.data.geojson import Frame, read_features
from napari_lpd.data.project import regions_beside
from napari_lpd.data.regions import write_regions
from napari_lpd.gui.common.layout import note
from napari_lpd.gui.layers.regions import outlines_of, regions_layers
from napari_lpd.gui.layers.slides import belongs, kind, slide_layers, slide_of, slide_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import napari.viewer
    from napari.layers import Image, Shapes

    from napari_lpd.gui.train.class_table import ClassTable

SAVE_MS = 1500  # after the last change of a region
SAMPLE = "Regions of a sample are not saved automatically: use Save as…."


class RegionFiles(QWidget):
    """Status line that saves every changed regions layer beside its slide, shortly after the change.

    Args:
        viewer: The viewer.
        classes: The tissue classes, for the colours in the files.

    Signals:
        failed: a slide's regions cannot be saved; emitted once until the message changes.
    """

    failed = Signal(str)

    def __init__(self, viewer: napari.viewer.Viewer, classes: ClassTable) -> None:
        super().__init__()
        self._viewer, self._classes = viewer, classes
        self._changed: dict[Shapes, Image] = {}
        self._slides: WeakKeyDictionary[Shapes, Image] = WeakKeyDictionary()  # of each layer, also when it is closed
        self._ours: dict[Path, int] = {}  # files that we wrote, which may be replaced, with the number of regions
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
        """Schedule saving of a changed regions layer; layers that are not ours are ignored."""
        if kind(layer) != "regions":
            return
        slide = next((image for image in slide_layers(self._viewer) if belongs(layer, image)), self._slides.get(layer))
        if slide is None:
            self._say(f"⚠ {layer.name} is not saved: its slide is not open. Use Save as… to save it elsewhere.")
            return
        self._changed[layer] = self._slides[layer] = slide
        self._timer.start()

    def save(self) -> None:
        """Save all changed layers now; show an error where that fails."""
        self._timer.stop()
        changed, self._changed = self._changed, {}
        for slide in dict.fromkeys(changed.values()):
            layers = [layer for layer, own in changed.items() if own is slide]
            layers += [each for each in regions_layers(self._viewer, slide) if kind(each) == "regions"]
            path = slide_path(slide)
            if path is None or not any(len(layer.data) for layer in layers):
                continue
            if samples.is_sample(path):
                self._say(SAMPLE)
                continue
            try:
                self._say(f"Regions saved: {self.write(list(dict.fromkeys(layers)), slide).name}")
            except LpdError as error:
                line = f"Regions are not saved: {error}. Use Save as… to save them elsewhere."
                if self._say(line):
                    self.failed.emit(line)

    def write(self, layers: Sequence[Shapes], slide: Image) -> Path:
        """Write the regions of layers, equal ones once, beside the slide's file and return their path.

        Raises:
            DataError: the slide has no file or is a sample, or the existing regions cannot be read and are kept.
            ExportError: the file cannot be written.
        """
        path = slide_path(slide)
        if path is None or samples.is_sample(path):
            raise DataError(f"{slide.name}: regions are saved beside your own slides; copy it to your own folder")
        beside = regions_beside(path)
        if beside not in self._ours and beside.exists():
            with slide_of(slide) as opened:
                _check_kept(beside, Frame.of(opened))
            _keep_before(beside)  # of the session before
        regions = {region.key: region for layer in layers for region in outlines_of(layer, slide)}
        if 2 * len(regions) < self._ours.get(beside, 0) and beside.exists():
            _keep_before(beside)  # most were deleted
        with slide_of(slide) as opened:
            write_regions(beside, regions.values(), self._classes.drafts(), frame=Frame.of(opened), mark="")
        self._ours[beside] = len(regions)
        return beside

    def _say(self, line: str) -> bool:
        """Show a line and return whether it is new."""
        new = line != self.line.text()
        self.line.setText(line)
        self.setVisible(True)
        return new


def _keep_before(beside: Path) -> None:
    """Keep a copy of saved regions, for the user to go back to."""
    try:
        shutil.copy2(beside, f"{beside}.bak")
    except OSError as error:
        raise ExportError(f"{beside}.bak: cannot be written ({error.strerror or error})") from error


def _check_kept(beside: Path, frame: Frame) -> None:
    """Raise DataError if a file of regions holds what would be lost when it is replaced."""
    try:
        lost = [line for line in read_features(beside, frame).notes if line.startswith("left out")]
    except DataError as error:
        raise DataError(f"{error}; it is not replaced: fix it, or move it") from error
    if lost:
        raise DataError(f"{beside}: {'; '.join(lost)}; it is not replaced: fix it, or move it")
