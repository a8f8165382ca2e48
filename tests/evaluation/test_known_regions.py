"""What was found in regions whose tissue is known, as rates, intervals and places."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score, recall_score

from napari_lpd.core.errors import DataError
from napari_lpd.data.regions import Verdict
from napari_lpd.evaluation.regions import trust, write_trust

NAMES = ("dark", "pink", "blue")
LABELS = (*NAMES, "unsure")


def verdicts(sources=1, count=12):
    """Regions of three tissues with pixels found at random, and the pixels themselves."""
    rng = np.random.default_rng(0)
    made, truth, found = [], [], []
    for i in range(count):
        own = i % 3
        labels = np.where(rng.random(50 + i) < 0.6, own, rng.integers(0, 4, 50 + i))
        counts = dict(zip(LABELS, np.bincount(labels, minlength=4).tolist(), strict=True))
        share = rng.random(20)
        sure = np.stack([share, rng.random(20) < share], 1).astype(float)
        made.append(Verdict((NAMES[own],), counts, (i, 0.0, i + 1, 1.0), f"slide {i % sources}", sure=sure))
        truth += [own] * len(labels)
        found += labels.tolist()
    return made, np.array(truth), np.array(found)


def test_counts_and_rates_are_those_of_the_pixels():
    made, truth, found = verdicts()
    said = trust(
        [*made, Verdict(("dark", "pink"), {"dark": 9}, (0, 0, 1, 1)), Verdict(("fat",), {}, (0, 0, 1, 1))], NAMES
    )
    assert said.counts.tolist() == confusion_matrix(truth, found, labels=range(4))[:3].tolist()
    np.testing.assert_allclose(said.scores.recall, recall_score(truth, found, labels=range(3), average=None))
    np.testing.assert_allclose(said.scores.iou, jaccard_score(truth, found, labels=range(3), average=None))
    places = np.concatenate([each.sure for each in made])
    bins = np.minimum((places[:, 0] * 10).astype(int), 9)
    shares = [places[bins == b, 1].mean() for b in range(10) if (bins == b).any()]
    np.testing.assert_allclose(said.curve.frequency, shares)


def test_regions_are_resampled_on_one_slide_and_slides_where_there_are_three():
    of_one, of_three = (trust(verdicts(sources)[0], NAMES) for sources in (1, 3))
    assert (of_one.unit, of_three.unit) == ("region", "slide")
    assert of_one.note().endswith("They say nothing of other slides.")
    low, high = of_one.intervals.recall.T
    assert (low < of_one.scores.recall).all() and (of_one.scores.recall < high).all()
    pooled = [sum(each.counts["dark"] for each in of_three.verdicts if (each.source, each.tissues) == (name, ("dark",)))
              for name in ("slide 0", "slide 1", "slide 2")]  # fmt: skip
    assert pooled[1:] == [0, 0]  # each slide holds one tissue: a resample without it has no recall
    assert of_three.intervals.recall[0].tolist() == [of_three.scores.recall[0]] * 2


def test_places_of_a_cell_come_with_most_of_it_first_and_contradictions_by_their_share(tmp_path):
    box = (10.0, 20.0, 30.0, 40.0)
    made = [
        Verdict(("dark",), {"dark": 5, "pink": 1}, box, "a"),
        Verdict(("dark",), {"dark": 5, "pink": 7, "unsure": 2}, box, "a"),
        Verdict(("dark",), {"dark": 1, "unsure": 9}, box, "a"),
        Verdict(("pink",), {"dark": 8, "pink": 2}, box, "a"),
    ]
    said = trust(made, ("dark", "pink"))
    assert said.places(0, 1) == [made[1], made[0]]
    assert said.places(0, 2) == [made[2], made[1]]
    report = write_trust(tmp_path, said, []).with_suffix(".md").read_text(encoding="utf-8")
    wrong = [line for line in report.splitlines() if "a region of" in line]
    assert [line.lstrip("- ") for line in wrong] == [
        "a: a region of pink at x 20, y 10 µm: 80 % of it is dark.",
        "a: a region of dark at x 20, y 10 µm: 50 % of it is pink.",
    ]
    assert said.curve is None
    of_one_name = [each._replace(slide_hash=str(number)) for number, each in enumerate(made)]
    assert trust(of_one_name, ("dark", "pink")).unit == "slide"
    with pytest.raises(DataError, match="no region carries exactly one of fat"):
        trust(made, ("fat",))
