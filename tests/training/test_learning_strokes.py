"""Learning from painted pixels: fast, live and full."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_lpd.core.jobs import run
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.region_tiles import cut_tiles
from napari_lpd.data.regions import Region
from napari_lpd.models.joint.store import FeatureStore
from napari_lpd.models.joint.tiles import FeatureTiles, FrozenEncoder
from napari_lpd.models.network import LPD, encoder_of
from napari_lpd.training.fit import fit
from napari_lpd.training.live import LiveModel, LiveSlide
from napari_lpd.training.losses.joint import NOTHING, JointObjective
from napari_lpd.training.losses.pixels import known_weight, painted_entropy, pixel_entropy
from napari_lpd.training.losses.terms import classification_loss

SMALL = ["tile=64", "tile_step=48", "mpp=1.0", "epochs=2", "batch=8", "threads=1", "model.prototypes_per_class=2",
         "model.prototype_dim=32", "model.neck_width=32", "model.necks=2", "places=9", "lr=0.01"]  # fmt: skip
FAST = read_settings(TrainSettings, None, SMALL, "fast")


def stroke(y0, x0, y1, x1, *tissues):
    return Region(np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], float), tissues, pixels=True)


def entropy(logits, label):
    """Of one place, by hand; label 0 is none of the classes, whose logit is 0."""
    scores = np.exp([0.0, *logits])
    return -np.log(scores[label] / scores.sum())


def test_the_entropy_of_a_place_is_that_of_its_labels_as_far_as_it_is_painted():
    maps, wanted = [[2.0, -1.0], [0.5, 0.0]], [[0.0, 0.25, 0.5], [1.0, 0.0, 0.0]]
    found = pixel_entropy(torch.tensor(maps), torch.tensor(wanted))
    by_hand = [0.25 * entropy(maps[0], 1) + 0.5 * entropy(maps[0], 2), entropy(maps[1], 0)]
    assert found.tolist() == pytest.approx(by_hand, rel=1e-5)


def test_presence_that_is_not_known_counts_for_nothing():
    scores, labels = torch.tensor([[1.5, -3.0], [0.2, 7.0]]), torch.tensor([[1.0, 0], [0, 0]])
    known = torch.tensor([[True, True], [True, False]])
    found = classification_loss([scores], labels, [2.0], known_weight(known))
    by_hand = [np.log1p(np.exp(-1.5)), np.log1p(np.exp(-3.0)), np.log1p(np.exp(0.2))]
    assert found.item() == pytest.approx(2 * np.mean(by_hand), rel=1e-5)


def test_of_a_full_model_the_fused_maps_are_measured_at_painted_pixels(tiny_settings):
    network = LPD(tiny_settings.model, 2, encoder_of(tiny_settings.model, "random"))
    logits = torch.randn(2, 4, 2, 2)  # two prototypes of each of two classes
    painted = torch.full((2, 64, 64), -1)
    painted[0, 5, 5], painted[0, 60, 60] = 2, 0  # nearer to the corner than the corner's place
    sums, counts = painted_entropy(network, {3: logits}, painted)
    merged = logits.unflatten(1, (2, 2)).mean(2)[0].numpy()
    assert sums.tolist() == pytest.approx([entropy(merged[:, 0, 0], 2) + entropy(merged[:, 1, 1], 0), 0], rel=1e-5)
    assert counts.tolist() == [2, 0]


@pytest.fixture
def painted(tiny_slide, tiny_regions, classes):
    strokes = [stroke(101, 40, 113, 150, "pink"), stroke(30, 301, 37, 350)]
    tiles = cut_tiles(tiny_slide, [*tiny_regions, *strokes], classes, FAST, "made")
    network = LPD(FAST.model, 2, encoder_of(FAST.model, "embedded")).eval()
    return network, FeatureTiles(tiles, FrozenEncoder(network, torch.device("cpu"), None), FeatureStore("", 2**30))


def test_places_know_how_much_of_them_is_painted(painted):
    _, seen = painted
    slide = np.full((256, 384), -1)
    slide[101:113, 40:150], slide[30:37, 301:350] = 2, 0
    full = 0
    for index in seen.tiles.painted:
        _, y, x, _ = seen.tiles.origins[index]
        hidden = np.full(slide.shape, -1)  # what is outside the tile is not known to it
        hidden[y : y + 64, x : x + 64] = slide[y : y + 64, x : x + 64]
        top, left = round(y / 16), round(x / 16)  # of the places whose features the tile has
        found = seen.painted_in(index)
        for row, column in np.ndindex(found.shape[:2]):
            at = hidden[(top + row) * 16 : (top + row + 1) * 16, (left + column) * 16 : (left + column + 1) * 16]
            wanted = [float((at == label).sum()) / 256 for label in range(3)]
            assert found[row, column].tolist() == pytest.approx(wanted)
            full = max(full, *wanted)
    assert full > 0.6


def test_own_maps_overrule_nothing_that_is_painted(painted):
    network, seen = painted
    objective = JointObjective(FAST.model_copy(update={"self_training_confidence": 0.0}), torch.Generator(), len(seen),
                               seen.of(0).shape[:2])  # fmt: skip
    seen.tiles.known[0] = False
    objective.follow(seen)
    objective.label_tiles(network, seen)
    assert (objective.own[0] == NOTHING).all()
    for index in range(1, len(seen)):
        shares = seen.painted_in(index)
        untouched = np.ones((4, 4), bool) if shares is None else shares.sum(2) == 0
        assert np.array_equal(objective.own[index].numpy() != NOTHING, untouched)


def test_a_live_mask_begins_with_strokes_alone(tiny_slide, classes):
    slide, live = LiveSlide(tiny_slide), LiveModel(FAST)
    strokes = [stroke(y, 20, y + 8, 160, "dark") for y in (60, 180)]
    strokes += [stroke(y, 220, y + 8, 360, "pink") for y in (60, 180)]
    run(live.learn(slide, strokes, classes, steps=60))
    labels = live.label(slide, (0, 0)).labels[:256, :384]
    assert (labels[:, :150] == 1).mean() > 0.6 and (labels[:, 234:] == 2).mean() > 0.6
    assert (labels[:, :150] == 2).mean() < 0.1 and (labels[:, 234:] == 1).mean() < 0.1


@pytest.mark.parametrize("preset", ["fast", "default"])
def test_every_training_learns_from_strokes(tiny_slide, tiny_regions, classes, tmp_path, preset):
    more = ["contrast_weight=0"] if preset == "default" else []
    settings = read_settings(TrainSettings, None, [*SMALL, "max_steps=6", *more], preset)
    strokes = [stroke(100, 40, 110, 150, "dark"), stroke(30, 300, 40, 350, "pink"), stroke(200, 300, 210, 350)]
    tiles = cut_tiles(tiny_slide, [*tiny_regions, *strokes], classes, settings, "made")
    said = []
    run(fit(tiles, settings, tmp_path / "run"), said.append)
    steps = [progress.metrics["pixels"] for progress in said if progress.metrics and "pixels" in progress.metrics]
    assert len(steps) >= 5
    assert steps[-1] < steps[0]
