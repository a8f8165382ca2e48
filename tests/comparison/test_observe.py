from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_lpd.comparison.observe import (
    CHANGES,
    RULES,
    bank_maps,
    drop_counts,
    fused_class_maps,
    observe_tile,
    stability,
)
from napari_lpd.evaluation.masks import fused_maps
from napari_lpd.models.encoder import STAGES


@pytest.fixture
def image(tiny_image):
    return np.ascontiguousarray(tiny_image[40:104, 160:224])


@pytest.mark.parametrize("fusion", [(0.0, 0.0, 1.0), (0.2, 0.3, 0.5)])
def test_class_maps_of_all_prototypes_are_those_of_evaluate(tiny_model, image, fusion):
    settings = tiny_model.network.settings
    tiny_model.network.settings = settings.model_copy(update={"stage_fusion": fusion})
    seen = observe_tile(tiny_model, image)
    fused, presence = fused_maps(tiny_model, torch.from_numpy(image).permute(2, 0, 1).float() / 255, RULES)
    assert torch.allclose(seen.fused, fused, atol=1e-6)
    assert seen.present.tolist() == (presence >= torch.tensor(tiny_model.card.presence)).tolist()


def test_dropping_an_equal_sibling_loses_nothing(tiny_model, image):
    with torch.no_grad():
        tiny_model.network.prototypes[1] = tiny_model.network.prototypes[0]
    present = torch.ones(2, dtype=torch.bool)
    truth = np.zeros((64, 64), np.uint8)
    truth[:, 32:] = 1
    seen = observe_tile(tiny_model, image)._replace(present=present)
    labels = seen.fused.argmax(0).numpy().astype(np.uint8)
    whole, dropped = drop_counts(tiny_model, image, seen._replace(labels=labels), truth)
    assert whole.shape == (2, 2)
    assert dropped.shape == (4, 2)
    assert dropped[0].tolist() == dropped[1].tolist() == whole[0].tolist()
    assert (dropped[:, 0] <= dropped[:, 1]).all()


def test_an_absent_class_loses_nothing_and_ignored_pixels_do_not_count(tiny_model, image):
    seen = observe_tile(tiny_model, image)._replace(present=torch.zeros(2, dtype=torch.bool))
    seen = seen._replace(labels=np.zeros((64, 64), np.uint8))
    truth = np.full((64, 64), 255, np.uint8)
    truth[:8] = 1
    whole, dropped = drop_counts(tiny_model, image, seen, truth)
    assert whole.tolist() == [[0, 512], [0, 512]]
    assert dropped.tolist() == whole.repeat(2, axis=0).tolist()


def test_a_class_map_of_one_prototype_differs_from_that_of_the_other(tiny_model, image):
    seen = observe_tile(tiny_model, image)
    first, second = (fused_class_maps(tiny_model, seen.logits, (64, 64), [u])[0] for u in (0, 1))
    assert first.shape == (64, 64)
    assert not torch.allclose(first, second)


def test_maps_are_brought_to_the_asked_for_grid(tiny_model, image):
    features = observe_tile(tiny_model, image).features
    bank = tiny_model.network.projected(STAGES - 1)
    own = bank_maps(features, bank, (features.shape[2], features.shape[3]))
    assert bank_maps(features, bank, (9, 5)).shape == (4, 9, 5)
    assert torch.allclose(bank_maps(features, 7 * bank, (features.shape[2], features.shape[3])), own, atol=1e-5)


def test_changes_keep_a_tile_a_tile(image):
    for name, change in CHANGES.items():
        changed = change(image)
        assert changed.dtype == np.float32, name
        assert changed.shape == image.shape
        assert 0 <= changed.min() <= changed.max() <= 1
        assert not np.allclose(changed, image / 255)


def test_stability_is_one_where_nothing_changes(tiny_model, image, monkeypatch):
    features = observe_tile(tiny_model, image).features
    bank = tiny_model.network.projected(STAGES - 1)
    maps = bank_maps(features, bank, (4, 4))
    counted = torch.ones(4, 4, dtype=torch.bool)
    (found,) = stability(tiny_model, image, [bank], [maps], counted)
    assert found.shape == (3, 4)
    assert (np.abs(found) <= 1 + 1e-9).all()
    for name in CHANGES:
        monkeypatch.setitem(CHANGES, name, lambda image: (image / 255).astype(np.float32))
    (found,) = stability(tiny_model, image, [bank], [maps], counted)
    assert found[:2] == pytest.approx(np.ones((2, 4)), abs=1e-5)
