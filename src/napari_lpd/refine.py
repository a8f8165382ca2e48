"""The dense CRF: mean field with Gaussian kernels (Krähenbühl & Koltun 2011).

Q ← softmax(-U + Σ_m w_m D^-½ K_m D^-½ Q), with a smoothness kernel on positions and an appearance kernel on positions
and colours (method.md §7.7). The kernels act through permutohedral lattices, built once per image and used for all
labels and iterations: on a CPU those of `lattice.py`, on a GPU those of `lattice_torch.py`, or, for parity, pydensecrf.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.errors import DataError, SettingsError
from napari_lpd.lattice import SMALLEST_MASS, Filter, build_lattice, compiled, crew

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    from numpy.typing import NDArray

    from napari_lpd.config import CrfSettings
    from napari_lpd.lattice import Each, Lattice

    Solver = Callable[[NDArray[np.uint8], NDArray[np.float32], CrfSettings], NDArray[np.float32]]

SMALLEST_PROBABILITY = 1e-5
PIECE = 128  # edge, about, of what one thread works on at a time
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
            from napari_lpd.lattice_torch import mean_field

            return mean_field(image, unary, settings, device)
        return _lattice_mean_field(image, unary, settings, each)

    unary = _energies(probability if len(used) == len(probability) else probability[used])
    result = np.zeros(probability.shape, np.float32)
    with crew(threads) as each:
        if settings.half_size:
            result[used] = _at_half_size(image, unary, settings, solve, each)
        else:
            result[used] = solve(image, unary, settings)
    return result


def _energies(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    energy: NDArray[np.float32] = np.clip(probability, SMALLEST_PROBABILITY, 1, dtype=np.float32)
    np.log(energy, out=energy)
    return np.negative(energy, out=energy)


def _at_half_size(
    image: NDArray[np.uint8], unary: NDArray[np.float32], settings: CrfSettings, solve: Solver, each: Each
) -> NDArray[np.float32]:
    """Q from what pixels tell each other at half the size; their own energies keep the full one."""
    reaches = {"gaussian_sigma": settings.gaussian_sigma / 2, "bilateral_sigma": settings.bilateral_sigma / 2}
    small = np.rint(_halved(image.transpose(2, 0, 1))).astype(np.uint8).transpose(1, 2, 0).copy()
    energies = _energies(_halved(np.exp(-unary)))
    q = solve(small, energies, settings.model_copy(update=reaches))
    told = np.log(np.maximum(q, np.float32(np.exp(LOWEST)))) + energies  # but for a constant per pixel
    told = told.transpose(1, 2, 0).copy()
    result = np.empty_like(unary)

    def finish(piece: tuple[slice, slice]) -> None:
        rows, columns = piece
        scores = -unary[:, rows, columns].transpose(1, 2, 0).copy()
        _interpolate(told, small, image[piece], (rows.start, columns.start), settings.colour_sigma, scores)
        _softmax(scores.reshape(-1, len(unary)), (0,) * len(unary))
        result[:, rows, columns] = scores.transpose(2, 0, 1)

    list(each(finish, pieces_of(*image.shape[:2])))
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
    """Add values (h, w, L) of an image of half the size: of the four nearest pixels, by place and likeness of colour.

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
    """The place at half the size that a place lies in, or the next nearest."""
    step = 0 if near else 1 if place % 2 else -1
    return min(max(place // 2 + step, 0), length - 1)


def _halved(values: NDArray[Any]) -> NDArray[np.float32]:
    """Means (L, ⌈H / 2⌉, ⌈W / 2⌉) of 2 x 2 values (L, H, W); an odd edge is repeated."""
    even = np.pad(values, [(0, 0), *((0, n % 2) for n in values.shape[1:])], "edge")
    total = np.zeros((len(even), even.shape[1] // 2, even.shape[2] // 2), np.float32)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        total += even[:, i::2, j::2]
    total /= 4
    return total


def _lattice_mean_field(
    image: NDArray[np.uint8], unary: NDArray[np.float32], settings: CrfSettings, each: Each
) -> NDArray[np.float32]:
    """Q (L, H, W) of an image (H, W, 3) and energies (L, H, W); `each` shares pieces of them among threads."""
    pieces, lanes = pieces_of(*image.shape[:2]), (0,) * len(unary)
    kernels = (
        (settings.gaussian_weight, (settings.gaussian_sigma, None)),
        (settings.bilateral_weight, (settings.bilateral_sigma, settings.colour_sigma)),
    )
    filters = []
    for weight, sigmas in kernels:
        if weight:
            features = list(each(partial(_features, image, sigmas), pieces))
            filters.append(Filter(_normalised(build_lattice(features, each), weight, each), lanes, each))
    scores = list(each(lambda piece: -unary[(..., *piece)].reshape(len(unary), -1).T.copy(), pieces))
    qs = [np.empty_like(own) for own in scores]
    result = np.empty_like(unary)

    def sweep(read: bool, write: bool, index: int) -> None:
        """Update a piece's Q from the filters, and give it to them; all that a thread does between two blurs."""
        q = qs[index]
        q[:] = scores[index]
        for own in filters if read else ():
            own.read_back(index, q)
        _softmax(q, lanes)
        for own in filters if write else ():
            own.splat(index, q)
        if not write:
            part = result[(..., *pieces[index])]
            part[:] = q.T.reshape(part.shape)

    for iteration in range(settings.iterations + 1):
        list(each(partial(sweep, iteration > 0, iteration < settings.iterations), range(len(pieces))))
        for own in filters if iteration < settings.iterations else ():
            own.blur()
    return result


def pieces_of(height: int, width: int) -> list[tuple[slice, slice]]:
    """The pieces of an image that are worked on one at a time, about `PIECE` pixels high and wide, at least 2 x 2."""

    def spans(length: int) -> list[slice]:
        count = max(round(length / PIECE), min(length, 2))
        return [slice(length * i // count, length * (i + 1) // count) for i in range(count)]

    return [(rows, columns) for rows in spans(height) for columns in spans(width)]


def _features(
    image: NDArray[np.uint8], sigmas: tuple[float, float | None], piece: tuple[slice, slice]
) -> NDArray[np.float32]:
    """Features (2 or 5, n) of a piece's pixels: place and, where it has a sigma, colour, in standard deviations."""
    sigma, colour_sigma = sigmas
    y, x = (np.arange(span.start, span.stop, dtype=np.float32) / np.float32(sigma) for span in piece)
    found = np.empty((5 if colour_sigma else 2, len(y), len(x)), np.float32)
    found[0], found[1] = x, y[:, None]
    if colour_sigma:
        np.divide(image[piece].transpose(2, 0, 1), np.float32(colour_sigma), out=found[2:])
    return found.reshape(len(found), -1)


def _normalised(lattice: Lattice, strength: float, each: Each) -> Lattice:
    """The same lattice, whose filter is w D^-½ K D^-½: its weights, which act twice, take half of each factor."""
    mass = Filter(lattice, (0,), each)
    ones = [np.ones((len(part.weights), 1), np.float32) for part in lattice.parts]
    list(each(mass.splat, range(len(ones)), ones))
    mass.blur()

    def scale(index: int) -> None:
        found, part = np.zeros_like(ones[index]), lattice.parts[index]
        mass.read_back(index, found)
        np.multiply(part.weights, np.sqrt(np.float32(strength) / (found + SMALLEST_MASS)), out=part.weights)

    list(each(scale, range(len(ones))))
    return lattice


@compiled
def _exponential(x: Any) -> Any:
    """e^x of a float32 from `LOWEST` to 0; 0 below. 2^n e^r with |r| ≤ log(2) / 2: numba's own is no vector code."""
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
    """Softmax of each row of scores (n, L), in their place; `lanes`: a tuple of L."""
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
