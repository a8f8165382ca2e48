"""Results for other programs: OME-TIFF label pyramids with physical sizes and class names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from napari_lpd.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.prediction import Prediction

SUFFIXES = (".ome.tif", ".ome.tiff")
TILE = 256
SMALLEST_LEVEL = 512


def write_ome_tiff(prediction: Prediction, path: Path) -> Path:
    """Write the label mask of `prediction` as a pyramidal OME-TIFF; its place on the slide goes in as the position.

    Raises:
        ExportError: wrong suffix, or the place cannot be written.
    """
    names = [tissue.name for tissue in prediction.classes]
    colors = [tissue.rgb for tissue in prediction.classes]
    mpp = (prediction.mpp, prediction.mpp)
    return write_label_tiff(prediction.labels, path, mpp, names, colors, prediction.origin_um)


def write_label_tiff(
    labels: NDArray[Any],
    path: Path,
    mpp: tuple[float, float],
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]] = (),
    origin_um: tuple[float, float] = (0.0, 0.0),
) -> Path:
    """Write a label image (H, W) as a tiled, zlib-compressed OME-TIFF pyramid, whole or not at all.

    Args:
        labels: Integers; 0 = unlabelled, c + 1 = ``names[c]``.
        path: ``*.ome.tif`` or ``*.ome.tiff``.
        mpp: (y, x) in µm per pixel.
        names: Class names; they go into the OME map annotation ``{"1": name, ...}``.
        colors: Display colours (R, G, B) of the classes, stored beside the names.
        origin_um: (y, x) of the first pixel on the slide.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise ExportError(f"{path}: wanted a name that ends in {' or '.join(SUFFIXES)}")
    classes = {str(i): name for i, name in enumerate(names, start=1)}
    classes |= {f"{i} colour": "#{:02x}{:02x}{:02x}".format(*color) for i, color in enumerate(colors, start=1)}
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
        "MapAnnotation": {"Namespace": "napari-lpd.org/classes", **classes},
    }
    levels = halvings(labels)
    partial = path.with_name(f".{path.name}.partial")
    options = {"photometric": "minisblack", "compression": "zlib", "resolutionunit": "CENTIMETER"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tifffile.TiffWriter(partial, ome=True, bigtiff=labels.nbytes > 2**31) as tiff:
            for i, level in enumerate(levels):
                tiff.write(
                    level,
                    tile=(TILE, TILE),
                    metadata=metadata if i == 0 else None,
                    subifds=len(levels) - 1 if i == 0 else None,
                    subfiletype=0 if i == 0 else 1,
                    resolution=(1e4 / mpp[1] / 2**i, 1e4 / mpp[0] / 2**i),
                    **options,
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
