"""What goes with what: with a mask its maps, and with a slide, if the user says so, its results."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from napari.layers import Image
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QMessageBox

from napari_lpd.core.files import KEY
from napari_lpd.gui.layers.results import KINDS, shown_labels
from napari_lpd.gui.layers.slides import COMPARED, kind, slide_id, slide_layers

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer
    from napari.utils.events import Event

TIDIED = "napari_lpd_tidied"  # in a viewer's window: it is kept tidy


def keep_tidy(viewer: napari.Viewer) -> None:
    """From now on ask for the results of a slide that is removed, and remove the maps of a mask that is."""
    viewer = getattr(viewer, "__wrapped__", viewer)  # plugins are handed a proxy
    window = viewer.window._qt_window
    if window.property(TIDIED):
        return
    window.setProperty(TIDIED, True)

    def on_removed(event: Event) -> None:
        layer = event.value
        is_slide = isinstance(layer, Image) and layer.rgb and kind(layer) != COMPARED
        if is_slide and shown_labels(viewer) is not None:  # later: all layers may be about to go
            QTimer.singleShot(0, window, partial(_ask, viewer, layer.name, slide_id(layer)))
        elif kind(layer) == "labels":
            QTimer.singleShot(0, window, partial(_tidy, viewer, layer.metadata[KEY]["slide"]))

    viewer.layers.events.removed.connect(on_removed)


def _of_results(viewer: napari.Viewer, slide: str) -> list[Layer]:
    """List the layers of a slide's results, of the uppermost and of those below."""
    about = {layer: layer.metadata.get(KEY, {}) for layer in viewer.layers}
    return [layer for layer, found in about.items()
            if found.get("slide") == slide and "prediction" in found and kind(layer) in KINDS]  # fmt: skip


def _tidy(viewer: napari.Viewer, slide: str) -> None:
    """Remove the maps of results of a slide that have no mask any more."""
    folders = {layer: layer.metadata[KEY]["prediction"].folder for layer in _of_results(viewer, slide)}
    masks = {folder for layer, folder in folders.items() if kind(layer) == "labels"}
    if left := [layer for layer, folder in folders.items() if folder not in masks]:
        _remove(viewer, left)


def _ask(viewer: napari.Viewer, name: str, slide: str) -> None:
    """Ask whether the results of a slide that was removed are to go, too, unless the slide is open once more."""
    layers = _of_results(viewer, slide)
    if not layers or slide in map(slide_id, slide_layers(viewer)):
        return
    buttons = QMessageBox.StandardButton
    masks = sum(kind(layer) == "labels" for layer in layers)
    what = "its mask" if masks == 1 else f"its {masks} masks"
    question = f"{name} is removed. Remove {what} from the window, too? Results of whole slides stay in their folder."
    answer = QMessageBox.question(viewer.window._qt_window, "napari-lpd", question, buttons.Yes | buttons.No)
    if answer == buttons.Yes:
        _remove(viewer, _of_results(viewer, slide))


def _remove(viewer: napari.Viewer, layers: list[Layer]) -> None:
    with viewer.layers.batched_update():  # so that napari collects garbage once, not after each layer
        for layer in layers:
            viewer.layers.remove(layer)
