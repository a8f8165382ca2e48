"""OME-TIFF pyramids with physical sizes and names: labels and prototype maps, written in pieces; labels read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tifffile
import zarr

from napari_lpd.core.classes import UNSURE_CLASS, TissueClass
from napari_lpd.core.errors import DataError, ExportError, SettingsError, SlideError
from napari_lpd.core.files import atomic_write, mark_of
from napari_lpd.core.labelling.rule import UNSURE
from napari_lpd.results.corrections import Corrections
from napari_lpd.slides.tiff.directories import read_directories

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.results.prediction import Prediction

SUFFIXES = (".ome.tif", ".ome.tiff")
NAMESPACE = "napari-lpd.org/classes"
MASK, PROTOTYPES = mark_of("labels"), mark_of("prototypes")  # what our files have as the name of their software
TILE = 256
ROWS = 1024  # read at a time
MIN_LEVEL = 512


class LabelImage(NamedTuple):
    """Labels read from a file.

    Attributes:
        levels: (H, W) unsigned integers, biggest first; lazily read Zarr arrays.
        mpp: (y, x) µm per pixel of the biggest.
        origin_um: (y, x) of the first pixel on the slide.
        classes: Classes of the labels 1, 2, …, where the file states them.
    """

    levels: list[Any]
    mpp: tuple[float, float]
    origin_um: tuple[float, float]
    classes: tuple[TissueClass, ...]


class Place(NamedTuple):
    """Position of an image: (y, x) µm per pixel, and (y, x) µm of its first pixel on the slide."""

    mpp: tuple[float, float]
    origin_um: tuple[float, float]


def write_ome_tiff(prediction: Prediction, path: Path, overwrite: bool = False) -> Path:
    """Write the corrected labels of `prediction` as a pyramidal OME-TIFF; of a region, its bounding box.

    Its position on the slide is stored; 255 is the label of unreadable pixels.

    Raises:
        ExportError: wrong suffix, the file exists and `overwrite` is off, or cannot be written.
    """
    card, store = prediction.card, Corrections(prediction)
    y0, x0, y1, x1 = store.extent()
    y0, x0 = (value // card.block * card.block for value in (y0, x0))
    levels = [
        [_Plane(level, (y0 >> i, x0 >> i), (-(-y1 >> i) - (y0 >> i), -(-x1 >> i) - (x0 >> i)))]
        for i, level in enumerate(store.levels)
    ]
    place = Place((card.mpp, card.mpp), (y0 * card.mpp, x0 * card.mpp))
    classes = [(tissue.name, tissue.rgb) for tissue in card.classes]
    return _write_pyramid(levels, path, place, _annotation(classes), overwrite, MASK)


def write_label_tiff(
    labels: NDArray[Any],
    path: Path,
    place: Place,
    classes: Sequence[tuple[str, tuple[int, int, int]]] = (),
    overwrite: bool = False,
) -> Path:
    """Write a label image (H, W) as a tiled, zlib-compressed OME-TIFF pyramid, atomically.

    Args:
        labels: Integers; 0 = unlabelled, c + 1 = ``classes[c]``.
        path: ``*.ome.tif`` or ``*.ome.tiff``.
        place: Resolution and position on the slide.
        classes: Names and display colours (R, G, B); they go into an OME map annotation ``{"1": name, ...}``.
        overwrite: Replace an existing file.
    """
    levels = [[_Plane(level, (0, 0), (level.shape[0], level.shape[1]))] for level in halvings(labels)]
    return _write_pyramid(levels, path, place, _annotation(classes), overwrite, MASK)


def write_prototype_tiff(prediction: Prediction, path: Path, overwrite: bool = False) -> Path:
    """Write the cosine maps of all prototypes as channels of one pyramidal OME-TIFF, named "CLASS NUMBER".

    Errors as for `write_ome_tiff`.
    """
    card, (y0, x0, y1, x1) = prediction.card, prediction.scope_box()
    edge, mpp = card.block // card.stride, card.mpp * card.stride
    y0, x0 = (value // card.block * edge for value in (y0, x0))
    y1, x1 = (-(-value // card.stride) for value in (y1, x1))
    count = len(prediction.prototypes[0].levels)
    levels = [
        [
            _Plane(
                pyramid.levels[i],
                (y0 >> i, x0 >> i),
                (-(-y1 >> i) - (y0 >> i), -(-x1 >> i) - (x0 >> i)),
                plane,
            )
            for pyramid in prediction.prototypes
            for plane in range(card.prototypes_per_class)
        ]
        for i in range(count)
    ]
    names = [f"{tissue.name} {i + 1}" for tissue in card.classes for i in range(card.prototypes_per_class)]
    about = {
        "Channel": {"Name": names},
        "MapAnnotation": {
            "Namespace": "napari-lpd.org/prototypes",
            "value": "cosine = (value - 1) / 127 - 1; 0 = not computed",
        },
    }
    return _write_pyramid(levels, path, Place((mpp, mpp), (y0 * mpp, x0 * mpp)), about, overwrite, PROTOTYPES)


def is_labelled(path: Path) -> bool:
    """Return whether a TIFF says that its labels have classes; its directories are looked at, within bounds."""
    try:
        return NAMESPACE in read_directories(path)[0].description
    except SlideError:
        return False


def read_label_tiff(path: Path) -> LabelImage:
    """Open the labels of an OME-TIFF, of this or another program.

    Raises:
        DataError: not an OME-TIFF, no 2-d unsigned integers, or no physical size in µm.
    """
    try:
        read_directories(path)  # tifffile would walk a circle of them without end
        with tifffile.TiffFile(path) as tiff:
            if tiff.ome_metadata is None:
                raise DataError(f"{path}: not an OME-TIFF")
            series = tiff.series[0]
            if len(series.shape) != 2 or series.dtype.kind != "u":
                raise DataError(f"{path}: {series.dtype} of shape {series.shape}; wanted labels (H, W)")
            count, about = len(series.levels), tifffile.xml2dict(tiff.ome_metadata)["OME"]
    except (OSError, SlideError, tifffile.TiffFileError) as error:
        raise DataError(f"{path}: cannot be read as OME-TIFF ({error})") from error
    image = about["Image"][0] if isinstance(about["Image"], list) else about["Image"]
    pixels = image["Pixels"]
    try:
        mpp = float(pixels["PhysicalSizeY"]), float(pixels["PhysicalSizeX"])
    except KeyError as error:
        raise DataError(f"{path}: gives no physical size of its pixels") from error
    if {pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "YX"} != {"µm"}:
        raise DataError(f"{path}: its physical size is not in µm")
    planes = pixels.get("Plane", {})
    plane = planes[0] if isinstance(planes, list) else planes
    origin = float(plane.get("PositionY", 0)), float(plane.get("PositionX", 0))
    levels = [zarr.open_array(tifffile.imread(path, aszarr=True, level=i), mode="r") for i in range(count)]
    return LabelImage(levels, mpp, origin, _classes_in(path, about))


def _annotation(classes: Sequence[tuple[str, tuple[int, int, int]]]) -> dict[str, Any]:
    if not classes:
        return {}
    names = {str(i): name for i, (name, _) in enumerate(classes, start=1)}
    names |= {f"{i} colour": "#{:02x}{:02x}{:02x}".format(*color) for i, (_, color) in enumerate(classes, start=1)}
    names |= {str(UNSURE): UNSURE_CLASS.name, f"{UNSURE} colour": UNSURE_CLASS.color}
    return {"MapAnnotation": {"Namespace": NAMESPACE, **names}}


def _classes_in(path: Path, about: dict[str, Any]) -> tuple[TissueClass, ...]:
    """Read the classes from a map annotation as made by `_annotation`, if there is one."""
    annotations = about.get("StructuredAnnotations", {}).get("MapAnnotation", [])
    for annotation in annotations if isinstance(annotations, list) else [annotations]:
        if annotation.get("Namespace") != NAMESPACE:
            continue
        entries = annotation["Value"]["M"]
        values = {str(entry["K"]): str(entry.get("value", "")) for entry in entries}
        count = sum(key.isdigit() and key != str(UNSURE) for key in values)
        try:
            return tuple(
                TissueClass.build({"name": values[str(i)], "color": values[f"{i} colour"]}) for i in range(1, count + 1)
            )
        except (KeyError, SettingsError) as error:
            raise DataError(f"{path}: its list of classes is not readable ({error})") from error
    return ()


class _Plane(NamedTuple):
    """A part of an array (H, W), or of one plane of an array (N, H, W)."""

    array: Any
    origin: tuple[int, int]
    shape: tuple[int, int]
    plane: int | None = None

    def tiles(self) -> Iterator[NDArray[Any]]:
        """Yield the tiles, row by row, the last ones padded with 0."""
        (top, left), (h, w) = self.origin, self.shape
        for y in range(0, h, ROWS):
            window = (slice(top + y, top + min(y + ROWS, h)), slice(left, left + w))
            rows = np.asarray(self.array[window if self.plane is None else (self.plane, *window)])
            rows = np.pad(rows, [(0, -n % TILE) for n in rows.shape])
            for i in range(0, rows.shape[0], TILE):
                for j in range(0, rows.shape[1], TILE):
                    yield rows[i : i + TILE, j : j + TILE]


def _write_pyramid(
    levels: Sequence[Sequence[_Plane]], path: Path, place: Place, about: dict[str, Any], overwrite: bool, mark: str
) -> Path:
    """Write levels of planes atomically."""
    if not path.name.lower().endswith(SUFFIXES):
        raise ExportError(f"{path}: wanted a name that ends in {' or '.join(SUFFIXES)}")
    mpp, count = place.mpp, len(levels[0])
    metadata = {
        "axes": "YX" if count == 1 else "CYX",
        "Name": path.name.rsplit(".ome.", 1)[0],
        **{f"PhysicalSize{axis}": size for axis, size in zip("YX", mpp, strict=True)},
        **{f"PhysicalSize{axis}Unit": "µm" for axis in "YX"},
        "Plane": {
            "PositionY": place.origin_um[0] if count == 1 else [place.origin_um[0]] * count,
            "PositionYUnit": "µm" if count == 1 else ["µm"] * count,
            "PositionX": place.origin_um[1] if count == 1 else [place.origin_um[1]] * count,
            "PositionXUnit": "µm" if count == 1 else ["µm"] * count,
        },
        **about,
    }
    dtype = np.dtype(levels[0][0].array.dtype)
    size = count * levels[0][0].shape[0] * levels[0][0].shape[1] * dtype.itemsize
    with (
        atomic_write(path, overwrite, mark=mark) as partial,
        tifffile.TiffWriter(partial, ome=True, bigtiff=size > 2**31) as tiff,
    ):
        for i, planes in enumerate(levels):
            tiff.write(
                (tile for plane in planes for tile in plane.tiles()),
                shape=planes[0].shape if count == 1 else (count, *planes[0].shape),
                dtype=dtype,
                tile=(TILE, TILE),
                metadata=metadata if i == 0 else None,
                subifds=len(levels) - 1 if i == 0 else None,
                subfiletype=0 if i == 0 else 1,
                resolution=(1e4 / mpp[1] / 2**i, 1e4 / mpp[0] / 2**i),
                photometric="minisblack",
                compression="zlib",
                resolutionunit="CENTIMETER",
                software=mark,
            )
    return path


def halvings(labels: NDArray[Any]) -> list[NDArray[Any]]:
    """Halve a label image (every second pixel: labels are not averaged) down to one screen; return all levels."""
    levels = [np.ascontiguousarray(labels)]
    while max(levels[-1].shape) > MIN_LEVEL:
        levels.append(np.ascontiguousarray(levels[-1][::2, ::2]))
    return levels
