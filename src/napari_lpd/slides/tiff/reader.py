"""TIFF and OME-TIFF slides, read through tifffile: pages, levels, units and limits."""

from __future__ import annotations

import math
import re
import struct
from contextlib import ExitStack, suppress
from dataclasses import replace
from io import BytesIO
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from PIL import Image, ImageCms

from napari_lpd.core.errors import SlideError, one_line
from napari_lpd.slides.levels import COPY, DamagedError, Levels, checked, on_white
from napari_lpd.slides.resolution import NOTHING, GivenMpp, choose_resolution
from napari_lpd.slides.slide import Slide
from napari_lpd.slides.tiff.directories import ManyImagesError, check_claims, read_directories
from napari_lpd.slides.tiff.pixels import PagePixels, StoredBytes
from napari_lpd.slides.tiff.pyramids import choose, pyramids
from napari_lpd.slides.tiff.tiled_jpeg import direct_jpeg_levels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.slides.levels import Convert
    from napari_lpd.slides.resolution import Found
    from napari_lpd.slides.tiff.directories import Directory
    from napari_lpd.slides.tiff.pyramids import Pyramid

MAX_DECODED = 512 * 2**20  # bytes of one strip or tile, or of an image that is decoded whole
TO_RGB = "convert it to 8-bit RGB, e.g. with `vips colourspace IN OUT.tif[tile,pyramid] srgb`"
TO_UPRIGHT = "turn it upright, e.g. with `vips autorot IN OUT.tif[tile,pyramid]`"
TO_PYRAMID = "convert it to a tiled pyramid, e.g. with `vips tiffsave IN OUT.tif --tile --pyramid`"
ORIENTATION = 274  # TIFF and EXIF tag

DENSEST = {1: 2, 5: 2000, 7: 2000, 8: 2000, 32773: 200, 32946: 2000}
"""Bytes that one stored byte can become, by compression: none, LZW, JPEG, deflate, PackBits, deflate; with room."""

