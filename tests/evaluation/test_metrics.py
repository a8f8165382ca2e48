from __future__ import annotations

import csv
import hashlib
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from napari_lpd.core.errors import DataError, ExportError
from napari_lpd.core.files import file_hashes, overlap
from napari_lpd.evaluation.calibration import calibration, gate_rates
from napari_lpd.evaluation.metrics import (
    HEADLINES,
    ImageResult,
    bootstrap_intervals,
    boundary_counts,
    confusion_matrix,
    metrics,
)
from napari_lpd.evaluation.report import ReportRow, write_report

NAMES = ("TUM", "STR")
BACKGROUNDS = ("exclude", "count", "predict")
# 2 classes, background = 2, ignored = 255
TRUTH = np.array([[0, 0, 0, 1], [1, 1, 2, 2], [2, 255, 255, 0]], np.uint8)
PREDICTED = np.array([[0, 0, 1, 1], [1, 2, 2, 0], [1, 0, 1, 0]], np.uint8)


def result_of(truth, predicted, background="exclude", name="image", source="slide"):
    class_count = len(NAMES)
    return ImageResult(
        name,
        source,
        confusion_matrix(truth, predicted, class_count),
        boundary_counts(truth, predicted, class_count, 0.02, background),
        np.array([0.9, 0.2]),
        np.array([(truth == c).any() for c in range(class_count)]),
    )


def scores_of(truth, predicted, background="exclude"):
    return metrics([result_of(truth, predicted, background)], NAMES, background)


truths = arrays.arrays(np.uint8, (9, 7), elements=st.sampled_from([0, 1, 2, 255]))
predictions = arrays.arrays(np.uint8, (9, 7), elements=st.integers(0, 2))
pairs = st.lists(st.tuples(truths, predictions, st.sampled_from("abcd")), min_size=1, max_size=6)


def results_from(drawn, background="exclude"):
    return [
        result_of(truth, predicted, background, f"{i}", source) for i, (truth, predicted, source) in enumerate(drawn)
    ]


def test_the_matrix_has_truth_in_rows_and_leaves_ignored_pixels_out():
    matrix = confusion_matrix(TRUTH, PREDICTED, 2)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[3, 1, 0], [0, 2, 1], [1, 1, 1]]


def test_a_predicted_value_above_background_is_an_error():
    with pytest.raises(DataError, match=r"0\.\.3, wanted 0\.\.2"):
        confusion_matrix(np.zeros((1, 2), np.uint8), np.array([[0, 3]], np.uint8), 2)
    with pytest.raises(DataError, match="wanted the same"):
        confusion_matrix(np.zeros((1, 2), np.uint8), np.zeros((2, 1), np.uint8), 2)


@pytest.mark.parametrize(
    ("background", "iou", "weighted", "accuracy", "of_background"),
    [
        ("exclude", [3 / 4, 2 / 4], (4 * 3 / 4 + 3 * 2 / 4) / 7, 5 / 7, math.nan),
        ("count", [3 / 5, 2 / 5], (4 * 3 / 5 + 3 * 2 / 5) / 7, 6 / 10, math.nan),
        ("predict", [3 / 5, 2 / 5], (4 * 3 / 5 + 3 * 2 / 5 + 3 * 1 / 4) / 10, 6 / 10, 1 / 4),
    ],
)
def test_the_three_treatments_of_background_by_hand(background, iou, weighted, accuracy, of_background):
    scores = scores_of(TRUTH, PREDICTED, background)
    assert scores.iou.tolist() == pytest.approx(iou)
    assert scores.mean_iou == pytest.approx(np.mean(iou))
    assert scores.frequency_weighted_iou == pytest.approx(weighted)
    assert scores.pixel_accuracy == pytest.approx(accuracy)
    assert scores.background_iou == pytest.approx(of_background, nan_ok=True)
    assert scores.pixels.tolist() == [4, 3]


def test_dice_recall_and_precision_by_hand():
    scores = scores_of(TRUTH, PREDICTED)
    assert scores.dice.tolist() == pytest.approx([6 / 7, 4 / 6])
    assert scores.recall.tolist() == pytest.approx([3 / 4, 2 / 3])
    assert scores.precision.tolist() == pytest.approx([3 / 3, 2 / 3])
    assert scores.mean_dice == pytest.approx((6 / 7 + 4 / 6) / 2)


