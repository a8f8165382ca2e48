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

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_lpd.core.numeric.compiled import compiled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from napari_lpd.models.crf.threads import SlicePool

    Ints = NDArray[np.int32]
    Numbers = NDArray[np.int64]
    Floats = NDArray[np.float32]

BLOCK = 256  # points embedded at a time: what is computed for them stays in the first cache
FIRST_SLOTS = 1024
SEARCHED, BLURRED = 1024, 16384  # the fewest vertices worth a thread of their own, for their neighbours and for a blur
SMALLEST_MASS = np.float32(1e-20)  # keeps a kernel's sum at a point above zero
FACTORS = np.cumprod(np.full(16, -7046029254386353131, np.int64))  # powers of an odd number; they wrap around


class Lattice(NamedTuple):
    """A permutohedral lattice of m vertices over n points in pieces.

    Vertices count from 1; 0 stands for "none".

    Attributes:
        ends: (pieces + 1, 2) where a piece begins, and the one before it ends: its points, and its `vertices`.
        corners: (n, d + 1) the corners of each point's simplex, as places among its piece's `vertices`.
        weights: (n, d + 1) barycentric weight of each.
        vertices: (k,) the vertices that a piece touches, one piece after the other.
        neighbours: (d + 1, m + 1, 2) the two neighbours of a vertex along each direction.
        first: (m + 2,) where the copies of a vertex begin in `copies`.
        copies: (k,) the places in `vertices`, sorted by vertex.
    """

    ends: Numbers
    corners: Ints
    weights: Floats
    vertices: Ints
    neighbours: Ints
    first: Ints
    copies: Ints


def build_lattice(points: Sequence[Floats], pool: SlicePool) -> Lattice:
    """Build the lattice of a Gaussian kernel.

    Args:
        points: (d, n) of every piece, in units of the kernel's standard deviation; points that follow each other should
            be alike, which makes it fast.
        pool: The threads.
    """
    starts = np.cumsum([0, *(piece.shape[1] for piece in points)])
    corners = np.empty((starts[-1], len(points[0]) + 1), np.int32)
    weights = np.empty(corners.shape, np.float32)
    numbers: list[Any] = [None] * len(points)

    def embed(begin: int, end: int) -> None:
        for piece in range(begin, end):
            own = slice(starts[piece], starts[piece + 1])
            numbers[piece] = _embed(points[piece], corners[own], weights[own])

    pool.map_slices(embed, len(points))
    vertices, keys, table = _enter_all(np.concatenate(numbers))
    neighbours = np.zeros((corners.shape[1], len(keys), 2), np.int32)
    pool.map_slices(_find_neighbours, len(keys) - 1, keys, table, neighbours, smallest=SEARCHED)
    ends = np.stack([starts, np.cumsum([0, *map(len, numbers)])], axis=1)
    return Lattice(ends, corners, weights, vertices, neighbours, *_sort_copies(vertices, len(keys) - 1))


class Filter(NamedTuple):
    """The Gaussian filter of L values per point over a lattice: `splat` every piece, `blur`, `read_back` every piece.

    Attributes:
        lattice: Over the points.
        lanes: A tuple of L.
        copies: (k, L) values at the lattice's `vertices`.
        blurred: (m + 1, L) values at the vertices.
        room: As many, for the steps in between.
    """

    lattice: Lattice
    lanes: tuple[int, ...]
    copies: Floats
    blurred: Floats
    room: Floats

    @classmethod
    def over(cls, lattice: Lattice, labels: int) -> Filter:
        """Make a filter of so many values per point."""
        blurred, room = np.zeros((2, lattice.neighbours.shape[1], labels), np.float32)
        return cls(lattice, (0,) * labels, np.empty((len(lattice.vertices), labels), np.float32), blurred, room)

    def blur(self, pool: SlicePool) -> None:
        """Add up the pieces' copies of every vertex, then blur along every direction."""
        vertices, first, copies = len(self.blurred) - 1, self.lattice.first, self.lattice.copies
        old, new = (self.room, self.blurred) if len(self.lattice.neighbours) % 2 else (self.blurred, self.room)
        pool.map_slices(_gather, vertices, first, copies, self.copies, old, self.lanes, smallest=BLURRED)
        for neighbours in self.lattice.neighbours:
            pool.map_slices(_blur_along, vertices, neighbours, old, new, self.lanes, smallest=BLURRED)
            old, new = new, old


@compiled
def splat(found: Filter, piece: int, values: Floats) -> None:
    """Add up the values (n, L) of a piece at its own copies of the vertices."""
    (start, first), (stop, last) = found.lattice.ends[piece], found.lattice.ends[piece + 1]
    corners, weights = found.lattice.corners[start:stop], found.lattice.weights[start:stop]
    copies = found.copies[first:last]
    copies[:] = 0
    for p in range(len(values)):
        for c in range(corners.shape[1]):
            vertex, weight = corners[p, c], weights[p, c]
            for lane in range(len(found.lanes)):
                copies[vertex, lane] += weight * values[p, lane]


