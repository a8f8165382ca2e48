"""Results for other programs: OME-TIFF label pyramids with physical sizes and class names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tifffile

from napari_lpd.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.prediction import Prediction

SUFFIXES = (".ome.tif", ".ome.tiff")
TILE = 256
ROWS = 1024  # read at a time
SMALLEST_LEVEL = 512


def write_ome_tiff(prediction: Prediction, path: Path) -> Path:
    """Write the label mask of `prediction` as a pyramidal OME-TIFF, chunk by chunk; of a region, what is around it.

    Its place on the slide goes in as the position; 255 is the label of unreadable places.

    Raises:
        ExportError: wrong suffix, or the place cannot be written.
    """
    card, (y0, x0, y1, x1) = prediction.card, prediction.bounds()
    y0, x0 = (value // card.block * card.block for value in (y0, x0))
    levels = [
        _Part(level, (y0 >> i, x0 >> i), (-(-y1 >> i) - (y0 >> i), -(-x1 >> i) - (x0 >> i)))
        for i, level in enumerate(prediction.labels.levels)
    ]
    return _write_pyramid(
        levels,
        path,
        (card.mpp, card.mpp),
        [(tissue.name, tissue.rgb) for tissue in card.classes],
        (y0 * card.mpp, x0 * card.mpp),
    )


def write_label_tiff(
    labels: NDArray[Any],
    path: Path,
    mpp: tuple[float, float],
    classes: Sequence[tuple[str, tuple[int, int, int]]] = (),
    origin_um: tuple[float, float] = (0.0, 0.0),
) -> Path:
    """Write a label image (H, W) as a tiled, zlib-compressed OME-TIFF pyramid, whole or not at all.

    Args:
        labels: Integers; 0 = unlabelled, c + 1 = ``classes[c]``.
        path: ``*.ome.tif`` or ``*.ome.tiff``.
        mpp: (y, x) in µm per pixel.
        classes: Names and display colours (R, G, B); they go into an OME map annotation ``{"1": name, ...}``.
        origin_um: (y, x) of the first pixel on the slide.
    """
    levels = [_Part(level, (0, 0), (level.shape[0], level.shape[1])) for level in halvings(labels)]
    return _write_pyramid(levels, path, mpp, classes, origin_um)


class _Part(NamedTuple):
    """A part of an array (numpy or zarr)."""

    array: Any
    origin: tuple[int, int]
    shape: tuple[int, int]

    def tiles(self) -> Iterator[NDArray[Any]]:
        """Its tiles, row by row, the last ones filled up with 0."""
        (top, left), (h, w) = self.origin, self.shape
        for y in range(0, h, ROWS):
            rows = np.asarray(self.array[top + y : top + min(y + ROWS, h), left : left + w])
            rows = np.pad(rows, [(0, -n % TILE) for n in rows.shape])
            for i in range(0, rows.shape[0], TILE):
                for j in range(0, rows.shape[1], TILE):
                    yield rows[i : i + TILE, j : j + TILE]


def _write_pyramid(
    levels: Sequence[_Part],
    path: Path,
    mpp: tuple[float, float],
    classes: Sequence[tuple[str, tuple[int, int, int]]],
    origin_um: tuple[float, float],
) -> Path:
    if not path.name.lower().endswith(SUFFIXES):
        raise ExportError(f"{path}: wanted a name that ends in {' or '.join(SUFFIXES)}")
    annotation = {str(i): name for i, (name, _) in enumerate(classes, start=1)}
    annotation |= {f"{i} colour": "#{:02x}{:02x}{:02x}".format(*color) for i, (_, color) in enumerate(classes, start=1)}
    metadata = {
        "axes": "YX",
        "Name": path.name.rsplit(".ome.", 1)[0],
        "PhysicalSizeY": mpp[0],
        "PhysicalSizeYUnit": "µm",
        "PhysicalSizeX": mpp[1],
        "PhysicalSizeXUnit": "µm",
        "Plane": {
            "PositionY": origin_um[0],
            "PositionYUnit": "µm",
            "PositionX": origin_um[1],
            "PositionXUnit": "µm",
        },
        "MapAnnotation": {"Namespace": "napari-lpd.org/classes", **annotation},
    }
    partial = path.with_name(f".{path.name}.partial")
    dtype = np.dtype(levels[0].array.dtype)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        big = levels[0].shape[0] * levels[0].shape[1] * dtype.itemsize > 2**31
        with tifffile.TiffWriter(partial, ome=True, bigtiff=big) as tiff:
            for i, level in enumerate(levels):
                tiff.write(
                    level.tiles(),
                    shape=level.shape,
                    dtype=dtype,
                    tile=(TILE, TILE),
                    metadata=metadata if i == 0 else None,
                    subifds=len(levels) - 1 if i == 0 else None,
                    subfiletype=0 if i == 0 else 1,
                    resolution=(1e4 / mpp[1] / 2**i, 1e4 / mpp[0] / 2**i),
                    photometric="minisblack",
                    compression="zlib",
                    resolutionunit="CENTIMETER",
                )
        os.replace(partial, path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if partial.exists():
            partial.unlink()
    return path


def halvings(labels: NDArray[Any]) -> list[NDArray[Any]]:
    """The label image and its halvings (every second pixel: labels are not averaged) down to one screen."""
    levels = [np.ascontiguousarray(labels)]
    while max(levels[-1].shape) > SMALLEST_LEVEL:
        levels.append(np.ascontiguousarray(levels[-1][::2, ::2]))
    return levels
