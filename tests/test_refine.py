from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_lpd.config import CrfSettings
from napari_lpd.errors import DataError, SettingsError
from napari_lpd.lattice import build_lattice, filtered
from napari_lpd.refine import dense_crf


def soft_classes(shape: tuple[int, int], count: int = 5, seed: int = 0) -> np.ndarray:
    """Smooth random class probabilities (count, H, W)."""
    rng = np.random.default_rng(seed)
    scores = np.exp(20 * np.stack([gaussian_filter(rng.normal(size=shape), 8) for _ in range(count)]))
    return (scores / scores.sum(0)).astype(np.float32)


def exact_mean_field(image: np.ndarray, probability: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """The formula itself, over all pairs of pixels, in float64."""
    height, width = image.shape[:2]
    places = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(float)
    colours = image.reshape(-1, 3) / settings.colour_sigma

    def kernel(features):
        gram = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))
        norm = 1 / np.sqrt(gram.sum(1))
        return norm[:, None] * gram * norm[None]

    pairwise = settings.gaussian_weight * kernel(places / settings.gaussian_sigma)
    pairwise += settings.bilateral_weight * kernel(np.hstack([places / settings.bilateral_sigma, colours]))
    unary = -np.log(np.clip(probability, 1e-5, 1)).reshape(len(probability), -1)
    scores = -unary
    for iteration in range(settings.iterations + 1):
        q = np.exp(scores - scores.max(0))
        q /= q.sum(0)
        if iteration < settings.iterations:
            scores = -unary + q @ pairwise
    return q.reshape(probability.shape)


@pytest.fixture
def two_colours() -> np.ndarray:
    rng = np.random.default_rng(1)
    image = np.full((24, 28, 3), 200.0)
    image[:, 14:] = (90, 60, 140)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def test_the_lattice_gives_the_labels_of_the_exact_formula(two_colours):
    probability = soft_classes((24, 28), 3)
    exact = exact_mean_field(two_colours, probability, CrfSettings())
    ours = dense_crf(two_colours, probability, CrfSettings())
    assert (ours.argmax(0) == exact.argmax(0)).mean() >= 0.98


def test_a_noisy_mask_is_cleaned_along_the_images_edge(two_colours):
    truth = np.zeros((24, 28), int)
    truth[:, 14:] = 1
    noise = np.random.default_rng(2).random(truth.shape) < 0.25
    seen = np.where(noise, 1 - truth, truth)
    probability = np.where(seen[None] == np.arange(2)[:, None, None], 0.6, 0.4).astype(np.float32)
    assert (dense_crf(two_colours, probability, CrfSettings()).argmax(0) == truth).mean() > 0.99


def test_it_agrees_with_pydensecrf_on_real_tissue(skin):
    pytest.importorskip("pydensecrf", reason="the extra crf is not installed")
    image = skin.read((1000, 1000), (224, 224), 1.0)
    ours, theirs = (dense_crf(image, soft_classes((224, 224)), CrfSettings(), b) for b in ("lattice", "pydensecrf"))
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.999
    assert np.allclose(ours.sum(0), 1, atol=1e-5)


def test_a_label_without_probability_stays_without(two_colours):
    probability = soft_classes((24, 28), 3)
    probability[1] = 0
    q = dense_crf(two_colours, probability / probability.sum(0), CrfSettings())
    assert not q[1].any()
    assert np.allclose(q.sum(0), 1, atol=1e-5)


def test_the_filter_is_a_gaussian_up_to_a_constant():
    points = np.random.default_rng(0).uniform(0, 3, (400, 2)).astype(np.float32)
    values = np.random.default_rng(1).random((400, 2)).astype(np.float32)
    lattice = build_lattice(points)
    gram = np.exp(-0.5 * ((points[:, None] - points[None]) ** 2).sum(-1))
    smooth, mass = filtered(lattice, values), filtered(lattice, np.ones((400, 1), np.float32))
    assert np.allclose(smooth / mass, gram @ values / gram.sum(1, keepdims=True), atol=0.03)
    assert np.allclose(lattice.weights.sum(1), 1, atol=1e-4)


def test_other_threads_run_while_it_works(two_colours):
    image, probability = np.tile(two_colours, (12, 12, 1)), soft_classes((288, 336))
    dense_crf(two_colours, soft_classes((24, 28)), CrfSettings())  # compiled
    worker = threading.Thread(target=dense_crf, args=(image, probability, CrfSettings()))
    turns = 0
    worker.start()
    while worker.is_alive():
        worker.join(0.001)
        turns += 1
    assert turns > 20


def test_bad_input_and_a_missing_package_are_named(two_colours, monkeypatch):
    with pytest.raises(DataError, match=r"wanted \(H, W, 3\) uint8"):
        dense_crf(two_colours, soft_classes((24, 24)), CrfSettings())
    with pytest.raises(DataError, match="all 0"):
        dense_crf(two_colours, np.zeros((2, 24, 28), np.float32), CrfSettings())
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.raises(SettingsError, match=r"pip install 'napari-lpd\[crf\]'"):
        dense_crf(two_colours, soft_classes((24, 28)), CrfSettings(), "pydensecrf")
