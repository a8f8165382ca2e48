"""Many slides: each becomes a folder and a mask; one that fails stops no other."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_lpd.core.errors import DataError, LpdError, described, one_line
from napari_lpd.core.jobs import Job, Progress, about, run
from napari_lpd.core.text import write_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import shapely

    from napari_lpd.core.settings.prediction import PredictSettings
    from napari_lpd.slides.slide import Slide

Row = dict[str, Any]
OK, EMPTY = "ok", "nothing labelled"  # states of a slide; a failed one has its error instead


class SlideTask(NamedTuple):
    """One slide to be predicted.

    Attributes:
        slide: The file.
        model: Model file.
        out: Folder for ``STEM.zarr`` and ``STEM.ome.tif``.
        settings: How.
        mpp: The slide's µm per pixel, if its file gives none.
        icc: Convert colours by the slide's ICC profile.
        regions: GeoJSON of what is predicted; None: the whole slide.
        tissue: GeoJSON of what counts as tissue; None: found by itself.
        replace: Delete another prediction that is in the place.
        override_mpp: The slide's µm per pixel, in place of what its file says.
        image: Number of an image in the file, from 1; None: the biggest.
        origin: Where coordinates in GeoJSON begin, see `geojson.Frame.of`.
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

    @property
    def folder(self) -> Path:
        """Where the prediction goes."""
        return self.out / f"{self.slide.stem}.zarr"

    @property
    def mask(self) -> Path:
        """Where the mask for other programs goes."""
        return self.out / f"{self.slide.stem.removesuffix('.ome')}.ome.tif"


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
    model = load_cached(task.model, task.settings.device)
    if task.mask.exists() and not task.folder.exists():
        raise DataError(f"{task.mask} exists and belongs to no prediction here: choose another folder")
    with open_slide(task.slide, task.mpp, task.icc, task.override_mpp, task.image) as slide:
        scope = polygons_um(task.regions, slide, task.origin) if task.regions else []
        tissue = mask_of_polygons(polygons_um(task.tissue, slide, task.origin), slide) if task.tissue else None
        job = predict_slide(slide, model, task.settings, task.folder, scope, tissue, task.replace)
        prediction = yield from about(task.slide.name, job)
    if scope and not prediction.tissue_mm2:
        raise DataError(
            f"{task.regions}: no tissue was found in its regions of {task.slide.name}; are they another slide's, or"
            " counted from another corner (--origin)? If that is tissue, give it (--tissue), or set tissue_only=false"
        )
    write_ome_tiff(prediction, task.mask, overwrite=True)
    return {
        "slide": str(task.slide),
        "state": OK if any(prediction.area_mm2().values()) else EMPTY,
        "mm²": prediction.area_mm2(),
        "tissue mm²": prediction.tissue_mm2,
        "µm per pixel": prediction.card.slide_mpp[1],
        "resolution from": prediction.card.mpp_source,
        "unreadable": [f"x {x0}..{x1}, y {y0}..{y1}" for y0, x0, y1, x1 in prediction.unreadable],
        "warnings": prediction.warnings,
        "prediction": str(task.folder),
        "mask": str(task.mask),
        "seconds": round(time.monotonic() - began, 1),
    }


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
        return f"FAILED  {row['error']}"
    areas = ", ".join(f"{name} {area:.3g}" for name, area in row["mm²"].items())
    places = f"; {len(row['unreadable'])} unreadable places" if row["unreadable"] else ""
    state = row["state"] if row["state"] == OK else row["state"].upper()
    resolution = f"at {row['µm per pixel']:.4g} µm per pixel ({row['resolution from']})"
    total = f"{row['tissue mm²']:.3g} mm²"
    return f"{state}  {row['slide']}: {areas} of {total} {resolution}{places}  ({row['seconds']:g} s)"


def count_states(rows: Sequence[Row]) -> str:
    """Count the slides by state, in one line."""
    states = Counter("failed" if "error" in row else row["state"] for row in rows)
    return f"{len(rows)} slides: " + ", ".join(f"{count} {state}" for state, count in states.items())


def write_summary(rows: Sequence[Row], path: Path) -> Path:
    """Write a table of slides (CSV): state, areas per class in mm², places, warnings, seconds.

    Raises:
        ExportError: the file cannot be written.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.get("mm²", {})))
    columns = ["slide", "state", *(f"{name} mm²" for name in names), "tissue mm²"]
    columns += ["µm per pixel", "resolution from", "unreadable", "warnings", "seconds"]
    lines = []
    for row in rows:
        values: Row = {"slide": row["slide"], "state": row.get("error") or row["state"]}
        values |= {f"{name} mm²": f"{area:.6f}" for name, area in row.get("mm²", {}).items()}
        if "tissue mm²" in row:
            values |= {"tissue mm²": f"{row['tissue mm²']:.6f}", "µm per pixel": f"{row['µm per pixel']:.6g}"}
            values |= {name: row[name] for name in ("resolution from", "seconds")}
        values |= {name: "; ".join(row.get(name, [])) for name in ("unreadable", "warnings")}
        lines.append([values.get(name) for name in columns])
    return write_table(path, [columns, *lines])
