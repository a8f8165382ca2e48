"""Two models are compared in the Explore widget: table, cards, jumps, report."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from qtpy.QtWidgets import QFileDialog, QToolButton

from napari_lpd import samples
from napari_lpd.core import jobs
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.jobs import in_subprocess
from napari_lpd.core.settings.training import ModelSettings, TrainSettings
from napari_lpd.data.regions import write_regions
from napari_lpd.data.training_set import TrainingSource
from napari_lpd.gui.common.prediction_run import keep_triton_out
from napari_lpd.gui.common.recent_models import recent_models
from napari_lpd.gui.explore.compare_panel import FOLDER, WITHOUT
from napari_lpd.gui.explore.prototype_card import NOWHERE, OF_COMPARED, OF_TRAINING
from napari_lpd.gui.explore.widget import ExploreWidget
from napari_lpd.models.card import Card, read_card
from napari_lpd.models.checkpoint import save_checkpoint
from napari_lpd.training.runs.folder import new_run_folder, write_run


@pytest.fixture
def models(tmp_path, tiny_tiff, tiny_regions, classes, pretrained_settings, once):
    """Paths of two models of the tiny slide that differ in how their prototypes were had; they know their regions."""
    keep_triton_out()  # napari may have drawn already
    from napari_lpd.core.jobs import run
    from napari_lpd.data.region_tiles import tiles_from_regions
    from napari_lpd.slides.formats import open_slide
    from napari_lpd.training.fit import fit

    regions = write_regions(tmp_path / "tiny.geojson", tiny_regions, classes)
    command = f"napari-lpd train --slide {tiny_tiff} --regions {regions}"
    paths = []
    for bank in ("learned", "random"):
        head = pretrained_settings.model.model_copy(update={"bank": bank})
        settings = pretrained_settings.model_copy(update={"model": head, "max_steps": 6, "mpp": 1.0})

        def train(folder, settings=settings):
            with open_slide(tiny_tiff) as slide:
                tiles = tiles_from_regions(slide, tiny_regions, classes, settings)
            run(fit(tiles, settings, folder, command))

        paths.append(once(f"compared {bank}", train, tmp_path / bank) / "model.safetensors")
        recent_models.add(paths[-1])
    return paths


def test_two_models_side_by_side_on_the_slide(
    use_widget, viewer, tiny_layer, models, qtbot, tmp_path, shown_errors, monkeypatch
):
    panel = use_widget(ExploreWidget).compare
    panel.pair.choose(*models)
    panel.job.button.click()
    qtbot.waitUntil(lambda: not panel.job.runner.running, timeout=180_000)
    assert shown_errors == []
    comparison = panel.comparison
    assert comparison.models == ("learned", "random")
    assert [bank.kind for bank in comparison.banks].count("clustered") == 2  # of the training tiles, which it found
    assert panel.table.rowCount() == len(comparison.metrics)
    heads = [panel.table.horizontalHeaderItem(i).text() for i in range(panel.table.columnCount())]
    assert heads[:2] == ["learned", "random"]
    assert "%" not in panel.card.text.text()
    assert panel.card.text.text().startswith("Prototype 1 of 2")
    panel.card.prototype.setValue(1)
    assert panel.card.text.text().startswith("Prototype 2 of 2")
    panel.card.tissue.setCurrentIndex(comparison.examples[0].class_index)
    assert not panel.heatmaps.pixmap().isNull()
    assert not panel.scatter.pixmap().isNull()

    for where in (OF_TRAINING, OF_COMPARED):
        panel.card.where.setCurrentText(where)
        patch = panel.card.shown_patches()[-1]
        panel.card.patches.findChildren(QToolButton)[-1].click()
        y, x = viewer.scene.camera.center[-2:]
        assert (y, x) == pytest.approx([value * 1.0 - 0.5 for value in patch.place], abs=1)
    panel.table.setCurrentCell(0, 0)
    assert panel.meaning.text() == f"<b>{comparison.metrics[0].label}</b>: {comparison.metrics[0].meaning}."

    for press, name in ((panel._on_heatmaps, "f.svg"), (panel._on_scatter, "s.pdf"), (panel._on_csv, "n.csv")):
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, name=name: (str(tmp_path / name), ""))
        press()
        assert (tmp_path / name).stat().st_size > 500
        assert panel.job.status.text() == f"Written: {tmp_path / name}"

    panel.write_report(tmp_path / "report")
    names = {path.suffix for path in Path(tmp_path / "report").iterdir()}
    assert {".html", ".md", ".csv", ".json", ".png"} <= names
    assert shown_errors == []


def test_one_model_twice_is_refused(use_widget, tiny_layer, shown_errors):
    panel = use_widget(ExploreWidget).compare
    panel.job.button.click()
    assert (
        "a comparison needs two different models: choose another one, or train the counterpart of the first"
        in shown_errors[0]
    )


def test_models_of_other_classes_are_refused_in_one_line(use_widget, tiny_layer, models, qtbot, shown_errors):
    from napari_lpd.samples import model_path

    panel = use_widget(ExploreWidget).compare
    panel.pair.choose(models[0], model_path())
    panel.job.button.click()
    qtbot.waitUntil(lambda: not panel.job.runner.running, timeout=120_000)
    assert len(shown_errors) == 1
    assert panel.comparison is None


@pytest.fixture
def make_model(tmp_path, classes):
    """A model file that is good for its card alone."""

    def make(name, classes=classes, mpp=1.0, **head):
        settings = TrainSettings(
            model=ModelSettings(**{"prototypes_per_class": 2, "prototype_dim": 32} | head), tile=64, mpp=mpp
        )
        card = Card(
            classes=classes, settings=settings, tiles_per_class={}, tiles=2, steps=1, map_scale=((1.0,) * 2,) * 3,
            presence=(0.0,) * 2,
        )  # fmt: skip
        keep_triton_out()
        import torch

        return save_checkpoint(tmp_path / name / "model.safetensors", {"x": torch.zeros(1)}, card)

    return make


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"classes": (TissueClass(name="dark", color="#3b4cff"), TissueClass(name="blue", color="#0000ff"))},
            "one/model.safetensors and two/model.safetensors have other classes: dark, pink, and dark, blue; compare"
            " models of the same classes, as a model and its counterpart",
        ),
        (
            {"mpp": 0.25},
            "one/model.safetensors and two/model.safetensors were trained at 1 and 0.25 µm per pixel; wanted the same"
            " resolution: train one anew with mpp=1",
        ),
        (
            {"prototypes_per_class": 1},
            "two/model.safetensors: 1 prototype per class; wanted two or more, to compare with each other: train it"
            " anew with prototypes_per_class=2 or more",
        ),
    ],
    ids=["classes", "mpp", "one prototype"],
)
@pytest.mark.parametrize("part", ["both", "compare"])
def test_models_that_do_not_fit_are_refused_before_any_work(
    use_widget, viewer, tiny_layer, make_model, shown_errors, other, message, part
):
    explore = use_widget(ExploreWidget)
    explore.pair.choose(make_model("one"), make_model("two", **other))
    bar = getattr(explore, part).job
    bar.button.click()
    assert shown_errors == [message]
    assert bar.status.text() == f"⚠ {message}"
    assert not bar.runner.running
    assert len(viewer.layers) == 1


def test_a_folder_without_masks_is_compared_where_both_agree_and_says_so(
    use_widget, viewer, models, tile_folder, qtbot, shown_errors, monkeypatch
):
    panel = use_widget(ExploreWidget).compare
    panel.pair.choose(*models)
    panel.training.setCurrentText(WITHOUT)
    images = tile_folder / "valid" / "img"
    monkeypatch.setattr("napari_lpd.gui.explore.compare_panel.QFileDialog.getExistingDirectory", lambda *_: str(images))
    panel.data.setCurrentText(FOLDER)
    panel.job.button.click()
    qtbot.waitUntil(lambda: not panel.job.runner.running, timeout=180_000)
    assert shown_errors == []
    assert panel.comparison.reference == "agreement"
    assert f"{images} has no masks" in panel.verdicts.text()
    assert "choose a folder with img and mask" in panel.verdicts.text()

    for number in (0, 1):  # its places are in tiles of their own, which are opened, one at a time
        panel.card.prototype.setValue(number)
        patch = panel.card.shown_patches()[-1]
        panel.jump(patch)
        (layer,) = viewer.layers
        assert layer.name == patch.tile
        (y0, x0), (y1, x1) = layer.extent.world
        assert y0 < viewer.scene.camera.center[1] < y1
        assert x0 < viewer.scene.camera.center[2] < x1


def test_a_folder_without_images_is_refused_by_name(use_widget, models, tmp_path, qtbot, shown_errors, monkeypatch):
    panel = use_widget(ExploreWidget).compare
    panel.pair.choose(*models)
    (tmp_path / "nothing").mkdir()
    monkeypatch.setattr(
        "napari_lpd.gui.explore.compare_panel.QFileDialog.getExistingDirectory", lambda *_: str(tmp_path / "nothing")
    )
    panel.data.setCurrentText(FOLDER)
    panel.job.button.click()
    qtbot.waitUntil(lambda: not panel.job.runner.running, timeout=180_000)
    assert len(shown_errors) == 1
    assert str(tmp_path / "nothing") in shown_errors[0]


def test_a_class_without_any_place_says_what_to_do(use_widget, models, tile_folder, qtbot, shown_errors, monkeypatch):
    for mask in (tile_folder / "valid" / "mask").iterdir():
        pixels = np.array(Image.open(mask))
        Image.fromarray(np.where(pixels == 1, 2, pixels).astype(np.uint8)).save(mask)
    panel = use_widget(ExploreWidget).compare
    panel.pair.choose(*models)
    monkeypatch.setattr(
        "napari_lpd.gui.explore.compare_panel.QFileDialog.getExistingDirectory", lambda *_: str(tile_folder / "valid")
    )
    panel.data.setCurrentText(FOLDER)
    panel.job.button.click()
    qtbot.waitUntil(lambda: not panel.job.runner.running, timeout=180_000)
    assert shown_errors == []
    assert "No place of pink: in no mean." in panel.verdicts.text()
    panel.card.tissue.setCurrentText("pink")
    assert panel.card.text.text() == f"Prototype 1 of 2: {NOWHERE}"
    assert panel.heatmaps.text() == f"pink: {NOWHERE}"
    panel.card.tissue.setCurrentText("dark")
    assert panel.card.text.text().startswith("Prototype 1 of 2: reaches") or "nearest on" in panel.card.text.text()


def test_models_are_opened_from_files(use_widget, make_model, tmp_path, shown_errors, monkeypatch):
    pair, chosen = use_widget(ExploreWidget).pair, [str(make_model("one")), str(make_model("two"))]
    monkeypatch.setattr("napari_lpd.gui.explore.model_pair.QFileDialog.getOpenFileNames", lambda *_: (chosen, ""))
    pair._on_open()
    assert [str(path) for path in pair.paths()] == chosen
    chosen[:] = [str(make_model("three"))]
    pair._on_open()
    assert [path.parent.name for path in pair.paths()] == ["one", "three"]
    (tmp_path / "x.safetensors").write_bytes(b"no")
    chosen[:] = [str(tmp_path / "x.safetensors")]
    pair._on_open()
    assert len(shown_errors) == 1
    assert "x.safetensors" in shown_errors[0]


def test_nothing_in_view_says_where_to_go(use_widget, viewer, tiny_layer, make_model, shown_errors):
    explore = use_widget(ExploreWidget)
    explore.pair.choose(make_model("one"), make_model("two"))
    viewer.scene.camera.center = (0, 9999, 9999)
    explore.both.job.button.click()
    assert shown_errors == ["tiny.tiff is out of view: move to it, or predict the whole slide"]
    explore.both.scope.setCurrentText("the selected regions")
    explore.both.job.button.click()
    assert "no region on tiny.tiff is selected" in shown_errors[1]


def test_the_counterpart_of_a_model_from_elsewhere_cannot_be_trained_here(use_widget, make_model):
    explore = use_widget(ExploreWidget)
    explore.pair.choose(make_model("one"), make_model("two"))
    button = explore.pair.job.button
    assert not button.isEnabled()
    assert "one: its model was not trained in this window's Train" in html.unescape(button.toolTip())
    assert "choose it as second model" in button.toolTip()


@pytest.mark.slow
def test_one_click_trains_the_counterpart_and_chooses_it(
    use_widget, viewer, tiny_layer, tiny_regions, classes, tiny_settings, tmp_path, qtbot, shown_errors
):
    run = new_run_folder(tmp_path / "models", "tiny")
    write_regions(run / "regions.geojson", tiny_regions, classes)
    small = tiny_settings.model.model_copy(update={"encoder": "test_efficientnet", "encoder_weights": "random"})
    changed = {"model": small, "mpp": 1.0, "max_steps": 2, "seed": 7, "valid_share": 0.0}
    settings = tiny_settings.model_copy(update=changed)
    source = TrainingSource(slide=tmp_path / "tiny.tiff", regions=run / "regions.geojson")
    result = jobs.run(in_subprocess(write_run(run, source, settings, classes)))
    pair = use_widget(ExploreWidget).pair
    pair.choose(Path(result["model"]))
    pair.boxes[0].setCurrentIndex(pair.boxes[0].findData(str(Path(result["model"]).resolve())))
    pair.job.button.click()
    qtbot.waitUntil(lambda: not pair.job.runner.running, timeout=180_000)
    assert shown_errors == []
    one, counterpart = (read_card(path) for path in pair.paths())
    assert (one.settings.model.bank, counterpart.settings.model.bank) == ("learned", "clustered")
    assert one.settings.seed == counterpart.settings.seed == 7
    assert one.tiles == counterpart.tiles
    folders = list((tmp_path / "models").iterdir())
    pair.job.button.click()
    assert "is already trained and is now chosen" in pair.job.status.text()
    assert list((tmp_path / "models").iterdir()) == folders
    pair.choose(pair.paths()[1], Path(result["model"]))
    pair.boxes[1].setCurrentIndex(pair.boxes[1].findData(str(samples.model_path())))
    pair.job.button.click()  # the counterpart's counterpart is the first
    assert pair.boxes[1].currentData() == str(Path(result["model"]).resolve())
