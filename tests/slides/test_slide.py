from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_lpd import samples
from napari_lpd.core.errors import SlideError
from napari_lpd.core.geometry import um_box_to_pixels
from napari_lpd.slides import slide
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.slide import DamagedError, Levels, Slide


def test_the_sample_slides_know_their_resolution():
    with open_slide(samples.small_region_path()) as slide:
        assert slide.shape == (2967, 2220)
        assert slide.mpp == pytest.approx((0.499, 0.499))
        assert slide.mpp_source == "aperio metadata"
    with open_slide(samples.skin_slide_path()) as slide:
        assert slide.level_shapes[0] == (5120, 5120)
        assert slide.mpp == pytest.approx((0.998, 0.998), rel=1e-4)
        assert slide.mpp_source == "TIFF resolution tags"


def test_reading_at_the_slides_own_resolution_gives_its_pixels(tiny_slide, tiny_image):
    assert np.array_equal(tiny_slide.read((10, 20), (30, 40), 1.0), tiny_image[10:40, 20:60])


def test_outside_the_slide_is_white(tiny_slide):
    block = tiny_slide.read((-8, -8), (16, 16), 1.0)
    assert (block[:8] == 255).all()
    assert (block[:, :8] == 255).all()
    assert (block[8:, 8:] < 255).any()


@pytest.mark.parametrize("mpp", [0.7, 1.1, 1.7, 2.0, 3.3])
def test_neighbouring_reads_fit_together(skin, mpp):
    whole = skin.read((600, 700), (160, 160), mpp).astype(int)
    part = skin.read((640, 780), (60, 60), mpp).astype(int)
    assert np.abs(whole[40:100, 80:140] - part).max() <= 1


def test_resampling_keeps_positions(skin):
    """A coarse read equals the mean of the fine pixels it covers, so nothing is shifted."""
    fine = skin.read((2000, 400), (256, 256), skin.mpp[0]).astype(float)
    coarse = skin.read((1000, 200), (128, 128), 2 * skin.mpp[0]).astype(float)
    means = fine.reshape(128, 2, 128, 2, 3).mean((1, 3))
    shifts = [np.roll(means, by, axis=axis) for by in (1, -1) for axis in (0, 1)]
    nearest = min(np.abs(coarse - shifted).mean() for shifted in shifts)
    assert np.abs(coarse - means).mean() < nearest / 2


@pytest.mark.parametrize(("mpp", "block"), [(1.0, 9_000), (2.3, 20_000), (9.7, 9_000), (9.7, 2_000), (0.6, 9_000)])
def test_reading_piece_by_piece_gives_the_same_image(tiny_image, monkeypatch, mpp, block):
    flat = Slide.from_levels([tiny_image], (1.0, 1.0), "flat")
    area = (-20, -30), (round(300 / mpp), round(450 / mpp)), mpp
    whole = flat.read(*area).astype(int)
    monkeypatch.setattr(slide, "MAX_BLOCK", block)
    assert np.abs(flat.read(*area) - whole).max() <= 1


def test_a_large_area_is_read_in_bounded_blocks(monkeypatch):
    monkeypatch.setattr(slide, "MAX_BLOCK", 10_000)
    sizes = []

    def read(level, y, x, h, w):
        sizes.append(h * w)
        return np.zeros((h, w, 3), np.uint8)

    Slide("flat", Levels([(1000, 3000)], read), ((1.0, 1.0), "given")).read((0, 0), (100, 300), 10.0)
    assert len(sizes) == 300
    assert max(sizes) < 40_000  # with the margins


def test_a_square_in_micrometres_is_read_as_a_square():
    """40 x 20 pixels of 0.5 x 1 µm are 20 x 20 µm."""
    image = np.full((200, 100, 3), 255, np.uint8)
    image[60:100, 30:50] = 0
    flat = Slide.from_levels([image], (0.5, 1.0), "flat")
    for mpp in (0.5, 1.0, 2.0):
        dark = flat.read((0, 0), flat.shape_at(mpp), mpp)[..., 0] < 128
        assert [int(dark.any(axis).sum()) for axis in (0, 1)] == [20 / mpp, 20 / mpp]
        assert np.argwhere(dark)[0].tolist() == [30 / mpp, 30 / mpp]


@pytest.fixture
def torn(tiny_image):
    """The tiny image as a slide of which the row 140 cannot be read in columns 130 to 250."""

    def read(level, y, x, h, w):
        if y <= 140 < y + h and x <= 250 and x + w > 130:
            raise DamagedError("torn: damaged")
        return tiny_image[y : y + h, x : x + w]

    return Slide("torn", Levels([tiny_image.shape[:2]], read), ((1.0, 1.0), "given"))


def test_a_tolerant_read_is_white_in_damaged_cells_and_exact_elsewhere(torn, tiny_image):
    image, damaged = torn.read_tolerant((0, 0), (256, 384), 1.0)
    assert damaged == [(128, 128, 256, 256)]
    tiny_image = tiny_image.copy()
    tiny_image[128:256, 128:256] = 255
    assert np.array_equal(image, tiny_image)


def test_a_cell_is_damaged_even_where_the_area_misses_the_damage(torn):
    assert torn.read_tolerant((200, 200), (20, 20), 1.0)[1] == [(128, 128, 256, 256)]


def test_damage_is_reported_inside_the_slide_only(torn):
    assert torn.read_tolerant((128, 128), (900, 900), 2.0)[1] == []
    assert torn.read_tolerant((-64, -64), (900, 900), 2.0)[1] == [(0, 0, 128, 128)]


