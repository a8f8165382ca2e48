"""What the model does not see at all is not painted."""

from __future__ import annotations

import numpy as np
import pytest

from napari_lpd.core.jobs import run
from napari_lpd.core.labelling.rule import UNSURE
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.prediction.predict import predict_slide

SMALL = PredictSettings(tile=128, overlap=32, block=64, tissue_only=False, threads=1)


@pytest.mark.parametrize(("presence", "classes_there"), [(0.01, True), (1.0, False)])
def test_a_slide_is_painted_with_the_classes_that_reach_the_threshold(
    tiny_slide, tiny_model, tmp_path, presence, classes_there
):
    settings = SMALL.model_copy(update={"presence": presence})
    prediction = run(predict_slide(tiny_slide, tiny_model, settings, tmp_path / "a.zarr"))
    labels = np.asarray(prediction.labels.levels[0])
    assert np.isin(labels, [1, 2]).any() == classes_there
    assert ((labels == UNSURE).all()) == (not classes_there)


def test_a_slide_is_gated_by_the_threshold_of_each_class_on_the_models_card(tiny_slide, tiny_model, tmp_path):
    model = tiny_model._replace(card=tiny_model.card.model_copy(update={"presence": (1.0, 0.01)}))
    labels = np.asarray(run(predict_slide(tiny_slide, model, SMALL, tmp_path / "a.zarr")).labels.levels[0])
    assert not (labels == 1).any()
    assert (labels == 2).any()
