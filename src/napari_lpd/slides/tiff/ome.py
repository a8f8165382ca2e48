"""OME-XML in a TIFF: which directories each image is made of, and the size of its pixels."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from napari_lpd.slides.resolution import Found

OME = "OME metadata"
MAX_PLANES = 2**20  # of one image
PREFIXES = {
    **{"Y": 24, "Z": 21, "E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1, "": 0, "d": -1, "c": -2},
    **{"m": -3, "µ": -6, "u": -6, "n": -9, "p": -12, "f": -15, "a": -18, "z": -21, "y": -24},
}
UM = {f"{prefix}m": 10.0 ** (power + 6) for prefix, power in PREFIXES.items()} | {
    **{"micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0},
    **{"Å": 1e-4, "thou": 25.4, "li": 25400 / 12, "in": 25400.0, "ft": 304800.0, "yd": 914400.0, "mi": 1609344e3},
    **{"pt": 25400 / 72, "ua": 149597870700e6, "ly": 9460730472580800e6, "pc": 3.0856775814913673e22},
}
"""µm per unit of length of the OME schema, and as other programs write micrometres."""
UM = {unicodedata.normalize("NFKC", unit): um for unit, um in UM.items()}  # µ and Å have two code points each
NOT_LENGTHS = ("pixel", "reference frame")  # units of the schema that leave the size to other metadata


class OmeError(ValueError):
    """OME-XML that cannot be used; the text says why."""


class OmeImage(NamedTuple):
    """An image as OME-XML describes it.

    Attributes:
        name: Its name; may be empty.
        directories: Numbers of the TIFF's directories that are its planes.
        colours: How many planes the channels take; others are focus or time.
        resolution: µm per pixel (y, x), and where from.
    """

    name: str
    directories: tuple[int, ...]
    colours: int
    resolution: Found


def is_ome(description: str) -> bool:
    """Return whether a description is OME-XML, whole or cut off."""
    start = description[:4096]
    return "<OME" in start or "openmicroscopy.org/Schemas" in start


def read_ome(description: str, file_name: str, count: int) -> list[OmeImage]:
    """Read the images of OME-XML that lie in the file itself, which has `count` directories.

    Raises:
        OmeError: the XML is cut off, or says that metadata or images are elsewhere.
    """
    try:
        root = ElementTree.fromstring(description.strip().strip("\0"))
    except (ElementTree.ParseError, ValueError) as error:
        raise OmeError("its OME metadata are cut off or damaged") from error
    for element in _below(root, "BinaryOnly"):
        raise OmeError(f"its OME metadata are in another file, {element.get('MetadataFile') or 'which is not named'}")
    try:
        images = [found for element in _below(root, "Image") if (found := _image(element, root, file_name, count))]
    except (ValueError, KeyError, OverflowError) as error:
        raise OmeError("its OME metadata are damaged") from error
    if not images:
        raise OmeError("its OME metadata name no image in this file")
    return images


def _below(element: Element, name: str) -> list[Element]:
    return [child for child in element if child.tag.rpartition("}")[2] == name]


def _image(element: Element, root: Element, file_name: str, count: int) -> OmeImage | None:
    pixels = next(iter(_below(element, "Pixels")), None)
    if pixels is None:
        return None
    channels = _below(pixels, "Channel")
    samples = int(channels[0].get("SamplesPerPixel", 1)) if channels else 1
    colours = max(1, int(pixels.get("SizeC", 1)) // max(samples, 1))
    planes = colours * int(pixels.get("SizeZ", 1)) * int(pixels.get("SizeT", 1))
    if not 0 < planes <= MAX_PLANES:
        raise OmeError(f"its OME metadata name an image of {planes} planes")
    places: dict[int, int] = {}
    data = _below(pixels, "TiffData")
    for part in data or [ElementTree.Element("TiffData")]:
        if not _in_this_file(part, root, file_name):
            continue
        first, number = int(part.get("IFD", 0)), int(part.get("PlaneCount", part.get("NumPlanes", 0)))
        start = int(part.get("FirstC", 0)) if colours == planes else len(places)
        for step in range(min(number or (1 if "IFD" in part.attrib else planes), planes)):
            if 0 <= first + step < count:
                places[start + step] = first + step
    directories = tuple(places[plane] for plane in sorted(places))
    return OmeImage(element.get("Name") or "", directories, colours, _resolution(pixels)) if directories else None


def _in_this_file(part: Element, root: Element, file_name: str) -> bool:
    """Return whether a TiffData element speaks of this file, which may have been renamed."""
    others = {each.text for each in root.iter() if each.tag.rpartition("}")[2] == "UUID"}
    for uuid in _below(part, "UUID"):
        named = uuid.get("FileName", file_name).lower() == file_name.lower()
        return named or uuid.text == root.get("UUID") or (len(others) == 1 and root.get("UUID") is None)
    return True


def _resolution(pixels: Element) -> Found:
    sizes = []
    for axis in "YX":
        size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm").strip()
        if size is None or unit in NOT_LENGTHS:
            return None, ""
        um = UM.get(unicodedata.normalize("NFKC", unit))
        if um is None:
            return None, f"{OME} give {size} {unit}, a unit that is not known"
        sizes.append(float(size) * um)
    return (sizes[0], sizes[1]), OME
