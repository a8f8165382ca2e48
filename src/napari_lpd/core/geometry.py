"""Boxes of pixels, polygons drawn as pixels, and labels outlined as polygons.

`outlines` follows the pixels' edges exactly, cell by cell, and yields each polygon as soon as it is complete. The
borders between labels in a cell are cut into straight runs, which GEOS polygonises into faces with holes. Faces that
touch the next cell are pending until the rest of their area is read; `MAX_WAITING` bounds their memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

Box = tuple[int, int, int, int]  # (y0, x0, y1, x1): first row and column, and those after the last
Block = tuple[int, int]  # row and column of a block of a result


def common(one: Box, other: Box) -> Box:
    """Intersect two boxes; the result is empty where they do not touch."""
    return max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])


def is_empty(box: Box) -> bool:
    """Return whether a box contains no pixel."""
    return box[0] >= box[2] or box[1] >= box[3]


def multiplied(box: Box, stride: int) -> Box:
    """Convert a box of map pixels to pixels."""
    y0, x0, y1, x1 = box
    return y0 * stride, x0 * stride, y1 * stride, x1 * stride


def divided(box: Box, stride: int) -> Box:
    """Convert a box of pixels to the map pixels that it touches."""
    y0, x0, y1, x1 = box
    return y0 // stride, x0 // stride, -(-y1 // stride), -(-x1 // stride)


def within(outer: Box, inner: Box) -> tuple[Any, ...]:
    """Return the index of the box `inner` in an array (..., h, w) of the box `outer` around it."""
    top, left = outer[:2]
    return (..., slice(inner[0] - top, inner[2] - top), slice(inner[1] - left, inner[3] - left))


CELL = 2048
MAX_WAITING = 2_000_000  # vertices; beyond, pending polygons are yielded in pieces, cut along the cells


class Outline(NamedTuple):
    """One connected area of one label.

    Attributes:
        label: The label.
        polygon: (x, y) in pixels; the first pixel's corner is 0, 0.
    """

    label: int
    polygon: shapely.Polygon


def outlines(labels: Any, box: Box, tolerance: float = 0.0, cell: int = CELL) -> Iterator[Outline]:
    """Yield the connected areas (neighbours share an edge) of every label but 0.

    Args:
        labels: (H, W) uint8; NumPy, Zarr or another array that is read by slices.
        box: (y0, x0, y1, x1), the part to outline.
        tolerance: Simplification in pixels: corners that span a triangle of less than tolerance² are left out
            (Visvalingam-Whyatt), the same ones on both sides of a border; 0 keeps every pixel's edge.
        cell: Edge of the cells, which are read one at a time.
    """
    y0, x0, y1, x1 = box
    pending: dict[int, list[shapely.Polygon]] = {}
    for y in range(y0, y1, cell):
        bottom = min(y + cell, y1)
        for x in range(x0, x1, cell):
            right = min(x + cell, x1)
            framed = _framed(labels, (y, x, bottom, right), box)
            if not (framed[1:-1, 1:-1] > 0).any():
                continue
            for label, polygon in faces(framed, (y, x), tolerance):
                west, north, east, south = polygon.bounds
                if west > x and north > y and east < right and south < bottom:
                    yield Outline(label, polygon)
                else:
                    pending.setdefault(label, []).append(polygon)
        for label in list(pending):
            merged = shapely.get_parts(shapely.coverage_union_all(pending.pop(label)))
            incomplete = (shapely.bounds(merged)[:, 3] >= bottom) & (bottom < y1)
            yield from (Outline(label, polygon) for polygon in merged[~incomplete])
            if incomplete.any():
                pending[label] = merged[incomplete].tolist()
        if sum(int(shapely.get_num_coordinates(polygons).sum()) for polygons in pending.values()) > MAX_WAITING:
            yield from (Outline(label, polygon) for label, polygons in pending.items() for polygon in polygons)
            pending.clear()


def _framed(labels: Any, cell: Box, box: Box) -> NDArray[np.int16]:
    """Return the labels of a cell and of one pixel around it; -1 outside `box`."""
    y0, x0, y1, x1 = cell
    top, left, bottom, right = max(y0 - 1, box[0]), max(x0 - 1, box[1]), min(y1 + 1, box[2]), min(x1 + 1, box[3])
    framed = np.full((y1 - y0 + 2, x1 - x0 + 2), -1, np.int16)
    framed[top - y0 + 1 : bottom - y0 + 1, left - x0 + 1 : right - x0 + 1] = labels[top:bottom, left:right]
    return framed


def faces(framed: NDArray[np.int16], origin: tuple[int, int], tolerance: float) -> Iterator[Outline]:
    """Yield the areas of every label but 0 in a cell (h, w).

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
    """Return the straight runs of edges between different labels, and around all: (n, 2 ends, (x, y)).

    A run ends where another border meets it, also one outside the cell: neighbouring cells share all their corners.
    """
    across, along = framed[:-1] != framed[1:], framed[:, :-1] != framed[:, 1:]  # (h + 1, w + 2), (h + 2, w + 1)
    across[[0, -1], 1:-1] = True
    along[1:-1, [0, -1]] = True
    return np.concatenate([_runs(across, along), _runs(along.T, across.T)[:, :, ::-1]])


