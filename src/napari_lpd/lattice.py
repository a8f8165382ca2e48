"""The permutohedral lattice: a Gaussian filter over points in d dimensions, in time linear in their number.

Points are splatted onto the corners of the simplex around them, the lattice is blurred along its d + 1 directions, and
the points read it back (Adams, Baek & Davis 2010). Ours is made for the CRF's many filterings of one image:

- A vertex is one number: a linear function of its coordinates modulo 2^64. So a step along the lattice is an addition,
  a comparison is one, and the number is its own hash. (Two of a million vertices share one with a chance of 3e-8.)
- The points come in pieces, each with its own hash table and its own copies of the vertices that it touches: these stay
  in the cache, and threads never write to the same place. Copies are added up in the order of the pieces, so that the
  result has the same bits whatever the number of threads.
- How many values a point has is known when a function is compiled (`lanes`, a tuple of that length), so that the loops
  over them are unrolled.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    Each = Callable[..., Iterable[Any]]
    Ints = NDArray[np.int32]
    Numbers = NDArray[np.int64]
    Floats = NDArray[np.float32]
    Span = tuple[int, int]
    Lanes = tuple[int, ...]

BLOCK = 256  # points embedded together: what is computed for them stays in the first cache
SPAN = 16384  # vertices that one thread works on at a time
FIRST_SLOTS = 1024
SMALLEST_MASS = np.float32(1e-20)  # keeps a kernel's sum at a point above zero
FACTORS = np.cumprod(np.full(16, -7046029254386353131, np.int64))  # powers of an odd number; they wrap around


def compiled(function: Any) -> Any:
    """Compile with numba, without the GIL; keep the machine code on disk, where there is a place for it."""
    options = {"nogil": True, "fastmath": True, "error_model": "numpy"}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError as error:  # neither beside the source nor in the user's cache folder
        logging.getLogger(__name__).warning("%s: compiled anew at every start (%s)", function.__name__, error)
        return njit(function, **options)


@contextmanager
def crew(threads: int) -> Iterator[Each]:
    """What calls a function for every item, as `map` does, in so many threads: this one and some of Python's own.

    Numba's must not be started from several threads at once, as ours are by the widgets and the writer of predictions.
    """
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads - 1, "napari-lpd-crf") as pool:

        def each(function: Callable[..., Any], *columns: Iterable[Any]) -> Iterable[Any]:
            items = list(zip(*columns, strict=True))
            results = [None] * len(items)
            waiting = iter(range(len(items)))

            def work() -> None:
                for i in waiting:  # whoever is free takes the next
                    results[i] = function(*items[i])

            others = [pool.submit(work) for _ in range(min(threads, len(items)) - 1)]
            work()
            for other in others:
                if not other.cancel():
                    other.result()
            return results

        yield each


class Part(NamedTuple):
    """What a piece of n points knows of the lattice.

    Attributes:
        corners: (n, d + 1) the corners of each point's simplex, as places in `vertices`.
        weights: (n, d + 1) barycentric weight of each.
        vertices: (k,) the lattice's vertices that the piece touches.
    """

    corners: Ints
    weights: Floats
    vertices: Ints


class Lattice(NamedTuple):
    """A permutohedral lattice of m vertices over points in pieces.

    Attributes:
        parts: What each piece knows of it.
        neighbours: (d + 1, m + 1, 2) the two neighbours of a vertex along each direction. Vertices count from 1; 0
            stands for "none".
        first: (m + 2,) where the copies of a vertex begin in `copies`.
        copies: (sum of all k,) the places of the pieces' vertices, one piece after the other, sorted by vertex.
    """

    parts: tuple[Part, ...]
    neighbours: Ints
    first: Ints
    copies: Ints


def build_lattice(pieces: Sequence[Floats], each: Each = map) -> Lattice:
    """The lattice of points in pieces (d, n), in units of the kernel's standard deviation.

    Args:
        pieces: The points; those that follow each other should be alike, which makes it fast.
        each: What calls a function for every item (`crew`).
    """
    embedded = list(each(_embed, pieces))
    keys = np.empty(1 + sum(len(own) for _, _, own in embedded), np.int64)
    table, count = np.zeros((1 << (2 * len(keys)).bit_length(), 2), np.int64), 0
    parts = []
    for corners, weights, own in embedded:
        vertices = np.empty(len(own), np.int32)
        count = _enter_all(own, vertices, table, keys, count)
        parts.append(Part(corners, weights, vertices))
    neighbours = np.zeros((len(pieces[0]) + 1, count + 1, 2), np.int32)
    list(each(lambda span: _find_neighbours(keys, table, neighbours, span), spans(count)))
    return Lattice(tuple(parts), neighbours, *_sort_copies(np.concatenate([part.vertices for part in parts]), count))


def spans(count: int) -> list[Span]:
    """The vertices 1 to `count` in pieces for threads to share."""
    return [(i, min(i + SPAN, count + 1)) for i in range(1, count + 1, SPAN)]


class Filter:
    """The Gaussian filter of L values per point over a lattice, to be used again and again.

    In turn: `splat` every piece, `blur`, `read_back` every piece.
    """

    def __init__(self, lattice: Lattice, lanes: Lanes, each: Each = map) -> None:
        self.lattice, self.lanes, self.each = lattice, lanes, each
        self.copies = np.empty((len(lattice.copies), len(lanes)), np.float32)
        self.values, self._spare = np.zeros((2, lattice.neighbours.shape[1], len(lanes)), np.float32)
        ends = np.cumsum([len(part.vertices) for part in lattice.parts])
        self._own = np.split(self.copies, ends[:-1])

    def splat(self, piece: int, values: Floats) -> None:
        """Take in the values (n, L) of a piece; pieces may come at the same time."""
        _splat(self.lattice.parts[piece], values, self._own[piece], self.lanes)

    def blur(self) -> None:
        """Add the pieces' copies up and blur along every direction."""
        self._share(_gather, self.lattice.first, self.lattice.copies, self.copies)
        for neighbours in self.lattice.neighbours:
            self.values, self._spare = self._spare, self.values
            self._share(_blur_along, neighbours, self._spare)

    def _share(self, function: Callable[..., None], *given: Any) -> None:
        """Let a function make `values` from what is given, span by span."""
        list(self.each(lambda span: function(*given, self.values, span, self.lanes), spans(len(self.values) - 1)))

    def read_back(self, piece: int, values: Floats) -> None:
        """Add what was filtered to the values (n, L) of a piece: Σ_j exp(-‖f_i - f_j‖² / 2) v_j, up to a constant."""
        _read_back(self.lattice.parts[piece], self.values, self._own[piece], values, self.lanes)


