"""``napari-lpd evaluate`` and ``compare``."""

from __future__ import annotations

import datetime
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from napari_lpd.cli.common import (
    add_image_option,
    add_origin_option,
    add_override_option,
    add_overwrite_option,
    add_settings_options,
    add_source_option,
    expanded,
)
from napari_lpd.core.errors import SettingsError
from napari_lpd.core.jobs import run
from napari_lpd.core.outputs import run_folder
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.evaluation import CompareSettings, EvaluateSettings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from napari_lpd.cli.common import Printer, Result
    from napari_lpd.slides.slide import Slide


def evaluate_options(evaluate: argparse.ArgumentParser) -> None:
    """Add the options of ``evaluate``."""
    evaluate.add_argument("--model", type=Path, help="model file")
    evaluate.add_argument("--data", type=Path, metavar="DIR", help="folder with img and mask")
    evaluate.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[],
        metavar="NAME.zarr",
        help="in place of model and data: results of predict, to hold against regions",
    )
    evaluate.add_argument(
        "--regions",
        type=Path,
        nargs="+",
        default=[],
        metavar="GEOJSON",
        help="outlined regions of their slides, in the same order, that the model was not trained on",
    )
    add_origin_option(evaluate)
    evaluate.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the report")
    evaluate.add_argument(
        "--choose-on", type=Path, metavar="DIR", help="other images with masks, to tune thresholds and temperature"
    )
    add_description_options(evaluate)
    add_overwrite_option(evaluate, "an evaluation that is in DIR")
    add_source_option(evaluate)
    add_settings_options(evaluate)


def add_description_options(sub: argparse.ArgumentParser) -> None:
    """Add what says of images with masks which classes and resolution they have, where their folder does not."""
    sub.add_argument(
        "--classes",
        metavar="JSON",
        help="names of the masks' classes, in the order of their numbers; or bcss, luad (default: classes.json in DIR)",
    )
    sub.add_argument("--mpp", type=float, help="µm per pixel of the images (default: as classes.json in DIR says)")


def compare_options(compare: argparse.ArgumentParser) -> None:
    """Add the options of ``compare``."""
    compare.add_argument("models", nargs="*", metavar="MODEL", help="model files; the first is A, then B, …")
    compare.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DATA",
        help="folder with img and mask, folder of images, or a slide; without masks, the locations of a class are"
        " those where all models agree",
    )
    compare.add_argument("--out", type=Path, required=True, metavar="REPORT", help="folder for the report")
    compare.add_argument(
        "--names",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="a name for every model, in their order (default: of their folders or files)",
    )
    compare.add_argument(
        "--training",
        type=Path,
        metavar="DATA",
        help="labelled training tiles, as for train, or the word model: the training tiles on the first model's card;"
        " adds nearest training patches and a clustered control",
    )
    compare.add_argument("--mpp", type=float, help="the slide's µm per pixel, if the file has none")
    add_override_option(compare)
    add_image_option(compare)
    add_overwrite_option(compare, "a comparison that is in REPORT")
    add_source_option(compare)
    add_settings_options(compare)


