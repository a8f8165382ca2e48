"""Slides of which only a part was scanned: other programs count coordinates from that part."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from made_predictions import predicted

from napari_lpd.cli.main import main
from napari_lpd.core.errors import DataError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.geojson import Frame, read_features
from napari_lpd.data.regions import Region, read_regions, write_regions
from napari_lpd.data.training_set import TrainingSource
from napari_lpd.results.export.geojson import read_mask, write_geojson
from napari_lpd.slides.formats import open_slide

X, Y, EDGE = 2000, 4000, 1024  # the scanned part, in level-0 pixels
SQUARE = np.array([[0, 0], [0, 300], [300, 300], [300, 0]], float)


def leica(path, scanned):
    """A Leica scn file: a collection of 8000 x 12000 pixels of 0.5 µm, of which 1024 x 1024 were scanned."""

    def image(name, size, offset, dims, objective):
        levels = "".join(f'<dimension r="{r}" ifd="{i}" sizeX="{w}" sizeY="{h}"/>' for r, (w, h, i) in enumerate(dims))
        return (
            f'<image name="{name}"><creationDate>2012-01-01T00:00:00Z</creationDate><device model="S" version="1"/>'
            f'<pixels sizeX="{dims[0][0]}" sizeY="{dims[0][1]}">{levels}</pixels>'
            f'<view sizeX="{size[0]}" sizeY="{size[1]}" offsetX="{offset[0]}" offsetY="{offset[1]}" spacingZ="0"/>'
            f"<scanSettings><objectiveSettings><objective>{objective}</objective></objectiveSettings>"
            "<illuminationSettings><numericalAperture>0.4</numericalAperture><illuminationSource>brightfield"
            "</illuminationSource></illuminationSettings></scanSettings></image>"
        )

    nm = 500
    described = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        '<collection name="c" sizeX="4000000" sizeY="6000000"><barcode>x</barcode>'
        + image("macro", (4_000_000, 6_000_000), (0, 0), [(256, 384, 0)], "0.6")
        + image("area", (EDGE * nm, EDGE * nm), (X * nm, Y * nm), [(EDGE, EDGE, 1), (256, 256, 2)], "20")
        + "</collection></scn>"
    )
    options = {"photometric": "rgb", "compression": "jpeg", "metadata": None, "tile": (256, 256)}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(np.full((384, 256, 3), 235, np.uint8), description=described, **options)
        for level, step in enumerate((1, 4)):
            per_cm = (20000 / 4**level,) * 2
            tiff.write(scanned[::step, ::step], resolution=per_cm, resolutionunit="CENTIMETER", **options)
    return path


@pytest.fixture
def scn(tmp_path):
    colours = np.random.default_rng(0).integers(90, 170, (EDGE // 64, EDGE // 64, 3), np.uint8)
    scanned = colours.repeat(64, 0).repeat(64, 1)
    scanned[:, : EDGE // 2, 1] = 40
    return leica(tmp_path / "s.scn", scanned)


def drawn(path, x, y, names=("dark", "pink")):
    """Squares side by side, as QuPath writes them."""
    features = [
        {
            "type": "Feature",
            "geometry": shapely.box(x + 500 * i, y, x + 500 * i + 300, y + 300).__geo_interface__,
            "properties": {"classification": {"name": name}},
        }
        for i, name in enumerate(names)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_a_slide_says_what_was_scanned(scn, tiny_tiff):
    with open_slide(scn) as slide, open_slide(tiny_tiff) as whole:
        assert slide.bounds == (Y, X, Y + EDGE, X + EDGE)
        assert Frame.of(slide).origin == (X, Y)
        assert Frame.of(slide, "slide").origin == (0, 0)
        assert whole.bounds is None
        assert Frame.of(whole).origin == (0, 0)


@pytest.mark.parametrize(("origin", "x", "y"), [("bounds", 100, 100), ("slide", X + 100, Y + 100)])
def test_regions_lie_where_the_other_program_drew_them(scn, tmp_path, classes, origin, x, y):
    path = drawn(tmp_path / "q.geojson", x, y)
    with open_slide(scn) as slide:
        found = read_features(path, Frame.of(slide, origin))
        assert found.features[0].geometry.bounds == (X + 100, Y + 100, X + 400, Y + 400)
        assert any("counted from x 2000, y 4000" in line for line in found.notes) == (origin == "bounds")
        [first, _] = read_regions(path, ["dark", "pink"], Frame.of(slide, origin))
        assert first.polygon().bounds == (X + 100, Y + 100, X + 400, Y + 400)
    source = TrainingSource(slide=scn, regions=path, origin=origin)
    tiles = source.load(classes, TrainSettings(tile=64, tile_step=64, mpp=1)).tiles
    assert tiles.origins[0][1:3] == ((Y + 100) // 2 + 1, (X + 100) // 2 + 1) or len(tiles) > 0
    assert min(each.y for each in tiles.origins) >= (Y + 90) // 2
    assert TrainingSource.parse(source.arguments()) == source


def test_regions_on_glass_are_an_error_in_training(scn, tmp_path, classes):
    path = drawn(tmp_path / "q.geojson", 100, 100)
    source = TrainingSource(slide=scn, regions=path, origin="slide")
    with pytest.raises(DataError, match=r"s\.scn: all regions lie on glass; .*--origin"):
        source.load(classes, TrainSettings(tile=64, tile_step=64, mpp=1))


def test_what_we_write_says_where_its_coordinates_begin(scn, tmp_path, classes):
    regions = [Region(np.add(SQUARE, (Y + 10, X + 20)), ("dark",))]
    with open_slide(scn) as slide:
        for counted_from, first in (("bounds", [20, 10]), ("slide", [X + 20, Y + 10])):
            path = write_regions(
                tmp_path / f"{counted_from}.geojson", regions, classes, frame=Frame.of(slide, counted_from)
            )
            document = json.loads(path.read_text())
            assert document["features"][0]["geometry"]["coordinates"][0][0] == first
            for read_as in ("bounds", "slide"):  # the file's own word counts
                [back] = read_regions(path, frame=Frame.of(slide, read_as))
                assert np.allclose(back.vertices, regions[0].vertices)
        plain = write_regions(tmp_path / "plain.geojson", regions, classes)
        assert np.allclose(read_regions(plain, frame=Frame.of(slide))[0].vertices, regions[0].vertices)


@pytest.fixture
def prediction(tmp_path, classes):
    labels = np.zeros((300, 200), np.uint8)
    labels[100:150, 50:100] = 1
    tissue = np.zeros((30, 30), bool)
    tissue[3:10, 1:8] = True  # of 16 µm
    about = {"slide_origin": (100, 200), "slide_mpp": (0.5, 0.5), "slide_shape": (300, 200)}
    return predicted(tmp_path / "a.zarr", labels, classes, tissue=tissue, **about)


@pytest.mark.parametrize(("origin", "bounds"), [("bounds", (-50, -100, 0, -50)), ("slide", (50, 100, 100, 150))])
def test_outlines_are_written_where_the_other_program_looks_for_them(prediction, tmp_path, origin, bounds, capsys):
    path = tmp_path / "o.geojson"
    assert main(["export", str(prediction.folder), "--to", str(path), "--origin", origin]) == 0
    assert ("counted from x 100, y 200" in capsys.readouterr().err) == (origin == "bounds")
    document = json.loads(path.read_text())
    assert shapely.from_geojson(json.dumps(document["features"][0]["geometry"])).bounds == bounds
    assert document["napari_lpd"]["origin"] == ([100, 200] if origin == "bounds" else [0, 0])
    mask = read_mask(path)
    assert mask.origin == (100, 50)
    run(write_geojson(prediction, tmp_path / "again.geojson"))


def test_regions_are_measured_where_they_were_drawn_and_on_glass_refused(prediction, tmp_path, capsys):
    def measured(origin, x, y):
        path = drawn(tmp_path / "q.geojson", x, y, names=("dark",))
        out = tmp_path / f"{origin} {x}.csv"
        command = ["measure", str(prediction.folder), "--regions", str(path), "--origin", origin, "--out", str(out)]
        code = main(command)
        return (
            (code, None) if code else (code, pd.read_csv(out).set_index(["region", "what"]).area_mm2["dark 1", "dark"])
        )

    assert measured("bounds", -60, -110) == (0, pytest.approx(2500 * 0.25e-6))
    assert measured("slide", 40, 90) == (0, pytest.approx(2500 * 0.25e-6))
    capsys.readouterr()
    assert measured("slide", -285, 90) == (2, None)
    assert "none of its regions holds tissue of a.svs" in capsys.readouterr().err
    assert measured("slide", 900, 900) == (2, None)
    assert "left out, outside a.svs (200 x 300 pixels): feature 1" in capsys.readouterr().err


def test_results_of_slides_of_one_name_are_told_apart_in_one_table(tmp_path, classes):
    folders = []
    for i, name in enumerate(("P1", "P2")):
        (tmp_path / name).mkdir()
        labels = np.full((64, 64), i + 1, np.uint8)
        folders.append(str(predicted(tmp_path / name / "a.zarr", labels, classes, slide_hash=name).folder))
    assert main(["measure", *folders, "--out", str(tmp_path / "m.csv")]) == 0
    table = pd.read_csv(tmp_path / "m.csv")
    assert set(table.slide) == {"a.svs (P1/a.zarr)", "a.svs (P2/a.zarr)"}
    dark = table[table.what == "dark"].set_index("slide").area_mm2
    assert dark["a.svs (P1/a.zarr)"] > dark["a.svs (P2/a.zarr)"] == 0
