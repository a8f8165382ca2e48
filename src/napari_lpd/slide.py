"""Slides: open a file, an array or a napari layer; read any rectangle at any resolution.

This is the one place where a slide's resolution is decided (`_resolution`) and where levels and (x, y) order are
spoken. Everywhere else coordinates are (y, x), in pixels of the asked-for µm per pixel (mpp).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import openslide
import tifffile
import zarr
from PIL import Image

from napari_lpd.errors import SlideError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

VENDOR_SUFFIXES = (".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".vmu", ".svslide", ".dcm")
TIFF_SUFFIXES = (".tif", ".tiff")
PLAUSIBLE_MPP = (0.05, 20.0)
DISPLAY_CHUNK = 1024
GLASS_SATURATION = (0.03, 0.10)

ReadLevel = Callable[[int, int, int, int, int], "NDArray[np.uint8]"]


class Slide:
    """A pyramid of RGB levels with a known, or still missing, resolution.

    Attributes:
        name: File name or layer name.
        path: The file, or None for arrays and layers.
        level_shapes: (H, W) of each level, biggest first.
        mpp_source: Where the resolution came from, or why there is none.
    """

    def __init__(
        self,
        name: str,
        level_shapes: Sequence[tuple[int, int]],
        read_level: ReadLevel,
        resolution: tuple[tuple[float, float] | None, str],
        path: Path | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.path = path
        self.level_shapes = tuple(level_shapes)
        self._read_level = read_level
        self._mpp, self.mpp_source = resolution
        self._close = close

    @classmethod
    def from_levels(
        cls, levels: Sequence[Any], mpp: tuple[float, float] | None, name: str, mpp_source: str = "given"
    ) -> Slide:
        """Wrap arrays (H, W, 3 or 4) uint8, biggest first; `mpp` is (y, x) in µm per pixel of the biggest.

        Raises:
            SlideError: an array is not RGB(A) uint8, or `mpp` is not plausible.
        """
        for level in levels:
            if len(level.shape) != 3 or level.shape[2] not in (3, 4) or np.dtype(level.dtype) != np.uint8:
                raise SlideError(
                    f"{name}: an image of shape {tuple(level.shape)} and type {level.dtype} is not RGB;"
                    " wanted uint8 (H, W, 3)"
                )
        shapes = [(int(level.shape[0]), int(level.shape[1])) for level in levels]

        def read_level(level: int, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
            return _on_white(np.asarray(levels[level][y : y + h, x : x + w]))

        return cls(name, shapes, read_level, _resolution(name, [(mpp, mpp_source)]))

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._close()

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of level 0."""
        return self.level_shapes[0]

    @property
    def has_mpp(self) -> bool:
        """Whether the resolution is known."""
        return self._mpp is not None

    @property
    def mpp(self) -> tuple[float, float]:
        """(y, x) µm per pixel of level 0.

        Raises:
            SlideError: the file gives none; the message says what it gives and what to do.
        """
        if self._mpp is None:
            raise SlideError(f"{self.name} gives no usable resolution ({self.mpp_source}): pass mpp (µm per pixel)")
        return self._mpp

    def shape_at(self, mpp: float) -> tuple[int, int]:
        """(H, W) of the whole slide in pixels of `mpp`."""
        (h, w), (my, mx) = self.shape, self.mpp
        return max(1, round(h * my / mpp)), max(1, round(w * mx / mpp))

    def read(self, origin: tuple[int, int], shape: tuple[int, int], mpp: float) -> NDArray[np.uint8]:
        """Read `shape` (h, w) pixels at `mpp`, first pixel at `origin` (y, x); white outside the slide.

        The next finer level is resampled exactly (area-aware filter, sub-pixel position), so neighbouring reads
        fit together without a seam.

        Returns:
            (h, w, 3) uint8 RGB.

        Raises:
            SlideError: the file is damaged there; the message names the place.
        """
        scale = np.array([mpp / m for m in self.mpp])  # level-0 pixels per output pixel, (y, x)
        level = self._level_for(float(scale.min()))
        step = scale * np.array(self.level_shapes[level]) / np.array(self.shape)  # level pixels per output pixel
        start, stop = np.array(origin) * step, (np.array(origin) + np.array(shape)) * step
        margin = np.ceil(2 * np.maximum(step, 1)).astype(int)
        first = np.floor(start).astype(int) - margin
        last = np.ceil(stop).astype(int) + margin
        block = self._read_padded(level, first, last)
        if np.allclose(step, 1) and np.allclose(start, np.round(start), atol=1e-3):
            y, x = (np.round(start).astype(int) - first).tolist()
            return block[y : y + shape[0], x : x + shape[1]]
        (y0, x0), (y1, x1) = start - first, stop - first
        image = Image.fromarray(block)
        resized = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box=(x0, y0, x1, y1))
        return np.asarray(resized)

    def pyramid(self) -> list[da.Array]:
        """The levels as lazy dask arrays (H, W, 3) uint8, biggest first, for display."""
        return [self._lazy_level(level) for level in range(len(self.level_shapes))]

    @cached_property
    def tissue(self) -> tuple[NDArray[np.bool_], float]:
        """(mask, mpp): where there is tissue rather than glass, on the whole slide at about 16 µm per pixel.

        Otsu's threshold on saturation, kept within `GLASS_SATURATION` so that a slide without glass is all tissue;
        the vacuoles of fat (holes up to 0.05 mm²) count as tissue, specks below 0.005 mm² as glass.
        """
        from skimage import color, filters
        from skimage.morphology import closing, disk, remove_small_holes, remove_small_objects

        mpp = max(16.0, *self.mpp)
        overview = self.read((0, 0), self.shape_at(mpp), mpp)
        saturation = filters.gaussian(color.rgb2hsv(overview)[..., 1], 1)
        threshold = np.clip(filters.threshold_otsu(saturation), *GLASS_SATURATION)
        mask = closing(saturation > threshold, disk(3))
        pixel_mm2 = (mpp / 1000) ** 2
        mask = remove_small_holes(mask, max_size=int(0.05 / pixel_mm2))
        return remove_small_objects(mask, max_size=int(0.005 / pixel_mm2)), mpp

    def _level_for(self, downsample: float) -> int:
        fits = [i for i, (h, _) in enumerate(self.level_shapes) if self.shape[0] / h <= downsample * 1.01]
        return fits[-1] if fits else 0

    def _read_padded(self, level: int, first: NDArray[np.int_], last: NDArray[np.int_]) -> NDArray[np.uint8]:
        block = np.full((*(last - first).tolist(), 3), 255, np.uint8)
        size = np.array(self.level_shapes[level])
        low, high = np.clip(first, 0, size), np.clip(last, 0, size)
        if (high > low).all():
            (y, x), (h, w) = low.tolist(), (high - low).tolist()
            top, left = (low - first).tolist()
            block[top : top + h, left : left + w] = self._read_level(level, y, x, h, w)
        return block

    def _lazy_level(self, level: int) -> da.Array:
        h, w = self.level_shapes[level]
        chunk = min(DISPLAY_CHUNK, max(h, w))
        chunks = da.core.normalize_chunks((chunk, chunk, 3), (h, w, 3))

        def block(block_info: Any = None) -> NDArray[np.uint8]:
            (y0, y1), (x0, x1), _ = block_info[None]["array-location"]
            return self._read_level(level, y0, x0, y1 - y0, x1 - x0)

        return da.map_blocks(block, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))


