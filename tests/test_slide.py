from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_lpd import samples
from napari_lpd.errors import SlideError
from napari_lpd.slide import Slide, open_slide, um_box_to_pixels


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


def test_the_tissue_mask_separates_glass_and_keeps_fat(skin):
    mask, mpp = skin.tissue

    def share(x0, y0, x1, y1):
        scale = skin.mpp[0] / mpp
        y, x = (slice(int(a * scale), int(b * scale)) for a, b in ((y0, y1), (x0, x1)))
        return mask[y, x].mean()

    assert share(2800, 600, 3600, 1400) < 0.01
    assert share(100, 2000, 1400, 2500) > 0.99
    assert share(1300, 4560, 1560, 4880) > 0.95  # a group of fat vacuoles


def test_the_pyramid_for_display_is_lazy_and_right(tiny_slide, tiny_image):
    levels = tiny_slide.pyramid()
    assert [level.shape for level in levels] == [(256, 384, 3), (128, 192, 3)]
    assert np.array_equal(levels[0].compute(), tiny_image)


def test_a_box_in_micrometres_becomes_whole_pixels():
    assert um_box_to_pixels((1.0, 2.0, 5.1, 6.0), 0.5) == (2, 4, 11, 12)


@pytest.mark.parametrize(
    "name", ["header_only.svs", "notanimage.txt", "png_renamed.svs", "zero_bytes.svs", "grey10kx5k.tif"]
)
def test_odd_files_give_one_line(shared_slides, name):
    with pytest.raises(SlideError, match=name):
        open_slide(shared_slides / "odd" / name)


def test_a_damaged_place_is_named(shared_slides):
    with (
        open_slide(shared_slides / "odd" / "bitrot_CMU-1-Small-Region.svs") as slide,
        pytest.raises(SlideError, match=r"bitrot.*damaged at level-0 x"),
    ):
        slide.read((0, 0), slide.shape, slide.mpp[0])


@pytest.mark.parametrize("name", ["dicom_CMU-1-Small-Region", "CMU-1_crop_4096.ome.tif", "CMU-1-Small-Region.svs"])
def test_real_formats_open_with_their_resolution(shared_slides, name):
    with open_slide(shared_slides / name) as slide:
        assert slide.mpp == pytest.approx((0.499, 0.499), rel=1e-3)
        assert slide.read((0, 0), (32, 32), 1.0).shape == (32, 32, 3)


def test_a_slide_without_mpp_asks_for_it(shared_slides):
    with (
        open_slide(shared_slides / "tcga-cr-7395-01a-01-ts1.svs") as slide,
        pytest.raises(SlideError, match="pass mpp"),
    ):
        _ = slide.mpp
