from __future__ import annotations

import errno
import json
import uuid

import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
from made_predictions import predicted
from PIL import Image
from skimage.draw import polygon2mask

from napari_lpd.cli.main import main
from napari_lpd.core.errors import DataError, ExportError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.results import ExportSettings
from napari_lpd.data.regions import read_regions
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.export.export import export
from napari_lpd.results.export.geojson import labels_of_shapes, read_shapes
from napari_lpd.results.export.ome_tiff import Place, is_labelled, read_label_tiff, write_label_tiff
from napari_lpd.results.export.picture import scale_bar
from napari_lpd.results.prediction import Prediction
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.slide import Slide

SLIDE_MPP = (0.2495, 0.251)  # y, x


def all_labels() -> np.ndarray:
    rows, columns = np.ogrid[:1100, :900]
    waves = np.sin(rows / 31) + np.cos(columns / 17) + np.sin((rows + 2 * columns) / 7) / 3
    labels = np.digitize(waves, (-0.3, 0.5)).astype(np.uint8)
    labels[500:540, 100:300] = 255
    return labels


def expected_labels() -> np.ndarray:
    """With the correction in it."""
    labels = all_labels()
    labels[300:400, 200:300] = 2
    labels[340:360, 240:260] = 0
    return labels


@pytest.fixture
def prediction(classes, tmp_path):
    """A prediction with a correction, on a slide whose pixels are not square."""
    slide = tuple(round(n * 0.5 / mpp) for n, mpp in zip((1100, 900), SLIDE_MPP, strict=True))
    prediction = predicted(tmp_path / "a.zarr", all_labels(), classes, slide_mpp=SLIDE_MPP, slide_shape=slide)
    Corrections(prediction).apply_crop(300, 200, expected_labels()[300:400, 200:300])
    return prediction


def written(prediction, path, slide=None, **settings):
    return run(export(prediction, path, ExportSettings(**settings), slide))


def test_the_geojson_drawn_by_another_program_is_the_mask(prediction, tmp_path, classes):
    document = json.loads(written(prediction, tmp_path / "a.geojson").read_text())
    values = {"dark": 1, "pink": 2, "unreadable": 255}
    edges = 0.5 / np.array(SLIDE_MPP)  # of the mask's pixels
    drawn = np.zeros((1100, 900), np.uint8)
    for feature in document["features"]:
        outline = shapely.geometry.shape(feature["geometry"])
        shapely.prepare(outline)
        (top, left), (bottom, right) = np.rint(np.reshape(outline.bounds, (2, 2))[:, ::-1] / edges).astype(int)
        part = drawn[top:bottom, left:right]
        y, x = np.mgrid[top:bottom, left:right] + 0.5
        mask = shapely.contains_xy(outline, x * edges[1], y * edges[0])
        assert not part[mask].any()
        part[mask] = values[feature["properties"]["classification"]["name"]]
    assert np.array_equal(drawn, expected_labels())