def test_a_class_in_neither_is_named_and_in_no_mean():
    truth = np.zeros((4, 4), np.uint8)
    scores = scores_of(truth, truth)
    assert (scores.absent, scores.not_in_truth) == (("STR",), ())
    assert np.isnan([scores.iou[1], scores.dice[1], scores.recall[1], scores.boundary_iou[1]]).all()
    assert scores.mean_iou == scores.mean_dice == scores.mean_boundary_iou == scores.frequency_weighted_iou == 1


def test_a_class_that_is_only_predicted_counts_as_zero():
    truth = np.zeros((4, 4), np.uint8)
    predicted = truth.copy()
    predicted[0] = 1
    scores = scores_of(truth, predicted)
    assert (scores.absent, scores.not_in_truth) == ((), ("STR",))
    assert scores.iou.tolist() == [0.75, 0]
    assert scores.mean_iou == 0.375


DARK, MIXED = np.zeros((2, 2), np.uint8), np.array([[0, 1], [1, 1]], np.uint8)


@pytest.mark.parametrize(
    ("mixed", "mean", "too_few", "images"),
    [
        (1, 1.0, ("STR",), [6, 1]),  # pink alone would give 0: the mean of both was 0.5
        (2, 1.0, ("STR",), [6, 2]),
        (3, 0.5, (), [6, 3]),
    ],
)
def test_a_class_in_fewer_than_three_images_is_in_no_mean(mixed, mean, too_few, images):
    painted = np.array([[0, 2], [2, 2]], np.uint8)  # what is pink is left unpainted
    results = [result_of(DARK, DARK, source=f"{i}") for i in range(6 - mixed)]
    results += [result_of(MIXED, painted, source=f"m{i}") for i in range(mixed)]
    scores = metrics(results, NAMES, "exclude")
    assert scores.iou.tolist() == [1, 0]
    assert (scores.mean_iou, scores.mean_dice, scores.too_few) == (mean, mean, too_few)
    assert scores.images_of.tolist() == images
    if too_few:
        assert bootstrap_intervals(results, NAMES, "exclude", 50, 0).headline["mean_iou"] == (1, 1)


def test_where_no_class_is_in_three_images_all_count():
    results = [result_of(DARK, DARK), result_of(MIXED, DARK)]
    scores = metrics(results, NAMES, "exclude")
    assert (scores.too_few, scores.mean_iou) == ((), (5 / 8 + 0) / 2)


def test_the_report_says_which_class_is_in_no_mean(tmp_path):
    results = [result_of(DARK, DARK, source=f"{i}") for i in range(3)] + [result_of(MIXED, MIXED, source="m")]
    text = write_report(tmp_path, "A test", report_rows(results)).read_text(encoding="utf-8")
    assert text.count("In fewer than 3 images, so in no mean: STR (1).") == 1
    text = write_report(tmp_path, "A test", report_rows(results[2:])).read_text(encoding="utf-8")
    assert text.count("No class is in 3 images: the means are over all classes, and tell little.") == 1


def test_no_images_are_an_error():
    with pytest.raises(DataError, match="no images"):
        metrics([], NAMES, "exclude")


def test_boundary_bands_of_a_shifted_square_by_hand():
    """Diagonal 28.3 px at 2 %: a band of 1 px. Two rings of 6 × 6 squares, 2 px apart, share two runs of 4 pixels."""
    truth, predicted = np.full((2, 20, 20), 1, np.uint8)
    truth[5:11, 5:11] = 0
    predicted[5:11, 7:13] = 0
    inside = boundary_counts(truth, predicted, 2, 0.02)[0]
    shared = 2 * 4  # top and bottom edge
    assert inside.tolist() == [shared, 2 * 20 - shared]


def test_the_edge_of_the_image_is_contour():
    mask = np.zeros((10, 10), np.uint8)
    assert boundary_counts(mask, mask, 1, 0.15)[0].tolist() == [100 - 6 * 6] * 2  # d = round(2.12) = 2


def test_boundaries_do_not_see_what_is_painted_on_ignored_pixels():
    truth = np.zeros((12, 12), np.uint8)
    truth[:, 8:] = 255
    truth[:3] = 2  # background
    free, painted = truth.copy(), np.zeros_like(truth)
    free[truth == 255] = 2
    assert np.array_equal(boundary_counts(truth, free, 2, 0.02), boundary_counts(truth, painted, 2, 0.02))
    intersection, union = boundary_counts(truth, painted, 2, 0.02, "count")[0]
    assert intersection < union


