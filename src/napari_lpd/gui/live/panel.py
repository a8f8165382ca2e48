"""Panel with the live mask: a mask of the view that follows the regions as they are drawn."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_lpd.core.errors import LpdError
from napari_lpd.core.text import html_text
from napari_lpd.gui.common.job import JobRunner
from napari_lpd.gui.common.layout import in_row, note
from napari_lpd.gui.common.prediction_run import keep_triton_out
from napari_lpd.gui.common.recent_models import keep, kept, recent_models
from napari_lpd.gui.layers.class_keys import bind_everywhere
from napari_lpd.gui.layers.slides import visible_box_um
from napari_lpd.gui.layers.strokes import Canvas
from napari_lpd.gui.live.engine import Engine, Refused, refusing
from napari_lpd.gui.live.guide import Guide
from napari_lpd.gui.live.held_out import HeldOut
from napari_lpd.gui.live.shown import HEATMAP, HeatmapChoice, ShownMask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import napari.viewer
    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.jobs import Job, Progress
    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.regions import Region, Verdict
    from napari_lpd.gui.common.slide_picker import SlidePicker
    from napari_lpd.gui.live.engine import Asked
    from napari_lpd.training.live import CellIndex, LiveCell

KEPT, HATCHED = "train/live", "train/hatched"
REST_MS, LOOK_MS = 300, 200  # of rest after a change of the regions, and of the view
FEW = 5  # regions, of fewer than which no share is said
OFF = "Off. Tick to see at once what a model makes of the regions that you draw."


class LiveMask(QWidget):
    """Panel with a switch, what the live mask is doing, how right it is, and where to draw next.

    Args:
        viewer: The viewer.
        slides: Chooses the slide.
        regions: Returns the regions that are drawn on it.
        classes: Returns the tissue classes.
        settings: Returns the settings of a fast training.

    Signals:
        message: a line for the status.
        changed: whether a model can be kept may have changed.
        accepted: the mask in a place is right, as a `Canvas` and its labels (h, w).
    """

    message = Signal(str)
    changed = Signal()
    accepted = Signal(object, object)

    def __init__(
        self,
        viewer: napari.viewer.Viewer,
        slides: SlidePicker,
        regions: Callable[[], Sequence[Region]],
        classes: Callable[[], Sequence[TissueClass]],
        settings: Callable[[], TrainSettings],
    ) -> None:
        super().__init__()
        self._viewer, self._slides = viewer, slides
        self._regions, self._classes, self._settings = regions, classes, settings
        self._engine: Engine | None = None
        self._then: Callable[[Any], None] = lambda _: None  # takes the result of the job that runs
        self._leaving: list[Engine] = []  # closed as soon as no job runs
        self._is_due = False
        self._summary = ""
        self.switch = QCheckBox("Live mask")
        self.switch.setToolTip("Show a mask of the view that follows every region that you draw, change or delete")
        self.switch.setChecked(kept(KEPT) != "off")
        self.hatched = QCheckBox("Hatch unsure")
        self.hatched.setToolTip("Draw black lines over places that the live model is not sure of")
        self.hatched.setChecked(kept(HATCHED) == "on")
        self.mapped = HeatmapChoice()
        self.line = note("")
        self.guide = Guide(viewer)
        self.held_out = HeldOut(viewer)
        self.shown = ShownMask(viewer)
        self.runner = JobRunner(self)
        self._rest, self._look = self._timer(REST_MS, self._learn), self._timer(LOOK_MS, self._go_on)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for widget in (in_row([self.switch, self.hatched]), self.line, self.guide, self.mapped, self.held_out):
            layout.addWidget(widget)
        self._connect()
        self._on_switch()

    def _connect(self) -> None:
        self.switch.toggled.connect(lambda is_on: keep(KEPT, "on" if is_on else "off"))
        self.switch.toggled.connect(self._on_switch)
        self.hatched.toggled.connect(lambda is_on: keep(HATCHED, "on" if is_on else "off"))
        self.hatched.toggled.connect(self._on_hatched)
        self.mapped.box.activated.connect(self._on_map)
        self._slides.changed.connect(self.change)
        self.guide.asked.connect(self._show_line)
        self.runner.progressed.connect(self._on_progressed)
        self.runner.succeeded.connect(self._on_succeeded)
        self.runner.failed.connect(self._on_refused)
        self.runner.ended.connect(self._on_ended)
        camera = self._viewer.scene.camera
        for event in (camera.events.center, camera.events.zoom):
            event.connect(self._on_view)
        self.guide.accepted.connect(self._on_accepted)
        bind_everywhere(self._viewer, "n", self.guide.next_place)
        bind_everywhere(self._viewer, "y", self.guide.looks_right)

    def _timer(self, wait_ms: int, action: Callable[[], None]) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(wait_ms)
        timer.timeout.connect(action)
        return timer

    @property
    def has_model(self) -> bool:
        """Whether something was learned that can be kept."""
        return self._engine is not None and self._engine.model is not None

    def change(self) -> None:
        """Learn anew after a rest, as regions, classes or the slide have changed."""
        if self._engine is not None and self._engine.layer not in self._viewer.layers:
            self._let_go()
        if self.switch.isChecked():
            self._rest.start()

    def put_down(self) -> None:
        """Stop, as the widget is closed."""
        self._rest.stop()
        self._look.stop()
        self._let_go()

    def _on_switch(self) -> None:
        if self.switch.isChecked():
            self.line.setText("The live mask begins when regions of two tissues are drawn.")
            self._rest.start()
            return
        self.put_down()
        self.line.setText(OFF)

    def _on_hatched(self) -> None:
        self.shown.hatched = self.hatched.isChecked()
        if self._engine is not None:
            self.shown.paint(self._engine, self._classes())

    def _let_go(self) -> None:
        """Stop, take the mask away, and close the slide's file when no job reads it any more."""
        engine, self._engine, self._is_due = self._engine, None, False
        self.shown.clear()
        self._guide(None)
        self.mapped.offer(None)
        self.changed.emit()
        if engine is None:
            return
        if self.runner.running:
            self.runner.stop()
            self._leaving.append(engine)
        else:
            engine.close()

    def _start(self, job: Job[Any], then: Callable[[Any], None]) -> None:
        self._then = then
        self.runner.start(lambda: refusing(job))

    # Learn

    def _learn(self) -> None:
        if self.runner.running:  # the latest change overtakes it
            self._is_due = True
            self.runner.stop()
            return
        try:
            layer, regions, settings = self._slides.layer(), self._regions(), self._settings()
        except LpdError as error:
            self.line.setText(str(error))
            return
        classes, drawn = self._classes(), {name for region in regions for name in region.tissues}
        if len(drawn) < 2:
            self.line.setText("Draw a region of each of two tissues: the live mask begins with them.")
            return
        if self._engine is None or not self._engine.fits(layer, settings):
            self._let_go()
            self._engine = Engine(layer, settings)
        engine = self._engine
        asked = {region.key for region in regions}, [tissue.name for tissue in classes]
        if engine.model is not None and asked == engine.learned:  # colours may have changed
            self.shown.paint(engine, classes)
            self._go_on()
            return
        keep_triton_out()
        missing = [tissue.name for tissue in classes if tissue.name not in drawn]
        self.guide.ask_nothing()
        engine.refusal = ""
        strokes = sum(region.pixels for region in regions)
        counts = [f"{count} {what}{'s' * (count != 1)}"
                  for what, count in (("region", len(regions) - strokes), ("stroke", strokes)) if count]  # fmt: skip
        self._summary = ", ".join([f"{len(drawn)} tissues", *counts])
        self._summary += f" (none of {', '.join(missing)})" if missing else ""
        began = time.monotonic()
        self._start(engine.learning(regions, classes), lambda folds: self._on_learned(folds, asked, began))

    def _on_learned(self, folds: list[int], asked: Asked, began: float) -> None:
        assert self._engine is not None
        self._engine.begin_anew(asked, folds, time.monotonic() - began)
        self._guide(self._engine)
        self.mapped.offer(self._engine.model)
        self.changed.emit()

    def _on_progressed(self, progress: Progress) -> None:
        share = f" {100 * progress.done // progress.total} %" if progress.total else ""
        if progress.message != "checking":  # goes on while nothing else is to be done
            self.line.setText(f"{self._summary}: {progress.message}{share}…")

    def _on_succeeded(self, result: Any) -> None:
        if isinstance(result, Refused):
            self._on_refused(result.reason)
        elif self._engine is not None:
            self._then(result)

    def _on_refused(self, reason: str) -> None:
        if self._engine is not None:
            self._engine.refusal = reason
            self.line.setText(f"⚠ {reason}")

    def _on_ended(self) -> None:
        for engine in self._leaving:
            engine.close()
        self._leaving.clear()
        if self._is_due:
            self._is_due = False
            self._learn()
        else:
            self._go_on()

    # Label what is in view, then check

    def _on_view(self) -> None:
        if self.switch.isChecked():
            self._look.start()

    def _go_on(self) -> None:
        """Label a few more cells of the view, from its middle outwards; when it is complete, check a few regions."""
        engine = self._engine
        if engine is None or engine.model is None or engine.refusal or not self.switch.isChecked():
            return
        if self.runner.running:
            if self._then == self._on_checked:  # can wait
                self.runner.stop()
            return
        if engine.keep_in is not None:
            folder, engine.keep_in = engine.keep_in, None
            self._start(engine.keeping(folder), self._on_kept)
            return
        try:
            box = visible_box_um(self._viewer, engine.layer)
        except LpdError:  # out of view: there is nothing to label
            box = None
        if box and not engine.is_labelled(box):
            self._start(engine.labelling(box, frozenset(engine.cells)), self._on_labelled)
            return
        self._show_line()
        tissue = self.mapped.tissue
        if tissue and engine.seen and not engine.is_mapped(tissue):
            self._start(engine.mapping(tissue), lambda found: self.shown.show_maps(engine, tissue, *found))
        elif engine.unchecked:
            self._start(engine.checking(), self._on_checked)

    def _on_labelled(self, cells: dict[CellIndex, LiveCell]) -> None:
        assert self._engine is not None
        self._engine.take(cells)
        self.shown.paint(self._engine, self._classes())

    def _on_checked(self, verdicts: dict[Any, Verdict]) -> None:
        assert self._engine is not None
        self._engine.unchecked.pop(0)
        self._engine.verdicts |= verdicts
        self._guide(self._engine)

    def _guide(self, engine: Engine | None) -> None:
        for guide in (self.guide, self.held_out):
            guide.follow(engine)

    def _show_line(self) -> None:
        """Say what was learned from, how long it took, and how right it is about regions that were held out."""
        engine = self._engine
        if engine is None or engine.refusal:
            return
        verdicts = list(engine.verdicts.values())
        text = f"{self._summary}, updated in {engine.took:.1f} s{_share_right(verdicts)}"
        self.line.setText(f"{self.guide.question} {text}".strip())
        self.line.setToolTip(_by_tissue(verdicts))

    def _on_map(self) -> None:
        if self.mapped.tissue:
            self._go_on()
        else:
            self.shown.clear(HEATMAP)

    # Accept, keep

    def _on_accepted(self, first: tuple[int, int], labels: NDArray[np.uint8]) -> None:
        engine = self._engine
        assert engine is not None and engine.model is not None
        pixel = engine.settings.mpp / engine.layer.scale[-2:]
        names = tuple(tissue.name for tissue in engine.model.card.classes)
        origin = np.array(first) * pixel
        self.accepted.emit(Canvas(tuple(origin.tolist()), labels.shape, tuple(pixel.tolist()), names), labels)

    def keep(self, folder: Callable[[], Path]) -> None:
        """Save what was learned last, or is being learned, into a folder, for Predict, Explore and exports."""
        if self._engine is None or self._engine.model is None:
            self.message.emit("Nothing is learned yet: draw regions of two tissues.")
            return
        self._engine.keep_in = folder
        self._go_on()

    def _on_kept(self, path: Path) -> None:
        recent_models.add(path)
        self.message.emit(f"Kept, and ready in Predict: {path}")


def _share_right(verdicts: Sequence[Verdict]) -> str:
    """Say how many held-out regions are right."""
    if not verdicts:
        return ""
    right, count = sum(verdict.is_right for verdict in verdicts), len(verdicts)
    said = f"{right} of {count}"
    return f", held-out regions right: {said if count < FEW else f'{100 * right / count:.0f} % ({said})'}"


def _by_tissue(verdicts: Sequence[Verdict]) -> str:
    """Explain the share of held-out regions that are right, tissue by tissue, as rich text."""
    lines = [
        "A model that learns as the live model does, but without a third of the regions, says what these are; so do"
        " three, each without another third. Right: most of the tissue in the region gets its label. Regions of a"
        " tissue that has fewer than two others are not asked about."
    ]
    for name in dict.fromkeys(name for verdict in verdicts for name in verdict.tissues):
        own = [verdict for verdict in verdicts if name in verdict.tissues]
        lines.append(html_text(f"{name}: {sum(verdict.is_right for verdict in own)} of {len(own)} right"))
    return "<qt>" + "<br>".join(lines) + "</qt>"
