"""Panel for regions with tissue names on the open slide: draw, load and save them."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_lpd.core.errors import DataError, LpdError
from napari_lpd.core.files import KEY
from napari_lpd.data.geojson import GEOJSON, Frame, read_features
from napari_lpd.data.project import AnnotatedSlide
from napari_lpd.data.regions import NONE, Region, classes_of, regions_in, write_regions
from napari_lpd.gui.common.layer_box import LayerBox
from napari_lpd.gui.common.layout import OriginChoice, buttons, in_column, in_row, note
from napari_lpd.gui.common.slide_picker import SlidePicker
from napari_lpd.gui.layers.class_keys import ClassKeys
from napari_lpd.gui.layers.regions import (
    add_regions,
    area_mm2,
    check_inside,
    draw_next,
    new_regions_layer,
    outlines_of,
    recolour,
    regions_layers,
    regions_of,
    rename_tissue,
    take_tissue,
    tissue_color,
    toggle_tissue,
)
from napari_lpd.gui.layers.slides import belongs, folder_beside, kind, regions_file, slide_image, slide_of, slide_path
from napari_lpd.gui.train.class_table import OTHER
from napari_lpd.gui.train.paint import PaintTool
from napari_lpd.gui.train.region_autosave import RegionFiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import napari.viewer
    from napari.layers import Image, Shapes
    from napari.utils.events import Event
    from qtpy.QtGui import QHideEvent, QShowEvent

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.gui.train.class_table import ClassTable


class SlideRegions(QWidget):
    """Panel to outline regions on a slide; the choice of the slide and the buttons for files are laid out apart.

    Args:
        viewer: The viewer.
        classes: The tissue classes to mark regions with; loaded regions may add classes.

    Signals:
        message: a line for the status.
        failed: an error message.
        changed: regions were drawn, changed, marked or deleted.
    """

    message = Signal(str)
    failed = Signal(str)
    changed = Signal()

    def __init__(self, viewer: napari.viewer.Viewer, classes: ClassTable) -> None:
        super().__init__()
        self._viewer = viewer
        self.classes = classes
        self.origin = OriginChoice()
        self.slides = SlidePicker(viewer)
        self._box: LayerBox[Shapes] = LayerBox()
        self.regions = self._box.combo
        self.files = RegionFiles.of(viewer)
        self.saved = note("")
        self.saved.setVisible(False)
        self.keys = ClassKeys.of(viewer)
        self.in_hand = ""  # the class that is drawn next, or NONE
        self._listed: WeakSet[Shapes] = WeakSet()
        self._loaded: WeakSet[Image] = WeakSet()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        self.paint = PaintTool(viewer, self)
        draw = buttons(("Draw regions", "Outline regions on the slide, with the keys of the tissues", self._on_draw))
        for widget in (self.regions, in_row([draw, self.paint.button]), self.saved):
            layout.addWidget(widget)
        entries = (
            ("Load…", "Load regions from GeoJSON, also from QuPath", self._on_load_regions),
            ("Save as…", "Save regions as GeoJSON, which QuPath can open", self._on_save_regions),
        )
        self.file_actions = in_column([buttons(*entries), self.origin])
        self.files.failed.connect(self.failed)
        self.files.said.connect(self._on_saved)
        self.files.drawn.connect(self.count)
        self.slides.changed.connect(self._reload)
        classes.used.connect(self.use)
        classes.toggled.connect(self.toggle)
        classes.renamed.connect(self._on_renamed)
        classes.changed.connect(self._on_classes)
        self.regions.currentIndexChanged.connect(self.count)
        for event in ("inserted", "removed", "reordered", "renamed"):
            getattr(viewer.layers.events, event).connect(self._fill)
        self.files.classes = classes.drafts()
        self._fill()
        self._reload()
        self.keys.take(self)

    def file(self) -> Path:
        """Return the chosen slide's file.

        Raises:
            LpdError: there is no slide, no resolution or no file, or the file is missing.
        """
        layer = self.slides.layer()
        slide_of(layer).close()
        path = slide_path(layer)
        if path is None:
            raise DataError(f"{layer.name} is not a slide file: save it as OME-TIFF and open that to train on it")
        if not path.exists():
            raise DataError(f"{path} is missing: move it back, or open it from its new folder")
        return path

    def mpp(self) -> float | None:
        """Return the µm per pixel of the slide, if the user entered it."""
        mpp: float | None = self.slides.layer().metadata[KEY].get("mpp")
        return mpp

    def checked(self) -> list[Region]:
        """Return the regions after checking that each has tissues of the classes or is marked as none.

        Raises:
            DataError: there are no regions, or a region has no tissue or one that is not a class.
        """
        regions = regions_of(self.layer(), self.slides.layer())
        names = {tissue.name for tissue in self.classes.classes()}
        unknown = sorted({name for region in regions for name in region.tissues} - names)
        if unknown:
            raise DataError(
                f"regions are marked {', '.join(unknown)}, which is not a tissue class: add it, or mark them again"
            )
        return regions

    def check_places(self) -> None:
        """Raise DataError if drawn regions lie outside the slide; they are selected then."""
        slide = self.slides.find()
        if slide is not None and self.regions.count():
            check_inside(self.layer(), slide)

    def annotated(self) -> AnnotatedSlide:
        """Save the regions beside the slide and return both.

        Raises:
            LpdError: as `file` and `checked`, or the regions cannot be saved.
        """
        path = self.file()
        self.check_places()
        self.checked()
        slide = self.slides.layer()
        regions = self.files.write([self.layer()], slide)
        return AnnotatedSlide(slide=path, regions=regions, mpp=self.mpp(), image=slide_image(slide))

    def layer(self) -> Shapes:
        """Return the chosen regions layer.

        Raises:
            DataError: there is no regions layer.
        """
        layer = self._box.layer()
        if layer is None or layer not in self._viewer.layers:
            raise DataError("no regions yet: press Draw regions and outline a few regions per tissue")
        return layer

    def _fill(self) -> None:
        """List the regions layers that are not another slide's, with the classes that new ones bring."""
        self.files.watch()
        for layer in regions_layers(self._viewer):
            if layer not in self._listed:
                self._listed.add(layer)
                layer.events.mode.connect(self._on_mode)
                self._add_classes(layer.metadata.get(KEY, {}).get("classes", ()))
        self._box.fill(regions_layers(self._viewer, self.slides.find()))
        self.regions.setVisible(self.regions.count() > 1)  # else there is nothing to choose
        self.count()

    def count(self) -> None:
        """Show beside each class the number of its regions and their area."""
        self.classes.set_counts(area_mm2(self.layer()) if self.regions.count() else {})
        if not (self.regions.count() and self.layer()._is_creating):  # a half of an outline is no change yet
            self.changed.emit()

    def _on_saved(self, line: str) -> None:
        self.saved.setText(line)
        self.saved.setVisible(True)

    def showEvent(self, event: QShowEvent) -> None:
        """Let the latest changes be saved before napari's window closes, also when this widget is gone."""
        super().showEvent(event)
        top = self.window()
        (top.parentWidget() or top).installEventFilter(self.files)  # a floating dock is a window of its own

    def hideEvent(self, event: QHideEvent) -> None:
        """Save the latest changes before the window closes."""
        self.files.save()
        super().hideEvent(event)

    def _reload(self) -> None:
        """Choose the regions layer of the chosen slide; if it has none, load the regions saved beside it."""
        if (layer := self.slides.find()) is None:
            return
        self.origin.follow(layer.metadata.get(KEY, {}).get("origin", ()))
        self._fill()
        shapes, path = self._layer_of(layer), regions_file(layer)
        if shapes is not None:
            if self._box.layer() is None or not belongs(self.layer(), layer):
                self._box.choose(shapes)
        elif path is not None and layer not in self._loaded and path.exists():
            self._loaded.add(layer)
            with self._reporting():
                self.ensure_layer()
        self._loaded.add(layer)  # so that deleted regions are not loaded again

    def _on_draw(self) -> None:
        with self._reporting():
            layer = self.ensure_layer()
            self._viewer.layers.selection.active = layer  # the brush is put down
            self.regions.setCurrentText(layer.name)
            first = self.classes.drafts()[:1]
            self.use(self.in_hand or (first[0].name if first else NONE))

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except LpdError as error:
            self.failed.emit(str(error))

    def _layer_of(self, slide: Image) -> Shapes | None:
        """Return the first regions layer of a slide; a second one is a copy that the user made."""
        return next((each for each in regions_layers(self._viewer, slide) if kind(each) == "regions"), None)

    def layer_on(self, slide: Image) -> Shapes:
        """Return the regions layer of a slide, a new one if there is none."""
        return self._layer_of(slide) or new_regions_layer(self._viewer, slide)

    def ensure_layer(self) -> Shapes:
        """Return the regions layer of the chosen slide and choose it; a new one holds what is saved beside it."""
        slide = self.slides.layer()
        slide_of(slide).close()  # raises for a slide without resolution
        layer, path = self._layer_of(slide), regions_file(slide)
        if layer is not None:
            self._box.choose(layer)
            return layer
        layer = self.layer_on(slide)
        self._box.choose(layer)
        if path is not None and path.exists():
            self.load(path)
        return layer

    def _on_save_regions(self) -> None:
        with self._reporting():
            layer = self.slides.layer()
            regions = outlines_of(self.layer(), layer)
            with slide_of(layer) as slide:
                frame = Frame.of(slide, self.origin.value())
            name = folder_beside(layer) / f"{Path(layer.name).stem}.geojson"
            path, _ = QFileDialog.getSaveFileName(self, "Regions", str(name), "GeoJSON (*.geojson)")
            if path:
                write_regions(Path(path), regions, self.classes.drafts(), frame=frame)
                self.message.emit(f"Regions written: {path}")

    def _on_load_regions(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Regions", "", f"GeoJSON ({GEOJSON})")
        if path:
            self.load(Path(path))

    def load(self, path: Path) -> None:
        """Draw the regions of a GeoJSON file on the chosen slide; unknown tissues become classes.

        Regions that are already on the slide are not drawn twice.
        """
        try:
            layer = self.ensure_layer()
            with slide_of(self.slides.layer()) as slide:
                drawing = read_features(path, Frame.of(slide, self.origin.value()))
            names = [tissue.name for tissue in self.classes.drafts()]
            regions, classes = regions_in(drawing, names), classes_of(drawing, names)
            if not regions:
                raise DataError(f"{path}: holds no polygons; outline at least one region")
            warning = "".join(f"⚠ {line}. " for line in drawing.notes)
            drawn = {region.key for region in outlines_of(layer, self.slides.layer())}
            added = [region for region in regions if region.key not in drawn]
            new = self._add_classes(classes)
            add_regions(layer, added, self.classes.drafts())
        except LpdError as error:
            self.failed.emit(str(error))
            return
        self.count()
        new_classes = f" New classes: {', '.join(tissue.name for tissue in new)}." if new else ""
        count = sum(not region.named for region in added)
        unnamed = f" {count} of them carry no tissue yet." if count else ""
        known = f" {len(regions) - len(added)} were already drawn." if len(added) < len(regions) else ""
        loaded = f"{len(regions)} region{'s' * (len(regions) != 1)}"
        self.message.emit(f"{warning}{loaded} from {path.name}.{known}{new_classes}{unnamed}")

    def _add_classes(self, classes: Sequence[TissueClass]) -> list[TissueClass]:
        """Add unknown classes, replacing the present ones if none of these occurs, and return the new ones."""
        known = {tissue.name for tissue in self.classes.drafts()}
        new = [tissue for tissue in classes if tissue.name not in known]
        unused = not {tissue.name for tissue in classes} & known
        if new:
            self.classes.set_classes([*(() if unused else self.classes.drafts()), *new])
        return new

    def on_number(self, number: int) -> None:
        """Draw the class with this number next; 0: none of the classes."""
        name = self.classes.numbered(number)
        if name is not None:
            self.use(name)

    def on_control_number(self, number: int) -> None:
        """Add the class with this number to the selected regions, or remove it."""
        name = self.classes.numbered(number)
        if name is not None:
            self.toggle(name)

    def use(self, name: str) -> None:
        """Take a tissue in hand: the next region is drawn with it, and nothing that is drawn changes."""
        with self._reporting():
            if self.paint.is_in_hand:
                self.paint.take(name)
            else:
                layer = self._layer_to_draw_on()
                self.in_hand = name
                self._draw_on(layer)
            self.show_in_hand()
            what = "strokes" if self.paint.is_in_hand else "regions"
            self.message.emit(f"New {what} are {OTHER if name == NONE else name}.")

    def put_down(self) -> None:
        """Give the number keys back, and put the brush down."""
        self.paint.put_down()
        self.keys.drop(self)

    def toggle(self, name: str) -> None:
        """Add a tissue to the selected regions, or remove it if all have it."""
        with self._reporting():
            layer = self.layer()
            self.message.emit(toggle_tissue(layer, name, self.classes.drafts()))
            self.files.note(layer)

    def _layer_to_draw_on(self) -> Shapes:
        """Return the user's own layer if one is chosen, else the regions layer of the chosen slide."""
        chosen = self.layer() if self.regions.count() else None
        return chosen if chosen is not None and kind(chosen) == "" else self.ensure_layer()

    def _draw_on(self, layer: Shapes) -> None:
        """Activate a layer and its drawing tool."""
        layer.visible = True
        self._viewer.layers.selection.active = layer
        draw_next(layer)
        take_tissue(layer, self.in_hand, self.classes.drafts())
        self.keys.take(self)

    def show_in_hand(self) -> None:
        """Show the class in hand in the table and on the canvas."""
        self.classes.take(self.in_hand)
        verb = "Paint" if self.paint.is_in_hand else "Draw"
        text = f"{verb}: {OTHER if self.in_hand == NONE else self.in_hand}" if self.in_hand else ""
        self.keys.show(self, text, tissue_color(self.in_hand, self.classes.drafts()))

    def _on_mode(self, event: Event) -> None:
        """Draw with the class in hand in each layer: napari takes the colour of the regions that were selected."""
        layer = event.source
        if self.in_hand and str(layer.mode).startswith("add_") and kind(layer) in ("", "regions"):
            take_tissue(layer, self.in_hand, self.classes.drafts())

    def _on_renamed(self, old: str, new: str) -> None:
        """Rename a tissue in all regions when its class is renamed."""
        self.in_hand = new if self.in_hand == old else self.in_hand
        for layer in regions_layers(self._viewer):
            if rename_tissue(layer, old, new, self.classes.drafts()):
                self.files.change(layer)

    def _on_classes(self) -> None:
        self.files.classes = self.classes.drafts()
        if self.regions.count():
            recolour(self.layer(), self.classes.drafts())
            self.files.note(self.layer())
        if self.in_hand not in {NONE, *(tissue.name for tissue in self.classes.drafts())}:
            self.in_hand = ""
        self.show_in_hand()
        if self.regions.count() and kind(self.layer()) in ("", "regions"):
            take_tissue(self.layer(), self.in_hand, self.classes.drafts())