def test_the_geojson_has_the_keys_that_qupath_writes(prediction, tmp_path):
    document = json.loads(written(prediction, tmp_path / "a.geojson").read_text())
    assert document["type"] == "FeatureCollection"
    assert document["napari_lpd"]["slide_hash"] == "1"
    for feature in document["features"]:
        assert list(feature) == ["type", "id", "geometry", "properties"]
        assert feature["type"] == "Feature"
        assert uuid.UUID(feature["id"]).version == 4
        assert list(feature["properties"]) == ["objectType", "classification"]
        assert feature["properties"]["objectType"] == "annotation"
        classification = feature["properties"]["classification"]
        assert classification in (
            {"name": "dark", "color": [59, 76, 255]},
            {"name": "pink", "color": [255, 140, 26]},
            {"name": "unreadable", "color": [128, 128, 128]},
        )
        assert feature["geometry"]["type"] == "Polygon"
        for ring in feature["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
            assert len(ring) >= 5
    assert len({feature["id"] for feature in document["features"]}) == len(document["features"])
    assert any(len(feature["geometry"]["coordinates"]) > 1 for feature in document["features"])


def test_the_geojson_is_valid_and_its_areas_are_those_of_the_table(prediction, tmp_path):
    shapes = read_shapes(written(prediction, tmp_path / "a.geojson"), prediction.card)
    table = pd.read_csv(written(prediction, tmp_path / "a.csv")).set_index("what")
    for name in ("dark", "pink"):
        own = [each.geometry for each in shapes if each.classification == name]
        assert shapely.is_valid(own).all()
        assert not any(one.exterior.is_ccw is False for one in own)
        area = shapely.area(own).sum() * SLIDE_MPP[0] * SLIDE_MPP[1] / 1e6
        assert area == pytest.approx(table.area_mm2[name], rel=1e-3)


def test_simplified_geojson_is_valid_smaller_and_near(prediction, tmp_path, classes):
    exact = written(prediction, tmp_path / "a.geojson")
    fewer = written(prediction, tmp_path / "b.geojson", simplify_um=2)
    assert fewer.stat().st_size < exact.stat().st_size / 2
    shapes = read_shapes(fewer, prediction.card)
    assert all(each.geometry.is_valid for each in shapes)
    factor = (SLIDE_MPP[0] / 0.5, SLIDE_MPP[1] / 0.5)
    drawn = labels_of_shapes(shapes, classes, factor, (0, 0, 1100, 900))
    assert (drawn == expected_labels()).mean() > 0.95


def test_geojson_is_read_back_as_labels(prediction, tmp_path, classes):
    shapes = read_shapes(written(prediction, tmp_path / "a.geojson"), prediction.card)
    factor = (SLIDE_MPP[0] / 0.5, SLIDE_MPP[1] / 0.5)
    assert np.array_equal(labels_of_shapes(shapes, classes, factor, (0, 0, 1100, 900)), expected_labels())
    part = labels_of_shapes(shapes, classes, factor, (100, 50, 400, 290))
    assert np.array_equal(part, expected_labels()[100:400, 50:290])
    with pytest.raises(DataError, match="'pink' is none of dark"):
        labels_of_shapes(shapes, classes[:1], factor, (0, 0, 9, 9))


def test_what_qupath_writes_is_read_too(tmp_path):
    square = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]}
    two = {"type": "MultiPolygon", "coordinates": [square["coordinates"], [[[8, 8], [9, 8], [9, 9], [8, 8]]]]}
    features = [
        {"type": "Feature", "id": "x", "geometry": two, "properties": {"objectType": "annotation", "name": "edge"}},
        {"type": "Feature", "geometry": square, "properties": {"classification": {"names": ["Tumor", "front"]}}},
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}},
        {"type": "Feature", "geometry": square, "properties": {"classification": "Stroma"}},
    ]
    (tmp_path / "q.geojson").write_text(json.dumps(features))
    one, other, short = read_shapes(tmp_path / "q.geojson")
    assert (one.name, one.geometry.area) == ("edge", 16.5)
    assert other.classification == "Tumor: front"
    assert short.classification == "Stroma"


@pytest.mark.parametrize("text", ["", "{}", '{"features": [{}]}', '{"features": []}', '{"features": [3]}'])
def test_bad_geojson_is_one_line(tmp_path, text):
    (tmp_path / "bad.geojson").write_text(text)
    with pytest.raises(DataError, match=r"bad\.geojson") as error:
        read_shapes(tmp_path / "bad.geojson")
    assert "\n" not in str(error.value)


def test_the_label_pyramid_has_the_corrections_and_is_read_back(prediction, tmp_path, classes):
    path = written(prediction, tmp_path / "a.ome.tif")
    assert np.array_equal(tifffile.imread(path), expected_labels())
    found = read_label_tiff(path)
    assert np.array_equal(found.levels[0][:], expected_labels())
    assert (found.mpp, found.origin_um, found.classes) == ((0.5, 0.5), (0.0, 0.0), classes)


