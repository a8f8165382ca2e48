"""Whatever a user does, in whatever order, nothing is lost and nothing on the screen is false."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tifffile
import torch
from walk import Walk

from napari_lpd.core.settings.training import ModelSettings, TrainSettings
from napari_lpd.gui.common.prediction_run import keep_triton_out
from napari_lpd.models.card import Card
from napari_lpd.models.checkpoint import save_checkpoint
from napari_lpd.models.network import new_network

WALKS = int(os.environ.get("NAPARI_LPD_WALKS", "0"))  # seeds of long walks, from 1
SHORT, LONG = 80, 500  # steps
MPP = 8.0


@pytest.fixture
def slides(tmp_path):
    """Two small slides, dark on one side and pink on the other."""
    paths = []
    for number, name in enumerate("ab"):
        rng = np.random.default_rng(number)
        image = np.empty((192, 160 + 64 * number, 3))
        image[:, :90], image[:, 90:] = (90, 50, 130), (235, 150, 180)
        image = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
        paths.append(tmp_path / name / f"{name}.tiff")
        paths[-1].parent.mkdir()
        options = {"tile": (64, 64), "photometric": "rgb", "resolutionunit": "CENTIMETER", "metadata": None}
        with tifffile.TiffWriter(paths[-1]) as tiff:
            tiff.write(image, resolution=(1e4 / MPP,) * 2, **options)
            tiff.write(image[::2, ::2], resolution=(5e3 / MPP,) * 2, subfiletype=1, **options)
    return paths


@pytest.fixture
def model(tmp_path, classes):
    """An untrained model, whose mask is as good as any other."""
    settings = ModelSettings(prototypes_per_class=2, prototype_dim=32)
    torch.manual_seed(0)
    card = Card(
        classes=classes,
        settings=TrainSettings(model=settings, tile=64, mpp=MPP),
        tiles_per_class={tissue.name: 1 for tissue in classes},
        tiles=2,
        steps=1,
        map_scale=((1.0,) * len(classes),) * 3,
        presence=(0.0,) * len(classes),
    )
    network = new_network(settings, len(classes), "embedded")
    return save_checkpoint(tmp_path / "models" / "untrained" / "model.safetensors", dict(network.state_dict()), card)


@pytest.mark.filterwarnings("error:The provided:UserWarning")  # napari paints shapes white then
@pytest.mark.parametrize(("seed", "steps"), [(seed, LONG) for seed in range(1, WALKS + 1)] or [(1, SHORT)])
def test_no_order_of_actions_loses_or_falsifies_anything(
    make_napari_viewer, slides, model, seed, steps, qtbot, monkeypatch
):
    keep_triton_out()
    walk = Walk(make_napari_viewer, slides, model, seed, qtbot, monkeypatch)
    try:
        walk.run(steps)
    except BaseException:
        print("\n".join(f"{i} {line}" for i, line in enumerate(walk.log)))  # noqa: T201
        walk.end()
        raise
