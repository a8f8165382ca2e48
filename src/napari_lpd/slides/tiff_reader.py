"""TIFF and OME-TIFF slides, read through tifffile: pages, levels, units and limits."""

from __future__ import annotations

import math
import struct
from contextlib import ExitStack
from io import BytesIO
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

import numpy as np
import tifffile
import zarr
from PIL import Image, ImageCms

from napari_lpd.core.errors import SlideError, one_line
from napari_lpd.slides.resolution import GivenMpp, choose_resolution
from napari_lpd.slides.slide import Convert, DamagedError, Levels, Slide, on_white
from napari_lpd.slides.tiled_jpeg import direct_jpeg_levels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_DECODED = 512 * 2**20  # bytes of one strip or tile, or of an image that is decoded whole
TO_RGB = "convert it to 8-bit RGB, e.g. with `vips colourspace IN OUT.tif[tile,pyramid] srgb`"
TO_UPRIGHT = "turn it upright, e.g. with `vips autorot IN OUT.tif[tile,pyramid]`"
TO_PYRAMID = "convert it to a tiled pyramid, e.g. with `vips tiffsave IN OUT.tif --tile --pyramid`"
COPY = "copy or export it again"
ORIENTATION = 274  # TIFF and EXIF tag

# Raised by tifffile, zarr and the codecs for damaged bytes, as observed on bytes changed at random.
TIFF_ERRORS = (
    *(tifffile.TiffFileError, ArithmeticError, AttributeError, LookupError, OSError, ParseError, RuntimeError),
    *(TypeError, ValueError, struct.error),
)


class TooLargeError(SlideError):
    """A flat image, strip or tile is too large to be decoded at once."""


def check_page(name: str, page: tifffile.TiffPage, grey: bool) -> None:
    """Raise SlideError unless a page is upright, 8-bit RGB (or one `grey` plane of it), in small strips or tiles."""
    orientation = page.tags.valueof(ORIENTATION, default=1)
    if orientation != 1:
        raise SlideError(f"{name}: is stored turned or mirrored (orientation tag {orientation:d}): {TO_UPRIGHT}")
    if page.dtype != np.uint8 or page.bitspersample != 8:
        raise SlideError(f"{name}: has samples of type {page.dtype}, wanted 8-bit RGB: {TO_RGB}")
    colors = getattr(page.photometric, "name", str(page.photometric))
    jpeg = page.compression in (tifffile.COMPRESSION.OJPEG, tifffile.COMPRESSION.JPEG)
    if not (colors == "RGB" or (colors == "YCBCR" and jpeg) or (colors == "MINISBLACK" and grey)):
        kind = "is grey" if colors.startswith("MINIS") else f"has {colors.lower()} colours"
        raise SlideError(f"{name}: {kind}, wanted RGB: {TO_RGB}")
    size = math.prod(page.chunks)
    if not page.is_final and size > MAX_DECODED:
        raise TooLargeError(f"{name}: a strip or tile takes {size / 2**20:.0f} MB decoded: {TO_PYRAMID}")


def open_with_tifffile(path: Path, given: GivenMpp, icc: bool) -> Slide:
    """Open a TIFF as a slide through tifffile.

    Raises:
        SlideError: it is damaged, not upright, or not 8-bit RGB.
    """
    with ExitStack() as on_failure:
        try:
            tiff = on_failure.enter_context(tifffile.TiffFile(path))
            slide = _tiff_slide(path, tiff, given, icc)
        except TIFF_ERRORS as error:
            raise SlideError(f"{path.name}: damaged or truncated TIFF ({one_line(error)}): {COPY}") from error
        on_failure.pop_all()
        return slide


