"""A training that is stopped in the widget goes on there, in the next napari, too."""

from __future__ import annotations

import json
import shutil

import pytest
from made_models import QUICK_TO_TRAIN

from napari_lpd import samples
from napari_lpd.core.classes import CLASSES
from napari_lpd.core.locks import inside, locked
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.gui.common.recent_models import recent_models
from napari_lpd.gui.layers.regions import add_regions, new_regions_layer
from napari_lpd.gui.train.widget import TrainWidget
from napari_lpd.models.card import read_card
from napari_lpd.training.runs.folder import ARGUMENTS, STATE_NAME, read_state, unfinished_run

STEPS = 40


@pytest.fixture
def make_widget(use_widget, viewer, tiny_layer, tiny_regions, classes, tmp_path):
    """A Train widget with the tiny slide, its regions and a short training."""

    def make():
        widget = use_widget(TrainWidget)
        widget.data.classes.set_classes(classes)
        widget.out.setText(str(tmp_path / "models"))
        how = QUICK_TO_TRAIN | {"mpp": 1.0, "tile": 64, "tile_step": 48, "epochs": 99, "max_steps": STEPS, "batch": 4}
        settings = TrainSettings(**how)
        widget.chosen.form.set_value(settings)
        widget.chosen.more.set_value(settings)
        return widget

    add_regions(new_regions_layer(viewer, tiny_layer), tiny_regions, classes)
    return make


def stopped_after(widget, steps, qtbot):
    """Start, wait for some steps, and stop."""
    widget.job.button.click()
    qtbot.waitUntil(lambda: len(widget.tabs.curves.points("loss")[0]) >= steps, timeout=120_000)
    widget.job.stop_button.click()
    qtbot.waitUntil(lambda: not widget.job.runner.running, timeout=3000)
    return unfinished_run(widget._models_folder())


@pytest.mark.slow
def test_a_stopped_training_goes_on_in_the_next_napari_and_its_curve_too(make_widget, qtbot, shown_errors):
    widget = make_widget()
    assert widget.resume.isHidden()
    run = stopped_after(widget, 3, qtbot)
    taken = read_state(run)["place"]["step"]
    assert taken >= 3
    assert "Press Resume to continue" in widget.job.status.text()

    again = make_widget()
    again.data.classes.set_classes(CLASSES["luad"])  # as a new napari knows nothing of the run's
    assert not again.resume.isHidden()
    assert again.resume.text() == f"Resume {run.name}"
    again.resume.click()
    assert again.resume.isHidden()
    assert again.tabs.curves.points("loss")[0] == list(range(1, taken + 1))
    qtbot.waitUntil(lambda: not again.job.runner.running, timeout=180_000)
    assert shown_errors == []
    assert again.tabs.curves.points("loss")[0] == list(range(1, STEPS + 1))
    assert read_card(run / "model.safetensors").steps <= STEPS
    assert not (run / STATE_NAME).exists()
    assert again.resume.isHidden()
    again.tabs.curves.page.setCurrentText("effective number of prototypes")
    assert "dark" in again.tabs.curves._legend.text()
    assert again.device.text().startswith("Computing on cpu (")


def test_what_a_stopped_training_has_learned_can_be_used_at_once(make_widget, tmp_path):
    widget = make_widget()
    run = tmp_path / "models" / "tiny-001"
    run.mkdir(parents=True)
    (run / STATE_NAME).write_bytes(b"")
    (run / ARGUMENTS).write_text("[]")
    shutil.copy(samples.model_path(), run / "model.safetensors")
    widget._run = run
    widget.job.stop()
    widget.job.runner.ended.emit()
    assert widget.job.status.text() == (
        "Stopped; what was learned is kept. Press Resume to continue. The best model so far is ready in Predict."
    )
    assert not widget.predict.isHidden()
    assert run / "model.safetensors" in recent_models.paths()


def test_a_run_that_goes_on_in_another_process_is_not_offered_and_cannot_be_resumed(
    make_widget, tmp_path, shown_errors
):
    run = tmp_path / "models" / "tiny-001"
    run.mkdir(parents=True)
    (run / STATE_NAME).write_bytes(b"x" * 50)
    (run / ARGUMENTS).write_text("[]")
    widget = make_widget()
    assert widget.resume.text() == "Resume tiny-001"
    with locked(inside(run), run):
        widget.resume.click()  # it was offered before the other process began
        assert "no stopped training" in shown_errors[0]
        again = make_widget()
        assert again.resume.isHidden()
    again.out.textChanged.emit("")
    assert not again.resume.isHidden()


def test_a_run_whose_files_are_damaged_is_said_in_one_line(make_widget, tmp_path, shown_errors):
    run = tmp_path / "models" / "tiny-001"
    run.mkdir(parents=True)
    (run / STATE_NAME).write_bytes(b"x" * 50)
    (run / ARGUMENTS).write_text(json.dumps(["doctor"]))
    widget = make_widget()
    widget.resume.click()
    assert "damaged" in shown_errors[0]
    assert "delete it to train anew" in shown_errors[0]