@compiled
def read_back(found: Filter, piece: int, values: Floats) -> None:
    """Add what was filtered to the values (n, L) of a piece: Σ_j exp(-‖f_i - f_j‖² / 2) v_j, up to a constant."""
    (start, first), (stop, last) = found.lattice.ends[piece], found.lattice.ends[piece + 1]
    corners, weights = found.lattice.corners[start:stop], found.lattice.weights[start:stop]
    vertices, copies = found.lattice.vertices[first:last], found.copies[first:last]
    for i in range(len(copies)):
        for lane in range(len(found.lanes)):
            copies[i, lane] = found.blurred[vertices[i], lane]
    for p in range(len(values)):
        for c in range(corners.shape[1]):
            vertex, weight = corners[p, c], weights[p, c]
            for lane in range(len(found.lanes)):
                values[p, lane] += weight * copies[vertex, lane]


@compiled
def _find(table: Numbers, key: int) -> Any:
    """Find the slot of a key in the open-addressed table of (key, vertex), or the free slot where it would stand."""
    last = len(table) - 1
    slot = (key >> 32) & last
    while table[slot, 1] != 0 and table[slot, 0] != key:
        slot = (slot + 1) & last
    return slot


@compiled
def _grown(table: Numbers) -> Numbers:
    """Copy a table into one of twice the slots."""
    larger = np.zeros((2 * len(table), 2), np.int64)
    for i in range(len(table)):
        if table[i, 1] != 0:
            slot = _find(larger, table[i, 0])
            larger[slot, 0], larger[slot, 1] = table[i, 0], table[i, 1]
    return larger


@compiled
def _enter_all(numbers: Numbers) -> tuple[Ints, Numbers, Numbers]:
    """Count the vertices that numbers (k,) name: which one every number is, their keys, and the table of both."""
    slots = FIRST_SLOTS
    while slots < 2 * len(numbers):
        slots *= 2
    table = np.zeros((slots, 2), np.int64)
    vertices, keys, count = np.empty(len(numbers), np.int32), np.empty(1 + len(numbers), np.int64), 0
    for i in range(len(numbers)):
        slot = _find(table, numbers[i])
        if table[slot, 1] == 0:
            count += 1
            keys[count] = numbers[i]
            table[slot, 0], table[slot, 1] = numbers[i], count
        vertices[i] = table[slot, 1]
    return vertices, keys[: count + 1], table


@compiled
def _find_neighbours(begin: int, end: int, keys: Numbers, table: Numbers, neighbours: Ints) -> None:
    """Look up the neighbours of vertices along every direction; begin and end count from 0."""
    d = len(neighbours) - 1
    for direction in range(d + 1):
        step = FACTORS[:d].sum()
        if direction < d:
            step -= (d + 1) * FACTORS[direction]
        for vertex in range(begin + 1, end + 1):
            found = table[_find(table, keys[vertex] + step), 1]
            if found:
                neighbours[direction, vertex, 0] = found
                neighbours[direction, found, 1] = vertex


@compiled
def _sort_copies(vertices: Ints, count: int) -> tuple[Ints, Ints]:
    """Sort the copies by vertex: where those of a vertex begin, and the place of every copy."""
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
def _embed(features: Floats, corners: Ints, weights: Floats) -> Numbers:
    """Set corners (n, d + 1) and weights of points (d, n), and return the numbers of the vertices that they name."""
    d, n = features.shape
    numbers = np.empty((d + 1, BLOCK + 1), np.int64)
    ordered, moves = np.empty((d + 1, BLOCK), np.float32), np.empty((d + 1, BLOCK), np.int64)
    own = np.empty(n * (d + 1), np.int64)
    table = np.zeros((FIRST_SLOTS, 2), np.int64)
    count = 0
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        _order(_lift(features[:, start : start + size]), ordered, moves, numbers[0])
        _weigh(ordered, weights[start : start + size])
        for corner in range(1, d + 1):
            for p in range(size):
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
    return own[:count]


@compiled
def _lift(features: Floats) -> Floats:
    """Lift points (d, n) onto the plane Σ x = 0, where the lattice lies: their coordinates (d + 1, n).

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
    for p in range(n):  # as x[0] = above it takes 2 s to compile
        x[0, p] = above[p]
    return x


@compiled
def _round(x: Floats, numbers: Numbers) -> Ints:
    """Subtract the nearest multiples of d + 1 from coordinates (d + 1, n); set their number, return sum / (d + 1)."""
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
    """Set barycentric weights (n, d + 1) from the ordered coordinates."""
    c = len(ordered)
    share = np.float32(1.0 / c)
    for p in range(len(weights)):
        weights[p, 0] = np.float32(1) - (ordered[0, p] - ordered[c - 1, p]) * share
        for k in range(1, c):
            weights[p, k] = (ordered[c - 1 - k, p] - ordered[c - k, p]) * share


@compiled
def _gather(
    begin: int, end: int, first: Ints, copies: Ints, values: Floats, new: Floats, lanes: tuple[int, ...]
) -> None:
    """Add up the copies' values at vertices."""
    for vertex in range(begin + 1, end + 1):
        for lane in range(len(lanes)):
            new[vertex, lane] = 0
        for i in range(first[vertex], first[vertex + 1]):
            for lane in range(len(lanes)):
                new[vertex, lane] += values[copies[i], lane]


@compiled
def _blur_along(begin: int, end: int, neighbours: Ints, old: Floats, new: Floats, lanes: tuple[int, ...]) -> None:
    """Blur the values at vertices along the direction of these neighbours."""
    for vertex in range(begin + 1, end + 1):
        before, after = neighbours[vertex, 0], neighbours[vertex, 1]
        for lane in range(len(lanes)):
            new[vertex, lane] = old[vertex, lane] + np.float32(0.5) * (old[before, lane] + old[after, lane])
