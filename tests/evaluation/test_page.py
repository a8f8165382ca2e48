from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import recall_score

from napari_lpd.core.jobs import run
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.data.images import masked_images
from napari_lpd.evaluation.calibration import calibration, gate_rates, reliability
from napari_lpd.evaluation.evaluate import evaluate, load_results
from napari_lpd.evaluation.metrics import ImageResult, bootstrap_intervals, confusion_matrix, metrics
from napari_lpd.evaluation.page import Presence, write_page
from napari_lpd.evaluation.report import ReportRow

NAMES = ("<script>TUM", "µ & 母")


class Tables(HTMLParser):
    """Cells of every table of a page, and what else is in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables, self.tags, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data


def images(count=9, background=True):
    """Masks and predictions of some images of three patients, ignored pixels among them."""
    rng = np.random.default_rng(0)
    for i in range(count):
        truth = rng.choice([0, 1, 2, 255], (40, 40), p=[0.4, 0.3, 0.2, 0.1])
        predicted = np.where(rng.random((40, 40)) < 0.7, np.minimum(truth, 2), rng.integers(0, 3, (40, 40)))
        if not background:
            truth = np.where(truth == 2, 255, truth)
        yield f"patient {i % 3} & <b>", truth, predicted


def results_of(made):
    return [
        ImageResult(
            f"{i}.png", source, confusion_matrix(truth, predicted, 2), np.ones((2, 2), int),
            np.array([0.8, 0.1 * i]), np.array([True, i % 2 == 0]),
        )
        for i, (source, truth, predicted) in enumerate(made)
    ]  # fmt: skip


def page_of(folder, made, background="exclude"):
    results = results_of(made)
    row = ReportRow(
        "predicted", "none", metrics(results, NAMES, background), bootstrap_intervals(results, NAMES, background, 40, 0)
    )
    probability, present = np.stack([r.presence for r in results]), np.stack([r.present for r in results])
    rates = calibration(probability, present) | gate_rates(probability, present, (0.5, 0.5))
    path = write_page(folder, "Evaluation of <i>", [row], ["A <note>."], results, Presence(probability, present, rates))
    return row, path.read_text(encoding="utf-8")


@pytest.mark.parametrize("background", ["exclude", "predict"])
def test_the_confusion_matrices_are_those_of_scikit_learn_in_all_and_per_patient(tmp_path, background):
    made = list(images(background=background == "predict"))
    row, page = page_of(tmp_path, made, background)
    tables = Tables(page).tables
    sources = sorted({source for source, _, _ in made})
    for table, wanted in zip(tables, [set(sources), *({source} for source in sources)], strict=False):
        truth, predicted = (
            np.concatenate([each[which].ravel() for each in made if each[0] in wanted]) for which in (1, 2)
        )
        counts = sklearn_confusion(truth[truth != 255], predicted[truth != 255], labels=[0, 1, 2])
        counts = counts[:2] if background == "exclude" else counts
        shown = [[tuple(map(float, re.findall(r"[\d.]+", cell))) for cell in line[1:-1]] for line in table[1:]]
        assert [[cell[0] for cell in line] for line in shown] == counts.tolist()
        shares = 100 * counts / counts.sum(1, keepdims=True)
        assert np.array([[cell[1] for cell in line] for line in shown]) == pytest.approx(shares, abs=0.05)
        assert [line[0] for line in table] == ["truth ↓ predicted →", *NAMES, "background"][: len(table)]
    assert len(tables) == 1 + len(sources) + 2
    truth, predicted = (np.concatenate([each[which].ravel() for each in made]) for which in (1, 2))
    counted = truth < (2 if background == "exclude" else 3)
    recall = recall_score(truth[counted], predicted[counted], labels=[0, 1], average=None)
    assert row.scores.recall == pytest.approx(recall)
    assert (row.intervals.recall[:, 0] <= recall).all()
    assert (recall <= row.intervals.recall[:, 1]).all()
    assert (row.intervals.recall[:, 0] < row.intervals.recall[:, 1]).all()


def test_a_page_needs_no_other_file_and_shows_all_names_as_they_are(tmp_path):
    _, page = page_of(tmp_path, list(images()))
    read = Tables(page)
    assert not {"script", "i", "note", "link"} & set(read.tags)
    assert read.tags.count("b") == 1  # what the page is not for
    for text in (*NAMES, "patient 0 & <b>", "A <note>.", "Evaluation of <i>", "Research use only"):
        assert text in read.text
    sources = re.findall(r"src='([^']*)'", page)
    assert len(sources) == 3
    for source in sources:
        kind, content = source.split(",")
        assert kind == "data:image/svg+xml;base64"
        picture = base64.b64decode(content).decode()
        assert "<svg" in picture
        assert "<script>" not in picture
        assert "母" in picture or "U+6BCD" in picture  # where no font has it


def test_a_calibration_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    probability = rng.random((500, 2))
    present = rng.random((500, 2)) < probability**2
    curve = reliability(probability, present, 10)
    frequency, mean = calibration_curve(present.ravel(), probability.ravel(), n_bins=10)
    assert curve.frequency == pytest.approx(frequency)
    assert curve.probability == pytest.approx(mean)
    assert curve.number.sum() == 1000
    assert len(reliability(np.array([[0.1]]), np.array([[True]])).number) == 1


def test_an_evaluation_writes_the_page(tiny_model, tile_folder, tmp_path):
    settings = EvaluateSettings(refiners=("none",), threads=1, bootstrap=10)
    report = run(evaluate(tiny_model, masked_images(tile_folder / "valid"), settings, tmp_path / "r"))["report"]
    assert report == str(tmp_path / "r" / "report.html")
    page = Tables((tmp_path / "r" / "report.html").read_text(encoding="utf-8"))
    assert "Calibration of presence" in page.text
    assert page.tables[0][0][1:3] == ["dark", "pink"]
    cell = load_results(tmp_path / "r" / "results.npz")["predicted", "none"]
    assert int(page.tables[0][1][-1]) == sum(result.confusion[0].sum() for result in cell) > 0
