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
from napari_lpd.core.errors import DataError, LpdError, SettingsError
from napari_lpd.core.files import check_writable, refuse_overwrite
from napari_lpd.core.jobs import WARNING, Progress
from napari_lpd.core.outputs import check_distinct, check_outputs
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.prediction import PredictSettings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from napari_lpd.cli.common import Printer, Result
    from napari_lpd.prediction.batch import Row, SlideTask
    from napari_lpd.prediction.plan import BatchPlan

OF_SLIDES = ("mpp", "override_mpp", "image", "icc", "replace")  # options that a plan keeps under the same name


def predict_options(predict: argparse.ArgumentParser) -> None:
    """Add the options of ``predict``."""
    predict.add_argument("slides", type=Path, nargs="*", metavar="SLIDE", help="slides, or a pattern as *.svs")
    predict.add_argument("--model", type=Path, help="model file (default: the sample's)")
    predict.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the results; resumes unfinished ones"
    )
    predict.add_argument(
        "--resume", action="store_true", help="go on with the batch in DIR as it was begun: slides, model, settings"
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
    from napari_lpd.models.card import read_card
    from napari_lpd.prediction.batch import SUMMARY, count_states, summary_line, write_summary
    from napari_lpd.prediction.plan import PLAN, TABLE

    settings_file = (options.settings.absolute(),) if options.settings else ()
    plan = _plan(options)
    read_card(plan.model)
    own = {"regions": options.regions and options.regions.absolute()}
    own |= {"tissue": options.tissue and options.tissue.absolute()}
    tasks = [task._replace(others=(*task.others, *settings_file), **own) for task in plan.tasks(options.out)]
    check_distinct({task.slide: (task.folder, task.mask) for task in tasks})
    rows, table, many = [], options.out / TABLE, len(tasks) > 1 or options.resume
    if many:
        check_outputs([table, options.out / PLAN], (*plan.slides, *settings_file, plan.model))
        refuse_overwrite(table, True, SUMMARY)
    check_writable(options.out)
    if many and not options.resume:
        plan.joined(options.out).write(options.out)
    for row in _tries(tasks, plan.scheduler, printer):
        rows.append(row)
        if not many and "error" in row:
            raise LpdError(row["error"])
        if many:
            write_summary([row], table)  # after every slide, in case the run is stopped
        printer.slide(row, summary_line(row))
    if failed := sum("error" in row for row in rows):
        raise LpdError(f"{failed} of {len(rows)} slides failed ({count_states(rows)}): see the reasons in {table}")
    if plan.model == samples.model_path():
        printer.note("the model is the sample's, trained on one skin slide; --model FILE chooses another")
    return {"slides": rows} | ({"table": str(table), "states": count_states(rows)} if many else {})


def _plan(options: argparse.Namespace) -> BatchPlan:
    """Make the plan of the options, or read that of a batch which goes on."""
    from napari_lpd.prediction.plan import PLAN, BatchPlan

    given = {"SLIDE": options.slides, "--model": options.model, "--settings": options.settings, "--set": options.set}
    given |= {f"--{name.replace('_', '-')}": getattr(options, name) for name in (*OF_SLIDES, "regions", "tissue")}
    given["--origin"] = options.origin != "bounds"
    if options.resume:
        if named := [name for name, value in given.items() if value]:
            raise SettingsError(f"--resume takes all from {options.out / PLAN}: leave out {', '.join(named)}")
        plan = BatchPlan.read(options.out)
        return plan.model_copy(update={"scheduler": options.scheduler}) if options.scheduler else plan
    if not options.slides:
        raise SettingsError("no slides: name them, or go on with those of the folder by --resume (predict --help)")
    slides = tuple(dict.fromkeys(path.absolute() for path in expanded(options.slides)))
    settings = read_settings(PredictSettings, options.settings, options.set)
    if len(slides) > 1 and (options.regions or options.tissue):
        raise DataError("--regions and --tissue belong to one slide: predict such slides one by one")
    values = {name: getattr(options, name) for name in (*OF_SLIDES, "origin")} | {"slides": slides}
    model = (options.model or samples.model_path()).absolute()
    return BatchPlan.build(values | {"model": model, "settings": settings, "scheduler": options.scheduler or ""})


def _tries(tasks: Sequence[SlideTask], scheduler: str, printer: Printer) -> Iterator[Row]:
    """Predict slides here or on a cluster; rows come as they are done."""
    from napari_lpd.prediction.batch import attempt
    from napari_lpd.prediction.cluster import on_cluster

    if not scheduler:
        yield from (attempt(task, printer.progress) for task in tasks)
        return
    for done, row in enumerate(on_cluster(tasks, scheduler), start=1):
        yield row
        for line in row.get("warnings", ()):  # those of this computer were printed as they came
            printer.note(f"{WARNING}{Path(row['slide']).name}: {line}")
        printer.progress(Progress(done, len(tasks), "slides"))
