"""Slides of which only a part was scanned: other programs count coordinates from that part."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import shapely
from made_predictions import predicted
from made_slides import leica

from napari_lpd import samples
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


@pytest.fixture
def scn(tmp_path):
    colours = np.random.default_rng(0).integers(90, 170, (EDGE // 64, EDGE // 64, 3), np.uint8)
    scanned = colours.repeat(64, 0).repeat(64, 1)
    scanned[:, : EDGE // 2, 1] = 40
    return leica(tmp_path / "s.scn", scanned, (X, Y))


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


def test_regions_of_which_some_lie_on_glass_are_an_error_that_names_these(scn, tmp_path, classes, capsys):
    """The same in training, in prediction and in measuring; what carries no class may lie on glass in training."""
    on_tissue = tmp_path / "good.geojson"
    document = {"type": "FeatureCollection", "features": json.loads(drawn(on_tissue, 100, 100).read_text())["features"]}
    glass = json.loads(drawn(tmp_path / "glass.geojson", -900, -900, names=("pink",)).read_text())["features"]
    mixed = tmp_path / "mixed.geojson"
    mixed.write_text(json.dumps(document | {"features": document["features"] + glass}))
    settings = TrainSettings(tile=64, tile_step=64, mpp=1)
    with pytest.raises(DataError, match=r"s\.scn: of 3 regions, 3 lie on glass; .*--origin"):
        TrainingSource(slide=scn, regions=mixed).load(classes, settings)
    glass[0]["properties"]["classification"]["name"] = "none"
    looked_at = tmp_path / "none.geojson"
    looked_at.write_text(json.dumps(document | {"features": document["features"] + glass}))
    assert len(TrainingSource(slide=scn, regions=looked_at).load(classes, settings).tiles)

    model = str(samples.model_path())
    quick = ["--set", "mpp=1", "--set", "tile=64", "--set", "overlap=16", "--set", "threads=1"]
    predict = ["predict", str(scn), "--model", model, *quick]
    assert main([*predict, "--regions", str(mixed), "--out", str(tmp_path / "no")]) == 2
    assert "s.scn: no tissue was found in region 3 of 3" in capsys.readouterr().err
    assert not (tmp_path / "no" / "s.zarr").exists()
    assert main([*predict, "--regions", str(on_tissue), "--out", str(tmp_path / "o")]) == 0
    measure = ["measure", str(tmp_path / "o" / "s.zarr")]
    assert main([*measure, "--regions", str(on_tissue), "--out", str(tmp_path / "a.csv")]) == 0
    assert (pd.read_csv(tmp_path / "a.csv").query("what == 'tissue'").area_mm2 > 0.02).all()
    capsys.readouterr()
    assert main([*measure, "--regions", str(mixed), "--out", str(tmp_path / "b.csv")]) == 2
    assert "s.scn: no predicted tissue in pink 3; correct or delete it" in capsys.readouterr().err
    assert not (tmp_path / "b.csv").exists()


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
    assert "a.svs: no predicted tissue in dark 1; correct or delete it" in capsys.readouterr().err
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
