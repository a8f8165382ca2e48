"""The dense CRF: mean field with Gaussian kernels (Krähenbühl & Koltun 2011), on a permutohedral lattice of our own.

Q ← softmax(-U + Σ_m w_m D^-½ K_m D^-½ Q), with a smoothness kernel on positions and an appearance kernel on positions
and colours (method.md §7.7). A lattice filters with one kernel in time linear in the pixels (Adams, Baek & Davis 2010);
it is built once per image and kernel and used for all labels and iterations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from napari_lpd.errors import DataError, SettingsError

if TYPE_CHECKING:
    from typing import Any, Literal

    from numpy.typing import NDArray

    from napari_lpd.config import CrfSettings

SMALLEST_PROBABILITY = 1e-5
_HASH_FACTOR = 2531011


class Lattice(NamedTuple):
    """A permutohedral lattice over n points in d dimensions, with m vertices.

    Attributes:
        vertices: (n, d + 1) vertex of each corner of a point's simplex, 1-based; 0 stands for "no vertex".
        weights: (n, d + 1) barycentric weight of each.
        neighbours: (d + 1, m + 1, 2) the two neighbours of a vertex along each direction; 0 where there is none.
    """

    vertices: NDArray[np.int32]
    weights: NDArray[np.float32]
    neighbours: NDArray[np.int32]


def build_lattice(features: NDArray[np.float32]) -> Lattice:
    """The lattice of points (n, d), in units of the kernel's standard deviation."""
    vertices, weights, keys, table = _splat_corners(np.ascontiguousarray(features, np.float32))
    return Lattice(vertices, weights, _find_neighbours(keys, table))


