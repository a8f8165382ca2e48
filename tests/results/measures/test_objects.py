from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from made_predictions import predicted
from scipy.ndimage import distance_transform_edt
from skimage.filters import gaussian
from skimage.measure import label, regionprops

from napari_lpd.cli.main import main
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import SettingsError
from napari_lpd.core.jobs import run
from napari_lpd.core.numeric import components
from napari_lpd.core.settings.results import MeasureSettings, ObjectSettings, Roles
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.measures.objects import find_objects

CLASSES = tuple(TissueClass(name=name, color="#3b4cff") for name in ("TUM", "STR", "LYM"))
MPP = 0.5
PIXEL = (MPP / 1000) ** 2


def marbled(shape=(1300, 1150), sigma=14, seed=3) -> np.ndarray:
    """Blobs of three classes in each other, with holes, over the borders of blocks, and specks of single pixels."""
    rng = np.random.default_rng(seed)
    fields = [gaussian(rng.normal(size=shape), sigma) for _ in range(4)]
    fields[1] += fields[1].std()  # one class is connected all over
    labels = np.argmax(fields, 0).astype(np.uint8)
    labels[rng.random(shape) < 0.0002] = 2
    labels[5:40, 5:9], labels[40, 9:12] = 3, 3  # meets another only at a corner
    return labels


def objects_of(prediction, roles=None, **settings):
    chosen = MeasureSettings(roles=roles or Roles(), objects=ObjectSettings(**settings))
    return run(find_objects(prediction, chosen))


def by_place(rows):
    return {row.first_pixel: row for row in rows}


def properties_of(labels: np.ndarray, value: int, entropy: np.ndarray):
    return regionprops(label(labels == value, connectivity=1), entropy)


def test_objects_over_the_borders_of_blocks_are_those_of_scikit_image(tmp_path, monkeypatch):
    monkeypatch.setattr(components, "STRIP_PIXELS", 40_000)  # strips of 32 rows
    labels = marbled()
    entropy = np.kron(np.random.default_rng(0).integers(1, 256, (163, 144)), np.ones((8, 8)))[:1300, :1150]
    scores = np.random.default_rng(0).integers(1, 256, (3, 163, 144)).astype(np.uint8)
    scores[0] = entropy[::8, ::8]  # of which made predictions have their uncertainty
    prediction = predicted(tmp_path / "a.zarr", labels, CLASSES, scores=scores)
    found = by_place(objects_of(prediction, nearest_to=("TUM",)))
    away = distance_transform_edt(labels != 1)
    seen = 0
    for value, tissue in enumerate(CLASSES, start=1):
        for each in properties_of(labels, value, entropy):
            rows, columns = each.coords.T
            row = found[int(rows.min()), int(columns[rows == rows.min()].min())]
            assert row.what == tissue.name
            assert row.area_mm2 == pytest.approx(each.area * PIXEL)
            assert row.perimeter_um == pytest.approx(each.perimeter * MPP, rel=1e-9)
            assert row.solidity == pytest.approx(each.solidity, rel=1e-9)
            assert (row.y_um, row.x_um) == pytest.approx([(c + 0.5) * MPP for c in each.centroid])
            assert row.uncertainty == pytest.approx((each.intensity_mean - 1) / 254)
            if value == 1:
                assert row.nearest_um is None
            else:
                assert row.nearest_um == pytest.approx(away[rows, columns].min() * MPP)
            seen += 1
    assert seen == len(found) > 200
    assert max(row.pixels for row in found.values()) > 100_000
    assert [row.object for row in found.values()] == list(range(1, seen + 1))


def test_only_the_classes_and_sizes_that_are_asked_for_are_listed(tmp_path):
    labels = marbled((700, 600))
    prediction = predicted(tmp_path / "a.zarr", labels, CLASSES)
    rows = objects_of(prediction, of=("STR",), smallest_um2=50 * MPP**2)
    wanted = [each for each in properties_of(labels, 2, labels) if each.area >= 50]
    assert sorted(row.pixels for row in rows) == sorted(each.area for each in wanted)
    assert {row.what for row in rows} == {"STR"}
    assert {row.nearest_um for row in rows} == {None}
    near = objects_of(prediction, Roles(tumour=("TUM",)), of=("STR",), smallest_um2=50 * MPP**2)
    assert None not in {row.nearest_um for row in near}
    assert not objects_of(prediction, of=("STR",), smallest_um2=1e9)
    with pytest.raises(SettingsError, match=r"objects of 'str' are asked for; its classes are TUM, STR, LYM"):
        objects_of(prediction, of=("str",))


