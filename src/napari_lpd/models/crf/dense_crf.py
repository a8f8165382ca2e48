"""The dense CRF: mean field with Gaussian kernels (Krähenbühl & Koltun 2011).

Q ← softmax(-U + Σ_m w_m D^-½ K_m D^-½ Q), with a smoothness kernel on positions and an appearance kernel on positions
and colours (method.md §7.7). The kernels act through permutohedral lattices, built once per image and used for all
labels and iterations: on a CPU those of `lattice.py`, on a GPU those of `lattice_torch.py`, or, for parity, pydensecrf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.core.errors import DataError, SettingsError
from napari_lpd.core.numeric.compiled import compiled
from napari_lpd.models.crf.lattice import SMALLEST_MASS, Filter, build_lattice, read_back, splat
from napari_lpd.models.crf.threads import SlicePool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Literal

    from numpy.typing import NDArray

    from napari_lpd.core.settings.prediction import CrfSettings
    from napari_lpd.models.crf.lattice import Lattice

    Solver = Callable[[NDArray[np.uint8], NDArray[np.float32], CrfSettings], NDArray[np.float32]]

SMALLEST_PROBABILITY = 1e-5
PIECE = 128  # edge, about, of the pieces that an image is worked on in
LOWEST = -60.0  # exponents below it count as minus infinity


def dense_crf(
    image: NDArray[np.uint8],
    probability: NDArray[np.float32],
    settings: CrfSettings,
    backend: Literal["lattice", "pydensecrf"] = "lattice",
    device: str = "cpu",
    threads: int = 1,
) -> NDArray[np.float32]:
    """Sharpen class probabilities along an image's edges.

    Args:
        image: (H, W, 3) RGB.
        probability: (L, H, W); a label that is 0 everywhere takes no part and stays 0.
        settings: Reach and weight of the kernels, iterations; reach in pixels.
        backend: ``lattice``, ours: it releases the GIL. ``pydensecrf``, for parity (extra ``crf``): it holds the
            GIL for its whole run, so never in a process with a window.
        device: Where the model is: on a CUDA device our lattice works there too, with torch; else on the CPU.
        threads: CPU threads of our lattice; the result has the same bits with any number.

    Returns:
        Q (L, H, W), which sums to 1 over L.

    Raises:
        DataError: shapes that do not fit, no label with a probability, or one that is NaN or infinite.
        SettingsError: pydensecrf is asked for and not installed.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or probability.shape[1:] != image.shape[:2]:
        raise DataError(
            f"image {image.shape} {image.dtype} and probability {probability.shape}:"
            " wanted (H, W, 3) uint8 and (L, H, W)"
        )
    used = np.flatnonzero([label.any() for label in probability])
    if not len(used):
        raise DataError("the CRF was given probabilities that are all 0; wanted at least one label")
    if not np.isfinite(probability).all():
        raise DataError("the CRF was given probabilities that are NaN or infinite; wanted numbers in 0..1")

    def solve(image: NDArray[np.uint8], unary: NDArray[np.float32], settings: CrfSettings) -> NDArray[np.float32]:
        if backend == "pydensecrf":
            return _pydensecrf_mean_field(image, unary, settings)
        if device.startswith("cuda"):
            from napari_lpd.models.crf.lattice_torch import mean_field

            return mean_field(image, unary, settings, device)
        return _lattice_mean_field(image, unary, settings, pool)

    unary = _energies(probability if len(used) == len(probability) else probability[used])
    with SlicePool(threads) as pool:
        q = _at_half_size(image, unary, settings, solve, pool) if settings.half_size else solve(image, unary, settings)
    if len(q) == len(probability):
        return q
    result = np.zeros(probability.shape, np.float32)
    result[used] = q
    return result


