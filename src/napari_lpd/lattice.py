"""The permutohedral lattice: a Gaussian filter over points in d dimensions, in time linear in their number.

Points are splatted onto the corners of the simplex around them, the lattice is blurred along its d + 1 directions, and
the points read it back (Adams, Baek & Davis 2010). Ours is made for the CRF's many filterings of one image:

- A vertex is one number: a linear function of its coordinates modulo 2^64. So a step along the lattice is an addition,
  a comparison is one, and the number is its own hash. (Two of a million vertices share one with a chance of 3e-8.)
- The points come in strips, each with its own hash table and its own copies of the vertices that it touches; they stay
  in the cache, and threads never write to the same place. Copies are added up in the order of the strips, so that the
  result has the same bits whatever the number of threads.
- Values are rows of a width that is known when a function is compiled, so that a row is one or two vector registers.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    Each = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]

BLOCK = 256  # points embedded together: what is computed for them stays in the first cache
FACTORS = np.random.default_rng(2010).integers(2**62, 2**63, 16) * 2 + 1  # odd; they wrap around
FIRST_SLOTS = 1024


def compiled(function: Any) -> Any:
    """Compile with numba, without the GIL; keep the machine code on disk where that can be written to."""
    options = {"nogil": True, "fastmath": True, "error_model": "numpy"}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError as error:  # neither beside this file nor in the user's cache folder
        logging.getLogger(__name__).warning("%s is compiled anew at every start: %s", function.__name__, error)
        return njit(function, **options)


class Part(NamedTuple):
    """What a strip of n points knows of the lattice.

    Attributes:
        corners: (n, d + 1) the corners of each point's simplex, as places in `vertices`.
        weights: (n, d + 1) barycentric weight of each.
        vertices: (k,) the lattice's vertices that the strip touches.
    """

    corners: NDArray[np.int32]
    weights: NDArray[np.float32]
    vertices: NDArray[np.int32]


class Lattice(NamedTuple):
    """A permutohedral lattice of m vertices over points in strips.

    Attributes:
        parts: What each strip knows of it.
        neighbours: (d + 1, m + 1, 2) the two neighbours of a vertex along each direction. Vertices count from 1; 0
            stands for "none".
        first: (m + 2,) where the copies of a vertex begin in `copies`.
        copies: (sum of all k,) the strips' places, one strip after the other, sorted by vertex.
    """

    parts: tuple[Part, ...]
    neighbours: NDArray[np.int32]
    first: NDArray[np.int32]
    copies: NDArray[np.int32]


def build_lattice(strips: Sequence[NDArray[np.float32]], each: Each = map) -> Lattice:
    """The lattice of points in strips (d, n), in units of the kernel's standard deviation.

    Args:
        strips: Strips whose neighbouring points should be alike: that is what makes them fast.
        each: What calls a function for every item, as `map` does: of a pool, where threads are to share the work.
    """
    d = len(strips[0])
    embedded = list(each(_embed, strips))
    keys = np.empty(1 + sum(len(own) for _, _, own in embedded), np.int64)
    table, count = np.zeros((FIRST_SLOTS, 2), np.int64), 0
    parts = []
    for corners, weights, own in embedded:
        vertices = np.empty(len(own), np.int32)
        table, count = _enter_all(own, vertices, table, keys, count)
        parts.append(Part(corners, weights, vertices))
    neighbours = np.zeros((d + 1, count + 1, 2), np.int32)
    list(each(lambda span: _find_neighbours(keys, table, neighbours, *span), spans(1, count + 1)))
    return Lattice(tuple(parts), neighbours, *_sort_copies(np.concatenate([part.vertices for part in parts]), count))


@contextmanager
def crew(threads: int) -> Iterator[Each]:
    """What calls a function for every item in `threads` threads: ours, as numba's are not safe to start from several."""
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads, "napari-lpd-crf") as pool:
        yield pool.map


def spans(start: int, stop: int, length: int = 16384) -> list[tuple[int, int]]:
    """Pieces of a range, for threads to share."""
    return [(i, min(i + length, stop)) for i in range(start, stop, length)]


@compiled
def _find(table, key):
    """Slot of a key in the open-addressed table of (key, vertex), or the free slot where it would stand."""
    last = len(table) - 1
    slot = (key >> 32) & last
    while table[slot, 1] != 0 and table[slot, 0] != key:
        slot = (slot + 1) & last
    return slot


@compiled
def _grown(table):
    """The same table with twice the slots."""
    larger = np.zeros((2 * len(table), 2), np.int64)
    for i in range(len(table)):
        if table[i, 1] != 0:
            larger[_find(larger, table[i, 0])] = table[i]
    return larger


