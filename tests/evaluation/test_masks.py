"""From fused maps to class probabilities, with numbers that can be checked by hand; which classes the gates let in."""

from __future__ import annotations

import math

import pytest
import torch

from napari_lpd.core.jobs import run
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.data.images import masked_images
from napari_lpd.evaluation.evaluate import measure_images
from napari_lpd.evaluation.masks import class_probability


def softmax(*scores: float) -> list[float]:
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def probabilities(fused, present, **settings) -> list[float]:
    """Of one place."""
    maps = torch.tensor(fused).view(-1, 1, 1)
    return class_probability(maps, torch.tensor(present), EvaluateSettings(**settings)).flatten().tolist()


POWERS = pytest.mark.parametrize(("power", "background"), [(1.0, 0.8), (2.0, 0.64), (10.0, 0.8**10)])


@POWERS
def test_a_predicted_background_has_the_power_that_is_given(power, background):
    found = probabilities([0.2, 0.1], [True, True], background="predict", background_power=power)
    assert found == pytest.approx([score / (0.3 + background) for score in (0.2, 0.1, background)])


@POWERS
def test_the_published_background_has_the_power_that_is_given(power, background):
    found = probabilities([0.2, 0.1], [True, True], background="predict", normalise="image", background_power=power)
    assert found == pytest.approx(softmax(0.2, 0.1, background))


def test_an_absent_class_takes_nothing_from_the_background():
    found = probabilities([0.9, 0.1], [False, True], background="predict", background_power=2)
    assert found == pytest.approx([0.0, 0.1 / 0.91, 0.81 / 0.91])


def test_the_predicted_gate_lets_in_the_classes_that_reach_their_threshold_on_the_card(tiny_model, tile_folder):
    model = tiny_model._replace(card=tiny_model.card.model_copy(update={"presence": (1.0, 0.0)}))
    settings = EvaluateSettings(gates=("predicted", "none"), refiners=("none",), threads=1)
    cells = run(measure_images(model, masked_images(tile_folder / "valid"), settings))
    painted = {gate: sum(result.confusion for result in results).sum(0) > 0 for (gate, _), results in cells.items()}
    assert painted["predicted"].tolist() == [False, True, False]
    assert painted["none"].tolist() == [True, True, False]
