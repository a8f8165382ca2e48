"""Colours of tissue, on numbers worked out by hand, on the shipped slides, and end to end."""

from __future__ import annotations

import numpy as np
import pytest

from napari_lpd import samples
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.prediction.predict import predict_slide
from napari_lpd.samples import model_path
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.slide import Slide
from napari_lpd.slides.stain import (
    FOREIGN,
    StainStatistics,
    colours_of,
    colours_of_slide,
    density,
    look_of,
    matched,
    matching,
    slide_matcher,
    warning_of,
)
from napari_lpd.slides.tissue import find_tissue

E = 255 / np.e  # OD 1


def flat(*rgb, size=8):
    return np.full((size, size, 3), rgb, np.uint8)


def test_optical_density_by_hand():
    assert density(np.array([[255, round(E), 0]], np.uint8))[0] == pytest.approx([0, 1, np.log(255)], abs=0.01)


def test_the_look_of_a_flat_image_by_hand():
    look = look_of(flat(round(E), 128, 255))
    od = np.array([1, np.log(255 / 128), 0])
    assert look.density == pytest.approx(od, abs=0.01)
    assert look.spread == pytest.approx([0, 0, 0], abs=1e-6)
    assert look.look == pytest.approx([*(od / od.sum()), np.log(od.mean())], abs=0.01)


def test_glass_is_not_counted_and_alone_says_nothing():
    half = flat(90, 50, 130)
    half[:, :4] = 250
    assert look_of(half).density == pytest.approx(look_of(flat(90, 50, 130)).density)
    assert look_of(flat(250, 250, 250)) is None
    assert colours_of([flat(250, 250, 250)]) is None


def test_matching_moves_mean_and_spread_and_leaves_glass():
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal((120, 60, 140), 12, (64, 64, 3)), 0, 255).astype(np.uint8)
    image[:8] = 252
    wanted = StainStatistics(
        density=(0.4, 0.9, 0.5), spread=(0.1, 0.2, 0.1), look=(0.2, 0.5, 0.3, 0), look_deviation=(1,) * 4
    )
    moved = matched(image, colours_of([image]), wanted)
    found = colours_of([moved])
    assert found.density == pytest.approx(wanted.density, abs=0.01)
    assert found.spread == pytest.approx(wanted.spread, abs=0.02)
    assert np.abs(moved[:8].astype(int) - 252).max() <= 3


def test_every_source_is_matched_by_its_own_colours():
    dark, pale = (np.clip(np.random.default_rng(i).normal(v, 9, (16, 16, 3)), 0, 255).astype(np.uint8)
                  for i, v in enumerate(((90, 40, 120), (190, 140, 200))))  # fmt: skip
    images = [dark, pale, flat(255, 255, 255)]
    wanted = colours_of([dark])
    read = matching(images.__getitem__, ["a", "b", "c"], wanted)
    assert np.abs(read(0).astype(int) - dark).max() <= 1
    assert colours_of([read(1)]).density == pytest.approx(wanted.density, abs=0.02)
    assert (read(2) == 255).all()  # nothing to go by: as it came


def test_a_slide_of_the_same_stain_is_near_and_another_is_far():
    looks = []
    for path in (samples.skin_slide_path(), samples.small_region_path()):
        with open_slide(path) as slide:
            looks.append(colours_of_slide(slide, find_tissue(slide), 1.0, 128))
    skin, region = looks
    assert skin.distance(region) < 1.5
    assert region.distance(skin) < 1.5
    assert not warning_of(skin.distance(region))
    with open_slide(samples.skin_slide_path()) as slide:
        swapped = Slide.from_levels([slide.read((0, 0), (1500, 1500), 1.0)[..., ::-1]], (1.0, 1.0), "swapped")
        pale = 255 - (255 - slide.read((0, 0), (1500, 1500), 1.0)) // 2
        pale = Slide.from_levels([pale], (1.0, 1.0), "pale")
    for strange in (swapped, pale):
        away = skin.distance(colours_of_slide(strange, find_tissue(strange), 1.0, 128))
        assert away > FOREIGN
        assert f"{away:.1f} standard deviations" in warning_of(away)


def test_the_sample_model_knows_the_colours_it_was_trained_on():
    from napari_lpd.models.card import read_card

    with open_slide(samples.skin_slide_path()) as slide:
        seen = colours_of_slide(slide, find_tissue(slide), 0.998, 128)
    assert read_card(model_path()).colours.distance(seen) < 1


def test_damaged_places_are_passed_over(tiny_image):
    class Broken(Slide):
        def read_tolerant(self, origin, shape, mpp):
            pixels, _ = super().read_tolerant(origin, shape, mpp)
            return pixels, [(0, 0, 1, 1)] if origin[1] < 190 else []

    slide = Broken.from_levels([tiny_image], (1.0, 1.0), "tiny")
    found = colours_of_slide(slide, find_tissue(slide), 1.0, 16)
    assert found.density == pytest.approx(look_of(tiny_image[:, 200:]).density, abs=0.03)


def test_a_model_trained_on_matched_colours_gives_a_tinted_slide_the_same_mask(
    tiny_slide, tiny_image, tiny_regions, tiny_settings, classes, tmp_path
):
    from napari_lpd.data.region_tiles import tiles_from_regions
    from napari_lpd.models.checkpoint import load_model
    from napari_lpd.training.fit import fit

    tinted = (np.exp(-density(tiny_image) * (0.6, 0.7, 1.4)) * 255).astype(np.uint8)
    tinted_slide = Slide.from_levels([tinted], (1.0, 1.0), "tinted")
    settings = tiny_settings.model_copy(update={"stain_normalisation": "slide", "max_steps": 8, "stain_jitter": 0.0})
    tiles = tiles_from_regions(tiny_slide, tiny_regions, classes, settings)
    model = load_model(run(fit(tiles, settings, tmp_path / "model")))
    settings = PredictSettings(tile=128, overlap=32, tissue_only=False)
    labels = [
        run(predict_slide(slide, model, settings, tmp_path / f"{i}.zarr")).labels.levels[0][:]
        for i, slide in enumerate((tiny_slide, tinted_slide))
    ]
    assert (labels[0] == labels[1]).mean() > 0.95
    tissue = find_tissue(tinted_slide)
    back = slide_matcher(tinted_slide, model.card.colours, tissue, 1.0, 64)(tinted)
    assert np.abs(back.astype(int) - tiny_image).mean() < np.abs(tinted.astype(int) - tiny_image).mean() * 0.6


def test_a_comparison_shows_every_model_the_colours_it_was_trained_on(tiny_model, tiny_image):
    from napari_lpd.comparison.tiles import Tile, images_for

    tiles = [Tile("a", "s", lambda: tiny_image, None)]
    assert images_for(tiny_model, tiles)(0) is tiny_image
    settings = tiny_model.card.settings.model_copy(update={"stain_normalisation": "slide"})
    wanted = tiny_model.card.colours.model_copy(update={"density": (0.6, 0.6, 0.6)})
    card = tiny_model.card.model_copy(update={"settings": settings, "colours": wanted})
    seen = images_for(tiny_model._replace(card=card), tiles)(0)
    assert colours_of([seen]).density == pytest.approx((0.6, 0.6, 0.6), abs=0.1)
