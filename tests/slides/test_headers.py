"""Numbers in a TIFF's header are claims: whatever they say, a slide opens with its pixels or one line says why not."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import oddities as odd
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_lpd.core.errors import SlideError
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.tiff import directories
from napari_lpd.slides.tiff import pixels as pixels_module
from napari_lpd.slides.tissue import find_tissue

IMAGE = odd.image()
SECONDS, BYTES = 10, 2**30
VISIBLE = (258, 277, 284, 322, 323, 324, 325, 339)  # tags of which a lie is seen, or changes nothing


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small pyramid for every container: name → bytes of the file."""
    folder = tmp_path_factory.mktemp("sound")
    writers = {"plain": odd.plain_pyramid, "ome": odd.ome_pyramid, "strips": odd.plain_strips, "planar": odd.planar}
    for name, write in writers.items():
        for codec in ("none", "deflate", "jpeg"):
            write(folder / f"{name}-{codec}.tif", IMAGE, codec)
    return {path.name: odd.Header(path) for path in sorted(folder.iterdir())}


def changed(header: odd.Header, *lies: tuple[int, int, int]) -> bytes:
    """The file with other numbers in its header: (place, value, bytes)."""
    lying = odd.Header.__new__(odd.Header)
    lying.content = bytearray(header.content)
    for place, value, size in lies:
        lying.lie(place, value, size)
    return bytes(lying.content)


