from __future__ import annotations

import json

import numpy as np
import pytest

from napari_lpd import samples
from napari_lpd.classes import read_classes
from napari_lpd.errors import DataError
from napari_lpd.regions import Region, read_regions, write_regions


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
    with pytest.raises(DataError, match="absent.geojson"):
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
