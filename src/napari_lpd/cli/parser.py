"""The commands with their options, help and examples; a wrong one is one line with the nearest that is known."""

from __future__ import annotations

import argparse
import difflib
import itertools
from typing import TYPE_CHECKING, Any, NoReturn

from napari_lpd import __version__
from napari_lpd.cli.demo import (
    completion,
    completion_options,
    demo,
    demo_options,
    doctor,
    settings,
    settings_options,
)
from napari_lpd.cli.evaluate import compare, compare_options, evaluate, evaluate_options
from napari_lpd.cli.papers import import_official, import_options, reproduce, reproduce_options, stage2, stage2_options
from napari_lpd.cli.predict import predict, predict_options
from napari_lpd.cli.results import export, export_options, measure, measure_options, relabel, relabel_options
from napari_lpd.cli.train import train, train_options
from napari_lpd.core.errors import NOTICE, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from napari_lpd.cli.common import Printer, Result

ABOUT = "Tissue segmentation of H&E slides, trained from weak labels."
FIRST = f"""napari-lpd {__version__}: {ABOUT} {NOTICE}

To begin:
  napari-lpd demo                          segment the sample slide and show it in napari
  napari-lpd predict SLIDE --out RESULTS   segment a slide of yours with the sample model
  napari-lpd doctor                        show the device, the versions, and where weights lie

`napari-lpd --help` lists all commands. The windows are in napari: Plugins > napari-lpd.
"""
GROUPS = {
    "To begin": ("demo", "doctor"),
    "Make a model": ("train", "import", "stage2"),
    "Use it on slides": ("predict", "relabel", "measure", "export"),
    "See how good it is": ("evaluate", "compare", "reproduce"),
    "To look up": ("settings", "completion"),
}
"""The commands, as the main help page groups them."""

EXAMPLES = {
    "demo": ("napari-lpd demo",),
    "doctor": ("napari-lpd doctor",),
    "train": (
        "napari-lpd train --slide SLIDE --regions REGIONS.geojson --classes CLASSES.json --out RUN",
        "napari-lpd train --data TILES --set mpp=0.5 --classes CLASSES.json --out LPD",
        "napari-lpd train --project SLIDES.lpd.json --out RUN2",
    ),
    "import": ("napari-lpd import CHECKPOINT.pth --out IMPORTED",),
    "stage2": ("napari-lpd stage2 --model MODEL --data TILES --out STAGE2",),
    "predict": (
        "napari-lpd predict SLIDE ... --model RUN/model.safetensors --out RESULTS",
        "napari-lpd predict *.svs --out RESULTS3",
        "napari-lpd predict --resume --out RESULTS3",
        "napari-lpd predict SLIDE --out RESULTS2 --regions ROI.geojson --tissue TISSUE.geojson",
    ),
    "relabel": ("napari-lpd relabel NAME.zarr --sure 0.6", "napari-lpd relabel NAME.zarr --smallest 2000 --smooth 4"),
    "measure": ("napari-lpd measure RESULTS/*.zarr --roles ROLES.json --out AREAS.csv",),
    "export": ("napari-lpd export RESULTS/SLIDE.zarr --to MASK.geojson --simplify 2",),
    "evaluate": ("napari-lpd evaluate --model LPD/model.safetensors --data TEST --out REPORT",),
    "compare": ("napari-lpd compare A.safetensors B.safetensors --data TEST --training TILES --out COMPARISON",),
    "reproduce": ("napari-lpd reproduce table1 --data DATASET",),
    "settings": ("napari-lpd settings train",),
    "completion": ("napari-lpd completion bash",),
}
"""Example lines of every command; the tests of the documents run them."""

TITLES = {
    "output": ("--out", "--to", "--overwrite", "--screenshot", "--summary"),
    "settings": ("--preset", "--settings", "--set", "--evaluate-set"),
}
"""Titles of groups of options in a help page, and what stands below them."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, which names the nearest of what is known, and whose options are in groups."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._titled: dict[str, Any] = {}
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*arguments, **options)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an argument, below its title of `TITLES`."""
        title = next((title for title, flags in TITLES.items() if names[0] in flags), None)
        if title is None:
            return super().add_argument(*names, **options)
        if title not in self._titled:
            self._titled[title] = self.add_argument_group(title)
        return self._titled[title].add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        """Raise the error, for `main` to print."""
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


class _MainParser(Parser):
    """The parser of the main help page, which groups the commands."""

    def format_help(self) -> str:
        """Format the main help page: usage, commands in groups, options."""
        about = {choice.dest: choice.help for choice in self._commands()._choices_actions}
        lines = [self.format_usage(), ABOUT, ""]
        for title, names in GROUPS.items():
            lines += [f"{title}:", *(f"    {name:<11} {(about[name] or '').replace('%%', '%')}" for name in names), ""]
        lines += ["Options:", "    -h, --help  Show this page.", "    --version   Show the version.", ""]
        return "\n".join([*lines, "After a command, --help shows its options, with examples.", ""])

    def _commands(self) -> Any:
        return next(action for action in self._actions if isinstance(action.choices, dict))

    def subparsers(self) -> dict[str, argparse.ArgumentParser]:
        """Return the parsers of all commands, by name."""
        return dict(self._commands().choices)


def commands_parser() -> _MainParser:
    """Make the parser of all commands."""
    parser = _MainParser(prog="napari-lpd", description=ABOUT)
    parser.add_argument("--version", action="version", version=f"napari-lpd {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, run: Callable[[argparse.Namespace, Printer], Result], text: str) -> argparse.ArgumentParser:
        examples = "\n".join(["examples:", *(f"  {line}" for line in EXAMPLES[name])])
        sub = subparsers.add_parser(
            name, help=text.replace("%", "%%"), description=text, epilog=examples.replace("%", "%%")
        )
        printed = sub.add_argument_group("what is printed")
        printed.add_argument("--json", action="store_true", help="print JSON lines instead of text")
        louder = printed.add_mutually_exclusive_group()
        louder.add_argument("-v", "--verbose", action="store_true", help="log messages, and tracebacks of errors, too")
        louder.add_argument("-q", "--quiet", action="store_true", help="only the result, warnings and errors")
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
    relabel_options(
        add(
            "relabel",
            relabel,
            "Make results' labels again, more or less sure, cleaned; what is not given has its default.",
        )
    )
    measure_options(add("measure", measure, "Measure areas of results in mm² and %; write one table (CSV)."))
    export_options(add("export", export, "Export a result for other programs."))
    settings_options(add("settings", settings, "Print all settings with default, unit, limits and presets."))
    completion_options(add("completion", completion, "Print a script that lets a shell complete commands and options."))
    add("doctor", doctor, "Show the device and why it was chosen, installed packages and where weights are.")
    return parser


def parse_given(arguments: list[str]) -> argparse.Namespace:
    """Parse a command line.

    Raises:
        SettingsError: it cannot be parsed.
    """
    parser = commands_parser()
    command = next((text for text in arguments if not text.startswith("-")), None)
    if command is not None and command not in (names := parser.subparsers()):
        parser.error(f"unknown command {command}{_nearest(command, names)}")
    options = parser.parse_args(arguments)
    options.given = arguments
    options.parse = parse_given  # for commands that run others
    options.parser = commands_parser  # for those that describe others
    return options
