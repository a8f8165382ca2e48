"""What training minimises: classification, contrast and diversity of one batch, put together by the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from napari_lpd.models.network import LPD, STAGES_USED, image_scores, merge_prototypes, region_encoder_of
from napari_lpd.training.distributed import gather, local_slice, shares
from napari_lpd.training.losses.pixels import fused_logits, fused_stages, known_weight, painted_entropy
from napari_lpd.training.losses.published import (
    official_first_commit_diversity,
    official_head_diversity,
    official_pseudo_mask,
)
from napari_lpd.training.losses.shares import SharedTiles, shares_in
from napari_lpd.training.losses.terms import (
    class_map_regions,
    class_regions,
    classification_loss,
    contrastive_loss,
    cut_regions,
    diversity_loss,
    prototype_regions,
    responding_prototypes,
    to_unit_range,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.tileset import TileSet
    from napari_lpd.models.encoder import RegionEncoder
    from napari_lpd.training.losses.terms import Regions
    from napari_lpd.training.step import Said


class StepLosses(NamedTuple):
    """The terms of one step, unweighted, their weighted sum, and the number of regions contrasted and left out.

    `own` is that of a joint head which learns from its own maps, `pixels` that of painted pixels, `shares` that of
    known shares.
    """

    total: Tensor
    classification: Tensor
    foreground: Tensor
    background: Tensor
    area: Tensor
    diversity: Tensor
    regions: int = 0
    left_out: int = 0
    own: Tensor | None = None
    pixels: Tensor | None = None
    shares: Tensor | None = None

    def values(self) -> Tensor:
        """Stack total, classification, contrast, diversity and what else there is, on the device of their making."""
        contrast = self.foreground + self.background
        more = [term for term in self._more().values() if term is not None]
        return torch.stack([self.total, self.classification, contrast, self.diversity, *more]).detach()

    def _more(self) -> dict[str, Tensor | None]:
        return {"own maps": self.own, "pixels": self.pixels, "shares": self.shares}

    def metrics(self, values: Sequence[float]) -> dict[str, float]:
        """Name the numbers that a step reports; `values` are those of `values`, read."""
        more = [name for name, term in self._more().items() if term is not None]
        named = dict(zip(("loss", "classification", "contrast", "diversity", *more), values, strict=True))
        return named | {"regions": float(self.regions), "regions left out": float(self.left_out)}


def needed_region_encoder(settings: TrainSettings, device: torch.device) -> RegionEncoder | None:
    """Build the frozen encoder of regions where contrast or a clustered bank needs one."""
    needed = settings.contrast_weight or settings.model.bank in ("clustered", "seeded")
    if settings.model.head == "joint" or not needed:
        return None
    return region_encoder_of(settings).to(device)


class Objective(nn.Module):
    """The training loss and what it needs beside the network: the frozen region encoder, ψ, the cap on regions.

    Args:
        settings: Which terms, which forms, which weights.
        region_encoder: Frozen encoder of the contrastive loss, or None where that is off.
        generator: Source of randomness for the choice of regions.
    """

    def __init__(
        self, settings: TrainSettings, region_encoder: RegionEncoder | None, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.settings = settings
        self.region_encoder = region_encoder
        dim = settings.model.prototype_dim
        self.psi = nn.Linear(dim, dim, bias=False) if settings.region_projection == "learned" else nn.Identity()
        self._generator = generator
        self.shares: SharedTiles | None = None

    def follow(self, tiles: TileSet) -> None:
        """Learn from the shares that are known of training tiles, too."""
        if tiles.shares and self.settings.share_weight:
            self.shares = SharedTiles(tiles)

    def forward(
        self,
        network: LPD,
        images: Tensor,
        labels: Tensor,
        warm: bool,
        said: Said | None = None,
    ) -> StepLosses:
        """Compute the losses of one batch.

        Args:
            network: What is trained.
            images: (B, 3, H, W) in 0..1; where several processes train, this one's share of them.
            labels: (B, C), of the whole batch.
            warm: Classification alone.
            said: What else is said of them; None: nothing.
        """
        settings = self.settings
        weights = {i: weight for i, weight in enumerate(settings.stage_weights) if weight}
        fused = settings.region_map == "fused"
        known, painted, tissue, indices = said or (None, None, None, ())
        of_pixels = [] if painted is None and tissue is None else fused_stages(settings.model.stage_fusion)
        stages = sorted({*weights, *(STAGES_USED if fused else STAGES_USED[-1:]), *of_pixels})
        maps = network(images, stages)
        logits = dict(zip(stages, maps.logits, strict=True))
        sizes = shares(len(labels))
        how = settings.model.merge_train
        scores = [gather(image_scores(logits[i], network.k, how), sizes) for i in weights]
        classification = classification_loss(scores, labels, list(weights.values()), known_weight(known))
        zero = classification.new_zeros(())
        terms = StepLosses(classification, classification, zero, zero, zero, zero)
        if painted is not None:
            sums, counts = (gather(part, sizes) for part in painted_entropy(network, logits, painted))
            pixels = sums.sum() / counts.sum().clamp(min=1)
            terms = terms._replace(total=terms.total + settings.pixel_weight * pixels, pixels=pixels)
        if tissue is not None and self.shares is not None:
            fused_maps = fused_logits(network, logits, tissue.shape[1:])
            found = gather(shares_in(fused_maps, tissue), sizes)[None]
            held = self.shares(found, indices, settings.share_tolerance)
            terms = terms._replace(total=terms.total + settings.share_weight * held, shares=held)
        if warm:
            return terms
        class_maps = self._fused(network, logits) if fused else merge_prototypes(logits[3], network.k, "mean")
        if self.region_encoder is not None and settings.contrast_weight:
            terms = self._add_contrast(terms, network, images, labels, logits[3], class_maps)
        if settings.diversity != "off" and settings.diversity_weight:
            features, regions = gather(maps.features, sizes), gather(class_maps.detach(), sizes)
            diversity = self._diversity(network, features, maps.prototypes, regions, labels)
            terms = terms._replace(diversity=diversity, total=terms.total + settings.diversity_weight * diversity)
        return terms

    def _fused(self, network: LPD, logits: dict[int, Tensor]) -> Tensor:
        """Fuse the papers' class map, with gradients of all its stages: (B, C, h_2, w_2) in 0..1."""
        size = logits[STAGES_USED[0]].shape[2:]
        merged = (merge_prototypes(logits[i], network.k, self.settings.model.merge_train) for i in STAGES_USED)
        same = [interpolate(to_unit_range(m), size=size, mode="bilinear", align_corners=True) for m in merged]
        return torch.stack(
            [weight * maps for weight, maps in zip(network.settings.stage_fusion, same, strict=True)]
        ).sum(0)

    def _add_contrast(
        self, terms: StepLosses, network: LPD, images: Tensor, labels: Tensor, stage4: Tensor, class_maps: Tensor
    ) -> StepLosses:
        settings, sizes = self.settings, shares(len(labels))
        maps = class_maps if settings.region_map == "fused" else stage4
        regions = self._regions(stage4, maps, labels, network.k)
        found = len(regions.images)
        if not found:
            return terms
        regions = self._capped(regions)
        owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[regions.images]
        own = local_slice(len(labels))
        mine = regions.take((regions.images >= own.start) & (regions.images < own.stop))
        embedded = self._embedded(network, images, maps, mine._replace(images=mine.images - own.start))
        embedded = self.psi(gather(embedded, owner.bincount(minlength=len(sizes)).tolist()))
        contrast = contrastive_loss(
            embedded.unbind(1),
            network.prototypes,
            regions.to(images.device),
            settings.contrast_temperature,
            settings.contrast,
        )
        area = gather(stage4.mean((1, 2, 3)), sizes).mean()
        weighted = (
            contrast.foreground + settings.contrast_background * contrast.background + settings.area_weight * area
        )
        return terms._replace(
            total=terms.total + settings.contrast_weight * weighted,
            foreground=contrast.foreground,
            background=contrast.background,
            area=area,
            regions=len(regions.images),
            left_out=found - len(regions.images),
        )

    def _regions(self, stage4: Tensor, maps: Tensor, labels: Tensor, k: int) -> Regions:
        """Cut all regions that the batch gives to contrast, on the CPU: the one thing in a step that it waits for."""
        settings, own = self.settings, labels[local_slice(len(labels))]
        fused = settings.region_map == "fused"
        flags = own > 0 if fused else responding_prototypes(stage4.mean((2, 3)), own, k)
        if settings.region_input == "unit":  # a map without a positive place cuts nothing out
            flags = flags & (maps.flatten(2).amax(2) > 0)
        flags = gather(flags, shares(len(labels))).cpu()
        return class_map_regions(flags, k) if fused else prototype_regions(flags, k, settings.negatives)

    def _embedded(self, network: LPD, images: Tensor, maps: Tensor, regions: Regions) -> Tensor:
        """Foreground and background of M regions of `images`, in one pass through the frozen encoder: (M, 2, D)."""
        settings = self.settings
        assert self.region_encoder is not None
        if not len(regions.images):  # of this process's share
            return images.new_zeros(0, 2, settings.model.prototype_dim)
        own_statistics = settings.region_input == "unit"
        seen = self.region_encoder.normalise(images) if own_statistics else network.encoder.normalise(images)
        if settings.region_size:
            seen = interpolate(seen, size=[settings.region_size] * 2, mode="bilinear", align_corners=False)
        cut = cut_regions(seen, maps, regions.to(images.device), settings.region_threshold, settings.region_input)
        vectors: Tensor = self.region_encoder(torch.cat(cut))
        return vectors.unflatten(0, (2, -1)).transpose(0, 1)

    def _capped(self, regions: Regions) -> Regions:
        found, most = len(regions.images), self.settings.max_regions
        if not most or found <= most:
            return regions
        chosen = torch.randperm(found, generator=self._generator)[:most].sort().values
        return regions.take(chosen)

    def _diversity(
        self, network: LPD, features: Tensor, projected: Tensor, class_maps: Tensor, labels: Tensor
    ) -> Tensor:
        settings = self.settings
        if settings.diversity_trains == "prototypes":
            features = features.detach()
        if settings.diversity in ("centred", "projected"):
            size = features.shape[2:]
            maps = interpolate(class_maps, size=size, mode="bilinear") if class_maps.shape[2:] != size else class_maps
            regions, centred = class_regions(maps, labels), settings.diversity == "centred"
            return diversity_loss(features, projected, regions, settings.diversity_temperature, centred)
        published = {
            "official-head": official_head_diversity,
            "official-first-commit": official_first_commit_diversity,
        }[settings.diversity]
        return published(features, network.prototypes, official_pseudo_mask(class_maps), network.k)
