from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import shapely
from made_predictions import predicted
from scipy.ndimage import binary_dilation, distance_transform_edt

from napari_lpd.cli.main import main
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import SettingsError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.results import MarginSettings, MeasureSettings, Roles
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.measures.areas import WHOLE, MeasureRow, Site, measure

CLASSES = tuple(TissueClass(name=name, color="#3b4cff") for name in ("TUM", "STR", "LYM"))
ROLES = Roles(tumour=("TUM",), stroma=("STR",), lymphocyte_rich_stroma=("LYM",))
MPP = 0.5
PIXEL = (MPP / 1000) ** 2
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
EVERYTHING = (Site(WHOLE),)


def measured(prediction, *bands_um, sites=EVERYTHING, **margin) -> dict[tuple[str, str], MeasureRow]:
    settings = MeasureSettings(roles=ROLES, margin=MarginSettings(bands_um=bands_um, **margin))
    rows = run(measure(prediction, settings, sites))
    found = {(row.region, row.what): row for row in rows}
    assert len(found) == len(rows)
    return found


def scene() -> np.ndarray:
    """Round nests in stroma, with lymphocytes, an unreadable and an unlabelled part."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:1300, :1100]
    labels = np.full(y.shape, 2, np.uint8)
    for _ in range(12):
        cy, cx, r = rng.uniform(0, 1300), rng.uniform(0, 1100), rng.uniform(20, 130)
        labels[np.hypot(y - cy, x - cx) < r] = rng.choice([1, 1, 3])
    labels[700:900, 300:500] = 255
    labels[200:330, 600:1000] = 0
    return labels


def whole_image(labels: np.ndarray, tissue: np.ndarray, against: tuple[int, ...] = ()) -> np.ndarray:
    """Signed distances in µm by scipy, of the whole image at once."""
    inner = labels == 1
    outer = np.isin(labels, against or (2, 3)) | (tissue & (labels == 0))
    at_inner, at_outer = inner & binary_dilation(outer, CROSS), outer & binary_dilation(inner, CROSS)
    return MPP * np.where(inner, -distance_transform_edt(~at_outer), distance_transform_edt(~at_inner))


@pytest.mark.parametrize("against", [(), ("LYM",)])
def test_bands_are_those_of_the_transform_of_the_whole_image(tmp_path, against):
    labels = scene()
    prediction = predicted(tmp_path / "a.zarr", labels, CLASSES)
    rows = measured(prediction, 20, 60.3, against=against)
    signed = whole_image(labels, np.ones(labels.shape, bool), tuple(i for i in (3,) if against))
    for low, high, name in (
        (-60.3, -20, "20-60.3 µm inside"),
        (-20, 0, "0-20 µm inside"),
        (0, 20, "0-20 µm outside"),
        (20, 60.3, "20-60.3 µm outside"),
    ):
        band = (signed > low) & (signed <= high) if low >= 0 else (signed >= low) & (signed < high)
        counts = {i: int((band & (labels == i)).sum()) for i in (0, 1, 2, 3, 255)}
        assert sum(counts.values()) > 1000
        region = f"{WHOLE}: {name}"
        for i, what in enumerate(("unlabelled", "TUM", "STR", "LYM")):
            assert rows[region, what].area_mm2 == pytest.approx(counts[i] * PIXEL, abs=1e-12)
        tissue = rows[region, "tissue"]
        assert tissue.area_mm2 == pytest.approx((band.sum() - counts[255]) * PIXEL)
        assert (tissue.from_um, tissue.to_um) == (low, high)
        assert rows[region, "unreadable"].area_mm2 == pytest.approx(counts[255] * PIXEL)
        assert rows[region, "lymphocyte-rich stroma area"].area_mm2 == rows[region, "LYM"].area_mm2
        assert (region, "stroma share of tumour area") not in rows


def test_all_bands_add_up_to_the_whole_slide(tmp_path):
    rows = measured(predicted(tmp_path / "a.zarr", scene(), CLASSES), 30, 5000)
    for what in ("TUM", "STR", "LYM", "unlabelled", "tissue"):
        parts = [row for (region, name), row in rows.items() if name == what and row.to_um is not None]
        assert sum(row.area_mm2 for row in parts) == pytest.approx(rows[WHOLE, what].area_mm2)
        expected = [row.expected_mm2 for row in parts]
        assert None in expected or sum(expected) == pytest.approx(rows[WHOLE, what].expected_mm2)


def test_the_bands_of_a_half_plane_a_circle_and_a_torus_have_the_areas_of_geometry(tmp_path):
    y, x = np.mgrid[:1600, :1600] + 0.5
    r = np.hypot(y - 800, x - 800) * MPP
    made = {
        "plane": (x < 700, {-100: 0.8 * 0.1, -50: 0.8 * 0.05, 50: 0.8 * 0.05, 100: 0.8 * 0.1}),
        "circle": (r < 200, {d: abs((200 + d) ** 2 - 200**2) * math.pi / 1e6 for d in (-100, -50, 50, 100)}),
        "torus": (
            (r > 120) & (r < 260),
            {d: abs((260 + d) ** 2 - 260**2 + 120**2 - (120 - d) ** 2) * math.pi / 1e6 for d in (-60, -30, 50, 100)},
        ),
    }
    for name, (tumour, wanted) in made.items():
        prediction = predicted(tmp_path / f"{name}.zarr", np.where(tumour, 1, 2).astype(np.uint8), CLASSES)
        rows = measured(prediction, *{abs(d) for d in wanted})
        for reach, area in wanted.items():
            inside = [row for (_, what), row in rows.items() if what == "tissue" and row.from_um is not None
                      and min(reach, 0) <= row.from_um and row.to_um <= max(reach, 0)]  # fmt: skip
            assert sum(row.area_mm2 for row in inside) == pytest.approx(area, rel=0.005), (name, reach)


def test_a_border_runs_neither_along_glass_nor_along_what_is_unreadable(tmp_path):
    labels = np.zeros((512, 1024), np.uint8)
    labels[:, 256:768] = 1
    labels[:, 768:] = 255
    tissue = np.zeros((18, 34), bool)
    tissue[:, 8:] = True  # 16 µm: glass to the left of the tumour
    rows = measured(predicted(tmp_path / "a.zarr", labels, CLASSES, tissue=tissue), 100)
    assert {row.area_mm2 for row in rows.values() if row.to_um is not None} == {0}
    assert rows[f"{WHOLE}: 0-100 µm inside", "TUM"].percent is None


def test_corrections_move_the_border(tmp_path):
    prediction = predicted(tmp_path / "a.zarr", np.full((600, 1100), 2, np.uint8), CLASSES)
    assert measured(prediction, 50)[f"{WHOLE}: 0-50 µm outside", "STR"].area_mm2 == 0
    store = Corrections(prediction)
    crop = store.read_crop(0, 0, (600, 1100))
    crop[:, :300] = 1
    store.apply_crop(0, 0, crop)
    rows = measured(prediction, 50)
    assert rows[f"{WHOLE}: 0-50 µm outside", "STR"].area_mm2 == pytest.approx(600 * 100 * PIXEL)
    inside = rows[f"{WHOLE}: 0-50 µm inside", "TUM"]
    assert (inside.area_mm2, inside.corrected_mm2) == pytest.approx((600 * 100 * PIXEL,) * 2)


def test_bands_are_measured_in_regions_of_slides_whose_pixels_are_not_square(tmp_path):
    labels = np.full((600, 1100), 2, np.uint8)
    labels[:, :500] = 1
    prediction = predicted(tmp_path / "a.zarr", labels, CLASSES, slide_mpp=(0.25, 0.5), slide_shape=(1200, 1100))
    box = shapely.box(400, 200, 1000, 600)  # 0.5 µm in x, 0.25 in y: x 400..1000, y 100..300 of the labels
    rows = measured(prediction, 75, sites=[Site(WHOLE), Site("box", box)])
    assert rows["box: 0-75 µm outside", "STR"].area_mm2 == pytest.approx(200 * 150 * PIXEL)
    assert rows["box: 0-75 µm inside", "TUM"].area_mm2 == pytest.approx(200 * 100 * PIXEL)
    assert rows[f"{WHOLE}: 0-75 µm inside", "TUM"].area_mm2 == pytest.approx(600 * 150 * PIXEL)


def test_distances_of_the_other_classes_are_counted_in_steps(tmp_path):
    labels = scene()
    prediction = predicted(tmp_path / "a.zarr", labels, CLASSES)
    settings = MeasureSettings(roles=ROLES, margin=MarginSettings(bands_um=(33,), histogram_um=25))
    rows = [row for row in run(measure(prediction, settings)) if row.what.endswith(" by distance")]
    assert {row.what for row in rows} == {f"{name} by distance" for name in ("STR", "LYM", "unlabelled")}
    signed = whole_image(labels, np.ones(labels.shape, bool))
    for label, name in ((2, "STR"), (3, "LYM"), (0, "unlabelled")):
        own = [row for row in rows if row.percent_of == name]
        distances = signed[labels == label]
        edges = [0, *(row.to_um for row in own)]
        assert edges == [25 * i for i in range(len(edges))]
        wanted = np.histogram(np.nextafter(distances, 0), edges)[0]
        assert [row.area_mm2 for row in own] == pytest.approx(wanted * PIXEL, abs=1e-12)
        assert sum(row.percent for row in own) == pytest.approx(100)
        assert wanted[-1] > 0


@pytest.mark.parametrize(
    ("roles", "margin", "said"),
    [
        ({}, {}, "name classes (margin.of), or those that are tumour (--roles)"),
        ({"tumour": ["TUM"]}, {"against": ["tum"]}, "names 'tum'; its classes are TUM, STR, LYM"),
        ({"tumour": ["TUM"]}, {"against": ["STR", "TUM"]}, "'TUM' cannot be inside and outside"),
    ],
)
def test_a_border_that_is_none_is_refused(tmp_path, roles, margin, said):
    prediction = predicted(tmp_path / "a.zarr", np.ones((40, 40), np.uint8), CLASSES)
    settings = MeasureSettings.build({"roles": roles, "margin": {"bands_um": [10], **margin}})
    with pytest.raises(SettingsError) as raised:
        run(measure(prediction, settings))
    assert said in str(raised.value)


def test_steps_are_not_finer_than_pixels_and_bands_not_below_zero():
    for values in ({"histogram_um": 1}, {"bands_um": [0]}, {"bands_um": [-5]}):
        with pytest.raises(SettingsError):
            MarginSettings.build(values)


def test_the_command_measures_bands(tmp_path, capsys):
    labels = np.full((600, 1100), 2, np.uint8)
    labels[:, :500] = 1
    prediction = predicted(tmp_path / "a.zarr", labels, CLASSES)
    out = tmp_path / "m.csv"
    command = ["measure", str(prediction.folder), "--out", str(out), "--bands", "50,100", "--set"]
    assert main([*command, 'margin.of=["TUM"]', "--set", "margin.histogram_um=50"]) == 0
    table = pd.read_csv(out)
    band = table[(table.region == f"{WHOLE}: 50-100 µm outside") & (table.what == "STR")].iloc[0]
    assert (band.area_mm2, band.percent, band.from_um, band.to_um) == pytest.approx((600 * 100 * PIXEL, 100, 50, 100))
    assert len(table[table.what == "STR by distance"]) == 6
    assert main([*command, 'margin.of=["TUM"]', "--bands", "near", "--overwrite"]) == 2
    assert "--bands near" in capsys.readouterr().err
