"""Stage 2: a supervised segmenter trained on a prototype model's pseudo-masks of its own labelled tiles.

The network is torchvision's DeepLabV3 head, the maintained descendant of the papers' DeepLab-v2, on one of our encoders
(`model.Supervised`). Its checkpoint is read by `predict` and `evaluate` like any other.
"""

from __future__ import annotations

import json
import math
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from napari_lpd.core.errors import DataError, LpdError, SettingsError, one_line, writing
from napari_lpd.core.files import atomic_write, file_hashes, write_text
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.reading import read_json
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.data.images import IGNORE, read_image, read_mask
from napari_lpd.evaluation.masks import class_probability, fused_maps, predicted_labels
from napari_lpd.models.card import Card, provenance
from napari_lpd.models.checkpoint import TRAINING_HASHES, save_checkpoint
from napari_lpd.models.compute import choose_device
from napari_lpd.models.network import STAGES_USED, Supervised, encoder_of
from napari_lpd.training.augmentation import Jitter, augment_with_masks
from napari_lpd.training.runs.folder import MODEL_NAME
from napari_lpd.training.step import parameter_groups, poly_factor, set_training

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass
    from napari_lpd.core.settings.prediction import Refiner
    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.tileset import TileSet
    from napari_lpd.models.network import LoadedModel


def write_pseudo_masks(model: LoadedModel, tiles: TileSet, folder: Path, refiner: Refiner = "lattice") -> Job[Path]:
    """Write ``folder/STEM.png`` for every tile: the classes that its label names, by the model's fused maps.

    Palette images: c = class c, in the classes' colours; 255 where background wins. Masks that are there are kept, so
    that a stopped run resumes; ``folder/made_with.json`` says what made them.

    Raises:
        DataError: the tiles do not come from files of their own, or masks are there that something else made.
    """
    if len(tiles.files) != len(tiles):
        raise DataError(f"{tiles.description}: pseudo-masks need tiles in files; cut regions are trained on directly")
    with writing(folder, DataError):
        folder.mkdir(parents=True, exist_ok=True)
    _check_made_with({"model": model.hash, "refiner": refiner, "tiles": tiles.description}, folder)
    settings = EvaluateSettings(background="predict", views="flips")
    for done, (path, labels) in enumerate(zip(tiles.files, tiles.labels, strict=True), start=1):
        target = folder / f"{path.stem}.png"
        if not target.exists():
            image = read_image(path)
            fused, _ = fused_maps(model, torch.from_numpy(image).permute(2, 0, 1).float() / 255, settings)
            probability = class_probability(fused, torch.from_numpy(labels) > 0, settings)
            mask = predicted_labels(image, probability, refiner, settings, str(model.device))
            _write_mask(target, np.where(mask == len(tiles.classes), IGNORE, mask).astype(np.uint8), tiles.classes)
        yield Progress(done, len(tiles), "pseudo-masks")
    return folder


def _check_made_with(wanted: dict[str, str], folder: Path) -> None:
    path = folder / "made_with.json"
    if not path.exists():
        if any(folder.iterdir()):
            raise DataError(f"{folder}: holds files, and not what made them: choose another folder, or move them away")
        write_text(path, json.dumps(wanted, indent=1) + "\n")
    made = read_json(path, DataError, "what made the masks", dict)
    if others := [name for name in wanted | made if made.get(name) != wanted.get(name)]:
        raise DataError(f"{folder}: holds masks of another {one_line(others[0], 60)}; choose another, or delete them")


def _write_mask(path: Path, mask: NDArray[np.uint8], classes: Sequence[TissueClass]) -> None:
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = [tissue.rgb for tissue in classes]
    palette[IGNORE] = 255
    image = Image.fromarray(mask)
    image.putpalette(palette.ravel().tolist())
    with atomic_write(path) as partial:
        image.save(partial, format="PNG")


