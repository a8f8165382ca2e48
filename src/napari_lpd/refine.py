"""The dense CRF: mean field with Gaussian kernels (Krähenbühl & Koltun 2011).

Q ← softmax(-U + Σ_m w_m D^-½ K_m D^-½ Q), with a smoothness kernel on positions and an appearance kernel on positions
and colours (method.md §7.7). The kernels act through permutohedral lattices, built once per image and used for all
labels and iterations: on a CPU those of `lattice.py`, on a GPU those of `lattice_torch.py`, or, for parity, pydensecrf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_lpd.errors import DataError, SettingsError
from napari_lpd.lattice import Filter, build_lattice, compiled, crew

if TYPE_CHECKING:
    from typing import Any, Literal

    from numpy.typing import NDArray

    from napari_lpd.config import CrfSettings
    from napari_lpd.lattice import Each, Lattice

SMALLEST_PROBABILITY = 1e-5
SMALLEST_MASS = np.float32(1e-20)
LANES = 8  # labels come in rows of a multiple of it: a vector register
STRIP = 16384  # pixels, about, that one thread works on at a time
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
        device: Where our lattice works: ``cpu`` (numba), or a device of torch's.
        threads: CPU threads of our lattice; the result has the same bits with any number.

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
    used = np.flatnonzero([label.any() for label in probability])
    if not len(used):
        raise DataError("the CRF was given probabilities that are all 0; wanted at least one label")

    def solve(image: NDArray[np.uint8], unary: NDArray[np.float32], settings: CrfSettings) -> NDArray[np.float32]:
        if backend == "pydensecrf":
            return _pydensecrf_mean_field(image, unary, settings)
        if device != "cpu":
            from napari_lpd.lattice_torch import mean_field

            return mean_field(image, unary, settings, device)
        with crew(threads) as each:
            return _lattice_mean_field(image, unary, settings, each)

    result = np.zeros(probability.shape, np.float32)
    given = probability if len(used) == len(probability) else probability[used]
    result[used] = _through_half_size(image, given, settings, solve) if settings.half_size else solve(image, _energies(given), settings)
    return result


def _energies(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    energy: NDArray[np.float32] = np.clip(probability, SMALLEST_PROBABILITY, 1, dtype=np.float32)
    np.log(energy, out=energy)
    return np.negative(energy, out=energy)


def _lattice_mean_field(
    image: NDArray[np.uint8], unary: NDArray[np.float32], settings: CrfSettings, each: Each
) -> NDArray[np.float32]:
    """Q (L, H, W) of an image (H, W, 3) and energies (L, H, W); `each` shares the strips of rows among threads."""
    height, lanes = image.shape[0], -(-len(unary) // LANES) * LANES
    rows = strips_of_rows(*image.shape[:2])
    kernels = (
        (settings.gaussian_weight, lambda strip: _features(image, strip, settings.gaussian_sigma)),
        (
            settings.bilateral_weight,
            lambda strip: _features(image, strip, settings.bilateral_sigma, settings.colour_sigma),
        ),
    )
    filters = [
        Filter(_normalised(build_lattice(list(each(features, rows)), each), weight, each), lanes, each)
        for weight, features in kernels
        if weight
    ]
    result = np.empty_like(unary)

    def start(strip: tuple[int, int]) -> NDArray[np.float32]:
        energy = unary[:, slice(*strip)].reshape(len(unary), -1)
        own = np.full((energy.shape[1], lanes), -2 * LOWEST, np.float32)
        own[:, : len(unary)] = energy.T
        return own

    energies = list(each(start, rows))
    for iteration in range(settings.iterations + 1):

        def sweep(index: int, first: bool = not iteration, last: bool = iteration == settings.iterations) -> None:
            q = -energies[index]
            for own in filters if not first else ():
                own.read_back(index, q)
            _softmax(q, (0,) * lanes)
            for own in filters if not last else ():
                own.splat(index, q)
            if last:
                part = result[:, slice(*rows[index])]
                part[:] = q[:, : len(unary)].T.reshape(part.shape)

        list(each(sweep, range(len(rows))))
        if iteration < settings.iterations:
            for own in filters:
                own.blur()
    return result


def strips_of_rows(height: int, width: int) -> list[tuple[int, int]]:
    """The strips of rows that are worked on one at a time: an even number, about `STRIP` pixels each."""
    count = min(max(2 * round(height * width / STRIP / 2), 2), height)
    edges = [height * i // count for i in range(count + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def _features(
    image: NDArray[np.uint8], rows: tuple[int, int], sigma: float, colour_sigma: float | None = None
) -> NDArray[np.float32]:
    """Features (2 or 5, n) of a strip's pixels: place and colour, in standard deviations."""
    start, stop = rows
    width = image.shape[1]
    found = np.empty((5 if colour_sigma else 2, stop - start, width), np.float32)
    found[0] = np.arange(width, dtype=np.float32) / np.float32(sigma)
    found[1] = (np.arange(start, stop, dtype=np.float32) / np.float32(sigma))[:, None]
    if colour_sigma:
        np.divide(image[start:stop].transpose(2, 0, 1), np.float32(colour_sigma), out=found[2:])
    return found.reshape(len(found), -1)


def _normalised(lattice: Lattice, strength: float, each: Each) -> Lattice:
    """The same lattice, whose filter is w D^-½ K D^-½: its weights, which act twice, take half of each factor."""
    mass = Filter(lattice, 1, each)
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
    power = np.int32((max(np.int32(n), -126) + 127) << 23).view(np.float32)  # 2^n, from its bits
    return series * power if x > np.float32(LOWEST) else np.float32(0)


@compiled
def _softmax(scores: NDArray[np.float32], lanes: tuple[int, ...]) -> None:
    """Softmax of each row of scores (n, L), in their place; `lanes`: a tuple of L."""
    for p in range(len(scores)):
        highest, total = scores[p, 0], np.float32(0)
        for lane in range(len(lanes)):
            highest = max(highest, scores[p, lane])
        for lane in range(len(lanes)):
            scores[p, lane] = _exponential(scores[p, lane] - highest)
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
