"""Tissue masks of slides: detected, or from polygons or labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_lpd.core.geometry import sampled_polygons

if TYPE_CHECKING:
    from collections.abc import Sequence

    import shapely
    from numpy.typing import NDArray

    from napari_lpd.slides.slide import Slide

TISSUE_MPP = 16.0  # µm per pixel at which tissue is detected
COARSE_MPP = 64.0  # of a mask of the whole slide
STRIP = 256  # rows of the overview that are read at once
GLASS_SATURATION = (0.03, 0.10)
GLASS_BRIGHTNESS = 200  # the darkest channel of glass is at least this
MAX_HOLE_MM2, MIN_SPECK_MM2 = 0.05, 0.005
BLACK = 50  # pixels whose brightest channel is below this are not judged: pen, or the scanner's edge
PEN_SHARE = 0.3  # more pen-like pixels than this, of the stained ones, are stain
FINER = 8  # how much finer a damaged cell is read, to measure the damage
MAX_OVERVIEW = 2**24  # pixels in which tissue is looked for: 65 mm x 65 mm at 16 µm per pixel; more are read coarser
MAX_MASK = 2**26  # pixels of a mask made from a user's layer


class TissueMask(NamedTuple):
    """Tissue mask of a whole slide.

    Attributes:
        array: (h, w) bool; the first pixel's corner is the slide's.
        mpp: µm per pixel, in y and x.
        unread_mm2: Of what counts as glass, the area that could not be read.
    """

    array: NDArray[np.bool_]
    mpp: float
    unread_mm2: float = 0.0

    def at(self, origin: tuple[int, int], shape: tuple[int, int], mpp: float) -> NDArray[np.bool_]:
        """Sample the mask at the centres of `shape` (h, w) pixels of `mpp` from `origin` (y, x); False outside."""
        indices = [
            np.floor((np.arange(n) + first + 0.5) * mpp / self.mpp).astype(np.intp)
            for n, first in zip(shape, origin, strict=True)
        ]
        inside = [slice(*np.searchsorted(index, (0, n))) for index, n in zip(indices, self.array.shape, strict=True)]
        rows, columns = (index[valid] for index, valid in zip(indices, inside, strict=True))
        result = np.zeros(shape, np.bool_)
        result[tuple(inside)] = self.array[rows].take(columns, axis=1)
        return result

    def warning(self) -> str:
        """Say that tissue may lie where the slide cannot be read; "" where none could."""
        if self.unread_mm2 <= MIN_SPECK_MM2:
            return ""
        return (
            f"{self.unread_mm2:.3g} mm² of the slide cannot be read and counts as glass, as no tissue surrounds it;"
            " whether there is tissue is not known: copy or export the file again"
        )

    def occurs_in(self, polygon: shapely.Geometry) -> bool:
        """Return whether there is tissue in a polygon, (x, y) in µm; of a small one, in the pixels that it touches."""
        x0, y0, x1, y1 = (int(edge // self.mpp) for edge in polygon.bounds)
        origin, shape = (y0, x0), (y1 - y0 + 1, x1 - x0 + 1)
        inside = sampled_polygons([polygon], origin, shape, self.mpp)
        return bool((self.at(origin, shape, self.mpp) & (inside if inside.any() else True)).any())


def find_tissue(slide: Slide) -> TissueMask:
    """Detect tissue, as opposed to glass, pen and the scanner's black edge, at about 16 µm per pixel.

    Otsu's threshold on saturation, relative to the colour of the glass; limited to `GLASS_SATURATION`, so that a slide
    without glass is all tissue and one without tissue is all glass. Pen absorbs red clearly more than green, as no
    tissue in H&E does, and is excluded where it is the minority. Holes up to 0.05 mm² (fat vacuoles) count as tissue,
    specks below 0.005 mm² as glass, unreadable pixels as tissue where tissue surrounds them.

    Raises:
        SlideError: no resolution.
    """
    from scipy.ndimage import binary_dilation  # type: ignore[import-untyped]
    from skimage.filters import threshold_otsu
    from skimage.morphology import closing, disk, remove_small_holes, remove_small_objects

    mpp = _finest(slide, max(TISSUE_MPP, *slide.mpp), MAX_OVERVIEW)
    saturation, pen, black, damage = _measured(slide, mpp)
    stained = saturation > np.clip(threshold_otsu(saturation), *GLASS_SATURATION)
    excluded = black
    if (pen & stained).sum() <= PEN_SHARE * (stained & ~black).sum():
        excluded = excluded | pen | _parts_like(pen, stained)
    excluded = binary_dilation(excluded, disk(2))
    pixel_mm2 = (mpp / 1000) ** 2
    mask = closing(np.pad(stained & ~excluded, 3, mode="edge"), disk(3))[3:-3, 3:-3]
    mask = remove_small_holes(mask, max_size=int(MAX_HOLE_MM2 / pixel_mm2)) & ~excluded
    mask = remove_small_objects(mask, max_size=int(MIN_SPECK_MM2 / pixel_mm2))
    mask = mask | _within_tissue(damage, mask)
    missing = [int(n * mpp < h * m) for n, h, m in zip(mask.shape, slide.shape, slide.mpp, strict=True)]
    array = np.pad(mask, [(0, more) for more in missing], mode="edge")  # the overview's size is rounded
    return TissueMask(array, mpp, float((damage & ~mask).sum() * pixel_mm2))


def full_mask(slide: Slide) -> TissueMask:
    """Mark all of a slide as tissue, glass too."""
    mpp = _finest(slide, max(COARSE_MPP, *slide.mpp), MAX_OVERVIEW)
    return TissueMask(np.ones([n + 1 for n in slide.shape_at(mpp)], np.bool_), mpp)


def mask_of_polygons(polygons: Sequence[shapely.Geometry], slide: Slide) -> TissueMask:
    """Mark the inside of polygons, (x, y) in µm from the slide's corner, as finely as `MAX_MASK` allows."""
    mpp = _finest(slide, min(slide.mpp))
    return TissueMask(sampled_polygons(polygons, (0, 0), slide.shape_at(mpp), mpp), mpp)


