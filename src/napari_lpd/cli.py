"""The command line: parse → settings → job → Progress as text or JSON lines. Errors: one line, exit code 2."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_lpd import __version__, samples
from napari_lpd.config import EMBEDDED_ENCODER, PredictSettings, TrainSettings, read_classes, read_settings
from napari_lpd.errors import DataError, LpdError
from napari_lpd.jobs import Progress, run, to_json_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Result = dict[str, Any]


class Printer:
    """Prints progress: JSON lines for a parent process, else a line that is rewritten about twice a second."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._started = self._printed = time.monotonic()
        self._live = sys.stderr.isatty()

    def progress(self, progress: Progress) -> None:
        """Show one step."""
        if self.as_json:
            print(to_json_line("progress", progress), flush=True)
            return
        now = time.monotonic()
        if progress.done < progress.total and now - self._printed < (0.5 if self._live else 10):
            return
        self._printed = now
        left = (now - self._started) / max(progress.done, 1) * (progress.total - progress.done)
        numbers = "  ".join(f"{name} {value:.3g}" for name, value in progress.metrics.items())
        line = f"{progress.done}/{progress.total} {progress.message}  {left:.0f} s left  {numbers}"
        print(f"\r{line:<110}" if self._live else line, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def result(self, result: Result) -> None:
        """Show a command's result."""
        if self.as_json:
            print(to_json_line("result", result), flush=True)
            return
        if self._live:
            print(file=sys.stderr)
        _print_nested(result)

    def error(self, message: str) -> None:
        """Show an error as one line."""
        if self.as_json:
            print(to_json_line("error", {"message": message}), flush=True)
        else:
            print(f"napari-lpd: error: {message}", file=sys.stderr)


def _print_nested(result: Result, indent: str = "") -> None:
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"{indent}{name}:")
            _print_nested(value, indent + "  ")
        elif isinstance(value, list):
            for entry in value:
                _print_nested(entry, indent)
        else:
            print(f"{indent}{name}: {value:.4g}" if isinstance(value, float) else f"{indent}{name}: {value}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 an error that the user can mend)."""
    options = _parse_given(list(sys.argv[1:] if arguments is None else arguments))
    printer = Printer(options.json)
    command: Callable[[argparse.Namespace, Printer], Result] = options.run
    try:
        printer.result(command(options, printer))
    except LpdError as error:
        printer.error(" ".join(str(error).split()))
        return 2
    except KeyboardInterrupt:
        printer.error("stopped by the user")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="napari-lpd", description="Tissue segmentation from image-level labels.")
    parser.add_argument("--version", action="version", version=f"napari-lpd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, run_command: Callable[[argparse.Namespace, Printer], Result], help: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.add_argument("--json", action="store_true", help="print JSON lines instead of text")
        sub.set_defaults(run=run_command)
        return sub

    def add_settings(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--settings", type=Path, metavar="JSON", help="settings file, as saved by a widget")
        sub.add_argument(
            "--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; may be repeated"
        )

    demo = add("demo", demo_command, "Predict the sample slide and show mask and prototypes in napari.")
    demo.add_argument("--train", action="store_true", help="train the sample model first")
    demo.add_argument("--screenshot", type=Path, metavar="PNG", help="save a picture of the window and close it")
    demo.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for what the demo makes")

    train = add("train", train_command, "Train a model from regions on a slide, or from a folder of labelled tiles.")
    train.add_argument("--slide", type=Path, help="slide on which the regions lie")
    train.add_argument(
        "--slide-mpp", type=float, metavar="MPP", help="the slide's µm per pixel, if the file gives none"
    )
    train.add_argument("--regions", type=Path, metavar="GEOJSON", help="outlined regions with tissue names")
    train.add_argument("--check-regions", type=Path, metavar="GEOJSON", help="other regions, to measure recall on")
    train.add_argument("--data", type=Path, metavar="DIR", help="instead of a slide: tiles named NAME[1010].png")
    train.add_argument("--classes", type=Path, required=True, metavar="JSON", help="tissue names and colours")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the model")
    train.add_argument("--encoder", help=f"timm name or mit_b0..b2 (default {EMBEDDED_ENCODER})")
    train.add_argument(
        "--encoder-weights",
        metavar="PATH",
        help="embedded, random, hub, or a file (NVIDIA's MiT weights, and what is tuned from them, are non-commercial)",
    )
    add_settings(train)

    predict = add("predict", predict_command, "Segment slides; writes DIR/NAME.zarr and DIR/NAME.ome.tif for each.")
    predict.add_argument("slides", type=Path, nargs="+", metavar="SLIDE")
    predict.add_argument("--model", type=Path, default=samples.model_path(), help="model file (default: the sample's)")
    predict.add_argument("--out", type=Path, required=True, metavar="DIR")
    predict.add_argument("--mpp", type=float, help="the slides' µm per pixel, if their files give none")
    add_settings(predict)

    export = add("export", export_command, "Write a prediction's mask for other programs.")
    export.add_argument("prediction", type=Path, metavar="NAME.zarr")
    export.add_argument("--to", type=Path, required=True, metavar="FILE.ome.tif")

    add("doctor", doctor_command, "Say which device is used and why, what is installed and where weights lie.")
    return parser


def train_command(options: argparse.Namespace, printer: Printer) -> Result:
    """``napari-lpd train``: returns the model's path and, with check regions, its recalls."""
    overrides = list(options.set)
    overrides += [f"model.encoder={options.encoder}"] if options.encoder else []
    overrides += [f"model.encoder_weights={options.encoder_weights}"] if options.encoder_weights else []
    settings = read_settings(TrainSettings, options.settings, overrides)
    classes = read_classes(options.classes)
    names = [tissue.name for tissue in classes]
    if (options.data is None) == (options.slide is None):
        raise DataError("train needs either --slide with --regions, or --data")
    if options.slide is not None and options.regions is None:
        raise DataError(f"{options.slide}: no regions given; pass --regions GEOJSON")
    if options.check_regions is not None and options.slide is None:
        raise DataError("--check-regions needs --slide")
    from napari_lpd.data import tiles_from_folder, tiles_from_regions
    from napari_lpd.regions import read_regions
    from napari_lpd.slide import open_slide
    from napari_lpd.train import fit

    check = read_regions(options.check_regions, names) if options.check_regions else None
    _check_folder(options.out)
    if options.data is not None:
        tiles = tiles_from_folder(options.data, classes)
    else:
        with open_slide(options.slide, options.slide_mpp) as slide:
            tiles = tiles_from_regions(slide, read_regions(options.regions, names), classes, settings)
    command = "napari-lpd " + shlex.join(options.given)
    model = run(fit(tiles, settings, options.out, command), printer.progress)
    result: Result = {"model": str(model), "tiles": len(tiles), "tiles per class": tiles.tiles_per_class}
    if check is not None:
        result["metrics"] = _measure(options, model, check, settings, printer)
    return result


def _measure(options: argparse.Namespace, model: Path, check: Any, settings: TrainSettings, printer: Printer) -> Result:
    """Predict the slide, measure recall on the check regions, and add the figures to the model's card."""
    from napari_lpd.checkpoint import load_tensors, read_card, save_checkpoint
    from napari_lpd.evaluate import recall_metrics, region_confusion
    from napari_lpd.model import load_model
    from napari_lpd.predict import predict_region
    from napari_lpd.slide import open_slide

    loaded = load_model(model, settings.device)
    with open_slide(options.slide, options.slide_mpp) as slide:
        prediction = run(predict_region(slide, loaded, PredictSettings()), printer.progress)
    metrics = recall_metrics(region_confusion(prediction, check), [tissue.name for tissue in prediction.classes])
    card = read_card(model).model_copy(update={"metrics": metrics})
    save_checkpoint(model, load_tensors(model), card)
    return metrics


def predict_command(options: argparse.Namespace, printer: Printer) -> Result:
    """``napari-lpd predict``: one folder and one OME-TIFF per slide; refuses to start if a slide is missing."""
    settings = read_settings(PredictSettings, options.settings, options.set)
    from napari_lpd.checkpoint import read_card
    from napari_lpd.slide import open_slide

    read_card(options.model)
    for path in options.slides:  # every slide is opened before the first is predicted: errors come early
        with open_slide(path, options.mpp) as slide:
            slide.shape_at(1.0)
    _check_folder(options.out)
    from napari_lpd.export import write_ome_tiff
    from napari_lpd.model import load_model
    from napari_lpd.predict import predict_region

    model = load_model(options.model, settings.device)
    slides = []
    for path in options.slides:
        with open_slide(path, options.mpp) as slide:
            prediction = run(predict_region(slide, model, settings), printer.progress)
        folder = prediction.save(options.out / f"{path.stem}.zarr")
        mask = write_ome_tiff(prediction, options.out / f"{path.stem}.ome.tif")
        slides.append({"slide": str(path), "mm²": prediction.area_mm2(), "prediction": str(folder), "mask": str(mask)})
    return {"slides": slides}


def _check_folder(folder: Path) -> None:
    """Raise DataError now, not after an hour, if `folder` cannot be written."""
    created = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror})") from error
    if created:
        folder.rmdir()


