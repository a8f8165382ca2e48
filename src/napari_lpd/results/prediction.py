"""Predictions on disk, and the definition of their format.

On disk a prediction is an OME-Zarr 0.5 folder (zarr 3) over the whole slide; only what was predicted is filled:

=====================  ===================  ===========================================================================
image                  shape, type          meaning
=====================  ===================  ===========================================================================
the folder itself      (C, h, w) uint8      class scores, 0..1 as 1..255; 0 = not computed
``presence``           (C, h, w) uint8      odds that a class is there; 128 and more: present (`rule.presence_bytes`)
``labels/tissues``     (H, W) uint8         c + 1 = class c, 253 = unsure, 255 = unreadable, 0 = no tissue; at ``mpp``
``labels/tissue_mask`` (h', w') uint8       1 = tissue
``prototypes/c``       (k, h, w) uint8      cosine of each of class c's prototypes, -1..1 as 1..255; 0 = not computed
``uncertainty``        (h, w) uint8         entropy of the labels' shares, 0 to the highest as 1..255; 0 = not computed
=====================  ===================  ===========================================================================

``h = ceil(H / stride)``. Scores and presence reach one map pixel beyond what is labelled: labels are made from them
(`core.labelling.rule`). The root's attribute ``napari_lpd`` holds the card (slide, model, settings), the levels of the
maps, and, once finished, areas and unreadable boxes. A block (`PredictionCard.block`) is finished when its chunk of
``labels/tissues/0`` exists, which is written last.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely

from napari_lpd.core.errors import ExportError, not_written, writing
from napari_lpd.core.files import KEY
from napari_lpd.core.geometry import Block, Box, common, is_empty, sampled_polygons, um_box_to_pixels
from napari_lpd.core.labelling.rule import UNREADABLE, UNSURE, Evidence
from napari_lpd.core.locks import check_held
from napari_lpd.core.reading import MAX_BYTES
from napari_lpd.results.card import ResultAttributes, read_result
from napari_lpd.results.pyramid import Pyramid
from napari_lpd.results.store import AGAIN, METADATA, DamagedResultError
from napari_lpd.slides.tissue import TissueMask

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.settings.prediction import LabelSettings
    from napari_lpd.results.card import PredictionCard

UNMEASURED: dict[str, Any] = dict.fromkeys(("areas_mm2", "unsure_mm2", "tissue_mm2", "unreadable"))


class BlockResult(NamedTuple):
    """Pixels of one block, cut off at the slide's edge.

    Attributes:
        labels: (h, w) uint8.
        scores: (C, h / stride, w / stride) uint8.
        presence: (C, h / stride, w / stride) uint8.
        prototypes: (C, k, h / stride, w / stride) uint8.
        uncertainty: (h / stride, w / stride) uint8.
    """

    labels: NDArray[np.uint8]
    scores: NDArray[np.uint8]
    presence: NDArray[np.uint8]
    prototypes: NDArray[np.uint8]
    uncertainty: NDArray[np.uint8]


class Prediction:
    """Prediction on disk, finished or not; `open` reads an existing one.

    Examples:
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

    def __init__(self, folder: Path, about: ResultAttributes, write: bool = False) -> None:
        self.folder, self._about = folder, about
        self.found_finished = False  # by the prediction that was to make it
        pyramids = {node: Pyramid(folder, layout, write) for node, layout in self.card.layouts().items()}
        self.presence = pyramids["presence"]
        self.scores, self.labels, self.uncertainty = pyramids[""], pyramids["labels/tissues"], pyramids["uncertainty"]
        self.prototypes = [pyramids[f"prototypes/{c}"] for c in range(len(self.card.classes))]
        self.map_scale = [list(stage) for stage in about.map_scale]
        self.tissue = TissueMask(self._stored_tissue(), about.tissue_mpp)

    @property
    def card(self) -> PredictionCard:
        """Slide, model and settings."""
        return self._about.card

    def _stored_tissue(self) -> NDArray[np.bool_]:
        shape = self._about.tissue_shape
        mask = Pyramid(self.folder, self.card.tissue_layout(shape)).levels[0]
        if len(mask.chunks()) < -(-shape[0] // 1024) * -(-shape[1] // 1024):
            raise DamagedResultError(self.folder, "a part of its tissue mask is lost")
        try:
            return mask[:, :] > 0
        except MemoryError as error:
            raise DamagedResultError(self.folder, f"its tissue mask is {shape[0]} x {shape[1]} pixels") from error

    @classmethod
    def open(cls, folder: Path, write: bool = False) -> Prediction:
        """Open a prediction, finished or not, of which no part is lost.

        What it says of itself, the arrays' metadata and which chunks there are is checked here, the chunks themselves
        when they are read.

        Raises:
            ExportError: `folder` is missing or is not a prediction of this format.
            DamagedResultError: something of it is lost, or not what was written.
        """
        prediction = cls.open_unchecked(folder, write)
        done = prediction.finished_blocks()
        if lost := prediction.lost_blocks(done):
            (y, x), edge = min(lost), prediction.card.block
            where = f"{len(lost)} of {len(done | lost)} blocks are lost, the first at y {y * edge}, x {x * edge}"
            raise DamagedResultError(folder, where, AGAIN)
        return prediction

    @classmethod
    def open_unchecked(cls, folder: Path, write: bool = False) -> Prediction:
        """Open a prediction of which blocks may be lost; errors as for `open`."""
        if not is_prediction(folder):
            raise ExportError(f"{folder}: no prediction there; wanted a folder written by predict (*.zarr)")
        return cls(folder, read_result(folder), write)

    def _pyramids(self) -> list[Pyramid]:
        return [*self.prototypes, self.scores, self.presence, self.uncertainty, self.labels]

    def lost_blocks(self, done: set[Block]) -> set[Block]:
        """Return which of the blocks that are `done` lack a chunk, and, if all should be, which are not done."""
        lost = set().union(*(pyramid.incomplete(done) for pyramid in self._pyramids()))
        return lost | (self.missing_blocks(done) if self.finished else set())

    def missing_blocks(self, done: set[Block]) -> set[Block]:
        """Return the blocks in reach of tissue in the scope (`reach`) that are not `done`."""
        y0, x0, y1, x1 = limits = self.scope_box()
        edge, scale, tissue, rim = self.card.block, self.tissue.mpp / self.card.mpp, self.tissue.array, self.card.stride
        (h, w), (height, width) = self.card.shape, tissue.shape
        columns = np.arange(max(x0 - rim, 0) // edge, -(-min(x1 + rim, w) // edge))
        first = np.floor(np.maximum(columns * edge - rim, x0) / scale).astype(int).clip(0, width)
        end = np.ceil(np.minimum((columns + 1) * edge + rim, x1) / scale).astype(int).clip(0, width)
        missing = set()
        for y in range(max(y0 - rim, 0) // edge, -(-min(y1 + rim, h) // edge)):
            top, bottom = max(y * edge - rim, y0) / scale, min((y + 1) * edge + rim, y1) / scale
            before = np.concatenate([[0], np.cumsum(tissue[int(top) : min(int(np.ceil(bottom)), height)].any(0))])
            here = {(y, int(x)) for x in columns[before[end] > before[first]]} - done
            missing |= {block for block in here if self.tissue_box(common(self.reach(block), limits))}
        return missing

    def reach(self, block: Block) -> Box:
        """Return the pixels of a block and one map pixel around it: tissue there needs the block's maps."""
        (y0, x0, y1, x1), rim, (h, w) = self.block_box(block), self.card.stride, self.card.shape
        return max(y0 - rim, 0), max(x0 - rim, 0), min(y1 + rim, h), min(x1 + rim, w)

    def block_box(self, block: Block) -> Box:
        """Return the pixels of a block, within the slide."""
        (y, x), size, (h, w) = block, self.card.block, self.card.shape
        return y * size, x * size, min((y + 1) * size, h), min((x + 1) * size, w)

    def tissue_box(self, box: Box) -> Box | None:
        """Find the pixels of a box around the tissue in it; None where there is none."""
        tissue, scale = self.tissue.array, self.tissue.mpp / self.card.mpp
        top, left, bottom, right = (value / scale for value in box)
        top, left = math.floor(top), math.floor(left)
        part = tissue[top : math.ceil(bottom), left : math.ceil(right)]
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        if not len(rows):
            return None
        start, end = (top + rows[0], left + columns[0]), (top + rows[-1] + 1, left + columns[-1] + 1)
        y0, x0, y1, x1 = (float(value) * scale for value in (*start, *end))
        found = common(box, (math.floor(y0), math.floor(x0), math.ceil(y1), math.ceil(x1)))
        return None if is_empty(found) else found

    def drop_damaged(self) -> set[Block]:
        """Read every chunk, and forget the blocks of those that are lost or damaged; they are pending then.

        Returns:
            The blocks that were forgotten, or lost.
        """
        done = self.finished_blocks()
        with writing(self.folder):
            lost = self.lost_blocks(done).union(*(pyramid.unsound(done) for pyramid in self._pyramids()))
        self.forget(lost)
        return lost

    def forget(self, blocks: set[Block]) -> None:
        """Make blocks, and with them the result, unfinished."""
        if blocks and self.finished:
            self._store(UNMEASURED)
        with writing(self.folder):
            for block in blocks:
                self.labels.levels[0].remove(block)

    @cached_property
    def scope(self) -> list[shapely.Geometry]:
        """The polygons that are predicted, (x, y) in µm from the slide's corner; empty: the whole slide."""
        return [shapely.from_wkt(text) for text in self.card.scope]

    def in_scope(self, origin: tuple[int, int], shape: tuple[int, int], level: int = 0) -> NDArray[np.bool_]:
        """Mark the pixels of a part of the slide that lie in the scope: (h, w)."""
        if not self.scope:
            return np.ones(shape, np.bool_)
        return sampled_polygons(self.scope, origin, shape, self.card.mpp * 2**level)

    def to_label(self, origin: tuple[int, int], shape: tuple[int, int], level: int = 0) -> NDArray[np.bool_]:
        """Mark the pixels of a part of the slide to be labelled, the tissue inside the scope: (h, w)."""
        return self.tissue.at(origin, shape, self.card.mpp * 2**level) & self.in_scope(origin, shape, level)

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
        return self.labels.levels[0].chunks()

    def write_block(self, block: Block, result: BlockResult) -> None:
        """Write a block, its labels last.

        Raises:
            ExportError: the disk is full or cannot be written; blocks written before stay. Or the lock is lost.
        """
        origin = (block[0] * self.card.block, block[1] * self.card.block)
        cell = (origin[0] // self.card.stride, origin[1] // self.card.stride)
        check_held(self.folder)
        try:
            for pyramid, maps in zip(self.prototypes, result.prototypes, strict=True):
                pyramid.write(cell, maps)
            self.scores.write(cell, result.scores)
            self.presence.write(cell, result.presence)
            self.uncertainty.write(cell, result.uncertainty)
            self.labels.write(origin, result.labels)
        except OSError as error:
            kept = f"{len(self.finished_blocks())} blocks are kept: "
            raise ExportError(not_written(self.folder, error, kept)) from error

    def evidence(self, box: Box, level: int = 0) -> Evidence:
        """Read what the model said of map pixels (y0, x0, y1, x1) of a level: the input of `PredictionCard.rule`."""
        y0, x0, y1, x1 = box
        return Evidence(*(each.levels[level][:, y0:y1, x0:x1] for each in (self.scores, self.presence)))

    def begin_relabelling(self, labels: LabelSettings) -> None:
        """Store the settings of labels that are about to be made again; the result is unfinished until `finish`.

        Raises:
            SettingsError: they do not fit the classes, or the blocks.
            ExportError: the disk is full or cannot be written.
        """
        card = self.card.labelled_by(labels)
        self._store(UNMEASURED | {"card": card.model_dump(), "relabelling": True, "cleaned": False})

    def begin_cleaning(self) -> None:
        """Store that labels are about to be cleaned in their place; the result is unfinished until `finish`."""
        self._store(UNMEASURED | {"relabelling": True, "cleaned": True})

    @property
    def cleaned(self) -> bool:
        """Whether labels are cleaned, wholly or in part: they are no longer those that follow from the maps."""
        return self._about.cleaned

    @property
    def relabelling(self) -> bool:
        """Whether labels are being made again, or that was interrupted."""
        return self._about.relabelling

    def write_labels(self, block: Block, labels: NDArray[np.uint8]) -> None:
        """Write the labels (h, w) of a finished block again; errors as for `write_block`."""
        check_held(self.folder)
        with writing(self.folder):
            self.labels.write((block[0] * self.card.block, block[1] * self.card.block), labels)

    @property
    def finished(self) -> bool:
        """Whether every block is finished."""
        return self._about.areas_mm2 is not None

    def finish(self) -> None:
        """Measure areas and list unreadable boxes: the last step.

        Raises:
            ExportError: the disk is full or cannot be written.
        """
        counts, tissue, boxes = np.zeros(256, np.int64), 0, []
        for origin, labels in self._blocks(self.finished_blocks()):
            counts += np.bincount(labels.ravel(), minlength=256)
            shape = labels.shape[0], labels.shape[1]
            wanted = self.to_label(origin, shape) | (labels > 0) & self.in_scope(origin, shape)  # also holes, filled
            tissue += int((wanted & (labels != UNREADABLE)).sum())
            if (labels == UNREADABLE).any():
                boxes += _boxes(labels == UNREADABLE, origin)
        pixel_mm2 = (self.card.mpp / 1000) ** 2
        scale = np.tile(self.card.mpp / np.array(self.card.slide_mpp), 2)
        measured = {
            "areas_mm2": {tissue.name: counts[i] * pixel_mm2 for i, tissue in enumerate(self.card.classes, start=1)},
            "unsure_mm2": counts[UNSURE] * pixel_mm2,
            "tissue_mm2": tissue * pixel_mm2,
            "unreadable": [np.rint(np.array(box) * scale).astype(int).tolist() for box in boxes],
            "relabelling": False,
        }
        self._store(measured)

    def _store(self, values: dict[str, Any]) -> None:
        self._about = ResultAttributes.model_validate(self._about.model_dump() | values)
        self._about.write(self.folder)

    @property
    def warnings(self) -> list[str]:
        """Sentences on what makes the result doubtful, as colours far from those of the training."""
        return list(self._about.warnings)

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
        return dict(self._about.areas_mm2 or {})

    @property
    def tissue_mm2(self) -> float:
        """Area of the readable tissue inside the scope, with holes that are filled, in mm²; 0 before it is finished."""
        return self._about.tissue_mm2 or 0.0

    @property
    def unsure_mm2(self) -> float:
        """Area of the tissue that is unsure, as no class is there or sure enough, in mm²."""
        return self._about.unsure_mm2 or 0.0

    @property
    def unreadable(self) -> list[Box]:
        """Boxes (y0, x0, y1, x1), in level-0 pixels, that could not be read for a finished prediction."""
        return list(self._about.unreadable or ())


def _boxes(mask: NDArray[np.bool_], origin: tuple[int, int]) -> list[Box]:
    from scipy import ndimage  # type: ignore[import-untyped]

    slices = ndimage.find_objects(ndimage.label(mask)[0])
    return [
        (rows.start + origin[0], columns.start + origin[1], rows.stop + origin[0], columns.stop + origin[1])
        for rows, columns in slices
    ]


def is_prediction(folder: Path) -> bool:
    """Return whether `folder` carries our mark, sound or not; False where that cannot be read."""
    try:
        with (folder / METADATA).open("rb") as file:
            return f'"{KEY}"'.encode() in file.read(MAX_BYTES)
    except OSError:
        return False
