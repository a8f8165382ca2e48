"""Every format and every odd file, opened for real; what is refused says why in one line that names the file."""

from __future__ import annotations

import os
import re
import shutil
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from napari_lpd import samples
from napari_lpd.core.errors import SlideError
from napari_lpd.slides import formats, slide
from napari_lpd.slides.formats import is_slide, open_slide
from napari_lpd.slides.levels import DamagedError
from napari_lpd.slides.tiff import directories
from napari_lpd.slides.tiff import reader as tiff_reader
from napari_lpd.slides.tiff.reader import TooLargeError

GIVES_NONE = "nothing in the file says it"
IMPLAUSIBLE = "352.9 µm per pixel, which is not plausible"
OPENED = [  # name, shape, levels, where the resolution comes from
    ("CMU-1-Small-Region.svs", (2967, 2220), 1, "aperio metadata"),
    ("CMU-1_crop_4096.ome.tif", (4096, 4096), 4, "OME metadata"),
    ("CMU-1_crop_x27712_y3584_10240.tiff", (10240, 10240), 6, "TIFF resolution tags"),
    ("dicom_CMU-1-Small-Region", (2967, 2220), 1, "dicom metadata"),
    ("google/multi_frame_jpeg2000_camelyon_challenge_image.dcm", (812, 1696), 1, "28.97 µm per pixel, which is not"),
    ("google/multi_frame_jpeg_camelyon_challenge_image.dcm", (700, 1152), 1, "28.97 µm per pixel, which is not"),
    ("small_HE_levels.tiff", (250, 300), 4, IMPLAUSIBLE),
    ("tcga-cr-7395-01a-01-ts1.svs", (3567, 4443), 2, GIVES_NONE),
    ("odd/bitrot_CMU-1-Small-Region.svs", (2967, 2220), 1, "aperio metadata"),
    ("odd/yb10kx5k.zstd.tiff", (5000, 10000), 5, IMPLAUSIBLE),
]
REFUSED = [
    ("odd/grey10kx5k.tif", r"is grey, wanted RGB: convert it to 8-bit RGB"),
    ("odd/header_only.svs", "damaged or truncated TIFF .*: copy or export it again"),
    ("odd/notanimage.txt", "not a slide or image"),
    ("odd/png_renamed.svs", r"is a flat PNG image: rename it to \.png"),
    ("odd/test_orient5.tif", r"stored turned or mirrored \(orientation tag 5\): turn it upright"),
    ("odd/truncated_CMU-1-Small-Region.svs", "damaged or truncated TIFF .*: copy or export it again"),
    ("odd/zero_bytes.svs", "not a slide or image"),
    ("google", "holds 2 DICOM series: open a file of one instead"),
    ("odd", "a folder without DICOM files"),
]


def refusal(path, **options) -> str:
    """The error of opening `path`: one line that names it."""
    with pytest.raises(SlideError) as caught:
        open_slide(path, **options)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    return message


@pytest.fixture
def pictures(tmp_path, tiny_image, swapped):
    """The tiny image in several formats, with a resolution of 0.5 µm per pixel and a colour profile: name → path."""
    resolution = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    options = {"photometric": "rgb", "metadata": None, "iccprofile": swapped, **resolution}
    tifffile.imwrite(tmp_path / "tiled.tif", tiny_image, tile=(64, 64), compression="zlib", **options)
    tifffile.imwrite(tmp_path / "strips.tif", tiny_image, rowsperstrip=16, compression="zlib", **options)
    tifffile.imwrite(tmp_path / "plain.tif", tiny_image, **options)
    planes = np.moveaxis(tiny_image, 2, 0)
    tifffile.imwrite(tmp_path / "planar.tif", planes, planarconfig="separate", compression="zlib", **options)
    pages = {"photometric": "minisblack", "metadata": {"axes": "CYX"}, "iccprofile": swapped}
    tifffile.imwrite(tmp_path / "pages.ome.tif", planes, **pages, **resolution, compression="zlib")
    Image.fromarray(tiny_image).save(tmp_path / "flat.png", dpi=(50800, 50800), icc_profile=swapped)
    Image.fromarray(tiny_image).save(tmp_path / "flat.bmp")
    Image.fromarray(tiny_image).save(tmp_path / "flat.jpg", quality=100, subsampling=0, icc_profile=swapped)
    return {path.name: path for path in tmp_path.iterdir() if path.is_file()}


