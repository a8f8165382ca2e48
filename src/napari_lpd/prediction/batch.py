"""Many slides: each becomes a folder and a mask; one that fails stops no other."""

from __future__ import annotations

import time
import unicodedata
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_lpd.core.classes import UNSURE_CLASS
from napari_lpd.core.errors import ExportError, LpdError, described, one_line
from napari_lpd.core.files import refuse_overwrite, told_apart
from napari_lpd.core.jobs import Job, Progress, about, run
from napari_lpd.core.locks import PATIENCE_S, beside, locked
from napari_lpd.core.outputs import check_outputs
from napari_lpd.core.text import read_table, write_table
from napari_lpd.results.export.ome_tiff import MASK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import shapely

    from napari_lpd.core.settings.prediction import PredictSettings
    from napari_lpd.slides.slide import Slide

Row = dict[str, Any]
FIRST = ("slide", "state")  # columns of that table, before the areas
LAST = ("unsure mm²", "tissue mm²", "labels", "µm per pixel", "resolution from", "unreadable", "warnings", "seconds")
SUMMARY = ",".join(FIRST)
OK, EMPTY = "ok", "nothing labelled"  # states of a slide; a failed one has its error instead


class SlideTask(NamedTuple):
    """One slide to be predicted.

    Attributes:
        slide: The file.
        model: Model file.
        out: Folder for ``STEM.zarr`` and ``STEM.mask.ome.tif``; STEM is the slide's name without its last ending.
        settings: How.
        mpp: The slide's µm per pixel, if its file gives none.
        icc: Convert colours by the slide's ICC profile.
        regions: GeoJSON of what is predicted; None: the whole slide.
        tissue: GeoJSON of what counts as tissue; None: found by itself.
        replace: Delete another prediction that is in the place.
        override_mpp: The slide's µm per pixel, in place of what its file says.
        image: Number of an image in the file, from 1; None: the biggest.
        origin: Where coordinates in GeoJSON begin, see `geojson.Frame.of`.
        others: What else is read in the same run, as other slides, and must not be replaced.
        name: STEM, where another slide of the run has the same; see `result_names`.
    """

    slide: Path
    model: Path
    out: Path
    settings: PredictSettings
    mpp: float | None = None
    icc: bool = False
    regions: Path | None = None
    tissue: Path | None = None
    replace: bool = False
    override_mpp: float | None = None
    image: int | None = None
    origin: str = "bounds"
    others: tuple[Path, ...] = ()
    name: str = ""

    @property
    def folder(self) -> Path:
        """Where the prediction goes."""
        return self.out / f"{self.name or self.slide.stem}.zarr"

    @property
    def mask(self) -> Path:
        """Where the mask for other programs goes: a name that no slide has by itself."""
        return mask_beside(self.folder)

    def check(self) -> None:
        """Refuse the task, before its work, if its results would replace what is read or what is not ours.

        Raises:
            ExportError: they would, or their names cannot be written.
        """
        read = (self.slide, self.model, self.regions, self.tissue, *self.others)
        check_outputs([self.folder, beside(self.folder), self.mask], read)
        refuse_overwrite(self.mask, True, MASK)
        if self.mask.exists() and not self.folder.exists() and not self.replace:
            raise ExportError(
                f"{self.mask} exists and belongs to no prediction here: choose another folder, or allow to replace it"
                " (--overwrite)"
            )


def mask_beside(folder: Path) -> Path:
    """Name the mask for other programs that `predict_file` writes beside a result."""
    return folder.with_name(f"{folder.name.removesuffix('.zarr')}.mask.ome.tif")


def result_names(slides: Sequence[Path]) -> list[str]:
    """Name the results of slides by their stems; where these repeat, by whole names with folders that tell them apart.

    `P1/a.tif` and `P2/a.tif` become "P1-a.tif" and "P2-a.tif", `a.svs` and `a.tif` "a.svs" and "a.tif". Upper and lower
    case, and how accents are composed, make no difference.
    """

    def plain(text: str) -> str:
        return unicodedata.normalize("NFC", text).casefold()

    stems, names = [plain(path.stem) for path in slides], [path.stem for path in slides]
    for stem in {stem for stem in stems if stems.count(stem) > 1}:
        alike = [number for number, other in enumerate(stems) if other == stem]
        for number, apart in zip(alike, told_apart([Path(plain(str(slides[n]))) for n in alike]), strict=True):
            names[number] = "-".join(slides[number].parts[-1 - apart.count("/") :])
    return names


def predict_file(task: SlideTask) -> Job[Row]:
    """Predict one slide, or continue it; the row says where the result is, areas, unreadable places and warnings.

    Every message of its progress names the slide.
    """
    from napari_lpd.models.checkpoint import load_cached
    from napari_lpd.prediction.predict import predict_slide
    from napari_lpd.results.export.ome_tiff import write_ome_tiff
    from napari_lpd.slides.formats import open_slide
    from napari_lpd.slides.tissue import mask_of_polygons

    began = time.monotonic()
    task.check()
    model = load_cached(task.model, task.settings.device)
    with open_slide(task.slide, task.mpp, task.icc, task.override_mpp, task.image) as slide:
        scope = polygons_um(task.regions, slide, task.origin) if task.regions else []
        tissue = mask_of_polygons(polygons_um(task.tissue, slide, task.origin), slide) if task.tissue else None
        job = predict_slide(slide, model, task.settings, task.folder, scope, tissue, task.replace)
        prediction = yield from about(task.slide.name, job)
    if not prediction.found_finished or not _is_newer(task.mask, task.folder):
        write_ome_tiff(prediction, task.mask, overwrite=True)
    image = {} if prediction.card.slide_image is None else {"image": prediction.card.slide_image}
    return {
        "slide": str(task.slide),
        **image,
        "state": OK if any(prediction.area_mm2().values()) else EMPTY,
        "mm²": prediction.area_mm2(),
        "unsure mm²": prediction.unsure_mm2,
        "tissue mm²": prediction.tissue_mm2,
        "labels": prediction.card.settings.labels.described(),
        "µm per pixel": prediction.card.slide_mpp[1],
        "resolution from": prediction.card.mpp_source,
        "unreadable": [f"x {x0}..{x1}, y {y0}..{y1}" for y0, x0, y1, x1 in prediction.unreadable],
        "warnings": prediction.warnings,
        "prediction": str(task.folder),
        "mask": str(task.mask),
        "already finished": prediction.found_finished,
        "seconds": round(time.monotonic() - began, 1),
    }


