"""What the commands do: settings → job → result. Parsing and printing stand in `cli` and `printing`."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from napari_lpd import __version__, samples
from napari_lpd.core.classes import CLASSES, read_classes
from napari_lpd.core.errors import DataError, LpdError, SettingsError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.training import (
    EMBEDDED_ENCODER,
    CompareSettings,
    EvaluateSettings,
    PredictSettings,
    TrainSettings,
)
from napari_lpd.models.checkpoint import STATE_NAME

if TYPE_CHECKING:
    import argparse

    from napari_lpd.cli.common import Printer, Result
    from napari_lpd.core.classes import TissueClass

OF_MODEL = "model"  # for the place of training tiles


def train(options: argparse.Namespace, printer: Printer) -> Result:
    """``napari-lpd train``: returns the model's path and, with check regions, its recalls."""
    overrides = list(options.set)
    overrides += [f"model.encoder={options.encoder}"] if options.encoder else []
    overrides += [f"model.encoder_weights={options.encoder_weights}"] if options.encoder_weights else []
    settings = read_settings(TrainSettings, options.settings, overrides, options.preset)
    _check_train_options(options)
    classes = None if options.project else _named_classes(options.classes)
    from napari_lpd.data import training_set
    from napari_lpd.data.project import AnnotatedSlide
    from napari_lpd.data.regions import read_regions
    from napari_lpd.training import distributed
    from napari_lpd.training.fit import fit

    check = None
    if classes is None:
        prepared = training_set.from_project(options.project, settings)
    elif options.data is not None:
        prepared = training_set.from_labelled(options.data, classes, settings, options.source)
    else:
        names = [tissue.name for tissue in classes]
        check = read_regions(options.check_regions, names) if options.check_regions else None
        annotated = AnnotatedSlide(slide=options.slide, regions=options.regions, mpp=options.slide_mpp)
        prepared = training_set.from_slides([annotated], classes, settings)
    check_writable(options.out)
    if options.summary:
        return prepared.write(options.out) | {"sheet": str(options.out / training_set.SHEET)}
    tiles, validation, settings = prepared
    with distributed.joined():
        first, processes = distributed.is_first(), distributed.count()
        for line in distributed.from_first(lambda: prepared.write(options.out)["warnings"]):
            printer.note(f"warning: {line}")  # the others are silent
        start = f"torchrun --nproc-per-node {processes} -m napari_lpd " if processes > 1 else "napari-lpd "
        model = run(fit(tiles, settings, options.out, start + shlex.join(options.given), validation), printer.progress)
    if not first:
        return {}
    result: Result = {"model": str(model), "tiles": len(tiles), "tiles per class": tiles.tiles_per_class}
    if check is not None:
        result["metrics"] = _measure(options, model, check, settings, printer)
    return result


def _named_classes(named: Path) -> tuple[TissueClass, ...]:
    return CLASSES[str(named)] if str(named) in CLASSES else read_classes(named)


def _check_train_options(options: argparse.Namespace) -> None:
    if sum(part is not None for part in (options.data, options.slide, options.project)) != 1:
        raise DataError("train needs one of --slide with --regions, --project, or --data")
    for_slide = [name for name in ("regions", "check_regions", "slide_mpp") if options.slide is None]
    unused = for_slide + ["source"] * (options.data is None) + ["classes"] * (options.project is not None)
    if given := [f"--{name.replace('_', '-')}" for name in unused if getattr(options, name)]:
        goes_with = {"--source": "--data", "--classes": "--slide or --data, as a project has its own,"}
        raise DataError(f"{given[0]} goes with {goes_with.get(given[0], '--slide')} only")
    if options.slide is not None and options.regions is None:
        raise DataError(f"{options.slide}: no regions given; pass --regions GEOJSON")
    if options.project is None and options.classes is None:
        raise DataError("no tissue classes given; pass --classes JSON")
    if (options.out / "model.safetensors").exists() and not (options.out / STATE_NAME).exists():
        raise DataError(f"{options.out}: holds a model, which is not overwritten; choose another folder")


