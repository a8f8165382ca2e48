"""The rule from what a model says of map pixels to labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import zoom

from napari_lpd.core.errors import SettingsError
from napari_lpd.core.labelling.rule import ABSENT, UNSURE, Evidence, Rule, presence_bytes, unit
from napari_lpd.core.settings.prediction import LabelSettings


def places(scores, presence=None) -> Evidence:
    """A row of map pixels: scores (C, n) and presence (C, n) in 0..1."""
    scores = np.array(scores, float)
    there = np.ones_like(scores) if presence is None else np.array(presence, float)
    return Evidence(
        np.rint(1 + 254 * scores[:, None]).astype(np.uint8), np.rint(1 + 254 * there[:, None]).astype(np.uint8)
    )


def rule(sure=0.0, favour=(1.0, 1.0), power=2.0, temperature=1.0) -> Rule:
    return Rule(sure, favour, power, temperature)


def middles(our: Rule, found: Evidence) -> list[int]:
    """Labels of the places, each by itself."""
    alone = [Evidence(*(values[..., [x]] for values in found)) for x in range(found.scores.shape[2])]
    return [int(our.labels(each, 8)[4, 4]) for each in alone]


def test_a_place_has_its_most_likely_class_or_is_unsure():
    found = places([[0.5, 0.5, 0.1, 0.0], [0.1, 0.4, 0.2, 0.0]])  # none: 0.25, 0.25, 0.64, 1
    assert (
        pytest.approx(np.array([[0.5, 0.1], [0.5, 0.4], [0.1, 0.2], [0, 0]]) / [[0.85], [1.15], [0.94], [1]], abs=0.005)
        == rule().shares(found)[:, 0].T
    )
    assert middles(rule(0.0), found) == [1, 1, 2, 1]  # everything has a label
    assert middles(rule(0.4), found) == [1, 1, UNSURE, UNSURE]
    assert middles(rule(0.5), found) == [1, UNSURE, UNSURE, UNSURE]
    assert middles(rule(1.0), found) == [UNSURE] * 4


def test_an_absent_class_is_no_label_but_makes_unsure():
    found = places([[0.5], [0.9]], [[0.9], [0.4]])
    assert middles(rule(0.0, power=9), found) == [1]
    assert middles(rule(0.35, power=9), found) == [1]  # 0.5 of 1.4
    assert middles(rule(0.37, power=9), found) == [UNSURE]


def test_where_no_class_is_there_the_place_is_unsure_unless_everything_is_labelled():
    found = places([[0.5], [0.9]], [[0.2], [0.4]])
    assert middles(rule(0.0), found) == [2]
    assert middles(rule(0.01), found) == [UNSURE]
    assert not rule().shares(found).any()


def test_a_class_that_is_favoured_wins_more_and_is_let_in_by_the_gate():
    found = places([[0.5, 0.5, 0.5], [0.3, 0.1, 0.4]], [[1, 1, 1], [1, 1, 0.3]])
    assert middles(rule(), found) == [1, 1, 1]
    assert middles(rule(favour=(1.0, 2.0)), found) == [2, 1, 1]
    assert middles(rule(favour=(1.0, 6.0)), found) == [2, 2, 2]
    assert middles(rule(favour=(0.1, 1.0)), found) == [2, 2, 1]
    shares = rule(favour=(1.0, 2.0)).shares(found)[:, 0, 0]
    assert shares == pytest.approx(np.array([0.5, 0.6]) / (0.5 + 0.6 + 0.25), abs=0.005)


def test_favour_is_of_odds_after_calibration():
    found = places([[0.5], [0.3]])
    sharp = rule(temperature=0.5)  # squares
    assert sharp.shares(found)[:, 0, 0] == pytest.approx(np.array([0.25, 0.09]) / (0.25 + 0.09 + 0.0625), abs=0.005)
    assert middles(sharp._replace(favour=(1.0, 2.7)), found) == [1]  # 0.09 · 2.7 < 0.25
    assert middles(sharp._replace(favour=(1.0, 2.9)), found) == [2]


@pytest.mark.parametrize("shape", [(5, 40, 30), (2, 1, 6), (3, 1, 1)])
@pytest.mark.parametrize("sure", [0.0, 0.45])
def test_labels_are_those_of_interpolated_scores(shape, sure):
    random = np.random.default_rng(0)
    found = Evidence(*random.integers(1, 256, (2, *shape)).astype(np.uint8))
    our = rule(sure, (1.0,) * shape[0])
    padded = [np.pad(values, ((0, 0), (1, 1), (1, 1)), mode="edge") for values in found]
    scores, there = unit(padded[0]), padded[1] >= 128

    def upsampled(values):
        """Bilinear, by SciPy: values lie in the middle of 8 pixels."""
        return zoom(values.astype(float), 8, order=1, grid_mode=True, mode="nearest")[8:-8, 8:-8]

    gated = np.where(there | ~there.any(0), scores, ABSENT)
    none = (1 - scores.max(0)) ** 2
    share = np.take_along_axis(scores, gated.argmax(0)[None], 0)[0] / (scores.sum(0) + none) * there.any(0)
    fine = np.stack([upsampled(plane) for plane in gated])
    wanted = np.where(upsampled(share) >= sure, fine.argmax(0) + 1, UNSURE)
    best = np.sort(fine, 0)
    clear = ((abs(upsampled(share) - sure) > 1e-4) | (sure == 0)) & (
        best[-1] - best[-2] > 1e-3 * np.maximum(1, abs(best[-1]))
    )
    labels = our.labels(found, 8)
    assert clear.mean() > 0.8
    assert np.array_equal(labels[clear], wanted[clear])


def test_a_pixel_depends_on_the_four_places_around_it_alone():
    random = np.random.default_rng(1)
    found = Evidence(*random.integers(1, 256, (2, 4, 12, 14)).astype(np.uint8))
    our = rule(0.3, (1.0, 2.0, 1.0, 0.5))
    whole = our.labels(found, 8)
    part = our.labels(Evidence(*(values[:, 3:9, 2:11] for values in found)), 8)
    assert np.array_equal(part[8:-8, 8:-8], whole[32:64, 24:80])


def test_presence_is_stored_against_the_threshold():
    thresholds = np.array([0.02, 0.5, 0.9], np.float32)[:, None, None]
    below, above = np.nextafter(thresholds, 0), thresholds
    assert (presence_bytes(above, thresholds) == 128).all()
    assert (presence_bytes(below, thresholds) == 127).all()
    assert presence_bytes(np.zeros((3, 1, 1), np.float32), thresholds).ravel().tolist() == [1, 1, 1]
    assert presence_bytes(np.ones((3, 1, 1), np.float32), thresholds).ravel().tolist() == [255, 255, 255]


def test_a_class_that_is_favoured_is_one_of_the_classes():
    settings = LabelSettings(sure=0.25, favour=(("fat", 4.0),))
    assert settings.factors(["skin", "fat"]) == (1.0, 4.0)
    with pytest.raises(SettingsError, match="favour names 'fat'; the classes are skin, bone"):
        settings.factors(["skin", "bone"])
