"""Two models are compared in the Explore widget: table, cards, jumps, report."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_lpd.gui._inference import keep_triton_out
from napari_lpd.gui._models import recent_models
from napari_lpd.gui.explore import ExploreWidget


@pytest.fixture
def models(tmp_path, tiny_slide, tiny_regions, classes, tiny_settings):
    """Paths of two models of the tiny slide that differ in how their prototypes were had."""
    keep_triton_out()  # napari may have drawn already
    from napari_lpd.data import tiles_from_regions
    from napari_lpd.jobs import run
    from napari_lpd.train import fit

    paths = []
    for bank in ("learned", "random"):
        head = tiny_settings.model.model_copy(update={"bank": bank})
        settings = tiny_settings.model_copy(update={"model": head, "max_steps": 6})
        tiles = tiles_from_regions(tiny_slide, tiny_regions, classes, settings)
        paths.append(run(fit(tiles, settings, tmp_path / bank)))
        recent_models.add(paths[-1])
    return paths


def test_two_models_side_by_side_on_the_slide(use_widget, viewer, tiny_layer, models, qtbot, tmp_path, shown_errors):
    panel = use_widget(ExploreWidget).compare
    panel.pair.choose(*models)
    panel.job.button.click()
    qtbot.waitUntil(lambda: not panel.job.runner.running, timeout=180_000)
    assert shown_errors == []
    comparison = panel.comparison
    assert comparison.models == ("learned", "random")
    assert panel.table.rowCount() == len(comparison.metrics)
    heads = [panel.table.horizontalHeaderItem(i).text() for i in range(panel.table.columnCount())]
    assert heads[:2] == ["learned", "random"]
    assert "%" not in panel.card.text()
    assert panel.card.text().startswith("Prototype 1 of 2")
    panel.prototype.setValue(1)
    assert panel.card.text().startswith("Prototype 2 of 2")
    panel.tissue.setCurrentIndex(comparison.examples[0].class_index)
    assert not panel.heatmaps.pixmap().isNull()
    assert not panel.scatter.pixmap().isNull()

    patch = next(p for bank in comparison.banks for own in bank.cards for card in own for p in card.patches)
    panel.jump(patch)
    y, x = viewer.scene.camera.center[-2:]
    assert (y, x) == pytest.approx([value * 1.0 - 0.5 for value in patch.place], abs=1)

    panel.write_report(tmp_path / "report")
    names = {path.suffix for path in Path(tmp_path / "report").iterdir()}
    assert {".html", ".md", ".csv", ".json", ".png"} <= names
    assert shown_errors == []


def test_one_model_twice_is_refused(use_widget, tiny_layer, shown_errors):
    panel = use_widget(ExploreWidget).compare
    panel.job.button.click()
    assert "two different models are compared: choose another one, or train the rival of the first" in shown_errors[0]


def test_models_of_other_classes_are_refused_in_one_line(use_widget, tiny_layer, models, qtbot, shown_errors):
    from napari_lpd.samples import model_path

    panel = use_widget(ExploreWidget).compare
    panel.pair.choose(models[0], model_path())
    panel.job.button.click()
    qtbot.waitUntil(lambda: not panel.job.runner.running, timeout=120_000)
    assert len(shown_errors) == 1
    assert panel.comparison is None
