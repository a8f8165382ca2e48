"""The command line: parse the arguments, run the command, print progress; an error is one line, exit code 2."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from napari_lpd.cli.common import Printer, Result
from napari_lpd.cli.parser import FIRST, parse_given
from napari_lpd.cli.train import train
from napari_lpd.core.errors import LpdError, SettingsError, described
from napari_lpd.core.jobs import NICENESS, PAUSE
from napari_lpd.core.text import READABLE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

STOPPED = 130  # exit code after Ctrl-C or SIGTERM, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute a command and return the exit code.

    Returns:
        0: success. 2: an error that the user can fix. 1: any other error, or nobody reads the output any more.
        130: stopped by Ctrl-C or SIGTERM, or by the parent process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        Printer(as_json=False).text(FIRST.rstrip())
        return 0
    try:
        options = parse_given(given)
    except SettingsError as error:
        Printer("--json" in given).error(str(error))
        return 2
    printer = Printer(options.json, errors_only=_is_further_process(options), quiet=options.quiet)
    command: Callable[[argparse.Namespace, Printer], Result] = options.run
    try:
        with _logged(options.verbose), _stoppable(printer, options.until_eof):
            printer.result(command(options, printer))
    except BrokenPipeError:  # who reads our output has closed it, as head does
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        printer.error("stopped; what was done is kept: run the same command again to resume")
        return STOPPED
    except Exception as error:  # noqa: BLE001  a line for the user, the traceback in the log that it names
        printer.error(described(error))
        if options.verbose:
            traceback.print_exception(error)
        return 2 if isinstance(error, LpdError) else 1
    return 0


@contextlib.contextmanager
def _logged(verbose: bool) -> Iterator[None]:
    """Show what our modules log, on request; else only their warnings are seen."""
    logger, handler = logging.getLogger("napari_lpd"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    level = logger.level
    if verbose:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _is_further_process(options: argparse.Namespace) -> bool:
    """Return whether ``torchrun`` started this process with a rank other than 0."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    if options.run is not train:
        raise SystemExit("napari-lpd: error: torchrun is for training only; run this command by itself")
    return os.environ["RANK"] != "0"


@contextlib.contextmanager
def _stoppable(printer: Printer, until_eof: bool) -> Iterator[None]:
    """Stop between two steps at the first Ctrl-C or SIGTERM, or when the parent closes our input or dies.

    What the parent writes to our input pauses and resumes the job (`jobs.PAUSE`).
    """

    def stop(*_: object) -> None:
        if printer.stopping.is_set():
            raise KeyboardInterrupt
        printer.stopping.set()

    def listen() -> None:
        while signal_byte := os.read(0, 1):
            (printer.paused.set if signal_byte == PAUSE.encode() else printer.paused.clear)()
        printer.stopping.set()

    if until_eof:
        if hasattr(os, "nice"):
            os.nice(max(0, NICENESS - os.nice(0)))  # the thread that started this may have a lower priority
        threading.Thread(target=listen, daemon=True).start()
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
