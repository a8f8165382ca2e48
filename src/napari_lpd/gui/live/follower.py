"""What the live mask does, one job after another: learn, label the view, map prototypes, check, and fill the slide."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from qtpy.QtCore import QObject, Signal

from napari_lpd.gui.common.job import JobRunner
from napari_lpd.gui.live.engine import Engine, Refused, refusing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from napari.layers import Image
    from qtpy.QtWidgets import QWidget

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.jobs import Job, Progress
    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.regions import Region, Verdict
    from napari_lpd.gui.live.engine import Asked, Box, Filled, Maps
    from napari_lpd.training.live import CellIndex, LiveCell


class Wanted(NamedTuple):
    """What is to be seen.

    Attributes:
        box: The view; None where the slide is out of it.
        tissue: Whose prototypes are mapped; "" for none.
        bank: "learned" or "clustered" ones.
    """

    box: Box | None
    tissue: str
    bank: str


class Follower(QObject):
    """Runs what an engine has to do, the most urgent first; a change or another view overtakes what can wait.

    Args:
        parent: The widget whose jobs they are.
        wanted: Returns what is to be seen.

    Signals:
        said: what is going on.
        refused: why nothing can be learned or labelled, in a line.
        due: what was overtaken has ended: learn now.
        learned, labelled, checked: there is something new of the engine's.
        mapped: a tissue and the `Maps` of its prototypes.
        kept: the file in which the model was saved.
        settled: the view is complete.

    Attributes:
        engine: What learns and labels the slide; None before there are regions of two tissues.
        runner: Of the jobs.
    """

    said = Signal(str)
    refused = Signal(str)
    due = Signal()
    learned = Signal()
    labelled = Signal()
    checked = Signal()
    mapped = Signal(str, object)
    kept = Signal(object)
    settled = Signal()

    def __init__(self, parent: QWidget, wanted: Callable[[], Wanted]) -> None:
        super().__init__(parent)
        self.engine: Engine | None = None
        self._wanted = wanted
        self._then: Callable[[Any], None] = lambda _: None  # takes the result of the job that runs
        self._leaving: list[Engine] = []  # closed as soon as no job runs
        self._is_due = False
        self._keep_in: Callable[[], Path] | None = None
        self.runner = JobRunner(parent)
        self.runner.progressed.connect(self._on_progressed)
        self.runner.succeeded.connect(self._on_succeeded)
        self.runner.failed.connect(self._on_refused)
        self.runner.ended.connect(self._on_ended)

    @property
    def waits(self) -> bool:
        """Whether nothing runs but what can wait."""
        return self.runner.running and self._then in (self._on_checked, self._on_filled)

    def take_up(self, layer: Image, settings: TrainSettings) -> Engine:
        """Return the engine of a slide, a new one where that of before is not for it."""
        if self.engine is None or not self.engine.fits(layer, settings):
            self.let_go()
            self.engine = Engine(layer, settings)
        return self.engine

    def let_go(self) -> None:
        """Stop, and close the slide's file when no job reads it any more."""
        engine, self.engine, self._is_due, self._keep_in = self.engine, None, False, None
        if engine is None:
            return
        if self.runner.running:
            self.runner.stop()
            self._leaving.append(engine)
        else:
            engine.close()

    def overtake(self) -> bool:
        """Stop what runs, as something has changed; `due` follows. Returns whether anything runs."""
        if self.runner.running:
            self._is_due = True
            self.runner.stop()
        return self.runner.running

    def learn(self, regions: Sequence[Region], classes: Sequence[TissueClass], asked: Asked) -> None:
        """Learn from regions; nothing else may run."""
        engine, began = self.engine, time.monotonic()
        assert engine is not None
        engine.refusal = ""

        def take(folds: list[int]) -> None:
            engine.begin_anew(asked, folds, time.monotonic() - began)
            self.learned.emit()

        self._start(engine.learning(regions, classes), take)

    def keep(self, folder: Callable[[], Path]) -> bool:
        """Save what was learned last, or is being learned, as soon as can be; returns whether there is a model."""
        if self.engine is None or self.engine.model is None:
            return False
        self._keep_in = folder
        self.go_on()
        return True

    def go_on(self) -> None:
        """Do what is most urgent; what can wait is stopped for it."""
        engine = self.engine
        if engine is None or engine.model is None or (engine.refusal and self._keep_in is None):
            return
        wanted = self._wanted()
        urgent = self._urgent(engine, wanted)
        if self.runner.running:
            if urgent is not None and self.waits:
                self.runner.stop()
            return
        if urgent is not None:
            self._start(*urgent)
            return
        self.settled.emit()
        if wanted.box and not engine.is_filled(wanted.box, is_near=True):
            self._start(engine.filling(wanted.box, frozenset(engine.cells), is_near=True), self._on_filled)
        elif engine.unchecked:
            self._start(engine.checking(), self._on_checked)
        elif wanted.box and not engine.is_filled(wanted.box):
            self._start(engine.filling(wanted.box, frozenset(engine.cells)), self._on_filled)

    def _urgent(self, engine: Engine, wanted: Wanted) -> tuple[Job[Any], Callable[[Any], None]] | None:
        if self._keep_in is not None:
            folder, self._keep_in = self._keep_in, (self._keep_in if self.runner.running else None)
            return engine.keeping(folder), self.kept.emit
        if wanted.box:
            missing = engine.look(wanted.box)
            if missing:
                return engine.labelling(missing), self._on_labelled
        if wanted.box and wanted.tissue and engine.seen and not engine.is_mapped(wanted.tissue, wanted.bank):
            job = engine.mapping(wanted.tissue, wanted.bank)
            return job, lambda maps: self._on_mapped(wanted.tissue, maps)
        return None

    def _start(self, job: Job[Any], then: Callable[[Any], None]) -> None:
        self._then = then
        self.runner.start(lambda: refusing(job))

    def _on_progressed(self, progress: Progress) -> None:
        share = f" {100 * progress.done // progress.total} %" if progress.total else ""
        if not self.waits:
            self.said.emit(f"{progress.message}{share}…")

    def _on_succeeded(self, result: Any) -> None:
        if isinstance(result, Refused):
            self._on_refused(result.reason)
        elif self.engine is not None:
            self._then(result)

    def _on_refused(self, reason: str) -> None:
        if self.engine is not None:
            self.engine.refusal = reason
            self.refused.emit(reason)

    def _on_ended(self) -> None:
        for engine in self._leaving:
            engine.close()
        self._leaving.clear()
        if self._is_due:
            self._is_due = False
            self.due.emit()
        else:
            self.go_on()

    def _on_labelled(self, cells: dict[CellIndex, LiveCell]) -> None:
        assert self.engine is not None
        self.engine.take(cells)
        self.labelled.emit()

    def _on_mapped(self, tissue: str, maps: Maps | None) -> None:
        if maps is not None:
            self.mapped.emit(tissue, maps)

    def _on_checked(self, verdicts: dict[Any, Verdict]) -> None:
        assert self.engine is not None
        self.engine.take_verdicts(verdicts)
        self.checked.emit()

    def _on_filled(self, filled: Filled) -> None:
        assert self.engine is not None
        self.engine.take_filled(filled)
        if not filled.cells.keys().isdisjoint(self.engine.seen):  # the view has moved to them meanwhile
            self.labelled.emit()
