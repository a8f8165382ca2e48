"""Train for epochs: steps, saving, validation, giving up."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from napari_lpd.core.errors import LpdError, ModelError, SettingsError
from napari_lpd.core.jobs import COMPUTING, VALIDATION, Progress
from napari_lpd.core.text import write_table
from napari_lpd.data.tileset import describe_sources, room_for_images
from napari_lpd.models.card import Card, provenance
from napari_lpd.models.checkpoint import TRAINING_HASHES, TRAINING_ONLY, save_checkpoint
from napari_lpd.models.compute import choose_device, choose_precision, load_batches
from napari_lpd.models.joint.store import FeatureStore
from napari_lpd.models.joint.tiles import FeatureTiles, FrozenEncoder, as_images, clustered_bank_of_features
from napari_lpd.models.network import LPD, LoadedModel
from napari_lpd.training.ancestor import starting_encoder, take_over
from napari_lpd.training.distributed import (
    agree_to_continue,
    is_rank_zero,
    local_slice,
    on_rank_zero,
    own_device,
    world_size,
    wrap_ddp,
)
from napari_lpd.training.losses.joint import JointObjective
from napari_lpd.training.losses.objective import Objective, StepLosses, needed_region_encoder
from napari_lpd.training.monitor import TrainingMonitor
from napari_lpd.training.runs.folder import HISTORY, LAST_NAME, MODEL_NAME, PREVIEWS
from napari_lpd.training.runs.state import TrainingPosition, TrainingState, identity_of
from napari_lpd.training.step import (
    PendingScalars,
    Step,
    TakenStep,
    parameter_groups,
    poly_factor,
    set_training,
    varied,
)
from napari_lpd.training.validation import PRESENCE, ValidationScores, calibrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.tileset import TileSet
    from napari_lpd.slides.stain import StainStatistics
    from napari_lpd.training.ancestor import Ancestor
    from napari_lpd.training.validation import Validation

logger = logging.getLogger(__name__)
SAVE_S = 30  # between two saves of a training's state


class Origin(NamedTuple):
    """What a model's card and file say of how it was trained.

    Attributes:
        command: The command that trains it again.
        hashes: Of the files and tiles that were trained on, and of those that chose the best epoch (`TRAINING_HASHES`).
        colours: Stain of the training tiles.
        ancestor: The model from which it went on, if any.
    """

    command: str
    hashes: dict[str, NDArray[np.uint8]]
    colours: StainStatistics
    ancestor: Ancestor | None = None


class Trainer:
    """One training run: its network, optimiser and what it has written."""

    def __init__(
        self,
        tiles: TileSet,
        held: TileSet | None,
        settings: TrainSettings,
        out: Path,
        origin: Origin,
    ) -> None:
        self.settings, self.out, self.origin = settings, out, origin
        torch.manual_seed(settings.seed)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.device, reason = choose_device(own_device(settings.device))
        precision = choose_precision(settings.precision, self.device)
        self.arithmetic = f"{COMPUTING}{self.device} ({reason}), in {str(precision or 'float32').split('.')[-1]}"
        self.arithmetic += f", with {world_size()} processes" if world_size() > 1 else ""
        encoder = starting_encoder(settings.model, origin.ancestor)
        self.arithmetic += f"; {encoder.architecture.about()}"
        self.network = LPD(settings.model, len(tiles.classes), encoder)
        self.ancestors = take_over(self.network, tiles.classes, origin.ancestor) if origin.ancestor else ()
        self.network.to(self.device)
        width = encoder.widths[-1]
        if settings.diversity.startswith("official") and settings.model.prototype_dim != width:
            raise SettingsError(
                f"diversity={settings.diversity} compares raw prototypes with stage-4 features: set"
                f" model.prototype_dim={width}, the encoder's last width, instead of {settings.model.prototype_dim}"
            )
        region_encoder = needed_region_encoder(settings, self.device)
        self.network.encoder.precision = precision
        if region_encoder is not None:
            region_encoder.compute_in(precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision is torch.float16)
        self.watch = TrainingMonitor(tiles)
        self.seen: TileSet | FeatureTiles = tiles
        self.held_seen: TileSet | FeatureTiles | None = held
        self.objective: Objective | JointObjective
        if self.network.joint is None:
            self.objective = Objective(settings, region_encoder, self.generator)
            self.objective.follow(tiles)
        else:
            self.objective = self._on_features(tiles, held, precision)
        self.objective.to(self.device)
        set_training(self.network, settings)
        self._losses = wrap_ddp(Step(self.network, self.objective))
        self._good: dict[str, Tensor] = {}
        self._unread: deque[TakenStep] = deque()

    @property
    def tiles(self) -> TileSet:
        """The training tiles, as images."""
        return as_images(self.seen)

    def _on_features(self, tiles: TileSet, held: TileSet | None, precision: torch.dtype | None) -> JointObjective:
        """Prepare to learn from features of the tiles, which are computed once."""
        settings = self.settings
        encoder = FrozenEncoder(self.network, self.device, precision)
        folder = Path(settings.feature_folder) if settings.feature_folder else None
        store = FeatureStore(encoder.hash, room_for_images(), folder)
        self.seen = FeatureTiles(tiles, encoder, store)
        self.held_seen = FeatureTiles(held, encoder, store) if held else None
        return JointObjective(settings, self.generator, len(tiles), self.seen.of(0).shape[:2])

    def compute_features(self) -> Iterator[Progress]:
        """Compute what a joint head learns from and is measured on, as far as it is not kept."""
        for tiles in (self.seen, self.held_seen):
            if isinstance(tiles, FeatureTiles):
                yield from tiles.compute()
        if isinstance(self.objective, JointObjective) and isinstance(self.seen, FeatureTiles):
            self.objective.follow(self.seen)

    def start_joint(self) -> None:
        """Standardise a joint head's features, and fill its bank where that is clustered."""
        if isinstance(self.seen, FeatureTiles):
            assert self.network.joint is not None
            self.network.joint.standardise(*self.seen.statistics())
            if self.settings.model.bank in ("clustered", "seeded"):
                self.network.fill_bank(clustered_bank_of_features(self.seen, self.network, self.settings))

    def begin(self, total: int) -> bool:
        """Make optimiser and schedule for `total` steps; return whether a run that was stopped here is resumed."""
        settings, self.total = self.settings, total
        groups = parameter_groups(self.network, settings)
        groups.append({"params": list(self.objective.psi.parameters()), "lr": settings.lr})
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, weight_decay=settings.weight_decay)
        warm_up = round(settings.lr_warm_up * total)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: poly_factor(step, total, warm_up, settings.lr_power)
        )
        modules: dict[str, nn.Module] = {"network": self.network, "psi": self.objective.psi}
        if isinstance(self.objective, JointObjective):
            modules["objective"] = self.objective
        elif self.objective.shares is not None:
            modules["shares"] = self.objective.shares
        identity = identity_of(self.tiles, settings, total) | {"ancestors": list(self.ancestors)}
        self.state = TrainingState(
            self.out, identity, modules, self.optimiser, self.schedule, self.generator, self.scaler
        )
        if not self.state.load():
            return False
        self._good = {name: tensor.clone() for name, tensor in self._learned.items()}
        return True

    def epochs(self, total: int, epochs: int, validation: Validation | None) -> Iterator[Progress]:
        """Train for `epochs` epochs of at most `total` steps together; after each validate and save.

        What is learned is saved every half minute, and when the job is closed.
        """
        saved = time.monotonic()
        if not self.state.place.step:
            self.state.save()
        try:
            while self.state.place.epoch < epochs and not self._has_stopped_learning(validation):
                place = self.state.place
                message = f"epoch {place.epoch + 1} of {epochs}"
                set_training(self.network, self.settings)
                for indices, raw in self._batches(total):
                    metrics = self._take_step(raw, indices, total)
                    if time.monotonic() - saved > SAVE_S:
                        self._save_state()
                        saved = time.monotonic()
                    yield Progress(place.step, total, message, metrics)
                    agree_to_continue()
                self._read(0)
                figures, self.state.place = on_rank_zero(partial(self._end_epoch, message, validation))
                figures = figures | {"best epoch": float(self.state.place.best_epoch)}
                yield Progress(place.step, total, message + VALIDATION, figures)
                agree_to_continue()
        except GeneratorExit:
            self._save_state()
            if self.network.joint is not None and self.state.place.step:  # else it is saved at the end alone
                self._save(MODEL_NAME, self._card(self.state.place.step))
            agree_to_continue(False)
            raise

    def _save_state(self) -> None:
        self._read(0)
        self.state.save()

    def _has_stopped_learning(self, validation: Validation | None) -> bool:
        place, patience = self.state.place, self.settings.patience
        measured = self.network.joint is None  # after every epoch
        return bool(patience and validation and measured and place.epoch - place.best_epoch >= patience)

    def _take_step(self, raw: Tensor, indices: list[int], total: int) -> dict[str, float]:
        """Learn from one batch; returns what the last step says that is known to have been taken.

        Args:
            raw: (B, 3, H, W) uint8, this process's share of the batch.
            indices: Of the whole batch's tiles.
            total: Steps of the training.
        """
        place = self.state.place
        weights = {name: tensor.clone() for name, tensor in self._learned.items()}
        labels = torch.from_numpy(self.tiles.labels[indices]).to(self.device, non_blocking=True)
        warm = place.step < self.settings.warm_up * total
        losses: StepLosses
        if isinstance(self.seen, FeatureTiles):
            self._learn_from_own_maps()
            losses = self._losses(raw.to(self.device, non_blocking=True), labels, warm, indices)
        else:
            images, said = varied(self.tiles, raw, indices, self.settings, self.generator, self.device)
            losses = self._losses(images, labels, warm, said)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(losses.total).backward()
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.get_total_norm(p.grad for p in self.network.parameters() if p.grad is not None)
        numbers = PendingScalars(torch.cat([losses.values(), norm.detach()[None]]))
        lr = float(self.schedule.get_last_lr()[0])
        self._unread.append(TakenStep(place.step, indices, lr, losses, numbers, weights))
        metrics = self._read(int(self.device.type == "cuda"))  # steps that the CPU may be ahead of what it has read
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        place.step += 1
        place.taken += len(indices)
        return metrics

    @cached_property
    def _learned(self) -> dict[str, Tensor]:
        """The tensors that change in training, in place."""
        state, frozen = self.network.state_dict(), self.network.joint is not None
        return {name: tensor for name, tensor in state.items() if not (frozen and name.startswith("encoder."))}

    def _learn_from_own_maps(self) -> None:
        """Label a joint head's tiles by its own maps where it is to learn from them from this step on."""
        if (share := self.settings.self_training) and self.state.place.step == math.ceil((1 - share) * self.total):
            assert isinstance(self.objective, JointObjective) and isinstance(self.seen, FeatureTiles)
            self.network.eval()
            self.objective.label_tiles(self.network, self.seen)
            set_training(self.network, self.settings)

    def _read(self, left: int) -> dict[str, float]:
        """Take note of what steps say, of all but the last `left`; returns the metrics of the last of them."""
        place, metrics = self.state.place, dict[str, float]()
        while len(self._unread) > left:
            taken = self._unread.popleft()
            *values, norm = taken.numbers.read()
            overflow = self.scaler.is_enabled() and math.isfinite(values[0])  # then the scaler leaves the step out
            if not math.isfinite(values[0] + norm) and not overflow:
                self._give_up(taken, values[0], norm)
            self._good = taken.weights
            metrics = taken.losses.metrics(values) | {"lr": taken.lr}
            place.curve.append({"step": taken.step + 1, **metrics})
            for name, value in metrics.items():
                place.sums[name] = place.sums.get(name, 0.0) + value * len(taken.indices)
        return metrics

    def _give_up(self, taken: TakenStep, loss: float, norm: float) -> None:
        """Keep the last weights that gave a finite loss, still those before its step, and raise."""
        kept = "nothing was learned yet"
        if self._good:
            self.network.load_state_dict(self.network.state_dict() | self._good)
            if is_rank_zero():
                self._save(LAST_NAME, self._card(taken.step))
            kept = f"the last good state is kept in {self.out / LAST_NAME}"
        raise LpdError(
            f"loss became {loss:g} (gradient {norm:g}) at step {taken.step + 1} of {self.total}, tiles"
            f" {', '.join(self.tiles.name(i) for i in taken.indices)}; {kept}; look at these tiles, or try a smaller lr"
        )

    def _batches(self, total: int) -> Iterator[tuple[list[int], Tensor]]:
        """Load the rest of the current epoch, of at most `total` steps: a batch's tiles, our share of the images."""
        place = self.state.place
        if not place.order:
            self.state.restore_random()
            place.order = torch.randperm(len(self.tiles), generator=self.generator).tolist()
        size = self.settings.batch
        starts = range(place.taken, len(place.order), size)
        batches = [place.order[start : start + size] for start in starts][: total - place.step]
        if isinstance(self.seen, FeatureTiles):
            self.state.restore_random()
            yield from ((batch, self.seen.batch(batch)) for batch in batches)
            return
        own = [batch[local_slice(len(batch))] for batch in batches]
        on_gpu = self.device.type == "cuda"
        loader = load_batches(self.tiles, batch_sampler=own, num_workers=self.settings.workers, pin_memory=on_gpu)
        images = iter(loader)
        self.state.restore_random()  # of a half-done epoch only now: making the loader draws a number
        for batch, (raw, _) in zip(batches, images, strict=True):
            yield batch, raw

    def _end_epoch(self, message: str, validation: Validation | None) -> tuple[dict[str, float], TrainingPosition]:
        """Measure, save, and begin the next epoch; returns the figures, and where the training then stands.

        Epochs of a joint head take less time than measuring: that is done after the last.
        """
        place = self.state.place
        means = {name: value / place.taken for name, value in place.sums.items()}
        if self.network.joint is None or place.step == self.total:
            metrics = self._measured(message, means, validation)
        else:
            metrics = {}
        place.epoch += 1
        place.history.append({"epoch": place.epoch, "step": place.step, **means, **metrics})
        _write_history(self.out / HISTORY, place.history)
        place.order, place.taken, place.sums = [], 0, {}
        return metrics, place

    def _measured(self, message: str, means: dict[str, float], validation: Validation | None) -> dict[str, float]:
        """Measure the network, and save it with its figures."""
        place = self.state.place
        if means["regions left out"]:
            logger.info("%s: %.1f regions per step over max_regions were left out", message, means["regions left out"])
        self.network.eval()
        card = self._card(place.step)
        model = LoadedModel(self.network, card, "", "", self.device)
        figures = validation.figures(model) if validation else ValidationScores({}, {})
        metrics = {f"valid {name}": value for name, value in figures.values.items()}
        metrics |= self.watch.diversity(self.network)
        intervals = {f"valid {name}": limits for name, limits in figures.intervals.items()}
        card = card.model_copy(update={"metrics": metrics, "intervals": intervals})
        self._save(LAST_NAME, card)
        score = figures.values.get("score", float(place.epoch))
        if place.best is None or score > place.best:
            place.best, place.best_epoch = score, place.epoch + 1
            self._save(MODEL_NAME, card)
        with torch.random.fork_rng(devices=[]):  # looking on changes nothing
            self.watch.preview(self.network, card, self.out / PREVIEWS / f"epoch-{place.epoch + 1:04d}.png")
        return card.metrics

    def _card(self, step: int) -> Card:
        self.network.eval()
        constants = calibrate(self.network, self.seen, self.held_seen, self.settings.batch)
        return Card(
            classes=self.tiles.classes,
            settings=self.settings,
            encoder=self.network.encoder.architecture,
            tiles_per_class=self.tiles.tiles_per_class,
            tiles=len(self.tiles),
            data=describe_sources(self.tiles, *([as_images(self.held_seen)] if self.held_seen else [])),
            steps=step,
            map_scale=constants.map_scale,
            temperature=constants.temperature,
            presence=(PRESENCE,) * len(self.tiles.classes),
            ancestors=self.ancestors,
            colours=self.origin.colours,
            command=self.origin.command,
            **provenance(),
        )

    def _save(self, name: str, card: Card) -> None:
        tensors = dict(self.network.state_dict())
        tensors |= {TRAINING_HASHES[of]: torch.from_numpy(hashes) for of, hashes in self.origin.hashes.items()}
        tensors |= {f"{TRAINING_ONLY}psi.{key}": value for key, value in self.objective.psi.state_dict().items()}
        if self.objective.region_encoder is not None:
            state = self.objective.region_encoder.projection_state()
            tensors |= {f"{TRAINING_ONLY}region_projection.{key}": value for key, value in state.items()}
        save_checkpoint(self.out / name, tensors, card)


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for row in history for name in row))
    write_table(path, [names, *([row.get(name) for name in names] for row in history)], error=ModelError)
