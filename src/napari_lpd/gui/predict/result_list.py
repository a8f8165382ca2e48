"""List of the results of a slide, which stack on it: the one that is chosen is shown above the others; what of it."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from napari.layers import Labels

from napari_lpd.core.files import KEY
from napari_lpd.gui.common.layer_box import LayerBox
from napari_lpd.gui.common.layout import heading, in_row
from napari_lpd.gui.layers.results import our_layers
from napari_lpd.gui.maps.show_button import ShowButton
from napari_lpd.results.measures.areas import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari

    from napari_lpd.results.prediction import Prediction


class ResultList(LayerBox[Labels]):
    """Combo box of results, hidden while there are fewer than two; above it a heading with the button *Show*.

    Args:
        viewer: The viewer.
        shown: Returns the result that is shown.

    Attributes:
        head: The heading with the button.
        button: The button.
    """

    def __init__(self, viewer: napari.Viewer, shown: Callable[[], Prediction | None]) -> None:
        super().__init__()
        self._viewer = viewer
        self.button = ShowButton(viewer, shown)
        self.head = in_row([heading("Result"), self.button])
        self.head.layout().setStretch(0, 1)
        self.combo.setToolTip("Results of this slide: none replaces another; the chosen one is shown and measured")
        self.combo.setVisible(False)

    def show(self, shown: Prediction | None) -> None:
        """List the results of the slide of the one that is shown, that one first."""
        layers = [] if shown is None else our_layers(self._viewer, shown.card.slide_hash, "labels")
        labels = [each for each in reversed(layers) if isinstance(each, Labels)]
        names = [_described(each.metadata[KEY]["prediction"]) for each in labels]
        if labels != self.layers or names != [self.combo.itemText(i) for i in range(self.combo.count())]:
            self.fill(labels, names)
            self.combo.blockSignals(True)
            self.combo.setCurrentIndex(0 if labels else -1)
            self.combo.blockSignals(False)
        self.combo.setVisible(len(labels) > 1)
        self.button.setVisible(bool(labels))


def _described(prediction: Prediction) -> str:
    """Name a result: what was segmented, and when."""
    area = sum(polygon.area for polygon in prediction.scope) / 1e6
    what = f"part of {area:.3g} mm²" if prediction.card.scope else WHOLE
    try:
        made = datetime.datetime.fromtimestamp(prediction.folder.stat().st_mtime).astimezone()
    except OSError:  # its folder was moved, or its disk is away
        return f"{what}, no longer there"
    day = "" if made.date() == datetime.datetime.now().astimezone().date() else f"{made:%d %b} "
    return f"{what}, {day}{made:%H:%M}{'' if prediction.finished else ', unfinished'}"
