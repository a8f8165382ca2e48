"""*File ▸ Save* for masks: whatever name and filter are chosen, a mask becomes an OME-TIFF with its classes.

napari's own writer, which stands first in its dialog, fails for masks with levels, and loses classes and resolution.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_lpd.gui.contributions import write_mask
from napari_lpd.gui.layers.slides import kind
from napari_lpd.slides.formats import TIFF_SUFFIXES

if TYPE_CHECKING:
    import napari

SAVE = "save"


def save_masks_with_classes(viewer: napari.Viewer) -> None:
    """From now on save a mask that is saved alone from the viewer's menu with our writer."""
    layers = getattr(viewer, "__wrapped__", viewer).layers  # plugins are handed a proxy
    if SAVE in vars(layers):
        return
    napari_save = layers.save

    def save(path: Any, *, selected: bool = False, **options: Any) -> list[str]:
        chosen = list(layers.selection) if selected else list(layers)
        if len(chosen) != 1 or kind(chosen[0]) != "labels":
            saved: list[str] = napari_save(path, selected=selected, **options)
            return saved
        target = Path(path)
        if not target.name.lower().endswith(TIFF_SUFFIXES):
            target = target.with_name(f"{target.name}.ome.tif")
        data, attributes, _ = chosen[0].as_layer_data_tuple()
        return [str(write_mask(target, data, attributes, asked_for=Path(path)))]

    setattr(layers, SAVE, save)