def is_slide(path: Path) -> bool:
    """Whether the file's name ends like a slide's (cheap: the file is not opened)."""
    return path.name.lower().endswith((*VENDOR_SUFFIXES, *TIFF_SUFFIXES))


def open_slide(path: Path, mpp: float | None = None) -> Slide:
    """Open a whole-slide image: OpenSlide's formats, or OME-TIFF and plain pyramids through tifffile.

    Args:
        path: The file; for DICOM any file of the series or their folder.
        mpp: Resolution in µm per pixel, when the file gives none or a wrong one.

    Raises:
        SlideError: the file is missing, or neither OpenSlide nor tifffile can read it.
    """
    if not path.exists():
        raise SlideError(f"{path}: no such file")
    if path.is_dir():
        series = sorted(path.glob("*.dcm"))
        if not series:
            raise SlideError(f"{path}: a folder without .dcm files is not a slide")
        path = series[0]
    given = (None if mpp is None else (mpp, mpp), "given by the user")
    if path.name.lower().endswith((".ome.tif", ".ome.tiff")):
        return _open_tiff(path, given)
    try:
        return _open_openslide(path, given)
    except openslide.OpenSlideUnsupportedFormatError:
        return _open_tiff(path, given)
    except openslide.OpenSlideError as error:
        raise SlideError(f"{path.name}: damaged or unreadable slide ({error})") from error


Found = tuple[tuple[float, float] | None, str]


def _resolution(name: str, candidates: list[Found]) -> Found:
    """Take the first candidate (mpp, source) that is present; say so when it is not plausible."""
    for mpp, source in candidates:
        if mpp is None:
            continue
        low, high = PLAUSIBLE_MPP
        if all(low <= value <= high for value in mpp):
            return (float(mpp[0]), float(mpp[1])), source
        if source == "given by the user":
            raise SlideError(f"{name}: mpp={mpp[0]:g} is not plausible; wanted {low:g} to {high:g} µm per pixel")
        return None, f"{source} says {mpp[0]:.4g} µm per pixel, which is not plausible"
    return None, "nothing in the file says it"