# Raised by tifffile and the codecs for damaged bytes, as observed on bytes changed at random.
TIFF_ERRORS = (
    *(tifffile.TiffFileError, ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError),
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
    if page.samplesperpixel not in ((1,) if grey else (3, 4)):
        raise SlideError(f"{name}: has {page.samplesperpixel} samples for each pixel, wanted RGB: {TO_RGB}")
    if page.compression != 1 and page.compression not in tifffile.TIFF.DECOMPRESSORS:
        codec = getattr(page.compression, "name", page.compression)
        raise SlideError(f"{name}: is compressed with {codec}, which cannot be read here: {TO_PYRAMID}")
    size = math.prod(page.chunks)
    stored = [count for count in page.databytecounts if count]
    if page.compression in DENSEST and (len(stored) - 1) * size > DENSEST[page.compression] * sum(stored):
        raise SlideError(
            f"{name}: damaged TIFF (says it has {page.imagewidth} x {page.imagelength} pixels, and cannot in the"
            f" {sum(stored)} bytes of its strips or tiles): {COPY}"
        )
    if not page.is_final and size > MAX_DECODED:
        raise TooLargeError(f"{name}: a strip or tile takes {size / 2**20:.0f} MB decoded: {TO_PYRAMID}")


def open_with_tifffile(path: Path, given: GivenMpp, icc: bool, image: int | None = None) -> Slide:
    """Open a TIFF as a slide through tifffile: the biggest RGB image, or that of a number.

    Raises:
        SlideError: it is damaged, not upright, or not 8-bit RGB.
    """
    found, reason = pyramids(read_directories(path), path.name)
    chosen, notes = choose(path.name, found, image)
    if reason:
        notes = (f"{path.name}: {reason}: the TIFF's own tags are used", *notes)
    if chosen.problem:
        raise SlideError(f"{path.name}: {chosen.problem}, wanted RGB (axes YXS): {TO_RGB}")
    with ExitStack() as on_failure:
        try:
            tiff = on_failure.enter_context(tifffile.TiffFile(path))
            file = StoredBytes(path)
            on_failure.callback(file.close)
            levels, convert, pages = _levels_of(path.name, tiff, file, chosen, icc)
            resolution = _resolution(path.name, given, chosen, pages[0][0], reason)
            other = None if chosen == choose(path.name, found, None)[0] else image
            levels = replace(levels, notes=notes, image=other, number=chosen.number, reader="tifffile")
            if len(found) > 1:
                levels = replace(levels, images={each.number: str(each) for each in found})
            if len(pages[0]) == 1:
                levels = direct_jpeg_levels(path, [level[0] for level in pages], levels, convert)
        except TIFF_ERRORS as error:
            raise SlideError(f"{path.name}: damaged or truncated TIFF ({one_line(error)}): {COPY}") from error
        on_failure.pop_all()
        tiff.close()
        return Slide(path.name, levels, resolution, [path])


def needs_windows(path: Path, limit: int) -> bool:
    """Return whether a TIFF should be read by windows: a pyramid, over `limit` pixels, or damaged, so that none tries.

    Its directories are looked at, within bounds; no library opens the file.
    """
    try:
        chosen, _ = choose(path.name, pyramids(read_directories(path), path.name)[0], None)
    except ManyImagesError:
        return False
    except SlideError:
        return True
    too_large = math.prod(chosen.shape) > limit or chosen.levels[0][0].largest_part > MAX_DECODED
    return len(chosen.levels) > 1 or too_large


def pages_of(tiff: tifffile.TiffFile, directories: Iterable[Directory]) -> list[tifffile.TiffPage]:
    """Read directories of an open TIFF whole; others are not walked."""
    pages = []
    for number, directory in enumerate(directories):
        tiff.filehandle.seek(directory.offset)
        pages.append(tifffile.TiffPage(tiff, number))
    return pages


def _checked_pages(
    name: str, size: int, tiff: tifffile.TiffFile, level: Sequence[Directory]
) -> list[tifffile.TiffPage]:
    """Read the pages of a level.

    Raises:
        SlideError: what one says of itself cannot be, or it is not upright, 8-bit RGB.
    """
    check_claims(name, size, level)
    pages = pages_of(tiff, level)
    for page in pages:
        check_page(name, page, grey=len(level) == 3)
    return pages


def _levels_of(
    name: str, tiff: tifffile.TiffFile, file: StoredBytes, chosen: Pyramid, icc: bool
) -> tuple[Levels, Convert | None, list[list[tifffile.TiffPage]]]:
    """Read the pages of an image's levels; those that cannot be are left out."""
    size = file.size
    pages = [_checked_pages(name, size, tiff, chosen.levels[0])]
    for level in chosen.levels[1:]:
        with suppress(SlideError):  # the finest is enough
            pages.append(_checked_pages(name, size, tiff, level))
    parts = [[PagePixels(file, page) for page in level] for level in pages]
    shapes = [level[0].shape[:2] for level in parts]
    convert, colors = colour_conversion(name, pages[0][0].iccprofile, icc)

    def read(level: int, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
        try:
            planes = [part.read(y, x, h, w) for part in parts[level]]
        except MemoryError as error:
            raise SlideError(f"{name}: not enough memory to read {w}x{h} pixels of level {level}") from error
        except TIFF_ERRORS as error:
            raise DamagedError.at(name, shapes, level, (y, x, h, w), error) from error
        pixels = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        plain = convert is None and pixels.shape[2] == 3 and pixels.flags.c_contiguous and pixels.flags.writeable
        return pixels if plain else on_white(pixels, convert)

    def close() -> None:
        for part in chain.from_iterable(parts):
            part.close()
        file.close()

    return checked(name, Levels(shapes, read, close, colors), size), convert, pages


def _resolution(name: str, given: GivenMpp, chosen: Pyramid, page: tifffile.TiffPage, reason: str) -> Found:
    """Choose the resolution; where OME metadata give one that is not understood, no other is guessed."""
    said, text = chosen.resolution
    not_understood = text if said is None else ""
    others = [
        chosen.resolution,
        (_aperio_mpp(chosen.levels[0][0].description), "aperio metadata"),
        (_tag_mpp(page.tags), "TIFF resolution tags"),
    ]
    found = choose_resolution(name, [] if not_understood else others, given)
    return (None, not_understood or reason or NOTHING) if found == (None, NOTHING) else found


def _aperio_mpp(description: str) -> tuple[float, float] | None:
    found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", description) if description.startswith("Aperio") else None
    return (float(found[1]), float(found[1])) if found else None


def _tag_mpp(tags: tifffile.TiffTags) -> tuple[float, float] | None:
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
