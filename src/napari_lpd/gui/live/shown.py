"""The layer of the live mask: the labelled cells of the view in one picture, coarser where there are many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_lpd.core.classes import UNSURE_CLASS
from napari_lpd.core.files import KEY
from napari_lpd.core.labelling.rule import UNSURE
from napari_lpd.data.tileset import CELL
from napari_lpd.gui.common.layout import chooser, in_row, tip
from napari_lpd.gui.layers.results import label_colours, our_layers
from napari_lpd.gui.layers.slides import UM, corner, kind, of_slide, slide_id
from napari_lpd.gui.live.engine import CLUSTERED, LEARNED

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari.viewer
    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.gui.live.engine import Engine, Maps
    from napari_lpd.models.network import LoadedModel
    from napari_lpd.training.live import CellIndex, LiveCell

LIVE, HEATMAP = "live", "live heatmap"  # kinds of the layers
EDGE = 2048  # pixels of the shown mask's longer edge, at most
HATCH = 254  # label of a hatching line
CLUSTERED_HELP = (
    "Show prototypes that are clustered from the same regions (k-means centres, as in PBIP) instead of learned ones;"
    " after every change they take seconds to make"
)
LINES, THICK = 12, 3  # pixels from one hatching line to the next, and of a line


class ShownMask:
    """Shows what an engine has labelled.

    Args:
        viewer: The viewer.

    Attributes:
        hatched: Whether places that the model is not sure of are hatched.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self.hatched = False

    def paint(self, engine: Engine, classes: Sequence[TissueClass]) -> None:
        """Show the labelled cells of the view in the colours that the classes have now."""
        shown = [cell for cell in engine.seen if cell in engine.cells]
        if engine.model is None or not shown or engine.layer not in self._viewer.layers:
            return
        (top, left), (bottom, right) = np.min(shown, 0), np.max(shown, 0) + 1
        step = 1
        while max(bottom - top, right - left) * CELL // step > EDGE and step < CELL:
            step *= 2
        edge = CELL // step
        mask = np.zeros(((bottom - top) * edge, (right - left) * edge), np.uint8)
        for y, x in shown:
            part = (slice((y - top) * edge, (y - top + 1) * edge), slice((x - left) * edge, (x - left + 1) * edge))
            mask[part] = self._labels((y, x), engine.cells[y, x], step)
        mpp = engine.settings.mpp
        origin = corner(engine.layer) + np.array([top, left]) * CELL * mpp + mpp * step / 2
        now = {tissue.name: tissue for tissue in classes}
        colours = _with_hatching([now.get(tissue.name, tissue) for tissue in engine.model.card.classes])
        self._show(mask, engine, {"scale": (mpp * step, mpp * step), "translate": origin, **colours})

    def _labels(self, index: CellIndex, cell: LiveCell, step: int) -> NDArray[np.uint8]:
        labels: NDArray[np.uint8] = cell.labels[step // 2 :: step, step // 2 :: step]
        if not self.hatched:
            return labels
        edge = len(labels)
        rows, columns = (number * edge + np.arange(edge) for number in index)
        lines = (rows[:, None] + columns) % LINES < THICK
        return np.where(lines & (labels == UNSURE), np.uint8(HATCH), labels)

    def _show(self, mask: NDArray[np.uint8], engine: Engine, options: dict[str, Any]) -> None:
        """Put the mask into the slide's live layer, made below its regions; selection and tool stay as they are."""
        options["name"] = f"live mask ({engine.layer.name})"
        for layer in our_layers(self._viewer, slide_id(engine.layer), LIVE):
            for name, value in options.items():
                setattr(layer, name, value)
            layer.data = mask
            return
        active = self._viewer.layers.selection.active
        about = {KEY: {"kind": LIVE, **of_slide(engine.layer)}}
        layer = Labels(mask, opacity=0.5, units=(UM, UM), metadata=about, **options)
        self._viewer.layers.insert(self._viewer.layers.index(engine.layer) + 1, layer)
        layer.editable = False
        self._viewer.layers.selection.active = active

    def show_maps(self, engine: Engine, tissue: str, found: Maps) -> None:
        """Show the maps of a tissue's prototypes above the mask."""
        mpp, maps = engine.settings.mpp * engine.stride, found.maps
        origin = corner(engine.layer) + np.array(found.first) * CELL * engine.settings.mpp + mpp / 2
        options: dict[str, Any] = {
            "name": f"{tissue} prototypes (live, {found.bank})",
            "scale": (1, mpp, mpp),
            "translate": (0, *origin),
        }
        active, camera = self._viewer.layers.selection.active, self._viewer.scene.camera
        for layer in our_layers(self._viewer, slide_id(engine.layer), HEATMAP):
            for name, value in options.items():
                setattr(layer, name, value)
            layer.data = maps
            return
        seen = {"center": camera.center, "zoom": camera.zoom}
        about = {KEY: {"kind": HEATMAP, **of_slide(engine.layer)}}
        options |= {"units": ("pixel", UM, UM), "axis_labels": ("prototype", "y", "x"), "metadata": about}
        layer = Image(maps, colormap="magma", contrast_limits=(0, 1), opacity=0.6, interpolation2d="linear", **options)
        self._viewer.add_layer(layer)
        self._viewer.dims.set_point(0, 0)
        camera.update(seen)
        self._viewer.layers.selection.active = active

    def clear(self, *kinds: str) -> None:
        """Take the masks and the heatmaps away, or layers of some kinds."""
        for layer in [layer for layer in self._viewer.layers if kind(layer) in (kinds or (LIVE, HEATMAP))]:
            self._viewer.layers.remove(layer)


class HeatmapChoice(QWidget):
    """Choice of the tissue whose prototypes are shown as heatmaps, and whether learned or clustered ones.

    Signals:
        changed: the user has chosen.

    Attributes:
        box: The combo box.
        clustered: The switch.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.box = chooser()
        self.box.setToolTip("Show where each prototype of a tissue answers; the slider below goes through them")
        self.clustered = QCheckBox("Clustered")
        self.clustered.setToolTip(tip(CLUSTERED_HELP))
        row = in_row([self.box, self.clustered])
        row.layout().setStretch(0, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(row)
        self.box.activated.connect(self._on_chosen)
        self.clustered.toggled.connect(self.changed)
        self.offer(None)

    @property
    def tissue(self) -> str:
        """The tissue; "" for none."""
        return str(self.box.currentData())

    @property
    def bank(self) -> str:
        """Which prototypes."""
        return CLUSTERED if self.clustered.isChecked() else LEARNED

    def _on_chosen(self) -> None:
        self.clustered.setVisible(bool(self.tissue))
        self.changed.emit()

    def offer(self, model: LoadedModel | None) -> None:
        """Offer the tissues that a model knows, and keep the choice."""
        chosen = self.box.currentData()
        self.box.clear()
        self.box.addItem("Heatmap: none", "")
        for tissue in () if model is None else model.card.classes:
            self.box.addItem(f"Heatmap: prototypes of {tissue.name}", tissue.name)
        self.box.setCurrentIndex(max(0, self.box.findData(chosen)))
        self.clustered.setVisible(bool(self.tissue))
        self.setVisible(model is not None)


def _with_hatching(classes: Sequence[TissueClass]) -> dict[str, Any]:
    """Return the colours and names of the classes' labels and of the hatching."""
    options = label_colours(classes)
    colours = {**options["colormap"].color_dict, HATCH: (0.0, 0.0, 0.0, 1.0)}
    options["colormap"] = DirectLabelColormap(color_dict=colours)
    options["features"].loc[len(options["features"])] = [HATCH, UNSURE_CLASS.name]
    return options
