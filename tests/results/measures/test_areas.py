from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import shapely
from made_predictions import predicted

from napari_lpd.cli.main import main
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import DataError, ExportError, SettingsError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.results import MeasureSettings, Roles, read_roles
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.measures.areas import (
    WHOLE,
    MeasureRow,
    Site,
    field_around,
    measure,
    sites_of,
    write_measures,
)

CLASSES = tuple(TissueClass(name=name, color="#3b4cff") for name in ("TUM", "STR", "LYM"))
ROLES = Roles(tumour=("TUM",), stroma=("STR",), lymphocyte_rich_stroma=("LYM",))
PIXEL = 0.25e-6  # mm² of 0.5 µm squared


def all_labels() -> np.ndarray:
    labels = np.zeros((1200, 1600), np.uint8)
    labels[:600, :800] = 1
    labels[:600, 800:1000] = 2
    labels[600:, :300] = 3
    labels[600:640, 1500:] = 255
    return labels


@pytest.fixture
def prediction(tmp_path):
    return predicted(tmp_path / "a.zarr", all_labels(), CLASSES)


EVERYTHING = (Site(WHOLE),)


def measured(prediction, sites=EVERYTHING, **settings) -> dict[tuple[str, str], MeasureRow]:
    rows = run(measure(prediction, MeasureSettings(roles=ROLES, **settings), sites))
    return {(row.region, row.what): row for row in rows}


def test_areas_of_the_whole_slide_by_hand(prediction):
    rows = measured(prediction)
    assert [what for _, what in rows] == [
        *("TUM", "STR", "LYM", "unsure", "unlabelled", "tissue"),
        *("stroma share of tumour area", "lymphocyte-rich stroma area"),
    ]
    tumour = rows[WHOLE, "TUM"]
    assert tumour.area_mm2 == pytest.approx(480_000 * PIXEL)
    readable = 1200 * 1600 - 40 * 100
    assert tumour.percent == pytest.approx(100 * 480_000 / readable)
    assert rows[WHOLE, "tissue"].area_mm2 == pytest.approx(readable * PIXEL)
    labelled = sum(rows[WHOLE, what].area_mm2 for what in ("TUM", "STR", "LYM"))
    assert rows[WHOLE, "unlabelled"].area_mm2 == pytest.approx(readable * PIXEL - labelled) != 0
    assert rows[WHOLE, "unlabelled"].percent == pytest.approx(100 * (1 - labelled / (readable * PIXEL)))
    share = rows[WHOLE, "stroma share of tumour area"]
    assert share.percent == pytest.approx(20)
    assert (share.percent_of, share.percent_reported) == ("tumour + stroma", None)
    assert rows[WHOLE, "lymphocyte-rich stroma area"].percent == pytest.approx(100 * 180 / 300)
    areas = {row.what: row.area_mm2 for row in rows.values() if row.what in ("TUM", "STR", "LYM")}
    assert areas == pytest.approx(prediction.area_mm2())


def test_nothing_is_called_after_a_score_that_it_is_not(prediction):
    assert not any("til" in what.lower() for _, what in measured(prediction))


def test_regions_are_measured_by_their_pixels(prediction):
    box = shapely.box(1000, 1000, 2400, 1600)  # 0.25 µm: x 500..1200, y 500..800 of the labels
    hole = shapely.Polygon(box.exterior, [shapely.box(1100, 1050, 1200, 1150).exterior.coords])
    rows = measured(prediction, [Site(WHOLE), Site("box", box), Site("holed", hole)])
    assert rows["box", "TUM"].area_mm2 == pytest.approx(100 * 300 * PIXEL)
    assert rows["box", "STR"].percent == pytest.approx(100 * (100 * 200) / (300 * 700))
    assert rows["holed", "TUM"].area_mm2 == pytest.approx((100 * 300 - 50 * 50) * PIXEL)
    assert rows["holed", "tissue"].area_mm2 == pytest.approx((300 * 700 - 50 * 50) * PIXEL)
    assert rows[WHOLE, "TUM"].area_mm2 == pytest.approx(480_000 * PIXEL)


