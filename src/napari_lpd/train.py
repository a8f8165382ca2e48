"""Training: `fit` is a generator of Progress that returns the path of the finished checkpoint.

A cancelled training leaves nothing but what it had finished: the checkpoint is written once, whole, at the end.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from napari_lpd import __version__
from napari_lpd.checkpoint import Card, save_checkpoint
from napari_lpd.data import TileSet, augment
from napari_lpd.encoder import build_encoder
from napari_lpd.errors import DataError, LpdError
from napari_lpd.jobs import Job, Progress
from napari_lpd.losses import class_regions, classification_loss, diversity_loss, image_scores
from napari_lpd.model import LPD, STAGES_USED, choose_device, merge_prototypes, presence_scores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_lpd.config import TrainSettings

CALIBRATION_TILES = 256


class StepLosses(NamedTuple):
    """The terms of one step, unweighted, and their weighted sum."""

    total: Tensor
    classification: Tensor
    diversity: Tensor


def step_losses(network: LPD, images: Tensor, labels: Tensor, settings: TrainSettings, warm: bool) -> StepLosses:
    """The losses of one batch (B, 3, H, W) in 0..1 with labels (B, C); `warm`: classification alone."""
    stages = [i for i, weight in enumerate(settings.stage_weights) if weight]
    maps = network(images, stages)
    scores = [image_scores(logits, network.k) for logits in maps.logits]
    classification = classification_loss(scores, labels, [settings.stage_weights[i] for i in stages])
    if warm or not settings.diversity_weight:
        return StepLosses(classification, classification, classification.new_zeros(()))
    with torch.no_grad():
        regions = class_regions(merge_prototypes(maps.logits[-1], network.k, "mean"), labels)
    diversity = diversity_loss(maps.features, maps.prototypes, regions, settings.diversity_temperature)
    return StepLosses(classification + settings.diversity_weight * diversity, classification, diversity)


def fit(tiles: TileSet, settings: TrainSettings, out: Path, command: str = "") -> Job[Path]:
    """Train on `tiles` and write ``out/model.safetensors``.

    Yields one Progress per step with the metrics ``loss``, ``classification``, ``diversity`` and ``lr``.

    Raises:
        DataError: tiles too small for the encoder.
        LpdError: the loss became NaN or infinite; the message names step and epoch.
    """
    device = choose_device(settings.device)[0]
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    network = LPD(
        settings.model, len(tiles.classes), build_encoder(settings.model.encoder, settings.model.encoder_weights)
    )
    network.to(device)
    loader = DataLoader(tiles, settings.batch, shuffle=True, num_workers=settings.workers, generator=generator)
    total = settings.epochs * len(loader)
    total = min(total, settings.max_steps) if settings.max_steps else total
    optimiser = torch.optim.AdamW(parameter_groups(network, settings), betas=(0.9, 0.999), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / total)
    _set_training(network, settings)
    for step, (raw, labels) in enumerate(_endless(loader, total)):
        images = raw.to(device).float() / 255
        if settings.augment:
            images = augment(images, generator)
        losses = step_losses(network, images, labels.to(device), settings, warm=step < settings.warm_up * total)
        if not torch.isfinite(losses.total):
            raise LpdError(f"loss became {losses.total.item()} at step {step} of {total}; try a smaller lr")
        optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        optimiser.step()
        lr = float(schedule.get_last_lr()[0])
        schedule.step()
        metrics = {
            "loss": losses.total.item(),
            "classification": losses.classification.item(),
            "diversity": losses.diversity.item(),
            "lr": lr,
        }
        yield Progress(step + 1, total, f"epoch {step // len(loader) + 1} of {math.ceil(total / len(loader))}", metrics)
    network.eval()
    map_scale, presence = calibrate(network, tiles, settings, device)
    card = Card(
        classes=tiles.classes,
        settings=settings,
        tiles_per_class=tiles.tiles_per_class,
        tiles=len(tiles),
        steps=total,
        map_scale=map_scale,
        presence=presence,
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        versions={"napari-lpd": __version__} | {name: importlib.metadata.version(name) for name in ("torch", "timm")},
    )
    return save_checkpoint(out / "model.safetensors", network.state_dict(), card)


def parameter_groups(network: LPD, settings: TrainSettings) -> list[dict[str, object]]:
    """AdamW groups: encoder and head with their rates; 1-d tensors, scales and prototypes without decay (L42)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        head = not name.startswith("encoder.")
        decay = parameter.ndim > 1 and name != "prototypes"
        groups.setdefault((head, decay), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.lr * (settings.head_lr_factor if head else 1),
            "weight_decay": settings.weight_decay if decay else 0.0,
        }
        for (head, decay), parameters in groups.items()
    ]


def _set_training(network: LPD, settings: TrainSettings) -> None:
    network.train()
    if settings.freeze_norm:
        for module in network.encoder.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _endless(loader: DataLoader[tuple[Tensor, Tensor]], total: int) -> Iterator[tuple[Tensor, Tensor]]:
    done = 0
    while done < total:
        for batch in loader:
            yield batch
            done += 1
            if done == total:
                return


@torch.inference_mode()
def calibrate(
    network: LPD, tiles: TileSet, settings: TrainSettings, device: torch.device
) -> tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]:
    """Constants of the class maps, measured on up to 256 training tiles, evenly spread.

    Returns:
        map_scale (3, C): the 99th percentile of the positive part of each class's merged map, on the tiles that hold
        the class; and per class the presence threshold with the best balanced accuracy, within 0.2..0.8.
    """
    chosen = np.unique(np.linspace(0, len(tiles) - 1, min(len(tiles), CALIBRATION_TILES)).astype(int))
    loader = DataLoader(Subset(tiles, chosen.tolist()), settings.batch)
    class_maps: list[list[Tensor]] = [[] for _ in STAGES_USED]
    scores, all_labels = [], []
    for raw, labels in loader:
        maps = network(raw.to(device).float() / 255, STAGES_USED)
        for collected, logits in zip(class_maps, maps.logits, strict=True):
            collected.append(merge_prototypes(logits, network.k, "soft").clamp(min=0).cpu())
        scores.append(presence_scores([image_scores(logits, network.k) for logits in maps.logits]).cpu())
        all_labels.append(labels)
    held = torch.cat(all_labels) > 0
    if not held.any(0).all():
        raise DataError(f"{tiles.source}: a class is too rare to measure its maps; add tiles of it")
    scale = tuple(
        tuple(max(float(np.percentile(stage[held[:, c], c].numpy(), 99)), 1e-3) for c in range(held.shape[1]))
        for stage in (torch.cat(collected) for collected in class_maps)
    )
    probability = torch.cat(scores)
    thresholds = tuple(_best_threshold(probability[:, c].numpy(), held[:, c].numpy()) for c in range(held.shape[1]))
    return scale, thresholds


def _best_threshold(probability: np.ndarray, held: np.ndarray) -> float:
    if held.all():
        return 0.2
    grid = np.linspace(0.2, 0.8, 61)
    balanced = [((probability[held] >= t).mean() + (probability[~held] < t).mean()) / 2 for t in grid]
    best = np.flatnonzero(np.isclose(balanced, max(balanced)))
    return float(grid[best[len(best) // 2]])
