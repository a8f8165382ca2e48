"""What a network says of labelled tiles: scores, maps, and the figures by which the best epoch is chosen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from napari_lpd.core.jobs import run
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.evaluation.calibration import fit_label_temperature, gate_rates
from napari_lpd.evaluation.evaluate import check_masks, measure_checked, presence_of
from napari_lpd.evaluation.metrics import bootstrap_intervals, metrics
from napari_lpd.models.cam import class_maps, fuse_upsampled, gate, scale_maps
from napari_lpd.models.joint.tiles import maps_of_tiles
from napari_lpd.models.network import LPD, STAGES_USED, LoadedModel, Supervised
from napari_lpd.training.losses.terms import classification_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.data.images import MaskedImage
    from napari_lpd.data.tileset import TileSet
    from napari_lpd.models.joint.tiles import FeatureTiles

CALIBRATION_TILES = 256
PRESENCE = 0.5  # from which a class counts as there


class ValidationScores(NamedTuple):
    """Figures of a model on other data.

    Attributes:
        values: By name; ``score``, the higher the better, tells which epoch is best.
        intervals: Of some of them: low and high end of the 95 % interval.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]


class Validation(NamedTuple):
    """What tells which epoch is best, and the files it is measured on."""

    figures: Callable[[LoadedModel], ValidationScores]
    files: Sequence[Path] = ()


class TileScores(NamedTuple):
    """What a network says of n tiles.

    Attributes:
        class_maps: Per used stage: (n, C, h, w), merged, positive part.
        presence_logits: (S, n, C) whose mean tells presence: of stages 3 and 4, or of a joint head.
        labels: (n, C) bool.
    """

    class_maps: list[Tensor]
    presence_logits: Tensor
    labels: Tensor

    def presence(self) -> Tensor:
        """Compute the probability of every class in every tile (n, C)."""
        return torch.sigmoid(self.presence_logits.mean(0))


@torch.inference_mode()
def score_tiles(network: LPD | Supervised, tiles: TileSet | FeatureTiles, batch: int) -> TileScores:
    """Run the network (evaluation mode) on tiles."""
    merged: list[list[Tensor]] = [[] for _ in STAGES_USED]
    scores, labels = [], []
    for maps, held in maps_of_tiles(network, tiles, batch, STAGES_USED):
        for collected, logits in zip(merged, maps.logits, strict=True):
            collected.append(class_maps(network, logits).cpu())
        means = [gating.mean((2, 3)) for gating in network.gating(maps.outputs)]
        scores.append(network.presence_logits(means).cpu())
        labels.append(held > 0)
    return TileScores([torch.cat(part) for part in merged], torch.cat(scores, dim=1), torch.cat(labels))


def held_out_validation(tiles: TileSet | FeatureTiles, files: Sequence[Path]) -> Validation:
    """Validate on held-out tiles: their classification loss, and how often a class's presence is right."""

    def figures(model: LoadedModel) -> ValidationScores:
        scored = score_tiles(model.network, tiles, model.card.settings.batch)
        logits = list(scored.presence_logits)
        loss = classification_loss(logits, scored.labels.float(), [1 / len(logits)] * len(logits)).item()
        right = ((scored.presence() >= PRESENCE) == scored.labels).sum(0).tolist()
        shares = {f"right about {t.name}": count / len(tiles) for t, count in zip(tiles.classes, right, strict=True)}
        return ValidationScores(
            {"score": -loss, "classification": loss, **shares, "tiles": float(len(tiles))},
            {name: wilson(count, len(tiles)) for name, count in zip(shares, right, strict=True)},
        )

    return Validation(figures, files)