@compiled
def _enter_all(own, vertices, table, keys, count):
    """Number the vertices of a strip in the common table; new ones go on from `count`."""
    for i in range(len(own)):
        slot = _find(table, own[i])
        if table[slot, 1] == 0:
            count += 1
            keys[count] = own[i]
            table[slot, 0], table[slot, 1] = own[i], count
            if 2 * count > len(table):
                table = _grown(table)
                slot = _find(table, own[i])
        vertices[i] = table[slot, 1]
    return table, count


@compiled
def _find_neighbours(keys, table, neighbours, start, stop):
    d = len(neighbours) - 1
    for direction in range(d + 1):
        step = np.int64(0)
        for i in range(d):
            step += FACTORS[i]
        if direction < d:
            step -= (d + 1) * FACTORS[direction]
        for vertex in range(start, stop):
            found = table[_find(table, keys[vertex] + step), 1]
            if found:
                neighbours[direction, vertex, 0] = found
                neighbours[direction, found, 1] = vertex


@compiled
def _sort_copies(vertices, count):
    first = np.zeros(count + 2, np.int32)
    for vertex in vertices:
        first[vertex + 1] += 1
    for vertex in range(count + 1):
        first[vertex + 1] += first[vertex]
    copies, free = np.empty(len(vertices), np.int32), first.copy()
    for place in range(len(vertices)):
        vertex = vertices[place]
        copies[free[vertex]] = place
        free[vertex] += 1
    return first, copies


@compiled
def _embed(features):
    """Corners (n, d + 1) and weights of points (d, n), and the numbers of the vertices that they name."""
    d, n = features.shape
    corners, weights = np.empty((n, d + 1), np.int32), np.empty((n, d + 1), np.float32)
    numbers = np.empty((d + 1, BLOCK + 1), np.int64)
    ordered, moves = np.empty((d + 1, BLOCK), np.float32), np.empty((d + 1, BLOCK), np.int64)
    own = np.empty(n * (d + 1), np.int64)
    table = np.zeros((FIRST_SLOTS, 2), np.int64)
    count = 0
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        _order(features[:, start : start + size], ordered, moves, numbers[0])
        _weigh(ordered, weights[start : start + size])
        for corner in range(d + 1):
            for p in range(size):
                if corner:
                    numbers[corner, p] = numbers[corner - 1, p] + moves[d + 1 - corner, p]
        for p in range(size):
            for corner in range(d + 1):
                number = numbers[corner, p]
                if p and number == numbers[corner, p - 1]:
                    corners[start + p, corner] = corners[start + p - 1, corner]
                    continue
                slot = _find(table, number)
                if table[slot, 1] == 0:
                    own[count] = number
                    count += 1
                    table[slot, 0], table[slot, 1] = number, count
                    if 2 * count > len(table):
                        table = _grown(table)
                        slot = _find(table, number)
                corners[start + p, corner] = table[slot, 1] - 1
    return corners, weights, own[:count].copy()


@compiled
def _order(features, ordered, moves, numbers):
    """Sort the coordinates of points (d, n) within their simplex, the highest first.

    A point is lifted onto the plane Σ x = 0 of d + 1 dimensions, where the lattice's vertices are the points whose
    coordinates are integers with the same remainder modulo d + 1.

    Args:
        features: The points.
        ordered: Becomes their coordinates, from their simplex's corner with remainder 0.
        moves: Becomes, for each coordinate, the step between the two corners that differ in it.
        numbers: Becomes the number of the corner with remainder 0.
    """
    d, n = features.shape
    c = d + 1
    x, rank = np.empty((c, n), np.float32), np.zeros((c, n), np.int32)
    above, surplus = np.zeros(n, np.float32), np.zeros(n, np.int32)
    for i in range(d, 0, -1):
        # makes the blur's variance along every direction that of the kernel
        scale = np.float32(np.sqrt(2.0 / 3.0) * c / np.sqrt(i * (i + 1.0)))
        for p in range(n):
            along = features[i - 1, p] * scale
            x[i, p] = above[p] - np.float32(i) * along
            above[p] += along
    x[0] = above
    numbers[:n] = 0
    for i in range(c):
        factor = FACTORS[i] if i < d else np.int64(0)
        for p in range(n):
            multiple = np.int32(np.rint(x[i, p] / np.float32(c)))
            surplus[p] += multiple
            x[i, p] -= np.float32(multiple * c)
            numbers[p] += multiple * (c * factor)
    for i in range(d):
        for j in range(i + 1, c):
            for p in range(n):
                less = np.int32(x[i, p] < x[j, p])
                rank[i, p] += less
                rank[j, p] += 1 - less
    ones = np.int64(0)
    for i in range(d):
        ones += FACTORS[i]
    for i in range(c):
        factor = FACTORS[i] * c if i < d else np.int64(0)
        for p in range(n):  # bring the corner back onto the plane
            moved = rank[i, p] + surplus[p]
            turn = np.int32(moved < 0) - np.int32(moved > d)
            moved += turn * c
            numbers[p] += turn * factor
            ordered[moved, p] = x[i, p] - np.float32(turn * c)
            moves[moved, p] = ones - factor