def _measure(options: argparse.Namespace, model: Path, check: Any, settings: TrainSettings, printer: Printer) -> Result:
    """Predict the slide, measure recall on the check regions, and add the figures to the model's card.

    Where no tiles were held out, the labels' temperature is fitted there, too; recall does not depend on it.
    """
    from napari_lpd.evaluation.calibration import fit_label_temperature
    from napari_lpd.evaluation.metrics import recall_metrics, region_confusion, region_scores
    from napari_lpd.models.checkpoint import load_tensors, read_card, save_checkpoint
    from napari_lpd.models.network import load_model
    from napari_lpd.prediction.predict import predict_slide
    from napari_lpd.slides.formats import open_slide

    loaded = load_model(model, settings.device)
    with open_slide(options.slide, options.slide_mpp) as slide, tempfile.TemporaryDirectory() as folder:
        prediction = run(predict_slide(slide, loaded, PredictSettings(), Path(folder, "check.zarr")), printer.progress)
        confusion, (scores, outlined) = region_confusion(prediction, check), region_scores(prediction, check)
    card = read_card(model)
    metrics = recall_metrics(confusion, [tissue.name for tissue in card.classes])
    changes: dict[str, Any] = {"metrics": card.metrics | metrics}
    if not settings.valid_share and len(outlined):
        changes["temperature"] = fit_label_temperature(scores, outlined)
    card = card.model_copy(update=changes)
    save_checkpoint(model, load_tensors(model), card)
    return metrics


def predict(options: argparse.Namespace, printer: Printer) -> Result:
    """``napari-lpd predict``: one folder and one OME-TIFF per slide, and a table; a slide that fails stops no other."""
    settings = read_settings(PredictSettings, options.settings, options.set)
    from napari_lpd.models.checkpoint import read_card
    from napari_lpd.prediction.batch import SlideTask, attempt, on_cluster, summary_line, write_summary

    read_card(options.model)
    stems = [path.stem for path in options.slides]
    if twice := next((stem for stem in stems if stems.count(stem) > 1), ""):
        raise DataError(f"two slides are called {twice}: their results would be one folder; predict them into two")
    if len(stems) > 1 and (options.regions or options.tissue):
        raise DataError("--regions and --tissue belong to one slide: predict slides with regions one by one")
    check_writable(options.out)
    tasks = [
        SlideTask(
            path.absolute(),
            options.model.absolute(),
            options.out.absolute(),
            settings,
            options.mpp,
            options.icc,
            options.regions and options.regions.absolute(),
            options.tissue and options.tissue.absolute(),
            options.replace,
        )
        for path in options.slides
    ]
    found = on_cluster(tasks, options.scheduler) if options.scheduler else (attempt(t, printer.progress) for t in tasks)
    rows, table = [], options.out / "summary.csv"
    for row in found:
        rows.append(row)
        if len(tasks) == 1 and "error" in row:
            raise LpdError(row["error"])
        printer.note(summary_line(row))
        if len(tasks) > 1:
            write_summary(rows, table)  # after every slide: the run may be stopped
    failed = sum("error" in row for row in rows)
    if failed:
        raise LpdError(f"{failed} of {len(rows)} slides failed: {table} says why")
    return {"slides": rows} | ({"table": str(table)} if len(tasks) > 1 else {})


def check_writable(folder: Path) -> None:
    """Raise DataError now, not after an hour, if `folder` cannot be written."""
    created = not folder.exists()
    if folder.is_file():
        raise DataError(f"{folder}: is a file, not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror})") from error
    if created:
        folder.rmdir()


def evaluate(options: argparse.Namespace, printer: Printer) -> Result:
    """``napari-lpd evaluate``: measures a model on images with masks and writes a report."""
    settings = read_settings(EvaluateSettings, options.settings, options.set)
    from napari_lpd.data.images import masked_images
    from napari_lpd.evaluation.evaluate import check_unseen
    from napari_lpd.evaluation.evaluate import evaluate as evaluate_model
    from napari_lpd.models.network import load_model

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
    """``napari-lpd compare``: the prototypes of models on the same places; writes a report."""
    settings = read_settings(CompareSettings, options.settings, options.set)
    from napari_lpd.comparison.compare import compare as compare_models
    from napari_lpd.comparison.report.writer import verdicts_of, write_comparison
    from napari_lpd.comparison.result import check_comparable
    from napari_lpd.comparison.tiles import tiles_of_folder, tiles_of_slide
    from napari_lpd.data.labelled_tiles import labelled_tiles
    from napari_lpd.evaluation.evaluate import check_unseen
    from napari_lpd.models.checkpoint import read_card
    from napari_lpd.models.network import load_model
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
    """What models are called: as their folders, or, where two of these are called alike, A, B, and so on."""
    names = [path.resolve().parent.name for path in paths]
    return names if len(set(names)) == len(names) else list(ascii_uppercase[: len(names)])


