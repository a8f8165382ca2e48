"""Outlines of a few pixels, as they stand in the file, and drawn back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from made_predictions import predicted

from napari_lpd.core.errors import DataError, ExportError
from napari_lpd.core.jobs import run
from napari_lpd.results.export.geojson import feature, labels_of_shapes, read_mask, read_shapes, write_geojson

LABELS = np.zeros((48, 64), np.uint8)
LABELS[8:24, 16:40] = 1
LABELS[12:16, 20:24] = 0  # a hole
LABELS[24:32, 40:56] = 2
LABELS[40:44, 4:8] = 255


@pytest.fixture
def prediction(classes, tmp_path):
    """0.5 µm per pixel, of a slide of 0.25 µm in y and 0.2 µm in x."""
    return predicted(tmp_path / "a.zarr", LABELS, classes, slide_mpp=(0.25, 0.2), slide_shape=(96, 160))


def exported(prediction, path, **options):
    return run(write_geojson(prediction, path, **options))


def a_file(path, *boxes, **about):
    """Boxes (x0, y0, x1, y1, class) in level-0 pixels."""
    features = [
        {"type": "Feature", "geometry": shapely.box(*box[:4]).__geo_interface__,
         "properties": {"classification": {"name": box[4]}}}
        for box in boxes
    ]  # fmt: skip
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, "napari_lpd": about}))
    return path


def test_outlines_lie_in_pixels_of_the_slide(prediction, tmp_path):
    document = json.loads(exported(prediction, tmp_path / "a.geojson").read_text())
    found = {}
    for each in document["features"]:
        rings = [shapely.Polygon(ring).bounds for ring in each["geometry"]["coordinates"]]
        found[each["properties"]["classification"]["name"]] = (rings, each["properties"]["classification"]["color"])
    assert found == {  # y twice, x two and a half times the pixel's
        "dark": ([(40, 16, 100, 48), (50, 24, 60, 32)], [59, 76, 255]),
        "pink": ([(100, 48, 140, 64)], [255, 140, 26]),
        "unreadable": ([(10, 80, 20, 88)], [128, 128, 128]),
    }
    about = document["napari_lpd"]
    assert (about["mpp"], about["slide_mpp"], about["simplified_um"]) == (0.5, [0.25, 0.2], 0.0)
    assert (about["slide"], about["slide_hash"]) == ("a.svs", "1")
    assert (about["model"], about["model_hash"]) == ("m.safetensors", "0")
    assert [each["name"] for each in about["classes"]] == ["dark", "pink"]


def test_progress_is_the_row_that_is_reached(prediction, tmp_path):
    seen = [(progress.done, progress.total) for progress in write_geojson(prediction, tmp_path / "a.geojson")]
    assert len(seen) == 3
    assert seen[-1] == (44, 48)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_outline_has_three_decimals_and_runs_as_geojson_wants():
    triangle = shapely.Polygon([(0, 0), (0, 1), (1, 0)])
    text = feature(triangle, np.array([1 / 3, 2 / 3]), "dark", (1, 2, 3))
    found = json.loads(text)
    assert found["geometry"]["coordinates"] in ([[[0.0, 0.0], [0.333, 0.0], [0.0, 0.667], [0.0, 0.0]]],)
    assert found["properties"]["classification"] == {"name": "dark", "color": [1, 2, 3]}


def test_a_file_is_replaced_only_when_that_is_asked_for(prediction, tmp_path):
    path = exported(prediction, tmp_path / "a.geojson")
    with pytest.raises(ExportError, match="exists and is not overwritten"):
        exported(prediction, path)
    assert exported(prediction, path, overwrite=True) == path


def test_simplified_outlines_have_fewer_corners(classes, tmp_path):
    labels = np.tri(64, 64, dtype=np.uint8)  # stairs
    stairs = predicted(tmp_path / "a.zarr", labels, classes)
    corners = [
        shapely.get_num_coordinates(
            read_shapes(exported(stairs, tmp_path / f"{um}.geojson", simplify_um=um))[0].geometry
        )
        for um in (0.0, 0.3, 2.0)
    ]
    assert corners[0] == 131  # two per step, two far ones, and the first again
    assert corners[1] > 100 > 20 > corners[2]  # steps of half a square pixel: more than (0.6 pixel)²


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((-9, -9, 0.5, 0.5), True),
        ((159, 95, 300, 300), True),
        ((161, 0, 170, 96), False),
        ((0, 97, 160, 110), False),
        ((96, 97, 99, 99), False),  # of a slide that is wider than high
    ],
)
def test_shapes_of_a_slide_touch_it(prediction, tmp_path, box, inside, caplog):
    path = a_file(tmp_path / "a.geojson", (1, 1, 5, 5, "dark"), (*box, "dark"))
    if inside:
        assert len(read_shapes(path, prediction.card)) == 2
        return
    assert len(read_shapes(path, prediction.card)) == 1
    assert "left out, outside a.svs (160 x 96 pixels): feature 2" in caplog.text
    with pytest.raises(DataError, match=r"outside a\.svs \(160 x 96 pixels\): feature 1\)"):
        read_shapes(a_file(tmp_path / "b.geojson", (*box, "dark")), prediction.card)


def test_shapes_are_drawn_by_the_middles_of_pixels_the_later_on_top(tmp_path, classes):
    path = a_file(tmp_path / "a.geojson", (0, 0, 6, 4, "dark"), (3, 1, 9, 2.9, "pink"), (4, 0, 5.2, 9, "unreadable"))
    drawn = labels_of_shapes(read_shapes(path), classes, (1.0, 1.0), (0, 0, 5, 8))
    assert drawn.tolist() == [
        [1, 1, 1, 1, 255, 1, 0, 0],
        [1, 1, 1, 2, 255, 2, 2, 2],
        [1, 1, 1, 2, 255, 2, 2, 2],
        [1, 1, 1, 1, 255, 1, 0, 0],
        [0, 0, 0, 0, 255, 0, 0, 0],
    ]
    half = labels_of_shapes(read_shapes(path), classes, (1.0, 0.5), (1, 1, 4, 4))  # y as it is, x halved
    assert half.tolist() == [[2, 255, 2], [2, 255, 2], [1, 255, 0]]
    assert labels_of_shapes(read_shapes(path), classes, (1.0, 1.0), (20, 20, 22, 23)).tolist() == [[0] * 3] * 2


def test_an_exported_mask_is_drawn_as_it_was(prediction, tmp_path, classes):
    mask = read_mask(exported(prediction, tmp_path / "a.geojson"))
    assert np.array_equal(mask.labels, LABELS[8:44, 4:56])
    assert (mask.mpp, mask.origin, mask.slide) == (0.5, (8, 4), "a.svs")
    assert mask.classes == classes


@pytest.mark.parametrize(("most", "mpp", "origin", "shape"), [(52, 0.5, (8, 4), (36, 52)), (51, 1.0, (4, 2), (18, 26)),
                                                              (13, 2.0, (2, 1), (9, 13))])  # fmt: skip
def test_a_large_mask_is_drawn_with_its_pixels_doubled(prediction, tmp_path, most, mpp, origin, shape):
    mask = read_mask(exported(prediction, tmp_path / "a.geojson"), most)
    assert (mask.mpp, mask.origin, mask.labels.shape) == (mpp, origin, shape)
    step = round(mpp / 0.5)
    assert np.array_equal(mask.labels, LABELS[8 + step // 2 : 44 : step, 4 + step // 2 : 56 : step])


def test_somebodys_drawing_is_no_mask_and_a_damaged_one_is_named(tmp_path):
    assert read_mask(a_file(tmp_path / "a.geojson", (0, 0, 9, 9, "dark"))) is None
    damaged = a_file(tmp_path / "b.geojson", (0, 0, 9, 9, "dark"), slide_mpp=[0.25, 0.25], mpp="thick")
    with pytest.raises(DataError, match=r"b\.geojson: what it says of its mask is damaged .*; export it again"):
        read_mask(damaged)
