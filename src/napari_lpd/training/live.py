"""Learn from regions while they are drawn, and label what is in view: the engine of the live mask.

A joint head learns from the features of a frozen encoder, which are computed once per cell of a slide. After a change
of the regions a head that is mostly new takes a few steps, and cells are labelled anew from the features that are kept.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch

from napari_lpd.core.errors import DataError
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.labelling.rule import Rule
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.data.region_tiles import cut_tiles
from napari_lpd.data.tileset import CELL, RIM, describe_sources, training_colours
from napari_lpd.models.cam import class_presence, evidence, label_scores, unsureness
from napari_lpd.models.card import Card, provenance
from napari_lpd.models.checkpoint import save_checkpoint
from napari_lpd.models.compute import choose_device, choose_precision
from napari_lpd.models.joint.store import FeatureStore
from napari_lpd.models.joint.tiles import FeatureTiles, FrozenEncoder, clustered_bank_of_features, content_key
from napari_lpd.models.network import LPD, STAGES_USED, LoadedModel, encoder_of, used_stages
from napari_lpd.slides.tissue import find_tissue
from napari_lpd.training.ancestor import inherit
from napari_lpd.training.losses.joint import JointObjective
from napari_lpd.training.step import parameter_groups, set_training
from napari_lpd.training.validation import PRESENCE, calibrate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.settings.training import ModelSettings, TrainSettings
    from napari_lpd.data.regions import Region
    from napari_lpd.data.tileset import TileSet
    from napari_lpd.slides.slide import Slide

ROOM = 2**30  # bytes of features in memory
FRESH, WARM, BATCH = 160, 50, 12  # steps of a head that starts, and of one that goes on; tiles of a step
KEPT = 0.2  # of the weights of the update before; the rest is a new head's, which a head that only goes on falls behind
READ = 256  # tiles and cells whose pixels are remembered
NOTHING_LEARNED = "nothing was learned yet: draw regions of two tissues"

BoxUm = tuple[float, float, float, float]
"""(y0, x0, y1, x1) in µm from a slide's corner."""

CellIndex = tuple[int, int]
"""Row and column of a cell of `CELL` pixels of a slide, at the model's resolution."""


class LiveCell(NamedTuple):
    """Labels of one cell.

    Attributes:
        labels: (CELL, CELL) uint8: 0 = no tissue, c + 1 = class c of the model's, `UNSURE`.
        unsure: (CELL / stride, CELL / stride) float32, 0 sure to 1; 0 where there is no tissue.
        scores: (C, CELL / stride, CELL / stride) uint8, of the classes, present or not: 0..1 as 1..255.
    """

    labels: NDArray[np.uint8]
    unsure: NDArray[np.float32]
    scores: NDArray[np.uint8]


