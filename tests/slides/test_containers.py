"""TIFF as labs and programs write it: every codec in every container, and which image of a file is the slide."""

from __future__ import annotations

import numpy as np
import oddities as odd
import pytest
import tifffile

from napari_lpd.core.errors import SlideError
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.levels import is_level
from napari_lpd.slides.openslide_reader import _bounds

IMAGE = odd.image()
SMALL = odd.half(IMAGE)
TINY = odd.half(SMALL)
OTHER = 255 - IMAGE
MACRO = np.full((80, 400, 3), 230, np.uint8)


def pixels(slide, level: int = 0) -> np.ndarray:
    """All pixels of a level."""
    return slide._read_level(level, 0, 0, *slide.level_shapes[level])


@pytest.mark.parametrize("codec", odd.CODECS)
@pytest.mark.parametrize("container", odd.CONTAINERS)
def test_every_codec_is_read_in_every_container(tmp_path, container, codec):
    name, write = odd.CONTAINERS[container]
    try:
        write(tmp_path / name, IMAGE, codec)
    except ValueError:
        pytest.skip(f"{codec} cannot be written so")
    with open_slide(tmp_path / name) as slide:
        assert np.abs(pixels(slide).astype(int) - IMAGE).max() <= (8 if codec in odd.LOSSY else 0)
        assert slide.mpp == pytest.approx((odd.MPP, odd.MPP))
        assert len(slide.level_shapes) == (2 if "pyramid" in container or "renamed" in container else 1)
        assert slide.notes == ()


@pytest.mark.parametrize("compression", [32809, 34676, 50099])
def test_a_codec_that_nobody_here_knows_is_not_called_damage(tmp_path, compression):
    odd.plain_tiled(tmp_path / "a.tif", IMAGE, "deflate")
    header = odd.Header(tmp_path / "a.tif")
    header.lie(header.values[0, 259], compression, 2)
    (tmp_path / "a.tif").write_bytes(header.content)
    with pytest.raises(SlideError) as caught, open_slide(tmp_path / "a.tif") as slide:
        pixels(slide)
    assert "damaged" not in str(caught.value)
    assert "vips" in str(caught.value)


@pytest.mark.parametrize("masks_first", [False, True])
def test_masks_are_no_levels(tmp_path, masks_first):
    odd.with_masks(tmp_path / "a.tif", IMAGE, masks_first)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.level_shapes == ((256, 384), (128, 192))
        assert np.array_equal(pixels(slide), IMAGE)
        assert np.array_equal(pixels(slide, 1), SMALL)


def test_a_file_of_masks_alone_is_refused(tmp_path):
    mask = {"photometric": "mask", "tile": odd.TILE, "metadata": None, "subfiletype": 4}
    odd.several(tmp_path / "a.tif", [(np.ones((64, 64), np.bool_), mask)])
    with pytest.raises(SlideError, match="only masks"):
        open_slide(tmp_path / "a.tif")


FIRST = {  # what comes before the slide, or beside it: images of an OME-TIFF or of a plain one
    "macro": [(MACRO, odd.page(metadata=odd.size_of_pixels(16.0, name="macro")))],
    "label": [(MACRO[:, :80], odd.page(tile=None, metadata=odd.size_of_pixels(name="label")))],
    "striped thumbnail": [(TINY, odd.page(tile=None, rowsperstrip=16))],
    "two thumbnails": [(TINY, odd.page(tile=None)), (MACRO[:20], odd.page(tile=None))],
    "grey overview": [(TINY[..., 0], odd.page(photometric="minisblack"))],
    "big label": [(np.vstack([OTHER, OTHER]), odd.page(metadata=odd.size_of_pixels(name="Label Image")))],
}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("ome", [True, False])
@pytest.mark.parametrize("what", FIRST)
def test_the_largest_image_is_the_slide_and_the_others_are_said(tmp_path, what, ome, before):
    if what == "big label" and not ome:
        pytest.skip("only OME metadata say that it is a label")
    name = "a.ome.tif" if ome else "a.tif"
    others = [(content, options if ome else options | {"metadata": None}) for content, options in FIRST[what]]
    whole = [(IMAGE, odd.page(metadata=odd.size_of_pixels() if ome else None) | ({} if ome else odd.PER_CM))]
    odd.several(tmp_path / name, [*others, *whole] if before else [*whole, *others], ome)
    with open_slide(tmp_path / name) as slide:
        assert slide.level_shapes == ((256, 384),)
        assert np.array_equal(pixels(slide), IMAGE)
        assert slide.mpp == pytest.approx((odd.MPP, odd.MPP))
        assert "--image N" in slide.notes[0]
        assert slide.resolution.endswith(slide.notes[0])  # which training and comparison show


