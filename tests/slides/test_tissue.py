"""Tissue found on real and drawn-on slides, and polygons as pixels against shapely's own test."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from shapely.affinity import translate

from napari_lpd.core.geometry import sampled_polygons
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.slide import DamagedError, Levels, Slide, array_levels
from napari_lpd.slides.tissue import TissueMask, find_tissue, mask_of_labels, mask_of_polygons

MPP = 8.0  # of drawn slides, so that the mask has half their size
GLASS = (243, 242, 244)


@pytest.fixture
def drawn(skin):
    """(512, 512) slide of 8 µm per pixel: glass with a square of real skin at 128..384."""
    image = np.full((512, 512, 3), GLASS, np.uint8)
    image[128:384, 128:384] = skin.read((1000, 600), (512, 512), 2.0)[::2, ::2]
    return np.clip(image + np.random.default_rng(0).normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def found_on(image: np.ndarray) -> np.ndarray:
    """The mask at the image's own size."""
    slide = Slide.from_levels([image], (MPP, MPP), "drawn")
    return find_tissue(slide).at((0, 0), image.shape[:2], MPP)


@pytest.mark.parametrize("size", [(256, 256), (260, 263), (264, 250)])
def test_tissue_goes_on_to_the_slides_edge(skin, size):
    slide = Slide.from_levels([skin.read((1000, 600), size, 2.0)], (2.0, 2.0), "crop")
    mask = find_tissue(slide)
    whole = mask.at((0, 0), size, 2.0)
    assert np.array_equal(whole[-1], whole[-8])
    assert np.array_equal(whole[:, -1], whole[:, -8])
    assert whole[-1].any()


def test_tissue_is_told_from_glass_and_keeps_its_fat(skin):
    mask = find_tissue(skin)
    assert mask.mpp == 16
    overview = skin.read((0, 0), mask.array.shape, mask.mpp)
    assert (overview[~mask.array] > 200).mean() > 0.95
    assert (overview[mask.array].min(1) > 215).sum() > 100  # vacuoles
    assert 0.5 < mask.array.mean() < 0.9


@pytest.mark.parametrize("tint", [(255, 255, 255), (243, 242, 244), (235, 238, 226), (228, 221, 228)])
def test_glass_of_any_tint_is_glass(drawn, tint):
    tinted = (drawn * (np.array(tint) / np.array(GLASS))).clip(0, 255).astype(np.uint8)
    mask = found_on(tinted)
    assert mask[136:376, 136:376].mean() > 0.97
    assert not mask[:112].any()


@pytest.mark.parametrize("pen", [(20, 110, 60), (30, 60, 170), (20, 20, 22), (40, 130, 150)])
def test_pen_marks_and_the_scanners_edge_are_not_tissue(drawn, pen):
    drawn[20:60, 30:480] = pen
    drawn[:, :12] = 0
    mask = found_on(drawn)
    assert not mask[:110].any()
    assert not mask[:, :100].any()
    assert mask[136:376, 136:376].mean() > 0.97


def test_a_blue_stain_is_not_taken_for_pen(drawn):
    drawn[128:384, 128:384] = drawn[128:384, 128:384][..., [1, 0, 2]]  # absorbs red, as Masson's trichrome does
    assert found_on(drawn)[140:372, 140:372].mean() > 0.9


def test_a_slide_without_glass_is_all_tissue(skin):
    full = skin.read((1000, 600), (512, 512), 2.0)
    assert find_tissue(Slide.from_levels([full], (2.0, 2.0), "full")).array.mean() > 0.98


def test_a_slide_without_tissue_is_all_glass():
    noise = np.random.default_rng(0).normal(0, 3, (512, 512, 3))
    assert not found_on(np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8)).any()


def test_specks_are_left_out_and_holes_filled(drawn):
    drawn[300:316, 300:316] = GLASS  # 0.016 mm²
    drawn[160:224, 160:224] = GLASS  # 0.26 mm²
    drawn[40:44, 40:44] = (180, 90, 160)  # 0.001 mm²
    drawn[60:90, 40:70] = (180, 90, 160)  # 0.06 mm²
    mask = found_on(drawn)
    assert mask[300:316, 300:316].all()
    assert not mask[176:208, 176:208].any()
    assert not mask[36:48, 36:48].any()
    assert mask[64:86, 44:66].all()


def test_places_that_cannot_be_read_count_as_tissue_only_amid_tissue(drawn):
    levels = array_levels([drawn])

    def read(level, y, x, h, w):
        for top, left in ((250, 250), (20, 450)):
            if y <= top < y + h and x <= left < x + w:
                raise DamagedError(f"damaged at {top}, {left}")
        return levels.read(level, y, x, h, w)

    slide = Slide("broken", Levels(levels.shapes, read), ((1.0, 1.0), "given"))
    large = Slide("broken", Levels([(512, 512)], read), ((MPP, MPP), "given"))
    assert slide.mpp == (1.0, 1.0)
    mask = find_tissue(large).at((0, 0), (512, 512), MPP)
    assert mask[250, 250]
    assert not mask[20, 450]


