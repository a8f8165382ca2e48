"""Pixels of a TIFF's image by windows: stored bytes are read at their place, tiles and strips decoded one by one."""

from __future__ import annotations

import math
import os
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_lpd.core.errors import one_line

if TYPE_CHECKING:
    from pathlib import Path

    import tifffile
    from numpy.typing import NDArray

KEPT = 2**23  # bytes of decoded parts that windows cut
LARGE = 2**25  # bytes of a part; of larger ones a single one is decoded and kept at a time
STEP = 3 * 2**12  # bytes from row to row up to which they are read together: what is between takes less than calls
TOGETHER = 2**22  # bytes of rows that are read together
MISSING = 255  # tiles that a file leaves out are white


class StoredBytes:
    """Bytes of a file, read at any place by several threads at once; never a map of it, as the file may shrink.

    Attributes:
        size: Of the file when it was opened, in bytes.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = self._file.seek(0, 2)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the file; no read may be in progress."""
        self._file.close()

    def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes from `offset`.

        Raises:
            OSError: the file cannot be read.
            ValueError: it ends before.
        """
        if offset + size > self.size:
            raise ValueError(f"the file ends {offset + size - self.size} bytes too early")
        if hasattr(os, "pread"):
            content = os.pread(self._file.fileno(), size, offset)
        else:
            with self._lock:
                self._file.seek(offset)
                content = self._file.read(size)
        self._check(len(content), size)
        return content

    def read_rows(self, offset: int, step: int, target: NDArray[np.uint8]) -> None:
        """Fill an array (rows, bytes), whose rows lie `step` bytes from each other, from `offset`; errors as `read`.

        Rows that are close to each other are read together, with what is between them.
        """
        rows, size = target.shape
        if step == size:
            self._fill(target.reshape(-1), offset)
        elif step > STEP:
            starts, file = range(offset, offset + rows * step, step), self._file.fileno()
            if pread := getattr(os, "pread", None):  # by hand: calls are most of the time of a narrow window
                content = b"".join([pread(file, size, start) for start in starts])
            else:
                content = b"".join([self.read(start, size) for start in starts])
            self._check(len(content), target.size)
            target[:] = np.frombuffer(content, np.uint8).reshape(target.shape)
        else:
            for top in range(0, rows, at_once := max(1, TOGETHER // step)):
                piece = target[top : top + at_once]
                span = np.empty((len(piece) - 1) * step + size, np.uint8)
                self._fill(span, offset + top * step)
                piece[:] = np.lib.stride_tricks.as_strided(span, piece.shape, (step, 1))

    def _fill(self, target: NDArray[np.uint8], offset: int) -> None:
        if hasattr(os, "preadv"):
            found = os.preadv(self._file.fileno(), (target.data,), offset)
        else:
            with self._lock:
                self._file.seek(offset)
                found = self._file.readinto(target.data) or 0
        self._check(found, target.size)

    @staticmethod
    def _check(found: int, wanted: int) -> None:
        if found < wanted:
            raise ValueError(f"the file ends {wanted - found} bytes too early")


class PagePixels:
    """Pixels (H, W, samples) of a page, read by windows; errors of the codecs come through as they are.

    Attributes:
        shape: (H, W, samples).
    """

    def __init__(self, file: StoredBytes, page: tifffile.TiffPage) -> None:
        """Look at how the pixels are stored.

        Raises:
            ValueError: they are stored as they are, and the file ends before their end.
        """
        self.shape: tuple[int, int, int] = (page.imagelength, page.imagewidth, page.samplesperpixel)
        self._decode_part = page.decode  # made here, as it may look into the open file
        self._file, self._page, self._planar = file, page, page.planarconfig == 2 and page.samplesperpixel > 1
        high, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        self._part, self._across = (int(high), int(wide)), -(-self.shape[1] // int(wide))
        self._down = -(-self.shape[0] // self._part[0])
        self._contiguous: int | None = page.dataoffsets[0] if page.is_final else None
        if self._contiguous is not None:
            file.read(self._contiguous + math.prod(self.shape) - 1, 1)
        size = int(high) * int(wide) * (1 if self._planar else self.shape[2])
        # A part that a window cuts is needed by the next window, too.
        self._kept = lru_cache(max(1, KEPT // size))(self._decode) if size <= LARGE else None
        self._large: dict[int, NDArray[Any] | str | None] = {}  # an error's text: an error would keep what led to it
        self._lock = threading.Lock()

    def close(self) -> None:
        """Drop the decoded tiles."""
        self._large.clear()
        if self._kept is not None:
            self._kept.cache_clear()

    def read(self, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
        """Read a window (h, w, samples)."""
        planes = self.shape[2] if self._planar else 1
        if self._kept is None and self._contiguous is None:  # a large part that is damaged needs no window
            self._decoded(y // self._part[0] * self._across + x // self._part[1], complete=False)
        if self._contiguous is not None:
            return self._stored(self._contiguous, planes, (y, x, h, w))
        window = np.full((h, w, self.shape[2]), MISSING, np.uint8)
        for plane in range(planes):
            self._read_parts(plane, y, x, window[..., plane : plane + 1] if self._planar else window)
        return window

    def _stored(self, offset: int, planes: int, window: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """Read a window (y, x, h, w) of samples that lie in the file row after row as they are."""
        (height, wide, samples), (y, x, h, w) = self.shape, window
        pixels, step = np.empty((h, w, samples), np.uint8), wide * samples // planes
        for plane in range(planes):
            rows = pixels.reshape(h, w * samples) if planes == 1 else np.empty((h, w), np.uint8)
            self._file.read_rows(offset + (plane * height + y) * step + x * samples // planes, step, rows)
            if planes > 1:
                pixels[..., plane] = rows
        return pixels

    def _read_parts(self, plane: int, y: int, x: int, target: NDArray[np.uint8]) -> None:
        (high, wide), (h, w) = self._part, target.shape[:2]
        for row in range(y // high, -(-(y + h) // high)):
            for column in range(x // wide, -(-(x + w) // wide)):
                top, left = row * high - y, column * wide - x
                complete = min(top, left) >= 0 and top + high <= h and left + wide <= w
                part = self._decoded((plane * self._down + row) * self._across + column, complete)
                if part is not None:
                    place = target[max(top, 0) : top + high, max(left, 0) : left + wide]
                    piece = part[max(-top, 0) :, max(-left, 0) :][: place.shape[0], : place.shape[1]]
                    if piece.shape != place.shape:
                        raise ValueError(f"a part of {part.shape[1]}x{part.shape[0]} pixels, wanted {wide}x{high}")
                    place[:] = piece

    def _decoded(self, index: int, complete: bool) -> NDArray[Any] | None:
        """Decode a part, or take it from those that are kept; of large ones, one at a time, failed ones too."""
        if self._kept is not None:
            return self._decode(index) if complete else self._kept(index)
        with self._lock:
            if index not in self._large:
                self._large.clear()
                try:
                    self._large[index] = self._decode(index)
                except Exception as error:
                    self._large[index] = one_line(error)
                    raise
            found = self._large[index]
        if isinstance(found, str):
            raise ValueError(found)
        return found

    def _decode(self, index: int) -> NDArray[Any] | None:
        """Decode a tile or strip (h, w, samples); None where the file leaves it out."""
        offset, size = self._page.dataoffsets[index], self._page.databytecounts[index]
        if not size or not offset:
            return None
        decoded, _, _ = self._decode_part(
            self._file.read(offset, size), index, jpegtables=self._page.jpegtables, jpegheader=self._page.jpegheader
        )
        part: NDArray[Any] | None = None if decoded is None else decoded[0]
        return part
