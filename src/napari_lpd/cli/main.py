"""The command line: parse → command → Progress as text or JSON lines. Errors: one line, exit code 2."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from napari_lpd import __version__, samples
from napari_lpd.cli import commands
from napari_lpd.cli import results as result_commands
from napari_lpd.cli.common import Printer, Result
from napari_lpd.core.errors import LpdError
from napari_lpd.core.jobs import NICENESS, PAUSE
from napari_lpd.core.settings.presets import PRESETS
from napari_lpd.core.settings.training import EMBEDDED_ENCODER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 an error that the user can mend)."""
    options = _parse_given(list(sys.argv[1:] if arguments is None else arguments))
    printer = Printer(options.json, errors_only=_is_helper(options))
    command: Callable[[argparse.Namespace, Printer], Result] = options.run
    try:
        with _stoppable(printer, options.until_eof):
            printer.result(command(options, printer))
    except LpdError as error:
        printer.error(" ".join(str(error).split()))
        return 2
    except KeyboardInterrupt:
        printer.error("stopped by the user; what was done is kept: train and predict go on when they are run again")
        return 130
    return 0


def _is_helper(options: argparse.Namespace) -> bool:
    """Whether ``torchrun`` started this process beside the one that decides and prints."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    if options.run is not commands.train:
        raise SystemExit("napari-lpd: error: torchrun is for training only; run this command by itself")
    return os.environ["RANK"] != "0"


@contextmanager
def _stoppable(printer: Printer, until_eof: bool) -> Iterator[None]:
    """Stop between two steps at the first Ctrl-C or SIGTERM, or when the parent closes our input or dies.

    What the parent writes there makes us wait and go on (`jobs.PAUSE`).
    """

    def stop(*_: object) -> None:
        if printer.stopping.is_set():
            raise KeyboardInterrupt
        printer.stopping.set()

    def listen() -> None:
        while heard := os.read(0, 1):
            (printer.paused.set if heard == PAUSE.encode() else printer.paused.clear)()
        printer.stopping.set()

    if until_eof:
        if hasattr(os, "nice"):
            os.nice(max(0, NICENESS - os.nice(0)))  # a thread that stands back may have started this
        threading.Thread(target=listen, daemon=True).start()
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="napari-lpd", description="Tissue segmentation from image-level labels.")
    parser.add_argument("--version", action="version", version=f"napari-lpd {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace, Printer], Result], text: str) -> argparse.ArgumentParser:
        escaped = text.replace("%", "%%")
        sub = subparsers.add_parser(name, help=escaped, description=escaped)
        sub.add_argument("--json", action="store_true", help="print JSON lines instead of text")
        sub.add_argument("--until-eof", action="store_true", help=argparse.SUPPRESS)
        sub.set_defaults(run=run)
        return sub

    demo = add("demo", commands.demo, "Predict the sample slide and show mask and prototypes in napari.")
    demo.add_argument("--train", action="store_true", help="train the sample model first")
    demo.add_argument("--screenshot", type=Path, metavar="PNG", help="save a picture of the window and close it")
    demo.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for what the demo makes")
    train_options(
        add("train", commands.train, "Train a model from regions on a slide, or from a folder of labelled tiles.")
    )
    predict_options(
        add("predict", commands.predict, "Segment slides; writes DIR/NAME.zarr and DIR/NAME.ome.tif for each.")
    )
    evaluate_options(add("evaluate", commands.evaluate, "Measure a model on DIR/img with DIR/mask; write a report."))
    compare_options(add("compare", commands.compare, "Compare the prototypes of models; write a report."))
    import_options(
        add("import", commands.import_official, "Take over a checkpoint (.pth) of the published LPD or PBIP code.")
    )
    stage2_options(add("stage2", commands.stage2, "Train a supervised segmenter on a model's own pseudo-masks."))
    reproduce_options(add("reproduce", commands.reproduce, "Train and measure all rows of a table of the papers."))
    measure_options(add("measure", result_commands.measure, "Areas of results in mm² and %, as one table (CSV)."))
    export_options(add("export", result_commands.export, "Write a result for other programs."))
    add("doctor", commands.doctor, "Say which device is used and why, what is installed and where weights lie.")
    return parser


def add_settings_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--settings", type=Path, metavar="JSON", help="settings file, as saved by a widget")
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; may be repeated")


def add_source_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--source",
        default="",
        metavar="REGEX",
        help="how a tile's name gives its slide or patient: first group; else the name before + or [",
    )


def train_options(train: argparse.ArgumentParser) -> None:
    train.add_argument("--slide", type=Path, help="slide on which the regions lie")
    train.add_argument(
        "--slide-mpp", type=float, metavar="MPP", help="the slide's µm per pixel, if the file gives none"
    )
    train.add_argument(
        "--project", type=Path, metavar="JSON", help="instead: several slides with regions, as saved by the widget"
    )
    train.add_argument("--regions", type=Path, metavar="GEOJSON", help="outlined regions with tissue names")
    train.add_argument("--check-regions", type=Path, metavar="GEOJSON", help="other regions, to measure recall on")
    train.add_argument(
        "--data",
        type=Path,
        metavar="DATA",
        help="instead of a slide: tiles DIR/train/NAME[1010].png or DIR/train/CLASS/NAME.png, or a table (CSV) with a"
        " column path and one per class; DIR/valid/img and mask choose the best epoch",
    )
    train.add_argument("--classes", type=Path, metavar="JSON", help="tissue names and colours; or bcss, luad")
    train.add_argument(
        "--summary", action="store_true", help="say what would be trained on, write DIR/tiles.png, and stop"
    )
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the model")
    train.add_argument("--preset", choices=PRESETS, default="default", help="settings to start from")
    train.add_argument("--encoder", help=f"timm name or mit_b0..b2 (default {EMBEDDED_ENCODER})")
    train.add_argument(
        "--encoder-weights",
        metavar="PATH",
        help="embedded, random, hub, or a file (NVIDIA's MiT weights, and what is tuned from them, are non-commercial)",
    )
    add_source_option(train)
    add_settings_options(train)


def predict_options(predict: argparse.ArgumentParser) -> None:
    predict.add_argument("slides", type=Path, nargs="+", metavar="SLIDE")
    predict.add_argument("--model", type=Path, default=samples.model_path(), help="model file (default: the sample's)")
    predict.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="results; what was half done there is continued"
    )
    predict.add_argument("--mpp", type=float, help="the slides' µm per pixel, if their files give none")
    predict.add_argument("--icc", action="store_true", help="convert colours by the slide's ICC profile")
    predict.add_argument("--regions", type=Path, metavar="GEOJSON", help="predict only inside these polygons")
    predict.add_argument("--tissue", type=Path, metavar="GEOJSON", help="what is tissue, instead of finding it")
    predict.add_argument("--replace", action="store_true", help="delete other predictions that are in the place")
    predict.add_argument(
        "--scheduler", metavar="ADDRESS", help="send slides to this dask cluster (tcp://…; extra 'cluster')"
    )
    add_settings_options(predict)


def evaluate_options(evaluate: argparse.ArgumentParser) -> None:
    evaluate.add_argument("--model", type=Path, required=True, help="model file")
    evaluate.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with img and mask")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the report")
    evaluate.add_argument(
        "--choose-on", type=Path, metavar="DIR", help="other images with masks, to choose thresholds and temperature on"
    )
    add_source_option(evaluate)
    add_settings_options(evaluate)


def compare_options(compare: argparse.ArgumentParser) -> None:
    compare.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="model files; the first is A, then B, …")
    compare.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DATA",
        help="folder with img and mask, folder of images, or a slide; without masks the places of a class are those"
        " where all models agree",
    )
    compare.add_argument("--out", type=Path, required=True, metavar="REPORT", help="folder for the report")
    compare.add_argument("--names", nargs="+", metavar="NAME", help="what to call them (default: their folders)")
    compare.add_argument(
        "--training",
        type=Path,
        metavar="DATA",
        help="labelled training tiles, as of train, or the word model: what the first model was trained on, as its card"
        " says; nearest patches come from them, and a clustered control is made",
    )
    compare.add_argument("--mpp", type=float, help="the slide's µm per pixel, if its file gives none")
    add_source_option(compare)
    add_settings_options(compare)


def stage2_options(stage2: argparse.ArgumentParser) -> None:
    stage2.add_argument("--model", type=Path, required=True, help="prototype model that makes the pseudo-masks")
    stage2.add_argument("--data", type=Path, required=True, metavar="DIR", help="tiles named NAME[1010].png")
    stage2.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for masks and model")
    stage2.add_argument("--refiner", choices=("none", "lattice", "pydensecrf"), default="lattice")
    add_source_option(stage2)
    add_settings_options(stage2)


def reproduce_options(reproduce: argparse.ArgumentParser) -> None:
    reproduce.add_argument("table", choices=("table1", "table2", "variants"))
    reproduce.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with train, valid/{img,mask}, test/{img,mask}"
    )
    reproduce.add_argument(
        "--classes", metavar="JSON", help="bcss, luad, or a file with names and colours (default: DIR/classes.json)"
    )
    reproduce.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for models and table (default: TABLE-NAME here)"
    )
    reproduce.add_argument("--seeds", type=int, default=3, help="seeds per row (default: %(default)s)")
    reproduce.add_argument(
        "--rows",
        action="append",
        default=[],
        metavar="NAME",
        help="only this row; may be repeated (docs/method.md lists them)",
    )
    reproduce.add_argument(
        "--evaluate-set", action="append", default=[], metavar="NAME=VALUE", help="one setting of the evaluation"
    )
    add_source_option(reproduce)
    add_settings_options(reproduce)


def measure_options(measure: argparse.ArgumentParser) -> None:
    measure.add_argument("results", type=Path, nargs="+", metavar="NAME.zarr")
    measure.add_argument("--out", type=Path, required=True, metavar="CSV", help="the table")
    measure.add_argument("--regions", type=Path, metavar="GEOJSON", help="measure these regions too, each by itself")
    measure.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="X,Y",
        help="score the tumour-stroma ratio in 3.1 mm² around this place, in level-0 pixels; may be repeated",
    )
    _result_options(measure)


def export_options(export: argparse.ArgumentParser) -> None:
    export.add_argument("prediction", type=Path, metavar="NAME.zarr")
    export.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FILE",
        help=".ome.tif (pyramid), .geojson (QuPath), .png (picture), .csv (areas), .dcm (DICOM SEG), .zarr (all of it)",
    )
    export.add_argument(
        "--what",
        choices=("labels", "prototypes", "corrections"),
        help="labels (default); prototypes: cosine maps as .ome.tif; corrections: training regions as .geojson",
    )
    export.add_argument("--simplify", type=float, metavar="UM", help="simplify outlines, in µm (default: every pixel)")
    export.add_argument("--slide", type=Path, help="the slide; .png and .dcm need it")
    _result_options(export)


def _result_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--roles", type=Path, metavar="JSON", help="which classes are tumour, stroma, lymphocyte_rich_stroma"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    add_settings_options(sub)


def import_options(take_over: argparse.ArgumentParser) -> None:
    take_over.add_argument("checkpoint", type=Path)
    take_over.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the model")
    take_over.add_argument("--classes", type=Path, metavar="JSON", help="names and colours, in the checkpoint's order")
    take_over.add_argument(
        "--prototypes", type=Path, metavar="FILE", help="PBIP's prototypes (.pkl, .npz, .safetensors)"
    )


def _parse_given(arguments: list[str]) -> argparse.Namespace:
    options = _parser().parse_args(arguments)
    options.given = arguments
    options.parse = _parse_given  # a command may run others
    return options
