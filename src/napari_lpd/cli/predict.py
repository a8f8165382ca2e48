"""``napari-lpd predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_lpd import samples
from napari_lpd.cli.common import (
    add_image_option,
    add_origin_option,
    add_override_option,
    add_settings_options,
    expanded,
)
from napari_lpd.core.errors import DataError, LpdError
from napari_lpd.core.files import check_writable, refuse_overwrite
from napari_lpd.core.jobs import WARNING
from napari_lpd.core.outputs import check_distinct, check_outputs
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.prediction import PredictSettings

if TYPE_CHECKING:
    import argparse

    from napari_lpd.cli.common import Printer, Result


def predict_options(predict: argparse.ArgumentParser) -> None:
    """Add the options of ``predict``."""
    predict.add_argument("slides", type=Path, nargs="+", metavar="SLIDE", help="slides, or a pattern as *.svs")
    predict.add_argument("--model", type=Path, default=samples.model_path(), help="model file (default: the sample's)")
    predict.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the results; resumes unfinished ones"
    )
    predict.add_argument("--mpp", type=float, help="the slides' µm per pixel, if the files have none")
    add_override_option(predict)
    add_image_option(predict)
    predict.add_argument("--icc", action="store_true", help="convert colours by the slide's ICC profile")
    predict.add_argument("--regions", type=Path, metavar="GEOJSON", help="predict only inside these polygons")
    predict.add_argument("--tissue", type=Path, metavar="GEOJSON", help="tissue outlines (default: automatic)")
    add_origin_option(predict)
    predict.add_argument(
        "--overwrite", "--replace", dest="replace", action="store_true", help="replace other predictions in DIR"
    )
    predict.add_argument(
        "--scheduler", metavar="ADDRESS", help="send slides to this dask cluster (tcp://…; extra 'cluster')"
    )
    add_settings_options(predict)


def predict(options: argparse.Namespace, printer: Printer) -> Result:
    """Segment slides one by one; continue with the next one if a slide fails."""
    options.slides = expanded(options.slides)
    settings = read_settings(PredictSettings, options.settings, options.set)
    from napari_lpd.models.card import read_card
    from napari_lpd.prediction.batch import (
        SUMMARY,
        SlideTask,
        attempt,
        count_states,
        result_names,
        summary_line,
        write_summary,
    )
    from napari_lpd.prediction.cluster import on_cluster

    read_card(options.model)
    if len(options.slides) > 1 and (options.regions or options.tissue):
        raise DataError("--regions and --tissue belong to one slide: predict such slides one by one")
    slides = tuple(dict.fromkeys(path.absolute() for path in options.slides))
    settings_file = (options.settings.absolute(),) if options.settings else ()
    tasks = [
        SlideTask(
            path,
            options.model.absolute(),
            options.out.absolute(),
            settings,
            options.mpp,
            options.icc,
            options.regions and options.regions.absolute(),
            options.tissue and options.tissue.absolute(),
            options.replace,
            options.override_mpp,
            options.image,
            options.origin,
            (*slides, *settings_file),
            name,
        )
        for path, name in zip(slides, result_names(slides), strict=True)
    ]
    check_distinct({task.slide: (task.folder, task.mask) for task in tasks})
    rows, table = [], options.out / "summary.csv"
    if len(tasks) > 1:
        check_outputs([table], (*slides, *settings_file, options.model))
        refuse_overwrite(table, True, SUMMARY)
    check_writable(options.out)
    tries = on_cluster(tasks, options.scheduler) if options.scheduler else (attempt(t, printer.progress) for t in tasks)
    for row in tries:
        rows.append(row)
        if len(tasks) == 1 and "error" in row:
            raise LpdError(row["error"])
        printer.slide(row, summary_line(row))
        if options.scheduler:  # else they were printed as they came
            for line in row.get("warnings", ()):
                printer.note(f"{WARNING}{Path(row['slide']).name}: {line}")
        if len(tasks) > 1:
            write_summary(rows, table)  # after every slide, in case the run is stopped
    if failed := sum("error" in row for row in rows):
        raise LpdError(f"{failed} of {len(rows)} slides failed ({count_states(rows)}): see the reasons in {table}")
    if options.model == samples.model_path():
        printer.note("the model is the sample's, trained on one skin slide; --model FILE chooses another")
    return {"slides": rows} | ({"table": str(table), "states": count_states(rows)} if len(tasks) > 1 else {})