def test_a_tiled_thumbnail_before_the_slide_is_one_of_its_levels(tmp_path):
    odd.several(tmp_path / "a.tif", [(TINY, odd.page(subfiletype=1)), (IMAGE, odd.page() | odd.PER_CM)])
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.level_shapes == ((256, 384), (64, 96))
        assert np.array_equal(pixels(slide), IMAGE)


@pytest.mark.parametrize("ome", [True, False])
def test_of_several_scenes_any_can_be_chosen(tmp_path, ome):
    name = "a.ome.tif" if ome else "a.tif"
    one = odd.page(metadata=odd.size_of_pixels(0.25, name="one") if ome else None)
    two = odd.page(metadata=odd.size_of_pixels(0.5, name="two") if ome else None)
    odd.several(tmp_path / name, [(IMAGE[:200], one), (OTHER, two)], ome)
    with open_slide(tmp_path / name, 0.5) as slide, open_slide(tmp_path / name, 0.5, image=2) as second:
        assert np.array_equal(pixels(slide), OTHER)
        assert np.array_equal(pixels(second), OTHER)
        assert second.fingerprint == slide.fingerprint
    with open_slide(tmp_path / name, 0.5, image=1) as first:
        assert np.array_equal(pixels(first), IMAGE[:200])
        assert first.notes == ()
        assert first.fingerprint != slide.fingerprint
    with pytest.raises(SlideError, match=r"holds no image 3; its images are 1 .*384 x 200, 2 .*384 x 256"):
        open_slide(tmp_path / name, 0.5, image=3)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_picture_holds_one_image(tmp_path, name):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    from PIL import Image

    Image.fromarray(IMAGE).save(tmp_path / name)
    open_slide(tmp_path / name, image=1).close()
    with pytest.raises(SlideError, match="holds no image 2"):
        open_slide(tmp_path / name, image=2)