def export_command(options: argparse.Namespace, _: Printer) -> Result:
    """``napari-lpd export``."""
    from napari_lpd.export import write_ome_tiff
    from napari_lpd.prediction import Prediction

    return {"written": str(write_ome_tiff(Prediction.load(options.prediction), options.to))}


def demo_command(options: argparse.Namespace, printer: Printer) -> Result:
    """``napari-lpd demo``: (train,) predict the sample slide, then show it in napari."""
    model = samples.model_path()
    skin = samples.skin_slide_path()
    if options.train:
        arguments = ["train", *sample_training(options.out / "model")]
        trained = train_command(_parse_given(arguments), printer)
        printer.result(trained)
        model = Path(trained["model"])
    predicted = predict_command(
        _parse_given(["predict", str(skin), "--model", str(model), "--out", str(options.out)]), printer
    )
    printer.result(predicted)
    viewer = [
        sys.executable,
        "-m",
        "napari_lpd.gui.demo",
        "--slide",
        str(skin),
        "--prediction",
        predicted["slides"][0]["prediction"],
    ]
    viewer += ["--screenshot", str(options.screenshot)] if options.screenshot else []
    if subprocess.run(viewer, check=False).returncode:
        raise LpdError(
            "napari could not show the result: is a screen there, and a Qt binding (pip install 'napari-lpd[all]')?"
        )
    return {"screenshot": str(options.screenshot)} if options.screenshot else {"demo": "done"}


