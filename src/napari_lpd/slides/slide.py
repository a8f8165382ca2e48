"""Slide: a pyramid of RGB levels; read any rectangle at any resolution.

Only this module chooses among levels; `resolution` decides how large their pixels are. Everywhere else coordinates are
(y, x), in pixels of the requested µm per pixel (mpp). `formats` opens files.
"""

from __future__ import annotations

import hashlib
import math
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from napari_lpd.core.errors import ChangedSlideError, SlideError
from napari_lpd.slides.levels import DamagedError, Levels, array_levels
from napari_lpd.slides.resolution import choose_resolution

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import dask.array as da
    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Box
    from napari_lpd.slides.resolution import Found

DISPLAY_CHUNK = 512
DISPLAY_EDGE = 4096  # display adds halvings until the coarsest level is not larger
MAX_BLOCK = 2**25  # pixels of a level read into memory at once
NO_PROFILE = " (no profile)"  # in `Slide.icc`, where one was asked for
CELL = 128  # edge of the cells that are reported as damaged


class Slide:
    """A pyramid of RGB levels with a known, or still missing, resolution.

    Attributes:
        name: Name of the file, DICOM folder or layer; of another image than the biggest, with its number.
        image: Number of the image in its file, where another than the biggest was chosen.
        number: Number of the image in its file, from 1.
        images: All images of the file, by number, as text; empty where there is no choice.
        path: The file (of a DICOM series the first), or None for arrays and layers.
        level_shapes: (H, W) of each level, biggest first.
        mpp_source: Origin of the resolution, or why there is none.
        icc: Treatment of the colour profile: "as stored", or "sRGB by its profile NAME".
        bounds: (y0, x0, y1, x1) of what the scanner scanned, in level-0 pixels, where the file says so: other programs
            may count coordinates from its corner.
        notes: What the user should know of how the file was read, a sentence each.
        reader: What decodes the pixels: "OpenSlide", "tifffile", "tiles decoded here", "Pillow", "NumPy".
    """

    def __init__(self, name: str, levels: Levels, resolution: Found, files: Sequence[Path] = ()) -> None:
        self.image, self.number, self.images = levels.image, levels.number, dict(levels.images)
        self.name = name if self.image is None else f"{name}, image {self.image}"
        self.path = files[0] if files else None
        self.level_shapes = tuple(levels.shapes)
        self.icc, self.bounds, self.notes, self.reader = levels.icc, levels.bounds, levels.notes, levels.reader
        if self.icc.endswith(NO_PROFILE):
            self.notes += (f"{self.name} has no colour profile: its colours stay as stored, with or without --icc",)
        self._levels = levels
        self._mpp, self.mpp_source = resolution
        self._files = tuple(files)
        self._lock = threading.Lock()
        self._holders = 1  # the slide itself, and every read in progress
        self._closed = False

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
        return cls(name, array_levels(levels), choose_resolution(name, [(mpp, mpp_source)]))

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file once the reads in progress have ended; later reads raise SlideError."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._release()

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
            raise SlideError(
                f"{self.name} gives no usable resolution ({self.mpp_source}): "
                "pass mpp, in µm per pixel (--mpp; in train, --slide-mpp)"
            )
        return self._mpp

    @property
    def resolution(self) -> str:
        """µm per pixel of level 0, where it comes from, and what else there is to know of the file, as text."""
        (y, x), size = self.mpp, f"{self.mpp[1]:.4g}"
        text = f"{self.name}: {size if y == x else f'{y:.4g} x {x:.4g}'} µm per pixel ({self.mpp_source})"
        return "; ".join([text, *self.notes])

    def shape_at(self, mpp: float) -> tuple[int, int]:
        """Return (H, W) of the whole slide in pixels of `mpp`."""
        (h, w), (my, mx) = self.shape, self.mpp
        return max(1, round(h * my / mpp)), max(1, round(w * mx / mpp))

    def read(self, origin: tuple[int, int], shape: tuple[int, int], mpp: float) -> NDArray[np.uint8]:
        """Read `shape` (h, w) pixels at `mpp`, first pixel at `origin` (y, x); white outside the slide.

        The next finer level is resampled exactly (area-aware filter, sub-pixel position), so neighbouring reads
        join without a seam. A large area of a fine level is read and shrunk piece by piece (`MAX_BLOCK`).

        Returns:
            (h, w, 3) uint8 RGB.

        Raises:
            SlideError: the slide is closed, or has no resolution.
            DamagedError: the file is damaged there; the message names the location.
        """
        scale = np.array([mpp / m for m in self.mpp])  # level-0 pixels per output pixel, (y, x)
        level = self._level_for(float(scale.min()))
        step = scale * np.array(self.level_shapes[level]) / np.array(self.shape)  # level pixels per output pixel
        rows, columns = _piece(shape, step)
        if rows >= shape[0] and columns >= shape[1]:
            return self._read_piece(level, step, origin, shape)
        image = np.empty((*shape, 3), np.uint8)
        for y in range(0, shape[0], rows):
            for x in range(0, shape[1], columns):
                piece = image[y : y + rows, x : x + columns]
                piece[:] = self._read_piece(level, step, (origin[0] + y, origin[1] + x), piece.shape[:2])
        return image

    def read_tolerant(
        self, origin: tuple[int, int], shape: tuple[int, int], mpp: float
    ) -> tuple[NDArray[np.uint8], list[Box]]:
        """Read as `read`, but return unreadable cells white, with a list of them.

        Damage is located in cells of 128 x 128 pixels at `mpp`, counted from the slide's corner. Cells that the
        area cuts are tested whole, so overlapping reads agree; areas aligned with the cells cost nothing extra.

        Returns:
            (h, w, 3) uint8 RGB, and the damaged cells in the area, whole but cut off at the slide's edge, sorted:
            (y0, x0, y1, x1) in pixels of `mpp` from the slide's corner.

        Raises:
            SlideError: the slide is closed, or has no resolution.
        """
        (y, x), (h, w) = origin, shape
        height, width = self.shape_at(mpp)
        top, left = y // CELL * CELL, x // CELL * CELL
        image = np.full((-(-(y + h - top) // CELL) * CELL, -(-(x + w - left) // CELL) * CELL, 3), 255, np.uint8)
        bottom, right = min(y + h, height), min(x + w, width)
        cells = (max(y, 0) // CELL, max(x, 0) // CELL, -(-bottom // CELL), -(-right // CELL))
        pending = [cells] if cells[0] < cells[2] and cells[1] < cells[3] else []
        damaged = []
        while pending:
            box = pending.pop()
            y0, x0, y1, x1 = (edge * CELL for edge in box)
            try:
                pixels = self.read((y0, x0), (y1 - y0, x1 - x0), mpp)
            except DamagedError:
                halves = _halves(box)
                pending += halves
                if not halves:
                    damaged.append((y0, x0, min(y1, height), min(x1, width)))
            else:
                image[y0 - top : y1 - top, x0 - left : x1 - left] = pixels
        return image[y - top : y - top + h, x - left : x - left + w], sorted(damaged)

    def pyramid(self) -> list[da.Array]:
        """Return the levels as lazy dask arrays (H, W, 3) uint8, biggest first, for display.

        Where the coarsest is larger than `DISPLAY_EDGE`, halvings (every second pixel) follow.
        """
        levels = [self._lazy_level(level) for level in range(len(self.level_shapes))]
        skip = 2
        while max(levels[-1].shape[:2]) > DISPLAY_EDGE:
            levels.append(self._lazy_level(len(self.level_shapes) - 1, skip))
            skip *= 2
        return levels

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the slide, whatever its name: 16 hex digits of a SHA-256.

        Hashed are a file's size and 16 samples of its bytes (of all files of a DICOM folder), and the number of an
        image that was chosen; of arrays, the level shapes and about a megapixel of the coarsest level.
        """
        self._stamps = self._stamped()
        return self._hashed()

    def check_unchanged(self, thorough: bool = False) -> None:
        """Raise ChangedSlideError if the file's fingerprint is another now; `thorough`: also if it looks untouched."""
        first, stamps = self.fingerprint, self._stamped()
        if self._files and (thorough or stamps != self._stamps):
            if self._hashed() != first:
                raise ChangedSlideError(f"{self.name}: its file has changed since it was opened")
            self._stamps = stamps

    def _stamped(self) -> list[tuple[int, ...]]:
        """Return size, time and place on the disk of the slide's files."""
        try:
            stats = [path.stat() for path in self._files]
        except OSError as error:
            raise ChangedSlideError(f"{self.name}: its file is gone since it was opened ({error.strerror})") from error
        return [(stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats]

    def _hashed(self) -> str:
        digest = hashlib.sha256()
        if self._levels.image is not None:
            digest.update(f"image {self._levels.image}".encode())
        for path in self._files:
            try:
                _hash_file(digest, path)
            except OSError as error:
                raise SlideError(f"{path}: cannot be read ({error.strerror})") from error
        if not self._files:
            level, (h, w) = len(self.level_shapes) - 1, self.level_shapes[-1]
            skip = max(1, math.ceil(math.sqrt(h * w / 2**20)))
            rows = max(1, MAX_BLOCK // w // skip) * skip
            digest.update(repr(self.level_shapes).encode())
            for y in range(0, h, rows):
                try:
                    digest.update(self._read_level(level, y, 0, min(rows, h - y), w)[::skip, ::skip].tobytes())
                except DamagedError as error:
                    digest.update(str(error).encode())
        return digest.hexdigest()[:16]

    def _level_for(self, downsample: float) -> int:
        fits = [i for i, (h, _) in enumerate(self.level_shapes) if self.shape[0] / h <= downsample * 1.01]
        return fits[-1] if fits else 0

    def _read_piece(
        self, level: int, step: NDArray[np.float64], origin: tuple[int, int], shape: tuple[int, int]
    ) -> NDArray[np.uint8]:
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

    def _read_padded(self, level: int, first: NDArray[np.int_], last: NDArray[np.int_]) -> NDArray[np.uint8]:
        low, high = (np.clip(corner, 0, self.level_shapes[level]) for corner in (first, last))
        (y, x), (h, w) = low.tolist(), (high - low).tolist()
        if (low == first).all() and (high == last).all():
            return self._read_level(level, y, x, h, w)
        block = np.full((*(last - first).tolist(), 3), 255, np.uint8)
        if h and w:
            top, left = (low - first).tolist()
            block[top : top + h, left : left + w] = self._read_level(level, y, x, h, w)
        return block

    def _read_level(self, level: int, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
        with self._lock:
            if self._closed:
                raise SlideError(f"{self.name} is closed: open it again to read")
            self._holders += 1
        try:
            return self._levels.read(level, y, x, h, w)
        finally:
            self._release()

    def _release(self) -> None:
        """Close the file after its last read: closing it during a read would crash the process."""
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self._levels.close()

    def _lazy_level(self, level: int, skip: int = 1) -> da.Array:
        import dask.array as da  # takes a second to load, and only a display needs it

        h, w = (-(-n // skip) for n in self.level_shapes[level])
        # Halvings are read in wide, low blocks, which suit the strips of a flat file.
        rows, columns = (DISPLAY_CHUNK,) * 2 if skip == 1 else (max(1, 512 // skip), max(1, 16384 // skip))
        chunks = da.core.normalize_chunks((min(rows, h), min(columns, w), 3), (h, w, 3))

        def block(block_info: Any = None) -> NDArray[np.uint8]:
            (y0, y1), (x0, x1), _ = block_info[None]["array-location"]
            y, x, height, width = y0 * skip, x0 * skip, (y1 - y0 - 1) * skip + 1, (x1 - x0 - 1) * skip + 1
            return self._read_level(level, y, x, height, width)[::skip, ::skip].copy()  # a view would keep the block

        return da.map_blocks(block, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))


def _piece(shape: tuple[int, int], step: NDArray[np.float64]) -> tuple[int, int]:
    """Return (rows, columns) of the output to read at once: bands as wide as the area, unless they get too low."""
    if math.prod(shape) * math.prod(step) <= MAX_BLOCK:
        return shape
    rows = int(MAX_BLOCK / (shape[1] * math.prod(step)))
    if rows * step[0] >= 8 * max(step[0], 1):  # else the margins would be more than half of the pixels read
        return rows, shape[1]
    rows, columns = np.maximum(math.sqrt(MAX_BLOCK) / step, 1).astype(int).tolist()
    return rows, columns


def _halves(box: Box) -> list[Box]:
    """Halve a box of cells across its longer side; a single cell has no halves."""
    y0, x0, y1, x1 = box
    if max(y1 - y0, x1 - x0) == 1:
        return []
    y, x = (y0 + y1) // 2, (x0 + x1) // 2
    if y1 - y0 >= x1 - x0:
        return [(y0, x0, y, x1), (y, x0, y1, x1)]
    return [(y0, x0, y1, x), (y0, x, y1, x1)]


def _hash_file(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    spread = np.linspace(0, size, 16, dtype=np.int64)[1:-1].tolist()
    samples = [(0, 2**18), (max(0, size - 2**18), 2**18), *((offset, 2**16) for offset in spread)]
    digest.update(str(size).encode())
    with path.open("rb") as file:
        for offset, length in samples:
            file.seek(offset)
            digest.update(file.read(length))
