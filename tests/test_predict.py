from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_lpd import samples
from napari_lpd.config import PredictSettings
from napari_lpd.errors import SettingsError, SlideError
from napari_lpd.jobs import run
from napari_lpd.model import load_model
from napari_lpd.predict import background, class_presence, fuse, normalise, predict_region, upsampled_labels
from napari_lpd.slide import Slide

BOX = (600.0, 700.0, 1000.0, 1150.0)


@pytest.fixture(scope="module")
def model():
    return load_model(samples.model_path())


def test_normalisation_has_one_constant_per_class():
    maps = torch.tensor([[[-1.0, 1.0, 2.0, 9.0]]])
    assert normalise(maps, [4.0]).tolist() == [[[0.0, 0.25, 0.5, 1.0]]]


def test_an_absent_class_can_never_win():
    present = torch.tensor([[[False]], [[True]]])
    fused = fuse([torch.tensor([[[1.0]], [[0.0]]])], [1.0], present)
    assert fused[0].item() == -torch.inf
    assert fused.argmax(0).item() == 1


def test_where_all_classes_are_absent_the_background_wins():
    fused = torch.full((2, 1, 1), -torch.inf)
    assert background(fused, 10).item() == 1


def test_the_background_follows_its_formula():
    assert background(torch.tensor([[[0.3]], [[0.1]]]), 10).item() == pytest.approx(0.7**10)


def test_presence_is_the_training_score_in_a_window():
    maps = torch.zeros(4, 9, 9)
    maps[:2, 4, 4] = 9.0
    presence = class_presence([maps, maps, maps], k=2, window=3)
    assert presence[0, 4, 4].item() == pytest.approx(torch.tensor(1.0).sigmoid().item())
    assert presence[1, 4, 4].item() == pytest.approx(0.5)
    assert presence[0, 0, 0].item() == pytest.approx(0.5)


def test_strips_do_not_show():
    scores = torch.rand(3, 150, 20)
    whole = torch.nn.functional.interpolate(scores[None], scale_factor=8, mode="bilinear")[0].argmax(0).numpy()
    assert np.array_equal(upsampled_labels(scores, 8, (0, 0), (1200, 160)), whole)
    assert np.array_equal(upsampled_labels(scores, 8, (16, 8), (1100, 100)), whole[16:1116, 8:108])


@pytest.mark.slow
def test_a_region_is_labelled_like_the_whole_slide(skin, model):
    settings = PredictSettings()
    part = run(predict_region(skin, model, settings, BOX))
    larger = run(predict_region(skin, model, settings, (200.0, 300.0, 1500.0, 1700.0)))
    top, left = (round((a - b) / part.mpp) for a, b in zip(part.origin_um, larger.origin_um, strict=True))
    h, w = part.labels.shape
    assert (larger.labels[top : top + h, left : left + w] == part.labels).mean() > 0.999


def test_a_prediction_knows_its_place_and_its_classes(skin, model):
    prediction = run(predict_region(skin, model, PredictSettings(), BOX))
    assert prediction.origin_um[0] <= BOX[0]
    assert prediction.origin_um[1] <= BOX[1]
    bottom = prediction.origin_um[0] + prediction.labels.shape[0] * prediction.mpp
    assert BOX[2] <= bottom < BOX[2] + 2 * prediction.mpp * prediction.stride
    assert [tissue.name for tissue in prediction.classes] == ["epidermis", "naevus nests", "collagen", "fat"]
    assert prediction.prototypes.shape[0] == 12
    assert prediction.presence.shape[0] == 4
    assert prediction.labels.max() <= 4
    assert prediction.prototype_maps(1).shape[0] == 3


def test_glass_stays_unlabelled(skin, model):
    prediction = run(predict_region(skin, model, PredictSettings(), (700.0, 2800.0, 1000.0, 3100.0)))
    assert not prediction.labels.any()


def test_epidermis_nests_and_collagen_are_told_apart(skin, model):
    places = {1: (262, 4135, 330, 4230), 2: (780, 160, 880, 340), 3: (1245, 4970, 1395, 5080)}
    for label, box in places.items():
        prediction = run(predict_region(skin, model, PredictSettings(), tuple(v * skin.mpp[0] for v in box)))
        assert (prediction.labels == label).mean() > 0.7, prediction.classes[label - 1].name


@pytest.mark.parametrize("box", [(20.0, 10.0, 10.0, 20.0), (99999.0, 0.0, 99999.9, 10.0)])
def test_an_empty_region_or_one_outside_is_refused(skin, model, box):
    with pytest.raises(SettingsError, match="empty region"):
        run(predict_region(skin, model, PredictSettings(), box))


def test_a_slide_without_resolution_is_refused(model):
    slide = Slide.from_levels([np.zeros((300, 300, 3), np.uint8)], None, "bare")
    with pytest.raises(SlideError, match=r"bare.*pass mpp"):
        run(predict_region(slide, model, PredictSettings()))


def test_a_slide_of_another_resolution_is_resampled(model):
    image = np.random.default_rng(0).integers(60, 200, (800, 700, 3), dtype=np.uint8)
    slide = Slide.from_levels([image], (0.25, 0.25), "fine")
    prediction = run(predict_region(slide, model, PredictSettings()))
    assert prediction.labels.shape == (round(800 * 0.25 / 0.998), round(700 * 0.25 / 0.998))
    assert prediction.mpp == 0.998
