"""``napari-lpd demo``, ``doctor``, ``settings`` and ``completion``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from napari_lpd import __version__, samples
from napari_lpd.cli.predict import predict
from napari_lpd.cli.train import sample_training, train
from napari_lpd.core.errors import NOTICE, LpdError
from napari_lpd.core.settings.reference import COMMANDS, setting_rows, settings_page, settings_text
from napari_lpd.core.settings.training import EMBEDDED_ENCODER

if TYPE_CHECKING:
    import argparse

    from napari_lpd.cli.common import Printer, Result


def demo_options(sub: argparse.ArgumentParser) -> None:
    """Add the options of ``demo``."""
    sub.add_argument("--train", action="store_true", help="train the sample model first")
    sub.add_argument("--screenshot", type=Path, metavar="PNG", help="save a screenshot of the window and close it")
    sub.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for the results")


def demo(options: argparse.Namespace, printer: Printer) -> Result:
    """Predict the sample slide, after training if asked to, and show it in napari."""
    model = samples.model_path()
    skin = samples.skin_slide_path()
    if options.train:
        folder = next(f for i in count(1) if not (f := options.out / f"model-{i}").exists())
        arguments = ["train", *sample_training(folder)]
        trained = train(options.parse(arguments), printer)
        printer.result(trained)
        model = Path(trained["model"])
    predicted = predict(
        options.parse(["predict", str(skin), "--model", str(model), "--out", str(options.out)]), printer
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
        "--model",
        str(model),
    ]
    viewer += ["--screenshot", str(options.screenshot)] if options.screenshot else []
    if subprocess.run(viewer, check=False).returncode:
        raise LpdError(
            "napari could not show the result; it needs a screen and a Qt binding (pip install 'napari-lpd[all]')"
        )
    return {"screenshot": str(options.screenshot)} if options.screenshot else {"demo": "done"}


def settings_options(sub: argparse.ArgumentParser) -> None:
    """Add the options of ``settings``."""
    sub.add_argument(
        "command", nargs="?", choices=list(COMMANDS), help="the settings of this command (default: of all)"
    )
    sub.add_argument("--markdown", action="store_true", help="print a page of Markdown: docs/reference/settings.md")


def settings(options: argparse.Namespace, printer: Printer) -> Result:
    """List settings: defaults, units, limits, presets."""
    chosen = [options.command] if options.command else list(COMMANDS)
    listed = {command: setting_rows(COMMANDS[command][0]) for command in chosen}
    if printer.as_json:
        return {command: [row._asdict() for row in rows] for command, rows in listed.items()}
    printer.text((settings_page if options.markdown else settings_text)(listed).rstrip())
    return {}


def completion_options(sub: argparse.ArgumentParser) -> None:
    """Add the options of ``completion``."""
    sub.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell to complete in")


def completion(options: argparse.Namespace, printer: Printer) -> Result:
    """Print the script with which a shell completes commands, options, choices and files."""
    import shtab

    parser = options.parser()
    for action in (action for sub in parser.subparsers().values() for action in sub._actions):
        if action.type is Path:
            action.complete = shtab.FILE
    printer.text(shtab.complete(parser, options.shell))
    return {}


def doctor(_: argparse.Namespace, __: Printer) -> Result:
    """List the device, versions and weights."""
    from napari_lpd.models.backbones.source import NOTHING_GIVEN, architecture_of
    from napari_lpd.models.backbones.weights import embedded_weights
    from napari_lpd.models.compute import choose_device
    from napari_lpd.models.gpu import gpu_advice

    device, reason = choose_device("auto")
    packages = ("torch", "torchvision", "timm", "napari", "PyQt6", "PySide6", "openslide-python", "tifffile", "zarr")
    optional = ("pydensecrf2", "highdicom", "distributed", "onnx", "onnxruntime")
    return {
        "napari-lpd": __version__,
        "python": platform.python_version(),
        "device": f"{device} ({reason})",
        "GPU": gpu_advice(),
        "cores": os.cpu_count(),
        **{name: _version(name) for name in (*packages, *optional)},
        "embedded encoder": f"{EMBEDDED_ENCODER}, {embedded_weights()}",
        "embedded encoder wants": architecture_of(EMBEDDED_ENCODER, "embedded", NOTHING_GIVEN).about(),
        "sample model": str(samples.model_path()) if samples.model_path().exists() else "missing",
        "note": NOTICE,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