def _open_openslide(path: Path, given: Found) -> Slide:
    handle = openslide.OpenSlide(path)
    properties = handle.properties
    try:
        found = (float(properties["openslide.mpp-y"]), float(properties["openslide.mpp-x"]))
    except (KeyError, ValueError):
        found = None
    vendor = properties.get("openslide.vendor", "file")
    source = "TIFF resolution tags" if vendor == "generic-tiff" else f"{vendor} metadata"

    def read_level(level: int, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
        downsample = handle.level_downsamples[level]
        location = (round(x * downsample), round(y * downsample))
        try:
            return _on_white(np.asarray(handle.read_region(location, level, (w, h))))
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"{path.name}: damaged at level-0 x {location[0]}, y {location[1]} (level {level}, {w}x{h}): {error}"
            ) from error

    try:
        resolution = _resolution(path.name, [given, (found, source)])
    except SlideError:
        handle.close()
        raise
    shapes = [(h, w) for w, h in handle.level_dimensions]
    return Slide(path.name, shapes, read_level, resolution, path, handle.close)


def _open_tiff(path: Path, given: Found) -> Slide:
    try:
        tiff = tifffile.TiffFile(path)
    except (tifffile.TiffFileError, OSError, ValueError) as error:
        raise SlideError(f"{path.name}: not a slide that OpenSlide or tifffile can read ({error})") from error
    try:
        return _tiff_slide(path, tiff, given)
    except (tifffile.TiffFileError, IndexError, ValueError, KeyError) as error:
        tiff.close()
        raise SlideError(f"{path.name}: damaged or unreadable TIFF ({error})") from error
    except SlideError:
        tiff.close()
        raise


def _tiff_slide(path: Path, tiff: tifffile.TiffFile, given: Found) -> Slide:
    series = tiff.series[0]
    pages = series.levels
    if series.axes not in ("YXS", "YXC") or series.dtype != np.uint8 or series.shape[2] not in (3, 4):
        raise SlideError(
            f"{path.name}: axes {series.axes}, shape {series.shape}, type {series.dtype} is not an RGB slide;"
            " wanted YXS uint8"
        )
    tiff.filehandle.set_lock(True)
    arrays = [zarr.open_array(series.aszarr(level=i), mode="r") for i in range(len(pages))]
    shapes = [(int(array.shape[0]), int(array.shape[1])) for array in arrays]

    def read_level(level: int, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
        try:
            return _on_white(np.asarray(arrays[level][y : y + h, x : x + w]))
        except (ValueError, RuntimeError, OSError) as error:
            raise SlideError(f"{path.name}: damaged at x {x}, y {y} of level {level} ({w}x{h}): {error}") from error

    candidates = [given, (_ome_mpp(tiff), "OME metadata"), (_tag_mpp(tiff), "TIFF resolution tags")]
    return Slide(path.name, shapes, read_level, _resolution(path.name, candidates), path, tiff.close)


def _ome_mpp(tiff: tifffile.TiffFile) -> tuple[float, float] | None:
    if not tiff.ome_metadata:
        return None
    pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
    pixels = (pixels[0] if isinstance(pixels, list) else pixels)["Pixels"]
    to_um = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}
    values = []
    for axis in "YX":
        unit = to_um.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        size = pixels.get(f"PhysicalSize{axis}")
        if size is None or unit is None:
            return None
        values.append(float(size) * unit)
    return values[0], values[1]


def _tag_mpp(tiff: tifffile.TiffFile) -> tuple[float, float] | None:
    tags = tiff.pages.first.tags
    um_per_unit = {2: 25400.0, 3: 10000.0}.get(int(tags.valueof("ResolutionUnit", default=1)))
    values = []
    for axis in "YX":
        numerator, denominator = tags.valueof(f"{axis}Resolution", default=(0, 1))
        if um_per_unit is None or not numerator or not denominator:
            return None
        values.append(um_per_unit * denominator / numerator)
    return values[0], values[1]


def _on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w, 3 or 4) → (h, w, 3): transparent becomes white."""
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:]
    if alpha.all() and alpha.min() == 255:
        return np.ascontiguousarray(pixels[..., :3])
    share = alpha.astype(np.float32) / 255
    return np.rint(pixels[..., :3] * share + 255 * (1 - share)).astype(np.uint8)


def um_box_to_pixels(box_um: tuple[float, float, float, float], mpp: float) -> tuple[int, int, int, int]:
    """(y0, x0, y1, x1) in µm → whole pixels of `mpp` that cover it."""
    y0, x0, y1, x1 = (value / mpp for value in box_um)
    return math.floor(y0 + 1e-6), math.floor(x0 + 1e-6), math.ceil(y1 - 1e-6), math.ceil(x1 - 1e-6)
