"""Small files as labs and programs write them: TIFF and OME-TIFF of every kind, made from one image."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MPP = 0.5
PER_CM = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
TILE = (64, 64)
LOSSLESS = ("none", "packbits", "lzw", "deflate", "zstd", "lzma", "png", "lerc")
LOSSY = ("jpeg", "jpeg2000", "jpegxl", "webp")
CODECS = (*LOSSLESS, *LOSSY)
OME = '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'


def image(height: int = 256, width: int = 384) -> np.ndarray:
    """Make smooth tissue-like colours (H, W, 3), no two places alike, which lossy codecs keep."""
    y, x = np.mgrid[:height, :width]
    waves = [130 + 60 * np.sin(x / (17 + 9 * c) + c) + 50 * np.cos(y / (23 + 5 * c)) for c in range(3)]
    return np.stack(waves, 2).astype(np.uint8)


def half(pixels: np.ndarray) -> np.ndarray:
    """Halve an image, as pyramids do."""
    h, w = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    return pixels[:h, :w].reshape(h // 2, 2, w // 2, 2, -1).mean((1, 3)).round().astype(np.uint8)


def page(codec: str = "deflate", **more: Any) -> dict[str, Any]:
    """Options of `TiffWriter.write` for a tiled RGB page."""
    compression = None if codec == "none" else codec
    return {"photometric": "rgb", "tile": TILE, "compression": compression, "metadata": None} | more


def size_of_pixels(size: float = MPP, unit: str | None = None, name: str = "slide") -> dict[str, Any]:
    """OME metadata of a pixel's size."""
    units = {} if unit is None else {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    return {"axes": "YXS", "Name": name, "PhysicalSizeX": size, "PhysicalSizeY": size, **units}


def plain_tiled(path: Path, pixels: np.ndarray, codec: str) -> None:
    """One tiled image with its resolution in tags."""
    tifffile.imwrite(path, pixels, **page(codec), **PER_CM)


def plain_strips(path: Path, pixels: np.ndarray, codec: str) -> None:
    """One image in strips."""
    tifffile.imwrite(path, pixels, **page(codec, tile=None, rowsperstrip=32), **PER_CM)


def big_tiled(path: Path, pixels: np.ndarray, codec: str) -> None:
    """One tiled image in a BigTIFF of the other byte order."""
    tifffile.imwrite(path, pixels, bigtiff=True, byteorder=">", **page(codec), **PER_CM)


def plain_pyramid(path: Path, pixels: np.ndarray, codec: str) -> None:
    """A pyramid, one directory after the other."""
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, **page(codec), **PER_CM)
        tiff.write(half(pixels), **page(codec, subfiletype=1))


def ome_pyramid(path: Path, pixels: np.ndarray, codec: str) -> None:
    """An OME-TIFF with its levels in SubIFDs."""
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(pixels, **page(codec, metadata=size_of_pixels(), subifds=1))
        tiff.write(half(pixels), **page(codec, subfiletype=1))


def planar(path: Path, pixels: np.ndarray, codec: str) -> None:
    """One plane per colour, in tiles."""
    tifffile.imwrite(path, np.moveaxis(pixels, 2, 0), **page(codec, planarconfig="separate"), **PER_CM)


CONTAINERS: dict[str, tuple[str, Callable[[Path, np.ndarray, str], None]]] = {
    "TIFF, tiles": ("a.tif", plain_tiled),
    "TIFF, strips": ("a.tif", plain_strips),
    "BigTIFF, big-endian, tiles": ("a.tif", big_tiled),
    "TIFF, pyramid": ("a.tif", plain_pyramid),
    "OME-TIFF, pyramid in SubIFDs": ("a.ome.tif", ome_pyramid),
    "the same, renamed": ("a.tif", ome_pyramid),
    "TIFF, one plane per colour": ("a.tif", planar),
}
"""What is written, under which name, by what."""


def with_masks(path: Path, pixels: np.ndarray, masks_first: bool = False) -> None:
    """A pyramid as GDAL writes it, with a validity mask for each level."""
    with tifffile.TiffWriter(path) as tiff:
        for level, kind in ((pixels, 0), (half(pixels), 1)):
            seen = np.ones(level.shape[:2], np.bool_)
            mask = {"photometric": "mask", "tile": TILE, "metadata": None, "subfiletype": kind | 4}
            pages: list[tuple[np.ndarray, dict[str, Any]]] = [(level, page(subfiletype=kind) | PER_CM), (seen, mask)]
            for content, options in reversed(pages) if masks_first else pages:
                tiff.write(content, **options)


