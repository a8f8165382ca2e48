"""Open slide files: OpenSlide's formats, OME-TIFF and other TIFF through tifffile, flat images through Pillow.

Only RGB(A) of 8 bits, stored upright, is taken. Everything else is refused with a line that names the file and what
to do. Vendor pyramids and TIFF are read by windows; only an image that Pillow opens is decoded whole.
"""

from __future__ import annotations

import logging
import math
import struct
import threading
import warnings
from contextlib import ExitStack
from io import BytesIO
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

import numpy as np
import openslide
import tifffile
import zarr
from PIL import Image, ImageCms, UnidentifiedImageError

from napari_lpd.core.errors import SlideError, line_of
from napari_lpd.slides.slide import (
    Convert,
    DamagedError,
    Found,
    Levels,
    Slide,
    array_levels,
    choose_resolution,
    on_white,
)
from napari_lpd.slides.tiled_jpeg import decoded_here

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

VENDOR_SUFFIXES = (".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".vmu", ".svslide", ".dcm")
TIFF_SUFFIXES = (".tif", ".tiff")
TILED_VENDORS = ("aperio", "generic-tiff")  # OpenSlide's names of TIFF whose tiles lie side by side
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_DECODED = 512 * 2**20  # bytes of one strip or tile, or of an image that is decoded whole
TO_RGB = "convert it to 8-bit RGB, e.g. with `vips colourspace IN OUT.tif[tile,pyramid] srgb`"
TO_UPRIGHT = "turn it upright, e.g. with `vips autorot IN OUT.tif[tile,pyramid]`"
TO_PYRAMID = "convert it to a tiled pyramid, e.g. with `vips tiffsave IN OUT.tif --tile --pyramid`"
COPY = "copy or export it again"
ORIENTATION = 274  # TIFF and EXIF tag
# What tifffile, zarr and the codecs raise when bytes are wrong, found by changing bytes at random.
TIFF_ERRORS = (
    *(tifffile.TiffFileError, ArithmeticError, AttributeError, LookupError, OSError, ParseError, RuntimeError),
    *(TypeError, ValueError, struct.error),
)

# tifffile logs what is wrong with a damaged file; it reaches the user once, as our error.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TooLargeError(SlideError):
    """A flat image, strip or tile that would have to be decoded at once is too large for that."""


def is_slide(path: Path) -> bool:
    """Whether the file's name ends like a slide's (cheap: the file is not opened)."""
    return path.name.lower().endswith((*VENDOR_SUFFIXES, *TIFF_SUFFIXES))


def open_slide(path: Path, mpp: float | None = None, icc: bool = False) -> Slide:
    """Open a slide: what OpenSlide reads, else OME-TIFF, pyramidal and flat TIFF, else an image that Pillow reads.

    Args:
        path: The file; for DICOM any file of the series or their folder.
        mpp: Resolution in µm per pixel, when the file gives none or a wrong one.
        icc: Convert the colours to sRGB by the embedded profile, where there is one; `Slide.icc` says what was done.

    Raises:
        TooLargeError: a flat image, or a strip or tile of a TIFF, would take more than 512 MB decoded.
        SlideError: the file is missing, damaged, turned, or not RGB of 8 bits.
    """
    if not path.exists():
        raise SlideError(f"{path}: no such file")
    name, files = path.name, [path]
    if path.is_dir() or name.lower().endswith(".dcm"):
        files = dicom_series(path)
    given: Found = (None if mpp is None else (mpp, mpp), "given by the user")
    if name.lower().endswith((".ome.tif", ".ome.tiff")):
        return open_with_tifffile(path, given, icc)
    try:
        return open_with_openslide(name, files, given, icc)
    except openslide.OpenSlideUnsupportedFormatError as error:
        if path.is_dir():
            raise SlideError(f"{path}: no DICOM slide that OpenSlide can read ({line_of(error)})") from error
    except openslide.OpenSlideError as error:
        raise SlideError(f"{name}: damaged or unreadable slide ({line_of(error)})") from error
    if _start(path, 4) in TIFF_STARTS:
        return open_with_tifffile(path, given, icc)
    return _open_image(path, given, icc)


def dicom_series(path: Path) -> list[Path]:
    """The .dcm files of one slide, sorted: those in a folder that holds one series, or those of a file's series.

    Raises:
        SlideError: the folder holds none, or more than one series.
    """
    if path.is_file():
        uid = _series_uid(path)
        return [other for other in sorted(path.parent.glob("*.dcm")) if _series_uid(other) == uid] if uid else [path]
    files = sorted(path.glob("*.dcm"))
    if not files:
        raise SlideError(f"{path}: a folder without .dcm files is not a slide")
    series = {_series_uid(file) for file in files} - {b""}
    if len(series) > 1:
        raise SlideError(f"{path}: holds {len(series)} DICOM series: open one of its .dcm files instead")
    return files


def _series_uid(path: Path) -> bytes:
    """SeriesInstanceUID (0020,000E) in the head of a DICOM file with explicit types; b"" where it is not found."""
    head = _start(path, 2**16)
    tag = head.find(b"\x20\x00\x0e\x00UI")
    length = int.from_bytes(head[tag + 6 : tag + 8], "little")
    return head[tag + 8 : tag + 8 + length] if tag >= 0 else b""


def _start(path: Path, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(length)
    except OSError as error:
        raise SlideError(f"{path}: cannot be read ({error.strerror})") from error


class _OpenSlideFile:
    """An OpenSlide handle that outlives damage.

    A handle that has raised once raises for ever, for all threads. It is dropped, and closes when the last thread
    has left it. A place counts as damaged only if a handle that nobody else uses cannot read it either.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._handle: openslide.OpenSlide | None = openslide.OpenSlide(path)

    def handle(self) -> openslide.OpenSlide:
        """The handle that all threads share."""
        with self._lock:
            if self._handle is None:
                self._handle = openslide.OpenSlide(self._path)
            return self._handle

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """OpenSlide's read_region; (x, y) and (w, h).

        Raises:
            openslide.OpenSlideError: this place is damaged.
        """
        shared = self.handle()
        try:
            return shared.read_region(location, level, size)
        except openslide.OpenSlideError:
            with self._lock:
                if self._handle is shared:
                    self._handle = None
        with openslide.OpenSlide(self._path) as own:
            return own.read_region(location, level, size)

    def close(self) -> None:
        """Close the shared handle; nobody may be reading."""
        if self._handle is not None:
            self._handle.close()


def open_with_openslide(name: str, files: list[Path], given: Found, icc: bool) -> Slide:
    with ExitStack() as on_failure:
        file = _OpenSlideFile(files[0])
        on_failure.callback(file.close)
        handle = file.handle()
        properties = handle.properties
        vendor = properties.get("openslide.vendor", "file")
        if vendor == "generic-tiff" and _needs_tifffile(files[0]):
            return open_with_tifffile(files[0], given, icc)
        found = _numbers(properties.get("openslide.mpp-y"), properties.get("openslide.mpp-x"))
        source = "TIFF resolution tags" if vendor == "generic-tiff" else f"{vendor} metadata"
        dpi = _numbers(properties.get("tiff.YResolution"), properties.get("tiff.XResolution"))
        tags = mpp_of_density(dpi, properties.get("tiff.ResolutionUnit"))
        resolution = choose_resolution(name, [given, (found, source), (tags, "TIFF resolution tags")])
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
            levels = _faster(files[0], levels, convert)
        on_failure.pop_all()
        return Slide(name, levels, resolution, files)


def _faster(path: Path, levels: Levels, convert: Convert | None) -> Levels:
    """The levels decoded here, where they are plain tiled JPEG; OpenSlide's, too, where tifffile finds no way in."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return decoded_here(path, tiff.pages, levels, convert)
    except TIFF_ERRORS:
        return levels


def _numbers(*texts: str | None) -> tuple[float, float] | None:
    try:
        y, x = (float(text or "") for text in texts)
    except ValueError:
        return None
    return y, x


def _needs_tifffile(path: Path) -> bool:
    """Whether tifffile sees more of a TIFF than OpenSlide does, which is so for OME-TIFF whatever its name.

    Raises:
        SlideError: it is not RGB of 8 bits, upright, in tiles of a sane size; OpenSlide would show it all the same.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            if not tiff.is_ome:
                check_page(path.name, tiff.pages.first, grey=False)
            return bool(tiff.is_ome)
    except TIFF_ERRORS as error:
        raise SlideError(f"{path.name}: damaged or truncated TIFF ({line_of(error)}): {COPY}") from error


def check_page(name: str, page: tifffile.TiffPage, grey: bool) -> None:
    """Refuse what is turned, not of 8 bits, not decoded to RGB (or to one `grey` plane of it), or not cut up."""
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
        raise TooLargeError(f"{name}: one strip or tile of it is {size / 2**20:.0f} MB decoded: {TO_PYRAMID}")


def open_with_tifffile(path: Path, given: Found, icc: bool) -> Slide:
    with ExitStack() as on_failure:
        try:
            tiff = on_failure.enter_context(tifffile.TiffFile(path))
            slide = _tiff_slide(path, tiff, given, icc)
        except TIFF_ERRORS as error:
            raise SlideError(f"{path.name}: damaged or truncated TIFF ({line_of(error)}): {COPY}") from error
        on_failure.pop_all()
        return slide


def _tiff_slide(path: Path, tiff: tifffile.TiffFile, given: Found, icc: bool) -> Slide:
    if not tiff.series:
        raise SlideError(f"{path.name}: damaged or truncated TIFF (it says where no image is): {COPY}")
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

    candidates = [given, (_ome_mpp(tiff), "OME metadata"), (_tag_mpp(tiff), "TIFF resolution tags")]
    resolution = choose_resolution(path.name, candidates)
    levels = [level.keyframe for level in series.levels]
    return Slide(
        path.name, decoded_here(path, levels, Levels(shapes, read, close, colors), convert), resolution, [path]
    )


def _tiff_array(level: tifffile.TiffPageSeries) -> Any:
    """A level that decodes only what is indexed; where nothing is encoded, the file itself as memory."""
    if level.dataoffset is not None:
        file = level.keyframe.parent.filehandle.path
        return np.memmap(file, np.uint8, "r", level.dataoffset, level.shape)
    return zarr.open_array(level.aszarr(level=0, fillvalue=255), mode="r")  # places without data are white


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
    um_per_unit = {"inch": 25400.0, "centimeter": 10000.0}.get(unit or "")
    if pixels_per_unit is None or um_per_unit is None or min(pixels_per_unit) <= 0:
        return None
    return um_per_unit / pixels_per_unit[0], um_per_unit / pixels_per_unit[1]


def _open_image(path: Path, given: Found, icc: bool) -> Slide:
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
            f"{path.name}: damaged or truncated image ({line_of(error)}): copy or export it again"
        ) from error
    found = mpp_of_density(dpi and (float(dpi[1]), float(dpi[0])), "inch")
    resolution = choose_resolution(path.name, [given, (found, f"{image.format} resolution")])
    convert, colors = colour_conversion(path.name, profile, icc)
    return Slide(path.name, array_levels([pixels], convert, colors), resolution, [path])


def _check_image(path: Path, image: Image.Image) -> None:
    if is_slide(path):
        raise SlideError(f"{path.name}: is a flat {image.format} image: rename it to .{str(image.format).lower()}")
    size = image.width * image.height * len(image.getbands())
    if size > MAX_DECODED:
        raise TooLargeError(
            f"{path.name}: would have to be decoded whole, which takes {size / 2**20:.0f} MB: {TO_PYRAMID}"
        )
    deep = image.format == "PNG" and _start(path, 25)[24] == 16  # Pillow would cut 16 bits off without a word
    if image.mode not in ("RGB", "RGBA") or deep:
        mode = f"{image.mode}, 16 bits" if deep else image.mode
        raise SlideError(f"{path.name}: has pixels of mode {mode}, wanted RGB or RGBA of 8 bits: {TO_RGB}")
    orientation = image.getexif().get(ORIENTATION, 1)
    if orientation != 1:
        raise SlideError(f"{path.name}: is stored turned or mirrored (orientation {orientation}): {TO_UPRIGHT}")


def colour_conversion(name: str, profile: bytes | None, icc: bool) -> tuple[Convert | None, str]:
    """What converts (h, w, 3) to sRGB, if that is asked for and possible, and a word on what is done."""
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
            f"{name}: its colour profile cannot be used ({line_of(error)}): open it without icc"
        ) from error

    def convert(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(ImageCms.applyTransform(image, transform))

    return convert, f"sRGB by its profile {title}"
