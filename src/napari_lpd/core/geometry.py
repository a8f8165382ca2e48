"""Labels → polygons along the pixels' edges: exact, cell by cell, each finished polygon handed out at once.

A cell's borders between labels are cut into straight runs, which GEOS makes into faces with holes. Faces that touch
the next cell wait for the rest of their area; memory is bounded by what waits (`MOST_WAITING`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_lpd.slides.slide import Box

CELL = 2048
MOST_WAITING = 2_000_000  # vertices; beyond, what waits is handed out in pieces cut along the cells


class Outline(NamedTuple):
    """One connected area of one label.

    Attributes:
        label: The label.
        polygon: (x, y) in pixels; the first pixel's corner is 0, 0.
    """

    label: int
    polygon: shapely.Polygon


def outlines(labels: Any, box: Box, tolerance: float = 0.0, cell: int = CELL) -> Iterator[Outline]:
    """The connected areas (neighbours share an edge) of every label but 0.

    Args:
        labels: (H, W) uint8; NumPy, Zarr or what is read like them.
        box: (y0, x0, y1, x1), what is looked at.
        tolerance: Simplification in pixels: corners that span a triangle of less than tolerance² are left out
            (Visvalingam-Whyatt), the same ones on both sides of a border; 0 keeps every pixel's edge.
        cell: Edge of what is read at once.
    """
    y0, x0, y1, x1 = box
    waiting: dict[int, list[shapely.Polygon]] = {}
    for y in range(y0, y1, cell):
        bottom = min(y + cell, y1)
        for x in range(x0, x1, cell):
            right = min(x + cell, x1)
            part = _framed(labels, (y, x, bottom, right), box)
            if not (part[1:-1, 1:-1] > 0).any():
                continue
            for label, polygon in faces(part, (y, x), tolerance):
                west, north, east, south = polygon.bounds
                if west > x and north > y and east < right and south < bottom:
                    yield Outline(label, polygon)
                else:
                    waiting.setdefault(label, []).append(polygon)
        for label in list(waiting):
            merged = shapely.get_parts(shapely.coverage_union_all(waiting.pop(label)))
            waits = (shapely.bounds(merged)[:, 3] >= bottom) & (bottom < y1)
            yield from (Outline(label, polygon) for polygon in merged[~waits])
            if waits.any():
                waiting[label] = merged[waits].tolist()
        if sum(int(shapely.get_num_coordinates(polygons).sum()) for polygons in waiting.values()) > MOST_WAITING:
            yield from (Outline(label, polygon) for label, polygons in waiting.items() for polygon in polygons)
            waiting.clear()


def _framed(labels: Any, part: Box, box: Box) -> NDArray[np.int16]:
    """A part of the labels and one pixel around it; -1 outside of `box`."""
    y0, x0, y1, x1 = part
    top, left, bottom, right = max(y0 - 1, box[0]), max(x0 - 1, box[1]), min(y1 + 1, box[2]), min(x1 + 1, box[3])
    framed = np.full((y1 - y0 + 2, x1 - x0 + 2), -1, np.int16)
    framed[top - y0 + 1 : bottom - y0 + 1, left - x0 + 1 : right - x0 + 1] = labels[top:bottom, left:right]
    return framed


def faces(framed: NDArray[np.int16], origin: tuple[int, int], tolerance: float) -> Iterator[Outline]:
    """The areas of a cell (h, w), of every label but 0.

    Args:
        framed: (h + 2, w + 2) labels of the cell and of one pixel around it.
        origin: (y, x) of the cell's first pixel.
        tolerance: As for `outlines`.
    """
    lines = shapely.linestrings(border_runs(framed).astype(float))
    polygons = shapely.get_parts(shapely.polygonize(lines))
    inside = np.floor(shapely.get_coordinates(shapely.point_on_surface(polygons))).astype(np.intp) + 1
    values = framed[inside[:, 1], inside[:, 0]]
    if tolerance:
        polygons = shapely.coverage_simplify(polygons, tolerance, simplify_boundary=False)
    shift = np.array(origin[::-1])
    for value, polygon in zip(values.tolist(), polygons, strict=True):
        if value:
            yield Outline(value, shapely.transform(polygon, lambda corners: corners + shift))


def border_runs(framed: NDArray[np.int16]) -> NDArray[np.intp]:
    """Straight runs of the edges between pixels of different labels, and around all: (n, 2 ends, (x, y)).

    A run ends where another border meets it, also one from outside: neighbouring cells share all their corners.
    """
    across, along = framed[:-1] != framed[1:], framed[:, :-1] != framed[:, 1:]  # (h + 1, w + 2), (h + 2, w + 1)
    across[[0, -1], 1:-1] = True
    along[1:-1, [0, -1]] = True
    return np.concatenate([_runs(across, along), _runs(along.T, across.T)[:, :, ::-1]])


def _runs(edges: NDArray[np.bool_], others: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Maximal runs of `edges` (h + 1, w + 2) along x, cut where `others` (h + 2, w + 1), along y, meet them."""
    met = others[:-1] | others[1:]
    before, after = np.zeros_like(met), np.zeros_like(met)
    after[:, :-1], before[:, 1:] = edges[:, 1:-1], edges[:, 1:-1]
    first, last = np.argwhere(after & (met | ~before)), np.argwhere(before & (met | ~after))
    return np.stack([first, last], 1)[:, :, ::-1]
