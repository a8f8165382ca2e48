"""Two predictions side by side in napari's own grid, which has one camera; closing leaves the viewer as it was.

The grid gives every group of `stride` layers a place of its own, counted from the top of the layer list where the
stride is negative. Each model brings a group: the slide once more, its heatmaps and its mask. What the user had is
hidden meanwhile. Any layer that comes, goes or moves would break the groups, and therefore ends this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from qtpy.QtCore import QTimer

from napari_lpd.gui._layers import COMPARED, KEY, corner
from napari_lpd.gui._results import prediction_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import napari
    from napari.layers import Image, Labels, Layer

    from napari_lpd.gui._results import LayerData
    from napari_lpd.prediction import Prediction

SPACING = 6  # pixels between the two
WATCHED = ("inserted", "removed", "reordered")


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
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        self._viewer = viewer
        self._layers: list[Layer] = []
        self._before: _Before | None = None
        self.on_change: Callable[[], None] = lambda: None

    @property
    def is_open(self) -> bool:
        """Whether predictions stand side by side now."""
        return self._before is not None

    def show(self, predictions: Sequence[tuple[str, Prediction]], slide_layer: Image) -> None:
        """Show predictions of one slide, (name of the model, prediction) each, from left to right."""
        self.close()
        viewer, grid = self._viewer, self._viewer.canvas.grid
        self._before = _Before(
            visible={layer: layer.visible for layer in viewer.layers},
            selected=set(viewer.layers.selection),
            grid={name: getattr(grid, name) for name in ("enabled", "stride", "shape", "spacing")},
            point=tuple(viewer.dims.point),
            axis_labels=tuple(viewer.dims.axis_labels),
        )
        camera = self._camera()
        for layer in viewer.layers:
            layer.visible = False
        groups = [_group(name, prediction, slide_layer) for name, prediction in reversed(predictions)]
        _same_scale(groups)
        for data, options, layer_type in (part for group in groups for part in group):
            self._layers.append(getattr(viewer, f"add_{layer_type}")(data, **options))
        for layer in self._layers:
            layer.name_overlay.visible = _part(layer) == "slide"
        grid.stride, grid.shape, grid.spacing = -len(groups[0]), (1, len(groups)), SPACING
        grid.enabled = True
        viewer.dims.set_point(0, 0)
        viewer.scene.camera.update(camera)
        for event in WATCHED:
            getattr(viewer.layers.events, event).connect(self._on_changed_by_others)
        grid.events.enabled.connect(self._on_changed_by_others)
        self.on_change()

    def close(self) -> None:
        """Take everything away and put back what was there; the camera stays where it is."""
        if self._before is None:
            return
        before, self._before = self._before, None
        viewer, grid = self._viewer, self._viewer.canvas.grid
        for event in WATCHED:
            getattr(viewer.layers.events, event).disconnect(self._on_changed_by_others)
        grid.events.enabled.disconnect(self._on_changed_by_others)
        camera = self._camera()
        grid.enabled = False
        for layer in self._layers:
            if layer in viewer.layers:
                viewer.layers.remove(layer)
        self._layers = []
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
        self.on_change()

    def heatmaps(self) -> list[tuple[Image, ...]]:
        """Per class the heatmap layers of all models; [] when closed."""
        found: dict[str, list[Image]] = {}
        for layer in reversed(self._layers):
            if _part(layer) == "heatmap":
                found.setdefault(layer.metadata[KEY]["class"], []).append(layer)
        return [tuple(layers[::-1]) for layers in found.values()][::-1]

    def masks(self) -> list[Labels]:
        """The mask of every model."""
        return [layer for layer in self._layers if _part(layer) == "labels"]

    def _camera(self) -> dict[str, Any]:
        camera = self._viewer.scene.camera
        return {"center": camera.center, "zoom": camera.zoom}

    def _on_changed_by_others(self) -> None:
        QTimer.singleShot(0, self.close)  # not while napari still works on its list


def _part(layer: Layer) -> str:
    return str(layer.metadata[KEY]["part"])


def _group(name: str, prediction: Prediction, slide_layer: Image) -> list[LayerData]:
    """The slide once more, then a model's heatmaps and its mask, as layer data."""
    slide: LayerData = (
        slide_layer.data,
        {
            "name": f"{name} · {slide_layer.name}",
            "rgb": True,
            "multiscale": slide_layer.multiscale,
            "scale": slide_layer.scale,
            "translate": slide_layer.translate,
            "units": slide_layer.units,
            "metadata": {KEY: {"kind": COMPARED, "part": "slide"}},
        },
        "image",
    )
    parts = [slide]
    for data, options, layer_type in prediction_layers(prediction, corner(slide_layer)):
        about = options["metadata"][KEY]
        if about["kind"] in ("heatmap", "labels"):
            options["metadata"] = {KEY: about | {"kind": COMPARED, "part": about["kind"]}}
            options["name"] = f"{name} · {options['name'] if about['kind'] == 'heatmap' else 'tissues'}"
            parts.append((data, options, layer_type))
    return parts


def _same_scale(groups: Sequence[Sequence[LayerData]]) -> None:
    """Give the heatmaps of a class one contrast in all groups."""
    for same in zip(*groups, strict=True):
        if "contrast_limits" in same[0][1]:
            limits = np.array([options["contrast_limits"] for _, options, _ in same])
            for _, options, _ in same:
                options["contrast_limits"] = (int(limits[:, 0].min()), int(limits[:, 1].max()))
