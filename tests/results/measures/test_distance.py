from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from napari_lpd.core.jobs import run
from napari_lpd.core.numeric import components
from napari_lpd.results.measures.distance import FAR, SquaredDistances


def by_strips(masks: np.ndarray, most: int) -> np.ndarray:
    found = SquaredDistances(lambda y0, y1: masks[:, y0:y1], len(masks), masks.shape[1:], most)
    run(found.prepare())
    strips = list(found.strips())
    assert [top for top, _ in strips] == np.cumsum([0, *(part.shape[1] for _, part in strips)])[:-1].tolist()
    return np.concatenate([part for _, part in strips], 1)


@pytest.mark.parametrize(
    ("shape", "most"), [((300, 410), 64), ((257, 513), 7), ((90, 70), 128), ((1, 50), 8), ((50, 1), 4)]
)
@pytest.mark.parametrize("share", [0.5, 0.02, 0.0004])
def test_distances_by_strips_are_those_of_the_whole_image_bit_for_bit(shape, most, share):
    masks = np.random.default_rng(0).random((2, *shape)) < share
    masks[:, shape[0] // 3, shape[1] // 3] = True
    found = by_strips(masks, most)
    for mask, squared in zip(masks, found, strict=True):
        assert np.array_equal(np.sqrt(squared.astype(float)), distance_transform_edt(~mask))


def test_one_pixel_in_a_corner_is_seen_from_everywhere():
    masks = np.zeros((1, 200, 300), bool)
    masks[0, 199, 299] = True
    assert np.array_equal(np.sqrt(by_strips(masks, 16)[0].astype(float)), distance_transform_edt(~masks[0]))


def test_where_nothing_is_set_everything_is_far():
    masks = np.stack([np.zeros((70, 30), bool), np.ones((70, 30), bool)])
    assert (by_strips(masks, 16) == np.array([FAR, 0])[:, None, None]).all()


def test_a_strip_of_long_rows_has_fewer_of_them(monkeypatch):
    monkeypatch.setattr(components, "STRIP_PIXELS", 1000)
    read = []

    def masks(y0: int, y1: int) -> np.ndarray:
        read.append(y1 - y0)
        return np.ones((1, y1 - y0, 300), bool)

    found = SquaredDistances(masks, 1, (40, 300), 512)
    run(found.prepare())
    assert sum(len(part[0]) for _, part in found.strips()) == 40
    assert max(read) * 300 <= 1000
    assert sum(read) == 2 * 40
