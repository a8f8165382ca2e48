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
    from napari_lpd.training.guide.places import Places
    from napari_lpd.training.live import CellIndex, LiveCell, LiveModel, LiveSlide

CHUNK, MOST = 8, 600  # cells labelled between two looks at the window; cells that are kept
AROUND = 1.0  # of the view, on each side of it, that is labelled before regions are checked
LEARNED, CLUSTERED = "learned", "clustered"  # prototypes that are mapped
Asked = tuple[set[Any], list[str]]  # keys of regions, names of classes
Box = tuple[float, float, float, float]  # (y0, x0, y1, x1) in µm from the slide's corner


class Refused(NamedTuple):
    """What a job returns that a user's error has ended."""

    reason: str


class Maps(NamedTuple):
    """Where prototypes answer in the view.

    Attributes:
        first: The cell in whose corner they begin.
        maps: (k, h, w).
        bank: Whose: `LEARNED` or `CLUSTERED`.
    """

    first: CellIndex
    maps: NDArray[np.float32]
    bank: str


class Filled(NamedTuple):
    """Cells beyond the view that were labelled.

    Attributes:
        cells: They.
        around: The view and, unless it is to go on from here, whether just what is near it, or all, is labelled now.
        is_full: Whether there is no room for more.
    """

    cells: dict[CellIndex, LiveCell]
    around: tuple[Box, bool] | None
    is_full: bool


class Engine:
    """What learns and labels one slide.

    Attributes:
        layer: The slide's layer.
        settings: Of the training.
        seen: The cells of the view that was asked for last.
        cells: The cells that are labelled with the model, in the view and beyond it.
        suggested: The places that were suggested; None before the first.
        learned: Regions and classes from which the model has learned.
        verdicts: Of regions, by their keys, what a model that has not seen them says.
        unchecked: Folds of regions that are still to be checked.
        took: Seconds of the last update.
        is_full: Whether there is no room for the features of more cells.
        unmapped: Why the prototypes that were asked for last are not mapped; "" where they are.
        refusal: Why nothing can be learned or labelled; "" where it can.
    """

    def __init__(self, layer: Image, settings: TrainSettings) -> None:
        self.layer, self.settings = layer, settings
        self.seen: list[CellIndex] = []
        self.cells: OrderedDict[CellIndex, LiveCell] = OrderedDict()
        self.suggested: Places | None = None
        self.learned: Asked = (set(), [])
        self.verdicts: dict[Any, Verdict] = {}
        self.unchecked: list[int] = []
        self.took, self.is_full = 0.0, False
        self.unmapped, self.refusal = "", ""
        self._regions: Sequence[Region] = ()
        self._mapped: tuple[Any, ...] = ()
        self._filled: set[tuple[Box, bool]] = set()
        self._clustered: LoadedModel | None = None
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
        self._filled.clear()
        self._clustered = None
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

    def look(self, box: Box) -> list[CellIndex]:
        """Turn to a view; returns the cells in it that are not labelled."""
        if self._box != box and self._slide is not None:
            self.seen, self._box = self._slide.cells(box, self.settings.mpp)[:MOST], box
        return [cell for cell in self.seen if cell not in self.cells]

    def labelling(self, missing: Sequence[CellIndex]) -> Job[dict[CellIndex, LiveCell]]:
        """Label a few cells of the view; returns them."""
        live, slide = self._opened()
        made, total = {}, len(self.seen)
        for number, cell in enumerate(missing[:CHUNK], start=1):
            made[cell] = live.label(slide, cell)
            yield Progress(total - len(missing) + number, total, "labelling the view")
        return made

    def is_filled(self, box: Box, is_near: bool = False) -> bool:
        """Return whether all is labelled that there is room for, around a view or on the whole slide."""
        return (box, is_near) in self._filled

    def filling(self, box: Box, known: frozenset[CellIndex], is_near: bool = False) -> Job[Filled]:
        """Label a few more cells that are not known, from a view outwards.

        Args:
            box: The view.
            known: What is labelled.
            is_near: Whether just what is around the view is labelled, or the whole slide.
        """
        live, slide = self._opened()
        mpp = self.settings.mpp
        made: dict[CellIndex, LiveCell] = {}
        (y0, x0, y1, x1), edge = box, AROUND * max(box[2] - box[0], box[3] - box[1])
        wide = (y0 - edge, x0 - edge, y1 + edge, x1 + edge)
        for cell in slide.cells(wide, mpp) if is_near else slide.all_cells(box, mpp):
            if cell in known:
                continue
            if len(made) == CHUNK:
                return Filled(made, None, False)
            if len(known) + len(made) >= MOST or not live.has_room(slide, cell):
                return Filled(made, (box, is_near), True)
            made[cell] = live.label(slide, cell)
            yield Progress(0, 0, "filling")
        return Filled(made, (box, is_near), False)

    def take_filled(self, filled: Filled) -> None:
        """Keep cells beyond the view."""
        self.cells.update(filled.cells)
        self.is_full = filled.is_full
        if filled.around is not None:
            self._filled.add(filled.around)

    def checking(self) -> Job[dict[Any, Verdict]]:
        """Ask a model that has not seen the regions of the next fold what they are; returns verdicts by their keys."""
        from napari_lpd.training.guide.held_out import check

        live, slide = self._opened()
        return (yield from check(live, slide, self._regions, self.unchecked[0]))

    def take_verdicts(self, verdicts: dict[Any, Verdict]) -> None:
        """Keep what `checking` has found."""
        self.unchecked.pop(0)
        self.verdicts |= verdicts

    def is_mapped(self, tissue: str, bank: str) -> bool:
        """Return whether the prototypes of a tissue are mapped, by the newest model in the view."""
        return self._mapped == (tissue, bank, self._box, self.model)

    def unmap(self) -> None:
        """Forget that prototypes are mapped, as their maps are not shown."""
        self._mapped = ()

    def mapping(self, tissue: str, bank: str) -> Job[Maps | None]:
        """Map the prototypes of a tissue on the view, learned or clustered ones; those are made first.

        Where they cannot be made, `unmapped` says why, and the mask goes on.
        """
        from napari_lpd.training.guide.prototypes import prototype_maps

        live, slide = self._opened()
        asked, cells = (tissue, bank, self._box, self.model), [cell for cell in self.seen if cell in self.cells]
        self.unmapped = ""
        try:
            if bank == CLUSTERED and self._clustered is None:
                self._clustered = yield from live.clustered()
        except LpdError as error:
            self._mapped, self.unmapped = asked, str(error)
            return None
        if not cells:  # the view has just moved to where nothing is labelled
            return None
        model = self._clustered if bank == CLUSTERED else live.model
        parts = {}
        for number, cell in enumerate(cells, start=1):
            parts[cell] = prototype_maps(live, slide, cell, tissue, model)
            yield Progress(number, len(cells), "mapping the prototypes")
        (top, left), (bottom, right) = np.min(cells, 0), np.max(cells, 0) + 1
        count, edge = parts[cells[0]].shape[:2]
        maps = np.zeros((count, (bottom - top) * edge, (right - left) * edge), np.float32)
        for (y, x), part in parts.items():
            maps[:, (y - top) * edge : (y - top + 1) * edge, (x - left) * edge : (x - left + 1) * edge] = part
        self._mapped = asked
        return Maps((int(top), int(left)), maps, bank)

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
