from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from napari_lpd.comparison.banks import clustered_control, random_control, training_sample
from napari_lpd.core.errors import DataError
from napari_lpd.core.jobs import run
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.models.encoder import STAGES


@pytest.fixture
def training(tile_folder, classes):
    return labelled_tiles(tile_folder / "train", classes)


def test_random_directions_are_as_many_as_the_prototypes_and_seeded(tiny_model):
    control = random_control(tiny_model, 3)
    assert control.shape == tiny_model.network.projected(STAGES - 1).shape
    assert torch.equal(control, random_control(tiny_model, 3))
    assert not torch.equal(control, random_control(tiny_model, 4))


def test_clusters_of_a_class_are_near_its_own_tiles(tiny_model, training):
    control = run(clustered_control(tiny_model, training, 0))
    assert control.norm(dim=1).tolist() == pytest.approx([1] * 4)
    for c in range(2):
        (first, *_) = [i for i in range(len(training)) if training.labels[i].tolist() == [c == 0, c == 1]]
        with torch.inference_mode():
            image = torch.from_numpy(training[first][0])[None].float() / 255
            features = tiny_model.network(image, (STAGES - 1,)).features
        cosines = control @ normalize(normalize(features, dim=1).mean((2, 3)), dim=1)[0]
        assert cosines[2 * c : 2 * c + 2].max() > cosines[2 - 2 * c : 4 - 2 * c].max()


def test_samples_hold_enough_of_every_class(training):
    assert training_sample(training, 0, 2) is training
    sample = training_sample(training, 4, 1)
    assert len(sample) < 24
    assert (sample.labels.sum(0) >= 5).all()  # enough to cluster


def test_too_few_tiles_of_a_class_alone_are_one_line(tiny_model, training):
    mixed = [i for i in range(24) if training.labels[i].tolist() != [0, 1]]
    with pytest.raises(DataError, match="0 tiles hold pink alone"):
        run(clustered_control(tiny_model, training.subset(mixed), 0))