def test_what_cannot_be_read_and_counts_as_glass_is_said_with_its_area(drawn):
    levels = array_levels([drawn])

    def read(level, y, x, h, w):
        if y + h > 128:
            raise DamagedError("damaged below 128, where the tissue begins")
        return levels.read(level, y, x, h, w)

    cut = find_tissue(Slide("cut", Levels([(512, 512)], read), ((MPP, MPP), "given")))
    assert cut.unread_mm2 == pytest.approx(384 * 512 * (MPP / 1000) ** 2, rel=0.1)
    assert cut.warning().startswith("13.6 mm² of the slide cannot be read and counts as glass")
    whole = find_tissue(Slide.from_levels([drawn], (MPP, MPP), "whole"))
    assert (whole.unread_mm2, whole.warning()) == (0, "")


def test_the_real_damaged_slide_has_a_mask(shared_slides):
    good = open_slide(shared_slides / "CMU-1-Small-Region.svs")
    rotten = open_slide(shared_slides / "odd" / "bitrot_CMU-1-Small-Region.svs")
    with good, rotten:
        one, other = find_tissue(good).array, find_tissue(rotten).array
    assert one.shape == other.shape
    assert (one == other).mean() > 0.8


def test_whole_slides_with_cover_slip_and_writing(shared_slides):
    """The glass of a Camelyon overview has dirt, lines and writing; none of it is tissue."""
    with open_slide(shared_slides / "google" / "multi_frame_jpeg2000_camelyon_challenge_image.dcm", mpp=8.0) as slide:
        mask = find_tissue(slide).array
    assert 0.2 < mask.mean() < 0.5
    assert not mask[:12].any()
    assert not mask[50:150, :20].any()
    assert mask[80:200, 140:200].mean() > 0.95


def test_a_mask_is_sampled_by_pixel_centres_and_ends_at_its_rim():
    mask = TissueMask(np.array([[True, False], [False, True]]), 4.0)
    assert mask.at((0, 0), (4, 4), 2.0).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert mask.at((-1, 3), (3, 3), 2.0).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert mask.at((0, 0), (1, 1), 8.0).tolist() == [[True]]
    assert mask.at((5, 5), (2, 2), 2.0).sum() == 0


@pytest.mark.parametrize("seed", range(8))
def test_sampling_equals_shapely_and_a_part_equals_the_whole(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-20, 120, (3, 9, 2))
    polygons = [shapely.make_valid(shapely.Polygon(ring)) for ring in points]
    polygons[0] = polygons[0].difference(shapely.Point(50, 50).buffer(12))
    mpp, shape = 0.77, (130, 120)
    whole = sampled_polygons(polygons, (0, 0), shape, mpp)
    y, x = np.meshgrid(*((np.arange(n) + 0.5) * mpp for n in shape), indexing="ij")
    assert (whole == shapely.contains_xy(shapely.union_all(polygons), x, y)).mean() > 0.9999
    assert np.array_equal(sampled_polygons(polygons, (31, 17), (40, 50), mpp), whole[31:71, 17:67])


def test_neighbouring_polygons_share_no_pixel_and_leave_none():
    left, right = shapely.box(0, 0, 10, 10), shapely.box(10, 0, 20, 10)
    parts = [sampled_polygons([polygon], (0, 0), (20, 40), 0.5) for polygon in (left, right)]
    assert (parts[0] ^ parts[1]).all()


def test_nothing_is_inside_no_polygon():
    assert not sampled_polygons([], (0, 0), (5, 5), 1.0).any()


def test_polygons_and_labels_of_the_same_place_give_the_same_mask(tiny_slide):
    polygon = translate(shapely.box(0, 0, 100, 60), 40, 80)  # x 40..140, y 80..140 µm
    drawn = mask_of_polygons([polygon], tiny_slide)
    labels = np.zeros((50, 70), np.int32)  # 2 µm per pixel from y 60, x 20 µm
    labels[10:40, 10:60] = 7
    painted = mask_of_labels(labels, (2.0, 2.0), (60.0, 20.0), tiny_slide)
    for mask in (drawn, painted):
        at = mask.at((0, 0), tiny_slide.shape, 1.0)
        assert at[80:140, 40:140].all()
        assert at.sum() == 6000


def test_a_mask_of_a_huge_slide_stays_small(tiny_slide):
    slide = Slide("huge", Levels([(200_000, 200_000)], tiny_slide._levels.read), ((0.25, 0.25), "given"))
    mask = mask_of_polygons([shapely.box(1000, 1000, 2000, 3000)], slide)
    assert mask.array.size <= 1.01 * 2**26
    assert mask.array.sum() * (mask.mpp / 1000) ** 2 == pytest.approx(2, rel=0.01)