def test_corrections_beside_a_predicted_region_are_exported_too(classes, tmp_path):
    scope = ("POLYGON ((10 10, 10 60, 60 60, 60 10, 10 10))",)  # µm: one block of the labels
    prediction = predicted(tmp_path / "a.zarr", np.ones((1100, 900), np.uint8), classes, scope=scope)
    Corrections(prediction).apply_crop(1030, 850, np.full((20, 10), 2, np.uint8))
    expected = np.asarray(Corrections(prediction).levels[0])
    drawn = tifffile.imread(written(prediction, tmp_path / "a.ome.tif"))
    assert np.array_equal(drawn, expected[: drawn.shape[0], : drawn.shape[1]])
    assert (drawn == 2).sum() == 200
    areas = pd.read_csv(written(prediction, tmp_path / "a.csv")).set_index("what").area_mm2
    own = [
        each.geometry
        for each in read_shapes(written(prediction, tmp_path / "a.geojson"))
        if each.classification == "pink"
    ]
    assert shapely.area(own).sum() * 0.25**2 / 1e6 == pytest.approx(areas.pink, rel=1e-3)


def test_label_pyramids_of_others_are_read_or_refused(tmp_path):
    labels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    path = write_label_tiff(labels, tmp_path / "a.ome.tif", Place((1.0, 2.0), (5.0, 6.0)))
    found = read_label_tiff(path)
    assert (found.mpp, found.origin_um, found.classes) == ((1.0, 2.0), (5.0, 6.0), ())
    assert np.array_equal(found.levels[0][:], labels)
    tifffile.imwrite(tmp_path / "b.ome.tif", labels, metadata={"axes": "YX"})
    tifffile.imwrite(tmp_path / "c.ome.tif", labels.astype(np.float32), metadata={"axes": "YX"})
    tifffile.imwrite(tmp_path / "d.tif", labels)
    (tmp_path / "e.tif").write_bytes(b"no")
    said = {"b.ome.tif": "no physical size", "c.ome.tif": "float32", "d.tif": "not an OME-TIFF", "e.tif": "be read"}
    for name, why in said.items():
        with pytest.raises(DataError, match=why):
            read_label_tiff(tmp_path / name)


def test_prototype_maps_are_channels_with_names_and_sizes(prediction, tmp_path):
    path = written(prediction, tmp_path / "p.ome.tif", what="prototypes")
    with tifffile.TiffFile(path) as tiff:
        maps = tiff.asarray()
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert tiff.series[0].axes == "CYX"
    assert [channel["Name"] for channel in pixels["Channel"]] == ["dark 1", "dark 2", "pink 1", "pink 2"]
    assert pixels["PhysicalSizeX"] == 4.0
    assert np.array_equal(maps[1], prediction.prototypes[0].levels[0][1])
    assert np.array_equal(maps[2], prediction.prototypes[1].levels[0][0])


def test_large_prototype_maps_are_pyramids(classes, tmp_path):
    scores = np.random.default_rng(0).integers(0, 255, (2, 2100, 10)).astype(np.uint8)
    prediction = predicted(tmp_path / "a.zarr", np.ones((16800, 80), np.uint8), classes, scores=scores)
    with tifffile.TiffFile(written(prediction, tmp_path / "p.ome.tif", what="prototypes")) as tiff:
        levels = [level.asarray() for level in tiff.series[0].levels]
    assert [level.shape for level in levels] == [(4, 2100, 10), (4, 1050, 5)]
    assert np.array_equal(levels[1][3], prediction.prototypes[1].levels[1][1])


def test_the_folder_copy_opens_with_ome_zarr_and_has_the_corrections(prediction, tmp_path):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    copy = written(prediction, tmp_path / "b.zarr")
    nodes = list(Reader(parse_url(str(copy)))())
    assert {str(node.zarr).split()[0].rsplit("/", 1)[-1] for node in nodes} >= {"tissues", "corrections"}
    assert np.array_equal(Corrections(Prediction.open(copy)).levels[0], expected_labels())


