"""Tiles of JPEG that are decoded here have the pixels, levels and damage that OpenSlide and tifffile give."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import openslide
import pytest
import tifffile
from imagecodecs import jpeg8_encode

from napari_lpd import samples
from napari_lpd.slides import openslide_reader
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.levels import DamagedError
from napari_lpd.slides.tiff import pixels, tiled_jpeg

WINDOWS = [(0, 0, 300, 200), (100, 250, 37, 411), (255, 239, 2, 3), (0, 0, -1, -1), (-130, -90, 130, 90)]
RESOLUTION = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}


class Kind(NamedTuple):
    """How the tests write a pyramid.

    Attributes:
        photometric: The tag's value; the JPEG data are encoded so, too.
        tile: Edge of the tiles.
        compression: Of the tiles.
        step: Every so many pixels of the image make the second level.
    """

    photometric: str = "ycbcr"
    tile: int = 128
    compression: str = "jpeg"
    step: int = 2


def write(path, image, kind=Kind(), **options):  # noqa: B008  (a tuple)
    """A pyramid of two levels at `path`; `options` of the first page."""
    with tifffile.TiffWriter(path, ome=path.name.endswith(".ome.tif")) as tiff:
        for level, pixels in enumerate((image, image[:: kind.step, :: kind.step])):
            tiff.write(
                np.ascontiguousarray(pixels),
                tile=(kind.tile,) * 2,
                photometric="rgb",
                compression=kind.compression,
                compressionargs={"level": 90, "outcolorspace": kind.photometric} if kind.compression == "jpeg" else {},
                subifds=1 if level == 0 and tiff._ome else None,
                subfiletype=level,
                **RESOLUTION,
                **(options if level == 0 else {}),
            )
    return path


@pytest.fixture
def tissue():
    """(1051, 803, 3) of the skin sample: both edges are odd."""
    with tifffile.TiffFile(samples.skin_slide_path()) as tiff:
        return tiff.pages[1].asarray()[600:1651, 300:1103]


@pytest.fixture
def decoded(monkeypatch):
    """The shapes of the tiles that were decoded here."""
    shapes = []
    decode = tiled_jpeg.decode_jpeg

    def spy(*args, **options):
        pixels = decode(*args, **options)
        shapes.append(pixels.shape)
        return pixels

    monkeypatch.setattr(tiled_jpeg, "decode_jpeg", spy)
    return shapes


def windows(shape):
    """Windows of a level (y, x, h, w): inner ones, all of it, its last corner."""
    for y, x, h, w in WINDOWS:
        top, left = y % shape[0], x % shape[1]
        yield top, left, min(h % (shape[0] + 1), shape[0] - top), min(w % (shape[1] + 1), shape[1] - left)


def pixels_of(found, level, y, x, h, w):
    """A window of a level as it is stored; `Slide.pyramid` would read the whole chunks around it."""
    return found._read_level(level, y, x, h, w)


@pytest.mark.parametrize("name", ["skin", "small"])
def test_a_sample_slide_is_decoded_here_with_the_pixels_of_openslide(decoded, name):
    path = {"skin": samples.skin_slide_path(), "small": samples.small_region_path()}[name]
    with open_slide(path) as found, openslide.OpenSlide(path) as vendor:
        decoded.clear()
        for level, (height, width) in enumerate(found.level_shapes):
            for y, x, h, w in windows((min(height, 700), min(width, 700))):
                place = (x * 2**level, y * 2**level)
                expected = np.asarray(vendor.read_region(place, level, (w, h)))[..., :3]
                assert np.array_equal(pixels_of(found, level, y, x, h, w), expected)
    assert decoded


@pytest.mark.parametrize("photometric", ["ycbcr", "rgb"])
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_every_level_has_its_own_pixels_up_to_the_last_partial_tile(tmp_path, tissue, decoded, name, photometric):
    path = write(tmp_path / name, tissue, Kind(photometric))
    with open_slide(path) as found, tifffile.TiffFile(path) as tiff:
        decoded.clear()
        assert found.level_shapes == ((1051, 803), (526, 402))
        for level, series in enumerate(tiff.series[0].levels):
            assert np.array_equal(found.pyramid()[level].compute(), series.asarray())
    assert set(decoded) == {(128, 128, 3)}


@pytest.mark.parametrize("step", [3, 4])
def test_levels_that_are_no_whole_fraction_are_not_interpolated(tmp_path, tissue, decoded, step):
    """OpenSlide mixes neighbouring pixels there, since a place is given to it in whole pixels of level 0."""
    path = write(tmp_path / "a.tif", tissue, Kind(step=step))
    with open_slide(path) as found, tifffile.TiffFile(path) as tiff:
        expected = tiff.pages[1].asarray()
        assert np.array_equal(pixels_of(found, 1, 101, 77, 60, 50), expected[101:161, 77:127])
    assert decoded


@pytest.mark.parametrize("kind", [Kind(compression="zlib"), Kind(tile=2048)])
def test_other_compressions_and_large_tiles_are_left_to_openslide(tmp_path, tissue, decoded, kind):
    path = write(tmp_path / "a.tif", tissue, kind)
    with open_slide(path) as found, tifffile.TiffFile(path) as tiff:
        assert np.abs(pixels_of(found, 0, 9, 9, 99, 99).astype(int) - tiff.asarray()[9:108, 9:108]).max() <= 1
    assert not decoded


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_a_slide_with_tiles_left_out_is_left_to_the_others_and_white_there(tmp_path, tissue, decoded, name):
    tile = jpeg8_encode(tissue[:128, :128], colorspace="RGB", outcolorspace="YCBCR", level=90)
    options = {"photometric": "ycbcr", "compression": "jpeg", "dtype": np.uint8, "shape": (128, 256, 3)}
    tifffile.imwrite(tmp_path / name, iter([tile, b""]), tile=(128, 128), **options)
    with open_slide(tmp_path / name, mpp=0.5) as found:
        image = found.read((0, 0), (128, 256), 0.5)
    assert image[:, :128].std() > 1
    assert (image[:, 128:] == 255).all()
    assert not decoded


def test_colours_that_the_tag_and_the_data_name_differently_are_openslides(tmp_path, tissue):
    """OpenSlide believes the tag, decoders the data."""
    path = write(tmp_path / "a.tif", tissue, Kind("ycbcr"))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            page.tags["PhotometricInterpretation"].overwrite(2)
    with open_slide(path) as found, openslide.OpenSlide(path) as vendor:
        expected = np.asarray(vendor.read_region((60, 60), 0, (200, 100)))[..., :3]
        assert np.array_equal(pixels_of(found, 0, 60, 60, 100, 200), expected)


def test_a_second_image_of_a_levels_size_is_not_taken_for_the_level(tmp_path, tissue):
    options = {"tile": (128, 128), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(tissue, **options, **RESOLUTION)
        tiff.write(255 - tissue, **options, **RESOLUTION)
    with open_slide(tmp_path / "a.tif") as found:
        assert found.level_shapes == ((1051, 803),)
        assert np.abs(found.read((0, 0), (1051, 803), 0.5).astype(int) - tissue).mean() < 4
        assert "holds 2 images" in found.notes[0]


@pytest.fixture(params=["a.tif", "a.ome.tif"])
def torn(request, tmp_path, tissue):
    """A slide whose tile of rows 128 to 256, columns 256 to 384 ends in zeros, from its middle on."""
    path = write(tmp_path / request.param, tissue)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        index = page.chunked[1] + 2
        offset, size = page.dataoffsets[index], page.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(offset + size // 2)
        file.write(bytes(size - size // 2))
    return path


def test_a_tile_that_ends_in_zeros_is_damaged_and_named(torn):
    """A lenient decoder gives half a tile and says nothing."""
    with open_slide(torn) as found:
        with pytest.raises(DamagedError, match=r"a\.(ome\.)?tif: damaged at level-0 x 300, y 200 \(level 0, 20x10\)"):
            pixels_of(found, 0, 200, 300, 10, 20)
        _, damaged = found.read_tolerant((0, 0), found.shape, 0.5)
    assert damaged == [(y, x, y + 128, x + 128) for y in (0, 128, 256) for x in (128, 256, 384)]


def test_the_places_beside_a_damaged_tile_are_read(torn):
    with open_slide(torn) as found, tifffile.TiffFile(torn) as tiff:
        expected = tiff.asarray(level=0)
        assert np.array_equal(pixels_of(found, 0, 0, 256, 128, 128), expected[:128, 256:384])


def test_a_slide_whose_first_tile_is_damaged_is_left_to_openslide(tmp_path, tissue, decoded):
    path = write(tmp_path / "a.tif", tissue)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages.first.dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(64))
    with open_slide(path) as found:
        decoded.clear()
        assert [box[:2] for box in found.read_tolerant((0, 0), (500, 500), 0.5)[1]] == [
            (0, 0),
            (0, 128),
            (128, 0),
            (128, 128),
        ]
    assert not decoded


def test_a_tile_that_claims_to_be_huge_is_damaged(tmp_path, tissue):
    path = write(tmp_path / "a.tif", tissue)
    with tifffile.TiffFile(path) as tiff:
        offset, size = tiff.pages.first.dataoffsets[8], tiff.pages.first.databytecounts[8]
    content = path.read_bytes()
    at = content.index(b"\xff\xc0", offset, offset + size) + 5
    path.write_bytes(content[:at] + b"\xff\x00\xff\x00" + content[at + 4 :])
    with open_slide(path) as found, pytest.raises(DamagedError):
        pixels_of(found, 0, 140, 140, 9, 9)


def test_a_tile_of_absurd_length_is_not_read_into_memory(tmp_path, tissue, decoded):
    path = write(tmp_path / "a.tif", tissue)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        counts = list(tiff.pages.first.databytecounts)
        tiff.pages.first.tags["TileByteCounts"].overwrite([*counts[:-1], 2**31])
    with open_slide(path) as found:
        assert pixels_of(found, 0, 0, 0, 100, 100).std() > 1
    assert not decoded


def test_a_file_cut_short_while_it_is_open_is_damaged_there(tmp_path, tissue):
    path = write(tmp_path / "a.tif", tissue)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        index = page.chunked[1] + 2
        end = page.dataoffsets[index] + 100
    with open_slide(path) as found:
        with path.open("r+b") as file:
            file.truncate(end)
        with pytest.raises(DamagedError):
            pixels_of(found, 0, 200, 300, 10, 20)
        assert pixels_of(found, 0, 0, 0, 128, 300).std() > 1


@pytest.mark.parametrize("pread", [True, False])
def test_threads_read_what_one_reads(tmp_path, tissue, monkeypatch, pread):
    """Also where the system has no pread."""
    if not pread:
        monkeypatch.delattr(pixels.os, "pread", raising=False)
    with open_slide(write(tmp_path / "a.tif", tissue)) as found:
        corners = [(y, x) for y in range(-20, 1000, 90) for x in range(-20, 700, 90)]
        serial = [found.read(corner, (150, 120), 0.7) for corner in corners]
        with ThreadPoolExecutor(4) as pool:
            threaded = list(pool.map(lambda corner: found.read(corner, (150, 120), 0.7), corners))
    assert all(np.array_equal(a, b) for a, b in zip(serial, threaded, strict=True))


def test_colours_are_converted_by_the_profile(tmp_path, tissue, swapped):
    path = write(tmp_path / "a.tif", tissue, iccprofile=swapped)
    with open_slide(path) as stored, open_slide(path, icc=True) as found:
        image = found.read((0, 0), (400, 400), 0.5).astype(int)
        assert np.abs(image - stored.read((0, 0), (400, 400), 0.5)[..., [1, 0, 2]]).max() <= 2
        assert found.icc == "sRGB by its profile sRGB built-in"


def test_a_slide_that_is_decoded_here_is_the_same_slide(tmp_path, monkeypatch):
    path = shutil.copy(samples.small_region_path(), tmp_path / "a.svs")
    with open_slide(path) as found:
        seen = found.fingerprint, found.level_shapes, found.mpp, found.mpp_source
    monkeypatch.setattr(openslide_reader, "direct_jpeg_levels", lambda path, pages, levels, convert: levels)
    with open_slide(path) as found:
        assert seen == (found.fingerprint, found.level_shapes, found.mpp, found.mpp_source)


def test_a_tile_that_windows_cut_is_decoded_once_and_one_that_lies_within_is_not_kept(tmp_path, tissue, decoded):
    with open_slide(write(tmp_path / "a.tif", tissue)) as found:
        decoded.clear()
        first = pixels_of(found, 0, 130, 130, 20, 20)
        whole = pixels_of(found, 0, 128, 128, 128, 256)
        assert len(decoded) == 3
        first[:] = 0
        assert np.array_equal(pixels_of(found, 0, 130, 130, 20, 20), whole[2:22, 2:22])
        assert len(decoded) == 3


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="lists open files through /proc")
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_the_reader_that_a_slide_was_opened_with_is_closed(tmp_path, tissue, name):
    path = write(tmp_path / name, tissue)

    def handles():
        return sum(os.path.realpath(f"/proc/self/fd/{number}") == str(path) for number in os.listdir("/proc/self/fd"))

    with open_slide(path) as found:
        found.read((0, 0), (99, 99), 0.5)
        assert handles() == 1
    assert handles() == 0
