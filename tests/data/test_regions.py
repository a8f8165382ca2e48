from __future__ import annotations

import json

import numpy as np
import pytest
import shapely

from napari_lpd import samples
from napari_lpd.core.classes import COLORS, TissueClass, read_classes
from napari_lpd.core.errors import DataError, ExportError
from napari_lpd.data.regions import Region, classes_in, outside, read_regions, write_regions


def test_regions_come_back_as_written(tmp_path, classes):
    square = np.array([[0, 0], [0, 10], [20, 10], [20, 0]], float)
    written = [Region(square, ("dark",)), Region(square + 5, ("dark", "pink")), Region(square, ())]
    read = read_regions(write_regions(tmp_path / "r.geojson", written, classes), ["dark", "pink"])
    assert [region.tissues for region in read] == [("dark",), ("dark", "pink"), ()]
    assert all(np.array_equal(a.vertices, b.vertices) for a, b in zip(read, written, strict=True))


def test_rings_are_closed_and_carry_qupaths_classification(tmp_path, classes):
    square = np.array([[0, 0], [0, 10], [20, 10]], float)
    path = write_regions(tmp_path / "r.geojson", [Region(square, ("pink",))], classes)
    feature = json.loads(path.read_text())["features"][0]
    ring = feature["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    assert ring[1] == [10, 0]  # (x, y)
    assert feature["properties"]["classification"] == {"name": "pink", "color": [255, 140, 26]}


def test_a_qupath_annotation_is_understood(tmp_path):
    path = tmp_path / "q.geojson"
    geometry = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 0]]]}
    properties = {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}}
    path.write_text(json.dumps([{"type": "Feature", "geometry": geometry, "properties": properties}]))
    assert read_regions(path)[0].tissues == ("Tumor",)


@pytest.mark.parametrize("text", ["", "{}", '{"features": [{"geometry": 3}]}', '{"features": []}'])
def test_bad_files_give_one_line(tmp_path, text):
    path = tmp_path / "bad.geojson"
    path.write_text(text)
    with pytest.raises(DataError, match="bad.geojson"):
        read_regions(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.geojson: no such file; wanted GeoJSON regions; check its name"):
        read_regions(tmp_path / "absent.geojson")


def test_an_unknown_tissue_is_named(tmp_path, classes):
    square = np.array([[0, 0], [0, 10], [20, 10]], float)
    path = write_regions(tmp_path / "r.geojson", [Region(square, ("bone",))], classes)
    with pytest.raises(DataError, match="'bone'"):
        read_regions(path, ["dark", "pink"])


def test_sample_regions_for_training_and_checking_lie_apart():
    names = [tissue.name for tissue in read_classes(samples.classes_path())]
    train = read_regions(samples.regions_path("train"), names)
    check = read_regions(samples.regions_path("check"), names)
    for tissue in names:
        assert sum(tissue in region.tissues for region in train) >= 5
        assert sum(region.tissues == (tissue,) for region in check) >= 4
    gap = min(a.polygon().distance(b.polygon()) for a in train for b in check if b.tissues)
    assert gap >= 64


QUPATH = {  # as QuPath 0.5 writes it
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "id": "7d1a",
            "geometry": {
                "type": "Polygon",
                "coordinates": [
                    [[0, 0], [100, 0], [100, 80], [0, 80], [0, 0]],
                    [[20, 20], [40, 20], [40, 40], [20, 40], [20, 20]],
                    [[60, 50], [80, 50], [80, 70], [60, 70], [60, 50]],
                ],
            },
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}},
        },
        {
            "type": "Feature",
            "geometry": {
                "type": "MultiPolygon",
                "coordinates": [[[[0, 0], [9, 0], [9, 9], [0, 0]]], [[[20, 0], [29, 0], [29, 9], [20, 0]]]],
            },
            "properties": {"objectType": "annotation", "classification": {"name": "Ignore*"}},
        },
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]},
            "properties": {"objectType": "annotation"},
        },
    ],
}


def test_qupath_annotations_keep_their_holes_classes_and_colours(tmp_path):
    path = tmp_path / "qupath.geojson"
    path.write_text(json.dumps(QUPATH))
    regions = read_regions(path)
    tumour = [region for region in regions if region.tissues == ("Tumor",)]
    assert sum(region.polygon().area for region in tumour) == 100 * 80 - 2 * 20 * 20
    union = shapely.union_all([region.polygon() for region in tumour])
    assert not union.contains(shapely.Point(30, 30))
    assert union.contains(shapely.Point(50, 10))
    ignored = [region for region in regions if region.named and not region.tissues]
    assert len(ignored) == 2
    assert [region.named for region in regions].count(False) == 1
    assert classes_in(path) == [TissueClass(name="Tumor", color="#c80000")]


