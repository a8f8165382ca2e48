"""Regions with tissue names on the open slide: drawn, loaded, saved beside it as they are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_lpd.core.errors import DataError, LpdError
from napari_lpd.core.files import KEY
from napari_lpd.data.project import AnnotatedSlide, regions_beside
from napari_lpd.data.regions import NONE, Region, classes_in, outside, read_regions, write_regions
from napari_lpd.gui.common.layout import buttons, chooser
from napari_lpd.gui.common.slide_picker import SlidePicker
from napari_lpd.gui.layers.regions import (
    add_regions,
    area_mm2,
    bind_numbers,
    new_regions_layer,
    outlines_of,
    recolour,
    regions_layers,
    regions_of,
    rename_tissue,
    use_tissue,
)
from napari_lpd.gui.layers.slides import kind, slide_of, slide_path
from napari_lpd.gui.train.region_autosave import RegionFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari.viewer
    from napari.layers import Image, Shapes
    from napari.utils.events import Event
    from qtpy.QtGui import QHideEvent

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.gui.train.class_table import ClassTable


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
        self.files = RegionFiles(viewer, classes)
        self._watched: WeakSet[Shapes] = WeakSet()
        self._seen: WeakSet[Image] = WeakSet()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        made = buttons(
            ("Draw regions", "A layer on the slide to outline regions in", self._on_draw),
            ("Load…", "Regions from GeoJSON, QuPath's too", self._on_load_regions),
            ("Save as…", "Regions as GeoJSON, which QuPath opens too", self._on_save_regions),
        )
        for part in (self.slides, self.regions, made, self.files):
            layout.addWidget(part)
        self.files.failed.connect(self.failed)
        self.slides.changed.connect(self._reload)
        classes.used.connect(self.use)
        classes.renamed.connect(self._on_renamed)
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
            raise DataError(
                f"regions are marked {', '.join(strange)}, which is no tissue class here: add it, or mark them anew"
            )
        return regions

    def annotated(self) -> AnnotatedSlide:
        """The slide with its regions, saved beside it.

        Raises:
            LpdError: as `file` and `checked`, or the regions cannot be saved there.
        """
        path = self.file()
        self.checked()
        return AnnotatedSlide(slide=path, regions=self.files.write(self.layer(), self.slides.layer()), mpp=self.mpp())

    def layer(self) -> Shapes:
        """The chosen regions layer.

        Raises:
            DataError: there is none.
        """
        layers = regions_layers(self._viewer)
        index = self.regions.currentIndex()
        if not 0 <= index < len(layers):
            raise DataError("no regions yet: press Draw regions and outline a few regions per tissue")
        return layers[index]

    def _fill(self) -> None:
        chosen = self.regions.currentText()
        self.regions.blockSignals(True)
        self.regions.clear()
        for layer in regions_layers(self._viewer):
            self.regions.addItem(layer.name)
            if layer not in self._watched:
                self._watched.add(layer)
                layer.events.data.connect(self._on_data)
                bind_numbers(layer, self._on_number)
                self._add_classes(layer.metadata.get(KEY, {}).get("classes", ()))
                self.files.change(layer)
        self.regions.setCurrentText(chosen)
        self.regions.blockSignals(False)
        self.regions.setVisible(self.regions.count() > 0)
        self.count()

    def count(self) -> None:
        """Say beside each class how many regions it has and how large they are."""
        found = area_mm2(self.layer()) if self.regions.count() else {}
        self.classes.set_counts({name: f"{count} · {area:.2f} mm²" for name, (count, area) in found.items()})

    def _on_data(self, event: Event) -> None:
        self._on_drawn(event.source)

    def _on_drawn(self, layer: Shapes) -> None:
        self.count()
        self.files.change(layer)

    def hideEvent(self, event: QHideEvent) -> None:
        """What was drawn last is saved before the window goes."""
        self.files.save()
        super().hideEvent(event)

    def _reload(self) -> None:
        """Choose the regions of the chosen slide; where it has none, draw those that were saved beside it."""
        layer = self.slides.find()
        if layer is None:
            return
        own, path = self._of(layer), slide_path(layer)
        if own is not None:
            self.regions.setCurrentText(own.name)
        elif path is not None and layer not in self._seen and regions_beside(path).exists():
            self._seen.add(layer)
            self.load(regions_beside(path))
        self._seen.add(layer)  # regions that are deleted do not come back by themselves

    def _on_draw(self) -> None:
        try:
            layer = self._own_layer()
        except LpdError as error:
            self.failed.emit(str(error))
            return
        self._viewer.layers.selection.active = layer
        self.said.emit("Press a tissue's Mark button, or its number on the keyboard, and outline what holds it.")

    def _of(self, slide: Image) -> Shapes | None:
        """The regions layer of a slide: it has one at most."""
        ours = (shapes for shapes in regions_layers(self._viewer) if kind(shapes) == "regions")
        return next((shapes for shapes in ours if shapes.metadata[KEY]["slide"] == slide.name), None)

    def _own_layer(self) -> Shapes:
        """The chosen slide's regions layer, a new one if it has none; it is chosen."""
        slide = self.slides.layer()
        slide_of(slide).close()  # refuses a slide without resolution
        layer = self._of(slide) or new_regions_layer(self._viewer, slide)
        self.regions.setCurrentText(layer.name)
        return layer

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
        """Draw the regions of a GeoJSON file on the chosen slide; tissues that are no class yet become one.

        Regions that are there already are not drawn twice.
        """
        try:
            regions, found = read_regions(path), classes_in(path)
            layer = self._own_layer()
            with slide_of(self.slides.layer()) as slide:
                warning = _foreign(regions, slide.shape)
            there = {_identity(region) for region in outlines_of(layer, self.slides.layer())}
            fresh = [region for region in regions if _identity(region) not in there]
            new = self._add_classes(found)
            add_regions(layer, fresh, self.classes.drafts())
        except LpdError as error:
            self.failed.emit(str(error))
            return
        self.count()
        added = f" New classes: {', '.join(tissue.name for tissue in new)}." if new else ""
        bare = sum(not region.named for region in fresh)
        unnamed = f" {bare} of them carry no tissue yet." if bare else ""
        known = f" {len(regions) - len(fresh)} were there already." if len(fresh) < len(regions) else ""
        count = f"{len(regions)} region{'s' * (len(regions) != 1)}"
        self.said.emit(f"{warning}{count} from {path.name}.{known}{added}{unnamed}")

    def _add_classes(self, found: Sequence[TissueClass]) -> list[TissueClass]:
        """Make tissues classes; where none of them is one yet, in place of those there are. Returns the new ones."""
        known = {tissue.name for tissue in self.classes.drafts()}
        new = [tissue for tissue in found if tissue.name not in known]
        unused = not {tissue.name for tissue in found} & known
        if new:
            self.classes.set_classes([*(() if unused else self.classes.drafts()), *new])
        return new

    def _on_number(self, layer: Shapes, index: int) -> None:
        drafts = self.classes.drafts()
        if index < len(drafts):
            self._mark(layer, NONE if index < 0 else drafts[index].name)

    def use(self, name: str) -> None:
        """Mark the selected regions with a tissue, or draw it next."""
        try:
            layer = self.layer()
        except LpdError as error:
            self.failed.emit(str(error))
            return
        self._mark(layer, name)

    def _mark(self, layer: Shapes, name: str) -> None:
        self.said.emit(use_tissue(layer, name, self.classes.drafts()))
        self._on_drawn(layer)

    def _on_renamed(self, old: str, new: str) -> None:
        """Regions keep their tissue when its name changes."""
        for layer in regions_layers(self._viewer):
            if rename_tissue(layer, old, new, self.classes.drafts()):
                self.files.change(layer)

    def _on_classes(self) -> None:
        if self.regions.count():
            recolour(self.layer(), self.classes.drafts())
            self._on_drawn(self.layer())


def _foreign(regions: Sequence[Region], shape: tuple[int, int]) -> str:
    """What to say where most regions lie outside a slide of `shape` (h, w)."""
    found = len(outside(regions, shape))
    if 2 * found <= len(regions):
        return ""
    size = f"{shape[1]} x {shape[0]} pixels"
    return f"⚠ {found} of {len(regions)} regions outside the slide ({size}): are they another slide's? "


def _identity(region: Region) -> tuple[object, ...]:
    """What two regions have in common that are one: tissues, and corners to half a pixel."""
    corners = {(round(2 * y), round(2 * x)) for y, x in region.vertices.tolist()}
    return region.tissues, region.named, frozenset(corners)
