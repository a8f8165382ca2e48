"""The live mask's engine: it follows the regions, and labels cells as a prediction would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import DataError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.data.regions import Region
from napari_lpd.models.checkpoint import load_model
from napari_lpd.models.joint.tiles import FrozenEncoder, clustered_bank_of_features
from napari_lpd.prediction.predict import predict_slide
from napari_lpd.slides.slide import Slide
from napari_lpd.training.guide.prototypes import prototype_maps
from napari_lpd.training.live import LiveModel, LiveSlide

SMALL = ["tile=64", "tile_step=48", "mpp=1.0", "threads=1", "model.prototypes_per_class=2", "model.prototype_dim=32",
         "model.neck_width=32", "model.necks=2", "places=9", "lr=0.01"]  # fmt: skip
SETTINGS = read_settings(TrainSettings, None, SMALL, "fast")


@pytest.fixture
def slide(tiny_slide):
    return LiveSlide(tiny_slide)


@pytest.fixture
def live():
    return LiveModel(SETTINGS)


def drawn(x0, y0, x1, y1, tissue):
    return Region(np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], float), (tissue,))


def shares(cell, slide, count=2):
    """The share of every label in the left and in the right part of the tiny slide."""
    height = slide.slide.shape[0]
    return [[float((part == i).mean()) for i in range(1, count + 1)]
            for part in (cell.labels[:height, :150], cell.labels[:height, 234:384])]  # fmt: skip


def test_two_tissues_are_learned_from_their_regions_and_labelled(live, slide, tiny_regions, classes):
    model = run(live.learn(slide, tiny_regions, classes, steps=60))
    left, right = shares(live.label(slide, (0, 0)), slide)
    assert left[0] > 0.6 and right[1] > 0.6
    assert left[1] < 0.1 and right[0] < 0.1
    assert [tissue.name for tissue in model.card.classes] == ["dark", "pink"]


def test_labels_are_those_of_a_prediction_with_the_saved_model(live, slide, tiny_regions, classes, tmp_path):
    run(live.learn(slide, tiny_regions, classes, steps=40))
    model = load_model(live.save(tmp_path / "kept" / "model.safetensors"), "cpu")
    assert model.card.tiles == len(tiles_from_regions(slide.slide, tiny_regions, classes, SETTINGS))
    prediction = run(predict_slide(slide.slide, model, PredictSettings(backend="torch"), tmp_path / "p.zarr"))
    inside = (slice(80, 176), slice(80, 304))  # cells are white beyond the slide's edge, predicted tiles are not
    labels, predicted = live.label(slide, (0, 0)).labels, np.asarray(prediction.labels.levels[0])
    assert {1, 2} <= set(np.unique(labels[inside]))
    assert (labels[inside] == predicted[inside]).mean() > 0.9


def test_features_are_computed_once_and_an_update_starts_from_the_model_before(
    live, slide, tiny_regions, classes, monkeypatch
):
    seen, encode = [], FrozenEncoder.__call__
    monkeypatch.setattr(FrozenEncoder, "__call__", lambda self, image: seen.append(1) or encode(self, image))
    first = run(live.learn(slide, tiny_regions, classes, steps=60))
    live.label(slide, (0, 0))
    assert len(seen) == 1
    said = []
    run(live.learn(slide, [*tiny_regions, drawn(10, 10, 90, 90, "dark")], classes), said.append)
    assert len(seen) == 1
    assert said[-1].total == 50  # few steps
    assert live.version == 2
    kept = torch.nn.functional.cosine_similarity(first.network.prototypes, live.model.network.prototypes)
    assert kept.min() > 0.9
    left, right = shares(live.label(slide, (0, 0)), slide)
    assert left[0] > 0.6 and right[1] > 0.6


def test_other_statistics_leave_the_output_as_it_was(live, slide, tiny_regions, classes):
    run(live.learn(slide, tiny_regions, classes, steps=2))
    joint, joined = live.model.network.joint, torch.randn(1, live.model.network.joint.mean.shape[1], 3, 3)
    before = joint(joined)
    joint.standardise_anew(joint.mean.flatten() + 0.3, joint.deviation.flatten() * 1.7)
    torch.testing.assert_close(joint(joined), before, rtol=1e-3, atol=1e-3)


def test_a_class_that_is_added_renamed_or_emptied_changes_what_is_labelled(live, slide, tiny_regions, classes):
    run(live.learn(slide, tiny_regions, classes, steps=40))
    third = TissueClass(name="edge", color="#00ff00")
    middle = drawn(160, 20, 232, 236, "edge")
    said = []
    model = run(live.learn(slide, [*tiny_regions, middle], (*classes, third)), said.append)
    assert [tissue.name for tissue in model.card.classes] == ["dark", "pink", "edge"]
    assert said[-1].total == 160  # a class of which nothing is known
    model = run(live.learn(slide, tiny_regions, (*classes, third), steps=5))
    assert [tissue.name for tissue in model.card.classes] == ["dark", "pink"]


def test_a_job_that_is_overtaken_leaves_the_model_as_it_was(live, slide, tiny_regions, classes):
    model = run(live.learn(slide, tiny_regions, classes, steps=10))
    state = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    job = live.learn(slide, tiny_regions, classes)
    while next(job).message != "learning":
        pass
    next(job)
    job.close()
    assert live.model is model and live.version == 1
    assert all(torch.equal(tensor, state[name]) for name, tensor in live.model.network.state_dict().items())


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ([], "draw a region of a second tissue"),
        ([drawn(0, 0, 90, 90, "dark")], "draw a region of a second tissue"),
        ([drawn(0, 0, 90, 90, "dark"), drawn(900, 0, 990, 90, "pink")], "outside the slide"),
        ([drawn(0, 0, 90, 90, "dark"), drawn(300, 0, 309, 9, "pink")], "too small for a tile"),
    ],
)
def test_regions_from_which_nothing_can_be_learned_are_one_line(live, slide, classes, regions, said):
    with pytest.raises(DataError, match=said) as error:
        run(live.learn(slide, regions, classes))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="nothing was learned yet"):
        live.label(slide, (0, 0))


def test_clustered_prototypes_are_centres_of_the_same_tiles_and_leave_the_live_model_alone(
    live, slide, tiny_regions, classes
):
    run(live.learn(slide, tiny_regions, classes, steps=5))
    model = live.model
    clustered = run(live.clustered())
    assert live.model is model and model.card.settings.model.bank == "learned"
    assert clustered.card.settings.model.bank == "clustered"
    network = clustered.network
    torch.testing.assert_close(
        network.prototypes.cpu(), clustered_bank_of_features(live._tiles, network, clustered.card.settings)
    )
    assert prototype_maps(live, slide, (0, 0), "dark", clustered).shape == (2, 32, 32)
    left, right = shares(live.label(slide, (0, 0), model=clustered), slide)
    assert left[0] > 0.6 and right[1] > 0.6


def test_cells_are_listed_from_the_middle_of_a_box_outwards_as_far_as_they_hold_tissue(tiny_image):
    image = np.full((2048, 2048, 3), 245, np.uint8)
    image[:600, :1500] = tiny_image[:, :192].mean((0, 1))
    image[1600:1900, 1600:2000] = tiny_image[:, :192].mean((0, 1))
    slide = LiveSlide(Slide.from_levels([image], (1.0, 1.0), "spots"))
    assert slide.cells((0, 512, 512, 1536), 1.0) == [(0, 1), (0, 2)]
    assert slide.cells((600, 0, 1500, 2000), 1.0) == [(1, 1), (1, 2), (1, 0)]
    assert slide.all_cells((0, 1024, 512, 1536), 1.0) == [(0, 2), (0, 1), (1, 2), (1, 1), (0, 0), (1, 0), (3, 3)]
