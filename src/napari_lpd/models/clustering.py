"""The clustered prototype bank of PBIP: tiles of one tissue → frozen features → spherical k-means → prototypes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from napari_lpd.core.errors import DataError
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.models.compute import load_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_lpd.core.settings.training import TrainSettings
    from napari_lpd.data.tileset import TileSet

WHITE_LEVEL = 220  # a pixel whose darkest channel is brighter is white (P4)
RESTARTS = 10
MAX_ROUNDS = 100


class ImageEncoder(Protocol):
    """Encoder of one vector per image, as `encoder.RegionEncoder`."""

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W) in 0..1."""

    def __call__(self, images: Tensor) -> Tensor:
        """Encode normalised images (B, 3, H, W) as (B, D)."""


class Clusters(NamedTuple):
    """Clusters of n vectors on the unit sphere.

    Attributes:
        centres: (k, D), unit length.
        labels: (n,) nearest centre of each vector.
        similarity: (n,) cosine to it.
    """

    centres: NDArray[np.float64]
    labels: NDArray[np.int64]
    similarity: NDArray[np.float64]


def unit_rows(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scale the rows of (n, D) to unit length."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def refine_centres(vectors: NDArray[np.float64], centres: NDArray[np.float64]) -> Clusters:
    """Run Lloyd's rounds with the cosine: assign to the nearest centre, centre ← mean of members, to unit length.

    An empty cluster keeps its centre. Labels belong to the centres that are returned (P20).

    Args:
        vectors: (n, D) of unit length.
        centres: (k, D) of unit length, the initial ones.
    """
    for _ in range(MAX_ROUNDS):
        labels = (vectors @ centres.T).argmax(1)
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, vectors)
        filled = np.bincount(labels, minlength=len(centres))[:, None] > 0
        updated = np.where(filled, unit_rows(sums), centres)
        converged = np.allclose(updated, centres)
        centres = updated
        if converged:
            break
    cosines = vectors @ centres.T
    return Clusters(centres, cosines.argmax(1), cosines.max(1))


def spherical_kmeans(vectors: NDArray[np.floating], k: int, seed: int = 0) -> Clusters:
    """Cluster by spherical k-means: k-means++ starts, the best of ten restarts by summed cosine (method.md §8, P20).

    Args:
        vectors: (n, D), n ≥ k.
        k: Number of clusters.
        seed: Seed of the restarts.
    """
    from sklearn.cluster import kmeans_plusplus  # takes more than a second to import

    unit = unit_rows(vectors)
    generator = np.random.RandomState(seed)
    runs = [refine_centres(unit, kmeans_plusplus(unit, k, random_state=generator)[0]) for _ in range(RESTARTS)]
    return max(runs, key=lambda clusters: float(clusters.similarity.sum()))


def prototypes_of(vectors: NDArray[np.floating], clusters: Clusters, members: int) -> NDArray[np.float64]:
    """Compute a prototype per cluster, of unit length: its centre, or the mean of the nearest members (P3).

    Args:
        vectors: (n, D), as clustered.
        clusters: Their clusters.
        members: Number of vectors nearest to a centre whose mean is the prototype; 0: the centre of all.
    """
    if not members:
        return clusters.centres
    unit = unit_rows(vectors)
    prototypes = clusters.centres.copy()  # an empty cluster keeps its centre
    for u in np.unique(clusters.labels):
        indices = np.flatnonzero(clusters.labels == u)
        nearest = indices[np.argsort(-clusters.similarity[indices], kind="stable")[:members]]
        prototypes[u] = unit[nearest].mean(0)
    return unit_rows(prototypes)


def is_mostly_white(image: Tensor, limit: float) -> bool:
    """Return whether more than `limit` of an image (3, H, W) uint8 is white: darkest channel above 220 (P4)."""
    return bool((image.amin(0) > WHITE_LEVEL).float().mean() > limit)


@torch.inference_mode()
def clustered_bank(tiles: TileSet, encoder: ImageEncoder, settings: TrainSettings, device: torch.device) -> Job[Tensor]:
    """Compute prototypes (C·k, D) of unit length, class-major, from the tiles that hold exactly one class.

    Raises:
        DataError: a class has fewer usable tiles than prototypes.
    """
    single = np.flatnonzero(tiles.single)
    features: list[Tensor] = []
    kept: list[int] = []
    loader = load_batches(tiles.subset(single.tolist()), batch_size=settings.batch, num_workers=settings.workers)
    for done, (raw, _) in enumerate(loader):
        usable = [i for i, image in enumerate(raw) if not is_mostly_white(image, settings.white_limit)]
        if usable:
            images = encoder.normalise(raw[usable].to(device).float() / 255)
            features.append(encoder(images).float().cpu())
            kept += (single[done * settings.batch + np.array(usable)]).tolist()
        yield Progress(done + 1, len(loader), "features of tiles with one tissue")
    return bank_of(torch.cat(features).double().numpy() if features else np.zeros((0, 1)), kept, tiles, settings)


def bank_of(vectors: NDArray[np.float64], kept: list[int], tiles: TileSet, settings: TrainSettings) -> Tensor:
    """Cluster the vectors (n, D) of tiles that hold one class, by class: prototypes (C·k, D) of unit length.

    Args:
        vectors: One per tile in `kept`.
        kept: The tiles' indices.
        tiles: All tiles.
        settings: Prototypes per class, seed, members.

    Raises:
        DataError: a class has fewer tiles than prototypes.
    """
    k, bank = settings.model.prototypes_per_class, []
    for c, tissue in enumerate(tiles.classes):
        members = vectors[tiles.labels[kept, c] > 0] if kept else vectors
        if len(members) < k:
            raise DataError(
                f"{tiles.description}: {len(members)} tiles hold {tissue.name} alone and are not mostly white, too few"
                f" to cluster into {k} prototypes; add some, lower prototypes_per_class, or use the bank 'learned'"
            )
        bank.append(prototypes_of(members, spherical_kmeans(members, k, settings.seed), settings.cluster_members))
    return torch.from_numpy(np.concatenate(bank)).float()
