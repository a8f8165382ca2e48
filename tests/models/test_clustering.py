from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lpd.core.errors import DataError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.presets import PRESETS
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.models.clustering import (
    Clusters,
    clustered_bank,
    is_mostly_white,
    prototypes_of,
    refine_centres,
    spherical_kmeans,
    unit_rows,
)
from napari_lpd.models.encoder import build_region_encoder

CPU = torch.device("cpu")


def three_groups(spread: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 40)
    return np.eye(8)[truth] * rng.uniform(0.5, 3, (120, 1)) + rng.normal(0, spread, (120, 8)), truth


def test_separate_groups_are_found_whatever_their_length():
    vectors, truth = three_groups()
    clusters = spherical_kmeans(vectors, 3)
    assert {tuple(truth[clusters.labels == c]) for c in range(3)} == {(g,) * 40 for g in range(3)}
    assert np.allclose(np.linalg.norm(clusters.centres, axis=1), 1)


@given(st.integers(1, 5), st.integers(0, 100))
@settings(deadline=None, max_examples=20)
def test_every_vector_is_with_the_centre_that_is_nearest(k, seed):
    vectors = np.random.default_rng(seed).normal(size=(30, 6))
    clusters = spherical_kmeans(vectors, k, seed)
    cosines = unit_rows(vectors) @ clusters.centres.T
    assert np.array_equal(clusters.labels, cosines.argmax(1))
    assert np.allclose(clusters.similarity, cosines.max(1))


def test_a_prototype_is_the_centre_or_the_mean_of_its_nearest():
    vectors, _ = three_groups(0.3)
    clusters = spherical_kmeans(vectors, 3)
    assert np.array_equal(prototypes_of(vectors, clusters, 0), clusters.centres)
    one = prototypes_of(vectors, clusters, 1)
    unit = unit_rows(vectors)
    assert all(np.allclose(row, unit[(unit @ c).argmax()]) for row, c in zip(one, clusters.centres, strict=True))
    many = prototypes_of(vectors, clusters, 1000)  # more than there are: a cluster's own, not its neighbours'
    assert np.allclose(many, clusters.centres, atol=1e-3)


def test_white_is_where_the_darkest_channel_is_bright():
    image = torch.full((3, 4, 4), 255, dtype=torch.uint8)
    assert is_mostly_white(image, 0.5)
    image[1, :2] = 100
    assert not is_mostly_white(image, 0.5)


@pytest.fixture
def tiles(tiny_slide, tiny_regions, classes, tiny_settings):
    return tiles_from_regions(tiny_slide, tiny_regions, classes, tiny_settings)


def test_the_bank_holds_each_classes_own_centres(tiles, tiny_settings):
    values = tiny_settings.model_dump() | PRESETS["pbip"]
    values["model"] = tiny_settings.model.model_dump() | {"bank": "clustered"}
    chosen = TrainSettings.build(values)
    encoder = build_region_encoder("tf_efficientnet_lite0", "embedded", chosen.model.prototype_dim)
    bank = run(clustered_bank(tiles, encoder, chosen, CPU))
    assert bank.shape == (4, 32)
    assert torch.allclose(bank.norm(dim=1), torch.ones(4), atol=1e-5)
    assert torch.equal(bank, run(clustered_bank(tiles, encoder, chosen, CPU)))
    within, across = bank[0] @ bank[1], bank[0] @ bank[2]
    assert within > across


def test_too_few_tiles_of_one_tissue_are_named(tiles, tiny_settings):
    model = tiny_settings.model.model_copy(update={"prototypes_per_class": 60})
    encoder = build_region_encoder("tf_efficientnet_lite0", "embedded", 32)
    with pytest.raises(DataError, match=r"tiles hold dark alone .* too few to cluster into 60"):
        run(clustered_bank(tiles, encoder, tiny_settings.model_copy(update={"model": model}), CPU))


@pytest.mark.parametrize("seed", range(6))
def test_the_best_of_ten_starts_is_kept(seed):
    """Nine places evenly round a circle fall best into three threes; a single start often ends in two and four."""
    angles = np.arange(9) * 2 * np.pi / 9
    clusters = spherical_kmeans(np.stack([np.cos(angles), np.sin(angles)], 1), 3, seed)
    assert np.bincount(clusters.labels).tolist() == [3, 3, 3]
    assert clusters.similarity.sum() == pytest.approx(3 + 6 * np.cos(2 * np.pi / 9))


def test_a_centre_without_members_stays_where_it_is():
    vectors = np.array([[1.0, 0.0], [0.6, 0.8]])
    clusters = refine_centres(vectors, np.array([[1.0, 0.0], [-1.0, 0.0]]))
    assert clusters.centres == pytest.approx(np.array([[2.0, 1.0] / np.sqrt(5), [-1.0, 0.0]]))
    assert clusters.labels.tolist() == [0, 0]
    assert clusters.similarity == pytest.approx(np.full(2, 2 / np.sqrt(5)))


@pytest.mark.parametrize(
    ("white", "limit", "expected"), [(2, 0.5, False), (3, 0.5, True), (2, 0.4, True), (0, 0.0, False)]
)
def test_white_is_a_share_of_pixels_above_220_in_every_channel(white, limit, expected):
    image = torch.full((3, 2, 2), 221, dtype=torch.uint8)
    image[1].view(-1)[white:] = 220
    assert is_mostly_white(image, limit) == expected


def test_a_prototype_of_some_members_is_that_of_the_nearest_of_its_own_cluster():
    vectors = np.array([[1.0, 0.0], [0.8, 0.6], [0.96, 0.28], [0.0, -2.0]])
    clusters = Clusters(np.array([[1.0, 0.0], [0.0, -1.0]]), np.array([0, 0, 0, 1]), np.array([1.0, 0.8, 0.96, 1.0]))
    middle = np.array([1.96, 0.28]) / np.hypot(1.96, 0.28)
    assert prototypes_of(vectors, clusters, 2) == pytest.approx(np.array([middle, [0.0, -1.0]]))