def filtered(lattice: Lattice, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gaussian filter of (n, L) values over the lattice's points: Σ_j exp(-‖f_i - f_j‖² / 2) v_j, up to a constant."""
    return _filter(*lattice, np.ascontiguousarray(values, np.float32))


@njit(nogil=True, cache=True)
def _slot(key: NDArray[np.int32], keys: NDArray[np.int32], table: NDArray[np.int32]) -> Any:
    """Where `key` stands in the open-addressed table, or the free place where it would stand."""
    mixed = np.int64(0)
    for part in key:
        mixed = (mixed + np.int64(part)) * np.int64(_HASH_FACTOR)  # wraps around
    slot = (mixed ^ (mixed >> np.int64(17))) & np.int64(len(table) - 1)
    while table[slot]:
        same = True
        for i in range(len(key)):
            if keys[table[slot], i] != key[i]:
                same = False
                break
        if same:
            return slot
        slot = (slot + 1) & np.int64(len(table) - 1)
    return slot


@njit(nogil=True, cache=True)
def _enclosing_simplex(
    point: NDArray[np.float32], scale: NDArray[np.float32], corner: NDArray[np.int32], rank: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Barycentric weights (d + 2,) of a point; sets its simplex's remainder-0 corner and the order of its coordinates.

    The point is lifted onto the plane Σ x = 0 of d + 1 dimensions, where the lattice's corners are the points whose
    coordinates are integers with the same remainder modulo d + 1.
    """
    d = len(point)
    lifted = np.empty(d + 1, np.float32)
    above = np.float32(0)
    for i in range(d, 0, -1):
        along = point[i - 1] * scale[i - 1]
        lifted[i] = above - i * along
        above += along
    lifted[0] = above
    surplus = 0
    for i in range(d + 1):
        multiple = int(np.round(lifted[i] / (d + 1)))
        corner[i] = multiple * (d + 1)
        surplus += multiple
        rank[i] = 0
    for i in range(d):
        for j in range(i + 1, d + 1):
            if lifted[i] - corner[i] < lifted[j] - corner[j]:
                rank[i] += 1
            else:
                rank[j] += 1
    for i in range(d + 1):  # bring the corner back onto the plane
        rank[i] += surplus
        if rank[i] < 0:
            rank[i] += d + 1
            corner[i] += d + 1
        elif rank[i] > d:
            rank[i] -= d + 1
            corner[i] -= d + 1
    weights = np.zeros(d + 2, np.float32)
    for i in range(d + 1):
        share = (lifted[i] - corner[i]) / (d + 1)
        weights[d - rank[i]] += share
        weights[d + 1 - rank[i]] -= share
    weights[0] += 1 + weights[d + 1]
    return weights


@njit(nogil=True, cache=True)
def _splat_corners(
    points: NDArray[np.float32],
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    n, d = points.shape
    scale = np.empty(d, np.float32)
    for i in range(d):  # makes the blur's variance along every direction that of the kernel
        scale[i] = np.sqrt(2.0 / 3.0) * (d + 1) / np.sqrt((i + 1.0) * (i + 2.0))
    size = 1
    while size < 2 * n * (d + 1):
        size *= 2
    table = np.zeros(size, np.int32)
    keys = np.zeros((n * (d + 1) + 1, d), np.int32)
    vertices = np.empty((n, d + 1), np.int32)
    weights = np.empty((n, d + 1), np.float32)
    corner, rank = np.empty(d + 1, np.int32), np.empty(d + 1, np.int32)
    key = np.empty(d, np.int32)
    count = 0
    for p in range(n):
        inside = _enclosing_simplex(points[p], scale, corner, rank)
        for remainder in range(d + 1):
            for i in range(d):
                key[i] = corner[i] + remainder - (d + 1 if rank[i] > d - remainder else 0)
            slot = _slot(key, keys, table)
            if not table[slot]:
                count += 1
                table[slot] = count
                keys[count] = key
            vertices[p, remainder] = table[slot]
            weights[p, remainder] = inside[remainder]
    return vertices, weights, keys[: count + 1].copy(), table


@njit(nogil=True, cache=True)
def _find_neighbours(keys: NDArray[np.int32], table: NDArray[np.int32]) -> NDArray[np.int32]:
    d = keys.shape[1]
    neighbours = np.zeros((d + 1, len(keys), 2), np.int32)
    key = np.empty(d, np.int32)
    for vertex in range(1, len(keys)):
        for direction in range(d + 1):
            for side in range(2):
                step = 1 if side else -1
                for i in range(d):
                    key[i] = keys[vertex, i] + step
                if direction < d:
                    key[direction] = keys[vertex, direction] - step * d
                neighbours[direction, vertex, side] = table[_slot(key, keys, table)]
    return neighbours


@njit(nogil=True, cache=True, fastmath=True)
def _filter(
    vertices: NDArray[np.int32],
    weights: NDArray[np.float32],
    neighbours: NDArray[np.int32],
    values: NDArray[np.float32],
) -> NDArray[np.float32]:
    n, corners = vertices.shape
    labels = values.shape[1]
    old = np.zeros((neighbours.shape[1], labels), np.float32)
    new = np.zeros_like(old)
    for p in range(n):
        for c in range(corners):
            vertex, weight = vertices[p, c], weights[p, c]
            for label in range(labels):
                old[vertex, label] += weight * values[p, label]
    for direction in range(corners):
        for vertex in range(1, len(old)):
            before, after = neighbours[direction, vertex, 0], neighbours[direction, vertex, 1]
            for label in range(labels):
                new[vertex, label] = old[vertex, label] + np.float32(0.5) * (old[before, label] + old[after, label])
        old, new = new, old
        old[0] = 0
    out = np.zeros((n, labels), np.float32)
    alpha = np.float32(1 / (1 + 2.0 ** (1 - corners)))
    for p in range(n):
        for c in range(corners):
            vertex, weight = vertices[p, c], weights[p, c] * alpha
            for label in range(labels):
                out[p, label] += weight * old[vertex, label]
    return out


def dense_crf(
    image: NDArray[np.uint8],
    probability: NDArray[np.float32],
    settings: CrfSettings,
    backend: Literal["lattice", "pydensecrf"] = "lattice",
) -> NDArray[np.float32]:
    """Sharpen class probabilities along an image's edges.

    Args:
        image: (H, W, 3) RGB.
        probability: (L, H, W); a label that is 0 everywhere takes no part and stays 0.
        settings: Reach and weight of the kernels, iterations; reach in pixels.
        backend: ``lattice``, ours: numba, releases the GIL. ``pydensecrf``, for parity (extra ``crf``): it holds the
            GIL for its whole run, so never in a process with a window.

    Returns:
        Q (L, H, W), which sums to 1 over L.

    Raises:
        DataError: shapes that do not fit, or no label with a probability.
        SettingsError: pydensecrf is asked for and not installed.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or probability.shape[1:] != image.shape[:2]:
        raise DataError(
            f"image {image.shape} {image.dtype} and probability {probability.shape}:"
            " wanted (H, W, 3) uint8 and (L, H, W)"
        )
    used = np.flatnonzero(probability.any((1, 2)))
    if not len(used):
        raise DataError("the CRF was given probabilities that are all 0; wanted at least one label")
    unary = -np.log(np.clip(probability[used], SMALLEST_PROBABILITY, 1)).astype(np.float32)
    mean_field = _lattice_mean_field if backend == "lattice" else _pydensecrf_mean_field
    result = np.zeros(probability.shape, np.float32)
    result[used] = mean_field(image, unary, settings)
    return result


def _lattice_mean_field(
    image: NDArray[np.uint8], unary: NDArray[np.float32], settings: CrfSettings
) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    places = np.indices((height, width), np.float32).reshape(2, -1).T[:, ::-1]
    colours = image.reshape(-1, 3).astype(np.float32) / np.float32(settings.colour_sigma)
    kernels = (
        (settings.gaussian_weight, places / np.float32(settings.gaussian_sigma)),
        (settings.bilateral_weight, np.hstack([places / np.float32(settings.bilateral_sigma), colours])),
    )
    prepared = []
    for weight, features in kernels:
        if weight:
            lattice = build_lattice(features)
            mass = filtered(lattice, np.ones((len(features), 1), np.float32))
            prepared.append((np.float32(weight), lattice, 1 / np.sqrt(mass + np.float32(1e-20))))
    energy = np.ascontiguousarray(unary.reshape(len(unary), -1).T)  # (n, L)
    q = _softmax(-energy)
    for _ in range(settings.iterations):
        total = -energy
        for strength, lattice, norm in prepared:
            total += strength * norm * filtered(lattice, norm * q)
        q = _softmax(total)
    return np.ascontiguousarray(q.T).reshape(unary.shape)


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    exponential: NDArray[np.float32] = np.exp(scores - scores.max(1, keepdims=True))
    exponential /= exponential.sum(1, keepdims=True)
    return exponential


def _pydensecrf_mean_field(
    image: NDArray[np.uint8], unary: NDArray[np.float32], settings: CrfSettings
) -> NDArray[np.float32]:
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise SettingsError(
            "the refiner pydensecrf is not installed: pip install 'napari-lpd[crf]', or lattice"
        ) from error
    height, width = image.shape[:2]
    crf: Any = densecrf.DenseCRF2D(width, height, len(unary))
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(len(unary), -1)))
    options = {"kernel": densecrf.DIAG_KERNEL, "normalization": densecrf.NORMALIZE_SYMMETRIC}
    crf.addPairwiseGaussian(sxy=settings.gaussian_sigma, compat=settings.gaussian_weight, **options)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_sigma,
        srgb=settings.colour_sigma,
        rgbim=np.array(image, order="C"),
        compat=settings.bilateral_weight,
        **options,
    )
    return np.asarray(crf.inference(settings.iterations), np.float32).reshape(unary.shape)