@settings(max_examples=40, deadline=None)
@given(pairs, st.sampled_from(BACKGROUNDS))
def test_every_rate_is_between_0_and_1_and_dice_follows_iou(drawn, background):
    scores = metrics(results_from(drawn, background), NAMES, background)
    rates = [scores.iou, scores.dice, scores.recall, scores.precision, scores.boundary_iou]
    values = np.concatenate([*rates, [getattr(scores, name) for name in HEADLINES]])
    values = values[~np.isnan(values)]
    assert ((values >= 0) & (values <= 1)).all()
    np.testing.assert_allclose(scores.dice, 2 * scores.iou / (1 + scores.iou))


@settings(max_examples=25, deadline=None)
@given(pairs, st.randoms(use_true_random=False), st.sampled_from(BACKGROUNDS))
def test_the_order_of_images_does_not_matter(drawn, random, background):
    results = results_from(drawn, background)
    shuffled = random.sample(results, len(results))
    a, b = metrics(results, NAMES, background), metrics(shuffled, NAMES, background)
    np.testing.assert_equal(vars(a), vars(b))
    limits = [bootstrap_intervals(some, NAMES, background, 20, 0) for some in (results, shuffled)]
    np.testing.assert_equal(*limits)


@settings(max_examples=25, deadline=None)
@given(truths, predictions, st.sampled_from(BACKGROUNDS))
def test_a_perfect_prediction_scores_1_whatever_it_says_where_nobody_looks(truth, predicted, background):
    unseen = truth > (1 if background == "exclude" else 2)
    scores = scores_of(truth, np.where(unseen, predicted, truth), background)
    for name in HEADLINES:
        value = getattr(scores, name)
        nothing_to_see = scores.pixels.sum() == 0
        assert value == 1 or (nothing_to_see and math.isnan(value))


def varied_results(source_count):
    rng = np.random.default_rng(3)
    results = []
    for i in range(3 * source_count):
        truth = rng.integers(0, 2, (12, 12)).astype(np.uint8)
        predicted = np.where(rng.random(truth.shape) < (i % source_count + 1) / (source_count + 1), truth, 1 - truth)
        results.append(result_of(truth, predicted, source=f"slide {i % source_count}"))
    return results


def test_intervals_hold_the_value_and_agree_with_resampling_one_by_one():
    results = varied_results(6)
    intervals = bootstrap_intervals(results, NAMES, "exclude", 400, 1)
    scores = metrics(results, NAMES, "exclude")
    for name, (low, high) in intervals.headline.items():
        assert low < getattr(scores, name) < high
    draws = np.random.default_rng(1).multinomial(6, [1 / 6] * 6, 400)
    slow = []
    for draw in draws:
        sample = [result for result in results for _ in range(draw[int(result.source[-1])])]
        slow.append(metrics(sample, NAMES, "exclude").mean_iou)
    assert intervals.headline["mean_iou"] == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])))


def test_equal_sources_give_intervals_without_width():
    results = [result_of(TRUTH, PREDICTED, source=source) for source in "abc"]
    intervals = bootstrap_intervals(results, NAMES, "exclude", 50, 0)
    assert intervals.iou.tolist() == [[0.75, 0.75], [0.5, 0.5]]


@pytest.mark.parametrize(("source_count", "resamplings"), [(1, 100), (2, 100), (5, 0)])
def test_few_sources_or_no_resamplings_give_no_intervals(source_count, resamplings):
    assert bootstrap_intervals(varied_results(source_count), NAMES, "exclude", resamplings, 0) is None


def test_resamples_without_a_class_are_counted_and_left_out():
    one, two = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    results = [result_of(one, one, source=source) for source in "ab"] + [result_of(two, two, source="c")]
    intervals = bootstrap_intervals(results, NAMES, "exclude", 2000, 0)
    assert intervals.missing[1] / 2000 == pytest.approx((2 / 3) ** 3, abs=0.04)
    assert intervals.iou.tolist() == [[1, 1], [1, 1]]
    assert intervals.headline["mean_iou"] == (1, 1)


def test_a_class_that_is_nowhere_has_no_interval():
    truth = np.zeros((4, 4), np.uint8)
    intervals = bootstrap_intervals([result_of(truth, truth, source=s) for s in "abc"], NAMES, "exclude", 30, 0)
    assert np.isnan(intervals.iou[1]).all()
    assert intervals.missing.tolist() == [0, 30]


