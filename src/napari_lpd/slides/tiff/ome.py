"""OME-XML in a TIFF: which directories each image is made of, and the size of its pixels."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from napari_lpd.slides.resolution import Found

OME = "OME metadata"
MAX_PARTS = 64  # elements and planes of an image that are looked at; a slide has three at most
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
        names = _names_of_file(root, file_name)
        images = [found for each in _below(root, "Image")[: 2 * count] if (found := _image(each, names, count))]
    except (ValueError, KeyError, OverflowError) as error:
        raise OmeError("its OME metadata are damaged") from error
    if not images:
        raise OmeError("its OME metadata name no image in this file")
    return images


def _below(element: Element, name: str) -> list[Element]:
    return [child for child in element if child.tag.rpartition("}")[2] == name]


def _image(element: Element, names: set[str | None], count: int) -> OmeImage | None:
    pixels = next(iter(_below(element, "Pixels")), None)
    if pixels is None:
        return None
    channels = _below(pixels, "Channel")
    samples = int(channels[0].get("SamplesPerPixel", 1)) if channels else 1
    colours = max(1, int(pixels.get("SizeC", 1)) // max(samples, 1))
    planes = colours * int(pixels.get("SizeZ", 1)) * int(pixels.get("SizeT", 1))
    places: dict[int, int] = {}
    data = _below(pixels, "TiffData")
    for part in data[:MAX_PARTS] or [ElementTree.Element("TiffData")]:
        if any(names.isdisjoint((uuid.text, uuid.get("FileName", "").lower())) for uuid in _below(part, "UUID")):
            continue  # it is in another file
        first, number = int(part.get("IFD", 0)), int(part.get("PlaneCount", part.get("NumPlanes", 0)))
        start = int(part.get("FirstC", 0)) if colours == planes else len(places)
        for step in range(min(number or (1 if "IFD" in part.attrib else planes), planes, MAX_PARTS)):
            if 0 <= first + step < count:
                places[start + step] = first + step
    directories = tuple(places[plane] for plane in sorted(places))
    return OmeImage(element.get("Name") or "", directories, colours, _resolution(pixels)) if directories else None


def _names_of_file(root: Element, file_name: str) -> set[str | None]:
    """Return what OME-XML may call its file: by its name, its UUID, or, where it was renamed, the only other."""
    uuids = [each for each in root.iter() if each.tag.rpartition("}")[2] == "UUID"]
    names = {file_name.lower(), root.get("UUID")} - {None}
    if root.get("UUID") is None and len({each.text for each in uuids}) == 1:
        names |= {uuids[0].text}
    return names


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
