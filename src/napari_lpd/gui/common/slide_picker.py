"""Choice of the slide: a list of the viewer's RGB layers, with the resolution and its source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QPushButton, QVBoxLayout, QWidget

from napari_lpd.core.errors import LpdError, SlideError, one_line
from napari_lpd.core.files import KEY
from napari_lpd.gui.common.layer_box import LayerBox
from napari_lpd.gui.common.layout import buttons, chooser, in_row, note
from napari_lpd.gui.common.saving import save_masks_with_classes
from napari_lpd.gui.contributions import slide_layer_data
from napari_lpd.gui.layers.slides import (
    UM,
    bring_to_front,
    change_resolution,
    entered_mpp,
    follow,
    hold_in_place,
    is_entered,
    kind,
    slide_layers,
    slide_path,
)
from napari_lpd.slides.formats import TIFF_SUFFIXES, VENDOR_SUFFIXES

if TYPE_CHECKING:
    import napari
    from napari.layers import Image


class SlidePicker(QWidget):
    """Combo box of slides; where the resolution is missing, a field to enter it.

    Signals:
        changed: another slide was chosen, or its resolution was set.
    """

    changed = Signal()

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        save_masks_with_classes(viewer)
        self._described: Image | None = None
        self._box: LayerBox[Image] = LayerBox()
        self.combo = self._box.combo
        self.resolution = note("")
        self.images = chooser()
        self.images.setToolTip("The file holds several images: another one opens as a slide of its own")
        self.images.setVisible(False)
        self._entry = QWidget()
        self.mpp = QLineEdit()
        self.mpp.setPlaceholderText("µm per pixel: unknown")
        use = QPushButton("Use")
        self.change = QPushButton("Change")
        self.change.setToolTip("Enter another resolution")

        row = QHBoxLayout(self._entry)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.mpp, 1)
        row.addWidget(use)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        browse = buttons(("Open…", "Open a slide file with napari-lpd's reader", self._on_open))
        chosen = in_row([self.combo, browse])
        chosen.layout().setStretch(0, 1)
        known = in_row([self.resolution, self.change])
        known.layout().setStretch(0, 1)
        for widget in (chosen, self.images, known, self._entry):
            layout.addWidget(widget)

        self.combo.currentIndexChanged.connect(self._on_chosen)
        self.combo.activated.connect(self._on_picked)
        self.images.activated.connect(self._on_image)
        use.clicked.connect(self._on_use)
        self.change.clicked.connect(self._on_change)
        self.mpp.returnPressed.connect(self._on_use)
        for event in ("inserted", "removed", "reordered", "renamed"):
            getattr(viewer.layers.events, event).connect(self.refresh)
        self.refresh()

    def find(self) -> Image | None:
        """Return the chosen slide layer, if there is one."""
        layer = self._box.layer()
        return layer if layer is not None and layer in self._viewer.layers else None

    def layer(self) -> Image:
        """Return the chosen slide layer.

        Raises:
            SlideError: no slide is open.
        """
        layer = self.find()
        if layer is None:
            raise SlideError("no slide is open: press Open…, or choose File ▸ Open Sample ▸ napari-lpd")
        return layer

    def refresh(self) -> None:
        """Refill the list and keep the choice."""
        layers = slide_layers(self._viewer)
        for layer in self._viewer.layers:
            if kind(layer) or layer in layers:
                hold_in_place(layer)
        for layer in layers:
            follow(self._viewer, layer)
        self._box.fill(layers)
        self._on_chosen()

    def open(self, path: Path, image: int | None = None) -> None:
        """Open a slide file, or an image in it, as a layer and choose it; show an error as a notification."""
        try:
            data, options, _ = slide_layer_data(path, image)
        except LpdError as error:
            show_error(one_line(error))
            return
        self._box.choose(self._viewer.add_image(data, **options))

    def _on_open(self) -> None:
        patterns = " ".join(f"*{suffix}" for suffix in (*VENDOR_SUFFIXES, *TIFF_SUFFIXES))
        path, _ = QFileDialog.getOpenFileName(self, "Open slide", "", f"Slides ({patterns});;All files (*)")
        if path:
            self.open(Path(path))

    def _on_image(self, index: int) -> None:
        """Choose another image of the chosen slide's file, and open it if it is not open."""
        layer, number = self.layer(), self.images.itemData(index)
        path, all_layers = slide_path(layer), slide_layers(self._viewer)
        same = [each for each in all_layers if slide_path(each) == path and each.metadata[KEY].get("number") == number]
        if same:
            self._box.choose(same[0])
            self._on_picked()
        elif path is not None:
            self.open(path, number)
            self._show_images(self.find())  # the one before, if it cannot be opened

    def _show_images(self, layer: Image | None) -> None:
        """List the images of the chosen slide's file, where there are several."""
        about = {} if layer is None else layer.metadata.get(KEY, {})
        self.images.clear()
        for number, text in about.get("images", {}).items():
            self.images.addItem(f"Image {text}", number)
        self.images.setCurrentIndex(self.images.findData(about.get("number")))
        self.images.setVisible(self.images.count() > 0)

    def _on_chosen(self) -> None:
        layer = self.find()
        missing = layer is not None and any(str(unit) != UM for unit in layer.units)
        if layer is not self._described:
            self._described = layer
            self._show_images(layer)
            self.mpp.clear()  # each slide has a resolution of its own
            self._entry.setVisible(missing)
        self.change.setVisible(layer is not None and is_entered(layer) and not missing)
        if layer is None:
            self.resolution.setText("Press Open…, or choose File ▸ Open Sample ▸ napari-lpd")
        else:
            source = layer.metadata.get(KEY, {}).get("mpp_source", "scale of the layer")
            known = f"{layer.scale[-1]:.4g} µm per pixel ({source})"
            self.resolution.setText(f"Resolution missing ({source}): enter it" if missing else known)
        self.changed.emit()

    def _on_picked(self) -> None:
        """Bring a slide that the user chooses before the eyes."""
        layer = self.find()
        if layer is not None:
            bring_to_front(self._viewer, layer)

    def _on_use(self) -> None:
        layer = self.find()
        if layer is None:
            return
        try:
            removed = change_resolution(self._viewer, layer, entered_mpp(self.mpp.text(), f"{layer.name}'s"))
        except LpdError as error:
            show_error(one_line(error))
            return
        if removed:
            show_info(f"{layer.name}: the mask was made at another resolution and is closed; press Predict again")
        self._described = None
        self._on_chosen()

    def _on_change(self) -> None:
        """Ask for the resolution again."""
        self.mpp.setText(f"{self.layer().scale[-1]:.4g}")
        self._entry.setVisible(True)
        self.mpp.setFocus()
