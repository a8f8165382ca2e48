"""Hold the results that are shown against the regions that are drawn on their slides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.utils.notifications import show_warning
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_lpd.core.errors import DataError, LpdError, one_line
from napari_lpd.core.jobs import WARNING, Progress
from napari_lpd.gui.common.job import JobRunner
from napari_lpd.gui.common.layout import note, tip
from napari_lpd.gui.layers.regions import outlines_of, regions_layers
from napari_lpd.gui.layers.results import shown_prediction
from napari_lpd.gui.layers.slides import bring_to_front, show_box, slide_id, slide_layers
from napari_lpd.gui.trust.panel import TrustPanel
from napari_lpd.results.check_regions import verdicts_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari.viewer

    from napari_lpd.core.jobs import Job
    from napari_lpd.data.regions import Region, Verdict
    from napari_lpd.evaluation.regions import Trust
    from napari_lpd.results.prediction import Prediction

HELP = (
    "Compare the mask with the regions that are drawn on its slide, of all open slides that have both. Three slides and"
    " more give intervals that hold for other slides"
)
HONEST = (
    "Regions that the model was trained on flatter it: outline others, elsewhere, or on slides that it has not seen."
)


class TrustCheck(QWidget):
    """Button that holds masks against regions, and what came of it.

    Signals:
        shown: tables are shown, or why not.
    """

    shown = Signal()

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.button = QPushButton("Check on regions")
        self.button.setToolTip(tip(HELP))
        self.panel = TrustPanel()
        self.runner = JobRunner(self)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.button, note(HONEST), self.panel):
            layout.addWidget(widget)
        self.button.clicked.connect(self._on_check)
        self.panel.asked.connect(self._on_asked)
        self.runner.progressed.connect(self._on_progressed)
        self.runner.succeeded.connect(self._on_found)
        self.runner.failed.connect(lambda message: self.panel.show_trust(None, f"⚠ {message}"))
        self.runner.ended.connect(lambda: self.button.setEnabled(True))

    def _on_check(self) -> None:
        try:
            pairs = self._pairs()
        except LpdError as error:
            self.panel.show_trust(None, f"⚠ {one_line(error)}")
            return
        self.button.setEnabled(False)
        self.runner.start(lambda: checking(pairs))

    def _pairs(self) -> list[tuple[Prediction, Sequence[Region]]]:
        """Pair the shown results with the regions on their slides."""
        pairs: list[tuple[Prediction, Sequence[Region]]] = []
        for layer in slide_layers(self._viewer):
            prediction = shown_prediction(self._viewer, slide_id(layer))
            regions = [each for shapes in regions_layers(self._viewer, layer) for each in outlines_of(shapes, layer)]
            if prediction is not None and regions:
                pairs.append((prediction, regions))
        if not pairs:
            raise DataError("no slide has both a mask and regions: press Predict, and outline regions in Train")
        return pairs

    def _on_progressed(self, step: Progress) -> None:
        if step.message.startswith(WARNING):
            show_warning(step.message.removeprefix(WARNING))
        else:
            count = f"{step.done} of {step.total} " if step.total else ""
            self.panel.show_trust(None, f"{count}{step.message}…")

    def _on_found(self, found: Trust) -> None:
        self.panel.show_trust(found)
        self.shown.emit()

    def _on_asked(self, verdict: Verdict) -> None:
        """Show a region on the slide that it is of."""
        for layer in slide_layers(self._viewer):
            prediction = shown_prediction(self._viewer, slide_id(layer))
            if prediction is not None and prediction.card.slide_hash == verdict.slide_hash:
                if len(slide_layers(self._viewer)) > 1:
                    bring_to_front(self._viewer, layer)
                show_box(self._viewer, layer, verdict.box_um)
                return


def checking(pairs: Sequence[tuple[Prediction, Sequence[Region]]]) -> Job[Trust]:
    """Say how right results are about regions.

    Raises:
        DataError: the results have different classes, or no region lies on what was segmented.
    """
    from napari_lpd.evaluation.regions import trust

    verdicts = yield from verdicts_on(pairs)
    yield Progress(0, 0, "comparing")
    return trust(verdicts, [tissue.name for tissue in pairs[0][0].card.classes])
