"""What learns and labels one slide for the live mask: jobs that run in a thread, and what they have found."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_lpd.core.errors import LpdError
from napari_lpd.core.geometry import common, is_empty, within
from napari_lpd.core.jobs import Progress
from napari_lpd.data.tileset import CELL
from napari_lpd.gui.layers.slides import slide_id, slide_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from napari.layers import Image
    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.jobs import Job
    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.regions import Region, Verdict
    from napari_lpd.models.network import LoadedModel
    from napari_lpd.training.live import CellIndex, LiveCell, LiveModel, LiveSlide

CHUNK, MOST = 8, 600  # cells labelled between two looks at the window; cells that are kept
Asked = tuple[set[Any], list[str]]  # keys of regions, names of classes
Box = tuple[float, float, float, float]  # (y0, x0, y1, x1) in µm from the slide's corner


class Refused(NamedTuple):
    """What a job returns that a user's error has ended."""

    reason: str


class Engine:
    """What learns and labels one slide.

    Attributes:
        layer: The slide's layer.
        settings: Of the training.
        seen: The cells of the view that was asked for last.
        cells: The cells that are labelled with the model.
        places: The places (y, x) in µm that were suggested.
        learned: Regions and classes from which the model has learned.
        verdicts: Of regions, by their keys, what a model that has not seen them says.
        unchecked: Folds of regions that are still to be checked.
        took: Seconds of the last update.
        keep_in: Makes the folder in which the model is to be kept; None: it is not asked for.
        refusal: Why nothing can be learned or labelled; "" where it can.
    """

    def __init__(self, layer: Image, settings: TrainSettings) -> None:
        self.layer, self.settings = layer, settings
        self.seen: list[CellIndex] = []
        self.cells: OrderedDict[CellIndex, LiveCell] = OrderedDict()
        self.places: list[tuple[float, float]] = []
        self.learned: Asked = (set(), [])
        self.verdicts: dict[Any, Verdict] = {}
        self.unchecked: list[int] = []
        self.took, self.refusal = 0.0, ""
        self.keep_in: Callable[[], Path] | None = None
        self._regions: Sequence[Region] = ()
        self._mapped: tuple[str, Box | None, LoadedModel | None] = ("", None, None)
        self._shown_as = self._identity(layer)
        self._box: Box | None = None
        self._slide: LiveSlide | None = None
        self._live: LiveModel | None = None

    @staticmethod
    def _identity(layer: Image) -> tuple[Any, ...]:
        return slide_id(layer), *layer.scale

    def fits(self, layer: Image, settings: TrainSettings) -> bool:
        """Return whether it is for this slide, at the resolution that it has now, and these settings."""
        return self.layer is layer and self.settings == settings and self._shown_as == self._identity(layer)

    @property
    def model(self) -> LoadedModel | None:
        """What was learned last."""
        return None if self._live is None else self._live.model

    def _opened(self) -> tuple[LiveModel, LiveSlide]:
        from napari_lpd.training.live import LiveModel, LiveSlide

        if self._live is None or self._slide is None:
            self._slide, self._live = LiveSlide(slide_of(self.layer)), LiveModel(self.settings)
        return self._live, self._slide

    @property
    def stride(self) -> int:
        """Pixels per place of the model's maps."""
        cell = next(iter(self.cells.values()))
        return CELL // len(cell.unsure)

    def close(self) -> None:
        """Close the slide's file; no job runs any more."""
        if self._slide is not None:
            self._slide.close()
        self._slide = self._live = None

    def learning(self, regions: Sequence[Region], classes: Sequence[TissueClass]) -> Job[list[int]]:
        """Learn from the regions; returns the folds that are to be checked then."""
        from napari_lpd.training.guide.held_out import FOLDS

        yield Progress(0, 0, "reading the slide")
        live, slide = self._opened()
        yield from live.learn(slide, regions, classes)
        self._regions = regions
        return list(range(FOLDS))

    def begin_anew(self, learned: Asked, folds: list[int], took: float) -> None:
        """Forget what the model before has labelled and checked."""
        self.learned, self.unchecked, self.took = learned, folds, took
        self.cells.clear()
        self.verdicts = {key: found for key, found in self.verdicts.items() if key in learned[0]}

    def take(self, cells: dict[CellIndex, LiveCell]) -> None:
        """Keep labelled cells, the newest ones."""
        self.cells.update(cells)
        while len(self.cells) > MOST:
            self.cells.popitem(last=False)

    def labels(self, first: tuple[int, int], edge: int) -> NDArray[np.uint8]:
        """Cut a square (edge, edge) from the labelled cells; 0 where nothing is labelled.

        Args:
            first: (y, x) of its first pixel, at the model's resolution.
            edge: Its edge in pixels.
        """
        box = (*first, first[0] + edge, first[1] + edge)
        found = np.zeros((edge, edge), np.uint8)
        for (row, column), cell in self.cells.items():
            own = (row * CELL, column * CELL, (row + 1) * CELL, (column + 1) * CELL)
            part = common(own, box)
            if not is_empty(part):
                found[within(box, part)] = cell.labels[within(own, part)]
        return found

    def is_labelled(self, box: Box) -> bool:
        """Return whether all cells of the box are labelled."""
        return self._box == box and set(self.seen) <= self.cells.keys()

    def labelling(self, box: Box, known: frozenset[CellIndex]) -> Job[dict[CellIndex, LiveCell]]:
        """Label a few of the box's cells that are not known; returns them."""
        live, slide = self._opened()
        if self._box != box:
            self.seen, self._box = slide.cells(box, self.settings.mpp)[:MOST], box
        missing = [cell for cell in self.seen if cell not in known]
        made = {}
        for number, cell in enumerate(missing[:CHUNK], start=1):
            made[cell] = live.label(slide, cell)
            yield Progress(len(self.seen) - len(missing) + number, len(self.seen), "labelling the view")
        return made

    def checking(self) -> Job[dict[Any, Verdict]]:
        """Ask a model that has not seen the regions of the next fold what they are; returns verdicts by their keys."""
        from napari_lpd.training.guide.held_out import check

        live, slide = self._opened()
        return (yield from check(live, slide, self._regions, self.unchecked[0]))

    def is_mapped(self, tissue: str) -> bool:
        """Return whether the prototypes of a tissue are mapped, by the newest model in the view."""
        return self._mapped == (tissue, self._box, self.model)

    def mapping(self, tissue: str) -> Job[tuple[CellIndex, NDArray[np.float32]]]:
        """Map the prototypes of a tissue on the view; returns the first cell and the maps (k, h, w)."""
        from napari_lpd.training.guide.prototypes import prototype_maps

        live, slide = self._opened()
        cells = [cell for cell in self.seen if cell in self.cells]
        parts = {}
        for number, cell in enumerate(cells, start=1):
            parts[cell] = prototype_maps(live, slide, cell, tissue)
            yield Progress(number, len(cells), "mapping the prototypes")
        (top, left), (bottom, right) = np.min(cells, 0), np.max(cells, 0) + 1
        count, edge = parts[cells[0]].shape[:2]
        maps = np.zeros((count, (bottom - top) * edge, (right - left) * edge), np.float32)
        for (y, x), part in parts.items():
            maps[:, (y - top) * edge : (y - top + 1) * edge, (x - left) * edge : (x - left + 1) * edge] = part
        self._mapped = (tissue, self._box, self.model)
        return (int(top), int(left)), maps

    def keeping(self, folder: Callable[[], Path]) -> Job[Path]:
        """Save the model; returns its file."""
        live, _ = self._opened()
        yield Progress(0, 0, "saving the model")
        return live.save(folder() / "model.safetensors")


def refusing(job: Job[Any]) -> Job[Any]:
    """Follow a job; an error that a user can correct is returned, to be shown where he draws."""
    try:
        return (yield from job)
    except LpdError as error:
        return Refused(str(error))