def test_expected_areas_and_their_interval_by_hand(tmp_path):
    scores = np.ones((3, 150, 200), np.uint8)
    scores[0] = 128  # 0.5; none of the classes: (1 - 0.5)² = 0.25; share 0.5 / 0.75
    row = measured(predicted(tmp_path / "a.zarr", all_labels(), CLASSES, scores=scores))[WHOLE, "TUM"]
    share, counted = 0.5 / 0.75, 1200 * 1600 - 40 * 100
    assert row.expected_mm2 == pytest.approx(share * counted * PIXEL)
    squares = np.zeros((3, 4))  # 250 µm: 62 map pixels, 496 labels
    for y in range(3):
        for x in range(4):
            squares[y, x] = (min(1200, (y + 1) * 496) - y * 496) * (min(1600, (x + 1) * 496) - x * 496)
    squares[1, 3] -= 40 * 100
    margin = 1.96 * math.sqrt(share * (1 - share)) * np.sqrt((squares**2).sum()) * PIXEL
    assert row.expected_high_mm2 == pytest.approx(min(row.expected_mm2 + margin, 1200 * 1600 * PIXEL))
    assert row.expected_low_mm2 == pytest.approx(row.expected_mm2 - margin)
    assert row.expected_low_mm2 < row.expected_mm2


def test_probabilities_are_those_of_the_prediction_and_can_be_calibrated(prediction):
    s = 99 / 254  # of every class; none of them: (1 - s)²
    for temperature in (0.0, 0.5, 2.0):
        power = 1 / (temperature or 1)
        share = s**power / (3 * s**power + (1 - s) ** (2 * power))
        row = measured(prediction, temperature=temperature)[WHOLE, "TUM"]
        assert row.expected_mm2 == pytest.approx(share * (1200 * 1600 - 40 * 100) * PIXEL)


def test_corrections_count_and_are_certain(prediction):
    before = measured(prediction)
    store = Corrections(prediction)
    crop = store.read_crop(0, 0, (200, 200))
    crop[:100, :100], crop[100:, 100:] = 2, 0
    store.apply_crop(0, 0, crop)
    rows = measured(prediction)
    assert rows[WHOLE, "TUM"].area_mm2 == pytest.approx((480_000 - 20_000) * PIXEL)
    assert rows[WHOLE, "STR"].area_mm2 == pytest.approx((120_000 + 10_000) * PIXEL)
    assert rows[WHOLE, "STR"].corrected_mm2 == pytest.approx(10_000 * PIXEL)
    assert before[WHOLE, "STR"].corrected_mm2 == 0
    s = 99 / 254  # of every class; none of them: (1 - s)²
    p = s / (3 * s + (1 - s) ** 2)
    change = rows[WHOLE, "STR"].expected_mm2 - before[WHOLE, "STR"].expected_mm2
    assert change == pytest.approx((10_000 - 20_000 * p) * PIXEL)
    assert rows[WHOLE, "tissue"].area_mm2 == before[WHOLE, "tissue"].area_mm2
    assert measured(prediction, [Site("c", shapely.box(0, 0, 200, 200))])["c", "STR"].percent == 100


def test_tissue_painted_on_glass_is_tissue(tmp_path):
    prediction = predicted(tmp_path / "a.zarr", all_labels() * 0, CLASSES, tissue=np.zeros((9, 9), bool))
    assert measured(prediction)[WHOLE, "TUM"].percent is None
    Corrections(prediction).apply_crop(0, 0, np.ones((10, 10), np.uint8))
    rows = measured(prediction)
    assert rows[WHOLE, "tissue"].area_mm2 == pytest.approx(100 * PIXEL)
    assert rows[WHOLE, "TUM"].percent == 100
    assert rows[WHOLE, "stroma share of tumour area"].percent == 0


def test_the_field_has_the_published_size_and_its_ratio_is_reported_per_ten_percent(tmp_path):
    labels = np.ones((1500, 1500), np.uint8)
    labels[:, 810:] = 2
    prediction = predicted(tmp_path / "a.zarr", labels, CLASSES, mpp=2.0, slide_shape=(12000, 12000), stride=8)
    site = field_around(6000, 6000, (0.25, 0.25))
    assert site.geometry.area * 0.25**2 / 1e6 == pytest.approx(3.1)
    rows = measured(prediction, [site])
    ratio = rows[site.name, "tumour-stroma ratio"]
    assert rows[site.name, "tissue"].area_mm2 == pytest.approx(3.1, rel=1e-3)
    radius = math.sqrt(3.1 / math.pi)
    offset = (810 * 2 - 1500) / 1000
    cut = radius**2 * math.acos(offset / radius) - offset * math.sqrt(radius**2 - offset**2)
    assert ratio.percent == pytest.approx(100 * cut / 3.1, rel=1e-2)
    assert ratio.percent_reported == 40
    with pytest.raises(DataError, match=r"reaches outside a\.svs"):
        measured(prediction, [field_around(100, 6000, (0.25, 0.25))])


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"tumour": ["tum"]}, "a.zarr: role tumour names 'tum'; its classes are TUM, STR, LYM"),
        ({"tumour": ["TUM"], "stroma": ["TUM"]}, "'TUM' cannot be tumour and stroma at once"),
    ],
)
def test_roles_that_do_not_fit_are_refused(prediction, roles, said):
    with pytest.raises(SettingsError, match=said):
        run(measure(prediction, MeasureSettings(roles=Roles.build(roles))))