LOSSLESS = ["tiled.tif", "strips.tif", "plain.tif", "planar.tif", "pages.ome.tif", "flat.png", "flat.bmp"]


@pytest.mark.parametrize(("name", "shape", "levels", "source"), OPENED)
def test_a_real_file_opens_with_its_levels_and_resolution(shared_slides, name, shape, levels, source):
    with open_slide(shared_slides / name) as found:
        assert found.shape == shape
        assert len(found.level_shapes) == levels
        assert source in found.mpp_source


@pytest.mark.parametrize("name", [row[0] for row in OPENED if "bitrot" not in row[0]])
def test_a_real_file_is_read_everywhere(shared_slides, name):
    with open_slide(shared_slides / name, mpp=0.5) as found:
        image = found.read((0, 0), found.shape_at(8.0), 8.0)
        assert image.std() > 1


@pytest.mark.parametrize(("name", "why"), REFUSED)
def test_a_file_that_is_no_slide_is_refused_in_one_line(shared_slides, name, why):
    assert re.search(why, refusal(shared_slides / name))


def test_every_odd_file_has_its_row(shared_slides):
    listed = {row[0] for row in (*OPENED, *REFUSED)}
    assert {f"odd/{path.name}" for path in (shared_slides / "odd").iterdir()} <= listed


def test_a_file_of_a_dicom_series_is_the_same_slide_as_its_folder(shared_slides):
    folder = shared_slides / "dicom_CMU-1-Small-Region"
    with open_slide(folder) as whole, open_slide(sorted(folder.iterdir())[-1]) as one:
        assert one.fingerprint == whole.fingerprint
        assert np.array_equal(one.read((99, 99), (50, 50), 0.5), whole.read((99, 99), (50, 50), 0.5))


def test_in_a_rotten_file_only_the_rotten_tiles_are_reported(shared_slides):
    with open_slide(shared_slides / "odd" / "bitrot_CMU-1-Small-Region.svs") as rotten:
        mpp = rotten.mpp[0]
        image, damaged = rotten.read_tolerant((0, 0), rotten.shape, mpp)
    with open_slide(shared_slides / "CMU-1-Small-Region.svs") as whole:
        expected = whole.read((0, 0), whole.shape, mpp).copy()
    # The file's tile columns 0 (x 0 to 240) and 5 (x 1200 to 1440) are rotten.
    assert {(x0, x1) for _, x0, _, x1 in damaged} == {(0, 128), (128, 256), (1152, 1280), (1280, 1408), (1408, 1536)}
    for y0, x0, y1, x1 in damaged:
        expected[y0:y1, x0:x1] = 255
    assert np.array_equal(image, expected)


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_lossless_format_gives_the_images_pixels(pictures, tiny_image, name):
    with open_slide(pictures[name], mpp=0.5) as found:
        assert np.array_equal(found.read((0, 0), (256, 384), 0.5), tiny_image)


def test_a_jpeg_gives_nearly_the_images_pixels(pictures, tiny_image):
    with open_slide(pictures["flat.jpg"], mpp=0.5) as found:
        assert np.abs(found.read((0, 0), (256, 384), 0.5).astype(int) - tiny_image).mean() < 2


@pytest.mark.parametrize("name", ["tiled.tif", "strips.tif", "flat.png"])
def test_the_files_resolution_is_taken(pictures, name):
    with open_slide(pictures[name]) as found:
        assert found.mpp == pytest.approx((0.5, 0.5), rel=1e-3)


@pytest.mark.parametrize("dpi", [72, 96, 300])
def test_a_printers_resolution_is_not_believed(tmp_path, tiny_image, dpi):
    Image.fromarray(tiny_image).save(tmp_path / "a.png", dpi=(dpi, dpi))
    with open_slide(tmp_path / "a.png") as found, pytest.raises(SlideError, match=r"PNG resolution says .*pass mpp"):
        _ = found.mpp