def _is_newer(mask: Path, folder: Path) -> bool:
    """Return whether a mask was written after the last change of its result."""
    return mask.exists() and mask.stat().st_mtime >= max(path.stat().st_mtime for path in folder.rglob("*"))


def attempt(task: SlideTask, on_progress: Callable[[Progress], None] | None = None) -> Row:
    """Predict one slide; what goes wrong with it comes back in the row, under ``error``."""
    try:
        return run(predict_file(task), on_progress)
    except LpdError as error:
        return {"slide": str(task.slide), "error": one_line(error)}
    except Exception as error:  # noqa: BLE001  the other slides go on, whatever it is
        return {"slide": str(task.slide), "error": f"{task.slide.name}: {described(error)}"}


def polygons_um(path: Path, slide: Slide, counted_from: str = "bounds") -> list[shapely.Geometry]:
    """Read the polygons of a GeoJSON file, as (x, y) in µm from the slide's corner."""
    from napari_lpd.data.geojson import Frame
    from napari_lpd.data.regions import read_regions

    return [region.polygon(slide.mpp) for region in read_regions(path, frame=Frame.of(slide, counted_from))]


def summary_line(row: Row) -> str:
    """Summarise a slide's result in one line."""
    if "error" in row:
        return f"FAILED {row['error']}"
    areas = row["mm²"] | {UNSURE_CLASS.name: row["unsure mm²"]}
    listed = ", ".join(f"{name} {area:.3g}" for name, area in areas.items())
    places = f"; {len(row['unreadable'])} unreadable places" if row["unreadable"] else ""
    state = row["state"] if row["state"] == OK else row["state"].upper()
    resolution = f"at {row['µm per pixel']:.4g} µm per pixel ({row['resolution from']})"
    total = f"{row['tissue mm²']:.3g} mm²"
    took = "already finished" if row["already finished"] else f"{row['seconds']:g} s"
    return f"{state} {row['slide']}: {listed} of {total} {resolution}{places} ({took})"


def count_states(rows: Sequence[Row]) -> str:
    """Count the slides by state, in one line."""
    states = Counter("failed" if "error" in row else row["state"] for row in rows)
    return f"{len(rows)} slides: " + ", ".join(f"{count} {state}" for state, count in states.items())


def write_summary(rows: Sequence[Row], path: Path) -> Path:
    """Add slides to a table (CSV): state, areas per class in mm², places, warnings, seconds.

    Slides that are in the table already get their new line, with the seconds of before where nothing was left to do.
    All other lines stay, and so does all in columns of the user's own.

    Raises:
        ExportError: the file cannot be read or written, or is another table.
    """
    with locked(beside(path), path, wait_s=PATIENCE_S):
        lines = read_summary(path)
        columns = [name for cells in lines.values() for name in cells]
        for row in rows:
            lines[row["slide"]] = _cells(row) | _kept(row, lines.get(row["slide"], {}))
        found = list(dict.fromkeys([*columns, *(name for cells in lines.values() for name in cells)]))
        areas = [name for name in found if name.endswith(" mm²") and name not in FIRST + LAST]
        own = [name for name in found if name not in (*FIRST, *areas, *LAST)]
        columns = [*FIRST, *areas, *LAST, *own]
        return write_table(path, [columns, *([cells.get(name) for name in columns] for cells in lines.values())])


def read_summary(path: Path) -> dict[str, dict[str, str]]:
    """Read the cells of a table of `write_summary` by slide and column; none where there is no table.

    Raises:
        ExportError: the file cannot be read, or is another table.
    """
    if not path.exists():
        return {}
    refuse_overwrite(path, True, SUMMARY)
    return {line.cells["slide"]: line.cells for line in read_table(path, ExportError)[1]}


def _kept(row: Row, before: dict[str, str]) -> dict[str, str]:
    """Return what stays of a slide's line: the user's own cells, and the time of the work where none is new."""
    stays = {"seconds"} if row.get("already finished") else set()
    theirs = {name for name in before if name not in (*FIRST, *LAST, "image") and not name.endswith(" mm²")}
    return {name: before[name] for name in before if name in stays | theirs and before[name]}


def _cells(row: Row) -> dict[str, Any]:
    cells: dict[str, Any] = {"slide": row["slide"], "state": row.get("error") or row.get("state", OK)}
    cells |= {f"{name} mm²": f"{area:.6f}" for name, area in row.get("mm²", {}).items()}
    cells |= {name: f"{row[name]:.6f}" for name in ("unsure mm²", "tissue mm²") if name in row}
    if "µm per pixel" in row:
        cells["µm per pixel"] = f"{row['µm per pixel']:.6g}"
    cells |= {
        name: row[name]
        for name in ("labels", "resolution from", "seconds", "image")
        if name in row and "error" not in row
    }
    return cells | {name: "; ".join(row.get(name, [])) for name in ("unreadable", "warnings")}
