"""Run a job in a thread; its progress, its result and every error reach the GUI thread as signals.

The thread never touches Qt: it fills a queue that a timer of the GUI thread empties, so a widget may be closed at any
time. Jobs that still run when Python exits are stopped.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, QObject, Qt, QTimer, Signal
from qtpy.QtWidgets import QDockWidget, QLabel, QMessageBox, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_lpd.core.errors import LpdError, described, one_line
from napari_lpd.core.jobs import NICENESS, TimeLeft
from napari_lpd.gui.common.layout import in_row, tip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_lpd.core.jobs import Job, Progress

    Message = tuple[str, Any]

POLL_MS = 50
PAUSE, RESUME = "Pause", "Resume"
STOP, STOPPING = "Stop", "Stopping…"
_running: dict[threading.Thread, threading.Event] = {}


def _work(make_job: Callable[[], Job[Any]], outbox: SimpleQueue[Message], stop: threading.Event) -> None:
    if sys.platform == "linux":  # other systems have no priority per thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    try:
        job = make_job()
        try:
            while not stop.is_set():
                outbox.put(("progressed", next(job)))
        except StopIteration as finished:
            outbox.put(("succeeded", finished.value))
        finally:
            job.close()
    except BaseException as error:  # noqa: BLE001  the user must see every error
        outbox.put(("raised", error))
    finally:
        outbox.put(("ended", None))
        _running.pop(threading.current_thread(), None)


@atexit.register
def stop_all() -> None:
    """Stop all jobs and wait until they have cleaned up (at most ten seconds each)."""
    jobs = dict(_running)
    for stop in jobs.values():
        stop.set()
    for thread in jobs:
        thread.join(timeout=10)


class JobRunner(QObject):
    """Runner of one job at a time in a thread; signals arrive on the GUI thread.

    Args:
        parent: The widget whose job it is.
        question: Is asked before the widget's dock or napari is closed while a job runs; "": the job just stops.

    Signals:
        progressed: each new Progress.
        succeeded: the job's result.
        failed: one line with the error (already shown as a notification).
        ended: always last: after success, failure or stop.
    """

    progressed = Signal(object)
    succeeded = Signal(object)
    failed = Signal(str)
    ended = Signal()

    def __init__(self, parent: QWidget, question: str = "") -> None:
        super().__init__(parent)
        self.running = False
        self._question, self._guarded = question, False
        self._outbox: SimpleQueue[Message] = SimpleQueue()
        self._stop = threading.Event()
        self.paused = threading.Event()  # for jobs that can pause
        self._latest: Progress | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._deliver)
        self.destroyed.connect(self._stop.set)  # closing the window stops the job

    def start(self, make_job: Callable[[], Job[Any]]) -> None:
        """Start the job that `make_job` returns; it is called in the thread and may import and load models."""
        if self.running:
            raise LpdError("a job is already running: stop it first")
        self._guard()
        self._stop.clear()
        self.paused.clear()
        self._latest = None
        self.running = True
        thread = threading.Thread(target=_work, args=(make_job, self._outbox, self._stop), daemon=True)
        _running[thread] = self._stop
        thread.start()
        self._timer.start()

    def stop(self) -> None:
        """Ask the job to stop; it is closed at its next step, and `ended` follows."""
        self._stop.set()

    def may_close(self) -> bool:
        """Ask whether to close though the job runs."""
        if not self._question or self._stop.is_set():
            return True
        buttons = QMessageBox.StandardButton
        answer = QMessageBox.question(self.parent(), "napari-lpd", self._question, buttons.Close | buttons.Cancel)
        return bool(answer == buttons.Close)

    def _guard(self) -> None:
        """Watch the dock and the window, which are known once the widget is docked."""
        widget = self.parent()
        while widget is not None and not isinstance(widget, QDockWidget):
            widget = widget.parent()
        if widget is not None:
            _guard_dock(widget)
        if self._question and not self._guarded:
            top = self.parent() if widget is None else widget.parentWidget()  # a floating dock is a window of its own
            _WindowGuard(top.window(), self)
            self._guarded = True

    def _deliver(self) -> None:
        while True:
            try:
                what, value = self._outbox.get_nowait()
            except Empty:
                return
            if what == "progressed":
                self._on_progress(value)
            elif what == "succeeded":
                self.succeeded.emit(value)
            elif what == "raised":
                self._on_raised(value)
            else:
                self._timer.stop()
                self.running = False
                self.ended.emit()

    def _on_progress(self, progress: Progress) -> None:
        if progress != self._latest and not self._stop.is_set():
            self._latest = progress
            self.progressed.emit(progress)

    def _on_raised(self, error: BaseException) -> None:
        message = described(error)
        show_error(message)
        self.failed.emit(message)


class _WindowGuard(QObject):
    """Event filter that asks before napari's window is closed while a job runs.

    Args:
        window: The window; the guard is its child.
        runner: Runs the job.
    """

    def __init__(self, window: QWidget, runner: JobRunner) -> None:
        super().__init__(window)
        self._runner = runner
        window.installEventFilter(self)
        runner.destroyed.connect(self.deleteLater)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Keep the window open if the user cancels."""
        if event.type() != QEvent.Type.Close or not self._runner.running or self._runner.may_close():
            return super().eventFilter(watched, event)
        event.ignore()
        return True


