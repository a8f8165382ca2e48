"""Predictions on disk, and the definition of their format.

On disk a prediction is an OME-Zarr 0.5 folder (zarr 3) over the whole slide; only what was predicted is filled:

=====================  ===================  ===========================================================================
image                  shape, type          meaning
=====================  ===================  ===========================================================================
the folder itself      (C, h, w) uint8      class scores, 0..1 as 0..255
``labels/tissues``     (H, W) uint8         0 = unlabelled, c + 1 = class c, 255 = unreadable; pixels at ``mpp``
``labels/tissue_mask`` (h', w') uint8       1 = tissue
``prototypes/c``       (k, h, w) uint8      cosine of each of class c's prototypes, -1..1 as 1..255; 0 = not computed
``uncertainty``        (h, w) uint8         entropy of the labels' shares, 0 to the highest as 1..255; 0 = not computed
=====================  ===================  ===========================================================================

``h = ceil(H / stride)``. The root's attribute ``napari_lpd`` holds the card (slide, model, settings), the levels of the
maps, and, once finished, areas and unreadable boxes. A block (`PredictionCard.block`) is finished when its chunk of
``labels/tissues/0`` exists, which is written last.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely
import zarr
from pydantic import ValidationError

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import ExportError
from napari_lpd.core.files import KEY
from napari_lpd.core.geometry import Block, Box, sampled_polygons, um_box_to_pixels
from napari_lpd.core.settings.base import Settings
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.results.pyramid import Pyramid
from napari_lpd.slides.tissue import TissueMask

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT = 2
UNREADABLE = 255
UNKNOWN_ICC = "unknown"  # of results that do not say it


class PredictionCard(Settings):
    """Slide, model and settings of a prediction: two predictions with equal cards are equal.

    Attributes:
        classes: The tissue classes, in the order of the labels.
        prototypes_per_class: k.
        mpp: Resolution of the labels, in µm per pixel.
        shape: (H, W) of the whole slide at `mpp`.
        stride: Pixels of the labels per pixel of the maps.
        block: Edge of the blocks that are written, in pixels.
        slide: File name or layer name of the slide.
        slide_mpp: (y, x) µm per pixel of the slide's level 0.
        slide_shape: (H, W) of the slide's level 0.
        slide_hash: The slide's fingerprint.
        mpp_source: Origin of the slide's resolution.
        model: File name of the model.
        model_hash: SHA-256 of the model's file.
        temperature: The model's: shares of scores are raised to 1 / temperature, which calibrates them.
        settings: The settings of the run.
        tissue: Origin of the tissue mask.
        icc: How the slide's colour profile was treated.
        scope: Polygons (WKT, x and y in µm from the slide's corner) that were predicted; empty: the whole slide.
    """

    classes: tuple[TissueClass, ...]
    prototypes_per_class: int
    mpp: float
    shape: tuple[int, int]
    stride: int
    block: int
    slide: str
    slide_mpp: tuple[float, float]
    slide_shape: tuple[int, int]
    slide_hash: str
    mpp_source: str
    model: str
    model_hash: str
    temperature: float = 1.0
    settings: PredictSettings
    tissue: str
    icc: str = UNKNOWN_ICC
    scope: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """8 hex digits that differ where `difference` does."""
        about = self.model_dump(mode="json")
        about["settings"] = {
            name: value for name, value in about["settings"].items() if name not in PredictSettings.RUNTIME_SETTINGS
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]

    def difference(self, other: PredictionCard) -> str:
        """Name the first difference that makes `other` another prediction; "" where both are the same."""
        mine, others = self.model_dump(), other.model_dump()
        for name in PredictSettings.model_fields:
            one, two = mine["settings"].pop(name), others["settings"].pop(name)
            if one != two and name not in PredictSettings.RUNTIME_SETTINGS:
                return f"{name}={two}"
        return next((f"another {name.removesuffix('_hash')}" for name in mine if mine[name] != others[name]), "")


class BlockResult(NamedTuple):
    """Pixels of one block, cut off at the slide's edge.

    Attributes:
        labels: (h, w) uint8.
        scores: (C, h / stride, w / stride) uint8.
        prototypes: (C, k, h / stride, w / stride) uint8.
        uncertainty: (h / stride, w / stride) uint8.
    """

    labels: NDArray[np.uint8]
    scores: NDArray[np.uint8]
    prototypes: NDArray[np.uint8]
    uncertainty: NDArray[np.uint8]


class Prediction:
    """Prediction on disk, finished or not; `open` reads an existing one.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from shapely import box
        >>> from napari_lpd import Prediction, PredictSettings, load_model, open_slide, predict_slide, run, samples
        >>> model, settings = load_model(samples.model_path()), PredictSettings(tile=256, overlap=64, threads=1)
        >>> with open_slide(samples.skin_slide_path()) as slide, tempfile.TemporaryDirectory() as folder:
        ...     scope = [box(1000, 1000, 1300, 1300)]  # µm
        ...     _ = run(predict_slide(slide, model, settings, Path(folder, "skin.zarr"), scope))
        ...     Prediction.open(Path(folder, "skin.zarr")).labels.levels[0][1100:1102, 1100:1103].tolist()
        [[2, 2, 2], [2, 2, 2]]
    """

    def __init__(self, folder: Path, group: zarr.Group) -> None:
        self.folder = folder
        self._group = group
        attributes: dict[str, Any] = dict(group.attrs[KEY])  # type: ignore[arg-type]
        if attributes["format"] != FORMAT:
            raise ExportError(f"{folder}: format {attributes['format']}, this version reads {FORMAT}; predict again")
        self.card = PredictionCard.model_validate(attributes["card"])
        self.map_scale: list[list[float]] = attributes["map_scale"]
        self.scores = Pyramid(group)
        self.labels = Pyramid(group["labels/tissues"])  # type: ignore[arg-type]
        self.prototypes = [Pyramid(group[f"prototypes/{c}"]) for c in range(len(self.card.classes))]  # type: ignore[arg-type]
        self.uncertainty = Pyramid(group["uncertainty"])  # type: ignore[arg-type]
        mask = np.asarray(group["labels/tissue_mask/0"]) > 0  # type: ignore[index]
        self.tissue = TissueMask(mask, float(attributes["tissue_mpp"]))

    @classmethod
    def open(cls, folder: Path, write: bool = False) -> Prediction:
        """Open a prediction.

        Raises:
            ExportError: `folder` is missing or is not a prediction of this format.
        """
        if not is_prediction(folder):
            raise ExportError(f"{folder}: no prediction there; wanted a folder written by predict (*.zarr)")
        with zarr.config.set({"array.write_empty_chunks": True}):  # an empty chunk is a finished block without labels
            try:
                return cls(folder, zarr.open_group(folder, mode="r+" if write else "r"))
            except (KeyError, TypeError, ValidationError, FileNotFoundError) as error:
                first = str(error).splitlines()[0]
                raise ExportError(f"{folder}: incomplete prediction ({first}); predict again") from error

    @cached_property
    def scope(self) -> list[shapely.Geometry]:
        """The polygons that are predicted, (x, y) in µm from the slide's corner; empty: the whole slide."""
        return [shapely.from_wkt(text) for text in self.card.scope]

    def in_scope(self, origin: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Mark the pixels of a part of the slide that lie in the scope: (h, w)."""
        if not self.scope:
            return np.ones(shape, np.bool_)
        return sampled_polygons(self.scope, origin, shape, self.card.mpp)

    def to_label(self, origin: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Mark the pixels of a part of the slide to be labelled, the tissue inside the scope: (h, w)."""
        return self.tissue.at(origin, shape, self.card.mpp) & self.in_scope(origin, shape)

    def scope_box(self) -> Box:
        """Return the box (y0, x0, y1, x1) around the scope, in pixels, within the slide."""
        h, w = self.card.shape
        if not self.scope:
            return 0, 0, h, w
        x0, y0, x1, y1 = shapely.GeometryCollection(self.scope).bounds
        y0, x0, y1, x1 = um_box_to_pixels((y0, x0, y1, x1), self.card.mpp)
        return max(y0, 0), max(x0, 0), min(y1, h), min(x1, w)

    def finished_blocks(self) -> set[Block]:
        """Return the index (row, column) of every finished block."""
        chunks = self.folder / "labels" / "tissues" / "0" / "c"
        return {(int(path.parent.name), int(path.name)) for path in chunks.glob("*/*") if path.name.isdigit()}

    def write_block(self, block: Block, result: BlockResult) -> None:
        """Write a block, its labels last.

        Raises:
            ExportError: the disk is full or cannot be written; blocks written before stay.
        """
        origin = (block[0] * self.card.block, block[1] * self.card.block)
        cell = (origin[0] // self.card.stride, origin[1] // self.card.stride)
        try:
            for pyramid, maps in zip(self.prototypes, result.prototypes, strict=True):
                pyramid.write(cell, maps)
            self.scores.write(cell, result.scores)
            self.uncertainty.write(cell, result.uncertainty)
            self.labels.write(origin, result.labels)
        except OSError as error:
            kept = len(self.finished_blocks())
            raise ExportError(
                f"{self.folder}: cannot be written ({error.strerror or error}); {kept} blocks are kept:"
                " free some disk space and run it again to resume"
            ) from error

    @property
    def finished(self) -> bool:
        """Whether every block is finished."""
        return "areas_mm2" in self._group.attrs[KEY]  # type: ignore[operator]

    def finish(self) -> None:
        """Measure areas and list unreadable boxes: the last step.

        Raises:
            ExportError: the disk is full or cannot be written.
        """
        counts, tissue, boxes = np.zeros(256, np.int64), 0, []
        for origin, labels in self._blocks(self.finished_blocks()):
            counts += np.bincount(labels.ravel(), minlength=256)
            tissue += int((self.to_label(origin, labels.shape) & (labels != UNREADABLE)).sum())  # type: ignore[arg-type]
            if (labels == UNREADABLE).any():
                boxes += _boxes(labels == UNREADABLE, origin)
        pixel_mm2 = (self.card.mpp / 1000) ** 2
        scale = np.tile(self.card.mpp / np.array(self.card.slide_mpp), 2)
        measured = {
            "areas_mm2": {tissue.name: counts[i] * pixel_mm2 for i, tissue in enumerate(self.card.classes, start=1)},
            "tissue_mm2": tissue * pixel_mm2,
            "unreadable": [np.rint(np.array(box) * scale).astype(int).tolist() for box in boxes],
        }
        self._store(measured)

    def _store(self, values: dict[str, Any]) -> None:
        try:
            self._group.attrs[KEY] = {**self._group.attrs[KEY], **values}  # type: ignore[dict-item]
        except OSError as error:
            raise ExportError(f"{self.folder}: cannot be written ({error.strerror or error})") from error

    @property
    def warnings(self) -> list[str]:
        """Sentences on what makes the result doubtful, as colours far from those of the training."""
        return list(self._group.attrs[KEY].get("warnings", []))  # type: ignore[union-attr]

    def warn(self, line: str) -> bool:
        """Store a warning; returns False where it is stored already.

        Raises:
            ExportError: the disk is full or cannot be written.
        """
        if line in self.warnings:
            return False
        self._store({"warnings": [*self.warnings, line]})
        return True

    def _blocks(self, blocks: Iterable[Block]) -> Iterable[tuple[tuple[int, int], NDArray[np.uint8]]]:
        size = self.card.block
        for y, x in sorted(blocks):
            yield (y * size, x * size), self.labels.levels[0][y * size : (y + 1) * size, x * size : (x + 1) * size]

    def area_mm2(self) -> dict[str, float]:
        """Return the labelled area per class, in mm², of a finished prediction; {} before."""
        return dict(self._group.attrs[KEY].get("areas_mm2", {}))  # type: ignore[union-attr]

    @property
    def tissue_mm2(self) -> float:
        """Area of the readable tissue inside the scope of a finished prediction, in mm²."""
        return float(self._group.attrs[KEY]["tissue_mm2"])  # type: ignore[index,call-overload,arg-type]

    @property
    def unreadable(self) -> list[Box]:
        """Boxes (y0, x0, y1, x1), in level-0 pixels, that could not be read for a finished prediction."""
        return [tuple(box) for box in self._group.attrs[KEY]["unreadable"]]  # type: ignore[index,call-overload,union-attr]


def _boxes(mask: NDArray[np.bool_], origin: tuple[int, int]) -> list[Box]:
    from scipy import ndimage  # type: ignore[import-untyped]

    slices = ndimage.find_objects(ndimage.label(mask)[0])
    return [
        (rows.start + origin[0], columns.start + origin[1], rows.stop + origin[0], columns.stop + origin[1])
        for rows, columns in slices
    ]


def is_prediction(folder: Path) -> bool:
    """Return whether `folder` is a zarr group with our attribute."""
    metadata = folder / "zarr.json"
    return metadata.is_file() and f'"{KEY}"' in metadata.read_text(encoding="utf-8")