def several(path: Path, images: Sequence[tuple[np.ndarray, dict[str, Any]]], ome: bool = False) -> None:
    """Several images in one file, each with its own options."""
    with tifffile.TiffWriter(path, ome=ome) as tiff:
        for content, options in images:
            tiff.write(content, **options)


def described(path: Path, pixels: np.ndarray, description: str, **more: Any) -> None:
    """One tiled image with a description of our own."""
    tifffile.imwrite(path, pixels, **(page(description=description) | PER_CM | more))


def binary_only(companion: str) -> str:
    """OME-XML that says that the metadata lie in a companion file."""
    return f'{OME}<BinaryOnly MetadataFile="{companion}" UUID="urn:uuid:22222222-2222-2222-2222-222222222222"/></OME>'


def cut_off(size: str = "256") -> str:
    """OME-XML that ends early."""
    return f'{OME}<Image ID="Image:0"><Pixels ID="Pixels:0" SizeX="{size}" PhysicalSizeX="9.0"'


class Header:
    """The numbers of a classic little-endian TIFF's directories, to be changed in place.

    Attributes:
        content: The file's bytes.
        fields: (place, bytes) of every number: counts, tags, kinds, lengths, values, offsets of directories.
    """

    def __init__(self, path: Path) -> None:
        self.content = bytearray(path.read_bytes())
        self.fields: list[tuple[int, int]] = [(4, 4)]
        self.values: dict[tuple[int, int], int] = {}
        self.nexts: list[int] = []
        pending = [self.number(4)]
        directory = 0
        while pending:
            place = pending.pop(0)
            count = self.number(place, 2)
            self.fields.append((place, 2))
            for entry in range(place + 2, place + 2 + 12 * count, 12):
                self.fields += [(entry, 2), (entry + 2, 2), (entry + 4, 4), (entry + 8, 4)]
                self.values[directory, self.number(entry, 2)] = entry + 8
            following = place + 2 + 12 * count
            self.fields.append((following, 4))
            self.nexts.append(following)
            pending += [self.number(following)] if self.number(following) else []
            directory += 1

    def number(self, place: int, size: int = 4) -> int:
        """Read a number."""
        return int(struct.unpack_from({2: "<H", 4: "<I"}[size], self.content, place)[0])

    def lie(self, place: int, value: int, size: int = 4) -> None:
        """Write a number."""
        struct.pack_into({2: "<H", 4: "<I"}[size], self.content, place, value % 2 ** (8 * size))


def _thumbnail_first(path: Path, pixels: np.ndarray) -> None:
    several(path, [(half(half(pixels)), page(tile=None, rowsperstrip=16)), (pixels, page() | PER_CM)])


def _macro_first(path: Path, pixels: np.ndarray) -> None:
    macro = page(metadata=size_of_pixels(16.0, name="macro"))
    several(path, [(half(pixels)[:40], macro), (pixels, page(metadata=size_of_pixels()))], ome=True)


def _scenes(path: Path, pixels: np.ndarray) -> None:
    one, two = (page(metadata=size_of_pixels(name=name)) for name in ("scene 1", "scene 2"))
    several(path, [(pixels[:200], one), (pixels, two)], ome=True)


def _unordered(path: Path, pixels: np.ndarray) -> None:
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(pixels, **page(metadata=size_of_pixels(), subifds=2))
        for level in (half(half(pixels)), half(pixels)):
            tiff.write(level, **page(subfiletype=1))


def _padded(path: Path, pixels: np.ndarray) -> None:
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, **page(), **PER_CM)
        tiff.write(np.zeros((192, 192, 3), np.uint8), **page(subfiletype=1))


def _sized(unit: str) -> Callable[[Path, np.ndarray], None]:
    return lambda path, pixels: several(
        path, [(pixels, page(metadata=size_of_pixels(MPP * 1e-6 if unit == "m" else MPP, unit)))], ome=True
    )


def _colours(photometric: str, dtype: str = "uint8") -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, pixels: np.ndarray) -> None:
        content = pixels if photometric == "rgb" else pixels[..., 0]
        tifffile.imwrite(path, content.astype(dtype), **page(photometric=photometric))

    return write


def _lying(*lies: tuple[int, int, int]) -> Callable[[Path, np.ndarray], None]:
    """Write a pyramid whose header says other numbers: (directory, tag, value)."""

    def write(path: Path, pixels: np.ndarray) -> None:
        plain_pyramid(path, pixels, "deflate")
        header = Header(path)
        for directory, tag, value in lies:
            place = header.values[directory, tag]
            header.lie(place - 6, 4, 2)  # a number of four bytes
            header.lie(place, value)
        path.write_bytes(header.content)

    return write


