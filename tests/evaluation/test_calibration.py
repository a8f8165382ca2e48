from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_lpd.core.errors import DataError
from napari_lpd.evaluation.calibration import (
    calibration,
    choose_thresholds,
    fit_label_temperature,
    fit_temperature,
    gate_rates,
)


def test_calibration_by_hand():
    presence = np.array([[0.05, 1.0], [0.05, 1.0], [0.95, 0.0], [0.75, 0.0]])
    present = np.array([[0, 1], [0, 1], [1, 0], [0, 1]], bool)
    found = calibration(presence, present, bins=10)
    assert found["class_ece"] == pytest.approx([(0.1 + 0.05 + 0.75) / 4, 1 / 4])
    assert found["class_brier"] == pytest.approx([(3 * 0.05**2 + 0.75**2) / 4, 1 / 4])
    assert found["brier"] == pytest.approx(np.mean(found["class_brier"]))
    assert found["ece"] == pytest.approx(np.mean(found["class_ece"]))
    assert (found["images"], found["bins"]) == (4, 10)


def test_presence_out_of_range_is_an_error():
    with pytest.raises(DataError, match=r"wanted 0\.\.1"):
        calibration(np.array([[1.5]]), np.array([[True]]))
    with pytest.raises(DataError, match="wanted two filled"):
        fit_temperature(np.zeros((0, 2)), np.zeros((0, 2), bool))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 2))
    present = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    distorted = 1 / (1 + np.exp(-logits * temperature))
    assert fit_temperature(distorted, present) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_the_temperature_of_labels_that_was_put_in_is_found(temperature):
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([1, 1, 1], 20_000).clip(0.05)
    shares /= shares.sum(1, keepdims=True)
    labels = (shares.cumsum(1) < rng.random((len(shares), 1))).sum(1).clip(max=2)
    scores = shares**temperature
    assert fit_label_temperature(scores / scores.max(), labels) == pytest.approx(temperature, rel=0.06)


def test_certain_and_right_probabilities_still_give_a_temperature():
    assert 0.05 <= fit_temperature(np.array([[0.0], [1.0]]), np.array([[False], [True]])) <= 20


def test_a_threshold_lies_in_the_middle_between_the_two_kinds():
    presence = np.array([[0.1], [0.3], [0.7], [0.9]])
    assert choose_thresholds(presence, presence > 0.5).tolist() == [0.5]
    assert choose_thresholds(presence, presence > 0.8).tolist() == pytest.approx([0.8])


def test_a_class_in_all_images_gets_a_half_and_is_named(caplog):
    presence = np.array([[0.1, 0.2], [0.6, 0.8]])
    present = np.array([[False, True], [True, True]])
    assert choose_thresholds(presence, present).tolist() == pytest.approx([0.35, 0.5])
    assert "class 1 is in 2 of 2 images" in caplog.text


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=12))
def test_no_other_threshold_is_better(drawn):
    presence, present = np.array([p for p, _ in drawn]), np.array([h for _, h in drawn])
    if present.all() or not present.any():
        return

    def balanced(threshold):
        return ((presence[present] >= threshold).mean() + (presence[~present] < threshold).mean()) / 2

    chosen = choose_thresholds(presence[:, None], present[:, None])[0]
    assert 0 <= chosen <= 1
    assert balanced(chosen) >= max(map(balanced, [0, *presence])) - 1e-9


def test_the_gate_is_measured_by_hand():
    presence = np.array([[0.9, 0.1], [0.6, 0.2], [0.4, 0.3], [0.2, 0.4]])
    present = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], bool)
    found = gate_rates(presence, present, (0.5, 0.5))
    assert found["class_f1"][0] == pytest.approx(2 * 1 / (2 + 2))  # said of two images, right about one of two
    assert found["class_auc"][0] == pytest.approx(3 / 4)  # of four pairs three are in order
    assert np.isnan(found["class_f1"][1]) and np.isnan(found["class_auc"][1])  # in no image and said of none
    assert (found["f1"], found["auc"]) == (found["class_f1"][0], found["class_auc"][0])


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=30))
def test_the_auc_is_the_share_of_pairs_in_order(rows):
    scores, held = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    found = gate_rates(scores[:, None], held[:, None], (0.5,))["auc"]
    ordered = [(a > b) + (a == b) / 2 for a in scores[held] for b in scores[~held]]
    assert found == pytest.approx(np.mean(ordered)) if ordered else np.isnan(found)


def test_the_rate_of_the_gate_follows_its_thresholds():
    presence, present = np.array([[0.4], [0.1]]), np.array([[True], [False]])
    assert gate_rates(presence, present, (0.5,))["f1"] == 0
    assert gate_rates(presence, present, (0.3,))["f1"] == 1
