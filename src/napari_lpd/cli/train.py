"""``napari-lpd train``."""

from __future__ import annotations

import math
import os
import shlex
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_lpd import samples
from napari_lpd.cli.common import (
    add_image_option,
    add_origin_option,
    add_override_option,
    add_overwrite_option,
    add_settings_options,
    add_source_option,
)
from napari_lpd.core.classes import CLASSES, read_classes
from napari_lpd.core.errors import DataError, writing
from napari_lpd.core.files import refuse_overwrite
from napari_lpd.core.jobs import run
from napari_lpd.core.outputs import check_outputs, run_folder
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.presets import PRESETS
from napari_lpd.core.settings.training import EMBEDDED_ENCODER, TrainSettings
from napari_lpd.data.geojson import Frame
from napari_lpd.data.regions import read_regions
from napari_lpd.data.training_set import SHEET, SUMMARY_FILES, TrainingSource
from napari_lpd.training.runs.folder import MODEL_NAME, STATE_NAME, run_files

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from napari_lpd.cli.common import Printer, Result
    from napari_lpd.core.classes import TissueClass
    from napari_lpd.data.regions import Region
    from napari_lpd.models.card import Card
    from napari_lpd.training.ancestor import Ancestor

VALID = "valid "  # prefix of the figures of a validation on a model's card