@pytest.fixture
def on_slide(classes, tmp_path):
    """A slide of one grey, and a prediction of it with four squares."""
    slide = Slide.from_levels([np.full((4400, 4800, 3), 200, np.uint8)], (0.5, 0.5), "a.svs")
    labels = np.zeros((2200, 2400), np.uint8)
    labels[:1100, :1200], labels[1100:, 1200:] = 1, 2
    about = {"slide_hash": slide.fingerprint, "mpp": 1.0, "slide_mpp": (0.5, 0.5), "slide_shape": (4400, 4800)}
    return slide, predicted(tmp_path / "a.zarr", labels, classes, **about)


def test_the_picture_lies_on_the_slide_with_legend_and_scale_bar(on_slide, tmp_path):
    slide, prediction = on_slide
    with Image.open(written(prediction, tmp_path / "a.png", slide)) as image:
        pixels = np.asarray(image)
    height = round(2200 * 2000 / 2400) + 1
    assert pixels.shape[1] == 2000
    assert pixels[100, 100].tolist() == [130, 138, 228]  # half grey 200, half #3b4cff
    assert pixels[100, 1900].tolist() == [200, 200, 200]
    assert pixels[1800, 1900].tolist() == [228, 170, 113]
    legend = pixels[height:]
    assert (legend == (59, 76, 255)).all(2).any()
    black = (legend == 0).all(2)
    long = round(500 / 1.2)  # 500 µm: the longest within a third of 2400 µm
    assert black[:, 12 : 12 + long].all(1).any()
    assert not black[:, 12 : 12 + long + 1].all(1).any()


@pytest.mark.parametrize(
    ("mpp", "width", "bar"), [(0.5, 1000, (200, "0.1 mm")), (12, 2000, (417, "5 mm")), (0.25, 100, (20, "0.005 mm"))]
)
def test_scale_bars_are_round_numbers(mpp, width, bar):
    assert scale_bar(mpp, width) == bar


