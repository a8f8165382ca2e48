"""Slides in vendor formats, read through OpenSlide."""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import numpy as np
import openslide
import tifffile

from napari_lpd.core.errors import SlideError, one_line
from napari_lpd.slides.levels import COPY, DamagedError, Levels, checked, on_white
from napari_lpd.slides.resolution import GivenMpp, choose_resolution
from napari_lpd.slides.slide import Slide
from napari_lpd.slides.tiff.directories import check_claims, read_directories
from napari_lpd.slides.tiff.ome import is_ome
from napari_lpd.slides.tiff.pyramids import choose, pyramids
from napari_lpd.slides.tiff.reader import TIFF_ERRORS, check_page, colour_conversion, mpp_of_density, pages_of
from napari_lpd.slides.tiff.tiled_jpeg import direct_jpeg_levels

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from napari_lpd.core.geometry import Box
    from napari_lpd.slides.levels import Convert
    from napari_lpd.slides.tiff.directories import Directory

VENDOR_SLACK = 0.02  # by which a vendor's levels may be wider than high, or the reverse
VENDOR_GLASS = 16  # times as many pixels as usual may lie in a vendor's file, which leaves out glass
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


def open_with_openslide(
    name: str, files: list[Path], given: GivenMpp, icc: bool, image: int | None = None
) -> Slide | None:
    """Open a file through OpenSlide; None where it is a TIFF of which tifffile reads more, or another `image`.

    Raises:
        openslide.OpenSlideError: OpenSlide cannot read it.
    """
    vendor = openslide.OpenSlide.detect_format(files[0])
    directories = _levels_for_openslide(files[0], vendor, image) if vendor in TILED_VENDORS else []
    if directories is None:
        return None
    if vendor is not None and image not in (None, 1) and not directories:
        raise SlideError(f"{name}: holds one image for its reader, OpenSlide: open it without a number")
    with ExitStack() as on_failure:
        file = _OpenSlideFile(files[0])
        on_failure.callback(file.close)
        handle = file.handle()
        properties = handle.properties
        shapes = [(h, w) for w, h in handle.level_dimensions]
        if vendor == "generic-tiff" and shapes != [each.shape for each in directories]:
            return None
        mpp = _numbers(properties.get("openslide.mpp-y"), properties.get("openslide.mpp-x"))
        source = "TIFF resolution tags" if vendor == "generic-tiff" else f"{vendor} metadata"
        dpi = _numbers(properties.get("tiff.YResolution"), properties.get("tiff.XResolution"))
        tags = mpp_of_density(dpi, properties.get("tiff.ResolutionUnit"))
        resolution = choose_resolution(name, [(mpp, source), (tags, "TIFF resolution tags")], given)
        profile = handle.color_profile if icc else None
        convert, colors = colour_conversion(name, profile and profile.tobytes(), icc)
        downsamples = handle.level_downsamples

        def read(level: int, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
            location = (round(x * downsamples[level]), round(y * downsamples[level]))
            try:
                region = file.read_region(location, level, (w, h))
            except openslide.OpenSlideError as error:
                raise DamagedError.at(name, shapes, level, (y, x, h, w), error) from error
            return on_white(np.asarray(region), convert)

        levels = Levels(shapes, read, file.close, colors, _bounds(properties), reader="OpenSlide")
        if vendor == "generic-tiff":
            levels = checked(name, levels, _size(files[0]))
        else:
            levels = checked(name, levels, VENDOR_GLASS * sum(map(_size, files)), VENDOR_SLACK)
        if directories:
            levels = _with_direct_jpeg(files[0], directories, levels, convert)
        on_failure.pop_all()
        return Slide(name, levels, resolution, files)


def _size(path: Path) -> int:
    """Return the bytes of a file; of one that points to others (mrxs, vms), those of its folder, too."""
    beside = [path.with_suffix("")] if path.suffix.lower() == ".mrxs" else []
    folders = [path.parent] if path.suffix.lower() in (".vms", ".vmu") else beside
    inside = [file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.is_file()]
    return sum(file.stat().st_size for file in {path, *inside})


def _bounds(properties: Mapping[str, str]) -> Box | None:
    """Return what the scanner scanned as (y0, x0, y1, x1), where a file says so."""
    try:
        x, y, w, h = (int(properties[f"openslide.bounds-{part}"]) for part in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    return (y, x, y + h, x + w) if w > 0 and h > 0 else None


def _with_direct_jpeg(path: Path, directories: list[Directory], levels: Levels, convert: Convert | None) -> Levels:
    """Decode the levels directly where they are plain tiled JPEG that tifffile can open; else through OpenSlide."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return direct_jpeg_levels(path, pages_of(tiff, directories), levels, convert)
    except TIFF_ERRORS:
        return levels


def _levels_for_openslide(path: Path, vendor: str, image: int | None) -> list[Directory] | None:
    """Return the directories of a TIFF's levels; None where tifffile should read it.

    That is OME-TIFF, a file of several images, and what OpenSlide would not survive or read wrongly without a word:
    tiles of impossible sizes or of more bytes than the file has, JPEG in planes; and tiles left out, where it is slow.

    Raises:
        SlideError: the biggest image cannot be what it says, or is not upright, 8-bit RGB.
    """
    directories, size = read_directories(path), path.stat().st_size
    found, _ = pyramids(directories, path.name)
    biggest, notes = choose(path.name, found, None)
    plain = vendor == "generic-tiff"
    if is_ome(directories[0].description) or (notes and plain) or choose(path.name, found, image)[0] != biggest:
        return None
    base, *others = [level[0] for level in biggest.levels]
    if not plain:  # an svs's levels need not halve each other
        others = [each for each in directories if each.tiled and not each.mask and each != base]
    try:
        with tifffile.TiffFile(path) as tiff:
            check_claims(path.name, size, [base])
            first = pages_of(tiff, [base])[0]
            check_page(path.name, first, grey=False)
            with suppress(SlideError):
                check_claims(path.name, size, others)
                return None if _odd([first, *pages_of(tiff, others)], size) else [base, *others]
    except TIFF_ERRORS as error:
        raise SlideError(f"{path.name}: damaged or truncated TIFF ({one_line(error)}): {COPY}") from error
    return None


def _odd(pages: list[tifffile.TiffPage], size: int) -> bool:
    counts = [count for page in pages for count in page.databytecounts]
    in_planes = any(page.planarconfig == 2 and page.compression == tifffile.COMPRESSION.JPEG for page in pages)
    return in_planes or max(counts) > size or counts.count(0) * 2 > len(counts)


def _numbers(*texts: str | None) -> tuple[float, float] | None:
    try:
        y, x = (float(text or "") for text in texts)
    except ValueError:
        return None
    return y, x