def _tiff_slide(path: Path, tiff: tifffile.TiffFile, given: GivenMpp, icc: bool) -> Slide:
    if not tiff.series:
        raise SlideError(f"{path.name}: damaged or truncated TIFF (it contains no image): {COPY}")
    series = tiff.series[0]
    planar = series.axes in ("SYX", "CYX")
    for level in series.levels:
        check_page(path.name, level.keyframe, grey=planar)
    count = {"SYX": series.shape[0], "YXS": series.shape[-1], "YXC": series.shape[-1]}.get(series.axes, 0)
    if count not in (3, 4) and not (series.axes == "CYX" and series.shape[0] == 3):
        raise SlideError(f"{path.name}: has axes {series.axes} of {series.shape}, wanted RGB (axes YXS): {TO_RGB}")
    tiff.filehandle.set_lock(True)
    arrays = [_tiff_array(level) for level in series.levels]
    shapes = [(int(h), int(w)) for h, w in ((a.shape[1:] if planar else a.shape[:2]) for a in arrays)]
    convert, colors = colour_conversion(path.name, series.keyframe.iccprofile, icc)

    def read(level: int, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
        window = (slice(y, y + h), slice(x, x + w))
        try:
            pixels = np.asarray(arrays[level][(slice(None), *window) if planar else window])
        except MemoryError as error:
            raise SlideError(f"{path.name}: not enough memory to read {w}x{h} pixels of level {level}") from error
        except TIFF_ERRORS as error:
            raise DamagedError.at(path.name, shapes, level, (y, x, h, w), error) from error
        return on_white(np.moveaxis(pixels, 0, 2) if planar else pixels, convert)

    def close() -> None:
        arrays.clear()
        tiff.close()

    candidates = [(_ome_mpp(tiff), "OME metadata"), (_tag_mpp(tiff), "TIFF resolution tags")]
    resolution = choose_resolution(path.name, candidates, given)
    levels = [level.keyframe for level in series.levels]
    return Slide(
        path.name, direct_jpeg_levels(path, levels, Levels(shapes, read, close, colors), convert), resolution, [path]
    )


def _tiff_array(level: tifffile.TiffPageSeries) -> Any:
    """Open a level so that only indexed tiles are decoded; an uncompressed one is a memory map of the file."""
    if level.dataoffset is not None:
        file = level.keyframe.parent.filehandle.path
        return np.memmap(file, np.uint8, "r", level.dataoffset, level.shape)
    return zarr.open_array(level.aszarr(level=0, fillvalue=255), mode="r")  # missing tiles are white


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
    (y, below_y), (x, below_x) = (tags.valueof(f"{axis}Resolution", default=(0, 1)) for axis in "YX")
    unit = {2: "inch", 3: "centimeter"}.get(int(tags.valueof("ResolutionUnit", default=1)))
    return mpp_of_density((y / below_y, x / below_x), unit) if below_y and below_x else None


def mpp_of_density(pixels_per_unit: tuple[float, float] | None, unit: str | None) -> tuple[float, float] | None:
    """Convert pixels per inch or centimetre to µm per pixel (y, x); None where they are not known."""
    um_per_unit = {"inch": 25400.0, "centimeter": 10000.0}.get(unit or "")
    if pixels_per_unit is None or um_per_unit is None or min(pixels_per_unit) <= 0:
        return None
    return um_per_unit / pixels_per_unit[0], um_per_unit / pixels_per_unit[1]


def colour_conversion(name: str, profile: bytes | None, icc: bool) -> tuple[Convert | None, str]:
    """Return the conversion of (h, w, 3) to sRGB, if requested and possible, and a description of it."""
    if not icc:
        return None, "as stored"
    if not profile:
        return None, "as stored (no profile)"
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
        title = ImageCms.getProfileDescription(source).strip()
    except (ImageCms.PyCMSError, OSError) as error:
        raise SlideError(
            f"{name}: its colour profile cannot be used ({one_line(error)}): open it without icc"
        ) from error

    def convert(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(ImageCms.applyTransform(image, transform))

    return convert, f"sRGB by its profile {title}"
