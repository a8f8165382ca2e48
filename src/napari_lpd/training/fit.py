"""Training: `fit` is a generator of Progress that returns the path of the best checkpoint.

The run's folder holds ``model.safetensors`` (best), ``last.safetensors`` and ``history.csv``; all are written, whole,
after every epoch. A training that was stopped or killed resumes where it was when it is started again
(`training/runs/state.py`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from napari_lpd.core.errors import DataError, ModelError, SettingsError
from napari_lpd.core.files import file_hashes, overlap
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.tileset import tile_hashes, training_colours
from napari_lpd.models.clustering import clustered_bank
from napari_lpd.models.joint.tiles import as_images
from napari_lpd.training.distributed import is_rank_zero, world_size
from napari_lpd.training.runs.folder import MODEL_NAME
from napari_lpd.training.trainer import Origin, Trainer
from napari_lpd.training.validation import Validation, held_out_validation, mask_validation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from napari_lpd.data.images import MaskedImage
    from napari_lpd.data.tileset import TileSet
    from napari_lpd.training.ancestor import Ancestor


def fit(
    tiles: TileSet,
    settings: TrainSettings,
    out: Path,
    command: str = "",
    validation: Validation | Sequence[MaskedImage] = (),
    ancestor: Ancestor | None = None,
    measure: Callable[[Path], object] | None = None,
) -> Job[Path]:
    """Train a model on `tiles`, or resume a training in `out` that was stopped; return the best checkpoint's path.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from napari_lpd import TrainSettings, TrainingSource, read_classes, run, samples, train
        >>> source = TrainingSource(slide=samples.skin_slide_path(), regions=samples.regions_path("train"))
        >>> settings = TrainSettings(tile_step=128, max_steps=2, batch=4, threads=1)
        >>> tiles, _, settings = source.load(read_classes(samples.classes_path()), settings)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run(train(tiles, settings, Path(folder))).name
        'model.safetensors'

    Yields what it computes on; one Progress per step with the losses' values; and per epoch one with the validation's
    ``valid …`` metrics and, per class, the prototypes' diversity. After each epoch, ``previews/`` in the run's folder
    has a sheet of a few training tiles with their masks.

    Args:
        tiles: Training tiles.
        settings: All settings.
        out: Folder of the run.
        command: The command that trains it again, for the card.
        validation: Other images with masks, or figures of a model on other data; the epoch with the highest score is
            kept as best. Without it a share of the tiles (`TrainSettings.valid_share`) is held out, by slide or by
            region, and scored by its classification loss; where that cannot be done the best is the last.
        ancestor: A model from which to go on, instead of from the encoder alone.
        measure: Called with the best checkpoint, to complete its card, before the training counts as over: one that is
            stopped there comes back to it.

    Raises:
        DataError: too few tiles for the clustered bank, validation on training tiles, or masks that do not fit.
        ModelError: the ancestor is no model, or of another kind; or a GPU's memory does not suffice.
        SettingsError: a published diversity loss with prototypes of another length than its features.
        LpdError: the loss became NaN or infinite; the message names the tiles; ``last.safetensors`` keeps the state
            before that step.
    """
    if settings.model.bank == "supervised":
        raise SettingsError("bank=supervised is not trained from image labels; run stage2 on a model's pseudo-masks")
    if world_size() > 1 and settings.model.head == "joint":
        raise SettingsError("model.head=joint learns in seconds, in one process: start it without torchrun")
    if world_size() > 1:
        settings = TrainSettings.build(settings.model_dump() | {"batch": settings.batch * world_size()})
    if settings.threads:
        torch.set_num_threads(settings.threads)
    trained = file_hashes(tiles.files)
    of_tiles, colours = tile_hashes(tiles, trained), training_colours(tiles)
    if settings.stain_normalisation == "slide":
        tiles = tiles.with_colours(colours)
    tiles, held = tiles if settings.model.head == "joint" else tiles.kept_in_memory(), None
    chosen: Validation | None = None
    if not validation:
        tiles, held = tiles.hold_out(settings.valid_share, settings.seed)
    else:
        chosen = validation if isinstance(validation, Validation) else mask_validation(validation, tiles.classes)
    if chosen and (shared := overlap(trained, chosen.files)):
        raise DataError(f"{shared[0]}: among the training tiles, too; the best epoch has to be chosen on other images")
    chosen_by = file_hashes(held.files if held else chosen.files if chosen else ())
    hashes = {"file": trained, "tile": of_tiles, "validation": chosen_by}
    run = Trainer(tiles, held, settings, out, Origin(command, hashes, colours, ancestor))
    yield Progress(0, 0, run.arithmetic)
    try:
        yield from _steps(run, chosen)
    except torch.OutOfMemoryError as error:
        smaller = f"batch={settings.batch // 2}, " if settings.batch > 1 else ""
        raise ModelError(
            f"{run.device}: not enough memory for a batch of {settings.batch} tiles of {settings.tile} pixels; use"
            f" {smaller}a smaller tile=, or device=cpu"
        ) from error
    _finish(run, measure)
    return out / MODEL_NAME


def _steps(run: Trainer, chosen: Validation | None) -> Iterator[Progress]:
    """Train, on features that are computed first where there are to be some."""
    settings, tiles = run.settings, run.tiles
    yield from run.compute_features()
    if run.held_seen and not chosen:
        chosen = held_out_validation(run.held_seen, as_images(run.held_seen).files)
    steps_per_epoch = math.ceil(len(tiles) / settings.batch)
    total = settings.epochs * steps_per_epoch
    total = min(total, settings.max_steps) if settings.max_steps else total
    if not run.begin(total):
        yield from _start(run)
    yield from run.epochs(total, math.ceil(total / steps_per_epoch), chosen)


def _finish(run: Trainer, measure: Callable[[Path], object] | None) -> None:
    """Complete the best checkpoint's card; the state that a stopped training resumes from is removed after that."""
    if measure and is_rank_zero():
        run.state.save()
        measure(run.out / MODEL_NAME)
    run.state.remove()


def _start(run: Trainer) -> Iterator[Progress]:
    """Compute what a network starts with, an ancestor's aside: its features' mean and deviation, a clustered bank."""
    if run.ancestors:
        return
    run.start_joint()
    if (encoder := run.objective.region_encoder) is not None and run.settings.model.bank in ("clustered", "seeded"):
        run.network.fill_bank((yield from clustered_bank(run.tiles, encoder, run.settings, run.device)))
