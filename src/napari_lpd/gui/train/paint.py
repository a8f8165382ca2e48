"""The brush of Train: strokes are painted on a layer that covers the view, and kept as regions that label pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QPushButton

from napari_lpd.core.errors import LpdError
from napari_lpd.core.files import KEY
from napari_lpd.data.regions import NONE
from napari_lpd.gui.common.layout import tip
from napari_lpd.gui.layers.regions import NO_TISSUE, add_regions, outlines_of, painted_of
from napari_lpd.gui.layers.results import label_colours
from napari_lpd.gui.layers.slides import UM, corner, kind, of_slide, visible_box_um
from napari_lpd.gui.layers.strokes import OTHER, Canvas

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image
    from napari.utils.events import Event
    from numpy.typing import NDArray

    from napari_lpd.gui.train.slide_regions import SlideRegions

PAINT = "paint"  # kind of the layer
MARGIN, MOST_EDGE = 0.5, 4096  # of the view, on each side of it; pixels of the layer
BRUSH = 24  # pixels on the screen, at first
LOOK_MS = 200  # of rest after the view has moved
HELP = (
    "Paint tissue with a brush, with the keys of the tissues; E erases, P paints again, [ and ] change the brush,"
    " Ctrl+Z takes a stroke back. A stroke labels just its pixels, and is kept beside the slide with the regions."
)


class PaintTool(QObject):
    """Paints strokes on the slide that is chosen in a panel of regions.

    The layer holds the view and half a view around it, in pixels as coarse as the screen's, and follows the view. Every
    stroke is laid into the layer of regions at once, so that nothing but napari's own undo lives in the layer.

    Args:
        viewer: The viewer.
        regions: The panel.
    """

    def __init__(self, viewer: napari.viewer.Viewer, regions: SlideRegions) -> None:
        super().__init__(regions)
        self._viewer, self._regions = viewer, regions
        self._slide: Image | None = None
        self._canvas: Canvas | None = None
        self._laid: NDArray[np.uint8] = np.zeros((0, 0), np.uint8)  # as the regions are
        self.button = QPushButton("Paint")
        self.button.setToolTip(tip(HELP))
        self._look = QTimer(self)
        self._look.setSingleShot(True)
        self._look.setInterval(LOOK_MS)
        self._look.timeout.connect(self._follow)
        self._settling = QTimer(self)
        self._settling.setSingleShot(True)
        self._settling.timeout.connect(self._settle)
        self.button.clicked.connect(self._on_paint)
        camera = viewer.scene.camera
        for event in (camera.events.center, camera.events.zoom):
            event.connect(self._on_view)
        viewer.layers.selection.events.active.connect(self._on_active)
        regions.slides.changed.connect(self._on_slides)
        regions.classes.changed.connect(self._on_classes)

    def layer(self) -> Labels | None:
        """Return the layer that is painted on."""
        return next((each for each in self._viewer.layers if isinstance(each, Labels) and kind(each) == PAINT), None)

    @property
    def is_in_hand(self) -> bool:
        """Whether the brush is in hand."""
        active = self._viewer.layers.selection.active
        return active is not None and kind(active) == PAINT

    def take(self, name: str) -> None:
        """Paint with a tissue from now on, or with what is none of the classes."""
        layer, names = self.layer(), self._names()
        if layer is None:
            return
        self._regions.in_hand = name
        layer.selected_label = names.index(name) + 1 if name in names else OTHER
        layer.mode = "paint"

    def lay(self, canvas: Canvas, labels: NDArray[np.uint8], changed: NDArray[np.bool_]) -> None:
        """Change the strokes on the chosen slide as if they had been painted on a canvas.

        Raises:
            LpdError: no slide is open, or it has no resolution.
        """
        slide = self._regions.slides.layer()
        self._lay(slide, canvas, labels, changed)
        if self.is_in_hand:
            self._draw()

    def put_down(self) -> None:
        """Take the layer away; the strokes stay."""
        layer, self._slide, self._canvas = self.layer(), None, None
        if layer is not None:
            self._viewer.layers.remove(layer)

    def _first(self) -> str:
        return self._regions.in_hand or next(iter(self._names()), NONE)

    def _names(self) -> tuple[str, ...]:
        return tuple(tissue.name for tissue in self._regions.classes.drafts())

    def _on_paint(self) -> None:
        try:
            self._start()
        except LpdError as error:
            self._regions.failed.emit(str(error))

    def _start(self) -> None:
        slide = self._regions.slides.layer()
        self._regions.ensure_layer()
        visible_box_um(self._viewer, slide)  # raises where the slide is out of view
        self._regions.keys.take(self._regions)
        layer = self.layer()
        if layer is not None and self._slide is not slide:
            self._viewer.layers.remove(layer)
            layer = None
        self._slide = slide
        if layer is None:
            layer = self._made(slide)
        self._viewer.layers.selection.active = layer
        self._draw()
        self.take(self._first())
        self._regions.show_in_hand()

    def _made(self, slide: Image) -> Labels:
        about = {KEY: {"kind": PAINT, **of_slide(slide)}}
        layer = Labels(np.zeros((1, 1), np.uint8), name=f"paint ({slide.name})", units=(UM, UM), opacity=0.6,
                       metadata=about)  # fmt: skip
        self._viewer.add_layer(layer)
        layer.brush_size = 1
        layer.events.paint.connect(self._on_painted)
        layer.events.selected_label.connect(self._on_label)
        layer.bind_key("Control-Z", self._undo, overwrite=True)
        layer.bind_key("Control-Shift-Z", self._redo, overwrite=True)
        return layer

    def _undo(self, layer: Labels) -> None:
        layer.undo()
        self._on_painted()

    def _redo(self, layer: Labels) -> None:
        layer.redo()
        self._on_painted()

    def _on_painted(self, _: Event | None = None) -> None:
        """Lay what was painted into the regions."""
        layer = self.layer()
        if layer is None or self._slide is None or self._canvas is None:
            return
        labels = np.asarray(layer.data)
        changed = labels != self._laid
        if changed.any():
            self._laid[changed] = labels[changed]
            self._lay(self._slide, self._canvas, labels, changed)

    def _lay(self, slide: Image, canvas: Canvas, labels: NDArray[np.uint8], changed: NDArray[np.bool_]) -> None:
        shapes = self._regions.layer_on(slide)
        painted = painted_of(shapes)
        strokes = outlines_of(shapes, slide, [i for i, is_stroke in enumerate(painted) if not is_stroke])
        after = canvas.painted(strokes, labels, changed)
        before, kept = {id(stroke) for stroke in strokes}, {id(stroke) for stroke in after}
        numbers = [i for i, is_stroke in enumerate(painted) if is_stroke]
        selected = {i for i, stroke in zip(numbers, strokes, strict=True) if id(stroke) not in kept}
        if selected:
            shapes.selected_data = selected
            shapes.remove_selected()
        add_regions(shapes, [each for each in after if id(each) not in before], self._regions.classes.drafts())
        self._regions.files.note(shapes)

    # The layer follows the view, the slide and the classes

    def _on_view(self) -> None:
        if self.is_in_hand:
            self._look.start()

    def _follow(self) -> None:
        """Draw anew where the view has left the layer, or its pixels are too coarse."""
        if self.is_in_hand and self._slide is not None and self._canvas is not None:
            wanted = self._canvas_of_view(self._slide, 0.0)
            if wanted is None:
                return
            (top, left), (height, width) = self._canvas.origin, self._canvas.pixel
            low, high = np.array([top, left]), np.array([top, left]) + np.array(self._canvas.shape) * (height, width)
            end = np.array(wanted.origin) + np.array(wanted.shape) * wanted.pixel
            if (wanted.origin < low).any() or (end > high).any() or wanted.pixel[0] * 2 < height:
                self._draw()

    def _canvas_of_view(self, slide: Image, margin: float) -> Canvas | None:
        try:
            box = np.array(visible_box_um(self._viewer, slide)).reshape(2, 2)
        except LpdError:  # out of view
            return None
        mpp = np.array(slide.scale[-2:], dtype=float)
        size = np.array((slide.data[0] if slide.multiscale else slide.data).shape[:2])
        around = (box[1] - box[0]) * margin
        low, high = np.clip((box[0] - around) / mpp, 0, size), np.clip((box[1] + around) / mpp, 0, size)
        finest = max(1.0 / (self._viewer.scene.camera.zoom * mpp.max()), (high - low).max() / MOST_EDGE, 1.0)
        edge = 2 ** math.ceil(math.log2(finest) - 1e-9) if (high - low).max() / finest > MOST_EDGE / 2 else (
            2 ** math.floor(math.log2(finest) + 1e-9))  # fmt: skip
        first = np.floor(low / edge).astype(int)
        count = np.ceil(high / edge).astype(int) - first
        origin = first * edge
        return Canvas((float(origin[0]), float(origin[1])), (int(count[0]), int(count[1])), (edge, edge), self._names())

    def _draw(self) -> None:
        """Draw the strokes of the view into the layer."""
        layer, slide = self.layer(), self._slide
        canvas = None if slide is None else self._canvas_of_view(slide, MARGIN)
        if layer is None or slide is None or canvas is None:
            return
        shapes = self._regions.layer_on(slide)
        strokes = outlines_of(shapes, slide, [i for i, is_stroke in enumerate(painted_of(shapes)) if not is_stroke])
        mpp = np.array(slide.scale[-2:], dtype=float)
        before = self._canvas
        self._canvas, self._laid = canvas, canvas.drawn(strokes)
        layer.data = self._laid.copy()
        layer.scale = mpp * canvas.pixel
        layer.translate = corner(slide) + (np.array(canvas.origin) + np.array(canvas.pixel) / 2) * mpp
        for name, value in self._colours().items():
            setattr(layer, name, value)
        on_screen = BRUSH / (self._viewer.scene.camera.zoom * float(layer.scale[-1]))
        size = on_screen if before is None else layer.brush_size * before.pixel[0] / canvas.pixel[0]
        layer.brush_size = max(1, round(size))

    def _colours(self) -> dict[str, Any]:
        options = label_colours(self._regions.classes.drafts())
        grey = tuple(int(NO_TISSUE[i : i + 2], 16) / 255 for i in (1, 3, 5))
        options["colormap"] = DirectLabelColormap(color_dict={**options["colormap"].color_dict, OTHER: (*grey, 1.0)})
        options["features"].loc[len(options["features"])] = [OTHER, NONE]
        return options

    def _on_label(self) -> None:
        """Take back a label of napari's that is no tissue."""
        layer, names = self.layer(), self._names()
        if layer is not None and not 0 <= layer.selected_label <= len(names) and layer.selected_label != OTHER:
            self.take(self._first())

    def _on_active(self) -> None:
        self._settling.start()

    def _settle(self) -> None:
        """Show the layer while it is painted on; the regions show its strokes at other times.

        A layer that is added is active for a moment, in which the brush must not be put down.
        """
        layer = self.layer()
        if layer is None:
            return
        if self.is_in_hand and not layer.visible:
            self._draw()
        if layer.visible != self.is_in_hand:  # napari puts the brush down when a layer is shown that was shown
            layer.visible = self.is_in_hand
        self._regions.show_in_hand()

    def _on_slides(self) -> None:
        """Let go of a slide that is closed."""
        if self._slide is not None and self._slide not in self._viewer.layers:
            self.put_down()

    def _on_classes(self) -> None:
        QTimer.singleShot(0, self._renew)  # when the regions have their new names and colours

    def _renew(self) -> None:
        if self.is_in_hand:
            self._draw()
            self.take(self._first())
