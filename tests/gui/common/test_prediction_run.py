"""The garbage collector is as it was after a model was loaded and after a prediction that fails."""

from __future__ import annotations

import gc

import pytest

from napari_lpd import samples
from napari_lpd.core.errors import ModelError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.gui.common.prediction_run import PredictionRun, _no_garbage_collection, loaded_model
from napari_lpd.gui.predict.live_prediction import LivePrediction


@pytest.fixture(autouse=True)
def _collecting():
    gc.enable()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.enable()


@pytest.fixture
def broken(tmp_path):
    """A model file that is none."""
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"no model")
    return path


def test_no_garbage_is_collected_while_a_model_is_loaded_and_it_is_afterwards(monkeypatch):
    from napari_lpd.models import checkpoint

    seen, load = [], checkpoint.load_model

    def loading(*given):
        seen.append(gc.isenabled())
        return load(*given)

    monkeypatch.setattr(checkpoint, "load_model", loading)
    checkpoint._load_cached.cache_clear()
    model = loaded_model(samples.model_path(), "cpu")
    assert seen == [False]
    assert gc.isenabled()
    assert loaded_model(samples.model_path(), "cpu") is model
    assert seen == [False]


def test_garbage_is_collected_again_after_a_model_that_cannot_be_loaded(broken):
    with pytest.raises(ModelError):
        loaded_model(broken, "cpu")
    assert gc.isenabled()


def test_garbage_is_collected_again_after_nested_use_and_an_error_in_it():
    with pytest.raises(ZeroDivisionError), _no_garbage_collection(), _no_garbage_collection():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()


@pytest.mark.parametrize("kind", [PredictionRun, LivePrediction])
def test_a_prediction_that_fails_leaves_nothing_frozen_and_garbage_collected(kind, tiny_slide, broken, tmp_path):
    prediction = kind(tiny_slide, broken, PredictSettings(), (), lambda _: None, lambda _: tmp_path / "a.zarr")
    with pytest.raises(ModelError):
        run(prediction.job())
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_prediction_that_is_stopped_leaves_nothing_frozen(tiny_slide, tmp_path):
    prediction = LivePrediction(
        tiny_slide, samples.model_path(), PredictSettings(), (), lambda _: None,
        lambda _: tmp_path / "a.zarr",
    )  # fmt: skip
    job = prediction.job()
    next(job)
    assert gc.get_freeze_count() > 0
    job.close()
    assert gc.get_freeze_count() == 0
