"""Card of one prototype of a comparison: metrics and nearest locations, which the viewer can move to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import QSlider, QToolButton, QVBoxLayout, QWidget

from napari_lpd.core.errors import DataError
from napari_lpd.core.files import KEY
from napari_lpd.data.images import read_image
from napari_lpd.gui.common.layout import chooser, in_row, note
from napari_lpd.gui.layers.slides import COMPARED, UM, corner, slide_id, slide_layers

if TYPE_CHECKING:
    import napari
    from numpy.typing import NDArray

    from napari_lpd.comparison.result import Comparison, Patch, PrototypeCard

PATCH = 52  # pixels
ZOOM = 2.0  # pixels of the screen per µm
TILE = "tile"  # part of the layer that shows a training tile
NOWHERE = "no location of this class in the compared tiles; choose images or a slide where both models find it"
OF_TRAINING, OF_COMPARED = "nearest training patches", "nearest locations in the compared tiles"


class CardView(QWidget):
    """Panel with the card of a chosen bank, class and prototype, and its patches.

    Signals:
        asked: a patch was clicked.
    """

    asked = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.comparison: Comparison | None = None
        self.bank, self.tissue = chooser(), chooser()
        self.prototype = QSlider(Qt.Orientation.Horizontal)
        self.text = note("", rich=True)
        self.where = chooser([OF_TRAINING, OF_COMPARED])
        self.patches = QWidget()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        QVBoxLayout(self.patches).setContentsMargins(0, 0, 0, 0)
        for widget in (in_row([self.bank, self.tissue]), self.prototype, self.text, self.where, self.patches):
            layout.addWidget(widget)
        for box in (self.bank, self.tissue, self.where):
            box.currentIndexChanged.connect(self._show)
        self.prototype.valueChanged.connect(self._show)

    def set_comparison(self, comparison: Comparison) -> None:
        """Show the cards of a comparison and reset the choice."""
        self.comparison = comparison
        for box, names in (
            (self.bank, [bank.name for bank in comparison.banks]),
            (self.tissue, [tissue.name for tissue in comparison.classes]),
        ):
            box.blockSignals(True)
            box.clear()
            box.addItems(names)
            box.blockSignals(False)
        self.prototype.setRange(0, comparison.k - 1)
        cards = [card for bank in comparison.banks for class_cards in bank.cards for card in class_cards]
        self.where.setVisible(any(card.places for card in cards))
        self.where.setCurrentText(OF_TRAINING)
        self._show()

    def chosen(self) -> PrototypeCard | None:
        """Return the card that is shown."""
        if self.comparison is None or self.bank.currentIndex() < 0 or self.tissue.currentIndex() < 0:
            return None
        return self.comparison.banks[self.bank.currentIndex()].cards[self.tissue.currentIndex()][self.prototype.value()]

    def shown_patches(self) -> tuple[Patch, ...]:
        """Return the patches that are shown, the nearest first."""
        card = self.chosen()
        if card is None:
            return ()
        return card.places if self.where.currentText() == OF_COMPARED else card.patches

    def _show(self) -> None:
        card = self.chosen()
        title = f"Prototype {self.prototype.value() + 1} of {self.prototype.maximum() + 1}"
        text = NOWHERE if card is None or np.isnan(card.usage) else card_text(card)
        self.text.setText(f"{title}: {text}")
        outer = self.patches.layout()
        while outer.count():
            old = outer.takeAt(0).widget()
            old.setParent(None)
            old.deleteLater()
        row = in_row([self._button(patch) for patch in self.shown_patches()])
        row.layout().addStretch(1)
        outer.addWidget(row)

    def _button(self, patch: Patch) -> QToolButton:
        button = QToolButton()
        image = np.ascontiguousarray(patch.image)
        height, width = image.shape[:2]
        pixels = QImage(image.data, width, height, 3 * width, QImage.Format.Format_RGB888)
        button.setIcon(QIcon(QPixmap.fromImage(pixels.copy())))
        button.setIconSize(QSize(PATCH, PATCH))
        button.setToolTip(f"{patch.tile}, cosine {patch.cosine:.2f}: click to move there")
        button.clicked.connect(lambda: self.asked.emit(patch))
        return button


def card_text(card: PrototypeCard) -> str:
    """Format a prototype's card as text."""
    flags = "".join(f" <b>{name}</b>" for name, on in (("dead", card.dead), ("redundant", card.redundant)) if on)
    parts = {
        "reaches": card.own,
        "alone": card.marginal,
        "nearest on": card.usage,
        "purity": card.purity,
        "stability": card.stability,
        "slides": card.spread,
        "IoU lost without it": card.loss,
        "nearest sibling": card.sibling,
    }
    return ", ".join(f"{name} {value:.2f}" for name, value in parts.items() if not np.isnan(value)) + flags


def jump(viewer: napari.Viewer, patch: Patch, mpp: float) -> None:
    """Move the viewer to a patch: on its slide, or in its tile, which is opened if it is a file.

    Args:
        viewer: The viewer.
        patch: The patch.
        mpp: µm per pixel of the patch.

    Raises:
        DataError: the slide is not open, or the tile cannot be read.
    """
    if patch.file is not None:
        start = _show_tile(viewer, patch, mpp)
    else:
        layer = next((layer for layer in slide_layers(viewer) if slide_id(layer) == patch.fingerprint), None)
        if layer is None:
            raise DataError(f"{patch.tile}: {patch.slide} is not open; open it to move there")
        start = corner(layer)
    y, x = start + np.array(patch.place) * mpp
    viewer.scene.camera.center = (0, float(y), float(x))
    viewer.scene.camera.zoom = ZOOM


def _show_tile(viewer: napari.Viewer, patch: Patch, mpp: float) -> NDArray[np.float64]:
    """Show a tile's file left of all layers, replacing the last tile, and return the position of its corner."""
    assert patch.file is not None
    image = read_image(patch.file)
    for old in [layer for layer in viewer.layers if layer.metadata.get(KEY, {}).get("part") == TILE]:
        viewer.layers.remove(old)
    top, left = viewer.layers.extent.world[0][-2:] if len(viewer.layers) else (0.0, 0.0)
    start = np.array([top, left - 1.5 * image.shape[1] * mpp])
    viewer.add_image(
        image,
        name=patch.tile,
        rgb=True,
        scale=(mpp, mpp),
        units=(UM, UM),
        translate=start + mpp / 2,
        metadata={KEY: {"kind": COMPARED, "part": TILE}},
    )
    return start
