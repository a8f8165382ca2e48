"""Which regions are left out together, so that what is said of them is honest."""

from __future__ import annotations

import numpy as np

from napari_lpd.core.jobs import run
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.regions import Region
from napari_lpd.slides.slide import Slide
from napari_lpd.training.guide.held_out import FOLDS, LEFT, check, folds_of
from napari_lpd.training.live import LiveModel, LiveSlide

CORNERS = np.array([[0, 0], [0, 10], [10, 10], [10, 0]], float)


def folds(*places):
    regions = [Region(CORNERS + np.array([0.0, x]), (name,) if name else ()) for name, x in places]
    return folds_of(regions, [region.polygon() for region in regions], 20)


def test_regions_are_dealt_class_by_class():
    found = folds(*[("a", 100.0 * i) for i in range(6)], *[("b", 1000 + 100.0 * i) for i in range(3)])
    assert sorted(found[:6]) == [0, 0, 1, 1, 2, 2]
    assert sorted(found[6:]) == [0, 1, 2]


def test_regions_that_share_tiles_are_left_out_together():
    found = folds(
        ("a", 0.0), ("b", 25.0), *[("a", 100.0 * i) for i in range(1, 5)], *[("b", 600 + 100.0 * i) for i in range(4)]
    )
    assert found[0] == found[1] is not None
    apart = folds(("a", 0.0), ("b", 31.0), ("a", 100.0), ("a", 200.0), ("a", 300.0), ("b", 600.0), ("b", 700.0))
    assert apart[0] == apart[1] == 0  # dealt one by one: both are the first of theirs


def test_enough_regions_of_every_tissue_are_left_to_learn_from():
    assert folds(("a", 0.0), ("a", 100.0), ("b", 200.0)) == [None, None, None]
    found = folds(*[("a", 100.0 * i) for i in range(20)], ("", 5000.0))
    assert found[-1] is None
    assert all(20 - found.count(fold) >= LEFT for fold in range(FOLDS))


def test_a_region_with_a_wrong_label_is_contradicted_and_right_ones_are_not(classes):
    apart = 170
    rng = np.random.default_rng(0)
    image = np.where(np.arange(2100)[None, :, None] < 1000, (90, 50, 130), (235, 150, 180))
    image = image + rng.normal(0, 12, (512, 2100, 3))
    slide = LiveSlide(Slide.from_levels([np.clip(image, 0, 255).astype(np.uint8)], (1.0, 1.0), "wide"))
    box = np.array([[180, 0], [180, 100], [280, 100], [280, 0]], float)
    labels = [("dark",)] * 5 + [("dark",)] + [("pink",)] * 5  # the sixth lies on pink
    starts = [140 + apart * i for i in range(5)] + [1080 + apart * i for i in range(6)]
    regions = [Region(box + np.array([0.0, x]), names) for x, names in zip(starts, labels, strict=True)]
    small = ["tile=64", "tile_step=48", "mpp=1.0", "threads=1", "model.prototypes_per_class=2", "model.necks=1",
             "model.prototype_dim=32", "model.neck_width=32", "places=9", "lr=0.01"]  # fmt: skip
    live = LiveModel(read_settings(TrainSettings, None, small, "fast"))
    run(live.learn(slide, regions, classes, steps=4))
    before = {name: value.clone() for name, value in live.model.network.state_dict().items()}
    verdicts = {}
    for fold in range(FOLDS):
        verdicts |= run(check(live, slide, regions, fold))
    assert set(verdicts) == {region.key for region in regions}
    wrong = verdicts[regions[5].key]
    assert (wrong.tissues, wrong.found, wrong.is_right) == (("dark",), "pink", False)
    assert wrong.box_um == (180, 1080, 280, 1180) and wrong.share > 0.5
    assert all(verdicts[region.key].is_right for region in regions[:5])
    assert all((value == before[name]).all() for name, value in live.model.network.state_dict().items())
    slide.close()