def _energies(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    energy: NDArray[np.float32] = np.clip(probability, SMALLEST_PROBABILITY, 1, dtype=np.float32)
    np.log(energy, out=energy)
    return np.negative(energy, out=energy)


def _at_half_size(
    image: NDArray[np.uint8], unary: NDArray[np.float32], settings: CrfSettings, solve: Solver, pool: SlicePool
) -> NDArray[np.float32]:
    """Find Q from the messages of an image of half the size; the pixels' own energies keep the full one."""
    reaches = {"gaussian_sigma": settings.gaussian_sigma / 2, "bilateral_sigma": settings.bilateral_sigma / 2}
    small = np.rint(_halved(image.transpose(2, 0, 1))).astype(np.uint8).transpose(1, 2, 0).copy()
    energies = _energies(_halved(np.exp(-unary)))
    q = solve(small, energies.copy(), settings.model_copy(update=reaches))
    messages = np.log(np.maximum(q, np.float32(np.exp(LOWEST)))) + energies  # but for a constant per pixel
    messages = messages.transpose(1, 2, 0).copy()
    pieces, result = pieces_of(*image.shape[:2]), np.empty_like(unary)

    def finish(begin: int, end: int) -> None:
        for rows, columns in pieces[begin:end]:
            scores = -unary[:, rows, columns].transpose(1, 2, 0).copy()
            corner = (rows.start, columns.start)
            _interpolate(messages, small, image[rows, columns], corner, settings.colour_sigma, scores)
            _softmax(scores.reshape(-1, len(unary)), (0,) * len(unary))
            result[:, rows, columns] = scores.transpose(2, 0, 1)

    pool.map_slices(finish, len(pieces))
    return result


@compiled
def _interpolate(
    values: NDArray[np.float32],
    small: NDArray[np.uint8],
    colours: NDArray[np.uint8],
    corner: tuple[int, int],
    sigma: float,
    result: NDArray[np.float32],
) -> None:
    """Add values (h, w, L) of an image of half the size: the four nearest pixels', by place and likeness of colour.

    Args:
        values: What is interpolated.
        small: (h, w, 3) the image of half the size.
        colours: (a, b, 3) a piece of the image.
        corner: The piece's first row and column.
        sigma: Standard deviation in colour.
        result: (a, b, L) what is added to (joint bilateral upsampling, Kopf et al. 2007).
    """
    h, w, labels = values.shape
    sharpness = np.float32(-0.5 / sigma**2)
    shares = np.empty(4, np.float32)
    for i in range(result.shape[0]):
        for j in range(result.shape[1]):
            y, x = corner[0] + i, corner[1] + j
            total = np.float32(0)
            for k in range(4):
                near_y, near_x = k < 2, k % 2 == 0  # of the two rows and columns, the one that the pixel lies in
                row, column = _beside(y, near_y, h), _beside(x, near_x, w)
                distance = np.float32(0)
                for c in range(3):
                    difference = np.float32(colours[i, j, c]) - np.float32(small[row, column, c])
                    distance += difference * difference
                place = np.float32((0.75 if near_y else 0.25) * (0.75 if near_x else 0.25))
                shares[k] = place * (_exponential(distance * sharpness) + np.float32(1e-12))
                total += shares[k]
            for k in range(4):
                row, column, share = _beside(y, k < 2, h), _beside(x, k % 2 == 0, w), shares[k] / total
                for label in range(labels):
                    result[i, j, label] += share * values[row, column, label]


@compiled
def _beside(place: int, near: bool, length: int) -> int:
    """Find the place at half the size that a place lies in, or the next nearest."""
    step = 0 if near else 1 if place % 2 else -1
    return min(max(place // 2 + step, 0), length - 1)


def _halved(values: NDArray[Any]) -> NDArray[np.float32]:
    """Average 2 x 2 values (L, H, W) into (L, ⌈H / 2⌉, ⌈W / 2⌉); an odd edge is repeated."""
    even = np.pad(values, [(0, 0), *((0, n % 2) for n in values.shape[1:])], "edge")
    total = np.zeros((len(even), even.shape[1] // 2, even.shape[2] // 2), np.float32)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        total += even[:, i::2, j::2]
    total /= 4
    return total


def _lattice_mean_field(
    image: NDArray[np.uint8], values: NDArray[np.float32], settings: CrfSettings, pool: SlicePool
) -> NDArray[np.float32]:
    """Find Q from an image (H, W, 3) and energies (L, H, W), in the place of these."""
    pieces = pieces_of(*image.shape[:2])
    places = np.array([(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in pieces])
    sigmas = ((settings.bilateral_sigma, settings.colour_sigma), (settings.gaussian_sigma,))
    lattices = [build_lattice([_features(image, piece, *own) for piece in pieces], pool) for own in sigmas]
    _normalise(lattices, (settings.bilateral_weight, settings.gaussian_weight), pool)
    filters = tuple(Filter.over(lattice, len(values)) for lattice in lattices)
    for iteration in range(settings.iterations + 1):
        receive, send = iteration > 0, iteration < settings.iterations
        if receive:
            for found in filters:
                found.blur(pool)
        pool.map_slices(_update, len(pieces), values, places, filters, receive, send)
    return values


@compiled
def _update(
    begin: int,
    end: int,
    values: NDArray[np.float32],
    places: NDArray[np.int64],
    filters: tuple[Filter, ...],
    receive: bool,
    send: bool,
) -> None:
    """Find the Q of pieces from their energies and the messages of other pixels, and send it as messages or keep it.

    All steps of a piece follow on one another, while its Q is in the cache.

    Args:
        begin: The first piece.
        end: The one after the last.
        values: (L, H, W) energies; become Q where it is not sent.
        places: (pieces, 4) where the rows of a piece begin and end, and its columns.
        filters: Those of the kernels.
        receive: Whether there are messages yet: read what was filtered back.
        send: Whether another iteration follows: splat Q.
    """
    lanes = filters[0].lanes
    for piece in range(begin, end):
        top, bottom, left, right = places[piece]
        own = values[:, top:bottom, left:right]
        q = _scores(own, lanes)
        if receive:
            for found in filters:
                read_back(found, piece, q)
        _softmax(q, lanes)
        if send:
            for found in filters:
                splat(found, piece, q)
        else:
            _store(q, own, lanes)


@compiled
def _scores(energies: NDArray[np.float32], lanes: tuple[int, ...]) -> NDArray[np.float32]:
    """Make pixels' own scores (h w, L) from their energies (L, h, w)."""
    height, width = energies.shape[1:]
    scores = np.empty((height * width, len(lanes)), np.float32)
    for y in range(height):
        for x in range(width):
            for lane in range(len(lanes)):
                scores[y * width + x, lane] = -energies[lane, y, x]
    return scores


@compiled
def _store(q: NDArray[np.float32], values: NDArray[np.float32], lanes: tuple[int, ...]) -> None:
    """Set values (L, h, w) from Q (h w, L)."""
    height, width = values.shape[1:]
    for lane in range(len(lanes)):  # as an assignment of arrays it takes 2 s to compile
        for y in range(height):
            for x in range(width):
                values[lane, y, x] = q[y * width + x, lane]


def pieces_of(height: int, width: int) -> list[tuple[slice, slice]]:
    """Cut an image into pieces, about `PIECE` pixels high and wide, at least 2 x 2."""

    def spans(length: int) -> list[slice]:
        count = max(round(length / PIECE), min(length, 2))
        return [slice(length * i // count, length * (i + 1) // count) for i in range(count)]

    return [(rows, columns) for rows in spans(height) for columns in spans(width)]


def _features(
    image: NDArray[np.uint8], piece: tuple[slice, slice], sigma: float, colour_sigma: float | None = None
) -> NDArray[np.float32]:
    """Make features (2 or 5, n) of a piece's pixels: place and perhaps colour, in standard deviations."""
    y, x = (np.arange(span.start, span.stop, dtype=np.float32) / np.float32(sigma) for span in piece)
    found = np.empty((5 if colour_sigma else 2, len(y), len(x)), np.float32)
    found[0], found[1] = x, y[:, None]
    if colour_sigma:
        np.divide(image[piece].transpose(2, 0, 1), np.float32(colour_sigma), out=found[2:])
    return found.reshape(len(found), -1)


def _normalise(lattices: Sequence[Lattice], strengths: Sequence[float], pool: SlicePool) -> None:
    """Make the lattices those of w D^-½ K D^-½: their weights, which act twice, get half of each factor."""
    masses, ends = [Filter.over(lattice, 1) for lattice in lattices], lattices[0].ends[:, 0]
    ones = np.ones((ends[-1], 1), np.float32)

    def splat_ones(begin: int, end: int) -> None:
        for piece in range(begin, end):
            for mass in masses:
                splat(mass, piece, ones[ends[piece] : ends[piece + 1]])

    def scale(begin: int, end: int) -> None:
        for piece in range(begin, end):
            own = slice(ends[piece], ends[piece + 1])
            for mass, strength in zip(masses, strengths, strict=True):
                total = np.full_like(ones[own], SMALLEST_MASS)
                read_back(mass, piece, total)
                _scale(mass.lattice.weights[own], total, np.float32(strength))

    pool.map_slices(splat_ones, len(ends) - 1)
    for mass in masses:
        mass.blur(pool)
    pool.map_slices(scale, len(ends) - 1)


@compiled
def _scale(weights: NDArray[np.float32], total: NDArray[np.float32], strength: float) -> None:
    for p in range(len(weights)):
        factor = np.sqrt(strength / total[p, 0])
        for c in range(weights.shape[1]):
            weights[p, c] *= factor


@compiled
def _exponential(x: Any) -> Any:
    """Find e^x of a float32 from `LOWEST` to 0; 0 below. 2^n e^r with |r| ≤ log(2) / 2: numba's is no vector code."""
    n = np.rint(x * np.float32(1.4426950408889634))
    r = x - n * np.float32(0.693359375) + n * np.float32(2.12194440e-4)  # log(2) in two parts
    series = np.float32(1 / 120) + r * np.float32(1 / 720)
    series = np.float32(1 / 6) + r * (np.float32(1 / 24) + r * series)
    series = np.float32(1) + r * (np.float32(1) + r * (np.float32(0.5) + r * series))
    bits: Any = np.int32((max(np.int32(n), np.int32(-126)) + 127) << 23)
    power = bits.view(np.float32)  # 2^n: a number of which only the exponent is set
    return series * power if x > np.float32(LOWEST) else np.float32(0)


@compiled
def _softmax(scores: NDArray[np.float32], lanes: tuple[int, ...]) -> None:
    """Apply softmax to every row of scores (n, L), in their place; `lanes`: a tuple of L."""
    for p in range(len(scores)):
        highest = scores[p, 0]
        for lane in range(1, len(lanes)):
            highest = max(highest, scores[p, lane])
        for lane in range(len(lanes)):
            scores[p, lane] -= highest
    flat = scores.reshape(-1)
    for i in range(len(flat)):  # a loop of its own, as this way it becomes vector code
        flat[i] = _exponential(flat[i])
    for p in range(len(scores)):
        total = np.float32(0)
        for lane in range(len(lanes)):
            total += scores[p, lane]
        share = np.float32(1) / total
        for lane in range(len(lanes)):
            scores[p, lane] *= share


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