def test_a_bigger_image_that_is_not_rgb_is_not_passed_over(tmp_path):
    deep = {"photometric": "minisblack", "tile": odd.TILE, "metadata": None}
    odd.several(tmp_path / "a.tif", [(SMALL, odd.page()), (IMAGE[..., 0].astype(np.uint16), deep)])
    with pytest.raises(SlideError, match="uint16"):
        open_slide(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif", image=1) as slide:
        assert np.array_equal(pixels(slide), SMALL)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_sub_resolutions_of_ome_come_in_any_order(tmp_path, order):
    levels = [SMALL, TINY, odd.half(TINY)]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        tiff.write(IMAGE, **odd.page(metadata=odd.size_of_pixels(), subifds=3))
        for place in order:
            tiff.write(levels[place], **odd.page(subfiletype=1))
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.level_shapes == ((256, 384), (128, 192), (64, 96), (32, 48))
        assert all(np.array_equal(pixels(slide, i + 1), level) for i, level in enumerate(levels))


NO_LEVELS = {
    "padded": np.full((128, 256, 3), 9, np.uint8),
    "other aspect": np.full((100, 192, 3), 9, np.uint8),
    "of the same size": OTHER,
    "higher": np.full((300, 192, 3), 9, np.uint8),
    "a mask": (np.ones((128, 192), np.bool_), {"photometric": "mask", "subfiletype": 5}),
    "grey": (SMALL[..., 0], {"photometric": "minisblack"}),
}


@pytest.mark.parametrize("place", ["SubIFD", "beside"])
@pytest.mark.parametrize("what", NO_LEVELS)
def test_what_is_no_smaller_copy_is_no_level(tmp_path, what, place):
    found = NO_LEVELS[what]
    content, options = found if isinstance(found, tuple) else (found, {})
    below = place == "SubIFD"
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(IMAGE, **odd.page(subifds=2 if below else None), **odd.PER_CM)
        tiff.write(content, **odd.page(**{"subfiletype": 1} | options))
        tiff.write(TINY, **odd.page(subfiletype=1))
    if what == "higher" and place == "beside":
        with open_slide(tmp_path / "a.tif", image=1) as slide:
            assert slide.level_shapes == ((256, 384), (64, 96))
        return
    with open_slide(tmp_path / "a.tif", image=1) as slide:
        assert slide.level_shapes == ((256, 384), (64, 96))
        assert np.array_equal(pixels(slide), IMAGE)
        assert np.array_equal(pixels(slide, 1), TINY)


@pytest.mark.parametrize(
    ("shape", "level"),
    [
        *[((100, 150), True), ((50, 75), True), ((33, 50), True), ((34, 50), True), ((25, 37), True), ((25, 38), True)],
        *[((1, 1), True), ((67, 100), True), ((66, 100), True)],
        *[((200, 300), False), ((200, 150), False), ((100, 160), False), ((0, 0), False), ((300, 450), False)],
        *[((50, 80), False), ((128, 150), False)],
    ],
)
def test_a_level_has_one_factor_rounded_to_whole_pixels(shape, level):
    assert is_level(shape, (200, 300)) is level


UNITS = {  # unit: size of half a micrometre
    **{"µm": 0.5, "μm": 0.5, "um": 0.5, "nm": 500.0, "pm": 5e5, "mm": 5e-4, "cm": 5e-5, "dm": 5e-6, "m": 5e-7},
    **{"dam": 5e-8, "hm": 5e-9, "km": 5e-10, "Mm": 5e-13, "fm": 5e8, "\u00c5": 5e3, "\u212b": 5e3, "in": 0.5 / 25400},
    **{"thou": 0.5 / 25.4, "ft": 0.5 / 304800, "yd": 0.5 / 914400, "pt": 0.5 * 72 / 25400, "li": 6 / 25400},
    **{"mi": 0.5 / 1609344e3, "micron": 0.5, None: 0.5},
}


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_of_length_is_converted(tmp_path, unit):
    odd.several(tmp_path / "a.ome.tif", [(IMAGE, odd.page(metadata=odd.size_of_pixels(UNITS[unit], unit)))], ome=True)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert slide.mpp_source == "OME metadata"


def test_a_unit_that_is_not_known_is_said_and_no_other_source_is_believed(tmp_path):
    options = odd.page(metadata=odd.size_of_pixels(0.25, "furlong")) | odd.PER_CM
    odd.several(tmp_path / "a.ome.tif", [(IMAGE, options)], ome=True)
    with open_slide(tmp_path / "a.ome.tif") as slide, pytest.raises(SlideError, match=r"give 0\.25 furlong, a unit"):
        _ = slide.mpp
    with open_slide(tmp_path / "a.ome.tif", mpp=0.25) as slide:
        assert slide.mpp == (0.25, 0.25)


@pytest.mark.parametrize("name", ["a.ome.tif", "a.tif"])
@pytest.mark.parametrize(
    ("description", "said"),
    [(odd.binary_only("x.companion.ome"), r"x\.companion\.ome"), (odd.cut_off(), "cut off or damaged")],
)
def test_ome_metadata_that_are_elsewhere_or_cut_off_leave_it_to_the_tags(tmp_path, name, description, said):
    odd.described(tmp_path / name, IMAGE, description)
    with open_slide(tmp_path / name) as slide:
        assert np.array_equal(pixels(slide), IMAGE)
        assert slide.mpp == pytest.approx((odd.MPP, odd.MPP))
        assert said.replace("\\", "") in slide.notes[0]
    odd.described(tmp_path / name, IMAGE, description, resolution=(1, 1), resolutionunit="NONE")
    with open_slide(tmp_path / name) as slide, pytest.raises(SlideError, match=said):
        _ = slide.mpp


def test_an_svs_that_only_tifffile_reads_has_the_resolution_of_its_description(tmp_path):
    odd.described(tmp_path / "a.svs", IMAGE, "Aperio Image |AppMag = 20|MPP = 0.4990", compression="zstd")
    with open_slide(tmp_path / "a.svs") as slide:
        assert slide.mpp == pytest.approx((0.499, 0.499))
        assert np.array_equal(pixels(slide), IMAGE)


@pytest.mark.parametrize("codec", ["none", "deflate"])
@pytest.mark.parametrize("write", [odd.plain_strips, odd.plain_tiled, odd.planar, odd.ome_pyramid])
def test_a_file_that_shrinks_while_it_is_read_is_damaged_there(tmp_path, write, codec):
    path = tmp_path / "a.ome.tif"
    write(path, IMAGE, codec)
    size = path.stat().st_size
    with open_slide(path) as slide:
        first = slide.read((0, 0), (16, 16), odd.MPP)
        with path.open("r+b") as file:
            file.truncate(size // 4)
        image, damaged = slide.read_tolerant((0, 0), (256, 384), odd.MPP)
    assert damaged
    assert (image[-1, -1] == 255).all()
    assert np.array_equal(first, IMAGE[:16, :16])


@pytest.mark.parametrize("step", [0, 10**6])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("positioned", [False, True])
def test_windows_of_stored_rows_are_right_however_they_are_read(tmp_path, monkeypatch, step, planar, positioned):
    for name in () if positioned else ("pread", "preadv"):  # which Windows has not
        monkeypatch.delattr(f"os.{name}")
    monkeypatch.setattr("napari_lpd.slides.tiff.pixels.STEP", step)
    monkeypatch.setattr("napari_lpd.slides.tiff.pixels.TOGETHER", 3000)
    if planar:
        odd.planar(tmp_path / "a.tif", IMAGE, "none")
    else:
        tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb")
    with open_slide(tmp_path / "a.tif", 0.5) as slide:
        for y, x, h, w in ((100, 370, 50, 14), (100, 3, 50, 300), (200, 0, 56, 384), (255, 383, 1, 1)):
            found = slide._read_level(0, y, x, h, w)
            assert np.array_equal(found, IMAGE[y : y + h, x : x + w])
            assert found.flags.writeable


@pytest.mark.parametrize("name", ["a", "a.png", "a.jpg", "a.svs", "a.ome.tif", "a.dcm"])
@pytest.mark.parametrize("form", ["<", ">", "big"])
def test_a_tiff_is_known_by_its_content_whatever_its_name_says(tmp_path, name, form):
    path = tmp_path / name
    order = {"bigtiff": True} if form == "big" else {"byteorder": form}
    with tifffile.TiffWriter(path, ome=False, **order) as tiff:
        for level, image in enumerate((IMAGE, IMAGE[::2, ::2])):
            tiff.write(image, photometric="rgb", tile=(64, 64), subfiletype=min(level, 1), metadata=None)
    with open_slide(path, 0.5) as slide:
        assert slide.level_shapes == (IMAGE.shape[:2], (128, 192))
        assert np.array_equal(slide.read((0, 0), IMAGE.shape[:2], 0.5), IMAGE)


def test_a_scanners_area_is_known_where_the_file_says_it(tmp_path):
    odd.leica_scn(tmp_path / "a.scn", IMAGE, corner=(512, 256))
    with open_slide(tmp_path / "a.scn") as slide:
        assert slide.bounds == (256, 512, 512, 896)
        y0, x0, y1, x1 = slide.bounds
        scanned = slide.read((y0, x0), (y1 - y0, x1 - x0), odd.MPP)
        assert np.abs(scanned.astype(int) - IMAGE).max() < 9
        assert (slide.read((0, 0), (200, 200), odd.MPP) == 255).all()
    odd.plain_tiled(tmp_path / "a.tif", IMAGE, "deflate")
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.bounds is None


@pytest.mark.parametrize("value", ["", "a", "-1"])
def test_bounds_that_are_no_numbers_are_none(value):
    properties = {f"openslide.bounds-{part}": "10" for part in ("x", "y", "width", "height")}
    assert _bounds(properties) == (10, 10, 20, 20)
    assert _bounds(properties | {"openslide.bounds-width": value}) is None


def ome_xml(tiff_data: str, uuid: str = 'UUID="urn:uuid:1"') -> str:
    """OME-XML of one RGB image whose planes are said by `tiff_data`."""
    sizes = 'SizeX="384" SizeY="256" SizeC="3" SizeZ="1" SizeT="1" DimensionOrder="XYCZT" Type="uint8"'
    size = f'PhysicalSizeX="{odd.MPP}" PhysicalSizeY="{odd.MPP}"'
    pixels = f'<Pixels ID="Pixels:0" {sizes} {size}><Channel ID="Channel:0:0" SamplesPerPixel="3"/>{tiff_data}</Pixels>'
    return odd.OME.replace("<OME ", f"<OME {uuid} ") + f'<Image ID="Image:0" Name="a">{pixels}</Image></OME>'


IN_THIS_FILE = {
    "no TiffData": ("", True),
    "an empty one": ("<TiffData/>", True),
    "by number": ('<TiffData IFD="0"/>', True),
    "by its UUID, renamed": ('<TiffData IFD="0"><UUID FileName="old.ome.tif">urn:uuid:1</UUID></TiffData>', True),
    "by its name": ('<TiffData IFD="0"><UUID FileName="A.ome.tif">urn:uuid:9</UUID></TiffData>', True),
    "in another file": ('<TiffData IFD="0"><UUID FileName="b.ome.tif">urn:uuid:2</UUID></TiffData>', False),
    "behind the last": ('<TiffData IFD="7"/>', False),
    "of too many planes": ('<TiffData IFD="0" PlaneCount="99999999999"/>', True),
    "no number": ('<TiffData IFD="x"/>', False),
}


@pytest.mark.parametrize("what", IN_THIS_FILE)
def test_ome_images_are_those_of_this_file(tmp_path, what):
    tiff_data, ours = IN_THIS_FILE[what]
    odd.described(tmp_path / "a.ome.tif", IMAGE, ome_xml(tiff_data))
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert np.array_equal(pixels(slide), IMAGE)
        assert slide.mpp_source == ("OME metadata" if ours else "TIFF resolution tags")
        assert bool(slide.notes) is not ours


def test_a_qptiff_of_rgb_is_read_as_the_tiff_that_it_is(tmp_path):
    path, outer = tmp_path / "a.qptiff", "PerkinElmer-QPI-ImageDescription"
    said = f"<{outer}><ImageType>{{}}</ImageType></{outer}>"
    images = [
        (IMAGE, odd.page(description=said.format("FullResolution")) | odd.PER_CM),
        (IMAGE[::8, ::8], {"photometric": "rgb", "metadata": None, "description": said.format("Thumbnail")}),
        (odd.half(IMAGE), odd.page(description=said.format("ReducedResolution"), subfiletype=1)),
        (IMAGE[:40], {"photometric": "rgb", "metadata": None, "description": said.format("Overview")}),
    ]
    odd.several(path, images)
    with open_slide(path) as slide:
        assert slide.level_shapes == ((256, 384), (128, 192))
        assert slide.mpp == (0.5, 0.5)
        assert np.array_equal(slide.read((0, 0), (256, 384), 0.5), IMAGE)