def test_a_picture_needs_its_own_slide(on_slide, tmp_path):
    _, prediction = on_slide
    other = Slide.from_levels([np.full((4400, 4800, 3), 10, np.uint8)], (0.5, 0.5), "b.svs")
    with pytest.raises(ExportError, match=r"a\.zarr: is a result of another slide \(a\.svs\), not of b\.svs"):
        written(prediction, tmp_path / "a.png", other)
    with pytest.raises(ExportError, match=r"needs the slide a\.svs, too"):
        written(prediction, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_corrections_are_regions_for_training(prediction, tmp_path, classes):
    path = written(prediction, tmp_path / "c.geojson", what="corrections")
    regions = read_regions(path, [tissue.name for tissue in classes])
    drawn = np.zeros((1100, 900), np.uint8)
    for region in regions:
        mask = polygon2mask(drawn.shape, region.vertices * SLIDE_MPP / 0.5 - 0.5)
        assert not drawn[mask].any()
        assert region.pixels
        drawn[mask] = 2 if region.tissues == ("pink",) else 254
    assert np.array_equal(drawn, Corrections(prediction).stored_labels((0, 0), (1100, 900)))


def test_nothing_corrected_and_nothing_labelled_are_one_line(classes, tmp_path):
    empty = predicted(tmp_path / "a.zarr", all_labels() * 0, classes, tissue=np.zeros((9, 9), bool))
    with pytest.raises(ExportError, match=r"a\.zarr: nothing is corrected in it"):
        written(empty, tmp_path / "c.geojson", what="corrections")
    with pytest.raises(ExportError, match=r"a\.zarr: nothing is labelled in it"):
        written(empty, tmp_path / "a.geojson")
    assert tifffile.imread(written(empty, tmp_path / "a.ome.tif")).max() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ome.tif", "a.zarr"]


FILES = [("a.ome.tif", "labels"), ("a.geojson", "labels"), ("a.csv", "labels"), ("b.zarr", "labels")]
FILES += [("p.ome.tif", "prototypes"), ("c.geojson", "corrections")]


@pytest.mark.parametrize(("name", "what"), FILES)
def test_nothing_is_overwritten_unasked(prediction, tmp_path, name, what):
    path = written(prediction, tmp_path / name, what=what)
    before = path.stat().st_ino
    with pytest.raises(ExportError, match=rf"{name} exists and is not overwritten"):
        written(prediction, path, what=what)
    assert path.stat().st_ino == before
    written(prediction, path, what=what, overwrite=True)
    assert path.stat().st_ino != before


@pytest.mark.parametrize(("name", "what"), FILES)
def test_a_place_that_cannot_be_written_leaves_nothing(prediction, tmp_path, monkeypatch, name, what):
    import os
    import shutil

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(os, "replace", read_only)
    monkeypatch.setattr(os, "link", read_only)
    monkeypatch.setattr(shutil, "copy2", read_only)
    with pytest.raises(ExportError, match=rf"{name}: cannot be written \(Read-only file system\)"):
        written(prediction, tmp_path / name, what=what)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


DAMAGES = [(name, "labels", "labels/tissues/0/c/1/1") for name in ("a.ome.tif", "a.geojson", "a.csv")]
DAMAGES += [
    ("a.csv", "labels", "0/c/0/1/1"),
    ("p.ome.tif", "prototypes", "prototypes/1/0/c/0/0/0"),
]
DAMAGES += [("c.geojson", "corrections", "labels/corrections/0/c/0/0")]


@pytest.mark.parametrize(("name", "what", "chunk"), DAMAGES)
def test_a_damaged_result_is_one_line_and_leaves_nothing(prediction, tmp_path, name, what, chunk):
    path = prediction.folder / chunk
    path.write_bytes(path.read_bytes()[:-9])
    place = chunk.partition("/c/")[0]
    said = rf"a\.zarr: the result is damaged: {place} cannot be read \(its checksum"
    with pytest.raises(ExportError, match=said) as error:
        written(prediction, tmp_path / name, what=what)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("name", ["a.ome.tif", "a.geojson", "a.csv"])
def test_a_stopped_export_leaves_nothing(prediction, tmp_path, name):
    job = export(prediction, tmp_path / name, ExportSettings())
    next(job)
    if not name.endswith("tif"):
        next(job)
    job.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_half_a_prediction_is_not_exported_but_copied(classes, tmp_path):
    half = predicted(tmp_path / "a.zarr", all_labels(), classes, finish=False)
    with pytest.raises(ExportError, match=r"a\.zarr: unfinished prediction; run predict again"):
        written(half, tmp_path / "a.geojson")
    assert not Prediction.open(written(half, tmp_path / "b.zarr")).finished


@pytest.mark.parametrize(("name", "what"), [("a.xyz", "labels"), ("a.png", "prototypes"), ("a.ome.tif", "corrections")])
def test_an_unknown_ending_names_the_known_ones(prediction, tmp_path, name, what):
    with pytest.raises(ExportError, match=rf"{name}: {what} are written as \..*; end the name"):
        written(prediction, tmp_path / name, what=what)


def test_a_folder_in_the_way_stays(prediction, tmp_path):
    (tmp_path / "a.geojson").mkdir()
    with pytest.raises(ExportError, match="is a folder"):
        written(prediction, tmp_path / "a.geojson", overwrite=True)
    (tmp_path / "b.zarr").mkdir()
    with pytest.raises(ExportError, match="not a prediction"):
        written(prediction, tmp_path / "b.zarr", overwrite=True)


def test_the_command_writes_what_the_settings_file_says(prediction, tmp_path, capsys):
    (tmp_path / "s.json").write_text(ExportSettings(simplify_um=5, overwrite=True).model_dump_json())
    to = ["export", str(prediction.folder), "--to", str(tmp_path / "a.geojson")]
    for more in ([], ["--settings", str(tmp_path / "s.json")]):
        assert main([*to, *more]) == 0
    assert json.loads((tmp_path / "a.geojson").read_text())["napari_lpd"]["simplified_um"] == 5
    assert main(to) == 2
    assert "a.geojson exists and is not overwritten" in capsys.readouterr().err
    assert main([*to, "--overwrite", "--simplify", "-1"]) == 2
    assert "simplify_um" in capsys.readouterr().err
    (tmp_path / "roles.json").write_text('{"tumour": ["dark"], "stroma": ["pink"]}')
    csv = ["export", str(prediction.folder), "--to", str(tmp_path / "a.csv"), "--roles", str(tmp_path / "roles.json")]
    assert main(csv) == 0
    assert "stroma share of tumour area" in pd.read_csv(tmp_path / "a.csv").what.tolist()
    prototypes = ["export", str(prediction.folder), "--to", str(tmp_path / "p.ome.tif"), "--what", "prototypes"]
    assert main(prototypes) == 0


def test_the_command_draws_on_the_slide(tiny_tiff, classes, tmp_path):
    with open_slide(tiny_tiff) as slide:
        about = {"slide_hash": slide.fingerprint, "slide": slide.name, "slide_shape": slide.shape}
    labels = np.ones((256, 384), np.uint8)
    prediction = predicted(tmp_path / "a.zarr", labels, classes, mpp=1.0, slide_mpp=(1.0, 1.0), **about)
    to = ["export", str(prediction.folder), "--to", str(tmp_path / "a.png"), "--slide", str(tiny_tiff)]
    assert main(to) == 0
    assert Image.open(tmp_path / "a.png").width == 480


def dicom_slide(shared_slides):
    return open_slide(shared_slides / "dicom_CMU-1-Small-Region")


def test_a_dicom_segmentation_lies_on_its_slide(shared_slides, classes, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    with dicom_slide(shared_slides) as slide:
        shape = slide.shape_at(2.0)
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        labels = ((rows // 100 + columns // 130) % 3).astype(np.uint8)
        labels[:20, :20] = 255
        about = {"slide_hash": slide.fingerprint, "slide_mpp": slide.mpp, "slide_shape": slide.shape, "mpp": 2.0}
        prediction = predicted(tmp_path / "a.zarr", labels, classes, **about)
        path = written(prediction, tmp_path / "a.dcm", slide)
        seg = highdicom.seg.segread(path)
        assert np.array_equal(seg.get_total_pixel_matrix(combine_segments=True), np.where(labels == 255, 0, labels))
        assert [seg.get_segment_description(i).SegmentLabel for i in (1, 2)] == ["dark", "pink"]
        assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID
        spacing = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        assert [float(value) for value in spacing] == [0.002, 0.002]
        corner = _corner(seg)
        assert corner == pytest.approx(_corner(_finest(slide)), abs=1e-6)
        assert written(prediction, path, slide, overwrite=True) == path


def _finest(slide):
    import pydicom

    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in slide.path.parent.glob("*.dcm")]
    return max((h for h in headers if "VOLUME" in h.ImageType), key=lambda h: h.TotalPixelMatrixColumns)


def _corner(header) -> list[float]:
    """Outer corner of the first pixel, in mm."""
    origin = header.TotalPixelMatrixOriginSequence[0]
    spacing = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    along_x, along_y = np.array(header.ImageOrientationSlide, float).reshape(2, 3)
    middle = np.array([origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem, 0], float)
    return (middle - along_x * float(spacing[1]) / 2 - along_y * float(spacing[0]) / 2).tolist()


def test_only_dicom_slides_have_dicom_segmentations(on_slide, tmp_path):
    pytest.importorskip("highdicom")
    slide, prediction = on_slide
    with pytest.raises(ExportError, match=r"a\.svs: is not DICOM"):
        written(prediction, tmp_path / "a.dcm", slide)


def test_without_highdicom_the_way_to_get_it_is_named(on_slide, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "highdicom", None)
    slide, prediction = on_slide
    with pytest.raises(ExportError, match=r"a\.dcm: DICOM segm.* need highdicom: pip install 'napari-lpd\[dicom\]'"):
        written(prediction, tmp_path / "a.dcm", slide)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_a_mask_file_whose_directories_run_in_a_circle_is_refused_in_one_line(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((32, 32), np.uint8), metadata={"axes": "YX"})
    content = bytearray(path.read_bytes())
    first = int.from_bytes(content[4:8], "little")
    following = first + 2 + 12 * int.from_bytes(content[first : first + 2], "little")
    content[following : following + 4] = content[4:8]
    path.write_bytes(content)
    assert not is_labelled(path)
    with pytest.raises(DataError, match="run in a circle"):
        read_label_tiff(path)
