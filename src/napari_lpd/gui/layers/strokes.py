"""Strokes of a brush as regions: what is painted on pixels changes the outlines of the regions that label pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from napari_lpd.core.geometry import outlines, sampled_polygons, without_holes
from napari_lpd.data.regions import Region

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

OTHER = 252  # label of what is none of the classes; no label of masks
SMOOTH = 0.75  # corners that span a triangle of less than this many pixels are left out
LEAST = 1.0  # area of a stroke, in pixels; smaller is what rounding leaves of a cut


@dataclass(frozen=True)
class Canvas:
    """Pixels that are painted on: a part of a slide.

    Attributes:
        origin: (y, x) of the first pixel's corner, in level-0 pixels.
        shape: (h, w).
        pixel: (y, x) edges of a pixel, in level-0 pixels.
        names: The classes; label c + 1 is class c.
    """

    origin: tuple[float, float]
    shape: tuple[int, int]
    pixel: tuple[float, float]
    names: tuple[str, ...]

    def _tissues(self, label: int) -> tuple[str, ...]:
        return () if label == OTHER else (self.names[label - 1],)

    def drawn(self, strokes: Sequence[Region]) -> NDArray[np.uint8]:
        """Draw strokes into new pixels (h, w): labels, 0 where there is no stroke."""
        labels = np.zeros(self.shape, np.uint8)
        (top, left), (height, width) = self.origin, self.pixel
        frame = shapely.box(left, top, left + self.shape[1] * width, top + self.shape[0] * height)
        label_of = {self._tissues(label): label for label in (*range(1, len(self.names) + 1), OTHER)}
        for stroke in strokes:
            outline = stroke.polygon()
            if stroke.tissues in label_of and outline.intersects(frame):
                here = shapely.transform(outline, lambda points: (points - (left, top)) / (width, height))
                y0, x0, y1, x1 = self._around(here)
                inside = sampled_polygons([here], (y0, x0), (y1 - y0, x1 - x0), 1.0)
                labels[y0:y1, x0:x1][inside] = label_of[stroke.tissues]
        return labels

    def _around(self, outline: shapely.Geometry) -> tuple[int, int, int, int]:
        x0, y0, x1, y1 = outline.bounds
        low = max(int(np.floor(y0)), 0), max(int(np.floor(x0)), 0)
        return *low, min(int(np.ceil(y1)), self.shape[0]), min(int(np.ceil(x1)), self.shape[1])

    def painted(self, strokes: Sequence[Region], labels: NDArray[np.uint8], changed: NDArray[np.bool_]) -> list[Region]:
        """Change strokes by what was painted.

        Args:
            strokes: Regions that label pixels.
            labels: (h, w), what is painted; 0 erases.
            changed: (h, w), where that is to hold.

        Returns:
            The strokes: those that nothing was painted on are the same objects, and stand first.
        """
        areas = self._areas(labels, changed)
        touched = shapely.union_all(list(areas.values()))
        if touched.is_empty:
            return list(strokes)
        kept = [each for each in strokes if not each.polygon().intersects(touched)]
        whole: dict[tuple[str, ...], list[shapely.Geometry]] = {}
        for stroke in strokes:
            if not any(stroke is each for each in kept):
                whole.setdefault(stroke.tissues, []).append(stroke.polygon())
        own = {self._tissues(label): area for label, area in areas.items() if label}
        for tissues in dict.fromkeys([*whole, *own]):
            mine = own.get(tissues, shapely.Polygon())
            rest = shapely.union_all(whole.get(tissues, [])).difference(touched)
            kept += self._regions(rest.union(mine), tissues)
        return kept

    def _areas(self, labels: NDArray[np.uint8], changed: NDArray[np.bool_]) -> dict[int, shapely.Geometry]:
        """Outline what was painted, label by label, in level-0 pixels."""
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        if not len(rows):
            return {}
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        part, where = labels[box], changed[box]
        start = (self.origin[1] + columns[0] * self.pixel[1], self.origin[0] + rows[0] * self.pixel[0])
        areas = {}
        for label in np.unique(part[where]).tolist():
            mask = (where & (part == label)).astype(np.uint8)
            area = shapely.union_all([found.polygon for found in outlines(mask, (0, 0, *mask.shape), SMOOTH)])
            areas[label] = shapely.transform(area, lambda points: points * self.pixel[::-1] + start)
        return areas

    def _regions(self, area: shapely.Geometry, tissues: tuple[str, ...]) -> list[Region]:
        least = LEAST * self.pixel[0] * self.pixel[1]
        parts = [part for part in shapely.get_parts(area) if part.geom_type == "Polygon" and part.area >= least]
        pieces = [piece for part in parts for piece in without_holes(part)]
        return [
            Region(shapely.get_coordinates(piece.exterior)[:-1, ::-1], tissues, pixels=True)
            for piece in pieces
            if piece.area > 0
        ]
