"""Regions with tissue names on the open slide: drawn, loaded, saved beside it as they are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_lpd import samples
from napari_lpd.errors import DataError, LpdError
from napari_lpd.gui._layers import KEY, slide_of, slide_path
from napari_lpd.gui._layout import buttons, chooser, note
from napari_lpd.gui._regions import (
    add_regions,
    area_mm2,
    bind_numbers,
    new_regions_layer,
    outlines_of,
    recolour,
    regions_layers,
    regions_of,
    use_tissue,
)
from napari_lpd.gui._slides import SlidePicker
from napari_lpd.project import AnnotatedSlide, regions_beside
from napari_lpd.regions import NONE, Region, classes_in, read_regions, write_regions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari.viewer
    from napari.layers import Image, Shapes

    from napari_lpd.classes import TissueClass
    from napari_lpd.gui._classes import ClassTable

SAVE_MS = 1500  # after the last change of a region


class SlideRegions(QWidget):
    """Choose a slide and outline regions on it.

    Args:
        viewer: The viewer.
        classes: The tissue classes that regions are marked with; regions that bring others add them.

    Signals:
        said: a line for the status.
        failed: an error's line.
    """

    said = Signal(str)
    failed = Signal(str)

    def __init__(self, viewer: napari.viewer.Viewer, classes: ClassTable) -> None:
        super().__init__()
        self._viewer = viewer
        self.classes = classes
        self.slides = SlidePicker(viewer)
        self.regions = chooser()
        self.saved = note("")
        self.saved.setVisible(False)
        self._watched: WeakSet[Shapes] = WeakSet()
        self._seen: WeakSet[Image] = WeakSet()
        self._saver = QTimer(self)
        self._saver.setSingleShot(True)
        self._saver.setInterval(SAVE_MS)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        made = buttons(
            ("New regions layer", "An empty layer on the slide to outline regions in", self._on_new_regions),
            ("Load…", "Regions from GeoJSON, QuPath's too", self._on_load_regions),
            ("Save as…", "Regions as GeoJSON, which QuPath opens too", self._on_save_regions),
        )
        for part in (self.slides, self.regions, made, self.saved):
            layout.addWidget(part)
        self._saver.timeout.connect(self.save)
        self.slides.changed.connect(self._reload)
        classes.used.connect(self.use)
        classes.changed.connect(self._on_classes)
        self.regions.currentIndexChanged.connect(self.count)
        for event in ("inserted", "removed", "reordered", "renamed"):
            getattr(viewer.layers.events, event).connect(self._fill)
        self._fill()
        self._reload()

    def file(self) -> Path:
        """The chosen slide's file.

        Raises:
            LpdError: no slide, no resolution, no file, or it is gone.
        """
        layer = self.slides.layer()
        slide_of(layer).close()
        path = slide_path(layer)
        if path is None:
            raise DataError(f"{layer.name} is no slide file: save it as OME-TIFF and open that, then train on it")
        if not path.exists():
            raise DataError(f"{path}: is gone; put it back where it was, or open it from where it is now")
        return path

    def mpp(self) -> float | None:
        """µm per pixel of the slide where the user gave it."""
        found: float | None = self.slides.layer().metadata[KEY].get("mpp")
        return found

    def checked(self) -> list[Region]:
        """The regions, each with one of the classes or marked as none.

        Raises:
            DataError: there are none, or some carry no tissue or one that is no class.
        """
        regions = regions_of(self.layer(), self.slides.layer())
        names = {tissue.name for tissue in self.classes.classes()}
        strange = sorted({name for region in regions for name in region.tissues} - names)
        if strange:
            raise DataError(f"regions are marked {', '.join(strange)}, which is not among the tissue classes")
        return regions

    def annotated(self) -> AnnotatedSlide:
        """The slide with its regions, saved beside it.

        Raises:
            LpdError: as `file` and `checked`, or the regions cannot be saved there.
        """
        path = self.file()
        self.checked()
        self.save()
        if not regions_beside(path).exists():
            raise DataError(f"{path}: its regions cannot be saved beside it; copy the slide to a folder of yours")
        return AnnotatedSlide(slide=path, regions=regions_beside(path), mpp=self.mpp())

    def layer(self) -> Shapes:
        """The chosen regions layer.

        Raises:
            DataError: there is none.
        """
        layers = regions_layers(self._viewer)
        index = self.regions.currentIndex()
        if not 0 <= index < len(layers):
            raise DataError("no regions yet: press New regions layer and outline a few regions per tissue")
        return layers[index]

    def _fill(self) -> None:
        chosen = self.regions.currentText()
        self.regions.blockSignals(True)
        self.regions.clear()
        for layer in regions_layers(self._viewer):
            self.regions.addItem(layer.name)
            if layer not in self._watched:
                self._watched.add(layer)
                layer.events.data.connect(self._on_drawn)
                bind_numbers(layer, self._on_number)
                self._add_classes(layer.metadata.get(KEY, {}).get("classes", ()))
        self.regions.setCurrentText(chosen)
        self.regions.blockSignals(False)
        self.regions.setVisible(self.regions.count() > 0)
        self.count()

    def count(self) -> None:
        """Say beside each class how many regions it has and how large they are."""
        found = area_mm2(self.layer()) if self.regions.count() else {}
        self.classes.set_counts({name: f"{count} · {area:.2f} mm²" for name, (count, area) in found.items()})

    def _on_drawn(self) -> None:
        self.count()
        self._saver.start()

    def save(self) -> None:
        """Save the regions beside their slide; where that cannot be done, say so, once."""
        self._saver.stop()
        slide_layer = self.slides.find()
        path = None if slide_layer is None else slide_path(slide_layer)
        if slide_layer is None or path is None or not self.regions.count() or _is_sample(path):
            return
        try:
            layer = self.layer()
            if layer.metadata.get(KEY, {}).get("slide") != slide_layer.name or not len(layer.data):
                return
            written = write_regions(regions_beside(path), outlines_of(layer, slide_layer), self.classes.drafts())
        except LpdError as error:
            line = f"Regions are not saved: {error}"
            if self.saved.text() != line:
                self._say_saved(line)
                self.failed.emit(line)
            return
        self._say_saved(f"Regions saved: {written.name}")

    def _say_saved(self, line: str) -> None:
        self.saved.setText(line)
        self.saved.setVisible(True)

    def _reload(self) -> None:
        """Choose the regions of the chosen slide; where it has none, draw those that were saved beside it."""
        layer = self.slides.find()
        if layer is None:
            return
        own = [s for s in regions_layers(self._viewer) if s.metadata.get(KEY, {}).get("slide") == layer.name]
        path = slide_path(layer)
        if own:
            self.regions.setCurrentText(own[0].name)
        elif path is not None and layer not in self._seen and regions_beside(path).exists():
            self._seen.add(layer)
            self.load(regions_beside(path))
        self._seen.add(layer)  # regions that are deleted do not come back by themselves

    def _on_new_regions(self) -> None:
        try:
            self._new_regions()
            self.said.emit("Press a tissue's Mark button, or its number on the keyboard, and outline what holds it.")
        except LpdError as error:
            self.failed.emit(str(error))

    def _new_regions(self) -> Shapes:
        layer = self.slides.layer()
        slide_of(layer).close()  # refuses a slide without resolution
        made = new_regions_layer(self._viewer, layer)
        self.regions.setCurrentText(made.name)
        return made

    def _on_save_regions(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Regions", "regions.geojson", "GeoJSON (*.geojson)")
        if path:
            try:
                write_regions(Path(path), outlines_of(self.layer(), self.slides.layer()), self.classes.drafts())
                self.said.emit(f"Regions written: {path}")
            except LpdError as error:
                self.failed.emit(str(error))

    def _on_load_regions(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Regions", "", "GeoJSON (*.geojson *.json)")
        if path:
            self.load(Path(path))

    def load(self, path: Path) -> None:
        """Draw the regions of a GeoJSON file on the chosen slide; tissues that are no class yet become one."""
        try:
            regions, found = read_regions(path), classes_in(path)
            layer = self._new_regions()
            new = self._add_classes(found)
            add_regions(layer, regions, self.classes.drafts())
        except LpdError as error:
            self.failed.emit(str(error))
            return
        self.count()
        added = f" New classes: {', '.join(tissue.name for tissue in new)}." if new else ""
        bare = sum(not region.named for region in regions)
        unnamed = f" {bare} of them carry no tissue yet." if bare else ""
        self.said.emit(f"{len(regions)} regions from {path.name}.{added}{unnamed}")

    def _add_classes(self, found: Sequence[TissueClass]) -> list[TissueClass]:
        """Make tissues classes; where none of them is one yet, in place of those there are. Returns the new ones."""
        known = {tissue.name for tissue in self.classes.drafts()}
        new = [tissue for tissue in found if tissue.name not in known]
        unused = not {tissue.name for tissue in found} & known
        if new:
            self.classes.set_classes([*(() if unused else self.classes.drafts()), *new])
        return new

    def _on_number(self, index: int) -> None:
        drafts = self.classes.drafts()
        if index < 0:
            self.use(NONE)
        elif index < len(drafts):
            self.use(drafts[index].name)

    def use(self, name: str) -> None:
        """Mark the selected regions with a tissue, or draw it next."""
        try:
            said = use_tissue(self.layer(), name, self.classes.drafts())
        except LpdError as error:
            self.failed.emit(str(error))
            return
        self._on_drawn()
        self.said.emit(said)

    def _on_classes(self) -> None:
        if self.regions.count():
            recolour(self.layer(), self.classes.drafts())
        self._on_drawn()


def _is_sample(slide: Path) -> bool:
    """Whether a slide came with the package, where nothing is to be written."""
    return slide.resolve().is_relative_to(samples.FOLDER.resolve())
