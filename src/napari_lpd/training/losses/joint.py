"""What training a joint head minimises, on features of a frozen encoder.

Every neck learns by itself; a loss is the mean over necks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from napari_lpd.models.network import LPD, merge_prototypes
from napari_lpd.training.losses.objective import StepLosses
from napari_lpd.training.losses.pixels import PaintedPlaces, known_weight
from napari_lpd.training.losses.shares import SharedTiles, shares_in
from napari_lpd.training.losses.terms import (
    class_regions,
    contrastive_loss,
    diversity_loss,
    prototype_regions,
    responding_prototypes,
    weighted_means,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.models.joint.tiles import FeatureTiles
    from napari_lpd.training.losses.terms import Regions

NOTHING = -1  # in the model's own labels: not sure enough
CHUNK = 64  # tiles labelled at once


class JointObjective(nn.Module):
    """The training loss of a joint head, and the model's own labels of its tiles, once it learns from them, too.

    Args:
        settings: Which terms, which weights.
        generator: Source of randomness for the choice of places and regions.
        tiles: Number of training tiles.
        grid: (h, w) places of a tile.
    """

    own: Tensor  # (n, h, w) int8
    _tissue: Tensor  # (n, h, w), of tiles with shares

    def __init__(self, settings: TrainSettings, generator: torch.Generator, tiles: int, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.settings, self._generator = settings, generator
        self.psi, self.region_encoder = nn.Identity(), None  # nothing but the features is looked at
        self.register_buffer("own", torch.full((tiles, *grid), NOTHING, dtype=torch.int8))
        self._labelled: bool | None = None  # not known: the labels may come from a file, of a training that was stopped
        self._known: Tensor | None = None
        self._painted: PaintedPlaces | None = None
        self.shares: SharedTiles | None = None

    def follow(self, tiles: FeatureTiles) -> None:
        """Learn from what is painted in training tiles, from known shares, and from no presence that is not known."""
        device = self.own.device
        self._known = None if tiles.tiles.known.all() else torch.from_numpy(tiles.tiles.known).to(device)
        painted = PaintedPlaces(tiles, device) if tiles.tiles.painted else None
        self._painted = painted if painted else None
        if tiles.tiles.shares and self.settings.share_weight:
            self.shares = SharedTiles(tiles.tiles, self.settings.model.necks).to(device)
            self._tissue = torch.zeros(self.own.shape, device=device)
            for index in tiles.tiles.shares:
                self._tissue[index] = torch.from_numpy(tiles.tissue_in(index)).to(device)

    @torch.no_grad()
    def label_tiles(self, network: LPD, tiles: FeatureTiles) -> None:
        """Label the places of all tiles by the model's maps, among the classes that a tile holds, where it is sure.

        Left out are painted places, and tiles of which not every class is known.
        """
        device, self._labelled = self.own.device, None
        for start in range(0, len(tiles), CHUNK):
            chosen = range(start, min(start + CHUNK, len(tiles)))
            logits = network.from_joined(tiles.batch(chosen).to(device).float()).logits[0]
            held = torch.from_numpy(tiles.labels[list(chosen)]).to(device) > 0
            scores = self._merged(network, logits).masked_fill(~held[:, :, None, None], -torch.inf)
            confidence, label = scores.softmax(1).max(1)
            label[confidence < self.settings.self_training_confidence] = NOTHING
            self.own[start : chosen.stop] = label.to(torch.int8)
        if self._known is not None:
            self.own[~self._known.all(1)] = NOTHING
        if self._painted is not None:
            for index, mask in self._painted.mask.items():
                self.own[index][mask] = NOTHING

    def _learns_from_own_maps(self) -> bool:
        """Return whether any tile is labelled; found out once, as a look at a GPU's memory makes the CPU wait."""
        if self._labelled is None:
            self._labelled = bool((self.own != NOTHING).any())
        return self._labelled

    def _merged(self, network: LPD, logits: Tensor) -> Tensor:
        return merge_prototypes(logits, network.k, self.settings.model.merge_train)

    def forward(self, network: LPD, joined: Tensor, labels: Tensor, warm: bool, indices: Sequence[int]) -> StepLosses:
        """Compute the losses of one batch.

        Args:
            network: What is trained.
            joined: Features (B, D, h, w) of a frozen encoder.
            labels: (B, C).
            warm: Classification alone.
            indices: Of the tiles.
        """
        settings, joint = self.settings, network.joint
        assert joint is not None
        chosen = torch.tensor(list(indices)).to(joined.device, non_blocking=True)
        maps = [self.own[chosen]] + ([self._tissue[chosen]] if self.shares else [])
        joined, own, *tissue = self._at_places(joined, *maps)
        features = joint(joined.float(), settings.feature_dropout)
        logits = network.neck_logits(features)
        merged = self._merged(network, logits.flatten(0, 1)).unflatten(0, logits.shape[:2])
        presence = joint.presence_logits(joint.gating(features).mean((2, 3)), settings.presence_dropout)
        presence = presence + merge_prototypes(logits.mean((0, 3, 4)), network.k, "mean")
        known = known_weight(None if self._known is None else self._known[chosen])
        scores = [maps.mean((2, 3)) for maps in merged]
        classification = _mean([binary_cross_entropy_with_logits(score, labels, known) for score in scores])
        of_presence = binary_cross_entropy_with_logits(presence, labels, known)
        classification = classification + settings.presence_weight * of_presence
        zero = classification.new_zeros(())
        terms = StepLosses(classification, classification, zero, zero, zero, zero)
        if not warm and settings.model.bank != "linear":
            terms = self._shaped(terms, network, features, logits, merged, labels)
        if self._learns_from_own_maps():
            agreement = _mean([_masked_entropy(maps, own) for maps in merged])
            terms = terms._replace(total=terms.total + agreement, own=agreement)
        if self._painted is not None and settings.pixel_weight:
            pixels = self._painted.loss(network, settings.feature_dropout, self._generator)
            terms = terms._replace(total=terms.total + settings.pixel_weight * pixels, pixels=pixels)
        if self.shares is not None:
            found = self.shares(shares_in(merged, tissue[0]), indices, settings.share_tolerance)
            terms = terms._replace(total=terms.total + settings.share_weight * found, shares=found)
        return terms

    def _at_places(self, joined: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        """Choose places of the tiles at random, the same in all: (B, D, n, 1) and of each map (B, n, 1)."""
        count, most = maps[0][0].numel(), self.settings.places
        if not most or most >= count:
            return joined, *maps
        chosen = torch.randperm(count, generator=self._generator)[:most].to(joined.device, non_blocking=True)
        return joined.flatten(2)[:, :, chosen, None], *(each.flatten(1)[:, chosen, None] for each in maps)

    def _shaped(
        self, terms: StepLosses, network: LPD, features: Tensor, logits: Tensor, merged: Tensor, labels: Tensor
    ) -> StepLosses:
        """Add what shapes prototypes and features: contrast and diversity, neck by neck."""
        settings = self.settings
        projected = network.projected(0).unflatten(1, (len(logits), -1)).unbind(1)
        apart = features.unflatten(1, (len(logits), -1)).unbind(1)
        if settings.contrast_weight:
            regions = self._regions(logits, labels, network.k)
            pairs = [self._contrast(*parts) for parts in zip(apart, projected, logits, regions, strict=True)]
            foreground, background = (_mean([pair[i] for pair in pairs]) for i in (0, 1))
            weighted = foreground + settings.contrast_background * background
            total = terms.total + settings.contrast_weight * weighted
            terms = terms._replace(total=total, foreground=foreground, background=background)
        if settings.diversity != "off" and settings.diversity_weight:
            trained = apart if settings.diversity_trains == "all" else [part.detach() for part in apart]
            tau, centred = settings.diversity_temperature, settings.diversity == "centred"
            found = [
                diversity_loss(own, bank, class_regions(maps.detach(), labels), tau, centred)
                for own, bank, maps in zip(trained, projected, merged, strict=True)
            ]
            diversity = _mean(found)
            terms = terms._replace(total=terms.total + settings.diversity_weight * diversity, diversity=diversity)
        return terms

    def _regions(self, logits: Tensor, labels: Tensor, k: int) -> list[Regions]:
        """Cut every neck's regions, on the CPU: the one thing in a step that it waits for."""
        flags = [responding_prototypes(maps.mean((2, 3)), labels, k) & (maps.flatten(2).amax(2) > 0) for maps in logits]
        return [prototype_regions(responding, k, self.settings.negatives) for responding in torch.stack(flags).cpu()]

    def _contrast(self, features: Tensor, bank: Tensor, logits: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
        settings = self.settings
        if not len(regions.images):
            return features.sum() * 0, features.sum() * 0
        regions = regions.to(features.device)
        means = weighted_means(features, logits, regions, settings.region_threshold)
        found = contrastive_loss(means, bank, regions, settings.contrast_temperature)
        return found.foreground, found.background


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def _masked_entropy(maps: Tensor, own: Tensor) -> Tensor:
    """Cross-entropy of class logits (B, C, h, w) with labels (B, h, w), where there is one; 0 where there is none."""
    total = cross_entropy(maps, own.long(), ignore_index=NOTHING, reduction="sum")
    return total / (own != NOTHING).sum().clamp(min=1)