def wilson(count: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Compute the 95 % interval of a share (Wilson 1927); of tiles of one slide, which are alike, it is too narrow."""
    centre, share = (count + z * z / 2) / (of + z * z), count / of
    half = z / (of + z * z) * math.sqrt(of * share * (1 - share) + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


class MapCalibration(NamedTuple):
    """What a card keeps of how a network's maps are read.

    Attributes:
        map_scale: (3, C): the highest over the classes of the 99th percentile of the positive part of a class's merged
            map, on the tiles that hold the class. All classes share it, because their cosines are on one scale; a
            constant of its own would weaken the class that the network knows best.
        temperature: By which the labels' shares are as sure as right on held-out tiles that hold one tissue alone; 1
            where there are none. On the training tiles, of which a network knows every one, it would come out too low.
    """

    map_scale: tuple[tuple[float, ...], ...]
    temperature: float


def calibrate(
    network: LPD, tiles: TileSet | FeatureTiles, held: TileSet | FeatureTiles | None, batch: int
) -> MapCalibration:
    """Measure the constants on up to 256 tiles, evenly spread over every class's tiles.

    Args:
        network: In evaluation mode.
        tiles: Training tiles.
        held: Held-out tiles.
        batch: Tiles per pass.
    """
    scored = score_tiles(network, tiles.subset(tiles.spread(CALIBRATION_TILES)), batch)
    scale = []
    for stage in scored.class_maps:
        levels = [float(np.percentile(stage[scored.labels[:, c], c].numpy(), 99)) for c in range(network.class_count)]
        scale.append((max(*levels, 1e-3),) * network.class_count)
    if held is None:
        return MapCalibration(tuple(scale), 1.0)
    scored = score_tiles(network, held.subset(held.spread(CALIBRATION_TILES)), batch)
    return MapCalibration(tuple(scale), _temperature(scored, scale, network))


def _temperature(scored: TileScores, scale: Sequence[Sequence[float]], network: LPD) -> float:
    """Fit on the places of tiles with one tissue, of which the label is known everywhere (but for glass)."""
    alone = torch.nonzero(scored.labels.sum(1) == 1).flatten()
    if network.class_count < 2 or not len(alone):
        return 1.0
    size = scored.class_maps[0].shape[2:]
    present = scored.presence()[alone] >= PRESENCE
    stages = [scale_maps(maps[alone], levels) for maps, levels in zip(scored.class_maps, scale, strict=True)]
    fused = gate(fuse_upsampled(stages, network.settings.stage_fusion, size), present[:, :, None, None]).clamp(min=0)
    truth = scored.labels[alone].float().argmax(1)[:, None, None].expand(-1, *size)
    seen = fused.amax(1) > 0
    if not seen.any():  # a network that has learned nothing sees no class anywhere
        return 1.0
    return fit_label_temperature(fused.movedim(1, -1)[seen].numpy(), truth[seen].numpy())


VALIDATION_RESAMPLINGS = 200


def mask_validation(images: Sequence[MaskedImage], classes: Sequence[TissueClass]) -> Validation:
    """Validate on images with masks: mIoU of the predicted gate, without a refiner, and IoU of their classes.

    Raises:
        DataError: as `check_masks`, now and not after the first epoch.
    """
    check_masks(images, classes)
    settings = EvaluateSettings(
        gates=("predicted",), refiners=("none",), bootstrap=VALIDATION_RESAMPLINGS, backend="torch"
    )

    def figures(model: LoadedModel) -> ValidationScores:
        (results,) = run(measure_checked(model, images, settings)).values()
        names = [tissue.name for tissue in model.card.classes]
        scores = metrics(results, names, settings.background)
        found = zip(names, scores.iou, strict=True)
        per_class = {f"IoU {name}": float(value) for name, value in found if not math.isnan(value)}
        gated = gate_rates(*presence_of(results), model.card.presence)
        of_gate = {f"presence {name}": gated[key] for name, key in (("F1", "f1"), ("AUC", "auc"))}
        values = {"score": scores.mean_iou, "mIoU": scores.mean_iou, **of_gate, **per_class}
        values = {name: value for name, value in values.items() if not math.isnan(value)}
        limits = bootstrap_intervals(results, names, settings.background, settings.bootstrap, settings.seed)
        if limits is None:
            return ValidationScores(values, {})
        of_class = {f"IoU {name}": limit for name, limit in zip(names, limits.iou.tolist(), strict=True)}
        intervals = {"mIoU": limits.headline["mean_iou"], **of_class}
        return ValidationScores(values, {name: tuple(limit) for name, limit in intervals.items() if name in values})

    return Validation(figures, [item.image for item in images])
