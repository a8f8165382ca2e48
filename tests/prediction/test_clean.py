"""Areas of a result cleaned: by blocks the same as in the whole image, computed here by SciPy in the plainest way."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import shapely
from made_predictions import predicted
from scipy.ndimage import correlate
from scipy.ndimage import label as connected
from skimage.filters import gaussian

from napari_lpd.cli.main import main
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import SettingsError
from napari_lpd.core.jobs import run
from napari_lpd.core.labelling.clean import Cleaning, cleaned
from napari_lpd.core.labelling.rule import UNREADABLE, UNSURE
from napari_lpd.core.numeric import components
from napari_lpd.core.settings.prediction import CleanSettings, LabelSettings, PredictSettings
from napari_lpd.core.settings.results import MeasureSettings
from napari_lpd.prediction.predict import predict_slide
from napari_lpd.prediction.relabel import LabelView, relabel
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.export.ome_tiff import read_label_tiff
from napari_lpd.results.measures.areas import measure
from napari_lpd.results.prediction import Prediction

CLASSES = tuple(TissueClass(name=name, color="#3b4cff") for name in ("TUM", "STR", "LYM"))
TISSUES = (1, 2, 3, UNSURE)
MPP = 0.5
CLEAN = CleanSettings(
    smallest_um2=60,
    smallest_of=(("LYM", 150), ("unsure", 20)),
    holes_um2=400,
    holes_of=(("STR", 0),),
    smooth_um=2,
    smooth_of=(("TUM", 0), ("LYM", 4)),
)
ENDS = (True, True, True, True)


def numbers_of(labels: np.ndarray) -> np.ndarray:
    """Areas of equal labels, from 1."""
    numbers = np.zeros(labels.shape, int)
    for value in np.unique(labels):
        here, _ = connected(labels == value)
        numbers[here > 0] = here[here > 0] + numbers.max()
    return numbers


def edges_to(area: np.ndarray, labels: np.ndarray, among: np.ndarray) -> dict[int, int]:
    """Count edges between an area and the pixels `among` beside it, by their label."""
    found: dict[int, int] = {}
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        beside = np.roll(area, step, axis)
        beside[(0 if step > 0 else -1,) if axis == 0 else (slice(None), 0 if step > 0 else -1)] = False
        for value in labels[beside & ~area & among]:
            found[int(value)] = found.get(int(value), 0) + 1
    return found


def longest(edges: dict[int, int]) -> int:
    return min(edges, key=lambda value: (-edges[value], value))


def smoothed_whole(labels: np.ndarray, cleaning: Cleaning) -> np.ndarray:
    result, tissue = labels.copy(), np.isin(labels, TISSUES)
    for half in {int(radius / 2) for radius in cleaning.radius} - {0}:
        tent = 2 * half + 1 - np.abs(np.arange(-2 * half, 2 * half + 1))
        votes = [correlate((labels == value).astype(int), np.outer(tent, tent), mode="constant") for value in TISSUES]
        here = tissue & ((cleaning.radius / 2).astype(int)[labels] == half)
        result[here] = np.array(TISSUES)[np.argmax(votes, 0)][here]
    return result


def without_specks_whole(labels: np.ndarray, cleaning: Cleaning) -> np.ndarray:
    result, tissue = labels.copy(), np.isin(labels, TISSUES)
    pieces, _ = connected(tissue)
    for piece in range(1, pieces.max() + 1):
        inside = pieces == piece
        numbers = numbers_of(labels) * inside
        areas = {n: int((numbers == n).sum()) for n in np.unique(numbers[inside])}
        of = {n: int(labels[numbers == n][0]) for n in areas}
        known = {n for n in areas if areas[n] >= cleaning.smallest[of[n]]}
        if not known:
            biggest = min(areas, key=lambda n: (-areas[n], np.flatnonzero(numbers == n)[0]))  # the first of equals
            result[inside] = of[biggest] if inside.sum() >= cleaning.smallest[of[biggest]] else 0
            continue
        while known != set(areas):
            there, taken = np.isin(numbers, list(known)), {}
            for n in set(areas) - known:
                if edges := edges_to(numbers == n, result, there):
                    taken[n] = longest(edges)
            for n, value in taken.items():
                result[numbers == n] = value
            known |= set(taken)
    return result


def without_holes_whole(labels: np.ndarray, cleaning: Cleaning, outside: np.ndarray) -> np.ndarray:
    result, rim = labels.copy(), np.ones(labels.shape, bool)
    rim[1:-1, 1:-1] = False
    holes, count = connected(labels == 0)
    for n in range(1, count + 1):
        hole = holes == n
        edges = edges_to(hole, labels, np.isin(labels, TISSUES))
        if edges and not (hole & (rim | outside)).any() and hole.sum() < cleaning.holes[longest(edges)]:
            result[hole] = longest(edges)
    return result


def cleaned_whole(labels: np.ndarray, cleaning: Cleaning, outside: np.ndarray | None = None) -> np.ndarray:
    """Clean by the words of `core.labelling.clean`, one area after the other."""
    outside = np.zeros(labels.shape, bool) if outside is None else outside
    specks = without_specks_whole(smoothed_whole(labels, cleaning), cleaning)
    return without_holes_whole(specks, cleaning, outside)


def speckled(shape=(80, 90), seed=0) -> np.ndarray:
    """Tissues in each other with specks, holes, bare glass and a place that could not be read."""
    rng = np.random.default_rng(seed)
    fields = [gaussian(rng.normal(size=shape), 3) for _ in range(5)]
    labels = np.array([0, 1, 2, 3, UNSURE], np.uint8)[np.argmax(fields, 0)]
    labels[rng.random(shape) < 0.03] = rng.choice([0, 1, 2, 3], 1)[0]
    labels[60:75, 50:61] = UNREADABLE
    labels[:, 70:] = 0
    labels[20:23, 75:79], labels[40:60, 74:86] = 3, 2  # two pieces alone on glass
    labels[44:50, 78:83] = 0
    return labels


@pytest.mark.parametrize(
    "settings",
    [
        CLEAN,
        CleanSettings(smooth_um=3),
        CleanSettings(smallest_um2=100),
        CleanSettings(smallest_of=(("STR", 90),)),
        CleanSettings(holes_um2=60),
        CleanSettings(smallest_um2=1e6),  # nothing is as large
    ],
)
def test_what_is_cleaned_is_what_the_rule_says(settings):
    labels, cleaning = speckled(), Cleaning.of(settings, ["TUM", "STR", "LYM"], MPP)
    found = cleaned(labels, cleaning, ENDS)
    assert np.array_equal(found, cleaned_whole(labels, cleaning))
    assert not np.array_equal(found, labels)
    assert np.array_equal(found == UNREADABLE, labels == UNREADABLE)


def test_borders_of_areas_are_counted_across_strips(monkeypatch):
    labels = speckled()
    monkeypatch.setattr(components, "STRIP_PIXELS", 700)
    areas = components.Components(lambda top, end: labels[top:end], labels.shape, 64, -1)
    assert len(areas.ends) > 9
    run(areas.search(borders=True))
    numbers = np.concatenate([each for _, each in areas.strips()])
    expected: dict[tuple[int, int], int] = {}
    for one, two in ((numbers[1:], numbers[:-1]), (numbers[:, 1:], numbers[:, :-1])):
        for pair in zip(one[one != two].tolist(), two[one != two].tolist(), strict=True):
            for key in (pair, pair[::-1]):
                expected[key] = expected.get(key, 0) + 1
    found = {(own, other): edges for own, other, edges in zip(*map(np.ndarray.tolist, areas.borders), strict=True)}
    assert found == expected
    assert np.array_equal(areas.label[numbers], labels)
    assert np.array_equal(areas.area, np.bincount(numbers.ravel()))


@pytest.fixture
def made(tmp_path) -> Prediction:
    """A result of several blocks whose labels, made of its maps, are fine-grained; with holes in the tissue."""
    rng = np.random.default_rng(1)
    shape = (262, 230)
    fields = np.stack([gaussian(rng.normal(size=(66, 58)), 1.2) for _ in CLASSES])
    scores = np.clip(128 + 90 * fields / fields.std(), 1, 255).astype(np.uint8)
    tissue = np.ones((10, 9), bool)  # 16 µm
    for y, x in ((2, 4), (5, 3), (1, 1), (2, 1), (5, 5)):
        tissue[y, x] = False
    tissue[7:, 6] = False
    labels = np.ones(shape, np.uint8)
    labels[100:111, 120:140] = UNREADABLE
    inside = [(25, 60), (40, 60), (40, 75), (25, 75)]  # not predicted: no hole to fill
    scope = shapely.Polygon([(0, 0), (115, 0), (115, 80), (50, 131), (0, 131)], [inside])
    settings = PredictSettings(tile=64, overlap=16, block=64, background_power=2)
    about = {"stride": 4, "block": 64, "settings": settings, "scope": (scope.wkt,)}
    predicted(tmp_path / "a.zarr", labels, CLASSES, scores, tissue, **about)
    return run(relabel(tmp_path / "a.zarr", LabelSettings(sure=0.5)))


def all_bytes(prediction: Prediction) -> list[bytes]:
    return [np.asarray(level).tobytes() for level in prediction.labels.levels]


def test_by_blocks_it_is_the_same_as_in_the_whole_image_and_can_be_taken_back(made, monkeypatch):
    monkeypatch.setattr(components, "STRIP_PIXELS", 7000)  # strips of 16 rows
    raw, before, card = np.asarray(made.labels.levels[0]), all_bytes(made), made.card
    outside = ~made.in_scope((0, 0), card.shape)
    again = run(relabel(made.folder, LabelSettings(sure=0.5, clean=CLEAN)))
    labels = np.asarray(again.labels.levels[0])
    assert np.array_equal(labels, cleaned_whole(raw, again.card.cleaning, outside))
    assert 0.02 < (labels != raw).mean() < 0.5
    assert (labels[raw == 0] > 0).sum() > 500  # holes
    assert outside.any()
    for level, pixels in enumerate(again.labels.levels):
        assert np.array_equal(np.asarray(pixels), labels[:: 2**level, :: 2**level])
    pixel = (MPP / 1000) ** 2
    assert again.area_mm2() == {c.name: pytest.approx((labels == i + 1).sum() * pixel) for i, c in enumerate(CLASSES)}
    assert again.unsure_mm2 == pytest.approx((labels == UNSURE).sum() * pixel)
    assert again.cleaned
    assert Prediction.open(made.folder).card.settings.labels.clean == CLEAN
    back = run(relabel(made.folder, LabelSettings(sure=0.5)))
    assert all_bytes(back) == before
    assert back.card == card
    assert not back.cleaned


def test_measures_and_exports_are_those_of_the_cleaned_labels(made, tmp_path, capsys):
    raw = np.asarray(made.labels.levels[0])
    argv = ["relabel", str(made.folder), "--sure", "0.5", "--json", "--smallest", "60", "--smallest", "LYM=150"]
    argv += ["--smallest", "unsure=20", "--holes", "400", "--holes", "STR=0"]
    argv += ["--smooth", "2", "--smooth", "TUM=0", "--smooth", "LYM=4"]
    assert main(argv) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["results"][0]
    again = Prediction.open(made.folder)
    assert again.card.settings.labels == LabelSettings(sure=0.5, clean=CLEAN)
    expected = cleaned_whole(raw, again.card.cleaning, ~again.in_scope((0, 0), again.card.shape))
    said = "at least 50 % sure, areas from 60 µm² (LYM 150, unsure 20), holes filled below 400 µm² (STR 0)"
    assert row["labels"] == f"{said}, smoothed by 2 µm (TUM 0, LYM 4)"
    assert row["mm²"]["STR"] == pytest.approx((expected == 2).sum() * 0.25e-6)
    assert main(["export", str(made.folder), "--to", str(tmp_path / "mask.ome.tif")]) == 0
    assert np.array_equal(np.asarray(read_label_tiff(tmp_path / "mask.ome.tif").levels[0]), expected)
    assert main(["measure", str(made.folder), "--out", str(tmp_path / "areas.csv")]) == 0
    with (tmp_path / "areas.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = {line["what"]: line for line in csv.DictReader(file)}
    wanted = again.to_label((0, 0), again.card.shape) | (expected > 0)
    readable = wanted & (expected != UNREADABLE)
    for name, where in {
        "TUM": expected == 1,
        "STR": expected == 2,
        "LYM": expected == 3,
        "unsure": expected == UNSURE,
        "unlabelled": readable & (expected == 0),
        "tissue": readable,
    }.items():
        assert float(rows[name]["area_mm2"]) == pytest.approx(where.sum() * 0.25e-6, abs=1e-6), name
    assert rows["TUM"]["labels"] == row["labels"]


def test_the_view_shows_what_the_result_will_be_under_corrections(made):
    Corrections(made).apply_crop(100, 100, np.full((3, 3), 3, np.uint8))
    settings, box = LabelSettings(sure=0.5, clean=CLEAN), (80, 90, 200, 180)
    shown = LabelView(Corrections(made), box).labels(settings)
    again = run(relabel(made.folder, settings))
    corrected = np.asarray(Corrections(again).levels[0])
    assert (corrected[100:103, 100:103] == 3).all()
    assert np.array_equal(shown, corrected[80:200, 90:180])
    assert np.array_equal(LabelView(Corrections(again), box).labels(settings), shown)  # of what is cleaned already


def test_a_coarser_view_shows_nearly_what_the_result_will_be(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_lpd.results.pyramid.MIN_LEVEL", 600)  # two levels
    fields = [gaussian(np.random.default_rng(n).normal(size=(138, 130)), 5) for n in range(3)]
    scores = np.clip(128 + 90 * np.stack(fields) / fields[0].std(), 1, 255).astype(np.uint8)
    settings = LabelSettings(sure=0.0, clean=CleanSettings(smallest_um2=6000, smooth_um=20))
    made = predicted(tmp_path / "a.zarr", np.ones((1100, 1040), np.uint8), CLASSES, scores)
    shown = LabelView(Corrections(made), (0, 0, 1100, 1040), 1).labels(settings)
    raw = LabelView(Corrections(made), (0, 0, 1100, 1040), 1).labels(LabelSettings(sure=0.0))
    again = np.asarray(run(relabel(made.folder, settings)).labels.levels[1])
    assert (shown != again).mean() < 0.02 < 0.1 < (shown != raw).mean()


def test_what_was_interrupted_while_it_was_cleaned_is_made_whole(made):
    settings = LabelSettings(sure=0.5, clean=CLEAN)
    job = relabel(made.folder, settings)
    while next(job).message != "rows cleaned":
        pass
    job.close()
    stopped = Prediction.open(made.folder)
    assert not stopped.finished
    half = all_bytes(stopped)
    finished = run(relabel(made.folder, settings))
    assert finished.finished
    again = run(relabel(made.folder, settings))
    assert all_bytes(finished) == all_bytes(again) != half


@pytest.mark.parametrize("refiner", ["none", "lattice"])
def test_predict_cleans_at_its_end_and_only_makes_labels_again(tiny_slide, tiny_model, tmp_path, refiner):
    scope = [shapely.box(130, 60, 260, 190)]  # across the border of the tissues

    def predict(name: str, labels: LabelSettings) -> Prediction:
        settings = PredictSettings(tile=64, overlap=16, block=64, refiner=refiner, labels=labels)
        return run(predict_slide(tiny_slide, tiny_model, settings, tmp_path / name, scope))

    cleaning = LabelSettings(sure=0.7, clean=CleanSettings(smallest_um2=6000, smooth_um=20))
    raw = predict("raw.zarr", LabelSettings(sure=0.7))
    pixels = Cleaning.of(cleaning.clean, ["dark", "pink"], raw.card.mpp)
    before = np.asarray(raw.labels.levels[0])
    wanted = cleaned_whole(before, pixels)
    assert not np.array_equal(before, wanted)
    for name in ["raw.zarr", "new.zarr"][: 1 + (refiner == "none")]:  # of labels that are there, or at once
        made = predict(name, cleaning)
        assert np.array_equal(np.asarray(made.labels.levels[0]), wanted)
        assert made.finished
        assert made.card.settings.labels == cleaning
    made.forget(set(sorted(made.finished_blocks())[:1]))  # a block is lost of what is cleaned
    assert np.array_equal(np.asarray(predict(name, cleaning).labels.levels[0]), wanted)


def test_what_cannot_be_cleaned_so_is_said_and_nothing_is_changed(made, capsys):
    before = all_bytes(made)
    for clean, said in (
        (CleanSettings(smallest_of=(("fat", 3),)), "smallest_of names 'fat'; the tissues are TUM, STR, LYM, unsure"),
        (CleanSettings(holes_um2=2000), "holes of 2000 µm² are to be filled; at most 1024 µm², as large as a block"),
    ):
        with pytest.raises(SettingsError, match=said):
            run(relabel(made.folder, LabelSettings(clean=clean)))
    with pytest.raises(SettingsError, match="smooth_of=200 must be at most 50"):
        CleanSettings.build({"smooth_of": [["TUM", 200]]})
    assert main(["relabel", str(made.folder), "--smallest", "LYM="]) == 2
    assert "--smallest LYM= is not a number, or TISSUE=NUMBER, as fat=5000" in capsys.readouterr().err
    opened = Prediction.open(made.folder)
    assert opened.finished
    assert all_bytes(opened) == before
    row = next(each for each in run(measure(opened, MeasureSettings())) if each.what == "TUM")
    assert row.area_mm2 == pytest.approx(opened.area_mm2()["TUM"])
