from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtWidgets import QMessageBox

from napari_lpd import samples
from napari_lpd.core.classes import read_classes
from napari_lpd.core.files import KEY
from napari_lpd.core.jobs import in_subprocess, run
from napari_lpd.core.labelling.rule import UNSURE
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.presets import PRESETS
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.gui.common import prediction_run
from napari_lpd.gui.common.job import _running
from napari_lpd.gui.common.layout import WIDTH, Column, Fold
from napari_lpd.gui.common.recent_models import recent_models
from napari_lpd.gui.contributions import skin
from napari_lpd.gui.explore.widget import ExploreWidget
from napari_lpd.gui.layers.regions import REGIONS, VIEW, WHOLE, add_regions, new_regions_layer
from napari_lpd.gui.layers.results import KINDS, our_layers, show_prediction
from napari_lpd.gui.layers.slides import kind, slide_id
from napari_lpd.gui.predict.widget import WHOLE_AREA, PredictWidget
from napari_lpd.gui.train.widget import TrainWidget
from napari_lpd.results.prediction import Prediction


@pytest.fixture
def ready(train, viewer, tiny_layer, tiny_regions, classes):
    """A Train widget with a slide and regions."""
    add_regions(new_regions_layer(viewer, tiny_layer), tiny_regions, classes)
    return train


