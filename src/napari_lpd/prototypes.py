"""What a prototype bank has learned: how different a class's prototypes are, as vectors and on tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from napari_lpd.encoder import STAGES
from napari_lpd.images import MaskedImage, read_image, read_mask
from napari_lpd.model import LoadedModel, cosine_maps

if TYPE_CHECKING:
    from collections.abc import Sequence


def effective_number(prototypes: Tensor) -> float:
    """How many different directions k vectors (k, D) amount to: 1 where all are alike, k where all are orthogonal.

    exp(-Σ λ ln λ) over the eigenvalues λ of their cosine matrix divided by k (Vendi score; Friedman & Dieng 2023).
    """
    unit = normalize(prototypes.double(), dim=1)
    eigenvalues = torch.linalg.eigvalsh(unit @ unit.T / len(unit)).clamp(min=0)
    return float(torch.exp(torch.special.entr(eigenvalues).sum()))


def spatial_divergence(cosines: Tensor, temperature: float) -> float:
    """Mean Jensen-Shannon divergence of every pair of maps, in units of ln 2: 0 same places, 1 disjoint places.

    Args:
        cosines: (k, n), the k maps at the n places of a class, k ≥ 2.
        temperature: τ of the softmax over places (LPD eq. 3).
    """
    v = (cosines.double() / temperature).softmax(1)
    first, second = torch.triu_indices(len(v), len(v), offset=1)
    mean = (v[first] + v[second]) / 2
    entropy = torch.special.entr(v).sum(1)
    divergence = torch.special.entr(mean).sum(1) - (entropy[first] + entropy[second]) / 2
    return float(divergence.mean() / torch.log(torch.tensor(2.0)))


def position_share(maps: Tensor) -> float:
    """How much of what tells a class's prototypes apart is the place in the tile, not the tissue: 0 none, 1 all.

    A network knows where in a tile it is by the padding at the rims, and prototypes can be told apart by that alone. Of
    the differences between two prototypes' maps, less their mean over the tile: variance of the mean tile over mean
    variance, less what as many unrelated tiles would give; mean over pairs.

    Args:
        maps: (n, k, h, w) cosine maps of n ≥ 2 tiles, k ≥ 2.
    """
    first, second = torch.triu_indices(maps.shape[1], maps.shape[1], offset=1)
    apart = (maps[:, first] - maps[:, second]).double().flatten(2)
    apart = apart - apart.mean(2, keepdim=True)
    share = apart.mean(0).square().mean(1) / apart.square().mean((0, 2))
    return float(((share - 1 / len(maps)) / (1 - 1 / len(maps))).clamp(min=0).nanmean())  # 0 / 0: equal prototypes


class BankDiversity(NamedTuple):
    """Diversity of a model's bank, per class: (C,) lists; NaN where k = 1 or the class is in no image.

    Attributes:
        effective_number: Of the projected stage-4 prototypes, 1..k.
        spatial_divergence: Mean over images of the pairs' divergence on the class's own pixels, 0..1.
        position_share: Share of the prototypes' differences that is the place in the tile, 0..1, over the images that
            hold the class; NaN where there are fewer than two, or they differ in size.
    """

    effective_number: list[float]
    spatial_divergence: list[float]
    position_share: list[float]


@torch.inference_mode()
def bank_diversity(model: LoadedModel, images: Sequence[MaskedImage], temperature: float = 0.07) -> BankDiversity:
    """Diversity of the bank on images with masks; Ω_c is the truth, so that models are compared on the same places.

    Args:
        model: A model with prototypes.
        images: Where to compare their maps.
        temperature: τ; the same for all models that are compared.
    """
    network = model.network
    prototypes = network.projected(STAGES - 1)
    numbers = [effective_number(part) for part in prototypes.cpu().chunk(network.class_count)]
    found: list[list[float]] = [[] for _ in numbers]
    tiles: list[list[Tensor]] = [[] for _ in numbers]
    for item in images if network.k > 1 else ():
        tensor = torch.from_numpy(read_image(item.image)).permute(2, 0, 1)[None].float() / 255
        features = network(tensor.to(model.device), (STAGES - 1,)).features
        cosines = cosine_maps(features, prototypes)[0].cpu()
        mask = torch.from_numpy(read_mask(item.mask, model.card.classes))
        rows, columns = (
            (torch.arange(n) + 0.5) * size / n for n, size in zip(cosines.shape[1:], mask.shape, strict=True)
        )
        omega = mask[rows.long()][:, columns.long()]
        for c, maps in enumerate(cosines.chunk(network.class_count)):
            if (omega == c).sum() >= 2:
                found[c].append(spatial_divergence(maps[:, omega == c], temperature))
                tiles[c].append(maps)
    means = [sum(values) / len(values) if values else float("nan") for values in found]
    alike = [len(maps) > 1 and len({m.shape for m in maps}) == 1 for maps in tiles]
    shares = [position_share(torch.stack(maps)) if ok else float("nan") for maps, ok in zip(tiles, alike, strict=True)]
    return BankDiversity(numbers, means, shares)