def named_models(names: Sequence[str], models: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Tell names from models, which argparse takes for more names where they come after ``--names``.

    Raises:
        SettingsError: there are no models, or not as many names.
    """
    count = (len(names) + len(models)) // 2 if names else 0
    paths = expanded([*map(Path, models), *map(Path, names[count:])])
    if not paths:
        raise SettingsError("no models to compare; pass one or more model files")
    if names and (len(names) + len(models)) % 2:
        raise SettingsError(f"--names: {len(names)} names for {len(models)} models; wanted a name for every model")
    return list(names[:count]), paths


def evaluate(options: argparse.Namespace, printer: Printer) -> Result:
    """Measure a model on images with masks, or results on regions, and write a report."""
    settings = read_settings(EvaluateSettings, options.settings, options.set)
    if options.results or options.regions:
        return _on_regions(options, settings, printer)
    if not (options.model and options.data):
        raise SettingsError("wanted --model and --data, or --results and --regions")
    from napari_lpd.data.images import masked_images
    from napari_lpd.evaluation.described import check_fits, description_of
    from napari_lpd.evaluation.evaluate import MARKS, check_unseen
    from napari_lpd.evaluation.evaluate import evaluate as evaluate_model
    from napari_lpd.models.checkpoint import load_model

    images = masked_images(options.data, options.source)
    tuning = masked_images(options.choose_on, options.source) if options.choose_on else []
    model = load_model(options.model, settings.device)
    unsaid = check_fits(model.card, images, description_of(options.data, options.classes, options.mpp))
    if tuning:
        check_fits(model.card, tuning, description_of(options.choose_on, options.classes, options.mpp))
    for line in unsaid:
        printer.note(f"warning: {line}")
    now = datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes")
    notes = [f"Images: {options.data}. Model: {options.model} (SHA-256 {model.hash[:12]}…). {now[:16]} UTC."]
    notes += unsaid + check_unseen(options.model, [item.image for item in images])
    check_unseen(options.model, [item.image for item in tuning])
    named = Path(options.classes) if options.classes else None
    read = (options.model, options.data, options.choose_on, options.settings, named)
    with run_folder(options.out, MARKS, read, options.overwrite):
        return run(evaluate_model(model, images, settings, options.out, tuning, notes), printer.progress)


def _on_regions(options: argparse.Namespace, settings: EvaluateSettings, printer: Printer) -> Result:
    """Hold results against regions, and write a report."""
    from napari_lpd.data.regions import read_regions
    from napari_lpd.evaluation.regions import trust, write_trust
    from napari_lpd.evaluation.report import MARKS
    from napari_lpd.results.check_regions import verdicts_on
    from napari_lpd.results.prediction import Prediction

    if options.model or options.data or options.choose_on:
        raise SettingsError("--results go with --regions alone: leave out --model, --data and --choose-on")
    used = {"bootstrap", "seed", *EvaluateSettings.RUNTIME_SETTINGS}
    plain = EvaluateSettings()
    if unused := [
        name
        for name in EvaluateSettings.model_fields
        if getattr(settings, name) != getattr(plain, name) and name not in used
    ]:
        raise SettingsError(f"{unused[0]} changes nothing with --results, which are finished: leave it out")
    results, regions = expanded(options.results), expanded(options.regions)
    if len(results) != len(regions):
        raise SettingsError(f"{len(results)} results, {len(regions)} files of regions: wanted a file for each result")
    with run_folder(options.out, MARKS, (*results, *regions), options.overwrite):
        predictions = [Prediction.open(folder) for folder in results]
        names = [tissue.name for tissue in predictions[0].card.classes]
        frames = [prediction.card.frame.counted_from(options.origin) for prediction in predictions]
        drawn = [read_regions(path, names, frame) for path, frame in zip(regions, frames, strict=True)]
        verdicts = run(verdicts_on(list(zip(predictions, drawn, strict=True))), printer.progress)
        found = trust(verdicts, names, settings)
        notes = [f"{folder} against {path}." for folder, path in zip(results, regions, strict=True)]
        page = write_trust(options.out, found, notes)
    recalls = dict(zip(names, found.scores.recall.tolist(), strict=True))
    return {"report": str(page), "regions": len(found.verdicts), "mean IoU": found.scores.mean_iou, "recall": recalls}


def compare(options: argparse.Namespace, printer: Printer) -> Result:
    """Compare the prototypes of models at the same locations and write a report."""
    settings = read_settings(CompareSettings, options.settings, options.set)
    from napari_lpd.comparison.compare import compare as compare_models
    from napari_lpd.comparison.compare import prepare
    from napari_lpd.comparison.report.tables import verdicts_of
    from napari_lpd.comparison.report.writer import MARKS, write_comparison
    from napari_lpd.evaluation.evaluate import check_unseen
    from napari_lpd.training.runs.training_tiles import chosen_training_tiles

    names, paths = named_models(options.names, options.models)
    read = (*paths, options.data, options.training, options.settings)
    with run_folder(options.out, MARKS, read, options.overwrite), _images_or_slide(options) as data:
        models, tiles = prepare(paths, data, settings, names, options.source)
        training = chosen_training_tiles(options.training, paths[0], options.source)
        now = datetime.datetime.now(datetime.UTC).isoformat(" ", "minutes")
        notes = [
            f"{model.name}: {path} (SHA-256 {model.hash[:12]}…)." for model, path in zip(models, paths, strict=True)
        ]
        notes.append(f"Tiles: {options.data}. {now[:16]} UTC.")
        notes += [] if isinstance(data, Path) else [f"{data.resolution}."]
        files = [tile.file for tile in tiles if tile.file]
        for model, path in zip(models, paths, strict=True):
            notes += [f"{model.name}: {note}" for note in (check_unseen(path, files) if files else ())]
        comparison = run(compare_models(models, tiles, settings, training), printer.progress)
        report = write_comparison(options.out, comparison, notes)
    return {"report": str(report), "conclusions": verdicts_of(comparison, controls=len(models) == 1)}


def _images_or_slide(options: argparse.Namespace) -> AbstractContextManager[Path | Slide]:
    from napari_lpd.slides.formats import open_slide

    if not options.data.is_dir():
        return open_slide(options.data, options.mpp, override_mpp=options.override_mpp, image=options.image)
    if options.image is not None:
        raise SettingsError(f"--image goes with a slide only, and {options.data} is a folder")
    return nullcontext(options.data)
