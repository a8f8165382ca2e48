"""Long work is a generator that yields Progress and returns its result; nothing else.

The command line, the tests and the widgets drive the same generators. Closing a job (`job.close()`) cancels it:
its `finally` blocks run and nothing half-written stays behind.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from typing import IO, Any, TypeVar

from napari_lpd.core.errors import LpdError

T = TypeVar("T")
PATIENCE_S = 1.5
WARNING = "warning: "  # how a Progress's message begins that is to be kept in sight
COMPUTING = "computing on "  # how a Progress's message begins that names the device and why it is used
PAUSE, GO_ON = "p", "g"  # what a child reads from its input
NICENESS = 5  # how far work beside a window stands back, so that the window stays smooth


@dataclass(frozen=True)
class Progress:
    """One step of a job: `done` of `total` units, a message for people, numbers for curves."""

    done: int
    total: int
    message: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


Job = Generator[Progress, None, T]


def run(job: Job[T], on_progress: Callable[[Progress], None] | None = None) -> T:
    """Drive `job` to its end, hand each Progress to `on_progress`, and return the job's result.

    What `on_progress` raises closes the job, between two of its steps.

    Example:
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


def to_json_line(event: str, value: dict[str, Any] | Progress) -> str:
    """One line of the protocol between a child process and its parent: event is progress, result or error."""
    return json.dumps({"event": event, **(asdict(value) if isinstance(value, Progress) else value)})


def in_subprocess(arguments: list[str], paused: threading.Event | None = None) -> Job[dict[str, Any]]:
    """Run ``python -m napari_lpd ARGUMENTS --json`` in a child process and relay its JSON lines.

    Yields at least every 100 ms (the last Progress again while the child is busy), so that it can be closed at any
    time. Closing it, and the end of this process, whatever its cause, stop the child between two steps; a child that
    takes longer than a second and a half for that is killed.

    Args:
        arguments: Of the command line.
        paused: While it is set the child waits between two steps.

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
    )
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    last_words: deque[str] = deque(maxlen=20)
    readers = [
        threading.Thread(target=_forward, args=(child.stdout, lines.put), daemon=True),
        threading.Thread(target=_forward, args=(child.stderr, last_words.append), daemon=True),
    ]
    for reader in readers:
        reader.start()
    latest = Progress(0, 0, "starting")
    waits = False
    result: dict[str, Any] | None = None
    try:
        while (line := _next_line(lines)) is not None:
            if paused is not None and paused.is_set() != waits:
                waits = not waits
                _tell(child, PAUSE if waits else GO_ON)
            if line and not line.startswith('{"event"'):
                last_words.append(line)  # a library that prints
                continue
            event = json.loads(line) if line else {"event": "progress", **asdict(latest)}
            kind = event.pop("event")
            if kind == "error":
                raise LpdError(event["message"])
            if kind == "progress":
                latest = Progress(**event)
                yield latest
            else:
                result = event
        code = child.wait()
        readers[1].join(timeout=5)
        if result is None:
            said = " | ".join(word for word in last_words if word) or "nothing"
            raise LpdError(f"{arguments[0]} ended with code {code} before its result; it last said: {said}")
        return result
    finally:
        _end(child)
        for reader in readers:
            reader.join(timeout=5)


def _tell(child: subprocess.Popen[str], word: str) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has just ended
        child.stdin.write(word)
        child.stdin.flush()


def _next_line(lines: queue.SimpleQueue[str | None]) -> str | None:
    """The next line; "" when none came within 100 ms, None at the end."""
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