def mask_of_labels(labels: Any, mpp: tuple[float, float], corner_um: tuple[float, float], slide: Slide) -> TissueMask:
    """Mark the pixels that are not 0 in an image of labels that lies on a slide.

    Args:
        labels: (h, w) integer or bool; NumPy, dask or zarr.
        mpp: (y, x) µm per pixel of `labels`.
        corner_um: (y, x) µm from the slide's outer corner to that of the labels.
        slide: The slide.
    """
    import dask.array as da

    finest = _finest(slide, min(mpp))
    shape = slide.shape_at(finest)
    indices = [
        np.floor(((np.arange(n) + 0.5) * finest - corner) / m).astype(np.intp)
        for n, corner, m in zip(shape, corner_um, mpp, strict=True)
    ]
    inside = [(index >= 0) & (index < n) for index, n in zip(indices, labels.shape, strict=True)]
    result = np.zeros(shape, np.bool_)
    rows, columns = (index[valid] for index, valid in zip(indices, inside, strict=True))
    result[np.ix_(*inside)] = (da.asarray(labels)[rows][:, columns] != 0).compute()
    return TissueMask(result, finest)


def _finest(slide: Slide, mpp: float, most: int = MAX_MASK) -> float:
    """Return `mpp`, or a coarser one where an image of the whole slide would have more than `most` pixels."""
    return max(mpp, math.sqrt(math.prod(slide.shape) * math.prod(slide.mpp) / most))


def _measured(slide: Slide, mpp: float) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Measure saturation (smoothed), and mark pixels like pen, black pixels and unreadable ones: (h, w) each."""
    from scipy.ndimage import binary_opening, gaussian_filter

    image, damage = _overview(slide, mpp)
    glass = _glass_colour(image[~damage])
    saturation = np.empty(damage.shape, np.float32)
    pen, black = np.empty_like(damage), np.empty_like(damage)
    for y in range(0, len(image), STRIP):
        rows = slice(y, y + STRIP)
        shares = np.clip(image[rows] / glass, 1 / 255, 1)
        darkest, brightest = shares.min(2), shares.max(2)
        saturation[rows] = (brightest - darkest) / brightest
        density = -np.log10(shares)
        pen[rows] = density[..., 0] > 1.25 * density[..., 1] + 0.02
        black[rows] = image[rows].max(2) < BLACK
    saturation[black | damage] = 0
    return gaussian_filter(saturation, 1), binary_opening(pen), black & ~damage, damage


def _overview(slide: Slide, mpp: float) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read the slide at `mpp` (h, w, 3) and mark unreadable pixels (h, w), located at a finer resolution."""
    height, width = slide.shape_at(mpp)
    image, damage = np.empty((height, width, 3), np.uint8), np.zeros((height, width), np.bool_)
    for y in range(0, height, STRIP):
        image[y : y + STRIP], damaged = slide.read_tolerant((y, 0), (min(STRIP, height - y), width), mpp)
        for y0, x0, y1, x1 in damaged:
            h, w = y1 - y0, x1 - x0
            fine, cells = slide.read_tolerant((y0 * FINER, x0 * FINER), (h * FINER, w * FINER), mpp / FINER)
            image[y0:y1, x0:x1] = fine.reshape(h, FINER, w, FINER, 3).mean((1, 3))
            for a, b, c, d in cells:
                damage[a // FINER : -(-c // FINER), b // FINER : -(-d // FINER)] = True
    return image, damage


def _parts_like(pen: NDArray[np.bool_], stained: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Select the connected parts of `stained` that are over a quarter pen: a smear is paler than the stroke."""
    from scipy.ndimage import label

    components, count = label(stained)
    total, inked = (np.bincount(values.ravel(), minlength=count + 1) for values in (components, components[pen]))
    selected = inked > 0.25 * total
    selected[0] = False
    result: NDArray[np.bool_] = selected[components]
    return result


def _within_tissue(damage: NDArray[np.bool_], tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Select the connected parts of `damage` that are mostly surrounded by tissue."""
    from scipy.ndimage import binary_dilation, find_objects, label

    result = np.zeros_like(damage)
    components, _ = label(damage)
    for number, (rows, columns) in enumerate(find_objects(components), start=1):
        window = (slice(max(rows.start - 2, 0), rows.stop + 2), slice(max(columns.start - 2, 0), columns.stop + 2))
        component = components[window] == number
        rim = binary_dilation(component, iterations=2) & ~damage[window]
        if tissue[window][rim].sum() * 2 > rim.sum():
            result[window] |= component
    return result


def _glass_colour(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the colour (3,) of the brightest twentieth of pixels (n, 3) if bright and nearly grey, else white."""
    white = np.full(3, 255.0)
    if not len(pixels):
        return white
    darkest = pixels.min(1)
    colour: NDArray[np.float64] = np.median(pixels[darkest >= np.percentile(darkest, 95)], axis=0)
    is_glass = colour.min() >= GLASS_BRIGHTNESS and colour.max() - colour.min() <= 0.08 * colour.max()
    return colour if is_glass else white
