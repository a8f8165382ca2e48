"""The command line: parse the arguments, run the command, print progress; an error is one line, exit code 2."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import itertools
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from napari_lpd import __version__
from napari_lpd.cli.common import Printer, Result
from napari_lpd.cli.demo import demo, demo_options, doctor, settings, settings_options
from napari_lpd.cli.evaluate import compare, compare_options, evaluate, evaluate_options
from napari_lpd.cli.papers import import_official, import_options, reproduce, reproduce_options, stage2, stage2_options
from napari_lpd.cli.predict import predict, predict_options
from napari_lpd.cli.results import export, export_options, measure, measure_options
from napari_lpd.cli.train import train, train_options
from napari_lpd.core.errors import LpdError, SettingsError, described
from napari_lpd.core.jobs import NICENESS, PAUSE
from napari_lpd.core.text import READABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute a command and return the exit code: 0 for success, 2 for an error that the user can fix, 1 for others."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = _parse_given(given)
    except SettingsError as error:
        Printer("--json" in given).error(str(error))
        return 2
    printer = Printer(options.json, errors_only=_is_further_process(options))
    command: Callable[[argparse.Namespace, Printer], Result] = options.run
    try:
        with _stoppable(printer, options.until_eof):
            printer.result(command(options, printer))
    except LpdError as error:
        printer.error(str(error))
        return 2
    except BrokenPipeError:  # who reads our output has closed it, as head does
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        printer.error("stopped; what was done is kept: run the same command again to resume")
        return 130
    except Exception as error:  # noqa: BLE001  a line for the user, the traceback in the log that it names
        printer.error(described(error))
        return 1
    return 0


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


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, which names the nearest of what is known."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message} ({self.prog} --help lists all)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, but name an option that is not known before all that is missing."""
        if self.get_default("run"):  # of a command
            known = list(self._option_string_actions)
            for text in itertools.takewhile(lambda text: text != "--", args):
                flag = text.partition("=")[0]
                if flag.startswith("--") and not any(option.startswith(flag) for option in known):
                    self.error(f"unknown option {flag}{_nearest(flag, known)}")
        return super().parse_known_args(args, namespace)


def _nearest(text: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(text, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="napari-lpd", description="Tissue segmentation from image-level labels.")
    parser.add_argument("--version", action="version", version=f"napari-lpd {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace, Printer], Result], text: str) -> argparse.ArgumentParser:
        escaped = text.replace("%", "%%")
        sub = subparsers.add_parser(name, help=escaped, description=text)
        sub.add_argument("--json", action="store_true", help="print JSON lines instead of text")
        sub.add_argument("--until-eof", action="store_true", help=argparse.SUPPRESS)
        sub.set_defaults(run=run)
        return sub

    demo_options(add("demo", demo, "Predict the sample slide and show mask and prototypes in napari."))
    train_options(add("train", train, "Train a model from regions on a slide, or from a folder of labelled tiles."))
    predict_options(add("predict", predict, "Segment slides; writes DIR/NAME.zarr and DIR/NAME.mask.ome.tif for each."))
    evaluate_options(add("evaluate", evaluate, "Measure a model on DIR/img with DIR/mask; write a report."))
    compare_options(add("compare", compare, "Compare the prototypes of models; write a report."))
    import_options(add("import", import_official, "Convert a checkpoint (.pth) of the published LPD or PBIP code."))
    stage2_options(add("stage2", stage2, "Train a supervised segmenter on a model's own pseudo-masks."))
    reproduce_options(add("reproduce", reproduce, "Train and evaluate all rows of a table of the papers."))
    measure_options(add("measure", measure, "Measure areas of results in mm² and %; write one table (CSV)."))
    export_options(add("export", export, "Export a result for other programs."))
    settings_options(add("settings", settings, "Print all settings with default, unit, limits and presets."))
    add("doctor", doctor, "Show the device and why it was chosen, installed packages and where weights are.")
    return parser


def _parse_given(arguments: list[str]) -> argparse.Namespace:
    parser = _parser()
    command = next((text for text in arguments if not text.startswith("-")), None)
    names = next(list(action.choices) for action in parser._actions if isinstance(action.choices, dict))
    if command is not None and command not in names:
        parser.error(f"unknown command {command}{_nearest(command, names)}")
    options = parser.parse_args(arguments)
    options.given = arguments
    options.parse = _parse_given  # for commands that run others
    return options
