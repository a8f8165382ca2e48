"""Direct decoding of plain tiled JPEG in TIFF, several times as fast as OpenSlide and tifffile.

`direct_jpeg_levels` takes the levels of another reader and returns the same levels, decoded directly, if all of them
are plain and decode to the same pixels; else it returns those of the reader.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tifffile
from simplejpeg import decode_jpeg

from napari_lpd.slides.levels import DamagedError, Levels
from napari_lpd.slides.tiff.pixels import StoredBytes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.slides.levels import Convert

MAX_TILE = 1024  # its edge; of larger tiles too many unneeded pixels are decoded
MAX_BYTES = 2**24  # of an encoded tile; more means damage, and is not read
KEPT = 2**25  # bytes of decoded tiles
SAME_COLOUR = 1.0  # of 255; means over a tile
START, END = b"\xff\xd8", b"\xff\xd9"
# Marker of a JPEG's colour encoding, without its last byte. Aperio's files state the encoding in the TIFF alone.
ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
ENCODED = {tifffile.PHOTOMETRIC.RGB: b"\0", tifffile.PHOTOMETRIC.YCBCR: b"\1"}


class _Level(NamedTuple):
    """The tiles of one image.

    Attributes:
        shape: (H, W) of the image.
        tile: (h, w) of every tile, the last ones too.
        offsets: (rows, columns) of the first bytes in the file.
        sizes: (rows, columns) in bytes.
        head: Bytes to put before each tile: start, tables, colours.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    head: bytes


def direct_jpeg_levels(
    path: Path, pages: Iterable[tifffile.TiffPage], levels: Levels, convert: Convert | None
) -> Levels:
    """Return the levels decoded directly and close the reader of `levels`, or return `levels` where that fails.

    Every level must be the one page of its size that is tiled, of 8-bit JPEG in RGB or YCbCr without holes, in tiles of
    up to `MAX_TILE`; and of every level the first tile must equal bit for bit that of `levels`, the tile of most
    bytes in the mean colour.

    Args:
        path: The TIFF.
        pages: Images in it that may be levels; they are read only during the call.
        levels: The levels of another reader.
        convert: Colour conversion of `levels`.
    """
    tiled = [page for page in pages if page.is_tiled]
    plain = []
    for shape in levels.shapes:
        pages_of_size = [page for page in tiled if (page.imagelength, page.imagewidth) == shape]
        plain += [_level(page) for page in pages_of_size if len(pages_of_size) == 1 and _is_plain(page)]
    if len(plain) != len(levels.shapes):
        return levels
    tiles = _Tiles(path, plain, convert)
    direct = replace(levels, read=tiles.read, close=tiles.close, reader="tiles decoded here")
    with ExitStack() as on_mismatch:
        on_mismatch.callback(tiles.close)
        if not all(_matches_reader(level, plain[level], direct, levels) for level in range(len(plain))):
            return levels
        on_mismatch.pop_all()
    levels.close()
    return direct


def _is_plain(page: tifffile.TiffPage) -> bool:
    rows, columns = -(-page.imagelength // page.tilelength), -(-page.imagewidth // page.tilewidth)
    return (
        page.compression == tifffile.COMPRESSION.JPEG
        and page.photometric in ENCODED
        and page.planarconfig == tifffile.PLANARCONFIG.CONTIG
        and (page.samplesperpixel, page.bitspersample, page.imagedepth, page.tiledepth) == (3, 8, 1, 1)
        and max(page.tilelength, page.tilewidth) <= MAX_TILE
        and len(page.dataoffsets) == len(page.databytecounts) == rows * columns
        and min(page.databytecounts) > 0
        and max(page.databytecounts) <= MAX_BYTES
    )


def _level(page: tifffile.TiffPage) -> _Level:
    tables = (page.jpegtables or START + END).removesuffix(END)
    rows = -(-page.imagelength // page.tilelength)
    return _Level(
        (page.imagelength, page.imagewidth),
        (page.tilelength, page.tilewidth),
        np.array(page.dataoffsets, np.int64).reshape(rows, -1),
        np.array(page.databytecounts, np.int64).reshape(rows, -1),
        tables + ADOBE + ENCODED[page.photometric],
    )


def _matches_reader(level: int, plain: _Level, direct: Levels, reader: Levels) -> bool:
    """Compare the first tile bit for bit, and the fullest, where OpenSlide may interpolate, in mean colour."""
    (high, wide), (height, width) = plain.tile, plain.shape
    row, column = (int(i) for i in np.unravel_index(plain.sizes.argmax(), plain.sizes.shape))
    first = (0, 0, min(high, height), min(wide, width))
    y, x = row * high, column * wide
    fullest = (y, x, min(high, height - y), min(wide, width - x))
    try:
        same = np.array_equal(direct.read(level, *first), reader.read(level, *first))
        one, other = (levels.read(level, *fullest).mean((0, 1)) for levels in (direct, reader))
    except DamagedError:
        return False
    return same and bool(np.abs(one - other).max() <= SAME_COLOUR)


class _Tiles:
    """Reader of plain tiled JPEG levels; several threads may read at once."""

    def __init__(self, path: Path, levels: list[_Level], convert: Convert | None) -> None:
        self._name, self._levels, self._convert = path.name, levels, convert
        self._file = StoredBytes(path)
        # A tile that a window cuts is needed by the next window, too; `_decode` itself returns new arrays.
        self._kept = lru_cache(KEPT // (3 * max(level.tile[0] * level.tile[1] for level in levels)))(self._decode)

    def close(self) -> None:
        """Close the file and drop the cached tiles; no read may be in progress."""
        self._file.close()
        self._kept.cache_clear()

    def read(self, level: int, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
        """Read a window (h, w, 3); see `Levels.read`.

        Raises:
            DamagedError: a tile that the window touches cannot be read, or is not the JPEG it should be.
        """
        (high, wide), window = self._levels[level].tile, np.empty((h, w, 3), np.uint8)
        for row in range(y // high, -(-(y + h) // high)):
            for column in range(x // wide, -(-(x + w) // wide)):
                top, left = row * high - y, column * wide - x
                complete = min(top, left) >= 0 and top + high <= h and left + wide <= w
                try:
                    tile = (self._decode if complete else self._kept)(level, row, column)
                except (OSError, ValueError) as error:
                    shapes = [one.shape for one in self._levels]
                    raise DamagedError.at(self._name, shapes, level, (y, x, h, w), error) from error
                target = window[max(top, 0) : top + high, max(left, 0) : left + wide]
                target[:] = tile[max(-top, 0) :, max(-left, 0) :][: target.shape[0], : target.shape[1]]
        return window if self._convert is None else self._convert(window)

    def _decode(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        """Decode a tile (h, w, 3).

        Raises:
            OSError: the file cannot be read.
            ValueError: the bytes are no JPEG, or one of another size, or the decoder had to skip or guess some.
        """
        tiles = self._levels[level]
        content = self._file.read(int(tiles.offsets[row, column]), int(tiles.sizes[row, column]))
        if not content.startswith(START):
            raise ValueError("no JPEG")
        pixels = decode_jpeg(tiles.head + content[2:], "RGB", buffer=np.empty((*tiles.tile, 3), np.uint8))
        if pixels.shape[:2] != tiles.tile:
            raise ValueError(f"a tile of {pixels.shape[1]}x{pixels.shape[0]} pixels")
        return pixels
