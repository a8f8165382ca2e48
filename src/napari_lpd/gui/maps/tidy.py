"""What goes with what: with a mask its maps, with a slide, if the user says so, its results, and their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QMessageBox

from napari_lpd.core.files import KEY
from napari_lpd.gui.layers.results import KINDS, our_layers, remove_layers, restack_all, shown_labels
from napari_lpd.gui.layers.slides import COMPARED, kind, slide_id, slide_layers
from napari_lpd.gui.maps.under_cursor import name_tissues

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer
    from napari.utils.events import Event
    from qtpy.QtWidgets import QWidget

TIDY = "napari_lpd_tidy"  # name of a window's `_Tidy`


def keep_tidy(viewer: napari.Viewer) -> None:
    """From now on ask for the results of a slide that is removed, remove the maps of a mask that is, name tissues."""
    viewer = getattr(viewer, "__wrapped__", viewer)  # plugins are handed a proxy
    window = viewer.window._qt_window
    if window.findChild(QObject, TIDY) is None:
        _Tidy(viewer, window)


class _Tidy(QObject):
    """Looks at what was removed from a viewer, later: all layers may be about to go.

    Args:
        viewer: The viewer.
        window: Its window, which owns this.
    """

    def __init__(self, viewer: napari.Viewer, window: QWidget) -> None:
        super().__init__(window)
        self.setObjectName(TIDY)
        self._viewer, self._window = viewer, window
        self._removed: list[Layer] = []
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.timeout.connect(self._look)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.layers.events.inserted.connect(self._on_inserted)
        self._on_inserted()

    def _on_inserted(self) -> None:
        """Name the tissues of results where their slides are selected."""
        if shown_labels(self._viewer) is None:
            return
        for layer in slide_layers(self._viewer):
            if our_layers(self._viewer, slide_id(layer), "labels"):
                name_tissues(self._viewer, layer)

    def _on_removed(self, event: Event) -> None:
        layer = event.value
        is_slide = isinstance(layer, Image) and layer.rgb and kind(layer) != COMPARED
        if kind(layer) == "labels" or (is_slide and shown_labels(self._viewer) is not None):
            self._removed.append(layer)
            self._later.start()

    def _look(self) -> None:
        removed, self._removed = self._removed, []
        for layer in removed:
            if kind(layer) == "labels":
                self._remove_orphans(layer.metadata[KEY]["slide"])
                restack_all(self._viewer, layer.metadata[KEY]["slide"])
            else:
                self._ask(layer.name, slide_id(layer))

    def _of_results(self, slide: str) -> list[Layer]:
        """List the layers of a slide's results, of the uppermost and of those below."""
        about = [(layer, layer.metadata.get(KEY, {})) for layer in self._viewer.layers if kind(layer) in KINDS]
        return [layer for layer, found in about if found.get("slide") == slide and "prediction" in found]

    def _remove_orphans(self, slide: str) -> None:
        """Remove the maps of results of a slide that have no mask any more."""
        folders = {layer: layer.metadata[KEY]["prediction"].folder for layer in self._of_results(slide)}
        masks = {folder for layer, folder in folders.items() if kind(layer) == "labels"}
        if left := [layer for layer, folder in folders.items() if folder not in masks]:
            remove_layers(self._viewer, left)

    def _ask(self, name: str, slide: str) -> None:
        """Ask whether the results of a slide that was removed are to go, too, unless the slide is open once more."""
        masks = sum(kind(layer) == "labels" for layer in self._of_results(slide))
        if not masks or slide in map(slide_id, slide_layers(self._viewer)):
            return
        buttons, what = QMessageBox.StandardButton, "mask" if masks == 1 else f"{masks} masks"
        question = f"Remove the {what} of {name}, too? Results of whole slides stay in their folder."
        answer = QMessageBox.question(self._window, "napari-lpd", question, buttons.Yes | buttons.No)
        if answer == buttons.Yes:
            remove_layers(self._viewer, self._of_results(slide))