@compiled
def _find(table: Numbers, key: int) -> Any:
    """Slot of a key in the open-addressed table of (key, vertex), or the free slot where it would stand."""
    last = len(table) - 1
    slot = (key >> 32) & last
    while table[slot, 1] != 0 and table[slot, 0] != key:
        slot = (slot + 1) & last
    return slot


@compiled
def _grown(table: Numbers) -> Numbers:
    """The same table with twice the slots."""
    larger = np.zeros((2 * len(table), 2), np.int64)
    for i in range(len(table)):
        if table[i, 1] != 0:
            larger[_find(larger, table[i, 0])] = table[i]
    return larger


@compiled
def _enter_all(own: Numbers, vertices: Ints, table: Numbers, keys: Numbers, count: int) -> int:
    """Number the vertices of a piece in the common table; new ones go on from `count`."""
    for i in range(len(own)):
        slot = _find(table, own[i])
        if table[slot, 1] == 0:
            count += 1
            keys[count] = own[i]
            table[slot, 0], table[slot, 1] = own[i], count
        vertices[i] = table[slot, 1]
    return count


@compiled
def _find_neighbours(keys: Numbers, table: Numbers, neighbours: Ints, span: Span) -> None:
    d = len(neighbours) - 1
    for direction in range(d + 1):
        step = FACTORS[:d].sum()
        if direction < d:
            step -= (d + 1) * FACTORS[direction]
        for vertex in range(span[0], span[1]):
            found = table[_find(table, keys[vertex] + step), 1]
            if found:
                neighbours[direction, vertex, 0] = found
                neighbours[direction, found, 1] = vertex


@compiled
def _sort_copies(vertices: Ints, count: int) -> tuple[Ints, Ints]:
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
def _embed(features: Floats) -> tuple[Ints, Floats, Numbers]:
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
        _order(_lift(features[:, start : start + size]), ordered, moves, numbers[0])
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
def _lift(features: Floats) -> Floats:
    """Coordinates (d + 1, n) of points (d, n) on the plane Σ x = 0, where the lattice lies.

    Its vertices are the points whose coordinates are integers with the same remainder modulo d + 1.
    """
    d, n = features.shape
    x, above = np.empty((d + 1, n), np.float32), np.zeros(n, np.float32)
    for i in range(d, 0, -1):
        # makes the blur's variance along every direction that of the kernel
        scale = np.float32(np.sqrt(2.0 / 3.0) * (d + 1) / np.sqrt(i * (i + 1.0)))
        for p in range(n):
            along = features[i - 1, p] * scale
            x[i, p] = above[p] - np.float32(i) * along
            above[p] += along
    x[0] = above
    return x