def test_a_correction_joins_objects(tmp_path):
    labels = np.zeros((600, 1200), np.uint8)
    labels[100:200, 100:300] = labels[100:200, 700:900] = 1
    prediction = predicted(tmp_path / "a.zarr", labels, CLASSES)
    assert [row.pixels for row in objects_of(prediction)] == [20_000, 20_000]
    Corrections(prediction).apply_crop(150, 300, np.ones((1, 400), np.uint8))
    (row,) = objects_of(prediction)
    assert (row.pixels, row.first_pixel) == (40_400, (100, 100))
    assert (row.x_um, row.solidity) == pytest.approx((500 * MPP, 40_400 / 80_000), rel=0.001)


def test_the_command_writes_the_objects_as_table_and_for_qupath(tmp_path, capsys):
    labels = marbled((700, 600))
    prediction = predicted(
        tmp_path / "a.zarr", labels, CLASSES, slide_mpp=(0.25, 0.5), slide_shape=(1400, 600), slide_origin=(10, 20)
    )
    table, outlines = tmp_path / "o.csv", tmp_path / "o.geojson"
    command = ["measure", str(prediction.folder), "--out", str(tmp_path / "m.csv"), "--overwrite"]
    command += ["--objects", str(table), "--objects", str(outlines), "--set", "objects.smallest_um2=10"]
    command += ["--set", 'objects.nearest_to=["TUM"]']
    assert main(command) == 0
    rows = pd.read_csv(table)
    wanted = objects_of(prediction, smallest_um2=10, nearest_to=("TUM",))
    assert rows.columns.tolist() == [
        *("slide", "object", "what", "area_mm2", "perimeter_um", "solidity", "x_um", "y_um", "nearest_um"),
        "uncertainty",
    ]
    assert rows.area_mm2.tolist() == pytest.approx([row.area_mm2 for row in wanted], rel=1e-6)
    features = json.loads(outlines.read_text())["features"]
    by_name = {feature["properties"]["name"]: feature for feature in features}
    assert len(by_name) == len(features) == len(wanted)
    for row in wanted:
        feature = by_name[f"{row.what} {row.object}"]
        measurements = feature["properties"]["measurements"]
        assert feature["properties"]["classification"]["name"] == row.what
        assert measurements["Area mm^2"] == pytest.approx(row.area_mm2)
        assert measurements["Solidity"] == pytest.approx(row.solidity)
        assert measurements.get("Nearest µm") == row.nearest_um
        corners = np.array(feature["geometry"]["coordinates"][0])
        assert (corners.min(0) >= (-10, -20)).all()
        assert corners[:, 1].min() == pytest.approx(row.first_pixel[0] * 2 - 20)
    export = ["export", str(prediction.folder), "--what", "objects", "--set", "measure.objects.smallest_um2=10"]
    export += ["--set", 'measure.objects.nearest_to=["TUM"]', "--to"]
    assert main([*export, str(tmp_path / "again.csv")]) == main([*export, str(tmp_path / "again.geojson")]) == 0
    assert (tmp_path / "again.csv").read_bytes() == table.read_bytes()
    again = json.loads((tmp_path / "again.geojson").read_text())["features"]
    assert [each["properties"] for each in again] == [each["properties"] for each in features]
    assert main([*command, "--set", "objects.smallest_um2=1e9"]) == 2
    assert "no object" in capsys.readouterr().err


def test_objects_of_many_slides_go_into_one_table_but_not_into_one_geojson(tmp_path, capsys):
    labels = np.zeros((300, 300), np.uint8)
    labels[10:20, 10:20] = 1
    paths = [
        str(predicted(tmp_path / f"{n}.zarr", labels, CLASSES, slide=f"{n}.svs", slide_hash=n).folder) for n in "ab"
    ]
    command = ["measure", *paths, "--out", str(tmp_path / "m.csv"), "--objects"]
    assert main([*command, str(tmp_path / "o.csv")]) == 0
    assert pd.read_csv(tmp_path / "o.csv").slide.tolist() == ["a.svs", "b.svs"]
    assert main([*command, str(tmp_path / "o.geojson"), "--overwrite"]) == 2
    assert "belong to one slide" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "o.xml"), "--overwrite"]) == 2
    assert "written as .csv, .geojson" in capsys.readouterr().err