def test_opening_the_widgets_imports_no_torch():
    code = (
        "import sys, napari\n"
        "from napari_lpd.gui.train import TrainWidget\n"
        "from napari_lpd.gui.predict import PredictWidget\n"
        "from napari_lpd.gui.explore import ExploreWidget\n"
        "viewer = napari.Viewer(show=False)\n"
        "for widget in (TrainWidget, PredictWidget, ExploreWidget): viewer.window.add_dock_widget(widget(viewer))\n"
        "viewer.close()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_train_without_a_slide_says_what_is_missing(train, shown_errors):
    train.job.button.click()
    assert shown_errors == ["no slide is open: press Open…, or choose File ▸ Open Sample ▸ napari-lpd"]


def test_train_without_regions_says_what_is_missing(train, tiny_layer, shown_errors):
    train.job.button.click()
    assert shown_errors == ["no regions yet: press Draw regions and outline a few regions per tissue"]


def test_train_without_a_folder_of_tiles_says_what_is_missing(train, shown_errors):
    train.data.source.setCurrentIndex(1)
    train.job.button.click()
    assert shown_errors == ["no labelled tiles: choose a folder or a table"]


def test_a_region_with_a_tissue_that_is_no_class_is_refused(ready, tmp_path, shown_errors):
    ready.data.classes.set_classes(read_classes(samples.classes_path()))
    ready.job.button.click()
    assert shown_errors == ["regions are marked dark, pink, which is not a tissue class: add it, or mark them again"]
    assert not (tmp_path / "models").exists()


def test_the_table_counts_regions_per_class(ready):
    assert [row.count.text() for row in ready.data.classes._rows] == ["1 · 0.05 mm²", "1 · 0.05 mm²"]


@pytest.mark.parametrize("widget", [TrainWidget, PredictWidget, ExploreWidget])
def test_a_widget_fits_its_width(use_widget, widget):
    column = use_widget(widget).findChild(Column)
    for fold in column.findChildren(Fold):
        fold.open()
    assert column.widget().minimumSizeHint().width() <= WIDTH


def test_the_first_session_starts_with_the_fast_preset(train):
    assert train.chosen.preset.currentText() == "fast"
    assert train.settings() == TrainSettings.build(PRESETS["fast"])


def test_every_preset_goes_through_the_form_and_back(train):
    for name, values in PRESETS.items():
        train.chosen.preset.setCurrentText(name)
        assert train.chosen.about.text()
        assert train.settings() == TrainSettings.build(values), name
    train.chosen.preset.setCurrentText("pbip")
    train.chosen.form.set_value(train.settings().model_copy(update={"epochs": 3}))
    assert train.settings().model.bank == "clustered"
    assert train.settings().epochs == 3


def test_a_run_gets_its_own_folder_with_all_that_it_needs(ready, tmp_path, children, qtbot):
    ready.chosen.form.set_value(TrainSettings(epochs=2))
    ready.job.button.click()
    qtbot.waitUntil(lambda: len(children) == 1)
    run = tmp_path / "models" / "tiny-001"
    needed = ["arguments.json", "classes.json", "regions.geojson", "settings.json"]
    assert sorted(path.name for path in run.iterdir()) == needed
    assert json.loads((run / "settings.json").read_text())["epochs"] == 2
    ready.job.stop_button.click()
    qtbot.waitUntil(lambda: not ready.job.runner.running)
    assert ready.job.status.text() == "Stopped."


@pytest.mark.parametrize("name", ["Train", "Predict", "Several slides", "Explore prototypes"])
def test_napari_opens_every_widget_of_the_manifest(viewer, name):
    _, widget = viewer.window.add_plugin_dock_widget("napari-lpd", name)
    assert widget._viewer.title == viewer.title


def test_closing_napari_while_a_model_is_trained_asks_and_leaves_no_child(ready, viewer, children, qtbot, monkeypatch):
    asked = []

    def question(_, __, text, *___):
        asked.append(text)
        return QMessageBox.StandardButton.Cancel if len(asked) == 1 else QMessageBox.StandardButton.Close

    monkeypatch.setattr(QMessageBox, "question", question)
    ready.job.button.click()
    qtbot.waitUntil(lambda: len(children) == 1)
    assert not ready.window().close()
    assert "A model is being trained" in asked[0]
    assert children[0].poll() is None
    viewer.close()
    qtbot.waitUntil(lambda: children[0].poll() is not None, timeout=2000)


def test_loaded_regions_appear_in_their_place(train, skin_layer, viewer):
    train.data.classes.set_classes(read_classes(samples.classes_path()))
    train.data.drawn.load(samples.regions_path("train"))
    shapes = next(layer for layer in viewer.layers if kind(layer) == "regions")
    assert len(shapes.data) == 35
    assert train.job.status.text() == "35 regions from CMU-1_skin_train.geojson."


def test_a_slide_without_resolution_asks_for_it(use_widget, viewer, tiny_image, shown_errors):
    viewer.add_image(tiny_image, name="picture")
    widget = use_widget(PredictWidget)
    widget.scope.setCurrentText(WHOLE)
    widget.job.button.click()
    assert "picture has no resolution" in shown_errors[0]
    assert widget.slides.mpp.text() == ""
    for entered, message in (
        ("", "the files do not contain it"),
        ("x", "'x' is not a number"),
        ("40", "40 is not between"),
    ):
        widget.slides.mpp.setText(entered)
        widget.slides._on_use()
        assert f"enter picture's µm per pixel: {message}" in shown_errors[-1]
        assert "Resolution missing" in widget.slides.resolution.text()
    widget.slides.mpp.setText("0,25")
    widget.slides._on_use()
    assert "0.25 µm per pixel (given by the user)" in widget.slides.resolution.text()


def test_the_slide_picker_opens_and_chooses_a_slide(use_widget, viewer):
    widget = use_widget(PredictWidget)
    widget.slides.open(samples.skin_slide_path())
    widget.slides.open(samples.small_region_path())
    assert widget.slides.layer().name == "CMU-1-Small-Region.svs"
    assert widget.slides.resolution.text() == "0.499 µm per pixel (aperio metadata)"


def test_the_slide_picker_shows_an_unreadable_slide_as_one_line(use_widget, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("napari_lpd.gui.common.slide_picker.show_error", shown.append)
    (tmp_path / "x.svs").write_bytes(b"no slide")
    use_widget(PredictWidget).slides.open(tmp_path / "x.svs")
    assert len(shown) == 1
    assert shown[0].startswith("x.svs: ")


QUICK = PredictSettings(threads=1, tile=128, overlap=32, block=64)


@pytest.fixture
def predict(use_widget, tiny_layer, shown_errors, qtbot):
    """A Predict widget with the tiny slide chosen and quick settings."""
    widget = use_widget(PredictWidget)
    widget.form.set_value(QUICK)
    widget.scope.setCurrentText(WHOLE)
    yield widget
    widget.job.runner.stop()
    qtbot.waitUntil(lambda: not widget.job.runner.running, timeout=30_000)


@pytest.fixture
def pressed(predict, qtbot):
    """Press Predict and wait until the end; returns the prediction."""

    def press():
        predict.job.button.click()
        qtbot.waitUntil(lambda: not predict.job.runner.running, timeout=60_000)
        return predict.panel.shown()

    return press


def test_a_whole_slide_goes_beside_the_slide_and_is_there_at_once_the_next_time(predict, pressed, tmp_path, viewer):
    prediction = pressed()
    assert prediction.finished
    assert prediction.folder.parent == tmp_path / "napari-lpd-results"
    assert str(tmp_path / "napari-lpd-results") in predict.results.text()
    assert predict.job.status.text().startswith("Done, read at 0.998 µm per pixel")
    assert predict.panel.areas.table.rowCount() == 5  # with what is unsure
    assert len(our_layers(viewer, slide_id(viewer.layers["tiny.tiff"]), *KINDS)) == 1  # the mask alone
    changed = {path: path.stat().st_mtime_ns for path in prediction.folder.rglob("*")}
    assert pressed().folder == prediction.folder
    assert changed == {path: path.stat().st_mtime_ns for path in prediction.folder.rglob("*")}
    predict.form.set_value(QUICK.model_copy(update={"background_power": 3.0}))
    assert pressed().folder != prediction.folder


def test_the_command_line_gives_the_same_mask_with_the_widgets_settings(predict, pressed, tiny_tiff, tmp_path):
    from napari_lpd.core.settings.base import write_settings

    prediction = pressed()
    settings = write_settings(tmp_path / "predict.json", predict.settings())
    run(in_subprocess(["predict", str(tiny_tiff), "--settings", str(settings), "--out", str(tmp_path / "out")]))
    other = Prediction.open(tmp_path / "out" / "tiny.zarr")
    assert other.card.digest == prediction.card.digest
    assert np.array_equal(other.labels.levels[0][:], prediction.labels.levels[0][:])


def test_a_stopped_prediction_is_shown_and_goes_on_when_predict_is_pressed_again(predict, pressed, qtbot):
    predict.form.set_value(QUICK.model_copy(update={"tile": 64, "overlap": 32}))
    predict.job.button.click()
    qtbot.waitUntil(
        lambda: predict._run.growing is not None and len(predict._run.growing.prediction.finished_blocks()) > 1,
        timeout=60_000,
    )
    predict.job.stop_button.click()
    qtbot.waitUntil(lambda: not predict.job.runner.running, timeout=2000)
    half = predict.panel.shown()
    assert not half.finished
    assert (
        predict.job.status.text()
        == f"Stopped: {len(half.finished_blocks())} blocks are kept; press Predict to continue."
    )
    assert "Unfinished" in predict.panel.areas.total.text()
    kept = {path: path.stat().st_mtime_ns for path in half.folder.glob("labels/tissues/0/c/*/*")}
    whole = pressed()
    assert whole.folder == half.folder
    assert whole.finished
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


def test_what_a_run_sets_aside_from_garbage_collection_comes_back_when_a_layer_goes(pressed, viewer):
    gc.unfreeze()
    pressed()
    assert gc.get_freeze_count() > 0
    viewer.layers.remove(viewer.layers[-1])
    assert gc.get_freeze_count() == 0


def test_what_a_run_sets_aside_comes_back_though_its_widget_is_closed_meanwhile(
    use_widget, tiny_layer, viewer, qtbot, monkeypatch
):
    loads, closed, load = threading.Event(), threading.Event(), prediction_run.loaded_model

    def loading(*given):
        loads.set()
        assert closed.wait(60)
        return load(*given)

    monkeypatch.setattr(prediction_run, "loaded_model", loading)
    widget = use_widget(PredictWidget)
    widget.form.set_value(QUICK)
    widget.scope.setCurrentText(VIEW)
    gc.unfreeze()
    widget.job.button.click()
    qtbot.waitUntil(loads.is_set)
    assert gc.get_freeze_count() > 0
    with qtbot.waitSignal(widget.destroyed):
        viewer.window.remove_dock_widget(widget)
        widget.deleteLater()
    closed.set()
    qtbot.waitUntil(lambda: not _running, timeout=60_000)
    assert gc.get_freeze_count() == 0


def test_a_samples_results_do_not_go_into_the_package(use_widget, viewer):
    [(data, options, _)] = skin()
    viewer.add_image(data, **options)
    widget = use_widget(PredictWidget)
    widget.scope.setCurrentText(WHOLE)
    assert widget.results.text() == f"Results: {Path.home() / 'napari-lpd-results'}"


def test_selected_shapes_are_predicted_to_their_outline(predict, pressed, viewer, tiny_layer, tmp_path):
    shapes = viewer.add_shapes([np.array([[20, 20], [20, 150], [150, 20]])], shape_type="polygon")
    shapes.units, shapes.scale, shapes.translate = tiny_layer.units, tiny_layer.scale, tiny_layer.translate
    shapes.selected_data = {0}
    predict.scope.setCurrentText(REGIONS)
    prediction = pressed()
    assert prediction.card.scope
    assert prediction.tissue_mm2 == pytest.approx(130 * 130 / 2 / 1e6, rel=0.02)
    assert not (tmp_path / "napari-lpd-results").exists()


@pytest.mark.parametrize("layer", ["labels", "shapes"])
def test_a_layer_says_what_is_tissue(predict, pressed, viewer, tiny_layer, layer):
    if layer == "labels":
        mine = viewer.add_labels(np.pad(np.ones((50, 50), np.uint8), ((10, 68), (30, 112))), name="mine")
        mine.units, mine.scale = tiny_layer.units, (2, 2)
        mine.translate = (0.5, 0.5)
    else:
        mine = viewer.add_shapes([np.array([[20, 60], [119, 159]]) - 0.5], shape_type="rectangle", name="mine")
        mine.units = tiny_layer.units
    predict.tissue.setCurrentText("mine")
    found = pressed().tissue
    at = found.at((0, 0), (256, 384), 1.0)
    assert at[21:118, 61:158].all()
    assert not at[:, :58].any()
    assert at.sum() == pytest.approx(100 * 100, rel=0.03)


def test_the_tissue_is_previewed_without_predicting(predict, viewer, qtbot, tmp_path):
    predict._on_preview()
    qtbot.waitUntil(lambda: bool(our_layers(viewer, slide_id(viewer.layers["tiny.tiff"]), "tissue")), timeout=20_000)
    [mask] = our_layers(viewer, slide_id(viewer.layers["tiny.tiff"]), "tissue")
    assert mask.visible
    assert "% of the slide is tissue" in predict.job.status.text()
    assert mask.name in [predict.tissue.itemText(i) for i in range(predict.tissue.count())]
    assert not (tmp_path / "napari-lpd-results").exists()


def test_glass_is_predicted_where_everything_is_asked_for(predict, pressed):
    predict.tissue.setCurrentText(WHOLE_AREA)
    assert pressed().tissue_mm2 == pytest.approx(256 * 384 / 1e6, rel=0.01)


def test_the_crf_that_would_freeze_the_window_is_refused(predict, shown_errors):
    predict.form.set_value(QUICK.model_copy(update={"refiner": "pydensecrf"}))
    predict.job.button.click()
    assert "choose lattice" in shown_errors[0]


def test_results_that_cannot_be_written_are_said_in_one_line(predict, pressed, shown_errors, tmp_path):
    (tmp_path / "file").write_text("")
    predict._out = tmp_path / "file"
    assert pressed() is None
    assert len(shown_errors) == 1
    assert "cannot be written" in shown_errors[0]


def test_export_before_predict_says_what_is_missing(use_widget, shown_errors):
    use_widget(PredictWidget).panel._on_export("labels")
    assert shown_errors == ["no prediction yet: press Predict first"]


def test_a_foreign_model_file_is_refused(use_widget, tmp_path, shown_errors):
    widget = use_widget(PredictWidget)
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with widget.job.reporting():
        widget.model.use(tmp_path / "x.safetensors")
    assert "not a model file" in shown_errors[0]


def test_the_areas_of_a_shown_prediction_are_listed(use_widget, viewer, tiny_layer, make_prediction):
    show_prediction(viewer, make_prediction(box=(32, 64, 160, 320)), tiny_layer)
    table = use_widget(PredictWidget).panel.areas.table
    texts = [[table.item(row, column).text() for column in range(3)] for row in range(2)]
    assert texts == [["dark", "0.016", "50.0"], ["pink", "0.016", "50.0"]]


def visible(viewer):
    return [layer.name for layer in viewer.layers if layer.visible]


def test_explore_touches_no_layer_until_a_class_is_chosen(use_widget, viewer, make_prediction):
    show_prediction(viewer, make_prediction())
    use_widget(ExploreWidget)
    assert visible(viewer) == ["mask (tiny.tiff)"]


def test_explore_shows_the_chosen_class_alone_and_the_mask_again_after_it(use_widget, viewer, make_prediction, qtbot):
    show_prediction(viewer, make_prediction())
    widget = use_widget(ExploreWidget)
    widget.show_heatmap(1)
    qtbot.waitUntil(lambda: visible(viewer) == ["pink heatmap"])
    widget.tissue.setCurrentIndex(0)
    assert visible(viewer) == ["mask (tiny.tiff)"]


def test_the_prototype_slider_and_the_viewers_slider_move_together(use_widget, viewer, make_prediction, qtbot):
    show_prediction(viewer, make_prediction())
    widget = use_widget(ExploreWidget)
    widget.show_heatmap(0)
    widget.slider.setValue(1)  # before the heatmap is there
    qtbot.waitUntil(lambda: visible(viewer) == ["dark heatmap"])
    assert viewer.dims.current_step[0] == 1
    assert widget.which.text() == "Prototype 2 of 2"
    viewer.dims.set_current_step(0, 0)
    assert widget.slider.value() == 0


def test_explore_without_a_prediction_says_what_to_do(use_widget):
    widget = use_widget(ExploreWidget)
    assert not widget.missing.isHidden()
    assert "run Predict" in widget.missing.text()


@pytest.mark.slow
def test_from_weak_regions_to_a_mask_on_the_slide(use_widget, viewer, skin_layer, qtbot, tmp_path, shown_errors):
    train, predict = use_widget(TrainWidget), use_widget(PredictWidget)
    train.out.setText(str(tmp_path / "models"))
    train.data.drawn.load(samples.regions_path("train"))
    settings = TrainSettings(mpp=2.0, tile=64, tile_step=256, max_steps=6, batch=4, threads=1)
    train.chosen.form.set_value(settings)
    train.chosen.more.set_value(settings)
    train.job.button.click()
    qtbot.waitUntil(lambda: not train.job.runner.running, timeout=180_000)
    assert shown_errors == []
    trained = tmp_path / "models" / "CMU-1_skin-001" / "model.safetensors"
    assert recent_models.paths()[0] == trained.resolve()
    assert Path(predict.model.combo.currentData()) == trained.resolve()
    assert train.tabs.curves.points("loss")[0] == [1, 2, 3, 4, 5, 6]

    viewer.canvas.size, viewer.scene.camera.zoom, viewer.scene.camera.center = (400, 500), 0.5, (0, 2500, 1000)
    predict.form.set_value(PredictSettings(threads=1, tile=128, overlap=32))
    predict.job.button.click()
    qtbot.waitUntil(lambda: not predict.job.runner.running, timeout=180_000)
    assert shown_errors == []
    [labels] = our_layers(viewer, slide_id(viewer.layers["CMU-1_skin.tiff"]), "labels")
    names = ["epidermis", "naevus nests", "collagen", "fat", "unsure", "unreadable"]
    assert list(labels.features["class"][1:]) == names
    first = labels.translate - labels.scale / 2
    last = first + np.array(labels.data.shape) * labels.scale
    stride_um = 32 * labels.scale[0]
    assert np.allclose([first, last], [[2100, 500], [2900, 1500]], atol=stride_um)
    assert set(np.unique(labels.data)) <= {0, 1, 2, 3, 4, UNSURE}
    for name in names[:4]:
        predict.panel.results.button.maps.show(slide_id(skin_layer), ("heatmap", name))
    qtbot.waitUntil(lambda: len(our_layers(viewer, slide_id(skin_layer), "heatmap")) == 4, timeout=30_000)
    assert labels.metadata[KEY]["prediction"].card.model == "CMU-1_skin-001"
    assert predict.panel.areas.table.rowCount() == 5  # with what is unsure
