"""Open slide files: OpenSlide's formats, OME-TIFF and other TIFF through tifffile, flat images through Pillow.

Only upright 8-bit RGB(A) is accepted; for everything else an error names the file and the remedy. Vendor pyramids and
TIFF are read by windows; only an image that Pillow opens is decoded whole.
"""

from __future__ import annotations

import logging
import struct
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import openslide
from PIL import Image, UnidentifiedImageError

from napari_lpd.core.errors import SlideError, absent, one_line
from napari_lpd.slides.dicom import dicom_series, is_dicom
from napari_lpd.slides.levels import array_levels
from napari_lpd.slides.openslide_reader import open_with_openslide
from napari_lpd.slides.resolution import GivenMpp, choose_resolution
from napari_lpd.slides.slide import Slide
from napari_lpd.slides.tiff.directories import STARTS
from napari_lpd.slides.tiff.reader import (
    MAX_DECODED,
    ORIENTATION,
    TO_PYRAMID,
    TO_RGB,
    TO_UPRIGHT,
    TooLargeError,
    colour_conversion,
    mpp_of_density,
    open_with_tifffile,
)

if TYPE_CHECKING:
    from pathlib import Path

VENDOR_SUFFIXES = (".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".vmu", ".svslide", ".dcm")
TIFF_SUFFIXES = (".tif", ".tiff")
DICOM_WANTED = "wanted a whole-slide image of tiles that lie in order (TILED_FULL)"

# tifffile logs what is wrong with a damaged file; it reaches the user once, as our error.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_slide(path: Path) -> bool:
    """Return whether a file's name ends like a slide's (cheap: the file is not opened)."""
    return path.name.lower().endswith((*VENDOR_SUFFIXES, *TIFF_SUFFIXES))


def open_slide(
    path: Path,
    mpp: float | None = None,
    icc: bool = False,
    override_mpp: float | None = None,
    image: int | None = None,
) -> Slide:
    """Open a slide: what OpenSlide reads, else OME-TIFF, pyramidal and flat TIFF, else an image that Pillow reads.

    Examples:
        >>> from napari_lpd import open_slide, samples
        >>> with open_slide(samples.skin_slide_path()) as slide:
        ...     slide.shape, slide.mpp, slide.read((1000, 1000), (64, 64), mpp=2.0).shape
        ((5120, 5120), (0.998, 0.998), (64, 64, 3))

    Args:
        path: The file; for DICOM any file of the series or their folder.
        mpp: Resolution in µm per pixel, if the file gives none or an impossible one.
        icc: Convert the colours to sRGB by the embedded profile, if there is one; `Slide.icc` tells the outcome.
        override_mpp: Resolution in µm per pixel in place of what the file says.
        image: Number of an image in the file, from 1, where it holds several; else the biggest in RGB is the slide.

    Raises:
        TooLargeError: a flat image, or a strip or tile of a TIFF, would take more than 512 MB decoded.
        SlideError: the file is missing, damaged, not upright, or not 8-bit RGB.
    """
    if not path.exists():
        raise SlideError(absent(path))
    given = GivenMpp(mpp, override_mpp)
    if path.is_dir() or is_dicom(path):
        return _open_dicom(path, given, icc, image)
    tiff = _start(path, 4) in STARTS
    if tiff and path.name.lower().endswith((".ome.tif", ".ome.tiff")):
        return open_with_tifffile(path, given, icc, image)
    try:
        slide = open_with_openslide(path.name, [path], given, icc, image)
    except openslide.OpenSlideUnsupportedFormatError:
        slide = None
    except openslide.OpenSlideError as error:
        if not tiff:
            raise SlideError(f"{path.name}: damaged or unreadable slide ({one_line(error)})") from error
        slide = None  # what OpenSlide knows and refuses, another reader may read
    if slide is not None:
        return slide
    return open_with_tifffile(path, given, icc, image) if tiff else _open_image(path, given, icc, image)


def _open_dicom(path: Path, given: GivenMpp, icc: bool, image: int | None) -> Slide:
    files = dicom_series(path)
    try:
        slide = open_with_openslide(path.name, files, given, icc, image)
    except openslide.OpenSlideError as error:
        raise SlideError(
            f"{path}: no DICOM slide that OpenSlide can read ({one_line(error)}): {DICOM_WANTED}"
        ) from error
    assert slide is not None  # only a TIFF is left to another reader
    return slide


def _start(path: Path, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(length)
    except OSError as error:
        raise SlideError(f"{path}: cannot be read ({error.strerror})") from error


def _open_image(path: Path, given: GivenMpp, icc: bool, number: int | None) -> Slide:
    if number not in (None, 1):
        raise SlideError(f"{path.name}: holds no image {number}, only one")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is MAX_DECODED
            image = Image.open(path)
        with image:
            _check_image(path, image)
            pixels = np.array(image)
            dpi, profile = image.info.get("dpi"), image.info.get("icc_profile")
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"{path.name}: would have to be decoded whole, and is too large: {TO_PYRAMID}") from error
    except UnidentifiedImageError as error:
        raise SlideError(f"{path.name}: not a slide or image that OpenSlide, tifffile or Pillow can read") from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise SlideError(
            f"{path.name}: damaged or truncated image ({one_line(error)}): copy or export it again"
        ) from error
    density_mpp = mpp_of_density(dpi and (float(dpi[1]), float(dpi[0])), "inch")
    resolution = choose_resolution(path.name, [(density_mpp, f"{image.format} resolution")], given)
    convert, colors = colour_conversion(path.name, profile, icc)
    return Slide(path.name, replace(array_levels([pixels], convert, colors), reader="Pillow"), resolution, [path])


def _check_image(path: Path, image: Image.Image) -> None:
    if is_slide(path):
        raise SlideError(f"{path.name}: is a flat {image.format} image: rename it to .{str(image.format).lower()}")
    size = image.width * image.height * len(image.getbands())
    if size > MAX_DECODED:
        raise TooLargeError(
            f"{path.name}: would have to be decoded whole, which takes {size / 2**20:.0f} MB: {TO_PYRAMID}"
        )
    deep = image.format == "PNG" and _start(path, 25)[24] == 16  # Pillow would cut 16 bits off silently
    if image.mode not in ("RGB", "RGBA") or deep:
        mode = f"{image.mode}, 16 bits" if deep else image.mode
        raise SlideError(f"{path.name}: has pixels of mode {mode}, wanted RGB or RGBA of 8 bits: {TO_RGB}")
    if turned := how_turned(image):
        raise SlideError(f"{path.name}: {turned}: {TO_UPRIGHT}")


def how_turned(image: Image.Image) -> str:
    """Say how an image that is not decoded yet is turned or mirrored by its EXIF or TIFF tag; "" where it is upright.

    Slides, tiles and masks that are not upright are refused alike: programs differ in whether they look at the tag, so
    that regions and masks may be meant for either.
    """
    orientation = image.getexif().get(ORIENTATION, 1)
    return "" if orientation in (0, 1) else f"is stored turned or mirrored (orientation {orientation})"