def train_options(train: argparse.ArgumentParser) -> None:
    """Add the options of ``train``."""
    train.add_argument("--slide", type=Path, help="slide with the regions")
    train.add_argument("--slide-mpp", type=float, metavar="MPP", help="the slide's µm per pixel, if the file has none")
    add_override_option(train)
    add_image_option(train)
    train.add_argument(
        "--project", type=Path, metavar="JSON", help="instead of a slide: slides with regions, as saved by the widget"
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
    train.add_argument(
        "--masks", type=Path, metavar="DIR", help="masks of some of the tiles of --data, of the same names"
    )
    train.add_argument(
        "--masks-as",
        choices=("pixels", "shares"),
        default="pixels",
        help="learn their pixels (default), or how much of a tile is of which class",
    )
    train.add_argument("--classes", type=Path, metavar="JSON", help="tissue names and colours; or bcss, luad")
    train.add_argument(
        "--summary", action="store_true", help="describe the training data, write DIR/tiles.png, and stop"
    )
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the model")
    train.add_argument("--preset", choices=PRESETS, default="default", help="settings to start from")
    train.add_argument(
        "--init", type=Path, metavar="MODEL", help="go on from this model: its classes are taken over by name"
    )
    train.add_argument(
        "--renamed", action="append", default=[], metavar="OLD=NEW", help="a class of that model by its new name"
    )
    train.add_argument(
        "--encoder",
        help="timm name, mit_b0..b2, a published encoder as uni, hf-hub:OWNER/NAME or local-dir:FOLDER"
        f" (default {EMBEDDED_ENCODER})",
    )
    train.add_argument(
        "--encoder-weights",
        metavar="PATH",
        help="embedded, random, hub, or a file (NVIDIA's MiT weights, and models tuned from them, are non-commercial)",
    )
    add_origin_option(train)
    add_overwrite_option(train, "a model that is in DIR, or half a training of another")
    add_source_option(train)
    add_settings_options(train)


def train(options: argparse.Namespace, printer: Printer) -> Result:
    """Train a model and, with check regions, measure its recall."""
    overrides = list(options.set)
    overrides += [f"model.encoder={options.encoder}"] if options.encoder else []
    overrides += [f"model.encoder_weights={options.encoder_weights}"] if options.encoder_weights else []
    settings = read_settings(TrainSettings, options.settings, overrides, options.preset)
    source = _checked_source(options)
    classes = () if options.project else _named_classes(options.classes)
    from napari_lpd.models.card import read_card
    from napari_lpd.training import distributed
    from napari_lpd.training.fit import fit

    names = [tissue.name for tissue in classes]
    check = _check_regions(options, names) if options.check_regions else None
    prepared = source.load(classes, settings)
    tiles, validation_images, settings = prepared
    ancestor = _ancestor(options)
    with _run_folder(options, source), distributed.joined():
        if options.summary:
            return prepared.write(options.out) | {"sheet": str(options.out / SHEET)}
        first, processes = distributed.is_rank_zero(), distributed.world_size()
        for line in distributed.on_rank_zero(lambda: prepared.write(options.out)["warnings"]):
            printer.note(f"warning: {line}")  # further processes print nothing
        start = f"torchrun --nproc-per-node {processes} -m napari_lpd " if processes > 1 else "napari-lpd "
        command, recall = start + shlex.join(options.given), dict[str, float]()

        def measure(model: Path) -> None:
            recall.update(recall_on_check_regions(options, model, check, settings, printer))

        measured = measure if check is not None else None
        job = fit(tiles, settings, options.out, command, validation_images, ancestor, measured)
        model = run(job, printer.progress)
    if not first:
        return {}
    result: Result = {"model": str(model), "tiles": len(tiles), "tiles per class": tiles.tiles_per_class}
    result |= {"resolution": tiles.resolutions} if tiles.resolutions else {}
    card = read_card(model)
    result |= {"encoder": f"{settings.model.encoder}, {card.encoder.about()}"} if card.encoder else {}
    result |= chosen_epoch(card)
    return result | ({"metrics": recall} if recall else {})


def chosen_epoch(card: Card) -> Result:
    """Say which epoch a trained model is of, and how good it was on the data that chose it, if there were any."""
    epoch = math.ceil(card.steps / math.ceil(card.tiles / card.settings.batch))
    measured = {name.removeprefix(VALID): value for name, value in card.metrics.items() if name.startswith(VALID)}
    shown = {name: value for name, value in measured.items() if name != "score"}
    return {"best epoch": epoch, "validation": shown} if shown else {"epoch": f"{epoch}, the last: no validation data"}


def _check_regions(options: argparse.Namespace, names: Sequence[str]) -> list[Region]:
    with TrainingSource.of(options).annotated().open() as slide:
        return read_regions(options.check_regions, names, Frame.of(slide, options.origin))


def _ancestor(options: argparse.Namespace) -> Ancestor | None:
    """Return the model to go on from, with its renamed classes, if one is given."""
    from napari_lpd.training.ancestor import Ancestor

    pairs = [renamed.partition("=") for renamed in options.renamed]
    if wrong := [pair for pair in pairs if not (pair[0] and pair[2])]:
        raise DataError(f"--renamed {''.join(wrong[0])}: wanted OLD=NEW")
    if pairs and not options.init:
        raise DataError("--renamed goes with --init only")
    return Ancestor(options.init, {old: new for old, _, new in pairs}) if options.init else None


def _named_classes(named: Path) -> tuple[TissueClass, ...]:
    return CLASSES[str(named)] if str(named) in CLASSES else read_classes(named)


def _checked_source(options: argparse.Namespace) -> TrainingSource:
    """Return the training source; raise DataError for options that do not go together or a folder with a model."""
    source = TrainingSource.of(options)
    source.check()
    if options.check_regions and not options.slide:
        raise DataError("--check-regions goes with --slide only")
    if options.classes and options.project:
        raise DataError("--classes goes with --slide or --data only: a project has its own classes")
    if not options.classes and not options.project:
        raise DataError("no tissue classes given; pass --classes JSON")
    trained = (options.out / MODEL_NAME).exists() and not (options.out / STATE_NAME).exists()
    if trained and not options.overwrite:
        raise DataError(
            f"{options.out}: holds a model, which is not overwritten; choose another folder, or allow it (--overwrite)"
        )
    return source


@contextmanager
def _run_folder(options: argparse.Namespace, source: TrainingSource) -> Iterator[None]:
    """Hold the folder of the run, in the first of several processes, and check what will be written there.

    Summary and sheet of tiles are replaced whenever they are ours; a training that was stopped goes on.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    resumed = (options.out / STATE_NAME).exists() and not options.overwrite
    read = (*source.paths(), options.check_regions, options.classes, options.settings, options.init)
    check_outputs([options.out / name for name in SUMMARY_FILES], read)
    for name, mark in SUMMARY_FILES.items():
        refuse_overwrite(options.out / name, True, mark)
    with run_folder(options.out, {} if options.summary or resumed else run_files(), read, options.overwrite):
        if options.overwrite and not options.summary:
            with writing(options.out / STATE_NAME, DataError):
                (options.out / STATE_NAME).unlink(missing_ok=True)
        yield


def recall_on_check_regions(
    options: argparse.Namespace, model: Path, check: Any, settings: TrainSettings, printer: Printer
) -> dict[str, float]:
    """Predict the slide, measure recall on the check regions, and write it to the model's card.

    Without held-out tiles, also fit the labels' temperature there; recall does not depend on it.
    """
    from napari_lpd.evaluation.calibration import fit_label_temperature
    from napari_lpd.models.card import read_card
    from napari_lpd.models.checkpoint import load_model, load_tensors, save_checkpoint
    from napari_lpd.prediction.predict import predict_slide
    from napari_lpd.results.check_regions import recall_metrics, region_confusion, region_scores

    loaded = load_model(model, settings.device)
    with (
        TrainingSource.of(options).annotated().open() as slide,
        tempfile.TemporaryDirectory() as folder,
    ):
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


def sample_training(out: Path) -> list[str]:
    """Return the arguments that trained the shipped sample model."""
    return [
        *("--slide", str(samples.skin_slide_path()), "--regions", str(samples.regions_path("train"))),
        *("--check-regions", str(samples.regions_path("check")), "--classes", str(samples.classes_path())),
        *("--settings", str(samples.FOLDER / "train_settings.json"), "--out", str(out)),
    ]