def test_a_transparent_png_is_white_where_nothing_is(tmp_path, tiny_image):
    alpha = np.where(np.arange(384) < 100, 0, 255).astype(np.uint8)[None].repeat(256, 0)
    Image.fromarray(np.dstack([tiny_image, alpha])).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp=1.0) as found:
        image = found.read((0, 0), (256, 384), 1.0)
    assert (image[:, :100] == 255).all()
    assert np.array_equal(image[:, 100:], tiny_image[:, 100:])


def test_tiles_that_a_tiff_leaves_out_are_white(tmp_path):
    tiles = iter([np.full((64, 64, 3), 9, np.uint8), None])
    options = {"photometric": "rgb", "compression": "zlib", "metadata": {"axes": "YXS"}}
    tifffile.imwrite(tmp_path / "a.ome.tif", tiles, shape=(64, 128, 3), dtype=np.uint8, tile=(64, 64), **options)
    with open_slide(tmp_path / "a.ome.tif", mpp=1.0) as found:
        image = found.read((0, 0), (64, 128), 1.0)
    assert (image[:, :64] == 9).all()
    assert (image[:, 64:] == 255).all()


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "I;16"])
def test_an_image_that_is_not_rgb_is_refused_with_a_remedy(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new(mode, (20, 20)).save(path)
    assert f"mode {mode}" in refusal(path)
    assert "vips colourspace" in refusal(path)


def test_a_png_of_16_bits_is_refused(tmp_path):
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(np.zeros((20, 20, 3), np.uint16)))
    assert "16 bits" in refusal(tmp_path / "deep.png")


@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_a_tiff_of_16_bits_is_refused(tmp_path, tile):
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((64, 64, 3), np.uint16), photometric="rgb", tile=tile)
    assert "type uint16, wanted 8-bit RGB" in refusal(tmp_path / "deep.tif")


@pytest.mark.parametrize("channels", [2, 4])
def test_a_tiff_of_other_than_three_channels_is_refused(tmp_path, channels):
    options = {"photometric": "minisblack", "metadata": {"axes": "CYX"}}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((channels, 64, 64), np.uint8), **options)
    assert "has axes CYX" in refusal(tmp_path / "a.ome.tif")


@pytest.mark.parametrize("photometric", ["palette", "cielab", "separated", "minisblack"])
@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_a_tiff_in_other_colours_is_refused(tmp_path, photometric, tile):
    shape = {"cielab": (64, 64, 3), "separated": (64, 64, 4)}.get(photometric, (64, 64))
    colormap = np.zeros((3, 256), np.uint16) if photometric == "palette" else None
    options = {"photometric": photometric, "colormap": colormap, "tile": tile, "metadata": None}
    tifffile.imwrite(tmp_path / "other.tif", np.zeros(shape, np.uint8), **options)
    assert "wanted RGB" in refusal(tmp_path / "other.tif")


def test_a_turned_tiff_is_refused(tmp_path, tiny_image):
    tifffile.imwrite(tmp_path / "a.tif", tiny_image, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    assert "orientation tag 6" in refusal(tmp_path / "a.tif")


def test_a_turned_jpeg_is_refused(tmp_path, tiny_image):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(tiny_image).save(tmp_path / "a.jpg", exif=exif)
    assert "orientation 6" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["flat.png", "flat.jpg", "flat.bmp"])
