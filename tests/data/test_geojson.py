"""Forms of GeoJSON: what is outlined, and what it is, whoever reads it."""

from __future__ import annotations

import gzip
import json
import logging
import math
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
import shapely
from made_predictions import predicted

from napari_lpd import samples
from napari_lpd.cli.main import main
from napari_lpd.core.classes import COLORS, TissueClass
from napari_lpd.core.errors import DataError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.results import MeasureSettings
from napari_lpd.data.geojson import Frame, read_features
from napari_lpd.data.project import AnnotatedSlide
from napari_lpd.data.regions import Region, classes_in, read_regions
from napari_lpd.data.training_set import read_annotated
from napari_lpd.prediction.batch import SlideTask, polygons_um, predict_file
from napari_lpd.results.export.geojson import read_shapes
from napari_lpd.results.measures.areas import measure, sites_of
from napari_lpd.slides.formats import open_slide

RING = [[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]
HOLE = [[3, 3], [6, 3], [6, 6], [3, 6], [3, 3]]
FAR = [[20, 0], [29, 0], [29, 9], [20, 9], [20, 0]]
BOW = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
STAR = [[math.cos(0.8 * math.pi * i), math.sin(0.8 * math.pi * i)] for i in (0, 1, 2, 3, 4, 0)]
SPIKE = [[0, 0], [9, 0], [9, 9], [19, 9], [9, 9], [0, 9], [0, 0]]


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def several(kind, *coordinates):
    return {"type": kind, "coordinates": list(coordinates)}


def collection(*geometries):
    return {"type": "GeometryCollection", "geometries": list(geometries)}


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def write(path, document):
    path.write_text(json.dumps(document))
    return path


star_area = shapely.Polygon(STAR).buffer(0).area  # its arms and its middle
GEOMETRIES = {
    "polygon": (polygon(RING), 81),
    "hole": (polygon(RING, HOLE), 72),
    "two parts": (several("MultiPolygon", [RING], [FAR]), 162),
    "parts that overlap": (several("MultiPolygon", [RING], [[[x + 3, y] for x, y in RING]]), 108),
    "part with a hole": (several("MultiPolygon", [RING, HOLE], [FAR]), 153),
    "nested": (collection(collection(several("MultiPolygon", [RING]), None), polygon(FAR)), 162),
    "beside a point": (collection({"type": "Point", "coordinates": [1, 1]}, polygon(RING)), 81),
    "bow tie": (polygon(BOW), 50),
    "star": (polygon(STAR), star_area),
    "spike": (polygon(SPIKE), 81),
    "hole that reaches out": (polygon(RING, [[5, 3], [15, 3], [15, 6], [5, 6], [5, 3]]), 69),
    "with heights": (polygon([[x, y, 7.5] for x, y in RING]), 81),
    "part of no area": (several("MultiPolygon", [[[0, 0], [9, 0], [5, 0], [0, 0]]], [RING]), 81),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_regions_and_shapes_have_the_same_area(tmp_path, name):
    geometry, area = GEOMETRIES[name]
    path = write(tmp_path / "a.geojson", {"type": "FeatureCollection", "features": [feature(geometry)]})
    [shape] = read_shapes(path)
    assert shape.geometry.is_valid
    assert shape.geometry.area == pytest.approx(area)
    drawn = shapely.union_all([region.polygon() for region in read_regions(path)])
    assert drawn.symmetric_difference(shape.geometry).area == pytest.approx(0, abs=1e-9)


def test_an_outline_that_crosses_itself_keeps_its_corners(tmp_path):
    [region] = read_regions(write(tmp_path / "a.geojson", feature(polygon(BOW))))
    assert region.vertices.tolist() == [[0, 0], [10, 10], [0, 10], [10, 0]]  # (y, x)
    assert region.polygon((1, 2)).area == 100


def test_a_drawn_bow_tie_has_both_its_halves():
    assert Region(np.array([[0, 0], [10, 10], [10, 0], [0, 10]], float), ()).polygon().area == 50


DOCUMENTS = {
    "FeatureCollection": lambda found: {"type": "FeatureCollection", "features": [found]},
    "list": lambda found: [found],
    "list of collections": lambda found: [{"type": "FeatureCollection", "features": [found]}],
    "Feature": lambda found: found,
    "geometry": lambda found: found["geometry"],
    "after one without geometry": lambda found: [feature(None, name="root"), {"type": "Feature"}, found],
    "after an empty one": lambda found: [feature(polygon(), name="root"), found],
    "after a point": lambda found: [feature({"type": "Point", "coordinates": [1, 1]}), found],
}


@pytest.mark.parametrize("form", DOCUMENTS)
def test_every_form_of_the_document_is_read(tmp_path, form):
    path = write(tmp_path / "a.geojson", DOCUMENTS[form](feature(polygon(RING))))
    assert [shape.geometry.area for shape in read_shapes(path)] == [81]
    assert [region.polygon().area for region in read_regions(path)] == [81]


SAID = {  # properties: the text that names a measured region, and the tissues
    "name": ({"classification": {"name": "Tumor"}}, "Tumor", ("Tumor",)),
    "text": ({"classification": "Tumor"}, "Tumor", ("Tumor",)),
    "names": ({"classification": {"names": ["Tumor", "Positive"]}}, "Tumor: Positive", ("Tumor: Positive",)),
    "one of names": ({"classification": {"names": ["Tumor"]}}, "Tumor", ("Tumor",)),
    "derived": ({"classification": {"name": "Tumor: Positive"}}, "Tumor: Positive", ("Tumor: Positive",)),
    "two": ({"classification": {"name": "Tumor + Stroma"}}, "Tumor + Stroma", ("Tumor", "Stroma")),
    "plus": ({"classification": {"name": "CD8+"}}, "CD8+", ("CD8+",)),
    "plus and another": ({"classification": {"name": "CD8+ + Stroma"}}, "CD8+ + Stroma", ("CD8+", "Stroma")),
    "plus in a class": ({"classification": {"name": "fat + vessel"}}, "fat + vessel", ("fat + vessel",)),
    "list wins": ({"tissues": ["CD8+"], "classification": {"name": "Tumor"}}, "Tumor", ("CD8+",)),
    "empty list": ({"tissues": [], "classification": {"name": "Tumor"}}, "Tumor", ()),
    "no list": ({"tissues": None, "classification": {"name": "Tumor"}}, "Tumor", ("Tumor",)),
    "star in a class": ({"classification": {"name": "CD3*"}}, "CD3*", ("CD3*",)),
    "ignored": ({"classification": {"name": "Ignore*"}}, "Ignore*", ()),
    "region": ({"classification": {"name": "Region*"}}, "Region*", ()),
    "none": ({"classification": {"name": "none"}}, "none", ()),
}
CLASSES = ["Tumor", "Stroma", "CD8+", "Tumor: Positive", "fat + vessel", "CD3*"]


@pytest.mark.parametrize("name", SAID)
def test_what_a_feature_is_called_and_what_it_holds(tmp_path, name):
    properties, classification, tissues = SAID[name]
    path = write(tmp_path / "a.geojson", [feature(polygon(RING), **properties)])
    assert [shape.classification for shape in read_shapes(path)] == [classification]
    assert [(region.tissues, region.named) for region in read_regions(path, CLASSES)] == [(tissues, True)]


@pytest.mark.parametrize("properties", [{}, None, {"classification": None}, {"classification": {}}, {"name": "edge"}])
def test_nothing_is_said_of_an_outline_alone(tmp_path, properties):
    path = write(tmp_path / "a.geojson", {"type": "Feature", "geometry": polygon(RING), "properties": properties})
    [region] = read_regions(path)
    assert (region.tissues, region.named) == ((), False)
    assert read_shapes(path)[0].classification == ""


def test_a_class_has_its_colour_where_the_file_gives_one_that_can_be_used(tmp_path):
    said = [{"name": "a", "color": [200, 0, 255]}, {"name": "b", "color": ["x", "y", "z"]}, {"name": "c", "color": 3}]
    said += [{"name": "d + e", "color": [1, 2, 3]}, {"name": "f", "colorRGB": -3670016}]
    path = write(tmp_path / "a.geojson", [feature(polygon(RING), classification=each) for each in said])
    own = ["#c800ff", *COLORS[1:5], "#c80000"]
    assert classes_in(path) == [TissueClass(name=n, color=c) for n, c in zip("abcdef", own, strict=True)]


DAMAGED = {
    "ring of one point": (feature(polygon([[1, 1]])), "linearring"),
    "unknown type": (feature({"type": "Blob", "coordinates": RING}), "Unknown geometry type"),
    "no coordinates": (feature({"type": "Polygon"}), "coordinates"),
    "text for a number": (feature(polygon([["a", 0], [9, 0], [9, 9], ["a", 0]])), ""),
    "null for a number": (feature(polygon([[None, 0], [9, 0], [9, 9], [None, 0]])), ""),
    "number of 400 digits": (feature(polygon([[10**400, 0], [9, 0], [9, 9], [10**400, 0]])), "too large"),
    "geometry that is none": (feature(3), "wanted a geometry"),
    "number": (3, "wanted a feature"),
    "tissues that are no list": (feature(polygon(RING), tissues="Tumor"), "tissues are 'Tumor', wanted a list"),
    "classification that is none": (feature(polygon(RING), classification=3), ""),
    "properties that are none": ({"type": "Feature", "geometry": polygon(RING), "properties": [1]}, ""),
}


@pytest.mark.parametrize("read", [read_regions, read_shapes, classes_in])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_feature_is_left_out_and_named_by_its_number(tmp_path, name, read, caplog):
    damaged, why = DAMAGED[name]
    fine = feature(polygon(RING), classification="Tumor")
    assert len(read(write(tmp_path / "a.geojson", [fine, feature(None), damaged]))) == 1
    [said] = caplog.messages
    assert re.search(rf"a\.geojson: left out, .*{why}.*: feature 3$", said)
    with pytest.raises(DataError, match=rf"b\.geojson: not readable as .* \(left out, .*{why}.*: feature 1\)"):
        read(write(tmp_path / "b.geojson", [damaged]))


def test_a_coordinate_too_large_for_a_number_is_named(tmp_path):
    text = json.dumps(feature(polygon(RING))).replace("9", "1e400")
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(DataError, match="left out, a coordinate is not finite: feature 1"):
        read_regions(tmp_path / "a.geojson")


def test_points_and_lines_are_left_out_with_a_warning(tmp_path, caplog):
    point, line = {"type": "Point", "coordinates": [5, 5]}, several("LineString", [0, 0], [9, 9])
    path = write(tmp_path / "a.geojson", [feature(None), feature(point), feature(polygon(RING)), feature(line)])
    with caplog.at_level(logging.WARNING):
        assert len(read_features(path)[0]) == 1
    assert caplog.messages == [f"{path}: left out, no polygons: feature 2, 4"]


def test_what_the_file_says_of_itself_comes_along(tmp_path):
    document = {"type": "FeatureCollection", "features": [feature(polygon(RING))]}
    assert read_features(write(tmp_path / "a.geojson", document))[1] == {}
    document["napari_lpd"] = {"slide": "a.svs"}
    assert read_features(write(tmp_path / "a.geojson", document))[1] == {"slide": "a.svs"}


def wide(x, classification):
    """A rectangle of 190 x 256 pixels on the tiny slide."""
    corners = [[x, 0], [x + 190, 0], [x + 190, 256], [x, 256], [x, 0]]
    return feature(polygon(corners), classification=classification)


def packed(path, content):
    """The content as a file, compressed as the name says."""
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.geojson", content)
    else:
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


SLIDE = Frame("a.svs", (256, 384), "1")


def test_stray_vertices_are_cut_and_what_lies_outside_is_left_out(tmp_path, caplog):
    far = feature(polygon([[0, 0], [1e9, 0], [1e9, 9], [0, 9], [0, 0]]), classification="Tumor")
    over = feature(polygon([[380, 0], [384.4, 0], [384.4, 2], [380, 2], [380, 0]]))
    gone = feature(polygon([[500, 0], [509, 0], [509, 9], [500, 9], [500, 0]]))
    found = read_features(write(tmp_path / "a.geojson", [far, over, gone]), SLIDE)
    assert [each.geometry.area for each in found.features] == [384 * 9, 8]
    assert [each.number for each in found.features] == [1, 2]
    assert found.notes == [
        "cut at the slide's edge: feature 1",
        "left out, outside a.svs (384 x 256 pixels): feature 3",
    ]
    assert len(caplog.messages) == 2
    [first, _] = read_regions(tmp_path / "a.geojson", frame=SLIDE)
    assert first.polygon().bounds == (0, 0, 384, 9)


def test_regions_of_another_slide_are_refused_by_every_reader(tmp_path):
    document = {"type": "FeatureCollection", "napari_lpd": {"slide": "b.svs", "slide_hash": "2"}}
    path = write(tmp_path / "a.geojson", document | {"features": [feature(polygon(RING))]})
    with pytest.raises(DataError, match=r"was made from another slide \(b\.svs\), not from a\.svs"):
        read_regions(path, frame=SLIDE)
    assert len(read_regions(path)) == 1


FORMS = [
    ("a.geojson", "CD8+", {"name": "Tumor: Positive"}),
    ("a.geojson", "CD8+", {"names": ["Tumor", "Positive"]}),
    ("a.geojson.gz", {"name": "CD8+"}, {"name": "Tumor: Positive"}),
    ("a.zip", {"name": "CD8+"}, "Tumor: Positive"),
    ("A.ZIP", {"names": ["CD8+"]}, {"name": "Tumor: Positive", "colorRGB": -1}),
]


@pytest.mark.parametrize(("name", "left", "right"), FORMS)
def test_training_and_measuring_take_the_same_forms(tmp_path, tiny_tiff, capsys, name, left, right):
    odd = [feature(polygon([[1, 1]])), feature({"type": "Point", "coordinates": [1, 1]}), 3]
    content = json.dumps([feature(None), wide(0, left), wide(194, right), *odd]).encode("utf-8-sig")
    path = packed(tmp_path / name, content)
    names = ("CD8+", "Tumor: Positive")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": names}), encoding="utf-16")
    train = ["train", "--slide", tiny_tiff, "--regions", path, "--classes", tmp_path / "classes.json", "--summary"]
    assert main([*map(str, train), "--set", "tile=64", "--set", "tile_step=64", "--out", str(tmp_path / "run")]) == 0
    counts = json.loads((tmp_path / "run" / "summary.json").read_text())["tiles per class"]
    assert set(counts) == set(names)
    assert min(counts.values()) >= 8

    classes = tuple(TissueClass(name=name, color="#102030") for name in names)
    about = {"mpp": 1.0, "slide_mpp": (1.0, 1.0), "slide_shape": (256, 384)}
    prediction = predicted(tmp_path / "a.zarr", np.ones((256, 384), np.uint8), classes, **about)
    measure = ["measure", prediction.folder, "--regions", path, "--out", tmp_path / "m.csv"]
    assert main([*map(str, measure)]) == 0
    table = pd.read_csv(tmp_path / "m.csv")
    areas = table[table.what == "tissue"].set_index("region").area_mm2
    with open_slide(tiny_tiff) as slide:
        assert [each.area for each in polygons_um(path, slide)] == [48640, 48640]  # what predict takes
    assert areas[1:].to_dict() == {"CD8+ 1": 0.04864, "Tumor: Positive 2": 0.04864}  # 190 x 256 µm²


def placed(geometry, scale, shift):
    """A geometry, enlarged and moved, with all that is odd about it."""
    if isinstance(geometry, dict):
        return {name: placed(value, scale, shift) for name, value in geometry.items()}
    if isinstance(geometry, list) and geometry and isinstance(geometry[0], int | float):
        return [value * scale + shift for value in geometry[:2]] + geometry[2:]
    return [placed(part, scale, shift) for part in geometry] if isinstance(geometry, list) else geometry


def every_form():
    """A document of each form, its name, and the area in pixels: geometries, documents, and compressed files."""
    for name, (geometry, area) in GEOMETRIES.items():
        scale = 60 if name == "star" else 10
        yield name, "a.geojson", feature(placed(geometry, scale, 80.0), classification="Tumor"), area * scale**2
    ring = feature(placed(polygon(RING), 10, 80.0), classification={"name": "Tumor"})
    for name, form in DOCUMENTS.items():
        yield name, "a.geojson", form(ring), 8100
    for name in ("a.json", "a.geojson.gz", "a.zip", "A.ZIP", "a.GeoJSON"):
        yield name, name, [ring], 8100


@pytest.mark.parametrize(("form", "name", "document", "area"), every_form(), ids=(each[0] for each in every_form()))
def test_each_form_has_one_area_in_training_prediction_and_measuring(tmp_path, tiny_tiff, form, name, document, area):
    path = packed(tmp_path / name, json.dumps(document).encode())
    if form == "geometry":
        with pytest.raises(DataError, match="carry no tissue"):  # in training, which needs one
            read_annotated(AnnotatedSlide(slide=tiny_tiff, regions=path), ["Tumor"])
    else:
        trained = read_annotated(AnnotatedSlide(slide=tiny_tiff, regions=path), ["Tumor"])
        assert shapely.union_all([region.polygon() for region in trained]).area == pytest.approx(area)

    quick = PredictSettings(mpp=2, tile=64, overlap=0, block=256, tissue_only=False, threads=1)
    row = run(predict_file(SlideTask(tiny_tiff, samples.model_path(), tmp_path, quick, regions=path)))
    assert row["tissue mm²"] == pytest.approx(area / 1e6, rel=0.03)  # of pixels of 2 µm

    about = {"mpp": 2.0, "slide_mpp": (1.0, 1.0), "slide_shape": (256, 384)}
    classes = (TissueClass(name="Tumor", color="#102030"),)
    prediction = predicted(tmp_path / "m.zarr", np.ones((128, 192), np.uint8), classes, **about)
    rows = run(measure(prediction, MeasureSettings(), sites_of(path, prediction)))
    measured = [each.area_mm2 for each in rows if each.what == "tissue"]
    assert sum(measured) == pytest.approx(row["tissue mm²"], abs=1e-9)