@compiled
def _round(x: Floats, numbers: Numbers) -> Ints:
    """Take the nearest multiples of d + 1 from coordinates (d + 1, n); set their number, return their sum / (d + 1)."""
    c, n = x.shape
    surplus = np.zeros(n, np.int32)
    numbers[:n] = 0
    for i in range(c):
        factor = FACTORS[i] * c if i < c - 1 else np.int64(0)
        for p in range(n):
            multiple = np.int32(np.rint(x[i, p] / np.float32(c)))
            surplus[p] += multiple
            x[i, p] -= np.float32(multiple * c)
            numbers[p] += multiple * factor
    return surplus


@compiled
def _order(x: Floats, ordered: Floats, moves: Numbers, numbers: Numbers) -> None:
    """Sort the coordinates of points within their simplex, the highest first.

    Args:
        x: (d + 1, n) lifted coordinates; used up.
        ordered: Becomes the coordinates from the simplex's corner with remainder 0.
        moves: Becomes, for each of them, the step between the two corners that differ in it.
        numbers: Becomes the number of the corner with remainder 0.
    """
    c, n = x.shape
    surplus, rank = _round(x, numbers), np.zeros((c, n), np.int32)
    for i in range(c - 1):
        for j in range(i + 1, c):
            for p in range(n):
                less = np.int32(x[i, p] < x[j, p])
                rank[i, p] += less
                rank[j, p] += 1 - less
    ones = FACTORS[: c - 1].sum()
    for i in range(c):
        factor = FACTORS[i] * c if i < c - 1 else np.int64(0)
        for p in range(n):  # bring the corner back onto the plane
            moved = rank[i, p] + surplus[p]
            turn = np.int32(moved < 0) - np.int32(moved >= c)
            moved += turn * c
            numbers[p] += turn * factor
            ordered[moved, p] = x[i, p] - np.float32(turn * c)
            moves[moved, p] = ones - factor


@compiled
def _weigh(ordered: Floats, weights: Floats) -> None:
    """Barycentric weights (n, d + 1) from the ordered coordinates."""
    c = len(ordered)
    share = np.float32(1.0 / c)
    for p in range(len(weights)):
        weights[p, 0] = np.float32(1) - (ordered[0, p] - ordered[c - 1, p]) * share
        for k in range(1, c):
            weights[p, k] = (ordered[c - 1 - k, p] - ordered[c - k, p]) * share


@compiled
def _splat(part: Part, values: Floats, copies: Floats, lanes: Lanes) -> None:
    """Add values (n, L) up at the piece's own copies (k, L) of its vertices."""
    copies[:] = 0
    for p in range(len(values)):
        for c in range(part.corners.shape[1]):
            vertex, weight = part.corners[p, c], part.weights[p, c]
            for lane in range(len(lanes)):
                copies[vertex, lane] += weight * values[p, lane]


@compiled
def _read_back(part: Part, vertex_values: Floats, copies: Floats, values: Floats, lanes: Lanes) -> None:
    """Add to values (n, L) what the lattice's vertices (m + 1, L) hold at the piece's points."""
    for i in range(len(copies)):
        for lane in range(len(lanes)):
            copies[i, lane] = vertex_values[part.vertices[i], lane]
    for p in range(len(values)):
        for c in range(part.corners.shape[1]):
            vertex, weight = part.corners[p, c], part.weights[p, c]
            for lane in range(len(lanes)):
                values[p, lane] += weight * copies[vertex, lane]


@compiled
def _gather(first: Ints, places: Ints, copies: Floats, out: Floats, span: Span, lanes: Lanes) -> None:
    for vertex in range(span[0], span[1]):
        for lane in range(len(lanes)):
            out[vertex, lane] = 0
        for i in range(first[vertex], first[vertex + 1]):
            for lane in range(len(lanes)):
                out[vertex, lane] += copies[places[i], lane]


@compiled
def _blur_along(neighbours: Ints, old: Floats, new: Floats, span: Span, lanes: Lanes) -> None:
    for vertex in range(span[0], span[1]):
        before, after = neighbours[vertex, 0], neighbours[vertex, 1]
        for lane in range(len(lanes)):
            new[vertex, lane] = old[vertex, lane] + np.float32(0.5) * (old[before, lane] + old[after, lane])
