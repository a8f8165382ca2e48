"""The tissue under the cursor, named in napari's status bar while the slide is selected, and not its mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_lpd.gui.layers.results import our_layers
from napari_lpd.gui.layers.slides import slide_id

if TYPE_CHECKING:
    import napari
    from napari.layers import Image


def name_tissues(viewer: napari.Viewer, slide_layer: Image) -> None:
    """From now on add what the uppermost visible mask says to the status of a slide layer."""
    if "get_status" in vars(slide_layer):
        return
    status_of_slide = slide_layer.get_status

    def get_status(position: Any = None, **options: Any) -> dict[str, str]:
        status: dict[str, str] = status_of_slide(position, **options)
        masks = [each for each in our_layers(viewer, slide_id(slide_layer), "labels") if each.visible]
        if masks and position is not None:
            value = masks[-1].get_value(position, **options)
            names = dict(masks[-1].features[["index", "class"]].to_numpy().tolist())
            name = names.get(value[1] if masks[-1].multiscale and value is not None else value, "")
            status["coordinates"] += f"; {name}" if name else ""
        return status

    setattr(slide_layer, "get_status", get_status)  # noqa: B010