def stage2(options: argparse.Namespace, printer: Printer) -> Result:
    """``napari-lpd stage2``: pseudo-masks of the labelled tiles, then a supervised segmenter trained on them."""
    settings = read_settings(TrainSettings, options.settings, options.set)
    from napari_lpd.data.labelled_tiles import labelled_tiles
    from napari_lpd.models.checkpoint import matched_to
    from napari_lpd.models.network import load_model
    from napari_lpd.training.papers.segmenter import fit_segmenter, write_pseudo_masks

    model = load_model(options.model, settings.device)
    tiles = labelled_tiles(options.data, model.card.classes, options.source)
    wanted = matched_to(model.card)
    tiles = tiles if wanted is None else tiles.with_colours(wanted)
    check_writable(options.out)
    masks = run(write_pseudo_masks(model, tiles, options.out / "mask", options.refiner), printer.progress)
    settings = settings.model_copy(update={"mpp": model.card.settings.mpp, "tile": model.card.settings.tile})
    command = "napari-lpd " + shlex.join(options.given)
    return {
        "masks": str(masks),
        "model": str(run(fit_segmenter(tiles, masks, settings, options.out, command), printer.progress)),
    }


def reproduce(options: argparse.Namespace, printer: Printer) -> Result:
    """``napari-lpd reproduce``: the papers' tables on the user's data, row by row."""
    from napari_lpd.training.papers.reproduce import Protocol
    from napari_lpd.training.papers.reproduce import reproduce as make_table

    out = options.out or Path(f"{options.table}-{options.data.resolve().name}")
    check_writable(out)
    with_mpp = any(override.startswith("mpp=") for override in options.set) or options.settings
    mpp = None if with_mpp else _mpp_of(options.data)
    protocol = Protocol(
        data=options.data,
        classes=_classes_of(options.data, options.classes),
        source=options.source,
        settings=options.settings,
        overrides=(*([] if mpp is None else [f"mpp={mpp}"]), *options.set),
        seeds=options.seeds,
        measured=read_settings(EvaluateSettings, None, options.evaluate_set),
    )
    return {"table": str(run(make_table(options.table, protocol, out, options.rows), printer.progress))}


def _mpp_of(data: Path) -> float | None:
    """The resolution that DIR/classes.json gives, if any."""
    path = data / "classes.json"
    found = json.loads(path.read_text(encoding="utf-8")).get("mpp") if path.exists() else None
    return float(found) if isinstance(found, int | float) else None


def _classes_of(data: Path, named: str | None) -> tuple[TissueClass, ...]:
    if named in CLASSES:
        return CLASSES[named]
    path = Path(named) if named else data / "classes.json"
    if not named and not path.exists():
        raise DataError(f"{path}: no class list; pass --classes {', '.join(CLASSES)} or a JSON file")
    return read_classes(path)


def import_official(options: argparse.Namespace, _: Printer) -> Result:
    """``napari-lpd import``: takes over a checkpoint of the published code."""
    from napari_lpd.models.checkpoint import read_card
    from napari_lpd.models.published.checkpoints import import_official as take_over

    classes = read_classes(options.classes) if options.classes else ()
    model = take_over(options.checkpoint, options.out, classes, options.prototypes)
    card = read_card(model)
    names = ", ".join(tissue.name for tissue in card.classes)
    return {
        "model": str(model),
        "classes": f"{names} ({card.settings.model.prototypes_per_class} prototypes each); if wrong, pass --classes",
        "resolution": f"{card.settings.mpp:g} µm per pixel, as the published tiles",
        "note": "thresholds and map levels are uncalibrated (0.5; cosine 1); weights tuned from NVIDIA's MiT are"
        " non-commercial",
    }


def demo(options: argparse.Namespace, printer: Printer) -> Result:
    """``napari-lpd demo``: (train,) predict the sample slide, then show it in napari."""
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


def doctor(_: argparse.Namespace, __: Printer) -> Result:
    """``napari-lpd doctor``."""
    from napari_lpd.models.encoder import embedded_weights
    from napari_lpd.models.network import choose_device

    device, reason = choose_device("auto")
    packages = ("torch", "torchvision", "timm", "napari", "PyQt6", "PySide6", "openslide-python", "tifffile", "zarr")
    optional = ("pydensecrf2", "highdicom", "distributed", "onnx", "onnxruntime")
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