def test_a_tolerant_read_of_a_sound_slide_is_a_read(skin):
    image, damaged = skin.read_tolerant((-37, 101), (300, 200), 2.0)
    assert damaged == []
    assert np.abs(image.astype(int) - skin.read((-37, 101), (300, 200), 2.0)).max() <= 1


def test_a_tolerant_read_still_asks_for_the_resolution(tiny_image):
    with pytest.raises(SlideError, match="pass mpp"):
        Slide.from_levels([tiny_image], None, "bare").read_tolerant((0, 0), (9, 9), 1.0)


def test_a_closed_slide_says_so_and_closes_its_file_once(tiny_image):
    closed = []
    levels = Levels([(256, 384)], lambda level, y, x, h, w: tiny_image[y : y + h, x : x + w], lambda: closed.append(1))
    with Slide("once", levels, ((1.0, 1.0), "given")) as found:
        found.close()
    assert closed == [1]
    for read in (found.read, found.read_tolerant):
        with pytest.raises(SlideError, match="once is closed: open it again"):
            read((0, 0), (9, 9), 1.0)


def test_the_fingerprint_goes_with_the_content_not_with_the_name(tmp_path):
    content = bytearray(samples.small_region_path().read_bytes())
    prints = []
    for name, place in (("a.svs", None), ("b.svs", None), ("c.svs", len(content) - 100)):
        if place is not None:
            content[place] ^= 1
        (tmp_path / name).write_bytes(content)
        with open_slide(tmp_path / name) as found:
            prints.append(found.fingerprint)
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 16


def test_arrays_have_a_fingerprint_of_their_pixels(tiny_image, monkeypatch):
    other = tiny_image.copy()
    other[100, 100] ^= 255
    prints = [Slide.from_levels([image], (1, 1), "a").fingerprint for image in (tiny_image, tiny_image.copy(), other)]
    assert prints[0] == prints[1] != prints[2]
    monkeypatch.setattr(slide, "MAX_BLOCK", 4_000)
    assert Slide.from_levels([tiny_image], None, "b").fingerprint == prints[0]


def test_transparent_pixels_become_white():
    levels = [np.zeros((8, 8, 4), np.uint8)]
    assert (Slide.from_levels(levels, (1, 1), "clear").read((0, 0), (8, 8), 1.0) == 255).all()


def test_an_array_that_is_not_rgb_is_refused():
    with pytest.raises(SlideError, match="not RGB"):
        Slide.from_levels([np.zeros((8, 8), np.uint8)], (1, 1), "grey")


def test_a_missing_resolution_is_never_guessed(tmp_path):
    path = tmp_path / "nothing.tiff"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", tile=(32, 32), metadata=None)
    with open_slide(path) as slide:
        assert not slide.has_mpp
        with pytest.raises(SlideError, match="pass mpp"):
            slide.shape_at(1.0)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.mpp == (0.5, 0.5)
        assert slide.mpp_source == "given by the user"


def test_an_implausible_resolution_is_refused(tiny_tiff):
    with pytest.raises(SlideError, match="not plausible"):
        open_slide(tiny_tiff, mpp=400)


def test_ome_tiff_takes_its_resolution_from_its_metadata(tmp_path, tiny_image):
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, tiny_image, photometric="rgb", tile=(64, 64), metadata=metadata)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.25))
        assert slide.mpp_source == "OME metadata"
        assert slide.shape_at(0.5) == (256, 192)


@pytest.mark.parametrize("content", [b"", b"not an image", b"II*\0\x08\0\0\0"])
def test_an_unreadable_file_gives_one_line_that_names_it(tmp_path, content):
    path = tmp_path / "broken.svs"
    path.write_bytes(content)
    with pytest.raises(SlideError, match="broken.svs"):
        open_slide(path)


def test_a_renamed_png_is_refused(tmp_path):
    path = tmp_path / "picture.svs"
    Image.new("RGB", (20, 20)).save(path, format="png")
    with pytest.raises(SlideError, match="picture.svs"):
        open_slide(path)


def test_the_pyramid_for_display_is_lazy_and_right(tiny_slide, tiny_image):
    levels = tiny_slide.pyramid()
    assert [level.shape for level in levels] == [(256, 384, 3), (128, 192, 3)]
    assert np.array_equal(levels[0].compute(), tiny_image)


def test_a_level_too_large_for_display_gets_lazy_halvings(tiny_slide, tiny_image, monkeypatch):
    monkeypatch.setattr(slide, "DISPLAY_EDGE", 60)
    levels = tiny_slide.pyramid()
    assert [level.shape[:2] for level in levels] == [(256, 384), (128, 192), (64, 96), (32, 48)]
    assert np.array_equal(levels[3].compute(), tiny_image[::8, ::8])


def test_a_box_in_micrometres_becomes_whole_pixels():
    assert um_box_to_pixels((1.0, 2.0, 5.1, 6.0), 0.5) == (2, 4, 11, 12)


def test_a_damaged_place_is_named(shared_slides):
    with (
        open_slide(shared_slides / "odd" / "bitrot_CMU-1-Small-Region.svs") as slide,
        pytest.raises(SlideError, match=r"bitrot.*damaged at level-0 x"),
    ):
        slide.read((0, 0), slide.shape, slide.mpp[0])


def test_a_slide_without_mpp_asks_for_it(shared_slides):
    with (
        open_slide(shared_slides / "tcga-cr-7395-01a-01-ts1.svs") as slide,
        pytest.raises(SlideError, match="pass mpp"),
    ):
        _ = slide.mpp
