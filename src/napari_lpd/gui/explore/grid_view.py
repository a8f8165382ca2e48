"""Two predictions side by side in napari's grid, which has one camera; closing restores the viewer.

The grid gives every group of `stride` layers a cell, counted from the top of the layer list if the stride is negative.
Each model has a group: a copy of the slide, a heatmap and a mask. One heatmap layer serves all classes, so that the
layer list stays short and napari has less to rearrange. The user's layers are hidden meanwhile. Adding, removing or
moving a layer would break the groups and therefore closes the view.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from qtpy.QtCore import QTimer

from napari_lpd.core.files import KEY
from napari_lpd.gui.layers.results import parts_of, prediction_layers
from napari_lpd.gui.layers.slides import COMPARED, Shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import napari
    from napari.layers import Image, Labels, Layer

    from napari_lpd.gui.layers.results import LayerData
    from napari_lpd.results.prediction import Prediction

SPACING = 6  # pixels between the two
PARTS = ("slide", "heatmap", "labels")  # layers of a group, from below


class _Before(NamedTuple):
    """State of the viewer to restore."""

    visible: dict[Layer, bool]
    selected: set[Layer]
    grid: dict[str, Any]
    point: tuple[float, ...]
    axis_labels: tuple[str, ...]


class SideBySide:
    """Side-by-side view of predictions; a change of the layer list or the grid closes it.

    Attributes:
        on_change: Called after the view was opened or closed.
        changing: The view is being opened or closed; others ignore changes of layers meanwhile.
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
        """Whether the view is open."""
        return self._before is not None

    def show(self, predictions: Sequence[tuple[str, Prediction]], slide_layer: Image) -> None:
        """Show predictions of one slide, (name of the model, prediction) each, from left to right."""
        models = [_heatmaps_and_mask(name, prediction, slide_layer) for name, prediction in predictions]
        self.close()
        self._heatmaps, self._index = [heatmaps for *heatmaps, _ in models], 0
        _equalise_contrast(self._heatmaps)
        groups = [
            [_slide(name, slide_layer), heatmap, mask]
            for (name, _), (heatmap, *_, mask) in zip(predictions, models, strict=True)
        ]
        with self._change():
            self._before = self._arrange(groups)
        for event in self._watched():
            event.connect(self._on_changed_by_others)
        self.on_change()

    def close(self) -> None:
        """Remove the view's layers and restore the viewer, except for the camera."""
        if self._before is None:
            return
        for event in self._watched():
            event.disconnect(self._on_changed_by_others)
        with self._change():
            before, self._before = self._before, None
            self._restore(before)
        self.on_change()

    def _arrange(self, groups: Sequence[Sequence[LayerData]]) -> _Before:
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
        for data, options, layer_type in (layer for group in reversed(groups) for layer in group):
            self._layers.insert(0, getattr(viewer, f"add_{layer_type}")(data, **options))
        for layer in self._of_kind("slide"):
            layer.name_overlay.visible = True
        grid.stride, grid.shape, grid.spacing = -len(PARTS), (1, len(groups)), SPACING
        grid.enabled = True
        viewer.dims.set_point(0, 0)
        viewer.scene.camera.update(camera)
        return before

    def _restore(self, before: _Before) -> None:
        viewer, grid = self._viewer, self._viewer.canvas.grid
        camera = self._camera()
        grid.enabled = False
        with viewer.layers.batched_update():  # so that napari collects garbage once, not after each layer
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
        """List the names of the classes with heatmaps; [] when closed."""
        return [options["metadata"][KEY]["class"] for _, options, _ in self._heatmaps[0]] if self._heatmaps else []

    def heatmaps(self, index: int | None = None) -> list[Image]:
        """Return the heatmap of every model from left to right, after a change to class `index` if given."""
        layers = self._of_kind("heatmap")
        if index is not None and index != self._index:
            self._index = index
            for layer, class_maps in zip(layers, self._heatmaps, strict=True):
                data, options, _ = class_maps[index]
                layer.data, layer.name = data, options["name"]
                layer.metadata, layer.contrast_limits = options["metadata"], options["contrast_limits"]
        return layers

    def masks(self) -> list[Labels]:
        """Return the mask of every model from left to right."""
        return self._of_kind("labels")

    def _of_kind(self, part: str) -> list[Layer]:
        return [layer for layer in self._layers if layer.metadata[KEY]["part"] == part]

    def _camera(self) -> dict[str, Any]:
        camera = self._viewer.scene.camera
        return {"center": camera.center, "zoom": camera.zoom}

    def _on_changed_by_others(self) -> None:
        QTimer.singleShot(0, self.close)  # later, when napari has finished changing its list


def _slide(name: str, layer: Image) -> LayerData:
    """Return layer data of a copy of the slide, named after a model."""
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
    """Return layer data of a heatmap per class and the mask, marked so that other modules ignore the layers."""
    layers = []
    parts = [part for part in parts_of(prediction) if part[0] in PARTS]
    for data, options, layer_type in prediction_layers(prediction, Shown.by(slide_layer), parts):
        metadata = options["metadata"][KEY]
        options["metadata"] = {KEY: metadata | {"kind": COMPARED, "part": metadata["kind"]}}
        options["name"] = f"{name} · {options['name'] if metadata['kind'] == 'heatmap' else 'mask'}"
        layers.append((data, options | {"visible": metadata["kind"] == "labels"}, layer_type))
    return layers


def _equalise_contrast(heatmaps: Sequence[Sequence[LayerData]]) -> None:
    """Set the same contrast limits for the heatmaps of a class in all models."""
    for class_maps in zip(*heatmaps, strict=True):
        limits = np.array([options["contrast_limits"] for _, options, _ in class_maps])
        for _, options, _ in class_maps:
            options["contrast_limits"] = (int(limits[:, 0].min()), int(limits[:, 1].max()))
