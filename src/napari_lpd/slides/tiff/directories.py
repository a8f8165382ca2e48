"""The directories of a TIFF, walked within bounds: numbers are claims, checked before a library believes them."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, NamedTuple

from napari_lpd.core.errors import SlideError
from napari_lpd.slides.levels import COPY, check_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_DIRECTORIES, MAX_ENTRIES = 4096, 2**16  # of a file
MAX_SAMPLES = 4096  # of a pixel
MAX_TILE = 2**26  # pixels
MAX_TAG = 2**26  # bytes of one tag's values: the places of 8 million tiles
MAX_TEXT = 2**24  # bytes of a description
REDUCED, MASK = 1, 4  # bits of NewSubfileType
TRANSPARENCY = 4  # photometric interpretation of a mask
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
LETTERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
KIND, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION = 254, 256, 257, 258, 259, 262, 270
STRIPS, SAMPLES, ROWS, STRIP_SIZES, PLANAR = 273, 277, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_SIZES, CHILDREN, FORMAT = 322, 323, 324, 325, 330, 339


class ManyImagesError(SlideError):
    """A TIFF holds more images than a slide's file has: a stack or a series over time."""


class Directory(NamedTuple):
    """One image of a TIFF, as its header describes it.

    Attributes:
        offset: Where it stands in the file.
        values: The first values of the tags that count here.
        lengths: How many values each tag has.
        children: Directories below it (SubIFDs).
        description: Text of tag 270.
    """

    offset: int
    values: dict[int, tuple[int, ...]]
    lengths: dict[int, int]
    children: tuple[Directory, ...]
    description: str

    def first(self, tag: int, default: int = 0) -> int:
        """Return a tag's first value."""
        return (self.values.get(tag) or (default,))[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.first(HEIGHT), self.first(WIDTH)

    @property
    def tiled(self) -> bool:
        """Whether it is stored in tiles, not strips."""
        return TILE_WIDTH in self.values

    @property
    def largest_part(self) -> int:
        """Bytes of a strip or tile when it is decoded; 0 where nothing has to be."""
        height, width = self.shape
        rows, columns = self.first(TILE_HEIGHT), self.first(TILE_WIDTH)
        if not self.tiled:
            rows, columns = min(self.first(ROWS, height), height), width
        samples = self.first(SAMPLES, 1) if self.first(PLANAR, 1) == 1 else 1
        return 0 if self.first(COMPRESSION, 1) == 1 else rows * columns * samples

    @property
    def reduced(self) -> bool:
        """Whether it says that it is a smaller copy of another image."""
        return bool(self.first(KIND) & REDUCED)

    @property
    def mask(self) -> bool:
        """Whether it says that it is a mask."""
        return bool(self.first(KIND) & MASK) or self.first(PHOTOMETRIC) == TRANSPARENCY

    @property
    def rgb(self) -> bool:
        """Whether its samples are three or four of 8 bits, in colours."""
        deep = any(bits != 8 for bits in self.values.get(BITS, (1,)))
        return not deep and self.first(SAMPLES, 1) in (3, 4) and self.first(PHOTOMETRIC) in (2, 6)


class _File:
    """A TIFF's numbers, read at any place of the file.

    Raises:
        SlideError: (all methods) the file ends before, or says something impossible.
    """

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name, self._file = name, file
        self.size = file.seek(0, 2)
        head = self.read(0, 16, "its head")
        self.order = "<" if head[:2] == b"II" else ">"
        self.big = 43 in head[2:4]
        self.root = self._number(head[8:16] if self.big else head[4:8])
        self._entries = MAX_ENTRIES

    def damaged(self, what: str) -> SlideError:
        """Make the error for a damaged file."""
        return SlideError(f"{self.name}: damaged or truncated TIFF ({what}): {COPY}")

    def read(self, offset: int, length: int, what: str) -> bytes:
        """Read bytes."""
        if offset + length > self.size + 8:  # a classic file may end with its header or its last directory
            raise self.damaged(f"{what} lies behind the end of the file")
        self._file.seek(offset)
        return self._file.read(length)

    def _number(self, content: bytes) -> int:
        letter = "Q" if self.big else "I"
        try:
            return int(struct.unpack(self.order + letter, content)[0])
        except struct.error as error:
            raise self.damaged("it ends within a directory") from error

    def directory(self, offset: int) -> tuple[Directory, tuple[int, ...], int]:
        """Read the directory at `offset`, without its children, whose offsets follow, and the next one's offset."""
        width, entry, word = (8, 20, 8) if self.big else (2, 12, 4)
        head = self.read(offset, width, f"the directory at byte {offset}").ljust(width, b"\0")
        count = int.from_bytes(head, "little" if self.order == "<" else "big")
        self._entries -= count
        if not count or self._entries < 0:
            raise self.damaged(f"the directory at byte {offset} says it has {count} tags")
        table = self.read(offset + width, count * entry + word, f"the directory at byte {offset}")
        values: dict[int, tuple[int, ...]] = {}
        lengths: dict[int, int] = {}
        text = ""
        for start in range(0, count * entry, entry):
            tag, kind = struct.unpack(self.order + "HH", table[start : start + 4])
            length = self._number(table[start + 4 : start + 4 + word])
            place = table[start + 4 + word : start + entry]
            size = SIZES.get(kind, 1) * length
            if size > len(place) and (size > MAX_TAG or size > self.size):
                raise self.damaged(f"tag {tag} says it has {length} values, more than the file can hold")
            lengths[tag] = length
            if tag == DESCRIPTION and size <= MAX_TEXT:
                text = self._content(place, size, tag).rstrip(b"\0").decode("utf-8", "replace")
            elif kind in LETTERS and tag in (*range(KIND, TILES), CHILDREN, FORMAT):
                few = min(length, MAX_DIRECTORIES if tag == CHILDREN else 8)
                content = self._content(place, SIZES[kind] * few, tag)
                values[tag] = struct.unpack(f"{self.order}{few}{LETTERS[kind]}", content)
        return (
            Directory(offset, values, lengths, (), text),
            values.get(CHILDREN, ()),
            self._number(table[count * entry : count * entry + word].ljust(word, b"\0")),
        )

    def _content(self, place: bytes, size: int, tag: int) -> bytes:
        if size <= len(place):
            return place[:size]
        return self.read(self._number(place), size, f"the content of tag {tag}").ljust(size, b"\0")


def read_directories(path: Path) -> list[Directory]:
    """Read what a TIFF's directories say, within bounds: at most `MAX_DIRECTORIES`, none twice.

    Raises:
        SlideError: the file cannot be read, is damaged, or its directories run in a circle.
    """
    try:
        with path.open("rb") as file:
            return list(_chain(_File(path.name, file)))
    except OSError as error:
        raise SlideError(f"{path}: cannot be read ({error.strerror})") from error


def _chain(file: _File) -> Iterator[Directory]:
    seen: set[int] = set()

    def read(offset: int) -> tuple[Directory, int]:
        if offset in seen:
            raise file.damaged("its directories run in a circle")
        if len(seen) >= MAX_DIRECTORIES:
            raise ManyImagesError(
                f"{file.name}: holds over {MAX_DIRECTORIES} images: save the slide as a file of its own"
            )
        seen.add(offset)
        found, children, following = file.directory(offset)
        below = tuple(read(child)[0] for child in children if child >= 8 and found.offset != child)
        return found._replace(children=below), following

    offset = file.root
    if not offset:
        raise file.damaged("it contains no image")
    while offset:
        found, offset = read(offset)
        yield found


def check_claims(name: str, size: int, images: Sequence[Directory]) -> None:
    """Check that what images say of themselves can be: their sizes, tiles and samples.

    Args:
        name: Of the file.
        size: Of the file, in bytes.
        images: Of which the slide is to be made.

    Raises:
        SlideError: one cannot be; the message says what it claims.
    """
    for image in images:
        (height, width), planar = image.shape, image.first(PLANAR, 1)
        if not 0 < image.first(SAMPLES, 1) <= MAX_SAMPLES:
            raise SlideError(f"{name}: damaged TIFF ({image.first(SAMPLES)} samples for each pixel): {COPY}")
        if planar not in (1, 2):
            raise SlideError(f"{name}: damaged TIFF (planar configuration {planar}; there are 1 and 2): {COPY}")
        if any(kind not in range(1, 7) for kind in image.values.get(FORMAT, (1,))):
            raise SlideError(f"{name}: damaged TIFF (sample format {image.first(FORMAT)}; there are 1 to 6): {COPY}")
        check_pixels(name, image.shape, size)
        if problem := _misses_parts(image, size):
            raise SlideError(f"{name}: damaged TIFF (says it has {width} x {height} pixels{problem}): {COPY}")


def _misses_parts(image: Directory, size: int) -> str:
    """Say which of the strips or tiles that an image needs cannot be in a file of `size` bytes; "" if all can be."""
    height, width = image.shape
    if image.first(COMPRESSION, 1) == 1 and height * width > size:
        return f", not compressed, more than its {size} bytes can hold"
    high, wide = image.first(TILE_HEIGHT), image.first(TILE_WIDTH)
    if image.tiled and not 0 < high * wide <= MAX_TILE:
        return f" in tiles of {wide} x {high}"
    if not image.tiled:
        high, wide = min(image.first(ROWS, height), height), width
    needed = math.ceil(height / high) * math.ceil(width / wide) if high else 0
    if image.first(PLANAR, 1) == 2:
        needed *= image.first(SAMPLES, 1)
    listed = min(image.lengths.get(tag, 0) for tag in ((TILES, TILE_SIZES) if image.tiled else (STRIPS, STRIP_SIZES)))
    if needed and listed >= needed:
        return ""
    return f", which takes {needed} {'tiles' if image.tiled else 'strips'}, and lists {listed}"