def test_an_outline_of_which_nothing_is_said_is_no_glass(tmp_path):
    path = tmp_path / "qupath.geojson"
    path.write_text(json.dumps(QUPATH))
    with pytest.raises(DataError, match="1 of .* regions carry no tissue; give them one, or delete them"):
        read_regions(path, ["Tumor", "Stroma"])


def test_an_outline_alone_stays_one_when_it_is_written_and_read(tmp_path, classes):
    square = np.array([[0, 0], [0, 9], [9, 9], [9, 0]], float)
    regions = [Region(square, ("dark",)), Region(square, ()), Region(square, (), named=False)]
    path = write_regions(tmp_path / "r.geojson", regions, classes)
    found = read_regions(path)
    assert [(region.tissues, region.named) for region in found] == [(("dark",), True), ((), True), ((), False)]


def test_regions_are_written_whole_or_not_at_all(tmp_path, classes):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        write_regions(tmp_path / "file" / "r.geojson", [], classes)


def test_regions_outside_of_a_slide_are_numbered_from_1():
    square = np.array([[0, 0], [0, 10], [10, 10], [10, 0]], float)
    places = [(0, 0), (0, 190), (0, 201), (95, 0), (101, 0), (150, 150), (-11, 0), (-9, 0), (0, -10.5)]
    regions = [Region(square + place, ("dark",)) for place in places]
    assert outside(regions, (100, 200)) == [3, 5, 6, 7, 9]


def test_regions_have_the_colour_of_their_first_tissue_or_grey(tmp_path, classes):
    square = np.array([[0, 0], [0, 9], [9, 9], [9, 0]], float)
    regions = [Region(square, tissues) for tissues in (("pink", "dark"), ("bone",), ())]
    document = json.loads(write_regions(tmp_path / "r.geojson", regions, classes).read_text())
    assert [feature["properties"]["classification"] for feature in document["features"]] == [
        {"name": "pink + dark", "color": [255, 140, 26]},
        {"name": "bone", "color": [128, 128, 128]},
        {"name": "none", "color": [128, 128, 128]},
    ]


def test_tissues_without_a_colour_get_ours_in_turn(tmp_path):
    square = np.array([[0, 0], [0, 9], [9, 9], [9, 0]], float)
    names = [f"t{i}" for i in range(len(COLORS) + 2)]
    path = write_regions(tmp_path / "r.geojson", [Region(square, tuple(names))], [])
    assert [tissue.color for tissue in classes_in(path)] == [*COLORS, *COLORS[:2]]


def test_a_region_that_is_small_or_crosses_itself_comes_back_as_it_was_drawn(tmp_path, classes):
    small = np.array([[0, 0], [0, 1], [1, 0]], float)
    crossing = np.array([[0, 0], [10, 10], [0, 10], [10, 0]], float)
    path = write_regions(tmp_path / "r.geojson", [Region(small, ("dark",)), Region(crossing, ("pink",))], classes)
    assert [region.vertices.tolist() for region in read_regions(path)] == [small.tolist(), crossing.tolist()]


def test_a_stroke_comes_back_as_one_and_says_so_where_qupath_keeps_it(tmp_path, classes):
    square = np.array([[0, 0], [0, 10], [20, 10], [20, 0]], float)
    written = [Region(square, ("dark",), pixels=True), Region(square, ("dark",)), Region(square, (), pixels=True)]
    assert len({region.key for region in written}) == 3
    path = write_regions(tmp_path / "r.geojson", written, classes)
    assert [region.pixels for region in read_regions(path, ["dark", "pink"])] == [True, False, True]
    features = json.loads(path.read_text())["features"]
    assert features[0]["properties"]["metadata"] == {"napari_lpd": "pixels"}
    for feature in features:  # QuPath 0.5 drops what it does not know, and keeps metadata
        del feature["properties"]["tissues"]
        feature["properties"].setdefault("metadata", {})["ANNOTATION_DESCRIPTION"] = "seen"
    path.write_text(json.dumps(features))
    assert [(region.tissues, region.pixels) for region in read_regions(path)] == [
        (("dark",), True), (("dark",), False), ((), True)]  # fmt: skip