def test_no_role_is_guessed(prediction):
    rows = run(measure(prediction, MeasureSettings()))
    assert [row.what for row in rows] == ["TUM", "STR", "LYM", "unsure", "unlabelled", "tissue"]


@pytest.mark.parametrize("text", ["[", '{"tumor": ["TUM"]}', '["TUM"]'])
def test_a_roles_file_that_is_none_is_one_line(tmp_path, text):
    (tmp_path / "roles.json").write_text(text)
    with pytest.raises(SettingsError):
        read_roles(tmp_path / "roles.json")


def test_half_a_prediction_is_not_measured(tmp_path):
    prediction = predicted(tmp_path / "a.zarr", all_labels(), CLASSES, finish=False)
    with pytest.raises(ExportError, match=r"a\.zarr: unfinished prediction; run predict again"):
        measured(prediction)


def test_the_table_is_read_by_pandas(prediction, tmp_path):
    rows = list(measured(prediction).values())
    path = write_measures(rows, tmp_path / "m.csv")
    table = pd.read_csv(path)
    assert table.what.tolist() == [row.what for row in rows]
    assert table.area_mm2.tolist() == pytest.approx([row.area_mm2 for row in rows], abs=1e-6)
    assert table.expected_mm2.isna().tolist() == [row.expected_mm2 is None for row in rows]
    with pytest.raises(ExportError, match="exists and is not overwritten"):
        write_measures(rows, path)


def geojson(path, *features, **extra):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features), **extra}))
    return path


def polygon(*box, **properties):
    return {"type": "Feature", "geometry": shapely.box(*box).__geo_interface__, "properties": properties}


def test_regions_are_called_what_they_are_called(prediction, tmp_path):
    path = geojson(
        tmp_path / "r.geojson",
        polygon(0, 0, 10, 10, name="invasive front"),
        polygon(0, 0, 10, 10, classification={"name": "Tumor"}),
        polygon(0, 0, 10, 10),
    )
    assert [site.name for site in sites_of(path, prediction)] == ["invasive front", "Tumor 2", "region 3"]


def test_regions_of_another_slide_are_refused(prediction, tmp_path):
    far = geojson(tmp_path / "far.geojson", polygon(9000, 0, 9010, 10))
    with pytest.raises(DataError, match=r"left out, outside a\.svs \(3200 x 2400 pixels\): feature 1"):
        sites_of(far, prediction)
    other = geojson(tmp_path / "other.geojson", polygon(0, 0, 9, 9), napari_lpd={"slide": "b.svs", "slide_hash": "2"})
    with pytest.raises(DataError, match=r"made from another slide \(b\.svs\), not from a\.svs"):
        sites_of(other, prediction)


def test_the_command_writes_one_table_for_many_results(prediction, tmp_path, capsys):
    bare = predicted(
        tmp_path / "b.zarr", all_labels() * 0, CLASSES, tissue=np.zeros((9, 9), bool), slide="b.svs", slide_hash="2"
    )
    (tmp_path / "roles.json").write_text(ROLES.model_dump_json())
    out = tmp_path / "m.csv"
    command = ["measure", str(prediction.folder), str(bare.folder), "--out", str(out)]
    assert main([*command, "--roles", str(tmp_path / "roles.json")]) == 0
    assert "b.zarr: no tissue in whole slide: its percentages are left empty" in capsys.readouterr().err
    table = pd.read_csv(out)
    assert table.groupby("slide").size().tolist() == [8, 8]
    assert table[table.slide == "b.svs"].percent.isna().all()
    assert main(command) == 2
    assert "m.csv exists and is not overwritten" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--field", "1,2"]) == 2
    assert "belong to one slide" in capsys.readouterr().err
    assert main([*command[:2], *command[3:], "--overwrite", "--field", "here"]) == 2
    assert "--field here is not X,Y" in capsys.readouterr().err


def test_a_field_lies_inside_of_a_slide_that_is_wider_than_high(tmp_path):
    labels = np.ones((1500, 2500), np.uint8)
    wide = predicted(tmp_path / "a.zarr", labels, CLASSES, mpp=2.0, slide_shape=(12000, 20000))
    site = field_around(15500, 6000, (0.25, 0.25))
    assert measured(wide, [site])[site.name, "TUM"].area_mm2 == pytest.approx(3.1, rel=1e-3)
    with pytest.raises(DataError, match=r"a field of 3\.1 mm² there reaches outside a\.svs"):
        measured(wide, [field_around(6000, 8500, (0.25, 0.25))])