@compiled
def _weigh(ordered, weights):
    """Barycentric weights (n, d + 1) from the ordered coordinates."""
    c = len(ordered)
    share = np.float32(1.0 / c)
    for p in range(len(weights)):
        weights[p, 0] = np.float32(1) - (ordered[0, p] - ordered[c - 1, p]) * share
        for k in range(1, c):
            weights[p, k] = (ordered[c - 1 - k, p] - ordered[c - k, p]) * share


@compiled
def splat(part, values, copies, lanes):
    """Add values (n, L) up at the strip's own copies (k, L) of its vertices; `lanes`: a tuple of L."""
    copies[:] = 0
    for p in range(len(values)):
        for c in range(part.corners.shape[1]):
            vertex, weight = part.corners[p, c], part.weights[p, c]
            for lane in range(len(lanes)):
                copies[vertex, lane] += weight * values[p, lane]


@compiled
def read_back(part, vertex_values, values, lanes):
    """Add to values (n, L) what the lattice's vertices (m + 1, L) hold at the strip's points."""
    own = np.empty((len(part.vertices), len(lanes)), np.float32)
    for i in range(len(own)):
        for lane in range(len(lanes)):
            own[i, lane] = vertex_values[part.vertices[i], lane]
    for p in range(len(values)):
        for c in range(part.corners.shape[1]):
            vertex, weight = part.corners[p, c], part.weights[p, c]
            for lane in range(len(lanes)):
                values[p, lane] += weight * own[vertex, lane]


@compiled
def _gather(first, places, copies, out, start, stop, lanes):
    for vertex in range(start, stop):
        for lane in range(len(lanes)):
            out[vertex, lane] = 0
        for i in range(first[vertex], first[vertex + 1]):
            for lane in range(len(lanes)):
                out[vertex, lane] += copies[places[i], lane]


@compiled
def _blur_along(neighbours, old, new, start, stop, lanes):
    for vertex in range(start, stop):
        before, after = neighbours[vertex, 0], neighbours[vertex, 1]
        for lane in range(len(lanes)):
            new[vertex, lane] = old[vertex, lane] + np.float32(0.5) * (old[before, lane] + old[after, lane])


class Filter:
    """A lattice with what its filterings need: the Gaussian filter of L values per point, again and again.

    Attributes:
        values: (m + 1, L) what the vertices hold.
    """

    def __init__(self, lattice: Lattice, lanes: int, each: Each = map) -> None:
        self.lattice, self.each, self.lanes = lattice, each, (0,) * lanes
        self.copies = np.empty((len(lattice.copies), lanes), np.float32)
        self.values, self._other = np.zeros((2, lattice.neighbours.shape[1], lanes), np.float32)
        ends = np.cumsum([len(part.vertices) for part in lattice.parts])
        self._own = np.split(self.copies, ends[:-1])

    def splat(self, strip: int, values: NDArray[np.float32]) -> None:
        """Take in the values (n, L) of a strip; strips may come at the same time."""
        splat(self.lattice.parts[strip], values, self._own[strip], self.lanes)

    def blur(self) -> None:
        """Once all strips are in: add their copies up and blur along every direction."""
        lattice = self.lattice
        pieces = spans(1, len(self.values))
        list(self.each(lambda piece: _gather(lattice.first, lattice.copies, self.copies, self.values, *piece, self.lanes), pieces))
        for neighbours in lattice.neighbours:
            list(self.each(lambda piece: _blur_along(neighbours, self.values, self._other, *piece, self.lanes), pieces))
            self.values, self._other = self._other, self.values

    def read_back(self, strip: int, values: NDArray[np.float32]) -> None:
        """Add the filtered values of a strip's points to `values` (n, L)."""
        read_back(self.lattice.parts[strip], self.values, values, self.lanes)


def filtered(lattice: Lattice, values: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Gaussian filter of each strip's (n, L) values over all points: Σ_j exp(-‖f_i - f_j‖² / 2) v_j, up to a constant."""
    filter_ = Filter(lattice, values[0].shape[1])
    for strip, own in enumerate(values):
        filter_.splat(strip, own)
    filter_.blur()
    results = [np.zeros_like(own) for own in values]
    for strip, result in enumerate(results):
        filter_.read_back(strip, result)
    return results
