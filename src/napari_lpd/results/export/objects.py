"""Objects as a table, and as GeoJSON for QuPath: an annotation for each, with its measures as measurements."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import shapely

from napari_lpd.core.errors import ExportError
from napari_lpd.core.files import KEY, atomic_write, mark_of
from napari_lpd.core.geometry import outlines
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.text import write_table
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.export.geojson import feature, header_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_lpd.results.prediction import Prediction

OBJECTS = mark_of("objects")
MEASUREMENTS = {
    "Area mm^2": "area_mm2",
    "Perimeter µm": "perimeter_um",
    "Solidity": "solidity",
    "Centroid X µm": "x_um",
    "Centroid Y µm": "y_um",
    "Nearest µm": "nearest_um",
    "Uncertainty": "uncertainty",
}


@dataclass(frozen=True, kw_only=True)
class ObjectRow:
    """An object.

    Attributes:
        slide: Name of the slide.
        object: Its number, by its first pixel from the top.
        what: Its tissue class.
        area_mm2: Its area.
        perimeter_um: Length of its edges, those of its holes among them.
        solidity: Its share of its convex hull.
        x_um: Its centroid, from the slide's corner.
        y_um: Its centroid, from the slide's corner.
        nearest_um: Distance to the nearest pixel of the chosen classes; None where it is one itself, or there is none.
        uncertainty: Mean uncertainty of the model; None where none was computed.
        first_pixel: (y, x) of the leftmost pixel of its first row, in pixels of the result; not in the table.
        pixels: Its number of pixels; not in the table.
    """

    slide: str
    object: int
    what: str
    area_mm2: float
    perimeter_um: float
    solidity: float
    x_um: float
    y_um: float
    nearest_um: float | None
    uncertainty: float | None
    first_pixel: tuple[int, int]
    pixels: int


COLUMNS = [field.name for field in fields(ObjectRow)][:-2]
MARKS = {".csv": ",".join(COLUMNS[:2]), ".geojson": OBJECTS}  # by ending: what tells our files from others


def write_object_outlines(
    prediction: Prediction, rows: Sequence[ObjectRow], path: Path, overwrite: bool = False, counted_from: str = "bounds"
) -> Job[Path]:
    """Write objects with their outlines, which follow every pixel; whole or not at all.

    Args:
        prediction: Of which the objects are.
        rows: The objects.
        path: ``*.geojson``.
        overwrite: Replace a file that is there.
        counted_from: Where coordinates begin: at the scanned part ("bounds"), as in QuPath, or at the "slide".

    Raises:
        ExportError: there is no object, one is too intricate to be outlined whole, a file is there and `overwrite` is
            off, or the place cannot be written.
    """
    if not rows:
        raise ExportError(f"{prediction.folder}: no object of these classes and sizes is in it, so none is outlined")
    card, store = prediction.card, Corrections(prediction)
    box, frame = store.extent(), card.frame.counted_from(counted_from)
    factor = np.array(card.mpp) / np.array(card.slide_mpp[::-1])
    colours = {tissue.name: tissue.rgb for tissue in card.classes}
    wanted = {row.first_pixel: row for row in rows}
    about = json.dumps(header_of(card, frame, OBJECTS))
    with atomic_write(path, overwrite, mark=OBJECTS) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(f'{{"type": "FeatureCollection", "{KEY}": {about}, "features": [')
        reached = 0
        for _, polygon in outlines(store.levels[0], box):
            row = wanted.get(_first_pixel(polygon))
            if row is not None and row.pixels == polygon.area:
                placed = shapely.transform(polygon, lambda corners: corners * factor - frame.origin)
                del wanted[row.first_pixel]
                comma = "," if len(wanted) < len(rows) - 1 else ""
                more = {"name": f"{row.what} {row.object}", "measurements": _measurements(row)}
                file.write(f"{comma}\n{feature(placed, np.ones(2), row.what, colours[row.what], more)}")
            reached = max(reached, int(polygon.bounds[3]) - box[0])
            yield Progress(reached, box[2] - box[0], "rows outlined")
        if wanted:
            raise ExportError(
                f"{prediction.folder}: {len(wanted)} of {len(rows)} objects are too intricate to be outlined whole:"
                " choose fewer classes (objects.of), or take the table (.csv)"
            )
        file.write("\n]}\n")
    return path


def _first_pixel(polygon: shapely.Polygon) -> tuple[int, int]:
    """Return (y, x) of the leftmost pixel in the first row of an outline."""
    corners = shapely.get_coordinates(polygon.exterior)
    top = corners[:, 1].min()
    return int(top), int(corners[corners[:, 1] == top, 0].min())


def _measurements(row: ObjectRow) -> dict[str, float]:
    values = {name: getattr(row, field) for name, field in MEASUREMENTS.items()}
    return {name: value for name, value in values.items() if value is not None}


def write_object_table(rows: Sequence[ObjectRow], path: Path, overwrite: bool = False) -> Path:
    """Write the table as CSV atomically; values that do not apply stay empty.

    Raises:
        ExportError: the file exists and `overwrite` is off, or cannot be written.
    """
    about = [asdict(row) for row in rows]
    lines = [[f"{row[name]:.8g}" if isinstance(row[name], float) else row[name] for name in COLUMNS] for row in about]
    return write_table(path, [COLUMNS, *lines], overwrite)
