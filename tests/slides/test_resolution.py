"""Where pixels are higher than wide, y and x stay apart, whatever part of a file says so."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_lpd.core.errors import SlideError
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.resolution import GivenMpp, choose_resolution
from napari_lpd.slides.tiff.reader import mpp_of_density

IMAGE = np.full((64, 96, 3), 99, np.uint8)
PER_CM = {"resolution": (40000, 20000), "resolutionunit": "CENTIMETER"}  # x, y: 0.25 and 0.5 µm per pixel
TILED = {"photometric": "rgb", "tile": (32, 32)}


def opened(path) -> tuple[tuple[float, float], str]:
    """Resolution (y, x) of a slide, and where it comes from."""
    with open_slide(path) as slide:
        return slide.mpp, slide.mpp_source


@pytest.mark.parametrize(
    ("unit", "resolution"), [("CENTIMETER", (40000, 20000)), ("INCH", (101600, 50800))], ids=["centimetre", "inch"]
)
@pytest.mark.parametrize("tile", [(32, 32), None], ids=["read by OpenSlide", "read by tifffile"])
def test_the_tags_of_a_tiff_say_y_and_x(tmp_path, tile, unit, resolution):
    options = {"photometric": "rgb", "tile": tile, "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, resolution=resolution, resolutionunit=unit, **options)
    mpp, source = opened(tmp_path / "a.tif")
    assert mpp == pytest.approx((0.5, 0.25))
    assert source == "TIFF resolution tags"


def test_a_vendors_file_without_a_resolution_of_its_own_has_that_of_its_tags(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.svs", IMAGE, description="Aperio Image |AppMag = 20", metadata=None, **TILED, **PER_CM
    )
    mpp, source = opened(tmp_path / "a.svs")
    assert mpp == pytest.approx((0.5, 0.25))
    assert source == "TIFF resolution tags"


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({"PhysicalSizeY": 0.5, "PhysicalSizeX": 0.25}, (0.5, 0.25)),
        ({"PhysicalSizeY": 0.5, "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm"}, (0.5, 0.25)),
        ({"PhysicalSizeY": 5e-4, "PhysicalSizeYUnit": "mm", "PhysicalSizeX": 0.25}, (0.5, 0.25)),
        ({"PhysicalSizeY": 5e-5, "PhysicalSizeYUnit": "cm", "PhysicalSizeX": 0.25}, (0.5, 0.25)),
    ],
)
def test_ome_metadata_say_y_and_x_in_their_units(tmp_path, size, expected):
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, metadata={"axes": "YXS", **size}, **TILED)
    mpp, source = opened(tmp_path / "a.ome.tif")
    assert mpp == pytest.approx(expected)
    assert source == "OME metadata"


@pytest.mark.parametrize("size", [{"PhysicalSizeY": 0.1}, {"PhysicalSizeY": 0.1, "PhysicalSizeX": 0.1,
                                                           "PhysicalSizeXUnit": "pixel"}])  # fmt: skip
def test_ome_metadata_that_say_it_by_half_leave_it_to_the_tags(tmp_path, size):
    tifffile.imwrite(tmp_path / "a.ome.tif", IMAGE, metadata={"axes": "YXS", **size}, **TILED, **PER_CM)
    mpp, source = opened(tmp_path / "a.ome.tif")
    assert mpp == pytest.approx((0.5, 0.25))
    assert source == "TIFF resolution tags"


def test_of_several_images_in_an_ome_tiff_the_first_says_it(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        for size in (0.5, 0.1):
            tiff.write(IMAGE, metadata={"axes": "YXS", "PhysicalSizeY": size, "PhysicalSizeX": size / 2}, **TILED)
    assert opened(tmp_path / "a.ome.tif")[0] == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize(
    ("density", "unit", "expected"),
    [
        ((20000.0, 40000.0), "centimeter", (0.5, 0.25)),
        ((50800.0, 101600.0), "inch", (0.5, 0.25)),
        ((20000.0, 40000.0), None, None),
        ((20000.0, 40000.0), "furlong", None),
        ((0.0, 40000.0), "inch", None),
        ((20000.0, -1.0), "inch", None),
        (None, "inch", None),
    ],
)
def test_a_density_becomes_micrometres_per_pixel(density, unit, expected):
    assert mpp_of_density(density, unit) == expected


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([(None, "first"), ((0.5, 0.25), "second"), ((1.0, 1.0), "third")], ((0.5, 0.25), "second")),
        ([((0.05, 20.0), "first")], ((0.05, 20.0), "first")),
        (
            [((0.04, 0.5), "first"), ((1.0, 1.0), "second")],
            (None, "first says 0.04 µm per pixel, which is not plausible"),
        ),
        ([((0.5, 20.1), "first")], (None, "first says 0.5 µm per pixel, which is not plausible")),
        ([(None, "first")], (None, "nothing in the file says it")),
        ([], (None, "nothing in the file says it")),
    ],
)
def test_the_first_resolution_that_is_there_counts(candidates, expected):
    assert choose_resolution("a.svs", candidates) == expected


@pytest.mark.parametrize("given", [GivenMpp(lacking=30.0), GivenMpp(override=30.0), GivenMpp(0.5, 30.0)])
def test_a_resolution_that_a_user_gives_must_be_plausible(given):
    with pytest.raises(SlideError) as caught:
        choose_resolution("a.svs", [((0.5, 0.5), "aperio metadata")], given)
    assert str(caught.value) == "a.svs: mpp=30 is not plausible; wanted 0.05 to 20 µm per pixel"


SAYS, SAYS_NONSENSE = [((0.499, 0.499), "aperio metadata")], [((900.0, 900.0), "TIFF resolution tags")]


@pytest.mark.parametrize(
    ("candidates", "given", "expected"),
    [
        (SAYS, GivenMpp(lacking=0.25), ((0.499, 0.499), "aperio metadata")),
        (SAYS, GivenMpp(override=0.25), ((0.25, 0.25), "given by the user instead of 0.499 (aperio metadata)")),
        (SAYS, GivenMpp(1.0, 0.25), ((0.25, 0.25), "given by the user instead of 0.499 (aperio metadata)")),
        (SAYS_NONSENSE, GivenMpp(lacking=0.25), ((0.25, 0.25), "given by the user")),
        (SAYS_NONSENSE, GivenMpp(override=0.25), ((0.25, 0.25), "given by the user")),
        ([], GivenMpp(lacking=0.25), ((0.25, 0.25), "given by the user")),
        ([(None, "first")], GivenMpp(1.0, 0.25), ((0.25, 0.25), "given by the user")),
    ],
)
def test_a_users_resolution_is_for_files_that_give_none_unless_it_overrides(candidates, given, expected):
    assert choose_resolution("a.svs", candidates, given) == expected
