from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from napari_lpd.core.errors import DataError, SettingsError
from napari_lpd.core.numeric.compiled import compiled
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.core.settings.prediction import CrfSettings
from napari_lpd.evaluation.masks import predicted_labels
from napari_lpd.models.crf import lattice, lattice_torch
from napari_lpd.models.crf.dense_crf import dense_crf
from napari_lpd.models.crf.lattice import Filter, build_lattice
from napari_lpd.models.crf.threads import SlicePool


def soft_classes(shape: tuple[int, int], count: int = 5, seed: int = 0, width: float = 8) -> np.ndarray:
    """Smooth random class probabilities (count, H, W)."""
    rng = np.random.default_rng(seed)
    scores = np.exp(20 * np.stack([gaussian_filter(rng.normal(size=shape), width) for _ in range(count)]))
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


def lattice_of(points: np.ndarray, cuts: list[int]) -> lattice.Lattice:
    """The lattice of points (n, d) that are cut into pieces."""
    return build_lattice([np.ascontiguousarray(piece.T) for piece in np.split(points, cuts)], SlicePool())


def gaussian_of_lattice(points: np.ndarray, values: np.ndarray, cuts: list[int]) -> np.ndarray:
    """Filter values (n, L) over points (n, d) that are cut into pieces."""
    found = Filter.over(lattice_of(points, cuts), values.shape[1])
    results = [np.zeros_like(part) for part in np.split(values, cuts)]
    for piece, part in enumerate(np.split(values, cuts)):
        lattice.splat(found, piece, part)
    found.blur(SlicePool())
    for piece, result in enumerate(results):
        lattice.read_back(found, piece, result)
    return np.concatenate(results)


@pytest.mark.parametrize("cuts", [[], [70, 300]])
def test_the_filter_is_a_gaussian_up_to_a_constant(cuts):
    points = np.random.default_rng(0).uniform(0, 3, (400, 2)).astype(np.float32)
    values = np.random.default_rng(1).random((400, 2)).astype(np.float32)
    gram = np.exp(-0.5 * ((points[:, None] - points[None]) ** 2).sum(-1))
    smooth, mass = (gaussian_of_lattice(points, given, cuts) for given in (values, np.ones_like(values)))
    assert np.allclose(smooth / mass, gram @ values / gram.sum(1, keepdims=True), atol=0.03)


def test_the_weights_of_a_points_corners_sum_to_one():
    points = np.random.default_rng(0).uniform(-50, 50, (5, 1000)).astype(np.float32)
    weights = lattice_of(points.T, []).weights
    assert np.allclose(weights.sum(1), 1, atol=1e-4)
    assert weights.min() > -1e-5


@pytest.mark.parametrize("half_size", [False, True])
def test_two_threads_give_the_bits_of_one(skin, half_size):
    image, settings = skin.read((1000, 1000), (301, 280), 1.0), CrfSettings(half_size=half_size)
    one, two, five = (dense_crf(image, soft_classes((301, 280)), settings, threads=n) for n in (1, 2, 5))
    assert np.array_equal(one, two)
    assert np.array_equal(one, five)


def test_several_calls_at_once_do_not_disturb_each_other(two_colours):
    given = [soft_classes((24, 28), 3, seed) for seed in range(8)]
    alone = [dense_crf(two_colours, probability, CrfSettings()) for probability in given]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda probability: dense_crf(two_colours, probability, CrfSettings(), threads=2), given)
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_gets_the_same_bits(two_colours):
    probability = soft_classes((24, 28), 3)
    ours = dense_crf(two_colours, probability, CrfSettings(), threads=2)

    def compare() -> None:
        sys.exit(not np.array_equal(dense_crf(two_colours, probability, CrfSettings(), threads=2), ours))

    child = multiprocessing.get_context("fork").Process(target=compare, daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_at_half_the_size_nearly_all_labels_are_the_same(skin):
    image, probability = skin.read((1000, 1000), (225, 224), 1.0), soft_classes((225, 224), width=16)
    full, half = (dense_crf(image, probability, CrfSettings(half_size=on)) for on in (False, True))
    assert 0.97 <= (full.argmax(0) == half.argmax(0)).mean() < 1
    assert (full.argmax(0) == half.argmax(0)).mean() > (full.argmax(0) == probability.argmax(0)).mean() + 0.01
    assert np.allclose(half.sum(0), 1, atol=1e-5)


def test_evaluating_honours_half_size(two_colours):
    probability = soft_classes((24, 28), 3)
    settings = EvaluateSettings(background="predict", crf=CrfSettings(half_size=True))
    labels = predicted_labels(two_colours, torch.from_numpy(probability), "lattice", settings)
    assert np.array_equal(labels, dense_crf(two_colours, probability, settings.crf).argmax(0))


def test_torchs_lattice_gives_the_labels_of_ours(skin):
    image, probability = skin.read((1000, 1000), (200, 180), 1.0), soft_classes((200, 180))
    ours = dense_crf(image, probability, CrfSettings())
    torchs = lattice_torch.mean_field(image, -np.log(np.clip(probability, 1e-5, 1)), CrfSettings(), "cpu")
    assert (ours.argmax(0) == torchs.argmax(0)).mean() >= 0.999
    assert np.allclose(ours, torchs, atol=0.01)


def test_on_a_cuda_device_torchs_lattice_is_used(two_colours, monkeypatch):
    seen = []
    solve = lattice_torch.mean_field
    monkeypatch.setattr(lattice_torch, "mean_field", lambda *given: seen.append(given[-1]) or solve(*given[:-1], "cpu"))
    probability = soft_classes((24, 28), 3)
    q = dense_crf(two_colours, probability, CrfSettings(), device="cuda:1")
    assert seen == ["cuda:1"]
    assert np.allclose(q, dense_crf(two_colours, probability, CrfSettings()), atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_gives_the_labels_of_the_cpu(skin):
    image, probability = skin.read((1000, 1000), (200, 180), 1.0), soft_classes((200, 180))
    cpu, cuda, again = (dense_crf(image, probability, CrfSettings(), device=d) for d in ("cpu", "cuda", "cuda"))
    assert (cpu.argmax(0) == cuda.argmax(0)).mean() >= 0.999
    assert np.array_equal(cuda, again)


def test_compiled_code_is_kept_on_disk_where_there_is_a_place(two_colours, monkeypatch, caplog):
    dense_crf(two_colours, soft_classes((24, 28), 3), CrfSettings())
    assert list(Path(lattice._embed.stats.cache_path).glob("lattice._embed*.nbi"))

    def double(x):
        return 2 * x

    monkeypatch.setattr("numba.core.caching.CompileResultCacheImpl._locator_classes", [])
    with caplog.at_level(logging.WARNING):
        assert compiled(double)(21) == 42
    assert "double: compiled anew at every start" in caplog.text


def test_bad_input_and_a_missing_package_are_named(two_colours, monkeypatch):
    with pytest.raises(DataError, match=r"wanted \(H, W, 3\) uint8"):
        dense_crf(two_colours, soft_classes((24, 24)), CrfSettings())
    with pytest.raises(DataError, match="all 0"):
        dense_crf(two_colours, np.zeros((2, 24, 28), np.float32), CrfSettings())
    with pytest.raises(DataError, match="NaN or infinite"):
        dense_crf(two_colours, np.full((2, 24, 28), np.nan, np.float32), CrfSettings())
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.raises(SettingsError, match=r"pip install 'napari-lpd\[crf\]'"):
        dense_crf(two_colours, soft_classes((24, 28)), CrfSettings(), "pydensecrf")