def test_files_that_were_trained_on_are_found_by_content(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png", "copy_of_a.png")]
    for path, content in zip(paths, (b"one", b"two", b"one"), strict=True):
        path.write_bytes(content)
    hashes = file_hashes(paths[:1])
    assert hashes.dtype == np.uint8
    assert hashes.tobytes() == hashlib.sha256(b"one").digest()[:8]
    assert overlap(hashes, paths[1:]) == [paths[2]]
    assert file_hashes([]).shape == (0, 8)
    with pytest.raises(DataError, match=r"none\.png: cannot be read"):
        file_hashes([tmp_path / "none.png"])


def report_rows(results, background="exclude"):
    scores = metrics(results, NAMES, background)
    intervals = bootstrap_intervals(results, NAMES, background, 50, 0)
    return [ReportRow(gate, "none", scores, intervals) for gate in ("predicted", "truth")]


def test_a_report_reads_back_as_csv_and_json(tmp_path):
    rows = report_rows(varied_results(4))
    scores = rows[0].scores
    judged = np.array([[0.9, 0.2], [0.3, 0.6]]), np.array([[True, False], [False, True]])
    found = calibration(*judged) | gate_rates(*judged, (0.5, 0.5))
    path = write_report(tmp_path / "out", "A test", rows, ["Model: small | old"], found)

    with (path.parent / "report.csv").open(encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    values = {(line["gate"], line["metric"], line["class"]): line for line in lines}
    assert len(values) == len(lines)
    mean = values["predicted", "mean_iou", ""]
    assert float(mean["value"]) == scores.mean_iou
    assert (float(mean["low"]), float(mean["high"])) == rows[0].intervals.headline["mean_iou"]
    assert float(values["truth", "recall", "STR"]["value"]) == scores.recall[1]
    recall = values["truth", "recall", "STR"]
    assert [float(recall["low"]), float(recall["high"])] == rows[0].intervals.recall[1].tolist()
    assert values["truth", "dice", "STR"]["low"] == ""
    assert values["truth", "background_iou", ""]["value"] == ""
    assert float(values["", "presence_ece", "TUM"]["value"]) == found["class_ece"][0]
    assert float(values["", "presence_auc", ""]["value"]) == 1

    content = json.loads((path.parent / "report.json").read_text(encoding="utf-8"))
    assert content["rows"][1]["scores"]["confusion"] == scores.confusion.tolist()
    assert content["rows"][1]["scores"]["background_iou"] is None
    assert content["rows"][0]["intervals"]["iou"] == rows[0].intervals.iou.tolist()
    assert content["calibration"] == found


def test_the_report_says_what_its_numbers_are(tmp_path):
    rows = report_rows(varied_results(4))
    text = write_report(tmp_path, "A test", rows, ["Model: small"]).read_text(encoding="utf-8")
    low, high = rows[0].intervals.headline["mean_iou"]
    assert f"{100 * rows[0].scores.mean_iou:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in text
    assert "Research use only" in text
    assert "uses labels that a user's slide does not have" in text
    assert "pixels outside all classes are left out" in text
    assert "- Model: small" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 1
    assert len(tables) == 2 + len(rows)


def test_the_report_names_absent_classes_and_why_there_are_no_intervals(tmp_path):
    truth = np.zeros((4, 4), np.uint8)
    rows = report_rows([result_of(truth, truth, "predict")], "predict")
    text = write_report(tmp_path, "A test", rows).read_text(encoding="utf-8")
    assert text.count("Absent from truth and prediction, so in no mean: STR.") == 1
    assert text.count("No intervals: 1 source(s) (slides or patients), wanted at least 3.") == 1
    assert "background is a label that must be predicted" in text
    assert "NaN" not in text + (tmp_path / "report.json").read_text() + (tmp_path / "report.csv").read_text()


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    rows = report_rows(varied_results(1))
    old = write_report(tmp_path, "Old", rows).read_text(encoding="utf-8")
    written = iter(range(9))

    def full_in_the_third(_):
        if next(written) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ExportError, match="cannot be written"):
        patch.setattr("os.fsync", full_in_the_third)
        write_report(tmp_path, "New", rows)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == old
    assert json.loads((tmp_path / "report.json").read_text())["title"] == "Old"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "report.csv",
        "report.json",
        "report.md",
    ]