def looked_at(path) -> tuple[np.ndarray, list] | str:
    """Open a slide, look for tissue and read it: pixels of level 0 and damaged cells, or the one line of its error."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with open_slide(path, 0.5) as slide:
            find_tissue(slide)
            height, width = (min(n, 512) for n in slide.shape)
            return slide.read_tolerant((0, 0), (height, width), 0.5)
    except SlideError as error:
        assert "\n" not in str(error)
        assert path.name in str(error)
        return str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert time.perf_counter() - began < SECONDS
        assert peak < BYTES


CIRCLES = {
    "to itself": lambda h: [(h.nexts[0], h.number(4), 4)],
    "the last to the first": lambda h: [(h.nexts[-1], h.number(4), 4)],
    "the last to itself": lambda h: [(h.nexts[-1], h.number(h.nexts[-2]), 4)],
}


@pytest.mark.parametrize("circle", CIRCLES)
def test_directories_that_run_in_a_circle_are_refused(tmp_path, circle):
    odd.plain_pyramid(tmp_path / "a.tif", IMAGE, "deflate")
    header = odd.Header(tmp_path / "a.tif")
    for name in ("a.tif", "a.svs", "a.ome.tif"):
        (tmp_path / name).write_bytes(changed(header, *CIRCLES[circle](header)))
        assert "in a circle" in looked_at(tmp_path / name)


def test_a_directory_that_is_its_own_child_is_refused_or_ignored(tmp_path):
    odd.ome_pyramid(tmp_path / "a.tif", IMAGE, "deflate")
    header = odd.Header(tmp_path / "a.tif")
    (tmp_path / "a.tif").write_bytes(changed(header, (header.values[0, 330], header.number(4), 4)))
    pixels, damaged = looked_at(tmp_path / "a.tif")
    assert np.array_equal(pixels, IMAGE)
    assert not damaged


def test_the_number_of_directories_is_bounded(tmp_path, monkeypatch):
    odd.several(tmp_path / "a.tif", [(IMAGE[:64, :64], odd.page()) for _ in range(9)])
    monkeypatch.setattr(directories, "MAX_DIRECTORIES", 8)
    assert "holds over 8 images" in looked_at(tmp_path / "a.tif")


ODD_NUMBERS = [0, 1, 2, 3, 8, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1]
SIZES = [0, 1, 2, 2**8, 2**14, 10**6, 2**24, 2**31 - 1, 2**32 - 1]


@pytest.mark.parametrize("place", ["width", "height", "both", "tile", "all"])
@pytest.mark.parametrize("size", SIZES)
def test_an_image_that_cannot_be_is_refused_in_bounded_time_and_memory(tmp_path, sound, place, size):
    tags = {"width": (256,), "height": (257,), "both": (256, 257), "tile": (322, 323), "all": (256, 257, 322, 323)}
    for name, header in sound.items():
        lies = [(header.values[0, tag], size, 4) for tag in tags[place] if (0, tag) in header.values]
        kinds = [(header.values[0, tag] - 6, 4, 2) for tag in tags[place] if (0, tag) in header.values]
        (tmp_path / name).write_bytes(changed(header, *kinds, *lies))
        found = looked_at(tmp_path / name)
        if size > 2**14 and lies:
            assert isinstance(found, str)


@pytest.mark.parametrize("value", [0, 3, 4, 255])
def test_planar_configurations_are_one_and_two(tmp_path, sound, value):
    for name, header in sound.items():
        (tmp_path / name).write_bytes(changed(header, (header.values[0, 284], value, 2)))
        assert f"planar configuration {value}" in looked_at(tmp_path / name)


@pytest.mark.parametrize("rows", [0, 1, 7, 300])
def test_a_level_of_impossible_size_is_left_out(tmp_path, sound, rows):
    for name in ("plain-deflate.tif", "plain-jpeg.tif", "plain-none.tif"):
        header = sound[name]
        (tmp_path / name).write_bytes(changed(header, (header.values[1, 257], rows, 2)))
        with open_slide(tmp_path / name, 0.5) as slide:
            assert slide.level_shapes == ((256, 384),)
            assert np.abs(slide.read((0, 0), (256, 384), 0.5).astype(int) - IMAGE).max() < 9


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_number_of_a_header_may_lie(tmp_path, sound, data):
    name = data.draw(st.sampled_from(sorted(sound)), "file")
    header = sound[name]
    place, size = data.draw(st.sampled_from(header.fields), "place")
    value = data.draw(
        st.sampled_from([0, 1, 2, 3, 8, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)
    )
    path = tmp_path / name
    path.write_bytes(changed(header, (place, value, size)))
    found = looked_at(path)
    seen = {header.values[0, tag] for tag in VISIBLE if (0, tag) in header.values}
    if not isinstance(found, str) and place in seen:
        pixels, damaged = found
        for y0, x0, y1, x1 in damaged:
            pixels[y0:y1, x0:x1] = IMAGE[y0:y1, x0:x1]
        assert pixels.shape == IMAGE.shape
        assert np.abs(pixels.astype(int) - IMAGE).max() < 9


def sparse(path, side: int) -> None:
    """A tiled TIFF of which one tile is there and the others are left out."""
    count = (side // 256) ** 2
    tiles = (np.zeros((256, 256, 3), np.uint8) if i == 0 else None for i in range(count))
    options = {"photometric": "rgb", "compression": "zlib", "metadata": None}
    tifffile.imwrite(path, tiles, shape=(side, side, 3), dtype=np.uint8, tile=(256, 256), **options)


def test_tiles_that_are_left_out_are_white_and_are_not_believed_without_end(tmp_path):
    sparse(tmp_path / "small.tif", 2048)
    with open_slide(tmp_path / "small.tif", 0.5) as slide:
        assert slide.read((0, 0), (300, 300), 0.5)[255:257, 255].tolist() == [[0, 0, 0], [255, 255, 255]]
        assert slide.reader == "tifffile"
    sparse(tmp_path / "large.tif", 2**15)
    assert "says it has 32768 x 32768 pixels, and cannot" in looked_at(tmp_path / "large.tif")


def test_a_short_strip_that_says_it_is_large_is_refused(tmp_path, sound):
    header = sound["strips-deflate.tif"]
    width = header.values[0, 256]
    (tmp_path / "a.tif").write_bytes(changed(header, (width - 6, 4, 2), (width, 10**6, 4)))
    assert "bytes of its strips or tiles" in looked_at(tmp_path / "a.tif")


def test_a_large_part_that_is_damaged_is_tried_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels_module, "LARGE", 1000)
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", compression="lzma", rowsperstrip=256)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        offset = tiff.pages.first.dataoffsets[0]
    with (tmp_path / "a.tif").open("r+b") as file:
        file.seek(offset + 100)
        file.write(b"\x55" * 100)
    with open_slide(tmp_path / "a.tif", 0.5) as slide:
        image, damaged = slide.read_tolerant((0, 0), (256, 384), 0.5)
    assert len(damaged) == 6
    assert (image == 255).all()