def sample_training(out: Path) -> list[str]:
    """The arguments with which the shipped sample model was trained."""
    return [
        *("--slide", str(samples.skin_slide_path()), "--regions", str(samples.regions_path("train"))),
        *("--check-regions", str(samples.regions_path("check")), "--classes", str(samples.classes_path())),
        *("--settings", str(samples.FOLDER / "train_settings.json"), "--out", str(out)),
    ]


def _parse_given(arguments: list[str]) -> argparse.Namespace:
    options = _parser().parse_args(arguments)
    options.given = arguments
    return options


def doctor_command(_: argparse.Namespace, __: Printer) -> Result:
    """``napari-lpd doctor``."""
    from napari_lpd.encoder import embedded_weights
    from napari_lpd.model import choose_device

    device, reason = choose_device("auto")
    packages = ("torch", "torchvision", "timm", "napari", "PyQt6", "PySide6", "openslide-python", "tifffile", "zarr")
    optional = ("pydensecrf2", "rasterio")
    return {
        "napari-lpd": __version__,
        "python": platform.python_version(),
        "device": f"{device} ({reason})",
        "cores": os.cpu_count(),
        **{name: _version(name) for name in (*packages, *optional)},
        "embedded encoder": f"{EMBEDDED_ENCODER}, {embedded_weights()}",
        "sample model": str(samples.model_path()) if samples.model_path().exists() else "missing",
        "note": "research use only",
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
