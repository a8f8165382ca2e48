"""Automatic saving of regions in a file beside their slide, for as long as napari is open, with Train or without."""

from __future__ import annotations

import shutil
import weakref
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from qtpy.QtCore import QEvent, QObject, QTimer, Signal

from napari_lpd import samples
from napari_lpd.core.errors import DataError, LpdError, writing
from napari_lpd.data.geojson import Frame, read_features
from napari_lpd.data.project import regions_beside
from napari_lpd.data.regions import write_regions
from napari_lpd.gui.layers.regions import close_outline, drop_leftovers, empty_shapes, outlines_of, regions_layers
from napari_lpd.gui.layers.shapes_history import ShapesHistory
from napari_lpd.gui.layers.slides import belongs, kind, slide_image, slide_layers, slide_of, slide_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import napari.viewer
    from napari.layers import Image, Shapes
    from napari.utils.events import Event

    from napari_lpd.core.classes import TissueClass

SAVE_MS = 1500  # after the last change of a region
_all: dict[int, RegionFiles] = {}
SAMPLE = "Regions of a sample are not saved automatically: use Save as…."


class RegionFiles(QObject):
    """Keeps the files of all regions layers of a viewer up to date, shortly after each change; Train may be closed.

    Args:
        viewer: The viewer.

    Signals:
        said: a line about what was saved.
        failed: a slide's regions cannot be saved; emitted once until the message changes.
        drawn: regions were drawn, moved, marked or deleted.

    Attributes:
        classes: The tissue classes, for the colours in the files.
        line: The line that was said last.
    """

    said = Signal(str)
    failed = Signal(str)
    drawn = Signal()

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = weakref.ref(viewer)
        self.classes: tuple[TissueClass, ...] = ()
        self.line = ""
        self._watched: WeakSet[Shapes] = WeakSet()
        self._changed: dict[Shapes, Image] = {}
        self._slides: WeakKeyDictionary[Shapes, Image] = WeakKeyDictionary()  # of each layer, also when it is closed
        self._ours: WeakKeyDictionary[Image, int] = WeakKeyDictionary()  # regions in the files that we wrote
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SAVE_MS)
        self._timer.timeout.connect(self.save)
        viewer.layers.events.inserted.connect(self.watch)
        weakref.finalize(viewer, _all.pop, id(viewer), None)

    @classmethod
    def of(cls, viewer: napari.viewer.Viewer) -> RegionFiles:
        """Return the files of a viewer, for which napari hands a proxy to each of our widgets."""
        viewer = getattr(viewer, "__wrapped__", viewer)
        return _all.get(id(viewer)) or _all.setdefault(id(viewer), cls(viewer))

    def watch(self) -> None:
        """Follow every layer of shapes that there is."""
        for layer in regions_layers(self._of()):
            if layer not in self._watched:
                self._watched.add(layer)
                layer.events.data.connect(self._on_data)
                layer.events.mode.connect(close_outline)
                ShapesHistory.follow(layer, self.note)
                self.change(layer)

    def note(self, layer: Shapes) -> None:
        """Take notice of changed regions."""
        self.drawn.emit()
        self.change(layer)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Save the latest changes when napari's window closes."""
        if event.type() == QEvent.Type.Hide:
            self.save()
        return super().eventFilter(watched, event)

    def _of(self) -> napari.viewer.Viewer:
        viewer = self._viewer()
        assert viewer is not None
        return viewer

    def _on_data(self, event: Event) -> None:
        layer = event.source
        self.change(layer)
        QTimer.singleShot(0, lambda: self._on_drawn(layer))  # napari tells of a drawing just before it is finished

    def _on_drawn(self, layer: Shapes) -> None:
        drop_leftovers(layer)
        self.drawn.emit()

    def change(self, layer: Shapes) -> None:
        """Schedule saving of a changed regions layer; layers that are not ours are ignored."""
        if kind(layer) != "regions":
            return
        slide = next((image for image in slide_layers(self._of()) if belongs(layer, image)), self._slides.get(layer))
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
            layers += [each for each in regions_layers(self._of(), slide) if kind(each) == "regions"]
            path = slide_path(slide)
            if path is None or not any(len(layer.data) for layer in layers):
                continue
            if samples.is_sample(path):
                self._say(SAMPLE)
                continue
            try:
                layers = list(dict.fromkeys(layers))
                saved = f"Regions saved: {self.write(layers, slide).name}"
                count = sum(len(empty_shapes(layer, slide)) for layer in layers if not layer._is_creating)
                empty = f"{count} shape{'s enclose' if count > 1 else ' encloses'} nothing of the slide"
                self._say(f"{saved}. ⚠ {empty} and cannot be saved: outline an area" if count else saved)
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
        beside = regions_beside(path, slide_image(slide))
        if slide not in self._ours and beside.exists():
            with slide_of(slide) as opened:
                _check_kept(beside, Frame.of(opened))
            _keep_before(beside)  # of before the slide was opened
        regions = {
            region.key: region for layer in layers for region in outlines_of(layer, slide, empty_shapes(layer, slide))
        }
        if 2 * len(regions) < self._ours.get(slide, 0) and beside.exists():
            _keep_before(beside)  # most were deleted
        with slide_of(slide) as opened:
            write_regions(beside, regions.values(), self.classes, frame=Frame.of(opened), mark="")
        self._ours[slide] = len(regions)
        return beside

    def _say(self, line: str) -> bool:
        """Say a line and return whether it is new."""
        new, self.line = line != self.line, line
        self.said.emit(line)
        return new


def _keep_before(beside: Path) -> None:
    """Keep a copy of saved regions, for the user to go back to."""
    kept = beside.with_name(f"{beside.name}.bak")
    with writing(kept):
        shutil.copy2(beside, kept)


def _check_kept(beside: Path, frame: Frame) -> None:
    """Raise DataError if a file of regions holds what would be lost when it is replaced."""
    try:
        lost = [line for line in read_features(beside, frame).notes if line.startswith("left out")]
    except DataError as error:
        raise DataError(f"{error}; it is not replaced: fix it, or move it") from error
    if lost:
        raise DataError(f"{beside}: {'; '.join(lost)}; it is not replaced: fix it, or move it")