class MaskedTiles(Dataset[tuple[Tensor, Tensor]]):
    """Tiles with masks: item i is (image (3, H, W) uint8 RGB, mask (H, W) int64, 255 = not counted)."""

    def __init__(self, images: Sequence[Path], masks: Sequence[Path], classes: Sequence[TissueClass]) -> None:
        self.images, self.masks, self.classes = tuple(images), tuple(masks), tuple(classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy(np.ascontiguousarray(read_image(self.images[index]).transpose(2, 0, 1)))
        mask = torch.from_numpy(read_mask(self.masks[index], self.classes).astype(np.int64))
        return image, mask.masked_fill(mask == len(self.classes), IGNORE)


def fit_segmenter(tiles: TileSet, masks: Path, settings: TrainSettings, out: Path, command: str = "") -> Job[Path]:
    """Train a segmenter on tiles and their masks ``masks/STEM.png``; returns ``out/model.safetensors``.

    The model is saved, whole, after every epoch.

    Args:
        tiles: The tiles, in files.
        masks: Folder of the pseudo-masks.
        settings: Encoder, epochs, batch, rates, augmentation; what concerns prototypes is not used.
        out: Folder for the model.
        command: The command that trains it again, for the card.

    Raises:
        SettingsError: batches of one tile.
        LpdError: the loss became NaN or infinite; the last epoch's model stays.
    """
    if settings.batch < 2:
        raise SettingsError("batch=1: the segmenter's head needs two or more tiles per step")
    device = choose_device(settings.device)[0]
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    head = settings.model.model_copy(update={"bank": "supervised", "prototypes_per_class": 1})
    settings = settings.model_copy(update={"model": head, "contrast_weight": 0.0, "diversity": "off"})
    network = Supervised(head, len(tiles.classes), encoder_of(head, head.encoder_weights)).to(device)
    dataset = MaskedTiles(tiles.files, [masks / f"{path.stem}.png" for path in tiles.files], tiles.classes)
    loader = DataLoader(
        dataset,
        settings.batch,
        shuffle=True,
        drop_last=len(dataset) > settings.batch,  # the head's batch statistics need more than one tile
        num_workers=settings.workers,
        generator=generator,
    )
    total = settings.epochs * len(loader)
    total = min(total, settings.max_steps) if settings.max_steps else total
    optimiser = torch.optim.AdamW(parameter_groups(network, settings))
    warm_up = round(settings.lr_warm_up * total)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: poly_factor(step, total, warm_up, settings.lr_power)
    )
    step, count = 0, math.ceil(total / len(loader))
    for epoch in range(count):
        set_training(network, settings)
        for raw, mask in islice(loader, total - step):
            images = raw.to(device, non_blocking=True).float() / 255
            if settings.augment:
                images, mask = augment_with_masks(images, mask, generator, Jitter.of(settings))
            loss = masked_loss(network.class_logits(images), mask.to(device, non_blocking=True))
            value = loss.item()
            if not math.isfinite(value):
                raise LpdError(f"loss became {value} at step {step + 1} of {total}; try a smaller lr")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            step += 1
            yield Progress(step, total, f"epoch {epoch + 1} of {count}", {"loss": value})
        _save(network, tiles, settings, step, command, out / MODEL_NAME)
    return out / MODEL_NAME


def _save(network: Supervised, tiles: TileSet, settings: TrainSettings, steps: int, command: str, path: Path) -> None:
    card = Card(
        classes=tiles.classes,
        settings=settings,
        encoder=network.encoder.architecture,
        tiles_per_class=tiles.tiles_per_class,
        tiles=len(tiles),
        steps=steps,
        map_scale=((1.0,) * len(tiles.classes),) * len(STAGES_USED),
        presence=(0.0,) * len(tiles.classes),  # its maps are probabilities: nothing to gate
        command=command,
        **provenance(),
    )
    hashes = {TRAINING_HASHES["file"]: torch.from_numpy(file_hashes(tiles.files))}
    save_checkpoint(path, dict(network.state_dict()) | hashes, card)


def masked_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of (B, C, H, W) logits over the counted pixels of (B, H, W); zero where none is counted."""
    total = cross_entropy(logits, mask, ignore_index=IGNORE, reduction="sum")
    return total / (mask != IGNORE).sum().clamp(min=1)