def _in_a_circle(path: Path, pixels: np.ndarray) -> None:
    plain_pyramid(path, pixels, "deflate")
    header = Header(path)
    header.lie(header.nexts[-1], header.number(4))
    path.write_bytes(header.content)


def _turned(path: Path, pixels: np.ndarray) -> None:
    tifffile.imwrite(path, pixels, **page(), extratags=[(274, 3, 1, 6, True)])


ODD: dict[str, tuple[str, Callable[[Path, np.ndarray], None]]] = {
    "validity masks of GDAL, COG": ("a.tif", with_masks),
    "a thumbnail comes first": ("a.tif", _thumbnail_first),
    "OME-TIFF, the macro comes first": ("a.ome.tif", _macro_first),
    "OME-TIFF, two scenes": ("a.ome.tif", _scenes),
    "OME-TIFF, sub-resolutions in another order": ("a.ome.tif", _unordered),
    "a level of another aspect": ("a.tif", _padded),
    "OME sizes in m": ("a.ome.tif", _sized("m")),
    "OME sizes in an unknown unit": ("a.ome.tif", _sized("furlong")),
    "OME metadata in a companion file": (
        "a.ome.tif",
        lambda path, a: described(path, a, binary_only("a.companion.ome")),
    ),
    "OME metadata cut off": ("a.ome.tif", lambda path, a: described(path, a, cut_off())),
    "svs in a codec that OpenSlide lacks": (
        "a.svs",
        lambda path, a: described(path, a, "Aperio Image |AppMag = 20|MPP = 0.4990", compression="zstd"),
    ),
    "grey": ("a.tif", _colours("minisblack")),
    "RGB of 16 bits": ("a.tif", _colours("rgb", "uint16")),
    "an orientation tag": ("a.tif", _turned),
    "a codec that is not known": ("a.tif", _lying((0, 259, 34676), (1, 259, 34676))),
    "planar configuration 3": ("a.tif", _lying((0, 284, 3))),
    "says 16,777,216 pixels of width": ("a.tif", _lying((0, 256, 2**24))),
    "says a tile of 2³¹ pixels": ("a.tif", _lying((0, 322, 2**31), (0, 323, 1))),
    "a level of no rows": ("a.tif", _lying((1, 257, 0))),
    "directories in a circle": ("a.tif", _in_a_circle),
}
"""Odd files: what is odd, the name, what writes it."""


def leica_scn(path: Path, pixels: np.ndarray, corner: tuple[int, int] = (512, 256)) -> None:
    """An scn: a macro of the whole glass, and an area that was scanned, with its first pixel at `corner` (x, y)."""
    nm, (height, width), small = int(MPP * 1000), pixels.shape[:2], half(pixels)
    offset = f'offsetX="{corner[0] * nm}" offsetY="{corner[1] * nm}"'
    glass = f'sizeX="{4096 * nm}" sizeY="{4096 * nm}"'

    def area(view: str, dimensions: str, objective: str) -> str:
        source = "<illuminationSource>brightfield</illuminationSource>"
        return (
            f"<image><pixels>{dimensions}</pixels><view {view}/><device model='made'/><scanSettings><objectiveSettings>"
            f"<objective>{objective}</objective></objectiveSettings><illuminationSettings>{source}"
            "</illuminationSettings></scanSettings></image>"
        )

    levels = "".join(
        f'<dimension r="{r}" ifd="{r + 1}" sizeX="{level.shape[1]}" sizeY="{level.shape[0]}"/>'
        for r, level in enumerate((pixels, small))
    )
    macro = area(f'{glass} offsetX="0" offsetY="0"', '<dimension r="0" ifd="0" sizeX="64" sizeY="64"/>', "1")
    scanned = area(f'sizeX="{width * nm}" sizeY="{height * nm}" {offset}', levels, "20")
    schema = "http://www.leica-microsystems.com/scn/2010/10/01"
    xml = f'<?xml version="1.0"?><scn xmlns="{schema}"><collection {glass}>{macro}{scanned}</collection></scn>'
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(np.full((64, 64, 3), 240, np.uint8), **page("jpeg", description=xml))
        tiff.write(pixels, **page("jpeg"), **PER_CM)
        tiff.write(small, **page("jpeg"))
