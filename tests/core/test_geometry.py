from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from skimage.draw import polygon2mask

from napari_lpd.core import geometry as module
from napari_lpd.core.geometry import outlines


def drawn(found, shape) -> np.ndarray:
    """Outlines as labels, drawn by scikit-image; no two may overlap."""
    labels = np.zeros(shape, np.uint8)
    for label, polygon in found:
        mask = np.zeros(shape, bool)
        for ring in shapely.get_rings(polygon):
            mask ^= polygon2mask(shape, shapely.get_coordinates(ring)[:, ::-1] - 0.5)
        assert not labels[mask].any()
        labels[mask] = label
    return labels


def smooth(shape=(90, 130), seed=0) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return np.digitize(field, np.quantile(field, [0.4, 0.7])).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 2)))
def test_any_labels_come_back_exactly_whatever_the_cells(labels):
    for cell in (3, 5, 20):
        found = list(outlines(labels, (0, 0, *labels.shape), cell=cell))
        assert all(polygon.is_valid for _, polygon in found)
        assert np.array_equal(drawn(found, labels.shape), labels)


@pytest.mark.parametrize("cell", [1000, 37, 16])
def test_every_connected_area_is_one_polygon(cell):
    labels = smooth()
    found = list(outlines(labels, (0, 0, *labels.shape), cell=cell))
    assert len(found) == sum(ndimage.label(labels == value)[1] for value in (1, 2))
    assert sum(polygon.area for _, polygon in found) == (labels > 0).sum()


def test_only_the_box_is_outlined():
    labels = smooth()
    inside = np.zeros_like(labels)
    inside[20:55, 33:110] = labels[20:55, 33:110]
    assert np.array_equal(drawn(outlines(labels, (20, 33, 55, 110), cell=16), labels.shape), inside)


def test_simplified_outlines_stay_near_and_leave_no_gaps():
    labels = smooth((200, 200))
    exact = list(outlines(labels, (0, 0, 200, 200), cell=64))
    fewer = list(outlines(labels, (0, 0, 200, 200), tolerance=2, cell=64))
    assert len(fewer) == len(exact)
    assert all(polygon.is_valid for _, polygon in fewer)
    exact_corners, corners = (sum(shapely.get_num_coordinates(p) for _, p in found) for found in (exact, fewer))
    assert corners < exact_corners / 2
    everything = shapely.union_all([polygon for _, polygon in fewer])
    assert everything.area == pytest.approx(sum(polygon.area for _, polygon in fewer))  # no overlaps
    assert everything.area == pytest.approx((labels > 0).sum(), rel=0.01)


def test_what_waits_is_bounded_and_still_right(monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 50)
    labels = smooth()
    found = list(outlines(labels, (0, 0, *labels.shape), cell=16))
    assert np.array_equal(drawn(found, labels.shape), labels)
