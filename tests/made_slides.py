"""Slides as scanners write them, for the tests of more than one wing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tifffile

if TYPE_CHECKING:
    from pathlib import Path


def leica(path: Path, scanned: np.ndarray, origin: tuple[int, int]) -> Path:
    """A Leica scn file: a collection of 8000 x 12000 pixels of 0.5 µm, of which a square was scanned, from (x, y)."""
    (x, y), edge = origin, len(scanned)

    def image(name, size, offset, dims, objective):
        levels = "".join(f'<dimension r="{r}" ifd="{i}" sizeX="{w}" sizeY="{h}"/>' for r, (w, h, i) in enumerate(dims))
        return (
            f'<image name="{name}"><creationDate>2012-01-01T00:00:00Z</creationDate><device model="S" version="1"/>'
            f'<pixels sizeX="{dims[0][0]}" sizeY="{dims[0][1]}">{levels}</pixels>'
            f'<view sizeX="{size[0]}" sizeY="{size[1]}" offsetX="{offset[0]}" offsetY="{offset[1]}" spacingZ="0"/>'
            f"<scanSettings><objectiveSettings><objective>{objective}</objective></objectiveSettings>"
            "<illuminationSettings><numericalAperture>0.4</numericalAperture><illuminationSource>brightfield"
            "</illuminationSource></illuminationSettings></scanSettings></image>"
        )

    nm = 500
    described = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        '<collection name="c" sizeX="4000000" sizeY="6000000"><barcode>x</barcode>'
        + image("macro", (4_000_000, 6_000_000), (0, 0), [(256, 384, 0)], "0.6")
        + image("area", (edge * nm, edge * nm), (x * nm, y * nm), [(edge, edge, 1), (edge // 4, edge // 4, 2)], "20")
        + "</collection></scn>"
    )
    options = {"photometric": "rgb", "compression": "jpeg", "metadata": None, "tile": (256, 256)}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(np.full((384, 256, 3), 235, np.uint8), description=described, **options)
        for level, step in enumerate((1, 4)):
            per_cm = (20000 / 4**level,) * 2
            tiff.write(scanned[::step, ::step], resolution=per_cm, resolutionunit="CENTIMETER", **options)
    return path
