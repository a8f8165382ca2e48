from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch
from safetensors.torch import load_file

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import ModelError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.models.checkpoint import load_model
from napari_lpd.models.published.checkpoints import import_official, read_prototypes
from napari_lpd.prediction.predict import predict_slide

ORACLE = Path(os.environ.get("NAPARI_LPD_ORACLE", Path(__file__).parents[4] / "shared" / "spec" / "oracle"))
CHECKPOINT = ORACLE / "official_format_ckpt_b0_k2.pth"


@pytest.fixture
def checkpoint() -> Path:
    if not CHECKPOINT.is_file():
        pytest.skip(f"{CHECKPOINT} is absent: published checkpoints are not part of the project")
    return CHECKPOINT


def test_a_published_checkpoint_imports_with_its_classes_and_predicts(checkpoint, tmp_path, skin):
    model = load_model(import_official(checkpoint, tmp_path / "m.safetensors"))
    settings = model.card.settings.model
    assert [tissue.name for tissue in model.card.classes] == [
        "tumour",
        "stroma",
        "lymphocytic infiltrate",
        "necrosis",
    ]
    assert (settings.encoder, settings.channel_order, settings.prototypes_per_class) == ("mit_b0", "bgr", 2)
    weights = load_file(ORACLE / "weights_lpd_mit_b0_k2_d256.safetensors")
    assert torch.equal(model.network.prototypes, weights["prototypes"].float())
    scope, how = [shapely.box(1000, 1000, 1150, 1150)], PredictSettings(tile=224, overlap=64)
    prediction = run(predict_slide(skin, model, how, tmp_path / "skin.zarr", scope))
    y0, x0, y1, x1 = prediction.scope_box()
    assert y1 - y0 >= 300
    assert (prediction.labels.levels[0][y0:y1, x0:x1] > 0).any()


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    torch.save({"model": {"l_fc4.fc2.weight": torch.zeros(1)}, "cfg": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match=r"evil.pth: not readable as weights"):
        import_official(tmp_path / "evil.pth", tmp_path / "out.safetensors")
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelError, match="is not an array"):
        read_prototypes(tmp_path / "evil.pkl")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out.safetensors").exists()


def published_state(learned: bool) -> dict[str, torch.Tensor]:
    """A published network's weights, made from ours under the published names."""
    state = load_file(ORACLE / "weights_lpd_mit_b0_k2_d256.safetensors")
    return {key: value.float() for key, value in state.items() if learned or key != "prototypes"}


def test_pbip_needs_its_prototypes_and_takes_them_from_a_pickle_of_arrays(checkpoint, tmp_path):
    torch.save({"model": published_state(learned=False), "iter": 3}, tmp_path / "pbip.pth")
    classes = tuple(TissueClass(name=name, color="#112233") for name in "abcd")
    with pytest.raises(ModelError, match="pass --prototypes"):
        import_official(tmp_path / "pbip.pth", tmp_path / "m.safetensors", classes)
    features = np.random.default_rng(0).normal(size=(8, 256)).astype(np.float32)
    (tmp_path / "bank.pkl").write_bytes(pickle.dumps({"features": features, "k_list": [2, 4, 6, 8]}))
    with pytest.raises(ModelError, match="no known class names"):
        import_official(tmp_path / "pbip.pth", tmp_path / "m.safetensors", (), tmp_path / "bank.pkl")
    with pytest.raises(ModelError, match="do not fit mit_b1"):  # without a configuration it is the papers' encoder
        import_official(tmp_path / "pbip.pth", tmp_path / "m.safetensors", classes, tmp_path / "bank.pkl")
    assert torch.equal(read_prototypes(tmp_path / "bank.pkl"), torch.from_numpy(features))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ({"model": {"a": torch.zeros(1)}}, "no l_fc1"), ([1], "not a checkpoint")],
)
def test_what_is_no_published_checkpoint_is_named(tmp_path, content, message):
    path = tmp_path / "some.pth"
    if content is not None:
        torch.save(content, path)
    with pytest.raises(ModelError, match=f"some.pth: .*{message}"):
        import_official(path, tmp_path / "out.safetensors")
