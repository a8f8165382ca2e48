"""``napari-lpd import``, ``stage2`` and ``reproduce``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from napari_lpd.cli.common import add_overwrite_option, add_settings_options, add_source_option
from napari_lpd.core.classes import CLASSES, read_classes
from napari_lpd.core.errors import DataError, writing
from napari_lpd.core.jobs import run
from napari_lpd.core.outputs import run_folder
from napari_lpd.core.reading import read_json
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.training.runs.folder import MODEL_NAME, STATE_NAME

if TYPE_CHECKING:
    import argparse

    from napari_lpd.cli.common import Printer, Result
    from napari_lpd.core.classes import TissueClass


def stage2_options(stage2: argparse.ArgumentParser) -> None:
    """Add the options of ``stage2``."""
    stage2.add_argument("--model", type=Path, required=True, help="prototype model that makes the pseudo-masks")
    stage2.add_argument("--data", type=Path, required=True, metavar="DIR", help="tiles named NAME[1010].png")
    stage2.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for masks and model")
    stage2.add_argument(
        "--refiner",
        choices=("none", "lattice", "pydensecrf"),
        default="lattice",
        help="sharpens the pseudo-masks along the image's edges (default: %(default)s)",
    )
    add_overwrite_option(stage2, "a model that is in DIR; masks that are there are used")
    add_source_option(stage2)
    add_settings_options(stage2)


def reproduce_options(reproduce: argparse.ArgumentParser) -> None:
    """Add the options of ``reproduce``."""
    tables = ("table1", "table2", "variants", "fast")
    reproduce.add_argument("table", choices=tables, help="which (docs/explanation/method.md)")
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
        help="only this row; may be repeated (docs/explanation/method.md lists them)",
    )
    reproduce.add_argument(
        "--evaluate-set", action="append", default=[], metavar="NAME=VALUE", help="one setting of the evaluation"
    )
    add_overwrite_option(reproduce, "a table that is in DIR, and its models: every row is made again")
    add_source_option(reproduce)
    add_settings_options(reproduce)


def import_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``import``."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a .pth file of the published code")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the model")
    parser.add_argument("--classes", type=Path, metavar="JSON", help="names and colours, in the checkpoint's order")
    parser.add_argument("--prototypes", type=Path, metavar="FILE", help="PBIP's prototypes (.pkl, .npz, .safetensors)")
    add_overwrite_option(parser, "a model that is in DIR")


def stage2(options: argparse.Namespace, printer: Printer) -> Result:
    """Write pseudo-masks of labelled tiles and train a supervised segmenter on them."""
    settings = read_settings(TrainSettings, options.settings, options.set)
    from napari_lpd.data.labelled_tiles import labelled_tiles
    from napari_lpd.models.card import model_files, target_stain
    from napari_lpd.models.checkpoint import load_model
    from napari_lpd.training.papers.segmenter import fit_segmenter, write_pseudo_masks

    model = load_model(options.model, settings.device)
    tiles = labelled_tiles(options.data, model.card.classes, options.source)
    stain = target_stain(model.card)
    tiles = tiles if stain is None else tiles.with_colours(stain)
    settings = settings.model_copy(update={"mpp": model.card.settings.mpp, "tile": model.card.settings.tile})
    command = "napari-lpd " + shlex.join(options.given)
    with run_folder(options.out, model_files(), (options.model, options.data, options.settings), options.overwrite):
        masks = run(write_pseudo_masks(model, tiles, options.out / "mask", options.refiner), printer.progress)
        trained = run(fit_segmenter(tiles, masks, settings, options.out, command), printer.progress)
    return {"masks": str(masks), "model": str(trained)}


def reproduce(options: argparse.Namespace, printer: Printer) -> Result:
    """Make a table of the papers from the user's data, row by row."""
    from napari_lpd.training.papers.reproduce import PROTOCOL, Protocol
    from napari_lpd.training.papers.reproduce import reproduce as make_table

    out = options.out or Path(f"{options.table}-{options.data.resolve().name}")
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
    with run_folder(out, {}, (options.data, options.settings)):
        if options.overwrite and (out / PROTOCOL).exists():
            _forget_rows(out)
        table = run(make_table(options.table, protocol, out, options.rows), printer.progress)
    return {"table": str(table)}


def _forget_rows(out: Path) -> None:
    """Let all rows of the table in `out` count as not done; the table is made of the rows that are."""
    from napari_lpd.training.papers.reproduce import PROTOCOL

    for name in ("*/seed*/report.md", f"*/seed*/{STATE_NAME}", PROTOCOL):
        for path in out.glob(name):
            with writing(path, DataError):
                path.unlink()


def _mpp_of(data: Path) -> float | None:
    """Return the resolution in DIR/classes.json, if any."""
    path = data / "classes.json"
    mpp = read_json(path, DataError, "a class list", dict).get("mpp") if path.exists() else None
    return float(mpp) if isinstance(mpp, int | float) else None


def _classes_of(data: Path, named: str | None) -> tuple[TissueClass, ...]:
    if named in CLASSES:
        return CLASSES[named]
    path = Path(named) if named else data / "classes.json"
    if not named and not path.exists():
        raise DataError(f"{path}: no class list; pass --classes {', '.join(CLASSES)} or a JSON file")
    return read_classes(path)


def import_official(options: argparse.Namespace, _: Printer) -> Result:
    """Convert a checkpoint of the published code."""
    from napari_lpd.models.card import model_files, read_card
    from napari_lpd.models.published.checkpoints import import_official as convert

    classes = read_classes(options.classes) if options.classes else ()
    read = (options.checkpoint, options.prototypes, options.classes)
    with run_folder(options.out, model_files(MODEL_NAME), read, options.overwrite):
        model = convert(options.checkpoint, options.out / MODEL_NAME, classes, options.prototypes)
    card = read_card(model)
    names = ", ".join(tissue.name for tissue in card.classes)
    return {
        "model": str(model),
        "classes": f"{names} ({card.settings.model.prototypes_per_class} prototypes each); if wrong, pass --classes",
        "resolution": f"{card.settings.mpp:g} µm per pixel, as the published tiles",
        "note": "thresholds and map levels are uncalibrated (0.5; cosine 1); weights tuned from NVIDIA's MiT are"
        " non-commercial",
    }