def _guard_dock(dock: QDockWidget) -> None:
    """Let the × of a dock ask while a job in it runs, and close the dock when that job has ended.

    napari's title bar calls `destroyOnClose` of the dock; Qt itself is not asked.
    """
    close = getattr(dock, "destroyOnClose", None)
    if close is None or hasattr(dock, "_napari_lpd_close"):
        return

    def ask() -> None:
        running = [runner for runner in dock.findChildren(JobRunner) if runner.running]
        if not all(runner.may_close() for runner in running):
            return
        for runner in running:
            runner.stop()
            runner.ended.connect(ask)
        if not running:
            close()

    dock._napari_lpd_close = close
    dock.destroyOnClose = ask  # type: ignore[attr-defined]


class JobBar(QWidget):
    """Buttons to run, pause and stop a job, progress bar with the time left, and a status line.

    Args:
        run_text: Text of the run button.
        pausable: Whether the job can pause.
        question: Is asked before the dock or napari is closed while the job runs.

    Signals:
        asked: the run button was pressed; the owner calls `start`.
    """

    asked = Signal()

    def __init__(self, run_text: str, pausable: bool = False, question: str = "") -> None:
        super().__init__()
        self.runner = JobRunner(self, question)
        self._refusal, self._help = "", ""
        self._time_left = TimeLeft()
        self.button, self.pause, self.stop_button = QPushButton(run_text), QPushButton(PAUSE), QPushButton(STOP)
        self.pause.setToolTip("Pause the job and keep its data in memory; the processor is free for other work")
        self.pause.setVisible(pausable)
        self.stop_button.setToolTip("Stop the job; what is done is kept")
        self.bar = QProgressBar()
        self.status = QLabel()
        self.status.setTextFormat(Qt.TextFormat.PlainText)

        self.bar.setVisible(False)
        self.status.setVisible(False)
        self.status.setWordWrap(True)
        self.status.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        row = in_row([self.button, self.pause, self.stop_button])
        row.layout().setStretch(0, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (row, self.bar, self.status):
            layout.addWidget(widget)

        self.pause.clicked.connect(self._on_pause)
        self.stop_button.clicked.connect(self.stop)
        self.button.clicked.connect(self.asked)
        self.runner.progressed.connect(self._on_progressed)
        self.runner.failed.connect(self._on_failed)
        self.runner.ended.connect(self._on_ended)
        self._show_running()

    def start(self, make_job: Callable[[], Job[Any]]) -> None:
        """Start a job."""
        self.runner.start(make_job)
        self._time_left.restart()
        self.bar.setRange(0, 0)
        self._show_running()
        self.say("Starting…")

    def stop(self) -> None:
        """Stop the running job."""
        self.runner.stop()
        self.pause.setEnabled(False)
        self.stop_button.setEnabled(False)
        self.stop_button.setText(STOPPING)
        self.say(STOPPING)

    def refuse(self, reason: str) -> None:
        """Disable the run button and give the reason as its tooltip; with "", enable it."""
        self._refusal = reason
        self._show_running()

    def explain(self, text: str) -> None:
        """Set the tooltip of the run button, shown while it is enabled."""
        self._help = text
        self._show_running()

    def say(self, text: str) -> None:
        """Show a line of text as status."""
        self.status.setText(text)
        self.status.setVisible(bool(text))

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Show an LpdError raised inside as a notification and in the status line."""
        try:
            yield
        except LpdError as error:
            show_error(one_line(error))
            self._on_failed(one_line(error))

    def _show_running(self) -> None:
        """Enable what can be pressed: another button starts a job than stops it, so no double click does both."""
        running = self.runner.running
        self.button.setEnabled(not running and not self._refusal)
        self.button.setToolTip(tip("It is running: press Stop first" if running else self._refusal or self._help))
        for button, text in ((self.pause, PAUSE), (self.stop_button, STOP)):
            button.setText(text)
            button.setEnabled(running)
        self.bar.setVisible(running)

    def _on_pause(self) -> None:
        paused = not self.runner.paused.is_set()
        (self.runner.paused.set if paused else self.runner.paused.clear)()
        self.pause.setText(RESUME if paused else PAUSE)
        self._time_left.restart()
        if paused:
            self.say("Paused.")

    def _on_progressed(self, progress: Progress) -> None:
        if self.runner.paused.is_set():
            return
        self.bar.setRange(0, progress.total)
        self.bar.setValue(progress.done)
        count = f"{progress.done} of {progress.total}" if progress.total else ""
        self.say(" · ".join(text for text in (progress.message, count, self._time_left(progress)) if text))

    def _on_failed(self, message: str) -> None:
        self.say(f"⚠ {message}")

    def _on_ended(self) -> None:
        if self.stop_button.text() == STOPPING:
            self.say("Stopped.")
        self._show_running()
