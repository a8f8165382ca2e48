"""Jobs: generators that yield Progress and return a result; the form of all long work.

The command line, the tests and the widgets drive the same generators. Closing a job (`job.close()`) cancels it:
its `finally` blocks run and no partial file remains.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field, replace
from typing import IO, Any, TypeVar

from napari_lpd.core.errors import LpdError

T = TypeVar("T")
PATIENCE_S = 1.5
WARNING = "warning: "  # prefix of a message of Progress that stays visible
COMPUTING = "computing on "  # prefix of a message of Progress that names the device and the reason for it
VALIDATION = ": validation"  # suffix of a message of Progress that ends an epoch; its metrics name the best epoch
KNOWN_SHARE, KNOWN_S = 0.05, 10  # of a phase that has to be done, or else seconds, before its time left is known
PAUSE, GO_ON = "p", "g"  # commands on the standard input of a child
NICENESS = 5  # lower priority of work beside a window, which stays responsive


@dataclass(frozen=True)
class Progress:
    """One step of a job: `done` of `total` units, a message for people, numbers for curves."""

    done: int
    total: int
    message: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SlideDone(Progress):
    """The step with which one of many slides is done; `row` says what came of it, as in the protocol."""

    row: dict[str, Any] = field(default_factory=dict)


Job = Generator[Progress, None, T]


def run(job: Job[T], on_progress: Callable[[Progress], None] | None = None) -> T:
    """Drive `job` to its end, hand each Progress to `on_progress`, and return the job's result.

    What `on_progress` raises closes the job, between two of its steps.

    Examples:
        >>> from napari_lpd import run
        >>> from napari_lpd.core.jobs import Progress
        >>> def count_to(total):
        ...     for done in range(1, total + 1):
        ...         yield Progress(done, total)
        ...     return total
        >>> run(count_to(2), lambda progress: print(progress.done, "of", progress.total))
        1 of 2
        2 of 2
        2
    """
    try:
        while True:
            try:
                progress = next(job)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            if on_progress is not None:
                on_progress(progress)
    finally:
        job.close()


class TimeLeft:
    """Estimate of the time that the present phase of a job still takes.

    A phase begins where the total changes or the count falls. Its speed is that since its first Progress, as what comes
    before (loading, compiling) does not come again.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what is known of the speed, as after a pause."""
        self._phase = self._latest = Progress(0, 0)
        self._began = 0.0

    def __call__(self, progress: Progress) -> str:
        """Take note of `progress`; return the time left as text, "" while it is not known."""
        if not progress.total:
            return ""
        now = time.monotonic()
        if progress.total != self._phase.total or progress.done < self._latest.done:
            self._phase, self._began = progress, now
        self._latest = progress
        taken, elapsed, ahead = progress.done - self._phase.done, now - self._began, progress.total - progress.done
        if taken <= 0 or ahead <= 0 or (taken < KNOWN_SHARE * progress.total and elapsed < KNOWN_S):
            return ""
        return f"{duration(elapsed / taken * ahead)} left"


def duration(seconds: float) -> str:
    """Format a time for people, in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def about(subject: str, job: Job[T]) -> Job[T]:
    """Drive `job` with `subject` before each of its messages, that of a warning too."""
    try:
        while True:
            try:
                progress = next(job)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            mark = WARNING if progress.message.startswith(WARNING) else ""
            yield replace(progress, message=f"{mark}{subject}: {progress.message.removeprefix(mark)}")
    finally:
        job.close()


def to_json_line(event: str, value: dict[str, Any] | Progress) -> str:
    """Encode one line of the protocol of child and parent process; event is progress, slide, result or error."""
    return json.dumps({"event": event, **(asdict(value) if isinstance(value, Progress) else value)})


def in_subprocess(arguments: list[str], paused: threading.Event | None = None) -> Job[dict[str, Any]]:
    """Run ``python -m napari_lpd ARGUMENTS --json`` in a child process and relay its JSON lines.

    Yields at least every 100 ms (the last Progress again while the child is busy), so that it can be closed at any
    time. Closing it, and any end of this process, stops the child between two steps; a child that takes longer than a
    second and a half for that is killed.

    Args:
        arguments: Command and options.
        paused: While it is set, the child waits between two steps.

    Returns:
        The child's result line, as a dictionary.

    Raises:
        LpdError: the child's own one-line error, or its last output when it died without one.
    """
    command = [sys.executable, "-m", "napari_lpd", *arguments, "--json", "--until-eof"]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    output: deque[str] = deque(maxlen=20)
    readers = [
        threading.Thread(target=_forward, args=(child.stdout, lines.put), daemon=True),
        threading.Thread(target=_forward, args=(child.stderr, output.append), daemon=True),
    ]
    for reader in readers:
        reader.start()
    latest = Progress(0, 0, "starting")
    waiting = False
    result: dict[str, Any] | None = None
    try:
        while (line := _next_line(lines)) is not None:
            if paused is not None and paused.is_set() != waiting:
                waiting = not waiting
                _tell(child, PAUSE if waiting else GO_ON)
            event = _event_of(line) if line else {"event": "progress", **asdict(latest)}
            if event is None:
                output.append(line)  # a library that prints, or the last line of a child that was killed
                continue
            kind = event.pop("event")
            if kind == "error":
                raise LpdError(event["message"])
            if kind == "result":
                result = event
            else:
                step = _step(kind, event, latest)
                latest = Progress(0, 0, "starting") if kind == "slide" else step
                yield step
        code = child.wait()
        readers[1].join(timeout=5)
        if result is None:
            last_lines = " | ".join(text for text in output if text) or "nothing"
            raise LpdError(f"{arguments[0]} ended with code {code} before its result; its last output: {last_lines}")
        return result
    finally:
        _end(child)
        for reader in readers:
            reader.join(timeout=5)


def _event_of(line: str) -> dict[str, Any] | None:
    """Parse a line of `to_json_line`; None where it is none."""
    try:
        return json.loads(line) if line.startswith('{"event"') else None  # its figures may be NaN
    except (ValueError, RecursionError):
        return None


def _step(kind: str, event: dict[str, Any], latest: Progress) -> Progress:
    if kind == "slide":
        return SlideDone(latest.done, latest.total, latest.message, latest.metrics, event)
    return Progress(**event)


def _tell(child: subprocess.Popen[str], command: str) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has just ended
        child.stdin.write(command)
        child.stdin.flush()


def _next_line(lines: queue.SimpleQueue[str | None]) -> str | None:
    """Return the next line, "" when none comes within 100 ms, None at the end."""
    try:
        return lines.get(timeout=0.1)
    except queue.Empty:
        return ""


def _forward(stream: IO[str], put: Callable[[str | None], None]) -> None:
    with stream:
        for line in stream:
            put(line.rstrip())
    put(None)


def _end(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()
    try:
        child.wait(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