def _runs(edges: NDArray[np.bool_], others: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the maximal runs of `edges` (h + 1, w + 2) along x, cut where `others` (h + 2, w + 1), along y, meet."""
    crossed = others[:-1] | others[1:]
    before, after = np.zeros_like(crossed), np.zeros_like(crossed)
    after[:, :-1], before[:, 1:] = edges[:, 1:-1], edges[:, 1:-1]
    first, last = np.argwhere(after & (crossed | ~before)), np.argwhere(before & (crossed | ~after))
    return np.stack([first, last], 1)[:, :, ::-1]


def um_box_to_pixels(box_um: tuple[float, float, float, float], mpp: float) -> Box:
    """Convert a box (y0, x0, y1, x1) in µm to the whole pixels of `mpp` that cover it."""
    y0, x0, y1, x1 = (value / mpp for value in box_um)
    return math.floor(y0 + 1e-6), math.floor(x0 + 1e-6), math.ceil(y1 - 1e-6), math.ceil(x1 - 1e-6)


def sampled_polygons(
    polygons: Sequence[shapely.Geometry], origin: tuple[int, int], shape: tuple[int, int], mpp: float
) -> NDArray[np.bool_]:
    """Rasterise polygons by pixel centres; a part of the slide is sampled exactly like the whole.

    Args:
        polygons: Polygons or MultiPolygons, with or without holes, (x, y) in µm from the slide's corner.
        origin: (y, x) of the first pixel.
        shape: (h, w) in pixels.
        mpp: µm per pixel.

    Returns:
        (h, w), True inside any of the polygons.
    """
    # Scan lines: every edge flips what lies to the right of it in the rows that it crosses.
    flips = np.zeros((shape[0], shape[1] + 1), np.uint8)
    rings = [
        ring for part in shapely.get_parts([shapely.union_all(list(polygons))]) for ring in shapely.get_rings(part)
    ]
    for ring in rings:
        x, y = (shapely.get_coordinates(ring) / mpp).T
        x0, y0, x1, y1 = x[:-1], y[:-1], x[1:], y[1:]
        first, last = (
            np.clip(np.ceil(end - 0.5), origin[0], origin[0] + shape[0]).astype(np.intp)
            for end in (np.minimum(y0, y1), np.maximum(y0, y1))
        )
        edge = np.repeat(np.arange(len(x0)), last - first)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - (last - first) - first, last - first)
        crossing = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
        column = np.clip(np.ceil(crossing - 0.5) - origin[1], 0, shape[1]).astype(np.intp)
        np.bitwise_xor.at(flips, (row - origin[0], column), 1)
    inside: NDArray[np.uint8] = np.bitwise_xor.accumulate(flips, axis=1)[:, :-1]
    return inside.astype(np.bool_)


def without_holes(polygon: shapely.Polygon) -> list[shapely.Polygon]:
    """Cut a polygon horizontally through the middle of its first hole, until no part has a hole."""
    if not polygon.interiors:
        return [polygon]
    x0, y0, x1, y1 = polygon.bounds
    hole = polygon.interiors[0].bounds
    y = (hole[1] + hole[3]) / 2
    halves = (polygon.intersection(shapely.box(x0, a, x1, b)) for a, b in ((y0, y), (y, y1)))
    parts = (part for half in halves for part in shapely.get_parts(half) if part.geom_type == "Polygon")
    return [piece for part in parts for piece in without_holes(part)]