class LiveSlide:
    """A slide that regions are drawn on: its tissue, and its pixels as far as they were read for training.

    Args:
        slide: The open slide; it is closed with `close`.
    """

    def __init__(self, slide: Slide) -> None:
        self.slide, self.tissue = slide, find_tissue(slide)
        self.keys: dict[CellIndex, str] = {}
        self._grids: dict[float, NDArray[np.bool_]] = {}
        self.read = lru_cache(READ)(slide.read)
        self.read_tolerant = lru_cache(READ)(slide.read_tolerant)
        self.close = slide.close

    def __getattr__(self, name: str) -> object:
        return getattr(self.slide, name)

    def cells(self, box_um: BoxUm, mpp: float) -> list[CellIndex]:
        """List the cells in a box (y0, x0, y1, x1), in µm, that hold tissue, from its middle outwards."""
        y0, x0, y1, x1 = (value / (CELL * mpp) for value in box_um)
        first = (max(math.floor(y0), 0), max(math.floor(x0), 0))
        grid = self._grid(mpp)[first[0] : max(math.ceil(y1), 0), first[1] : max(math.ceil(x1), 0)]
        return self._outwards(np.argwhere(grid) + first, box_um, mpp)

    def all_cells(self, from_um: BoxUm, mpp: float) -> list[CellIndex]:
        """List all cells of the slide that hold tissue, from the middle of a box outwards."""
        return self._outwards(np.argwhere(self._grid(mpp)), from_um, mpp)

    def _outwards(self, cells: NDArray[np.intp], from_um: BoxUm, mpp: float) -> list[CellIndex]:
        y0, x0, y1, x1 = (value / (CELL * mpp) for value in from_um)
        far = np.hypot(cells[:, 0] - ((y0 + y1) / 2 - 0.5), cells[:, 1] - ((x0 + x1) / 2 - 0.5))
        return [(y, x) for y, x in cells[np.argsort(far, kind="stable")].tolist()]

    def _grid(self, mpp: float) -> NDArray[np.bool_]:
        """Mark the cells that hold tissue, at one of 16 × 16 points each: (rows, columns)."""
        if mpp not in self._grids:
            rows, columns = (-(-n // CELL) for n in self.slide.shape_at(mpp))
            points = self.tissue.at((0, 0), (16 * rows, 16 * columns), mpp * CELL / 16)
            self._grids[mpp] = np.asarray(points.reshape(rows, 16, columns, 16).any((1, 3)))
        return self._grids[mpp]

    def tissue_at(self, cell: CellIndex, mpp: float) -> NDArray[np.bool_]:
        """Mark the tissue in a cell: (CELL, CELL)."""
        return self.tissue.at((cell[0] * CELL, cell[1] * CELL), (CELL, CELL), mpp)


class LiveModel:
    """A joint head that follows the regions on a slide.

    Examples:
        >>> from napari_lpd import open_slide, read_classes, run, samples
        >>> from napari_lpd.core.settings.base import read_settings
        >>> from napari_lpd.core.settings.training import TrainSettings
        >>> from napari_lpd.data.regions import read_regions
        >>> live = LiveModel(read_settings(TrainSettings, None, ["tile_step=128", "threads=1"], "fast"))
        >>> slide = LiveSlide(open_slide(samples.skin_slide_path()))
        >>> regions = read_regions(samples.regions_path("train"))
        >>> model = run(live.learn(slide, regions, read_classes(samples.classes_path()), steps=20))
        >>> cell = slide.cells((0, 0, 2000, 2000), 1.0)[0]
        >>> live.label(slide, cell).labels.shape
        (512, 512)
        >>> slide.close()

    Args:
        settings: Of a fast training (preset ``fast``).
        room: Most bytes of features in memory.

    Attributes:
        model: What was learned last; None at first. It is not changed by later updates.
        version: Number of updates; cells that were labelled at an earlier one are outdated.
    """

    def __init__(self, settings: TrainSettings, room: int = ROOM) -> None:
        self.settings = settings
        self.model: LoadedModel | None = None
        self.version = 0
        self._device, _ = choose_device(settings.device)
        torch.manual_seed(settings.seed)
        self._encoder = encoder_of(settings.model, settings.model.encoder_weights)
        self._network: LPD | None = None
        self._names: list[str] = []
        precision = choose_precision(settings.precision, self._device)
        self._frozen = FrozenEncoder(self._fresh(2), self._device, precision)
        self._store = FeatureStore(self._frozen.hash, room)
        self._tiles: FeatureTiles | None = None

    def _fresh(self, classes: int, model: ModelSettings | None = None) -> LPD:
        torch.manual_seed(self.settings.seed)
        return LPD(model or self.settings.model, classes, self._encoder).to(self._device)

    def learn(
        self, slide: LiveSlide, regions: Sequence[Region], classes: Sequence[TissueClass], steps: int = 0
    ) -> Job[LoadedModel]:
        """Learn from all regions that are drawn now, with a little of what the update before knew.

        Classes of which no region is drawn are left out until there is one. Closing the job leaves the model as it
        was.

        Args:
            slide: Where they are drawn.
            regions: As for `cut_tiles`, strokes among them.
            classes: The tissue classes; the model has those that occur in the regions, in this order.
            steps: Number of steps; 0: 160 for a new head, 50 for one that knows all classes.

        Raises:
            DataError: fewer than two tissues have a region, or as `cut_tiles`.
        """
        drawn = {name for region in regions for name in region.tissues}
        used = tuple(tissue for tissue in classes if tissue.name in drawn)
        if len(used) < 2:
            raise DataError("draw a region of a second tissue: the live mask begins with two")
        yield Progress(0, 0, "cutting tiles")
        tiles = cut_tiles(cast("Slide", slide), regions, used, self.settings, slide.slide.name)
        if empty := [name for name, count in tiles.tiles_per_class.items() if not count]:
            raise DataError(f"the regions of {', '.join(empty)} are too small for a tile; draw them larger")
        seen = FeatureTiles(tiles, self._frozen, self._store)
        yield from seen.compute()
        network, is_new = self._started(seen)
        count = steps or (FRESH if is_new else WARM)
        for done in self._steps(network, seen, count, self.settings):
            yield Progress(done, count, "learning")
        network.eval()
        self._network, self._names, self._tiles = network, [tissue.name for tissue in used], seen
        self.version += 1
        self.model = self._loaded(network, seen, count, self.settings)
        return self.model

    @property
    def tiles(self) -> TileSet:
        """The tiles that were learned from last.

        Raises:
            DataError: nothing was learned yet.
        """
        return self._seen().tiles

    def learned_from(self, indices: Sequence[int], steps: int) -> Job[LoadedModel]:
        """Learn afresh from some of the tiles that were learned from last; what was learned stays as it is.

        Args:
            indices: The tiles, by their numbers in `tiles`.
            steps: Number of steps.

        Returns:
            A model of the same classes that knows nothing of the other tiles.

        Raises:
            DataError: nothing was learned yet.
        """
        return (yield from self._learned_afresh(self._seen().subset(indices), self.settings, steps, "checking"))

    def clustered(self) -> Job[LoadedModel]:
        """Learn afresh from the tiles that were learned from last, with prototypes that are clustered (PBIP).

        The prototypes are the k-means centres of the frozen encoder's features and stay as they are; what brings them
        to the features, and the rest of the head, learns as the live model's does when it starts.

        Raises:
            DataError: nothing was learned yet, or a tissue has fewer tiles of its own than prototypes.
        """
        settings = self.settings
        model = settings.model.model_dump() | {"bank": "clustered"}
        fixed = type(settings).build(settings.model_dump() | {"model": model, "diversity": "off"})
        return (yield from self._learned_afresh(self._seen(), fixed, FRESH, "clustering"))

    def _seen(self) -> FeatureTiles:
        if self._tiles is None:
            raise DataError(NOTHING_LEARNED)
        return self._tiles

    def _learned_afresh(
        self, seen: FeatureTiles, settings: TrainSettings, steps: int, message: str
    ) -> Job[LoadedModel]:
        network = self._fresh(len(seen.classes), settings.model)
        assert network.joint is not None
        network.joint.standardise(*seen.statistics())
        if settings.model.bank == "clustered":
            network.fill_bank(clustered_bank_of_features(seen, network, settings))
        for done in self._steps(network, seen, steps, settings):
            yield Progress(done, steps, message)
        network.eval()
        return self._loaded(network, seen, steps, settings)

    def _loaded(self, network: LPD, seen: FeatureTiles, steps: int, settings: TrainSettings) -> LoadedModel:
        return LoadedModel(network, self._card(network, seen, steps, settings), "live", "", self._device)

    def _started(self, seen: FeatureTiles) -> tuple[LPD, bool]:
        """Return the network, between the one before and a new one (Ash & Adams, 2020), and whether it is new."""
        names = [tissue.name for tissue in seen.classes]
        network = self._fresh(len(names))
        assert network.joint is not None
        if self._network is not None:
            heads = {name: weight for name, weight in network.named_parameters() if not name.startswith("encoder.")}
            new = {name: weight.detach().clone() for name, weight in heads.items()}  # the encoder is frozen, and shared
            inherit(network, names, self._network, self._names)
            with torch.no_grad():
                for name, weight in heads.items():
                    weight.lerp_(new[name], 1 - KEPT)
            network.joint.standardise_anew(*seen.statistics())
        else:
            network.joint.standardise(*seen.statistics())
        return network, not set(names) <= set(self._names)

    def _steps(self, network: LPD, seen: FeatureTiles, count: int, settings: TrainSettings) -> Iterator[int]:
        """Take steps with a rate that falls to 0; every class is as likely to be drawn into a batch."""
        generator = torch.Generator().manual_seed(settings.seed)
        objective = JointObjective(settings, generator, len(seen), seen.of(0).shape[:2]).to(self._device)
        objective.follow(seen)
        optimiser = torch.optim.AdamW(parameter_groups(network, settings))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / count)
        labels = torch.from_numpy(seen.labels)
        weights = torch.from_numpy(_balance(seen.labels, seen.tiles.known))
        own_from = math.ceil((1 - settings.self_training) * count)
        set_training(network, settings)
        for step in range(count):
            if step == own_from:
                network.eval()
                objective.label_tiles(network, seen)
                set_training(network, settings)
            chosen = torch.multinomial(weights, BATCH, replacement=True, generator=generator).tolist()
            joined, held = (part.to(self._device, non_blocking=True) for part in (seen.batch(chosen), labels[chosen]))
            losses = objective(network, joined, held, step < count // 10, chosen)
            optimiser.zero_grad(set_to_none=True)
            losses.total.backward()
            optimiser.step()
            schedule.step()
            yield step + 1

    def _card(self, network: LPD, seen: FeatureTiles, steps: int, settings: TrainSettings) -> Card:
        constants = calibrate(network, seen, None, settings.batch)
        tiles = seen.tiles
        return Card(
            classes=tiles.classes,
            settings=settings,
            encoder=network.encoder.architecture,
            tiles_per_class=tiles.tiles_per_class,
            tiles=len(tiles),
            data=describe_sources(tiles),
            steps=steps,
            map_scale=constants.map_scale,
            presence=(PRESENCE,) * len(tiles.classes),
            **provenance(),
        )

    def save(self, path: Path) -> Path:
        """Write the model that was learned last as a checkpoint.

        Raises:
            DataError: nothing was learned yet.
            ModelError: the file cannot be written.
        """
        if self.model is None:
            raise DataError(NOTHING_LEARNED)
        card = self.model.card.model_copy(update={"colours": training_colours(self.tiles)})
        save_checkpoint(path, dict(self.model.network.state_dict()), card)
        return path

    @torch.inference_mode()
    def label(
        self,
        slide: LiveSlide,
        cell: CellIndex,
        settings: PredictSettings | None = None,
        model: LoadedModel | None = None,
    ) -> LiveCell:
        """Label a cell with what was learned last, as `predict` labels slides.

        Args:
            slide: The slide.
            cell: Which of its cells.
            settings: Of the labels, background power and threshold of the gate; default: those of a prediction.
            model: Another one of the same encoder, as `learned_from` gives it; default: what was learned last.

        Raises:
            DataError: nothing was learned yet.
        """
        model = model or self.model
        if model is None:
            raise DataError(NOTHING_LEARNED)
        network, card, stride = model.network, model.card, self._frozen.stride
        mpp, rim = self.settings.mpp, RIM // stride
        joined = torch.from_numpy(self.features(slide, cell)).movedim(2, 0)[None].to(self._device).float()
        assert isinstance(network, LPD)
        used = used_stages(network)
        outputs = network.from_joined(joined, [STAGES_USED[i] for i in used]).outputs
        gating = [part[0] for part in network.gating(outputs)]
        origin = (cell[0] * CELL // stride - rim, cell[1] * CELL // stride - rim)
        tissue = torch.from_numpy(slide.tissue.at(origin, (joined.shape[2], joined.shape[3]), mpp * stride)).to(
            self._device
        )
        presence = class_presence(network, gating, card.settings.tile // stride | 1, tissue)
        around = (..., slice(rim - 1, 1 - rim), slice(rim - 1, 1 - rim))
        stages = {i: maps[0][around] for i, maps in zip(used, outputs, strict=False)}
        settings = settings or PredictSettings()
        found = evidence(stages, presence[around], card.map_scale, model, settings)
        factors = settings.labels.factors([tissue.name for tissue in card.classes])
        rule = Rule(settings.labels.sure, factors, settings.background_power, card.temperature)
        labels = rule.labels(found, stride)[stride:-stride, stride:-stride]
        scores = label_scores(found, rule._replace(favour=(1.0,) * len(factors)))
        unsure = unsureness(network, scores, outputs[-1][0][around].cpu())[1:-1, 1:-1]
        unsure *= tissue[rim:-rim, rim:-rim].cpu()
        return LiveCell(labels * slide.tissue_at(cell, mpp), unsure.numpy(), found.scores[:, 1:-1, 1:-1].copy())

    def features(self, slide: LiveSlide, cell: CellIndex) -> NDArray[np.float16]:
        """Return the features (h, w, D) of a cell and its rim, computed where they are not kept."""
        edge, mpp = CELL + 2 * RIM, self.settings.mpp

        def read() -> NDArray[np.uint8]:
            origin = (cell[0] * CELL - RIM, cell[1] * CELL - RIM)
            return np.ascontiguousarray(slide.read_tolerant(origin, (edge, edge), mpp)[0].transpose(2, 0, 1))

        if cell not in slide.keys:
            slide.keys[cell] = content_key(read())
        return self._store.get(slide.keys[cell], lambda: self._frozen(read()))

    def has_room(self, slide: LiveSlide, cell: CellIndex) -> bool:
        """Return whether a cell's features are kept, or can be without those of another being dropped."""
        return self._store.has_room(slide.keys.get(cell, ""))


def _balance(labels: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weigh tiles (n, C) so that every class, and what is known to hold none, is drawn as often: (n,)."""
    holds_none = known.all(1, keepdims=True) & (labels.sum(1, keepdims=True) == 0)
    groups = np.concatenate([labels, holds_none], axis=1)
    weights: NDArray[np.float64] = (groups / np.maximum(groups.sum(0), 1)).sum(1)
    return weights
