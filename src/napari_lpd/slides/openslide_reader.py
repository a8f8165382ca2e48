"""Slides in vendor formats, read through OpenSlide."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import openslide
import tifffile

from napari_lpd.core.errors import SlideError, one_line
from napari_lpd.slides.resolution import GivenMpp, choose_resolution
from napari_lpd.slides.slide import Convert, DamagedError, Levels, Slide, on_white
from napari_lpd.slides.tiff_reader import (
    COPY,
    TIFF_ERRORS,
    check_page,
    colour_conversion,
    mpp_of_density,
    open_with_tifffile,
)
from napari_lpd.slides.tiled_jpeg import direct_jpeg_levels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

TILED_VENDORS = ("aperio", "generic-tiff")  # OpenSlide's names of TIFF whose tiles lie side by side


class _OpenSlideFile:
    """An OpenSlide handle that survives damaged tiles.

    A handle that has raised once raises forever, in all threads. It is dropped, and closes when the last thread has
    left it. A location counts as damaged only if a new handle cannot read it either.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._handle: openslide.OpenSlide | None = openslide.OpenSlide(path)

    def handle(self) -> openslide.OpenSlide:
        """Return the handle that all threads share, opened anew if it was dropped."""
        with self._lock:
            if self._handle is None:
                self._handle = openslide.OpenSlide(self._path)
            return self._handle

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """Read a region as OpenSlide does: `location` (x, y) in level 0, `size` (w, h).

        Raises:
            openslide.OpenSlideError: this location is damaged.
        """
        shared = self.handle()
        try:
            return shared.read_region(location, level, size)
        except openslide.OpenSlideError:
            with self._lock:
                if self._handle is shared:
                    self._handle = None
        with openslide.OpenSlide(self._path) as new:
            return new.read_region(location, level, size)

    def close(self) -> None:
        """Close the shared handle; no read may be in progress."""
        if self._handle is not None:
            self._handle.close()


def open_with_openslide(name: str, files: list[Path], given: GivenMpp, icc: bool) -> Slide:
    """Open a file through OpenSlide, or through tifffile where that reads more of it."""
    with ExitStack() as on_failure:
        file = _OpenSlideFile(files[0])
        on_failure.callback(file.close)
        handle = file.handle()
        properties = handle.properties
        vendor = properties.get("openslide.vendor", "file")
        if vendor == "generic-tiff" and _needs_tifffile(files[0]):
            return open_with_tifffile(files[0], given, icc)
        mpp = _numbers(properties.get("openslide.mpp-y"), properties.get("openslide.mpp-x"))
        source = "TIFF resolution tags" if vendor == "generic-tiff" else f"{vendor} metadata"
        dpi = _numbers(properties.get("tiff.YResolution"), properties.get("tiff.XResolution"))
        tags = mpp_of_density(dpi, properties.get("tiff.ResolutionUnit"))
        resolution = choose_resolution(name, [(mpp, source), (tags, "TIFF resolution tags")], given)
        profile = handle.color_profile if icc else None
        convert, colors = colour_conversion(name, profile and profile.tobytes(), icc)
        shapes = [(h, w) for w, h in handle.level_dimensions]
        downsamples = handle.level_downsamples

        def read(level: int, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
            location = (round(x * downsamples[level]), round(y * downsamples[level]))
            try:
                region = file.read_region(location, level, (w, h))
            except openslide.OpenSlideError as error:
                raise DamagedError.at(name, shapes, level, (y, x, h, w), error) from error
            return on_white(np.asarray(region), convert)

        levels = Levels(shapes, read, file.close, colors)
        if vendor in TILED_VENDORS:
            levels = _with_direct_jpeg(files[0], levels, convert)
        on_failure.pop_all()
        return Slide(name, levels, resolution, files)


def _with_direct_jpeg(path: Path, levels: Levels, convert: Convert | None) -> Levels:
    """Decode the levels directly where they are plain tiled JPEG that tifffile can open; else through OpenSlide."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return direct_jpeg_levels(path, tiff.pages, levels, convert)
    except TIFF_ERRORS:
        return levels


def _numbers(*texts: str | None) -> tuple[float, float] | None:
    try:
        y, x = (float(text or "") for text in texts)
    except ValueError:
        return None
    return y, x


def _needs_tifffile(path: Path) -> bool:
    """Return whether tifffile reads more of a TIFF than OpenSlide: so for OME-TIFF, whatever its name.

    Raises:
        SlideError: it is not upright, 8-bit RGB in tiles of a sane size, which OpenSlide does not check.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            if not tiff.is_ome:
                check_page(path.name, tiff.pages.first, grey=False)
            return bool(tiff.is_ome)
    except TIFF_ERRORS as error:
        raise SlideError(f"{path.name}: damaged or truncated TIFF ({one_line(error)}): {COPY}") from error
