"""``napari-lpd relabel``, ``measure`` and ``export``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from napari_lpd.cli.common import add_origin_option, add_settings_options, expanded
from napari_lpd.core.errors import DataError, SettingsError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.base import Settings, read_settings

if TYPE_CHECKING:
    import argparse

    from napari_lpd.cli.common import Printer, Result
    from napari_lpd.core.settings.results import MeasureSettings
    from napari_lpd.results.measures.areas import MeasureRow
    from napari_lpd.results.prediction import Prediction

S = TypeVar("S", bound=Settings)


def relabel(options: argparse.Namespace, printer: Printer) -> Result:
    """Make the labels of results again, and the mask that predict wrote beside each."""
    from napari_lpd.core.outputs import check_outputs
    from napari_lpd.core.settings.prediction import SINGLE, LabelSettings
    from napari_lpd.prediction.batch import mask_beside
    from napari_lpd.prediction.relabel import relabel as relabel_job
    from napari_lpd.results.export.ome_tiff import write_ome_tiff

    if options.sure is not None:
        options.set = [*options.set, f"sure={options.sure}"]
    if options.more:
        options.set = [*options.set, f"favour={json.dumps([_favoured(text) for text in options.more])}"]
    for whole, single in SINGLE.items():
        options.set = [*options.set, *_cleaned(options, whole, single)]
    settings, rows = read_settings(LabelSettings, options.settings, options.set), []
    for folder in expanded(options.results):
        prediction = run(relabel_job(folder, settings), printer.progress)
        row: dict[str, object] = {"result": str(folder), "labels": settings.described(), "mm²": prediction.area_mm2()}
        row |= {"unsure mm²": prediction.unsure_mm2, "tissue mm²": prediction.tissue_mm2}
        if (mask := mask_beside(folder)).exists():
            check_outputs([mask], [folder])
            row["mask"] = str(write_ome_tiff(prediction, mask, overwrite=True))
        rows.append(row)
    return {"results": rows}


def _favoured(text: str) -> tuple[str, float]:
    name, _, factor = text.rpartition("=")
    try:
        return name, float(factor)
    except ValueError as error:
        raise SettingsError(f"--more {text} is not TISSUE=FACTOR, as fat=4") from error


def _cleaned(options: argparse.Namespace, whole: str, single: str) -> list[str]:
    """Write what a flag says of all tissues (``5000``) and of single ones (``fat=5000``) as settings."""
    flag = single.removesuffix("_of")
    values: dict[str, float] = {}
    for text in getattr(options, flag):
        name, _, number = text.rpartition("=")
        try:
            values[name] = float(number)
        except ValueError as error:
            raise SettingsError(f"--{flag} {text} is not a number, or TISSUE=NUMBER, as fat=5000") from error
    found = [f"clean.{whole}={values.pop('')}"] if "" in values else []
    return [*found, f"clean.{single}={json.dumps(list(values.items()))}"] if values else found


def measure(options: argparse.Namespace, printer: Printer) -> Result:
    """Write areas and ratios of results as one table."""
    from napari_lpd.core.files import refuse_overwrite, told_apart
    from napari_lpd.core.outputs import check_outputs
    from napari_lpd.results.measures.areas import MARK, WHOLE, Site, field_around, sites_of, write_measures
    from napari_lpd.results.measures.areas import measure as measure_job
    from napari_lpd.results.prediction import Prediction

    options.results = expanded(options.results)
    settings = _measure_settings(options)
    if len(options.results) > 1 and (options.regions or options.field):
        raise DataError("--regions and --field belong to one slide: measure such results one by one")
    check_outputs([options.out, *options.objects], [*options.results, options.regions, options.roles, options.settings])
    refuse_overwrite(options.out, options.overwrite, MARK)
    _check_objects(options)
    predictions = [Prediction.open(path) for path in options.results]
    slides = [prediction.card.slide for prediction in predictions]
    names = [
        slide if slides.count(slide) == 1 else f"{slide} ({path})"
        for slide, path in zip(slides, told_apart(options.results), strict=True)
    ]
    rows: list[MeasureRow] = []
    for name, prediction in zip(names, predictions, strict=True):
        sites = [Site(WHOLE)]
        sites += sites_of(options.regions, prediction, options.origin) if options.regions else []
        sites += [field_around(*_read_point(text), prediction.card.slide_mpp) for text in options.field]
        measured = run(measure_job(prediction, settings, sites), printer.progress)
        if not any(row.area_mm2 for row in measured if row.what == "tissue"):
            printer.note(f"{prediction.folder}: no tissue in {WHOLE}: its percentages are left empty")
        rows += [replace(row, slide=name) for row in measured]
    written = {"table": str(write_measures(rows, options.out, options.overwrite))}
    written |= _objects(options, settings, dict(zip(names, predictions, strict=True)), printer)
    return {**written, "results": len(predictions), "rows": len(rows)}


def _measure_settings(options: argparse.Namespace) -> MeasureSettings:
    """Read the settings of ``measure``; those of its own flags come before those of ``--set``."""
    from napari_lpd.core.settings.results import MeasureSettings

    flags = {
        "margin.bands_um": _read_numbers("--bands", options.bands),
        "margin.of": options.margin_of,
        "margin.against": options.against,
        "margin.histogram_um": options.histogram,
    }
    options.set = [*(f"{name}={json.dumps(value)}" for name, value in flags.items() if value), *options.set]
    return _with_roles(MeasureSettings, options, "roles")


def _check_objects(options: argparse.Namespace) -> None:
    """Refuse files of objects that cannot be written, before anything is measured."""
    from napari_lpd.core.files import refuse_overwrite
    from napari_lpd.results.export.objects import MARKS

    for path in options.objects:
        if path.suffix not in MARKS:
            raise SettingsError(f"--objects {path}: objects are written as {', '.join(MARKS)}; end the name in one")
        if path.suffix == ".geojson" and len(options.results) > 1:
            raise DataError(f"--objects {path}: outlines belong to one slide: measure such results one by one")
        refuse_overwrite(path, options.overwrite, MARKS[path.suffix])


def _objects(
    options: argparse.Namespace, settings: MeasureSettings, predictions: dict[str, Prediction], printer: Printer
) -> Result:
    """Write the objects of results, by name, as they are asked for."""
    from napari_lpd.results.export.objects import write_object_outlines, write_object_table
    from napari_lpd.results.measures.objects import find_objects

    if not options.objects:
        return {}
    rows = []
    for name, prediction in predictions.items():
        found = run(find_objects(prediction, settings), printer.progress)
        rows += [replace(row, slide=name) for row in found]
    for path in options.objects:
        if path.suffix == ".csv":
            write_object_table(rows, path, options.overwrite)
        else:
            (prediction,) = predictions.values()
            outlined = write_object_outlines(prediction, rows, path, options.overwrite, options.origin)
            run(outlined, printer.progress)
    return {"objects": [str(path) for path in options.objects], "found": len(rows)}


def export(options: argparse.Namespace, printer: Printer) -> Result:
    """Write one result in another format."""
    from napari_lpd.core.outputs import check_outputs
    from napari_lpd.core.settings.results import ExportSettings
    from napari_lpd.results.export.export import export as write
    from napari_lpd.results.prediction import Prediction
    from napari_lpd.slides.formats import open_slide
    from napari_lpd.slides.resolution import INSTEAD

    flags = {
        "origin": options.origin if options.origin != "bounds" else None,
        "what": options.what,
        "simplify_um": options.simplify,
        "overwrite": options.overwrite or None,
    }
    options.set = [*options.set, *(f"{name}={value}" for name, value in _lower(flags).items())]
    settings = _with_roles(ExportSettings, options, "measure.roles")
    check_outputs([options.to], [options.prediction, options.slide, options.roles, options.settings])
    prediction = Prediction.open(options.prediction)
    x, y = prediction.card.frame.counted_from(settings.origin).origin
    if (x or y) and options.to.suffix == ".geojson":
        printer.note(
            f"coordinates are counted from x {x}, y {y}, where the scanned part begins, as in QuPath (--origin)"
        )
    if options.slide is None:
        return {"written": str(run(write(prediction, options.to, settings), printer.progress))}
    mpp = prediction.card.slide_mpp[0]  # for a file that gives none
    override = mpp if prediction.card.mpp_source.startswith(INSTEAD) else None
    image = prediction.card.slide_image if options.image is None else options.image
    with open_slide(options.slide, mpp, override_mpp=override, image=image) as slide:
        return {"written": str(run(write(prediction, options.to, settings, slide), printer.progress))}


def _with_roles(cls: type[S], options: argparse.Namespace, name: str) -> S:
    """Read the settings of file and flags, with the roles of ``--roles`` as setting `name`."""
    overrides = list(options.set)
    if options.roles:
        from napari_lpd.core.settings.results import read_roles

        overrides.append(f"{name}={read_roles(options.roles).model_dump_json()}")
    return read_settings(cls, options.settings, overrides)


def _lower(flags: dict[str, object]) -> dict[str, str]:
    return {name: str(value).lower() for name, value in flags.items() if value is not None}


def _read_point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(number) for number in text.split(","))
    except ValueError as error:
        raise SettingsError(f"--field {text} is not X,Y in level-0 pixels") from error
    return x, y


def _read_numbers(flag: str, text: str) -> list[float]:
    """Read numbers that are separated by commas; none of an empty text."""
    try:
        return [float(number) for number in text.split(",")] if text else []
    except ValueError as error:
        raise SettingsError(f"{flag} {text} is not a list of numbers, as in {flag} 100,500") from error


def relabel_options(relabel: argparse.ArgumentParser) -> None:
    """Add the options of ``relabel``."""
    relabel.add_argument("results", type=Path, nargs="+", metavar="NAME.zarr", help="results of predict, or a pattern")
    relabel.add_argument(
        "--sure", type=float, metavar="SHARE", help="how sure the model has to be, 0 (label everything) to 1"
    )
    relabel.add_argument(
        "--more",
        action="append",
        default=[],
        metavar="TISSUE=FACTOR",
        help="multiply a tissue's odds: 4 for more of it, 0.25 for less; may be repeated",
    )
    for flag, unit, text in (
        ("smallest", "UM2", "give smaller areas the label around them"),
        ("holes", "UM2", "fill smaller holes in the mask"),
        ("smooth", "UM", "smooth borders within this radius"),
    ):
        said = f"{text}; of one tissue TISSUE={unit}; may be repeated"
        relabel.add_argument(f"--{flag}", action="append", default=[], metavar=unit, help=said)
    add_settings_options(relabel)


def measure_options(measure: argparse.ArgumentParser) -> None:
    """Add the options of ``measure``."""
    measure.add_argument("results", type=Path, nargs="+", metavar="NAME.zarr", help="results of predict, or a pattern")
    measure.add_argument("--out", type=Path, required=True, metavar="CSV", help="the table")
    measure.add_argument("--regions", type=Path, metavar="GEOJSON", help="also measure each of these regions")
    measure.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="X,Y",
        help="score the tumour-stroma ratio in 3.1 mm² around this point, in level-0 pixels; may be repeated",
    )
    measure.add_argument(
        "--bands",
        default="",
        metavar="UM,UM",
        help="also measure bands between these distances from the border of the tumour, in µm, inside and outside",
    )
    measure.add_argument(
        "--margin-of", nargs="+", metavar="CLASS", help="classes inside of the border (default: those that are tumour)"
    )
    measure.add_argument(
        "--against",
        nargs="+",
        metavar="CLASS",
        help="classes outside of the border, beside tissue that has none (default: all)",
    )
    measure.add_argument(
        "--histogram", type=float, metavar="UM", help="also count the other classes by distance, in steps of so many µm"
    )
    measure.add_argument(
        "--objects",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="also list the connected areas of every class, as .csv or, for QuPath, .geojson; may be repeated",
    )
    add_origin_option(measure)
    _result_options(measure)


def export_options(export: argparse.ArgumentParser) -> None:
    """Add the options of ``export``."""
    export.add_argument("prediction", type=Path, metavar="NAME.zarr", help="a result of predict")
    export.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FILE",
        help=".ome.tif (pyramid), .geojson (QuPath), .png (picture), .csv (areas), .dcm (DICOM SEG), .zarr (all)",
    )
    export.add_argument(
        "--what",
        choices=("labels", "prototypes", "corrections", "objects"),
        help="labels (default); prototypes: cosine maps as .ome.tif; corrections: strokes to train on as .geojson;"
        " objects: connected areas as .csv or .geojson",
    )
    export.add_argument("--simplify", type=float, metavar="UM", help="simplify outlines, in µm (default: every pixel)")
    export.add_argument("--slide", type=Path, help="the slide, for .png and .dcm")
    export.add_argument(
        "--image", type=int, metavar="N", help="number of the image in its file (default: the one predicted)"
    )
    add_origin_option(export)
    _result_options(export)


def _result_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--roles", type=Path, metavar="JSON", help="which classes are tumour, stroma, lymphocyte_rich_stroma"
    )
    sub.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_settings_options(sub)
