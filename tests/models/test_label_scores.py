"""The whole rule from class maps and presence scores to labels, with numbers that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.labelling.rule import Rule
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.training import ModelSettings, TrainSettings
from napari_lpd.models.cam import evidence, label_scores
from napari_lpd.models.card import Card
from napari_lpd.models.network import LoadedModel, new_network

ABSENT = -torch.inf
LEVELS = [[1.0, 1.0, 1.0], [4.0, 2.0, 1.0], [2.0, 4.0, 8.0]]


def a_model(presence=(0.5, 0.5, 0.5), **head) -> LoadedModel:
    """Three classes with one prototype each, unless said otherwise."""
    settings = TrainSettings(model=ModelSettings(**{"prototypes_per_class": 1, "prototype_dim": 8} | head))
    classes = tuple(TissueClass(name=name, color="#3b4cff") for name in ("a", "b", "c"))
    card = Card(classes=classes, settings=settings, tiles_per_class={}, tiles=0, steps=0, map_scale=LEVELS,
                presence=presence)  # fmt: skip
    return LoadedModel(new_network(settings.model, 3), card, "m", "0", torch.device("cpu"))


def close(values):
    """Equal but for what a byte rounds."""
    return pytest.approx(values, abs=0.004)


def scored(model: LoadedModel, stages, there, **settings) -> list[float]:
    """Scores of one place: background, then the classes."""
    maps = {i: torch.tensor(values).view(-1, 1, 1) for i, values in stages.items()}
    there = torch.tensor(there).view(-1, 1, 1)
    chosen = PredictSettings(**settings)
    found = evidence(maps, there, LEVELS, model, chosen)
    return label_scores(found, Rule(0.0, (1.0, 1.0, 1.0), chosen.background_power)).flatten().tolist()


def test_every_class_is_gated_by_the_models_threshold_of_its_own():
    model = a_model(presence=(0.3, 0.8, 0.6))
    found = scored(model, {2: [1.0, 1.0, 4.0]}, [0.4, 0.7, 0.6])  # at its threshold a class is there
    assert found[1:] == close([0.5, ABSENT, 0.5])


def test_a_threshold_that_is_given_counts_for_every_class_instead_of_the_models_own():
    model = a_model(presence=(0.3, 0.8, 0.6))
    found = scored(model, {2: [1.0, 1.0, 4.0]}, [0.4, 0.7, 0.6], presence=0.65)
    assert found[1:] == close([ABSENT, 0.25, ABSENT])


def test_the_benchmark_has_no_gate_even_where_a_threshold_is_given():
    found = scored(a_model(), {2: [1.0, 1.0, 4.0]}, [0.0, 0.0, 0.0], presence=0.65, normalise="benchmark")
    assert found[1:] == close([0.5, 0.25, 0.5])


@pytest.mark.parametrize(("power", "expected"), [(1.0, 0.75), (2.0, 0.5625), (10.0, 0.75**10)])
def test_the_background_has_the_power_that_is_given(power, expected):
    found = scored(a_model(), {2: [0.2, 1.0, 0.8]}, [1.0, 1.0, 1.0], background_power=power)
    assert found == close([expected, 0.1, 0.25, 0.1])


def test_a_class_that_is_gated_out_leaves_its_place_to_the_background():
    found = scored(a_model(), {2: [2.0, 0.0, 0.0]}, [0.4, 0.9, 0.9], background_power=2)
    assert found == close([1.0, ABSENT, 0.0, 0.0])


def test_stages_are_scaled_by_their_own_levels_and_weighted():
    model = a_model(stage_fusion=(0.0, 0.25, 0.75))
    found = scored(model, {1: [1.0, 1.0, 1.0], 2: [1.0, 1.0, 1.0]}, [1.0, 1.0, 1.0], background_power=1)
    expected = [0.25 / 4 + 0.75 / 2, 0.25 / 2 + 0.75 / 4, 0.25 / 1 + 0.75 / 8]
    assert found == close([1 - max(expected), *expected])


@pytest.mark.parametrize(("how", "first"), [("mean", 0.75), ("soft", 0.5 * (1 + 2 * 2.718281828) / (1 + 2.718281828))])
def test_prototypes_are_merged_as_the_model_says(how, first):
    model = a_model(prototypes_per_class=2, merge_predict=how)
    found = scored(model, {2: [1.0, 2.0, 0.0, 0.0, 8.0, 8.0]}, [1.0, 1.0, 1.0])
    assert found[1:] == close([first, 0.0, 1.0])
