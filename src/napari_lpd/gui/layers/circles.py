"""Circles of 3.1 mm² for the tumour-stroma ratio: points as large as a field, which can be moved and not resized."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Points

from napari_lpd.core.files import KEY
from napari_lpd.gui.layers.slides import UM, belongs, corner, kind, of_slide, visible_box_um
from napari_lpd.results.measures.areas import FIELD_MM2

if TYPE_CHECKING:
    import napari
    from napari.layers import Image
    from napari.utils.events import Event

FIELDS = "fields"
FIELD_UM = 2000 * math.sqrt(FIELD_MM2 / math.pi)  # diameter
FIELD_COLOR = "#ffffff"


def circle_layers(viewer: napari.Viewer, slide_layer: Image) -> list[Points]:
    """List the layers of circles on a slide."""
    layers = [each for each in viewer.layers if kind(each) == FIELDS and belongs(each, slide_layer)]
    return [each for each in layers if isinstance(each, Points)]


def place_circle(viewer: napari.Viewer, slide_layer: Image) -> None:
    """Add a circle in the middle of the view, ready to be moved.

    Raises:
        DataError: the slide is out of the view.
    """
    y0, x0, y1, x1 = visible_box_um(viewer, slide_layer)
    layers = circle_layers(viewer, slide_layer)
    circles = layers[0] if layers else viewer.add_points(
        ndim=2,
        name=f"fields of 3.1 mm² ({slide_layer.name})",
        units=(UM, UM),
        size=FIELD_UM,
        face_color="#ffffff00",
        border_color=FIELD_COLOR,
        border_width=8,
        border_width_is_relative=False,
        metadata={KEY: {"kind": FIELDS, **of_slide(slide_layer)}},
    )  # fmt: skip
    circles.events.size.connect(_keep_size)
    centre = np.array([(y0 + y1) / 2, (x0 + x1) / 2]) + corner(slide_layer)
    circles.add(circles.world_to_data(centre))
    viewer.layers.selection.active = circles
    circles.mode = "select"


def _keep_size(event: Event) -> None:
    circles = event.source
    if (np.asarray(circles.size) != FIELD_UM).any():
        circles.size = FIELD_UM