def test_a_cut_off_image_is_refused(pictures, name):
    content = pictures[name].read_bytes()
    pictures[name].write_bytes(content[: len(content) // 2])
    assert "copy or export it again" in refusal(pictures[name])


def test_a_cut_off_tiff_is_refused(pictures):
    content = pictures["plain.tif"].read_bytes()
    pictures["plain.tif"].write_bytes(content[: len(content) // 2])
    assert "copy or export it again" in refusal(pictures["plain.tif"])


def limit_decoded(monkeypatch, size):
    for module in (formats, tiff_reader):
        monkeypatch.setattr(module, "MAX_DECODED", size)


@pytest.mark.parametrize("name", ["flat.png", "flat.jpg", "planar.tif"])
def test_what_must_be_decoded_at_once_may_not_be_large(pictures, monkeypatch, name):
    limit_decoded(monkeypatch, 90_000)
    assert "vips tiffsave IN OUT.tif --tile --pyramid" in refusal(pictures[name])
    with pytest.raises(TooLargeError):
        open_slide(pictures[name])


@pytest.mark.parametrize("name", ["tiled.tif", "strips.tif", "plain.tif"])
def test_what_is_read_by_windows_may_be_large(pictures, monkeypatch, name):
    limit_decoded(monkeypatch, 90_000)
    open_slide(pictures[name]).close()


def test_pillows_alarm_becomes_the_same_line(pictures, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    assert "too large: convert it to a tiled pyramid" in refusal(pictures["flat.png"])


def test_pillows_warning_below_the_limit_is_not_passed_on(pictures, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_slide(pictures["flat.png"]).close()


def test_a_flat_tiff_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(slide, "MAX_BLOCK", 2**20)
    image = np.full((4000, 6000, 3), 200, np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", rowsperstrip=64, compression="zlib")
    with open_slide(tmp_path / "a.tif", mpp=0.5) as found:
        tracemalloc.start()
        overview = found.read((0, 0), found.shape_at(16.0), 16.0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert overview.shape == (125, 188, 3)
    assert (overview[1:-1, 1:-2] == 200).all()  # the outermost pixels mix with the white around
    assert peak < image.nbytes / 3


def test_without_icc_the_colours_stay_as_stored(pictures, tiny_image):
    with open_slide(pictures["flat.png"]) as found:
        assert found.icc == "as stored"
        assert np.array_equal(found.read((0, 0), (256, 384), 0.5), tiny_image)


@pytest.mark.parametrize("name", ["tiled.tif", "strips.tif", "planar.tif", "flat.png"])
def test_with_icc_the_colours_become_srgb(pictures, tiny_image, name):
    with open_slide(pictures[name], mpp=0.5, icc=True) as found:
        image = found.read((0, 0), (256, 384), 0.5)
        assert found.icc == "sRGB by its profile sRGB built-in"
    assert np.abs(image.astype(int) - tiny_image[..., [1, 0, 2]]).max() <= 2  # the profile exchanges red and green


def test_with_icc_but_no_profile_nothing_changes(pictures, tiny_image):
    with open_slide(pictures["flat.bmp"], mpp=0.5, icc=True) as found:
        assert found.icc == "as stored (no profile)"
        assert np.array_equal(found.read((0, 0), (256, 384), 0.5), tiny_image)


def test_a_profile_that_is_rubbish_is_named_only_when_it_is_wanted(tmp_path, tiny_image):
    Image.fromarray(tiny_image).save(tmp_path / "a.png", icc_profile=b"rubbish")
    open_slide(tmp_path / "a.png").close()
    assert "open it without icc" in refusal(tmp_path / "a.png", icc=True)


@pytest.fixture
def small_region(tmp_path):
    return shutil.copy(samples.small_region_path(), tmp_path / "small.svs")


@pytest.fixture
def rotten(small_region):
    """The small region without its tile of level-0 x 480 to 720, y 720 to 960."""
    with tifffile.TiffFile(small_region) as tiff:
        page = tiff.pages.first
        index = 3 * page.chunked[1] + 2
        offset, size = page.dataoffsets[index], page.databytecounts[index]
    with small_region.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x55" * size)
    return small_region


def test_after_damage_other_places_are_still_read(rotten):
    with open_slide(rotten) as found, open_slide(samples.small_region_path()) as whole:
        mpp = found.mpp[0]
        with pytest.raises(DamagedError, match=r"small\.svs: damaged at level-0 x 498, y 798 \(level 0"):
            found.read((800, 500), (50, 50), mpp)
        assert np.array_equal(found.read((0, 0), (300, 300), mpp), whole.read((0, 0), (300, 300), mpp))


def test_the_damaged_cells_are_those_that_the_lost_tile_touches(rotten):
    with open_slide(rotten) as found:
        image, damaged = found.read_tolerant((512, 256), (768, 768), found.mpp[0])
    assert damaged == [(y, x, y + 128, x + 128) for y in (640, 768, 896) for x in (384, 512, 640)]
    assert (image[128:512, 128:512] == 255).all()


def test_overlapping_reads_agree_about_damage(rotten):
    with open_slide(rotten) as found:
        mpp = found.mpp[0]
        _, left = found.read_tolerant((650, 300), (200, 250), mpp)
        _, right = found.read_tolerant((650, 520), (200, 300), mpp)
    assert left == [(y, x, y + 128, x + 128) for y in (640, 768) for x in (384, 512)]
    assert right == [(y, x, y + 128, x + 128) for y in (640, 768) for x in (512, 640)]


def test_damage_met_by_one_thread_does_not_spread_to_others(rotten):
    with open_slide(rotten) as found:
        mpp = found.mpp[0]
        corners = [(y, x) for y in range(0, 2048, 256) for x in range(0, 2048, 256)]
        with ThreadPoolExecutor(4) as pool:
            reports = list(pool.map(lambda corner: found.read_tolerant(corner, (256, 256), mpp)[1], corners))
    assert sorted({box for boxes in reports for box in boxes}) == [
        (y, x, y + 128, x + 128) for y in (640, 768, 896) for x in (384, 512, 640)
    ]


def test_a_rotten_strip_is_reported_and_the_rest_is_read(pictures, tiny_image):
    with tifffile.TiffFile(pictures["strips.tif"]) as tiff:
        offset = tiff.pages.first.dataoffsets[1]  # rows 16 to 31
    with pictures["strips.tif"].open("r+b") as file:
        file.seek(offset)
        file.write(b"\x55" * 64)
    with open_slide(pictures["strips.tif"]) as found:
        image, damaged = found.read_tolerant((0, 0), (256, 384), 0.5)
    assert damaged == [(0, 0, 128, 128), (0, 128, 128, 256), (0, 256, 128, 384)]
    assert (image[:128] == 255).all()
    assert np.array_equal(image[128:], tiny_image[128:])


@pytest.mark.parametrize("name", ["small.svs", "tiled.tif", "strips.tif", "plain.tif", "pages.ome.tif", "flat.png"])
def test_four_threads_read_what_one_reads(pictures, small_region, name):
    with open_slide({**pictures, "small.svs": small_region}[name], mpp=0.5) as found:
        corners = [(y, x) for y in range(-20, 240, 40) for x in range(-20, 360, 40)]
        serial = [found.read(corner, (100, 100), 0.7) for corner in corners]
        with ThreadPoolExecutor(4) as pool:
            threaded = list(pool.map(lambda corner: found.read(corner, (100, 100), 0.7), corners))
    assert all(np.array_equal(a, b) for a, b in zip(serial, threaded, strict=True))


@pytest.mark.parametrize("name", ["small.svs", "tiled.tif", "strips.tif", "plain.tif", "flat.png"])
def test_reading_a_closed_slide_says_that_it_is_closed(pictures, small_region, name):
    found = open_slide({**pictures, "small.svs": small_region}[name], mpp=0.5)
    found.close()
    found.close()
    with pytest.raises(SlideError, match=f"{name} is closed"):
        found.read((0, 0), (10, 10), 0.5)


def test_a_slide_may_be_closed_while_threads_read_it(small_region):
    found = open_slide(small_region)
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(found.read, (i, i), (200, 200), 0.5) for i in range(0, 1600, 20)]
        reads[0].result()
        found.close()
    errors = [error for read in reads if (error := read.exception())]
    assert all("is closed" in str(error) for error in errors)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="lists open files through /proc")
def test_a_file_that_cannot_be_opened_is_not_left_open(pictures, rotten, monkeypatch):
    limit_decoded(monkeypatch, 1)
    before = set(os.listdir("/proc/self/fd"))
    for path in (*pictures.values(), rotten):
        with pytest.raises(SlideError):
            open_slide(path, mpp=1000)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="lists open files through /proc")
def test_closing_lets_go_of_the_file(pictures, rotten):
    before = set(os.listdir("/proc/self/fd"))
    for path in (*pictures.values(), rotten):
        with open_slide(path, mpp=0.5) as found:
            found.read_tolerant((0, 0), (1000, 1000), 0.5)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_name_tells_a_slide_from_a_picture(tmp_path):
    assert [is_slide(tmp_path / name) for name in ("a.SVS", "a.tiff", "a.png")] == [True, True, False]


@pytest.fixture
def reading():
    """What napari calls."""
    from napari_lpd.gui import contributions as _io

    return _io


@pytest.mark.parametrize("name", ["tiled.tif", "strips.tif", "plain.tif", "flat.png", "flat.jpg"])
def test_a_flat_picture_is_left_to_napari(reading, pictures, name):
    assert reading.get_reader(str(pictures[name])) is None


def test_a_flat_tiff_that_is_too_large_for_napari_opens_as_a_lazy_pyramid(reading, pictures, tiny_image, monkeypatch):
    monkeypatch.setattr(reading, "WHOLE_LIMIT", 90_000)
    monkeypatch.setattr(slide, "DISPLAY_EDGE", 100)
    reader = reading.get_reader(str(pictures["strips.tif"]))
    levels, options, _ = reader(str(pictures["strips.tif"]))[0]
    assert options["multiscale"]
    assert [level.shape for level in levels] == [(256, 384, 3), (128, 192, 3), (64, 96, 3)]
    assert np.array_equal(levels[2].compute(), tiny_image[::4, ::4])


def test_a_tiff_that_nobody_should_load_whole_is_ours_to_refuse(reading, pictures, monkeypatch):
    limit_decoded(monkeypatch, 90_000)
    reader = reading.get_reader(str(pictures["planar.tif"]))
    with pytest.raises(SlideError, match="tiled pyramid"):
        reader(str(pictures["planar.tif"]))


def test_a_dicom_folder_is_ours(reading, shared_slides):
    reader = reading.get_reader(str(shared_slides / "dicom_CMU-1-Small-Region"))
    _, options, _ = reader(str(shared_slides / "dicom_CMU-1-Small-Region"))[0]
    assert options["name"] == "dicom_CMU-1-Small-Region"
    assert np.allclose(options["scale"], 0.499)


def test_recognising_a_file_opens_nothing(reading, pictures, small_region, tmp_path, monkeypatch):
    """napari asks in its window's thread: a file that no library can open in time must not block it."""
    (tmp_path / "damaged.tif").write_bytes(pictures["tiled.tif"].read_bytes()[:200])
    (tmp_path / "empty.tif").write_bytes(b"")
    for module, name in ((tifffile, "TiffFile"), (reading, "open_slide"), (openslide, "OpenSlide"), (Image, "open")):
        monkeypatch.setattr(module, name, None)
    ours = {path.name for path in tmp_path.iterdir() if reading.get_reader(str(path)) is not None}
    assert ours == {"small.svs", "damaged.tif", "empty.tif"}  # of what is damaged, our reader says so in one line


def test_a_long_stack_is_left_to_napari(reading, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((6, 40, 40), np.uint8), photometric="minisblack")
    monkeypatch.setattr(directories, "MAX_DIRECTORIES", 5)
    assert reading.get_reader(str(tmp_path / "a.tif")) is None


def test_napari_is_told_which_of_several_images_was_read(reading, tmp_path, tiny_image):
    from napari.utils.notifications import notification_manager

    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for content in (tiny_image[:100], tiny_image, tiny_image[::2, ::2]):
            tiff.write(content, photometric="rgb", tile=(64, 64), metadata=None)
    reading.read_slide(str(tmp_path / "a.tif"))
    assert "holds 2 images" in str(notification_manager.records[-1].message)
