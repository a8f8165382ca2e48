"""Two predictions side by side in napari's own grid, which has one camera; closing leaves the viewer as it was.

The grid gives every group of `stride` layers a place of its own, counted from the top of the layer list where the
stride is negative. Each model brings a group: the slide once more, a heatmap and its mask. One heatmap layer serves
all classes: the list of layers stays short, and napari has less to arrange anew. What the user had is hidden meanwhile.
Any layer that comes, goes or moves would break the groups, and therefore ends this.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from qtpy.QtCore import QTimer

from napari_lpd.core.files import KEY
from napari_lpd.gui.layers.results import prediction_layers
from napari_lpd.gui.layers.slides import COMPARED, corner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import napari
    from napari.layers import Image, Labels, Layer

    from napari_lpd.gui.layers.results import LayerData
    from napari_lpd.results.prediction import Prediction

SPACING = 6  # pixels between the two
PARTS = ("slide", "heatmap", "labels")  # of a group, from below


class _Before(NamedTuple):
    """What is put back."""

    visible: dict[Layer, bool]
    selected: set[Layer]
    grid: dict[str, Any]
    point: tuple[float, ...]
    axis_labels: tuple[str, ...]


class SideBySide:
    """Shows predictions next to each other until it is closed, or the layer list or the grid is changed.

    Attributes:
        on_change: Called after it was opened or closed.
        changing: It is being opened or closed: layers come and go that are no concern of others.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer = viewer
        self._layers: list[Layer] = []
        self._heatmaps: list[list[LayerData]] = []  # per model and class
        self._index = 0
        self._before: _Before | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.changing = False

    @property
    def is_open(self) -> bool:
        """Whether predictions stand side by side now."""
        return self._before is not None

    def show(self, predictions: Sequence[tuple[str, Prediction]], slide_layer: Image) -> None:
        """Show predictions of one slide, (name of the model, prediction) each, from left to right."""
        models = [_heatmaps_and_mask(name, prediction, slide_layer) for name, prediction in predictions]
        self.close()
        self._heatmaps, self._index = [heatmaps for *heatmaps, _ in models], 0
        _same_scale(self._heatmaps)
        groups = [
            [_slide(name, slide_layer), heatmap, mask]
            for (name, _), (heatmap, *_, mask) in zip(predictions, models, strict=True)
        ]
        with self._change():
            self._before = self._put_in_place(groups)
        for event in self._watched():
            event.connect(self._on_changed_by_others)
        self.on_change()

    def close(self) -> None:
        """Take everything away and put back what was there; the camera stays where it is."""
        if self._before is None:
            return
        for event in self._watched():
            event.disconnect(self._on_changed_by_others)
        with self._change():
            before, self._before = self._before, None
            self._put_back(before)
        self.on_change()

    def _put_in_place(self, groups: Sequence[Sequence[LayerData]]) -> _Before:
        viewer, grid = self._viewer, self._viewer.canvas.grid
        before = _Before(
            visible={layer: layer.visible for layer in viewer.layers},
            selected=set(viewer.layers.selection),
            grid={name: getattr(grid, name) for name in ("enabled", "stride", "shape", "spacing")},
            point=tuple(viewer.dims.point),
            axis_labels=tuple(viewer.dims.axis_labels),
        )
        camera = self._camera()
        for layer in viewer.layers:
            layer.visible = False
        for data, options, layer_type in (part for group in reversed(groups) for part in group):
            self._layers.insert(0, getattr(viewer, f"add_{layer_type}")(data, **options))
        for layer in self._of_kind("slide"):
            layer.name_overlay.visible = True
        grid.stride, grid.shape, grid.spacing = -len(PARTS), (1, len(groups)), SPACING
        grid.enabled = True
        viewer.dims.set_point(0, 0)
        viewer.scene.camera.update(camera)
        return before

    def _put_back(self, before: _Before) -> None:
        viewer, grid = self._viewer, self._viewer.canvas.grid
        camera = self._camera()
        grid.enabled = False
        with viewer.layers.batched_update():  # napari collects all garbage once, not after each layer
            for layer in self._layers:
                if layer in viewer.layers:
                    viewer.layers.remove(layer)
        self._layers, self._heatmaps = [], []
        for layer, was_visible in before.visible.items():
            if layer in viewer.layers:
                layer.visible = was_visible
        viewer.layers.selection = before.selected & set(viewer.layers)
        if viewer.dims.ndim == len(before.point):
            viewer.dims.point = before.point
            viewer.dims.axis_labels = before.axis_labels
        for name, value in before.grid.items():
            setattr(grid, name, value)
        viewer.scene.camera.update(camera)

    @contextmanager
    def _change(self) -> Iterator[None]:
        self.changing = True
        try:
            yield
        finally:
            self.changing = False

    def _watched(self) -> list[Any]:
        of_layers = self._viewer.layers.events
        return [of_layers.inserted, of_layers.removed, of_layers.reordered, self._viewer.canvas.grid.events.enabled]

    def classes(self) -> list[str]:
        """Names of the classes that there are heatmaps of; [] when closed."""
        return [options["metadata"][KEY]["class"] for _, options, _ in self._heatmaps[0]] if self._heatmaps else []

    def heatmaps(self, index: int | None = None) -> list[Image]:
        """The heatmap of every model, left first; of class `index`, from 0, if given."""
        layers = self._of_kind("heatmap")
        if index is not None and index != self._index:
            self._index = index
            for layer, own in zip(layers, self._heatmaps, strict=True):
                data, options, _ = own[index]
                layer.data, layer.name = data, options["name"]
                layer.metadata, layer.contrast_limits = options["metadata"], options["contrast_limits"]
        return layers

    def masks(self) -> list[Labels]:
        """The mask of every model, left first."""
        return self._of_kind("labels")

    def _of_kind(self, part: str) -> list[Layer]:
        return [layer for layer in self._layers if layer.metadata[KEY]["part"] == part]

    def _camera(self) -> dict[str, Any]:
        camera = self._viewer.scene.camera
        return {"center": camera.center, "zoom": camera.zoom}

    def _on_changed_by_others(self) -> None:
        QTimer.singleShot(0, self.close)  # not while napari still works on its list


def _slide(name: str, layer: Image) -> LayerData:
    """The slide once more, under a model's name."""
    options = {
        "name": f"{name} · {layer.name}",
        "rgb": True,
        "multiscale": layer.multiscale,
        "scale": layer.scale,
        "translate": layer.translate,
        "units": layer.units,
        "metadata": {KEY: {"kind": COMPARED, "part": "slide"}},
    }
    return layer.data, options, "image"


def _heatmaps_and_mask(name: str, prediction: Prediction, slide_layer: Image) -> list[LayerData]:
    """A heatmap per class, then the mask, marked so that every other part of the plugin leaves the layers alone."""
    found = []
    for data, options, layer_type in prediction_layers(prediction, corner(slide_layer)):
        about = options["metadata"][KEY]
        if about["kind"] in PARTS:
            options["metadata"] = {KEY: about | {"kind": COMPARED, "part": about["kind"]}}
            options["name"] = f"{name} · {options['name'] if about['kind'] == 'heatmap' else 'tissues'}"
            found.append((data, options, layer_type))
    return found


def _same_scale(heatmaps: Sequence[Sequence[LayerData]]) -> None:
    """Give the heatmaps of a class one contrast for all models."""
    for same in zip(*heatmaps, strict=True):
        limits = np.array([options["contrast_limits"] for _, options, _ in same])
        for _, options, _ in same:
            options["contrast_limits"] = (int(limits[:, 0].min()), int(limits[:, 1].max()))
