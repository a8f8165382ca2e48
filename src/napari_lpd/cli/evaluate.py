"""``napari-lpd evaluate`` and ``compare``."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING

from napari_lpd.cli.common import add_settings_options, add_source_option
from napari_lpd.core.errors import SettingsError
from napari_lpd.core.files import check_writable
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.evaluation import CompareSettings, EvaluateSettings

if TYPE_CHECKING:
    import argparse

    from napari_lpd.cli.common import Printer, Result


def evaluate_options(evaluate: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate``."""
    evaluate.add_argument("--model", type=Path, required=True, help="model file")
    evaluate.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with img and mask")
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the report")
    evaluate.add_argument(
        "--choose-on", type=Path, metavar="DIR", help="other images with masks, to tune thresholds and temperature"
    )
    add_source_option(evaluate)
    add_settings_options(evaluate)


def compare_options(compare: argparse.ArgumentParser) -> None:
    """Add the options of ``compare``."""
    compare.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="model files; the first is A, then B, …")
    compare.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DATA",
        help="folder with img and mask, folder of images, or a slide; without masks, the locations of a class are"
        " those where all models agree",
    )
    compare.add_argument("--out", type=Path, required=True, metavar="REPORT", help="folder for the report")
    compare.add_argument("--names", nargs="+", metavar="NAME", help="names of the models (default: their folders)")
    compare.add_argument(
        "--training",
        type=Path,
        metavar="DATA",
        help="labelled training tiles, as for train, or the word model: the training tiles on the first model's card;"
        " adds nearest training patches and a clustered control",
    )
    compare.add_argument("--mpp", type=float, help="the slide's µm per pixel, if the file has none")
    add_source_option(compare)
    add_settings_options(compare)


OF_MODEL = "model"  # instead of a path to training tiles


def evaluate(options: argparse.Namespace, printer: Printer) -> Result:
    """Measure a model on images with masks and write a report."""
    settings = read_settings(EvaluateSettings, options.settings, options.set)
    from napari_lpd.data.images import masked_images
    from napari_lpd.evaluation.evaluate import check_unseen
    from napari_lpd.evaluation.evaluate import evaluate as evaluate_model
    from napari_lpd.models.checkpoint import load_model

    images = masked_images(options.data, options.source)
    tuning = masked_images(options.choose_on, options.source) if options.choose_on else []
    model = load_model(options.model, settings.device)
    now = datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes")
    notes = [f"Images: {options.data}. Model: {options.model} (SHA-256 {model.hash[:12]}…). {now[:16]} UTC."]
    notes += check_unseen(options.model, [item.image for item in images])
    check_unseen(options.model, [item.image for item in tuning])
    check_writable(options.out)
    return run(evaluate_model(model, images, settings, options.out, tuning, notes), printer.progress)


def compare(options: argparse.Namespace, printer: Printer) -> Result:
    """Compare the prototypes of models at the same locations and write a report."""
    settings = read_settings(CompareSettings, options.settings, options.set)
    from napari_lpd.comparison.compare import compare as compare_models
    from napari_lpd.comparison.report.tables import verdicts_of
    from napari_lpd.comparison.report.writer import write_comparison
    from napari_lpd.comparison.result import check_comparable
    from napari_lpd.comparison.tiles import tiles_of_folder, tiles_of_slide
    from napari_lpd.data.labelled_tiles import labelled_tiles
    from napari_lpd.evaluation.evaluate import check_unseen
    from napari_lpd.models.card import read_card
    from napari_lpd.models.checkpoint import load_model
    from napari_lpd.slides.formats import open_slide
    from napari_lpd.training.runs.training_tiles import training_tiles_of

    paths, names = options.models, options.names or _names_of(options.models)
    if len(names) != len(paths):
        raise SettingsError(f"--names: {len(names)} names for {len(paths)} models")
    check_comparable([(f"{name} ({path})", read_card(path)) for path, name in zip(paths, names, strict=True)])
    models = [load_model(path, settings.device)._replace(name=name) for path, name in zip(paths, names, strict=True)]
    classes, trained = models[0].card.classes, models[0].card.settings
    training = None
    if options.training:
        of_model = str(options.training) == OF_MODEL
        training = (
            training_tiles_of(paths[0]) if of_model else labelled_tiles(options.training, classes, options.source)
        )
    check_writable(options.out)
    now = datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes")
    notes = [f"{m.name}: {path} (SHA-256 {m.hash[:12]}…)." for m, path in zip(models, paths, strict=True)]
    notes.append(f"Tiles: {options.data}. {now[:16]} UTC.")
    if options.data.is_dir():
        tiles = tiles_of_folder(options.data, classes, options.source)
        files = [tile.file for tile in tiles if tile.file]
        notes += [f"{m.name}: {n}" for m, path in zip(models, paths, strict=True) for n in check_unseen(path, files)]
        comparison = run(compare_models(models, tiles, settings, training), printer.progress)
    else:
        with open_slide(options.data, options.mpp) as slide:
            tiles = tiles_of_slide(slide, trained.mpp, trained.tile, settings.slide_tiles)
            comparison = run(compare_models(models, tiles, settings, training), printer.progress)
    report = write_comparison(options.out, comparison, notes)
    return {"report": str(report), "conclusions": verdicts_of(comparison, controls=len(models) == 1)}


def _names_of(paths: list[Path]) -> list[str]:
    """Name models after their folders, or A, B, …, where two folders have the same name."""
    names = [path.resolve().parent.name for path in paths]
    return names if len(set(names)) == len(names) else list(ascii_uppercase[: len(names)])
