"""Run a job beside the GUI: its progress, its result and EVERY error come back to the GUI thread as signals."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QApplication

from napari_lpd.errors import LpdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_lpd.jobs import Job

log = logging.getLogger(__name__)


class JobRunner(QObject):
    """Runs one job at a time in a thread. Signals arrive on the GUI thread.

    Signals:
        progressed: each Progress.
        succeeded: the job's result.
        failed: one line that says what went wrong (already shown as a notification).
        ended: always last: after success, failure or stop.
    """

    progressed = Signal(object)
    succeeded = Signal(object)
    failed = Signal(str)
    ended = Signal()
    _raised = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._raised.connect(self._on_raised)
        application = QApplication.instance()
        if application is not None:
            application.aboutToQuit.connect(self.stop_and_wait)

    @property
    def running(self) -> bool:
        """Whether a job is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, make_job: Callable[[], Job[Any]]) -> None:
        """Start the job that `make_job` returns; it is called in the thread, so it may import and load what it needs."""
        if self.running:
            raise RuntimeError("a job is already running")
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(make_job,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the job to stop; it is closed at its next step, and `ended` follows."""
        self._stop.set()

    def stop_and_wait(self) -> None:
        """Stop and wait until the job has cleaned up (a few seconds at most)."""
        self.stop()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _run(self, make_job: Callable[[], Job[Any]]) -> None:
        try:
            job = make_job()
            try:
                while not self._stop.is_set():
                    self.progressed.emit(next(job))
            except StopIteration as stop:
                self.succeeded.emit(stop.value)
            finally:
                job.close()
        except BaseException as error:  # whatever it is, a user must see it
            self._raised.emit(error)
        finally:
            self.ended.emit()

    def _on_raised(self, error: BaseException) -> None:
        message = str(error) if isinstance(error, LpdError) else f"{type(error).__name__}: {error}"
        if not isinstance(error, LpdError):
            log.error("a job failed unexpectedly", exc_info=error)
        show_error(message)
        self.failed.emit(message)
