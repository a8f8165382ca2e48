"""Where to draw next, and which labels are doubtful: what guides the user of the live mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Points
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from napari_lpd.core.files import KEY
from napari_lpd.core.labelling.rule import UNSURE
from napari_lpd.gui.common.layout import buttons, note, tip
from napari_lpd.gui.layers.slides import UM, corner, kind, show_box

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Layer

    from napari_lpd.gui.live.engine import Engine

PLACE_UM = 1000.0  # of the view at a place that is suggested
ROWS = 3  # of the list of doubtful labels that are in view
DOUBT = (
    "A model that has not seen the region finds something else in it. Where the label is wrong, draw the region anew or"
    " give it another tissue; where it is right, more regions like it help."
)
RIGHT = "The mask in the white square is right: keep it as strokes, from which the model learns: press Y"
PLACE = "place"  # kind of the layer with the square
SQUARE = 128  # pixels of the mask, edge of the square
NOT_SURE = "The model is not sure of this place. Draw what it is."
NO_PLACE = "No other place that is labelled needs a region: move the view, or zoom out."


class Guide(QWidget):
    """The button *Next place*, and the list of doubtful labels.

    Args:
        viewer: The viewer.

    Signals:
        asked: the question has changed.
        accepted: the mask in a box is right: (top, left) of the box in pixels of the mask, and its labels, 0 where
            it is not sure.

    Attributes:
        question: To the user about the place that was suggested last, or that there is none; "" after a change.
    """

    asked = Signal()
    accepted = Signal(object, object)

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._engine: Engine | None = None
        self.question = ""
        self._place: tuple[float, float] | None = None  # (y, x) in µm
        self.doubts = QListWidget()
        self.doubts.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.doubts.setToolTip(tip(DOUBT))
        self.heading = note("")
        self.actions = buttons(
            ("Next place (N)", "Go to the place where one more region would help most: press N", self.next_place),
            ("Looks right (Y)", tip(RIGHT), self.looks_right),
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (self.actions, self.heading, self.doubts):
            layout.addWidget(widget)
        self.doubts.itemClicked.connect(self._on_doubt)
        self.follow(None)

    def follow(self, engine: Engine | None) -> None:
        """Guide by what an engine has found; None: by nothing."""
        self._engine = engine
        if engine is None:
            self.ask_nothing()
        self.setVisible(engine is not None and engine.model is not None)
        self.doubts.clear()
        verdicts = [] if engine is None else [each for each in engine.verdicts.values() if not each.is_right]
        for verdict in sorted(verdicts, key=lambda each: -each.share):
            drawn = " + ".join(verdict.tissues)
            item = QListWidgetItem(f"{drawn}: {100 * verdict.share:.0f} % of it is {verdict.found}")
            item.setData(Qt.ItemDataRole.UserRole, verdict.box_um)
            self.doubts.addItem(item)
        count = len(verdicts)
        what = "label is doubtful" if count == 1 else "labels are doubtful"
        self.heading.setText(f"{count} {what}; click to go there:")
        self.doubts.setFixedHeight((self.doubts.sizeHintForRow(0) + 2) * min(count, ROWS) + 4)
        for widget in (self.heading, self.doubts):
            widget.setVisible(count > 0)

    def next_place(self) -> None:
        """Move the camera to where a region would help most, for every tissue in its turn."""
        from napari_lpd.training.guide.places import Places

        engine = self._engine
        if engine is None or engine.model is None:
            return
        names = [tissue.name for tissue in engine.model.card.classes]
        engine.suggested = engine.suggested or Places()
        found = engine.suggested.next(engine.cells, engine.settings.mpp, len(names))
        if found is None:
            self.ask_nothing()
            self._ask(NO_PLACE)
            return
        half = PLACE_UM / 2
        (y, x), self._place = found.place, found.place
        box = (y - half, x - half, y + half, x + half)
        show_box(self._viewer, engine.layer, box, 1.0, self._viewer.scene.camera.zoom)
        self._mark(engine)
        self._ask(f"Is this {names[found.label - 1]}? Draw what it is, or press Y if the mask is right.")

    def looks_right(self) -> None:
        """Accept the mask in the square."""
        if self._engine is None or self._place is None:
            self._ask("Press N first, to be shown a place.")
            return
        mpp = self._engine.settings.mpp
        y, x = (round(value / mpp - SQUARE / 2) for value in self._place)
        labels = self._engine.labels((y, x), SQUARE)
        labels[labels == UNSURE] = 0
        if not labels.any():
            self._ask(NOT_SURE)
            return
        self.ask_nothing()
        self.accepted.emit((y, x), labels)

    def ask_nothing(self) -> None:
        """Take question and square away."""
        self._place, self.question = None, ""
        for layer in self._squares():
            layer.visible = False

    def _squares(self) -> list[Layer]:
        return [layer for layer in self._viewer.layers if kind(layer) == PLACE]

    def _mark(self, engine: Engine) -> None:
        """Draw the square around the place; selection and tool stay as they are."""
        world = corner(engine.layer) + np.array(self._place)
        if not self._squares():
            active = self._viewer.layers.selection.active
            square = Points(
                ndim=2, name="next place", symbol="square", size=SQUARE * engine.settings.mpp, units=(UM, UM),
                face_color="transparent", border_color="white", border_width=0.04, metadata={KEY: {"kind": PLACE}},
            )  # fmt: skip
            self._viewer.add_layer(square)
            square.editable = False
            self._viewer.layers.selection.active = active
        for layer in self._squares():
            layer.data, layer.visible = world[None], True
            layer.size = SQUARE * engine.settings.mpp

    def _ask(self, question: str) -> None:
        self.question = question
        self.asked.emit()

    def _on_doubt(self, item: QListWidgetItem) -> None:
        if self._engine is not None:
            show_box(self._viewer, self._engine.layer, item.data(Qt.ItemDataRole.UserRole))
