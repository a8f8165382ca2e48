"""What goes wrong around training is said in one line in the widget, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_slides import leica
from qtpy.QtWidgets import QFileDialog

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.jobs import in_subprocess, run
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.project import regions_beside
from napari_lpd.data.regions import Region, read_regions, write_regions
from napari_lpd.gui.layers.regions import add_regions, new_regions_layer, outlines_of, tissues_of
from napari_lpd.gui.layers.slides import kind
from napari_lpd.gui.train.widget import TrainWidget
from napari_lpd.models.card import read_card
from napari_lpd.training.runs.folder import ARGUMENTS, STATE_NAME, as_command, read_arguments, read_state

QUICK = TrainSettings(mpp=1.0, tile=64, tile_step=48, max_steps=2, batch=4, threads=1)


@pytest.fixture
def train(use_widget, tiny_layer, classes, tmp_path):
    widget = use_widget(TrainWidget)
    widget.out.setText(str(tmp_path / "models"))
    widget.data.classes.set_classes(classes)
    widget.chosen.show_value(QUICK)
    return widget


@pytest.fixture
def draw(train, viewer, tiny_layer, classes):
    """Draw regions into a new regions layer of the slide."""

    def regions(*given):
        layer = new_regions_layer(viewer, tiny_layer)
        add_regions(layer, given, classes)
        return layer

    return regions


def box(y, x, size, *tissues, named=True):
    return Region(np.array([[y, x], [y, x + size], [y + size, x + size], [y + size, x]], float), tissues, named)


def said_by(train, qtbot, shown_errors) -> str:
    """The one error of a press on Train."""
    train.job.button.click()
    qtbot.waitUntil(lambda: not train.job.runner.running and bool(shown_errors), timeout=60_000)
    assert len(shown_errors) == 1
    assert train.job.status.text() == f"⚠ {shown_errors[0]}"
    return shown_errors[0]


def test_no_shapes(train, draw, qtbot, shown_errors):
    draw()
    assert "is empty: outline at least one region per tissue" in said_by(train, qtbot, shown_errors)


def test_one_class(train, draw, qtbot, shown_errors):
    draw(box(0, 0, 128, "dark"))
    assert "hold only dark; training needs tiles of at least two classes" in said_by(train, qtbot, shown_errors)


def test_shapes_outside_the_slide(train, draw, qtbot, shown_errors):
    draw(box(0, 0, 128, "dark"), box(2000, 0, 128, "pink"))
    assert "of 2 regions, 2 (now selected) outside the slide" in said_by(train, qtbot, shown_errors)


def test_shapes_smaller_than_a_tile(train, draw, qtbot, shown_errors):
    draw(box(0, 0, 20, "dark"), box(0, 300, 20, "pink"))
    said = said_by(train, qtbot, shown_errors)
    assert "no region holds a tile of 64 pixels at 1 µm per pixel (64 µm); draw larger regions" in said


def test_a_deleted_slide(train, draw, tiny_tiff, qtbot, shown_errors):
    draw(box(0, 0, 128, "dark"), box(0, 200, 128, "pink"))
    tiny_tiff.unlink()
    assert "tiny.tiff: no such file" in said_by(train, qtbot, shown_errors)


def test_a_models_folder_that_cannot_be_written(train, draw, tmp_path, qtbot, shown_errors):
    draw(box(0, 0, 128, "dark"), box(0, 200, 128, "pink"))
    (tmp_path / "file").write_text("")
    train.out.setText(str(tmp_path / "file" / "models"))
    assert "cannot be written (Not a directory)" in said_by(train, qtbot, shown_errors)


def test_a_full_disk(train, draw, qtbot, shown_errors, monkeypatch):
    draw(box(0, 0, 128, "dark"), box(0, 200, 128, "pink"))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert "No space left on device" in said_by(train, qtbot, shown_errors)


def test_regions_that_cannot_be_saved_beside_the_slide_are_said_once_and_stay(
    train, draw, tiny_tiff, shown_errors, monkeypatch
):
    layer = draw(box(0, 0, 128, "dark"))

    def refused(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("napari_lpd.core.files.os.replace", refused)
    for _ in range(2):
        train.data.drawn.files.change(layer)
        train.data.drawn.files.save()
    assert len(shown_errors) == 1
    assert "Read-only file system" in shown_errors[0]
    assert len(layer.data) == 1
    assert not regions_beside(tiny_tiff).exists()


def test_unknown_classes_of_a_geojson_become_classes_and_bare_outlines_stay_bare(train, viewer, tmp_path, classes):
    path = tmp_path / "qupath.geojson"
    write_regions(path, [box(0, 0, 64, "dark"), box(0, 99, 64, "nerve"), box(9, 9, 9, named=False)], classes)
    train.data.drawn.load(path)
    assert [tissue.name for tissue in train.data.tissue_classes()] == ["dark", "pink", "nerve"]
    assert train.job.status.text() == (
        "3 regions from qupath.geojson. New classes: nerve. 1 of them carry no tissue yet."
    )
    layer = next(layer for layer in viewer.layers if kind(layer) == "regions")
    assert tissues_of(layer) == [("dark",), ("nerve",), ()]


def test_regions_outside_the_slide_are_said_by_number_when_they_are_loaded(train, viewer, tmp_path, classes):
    path, inside = tmp_path / "other.geojson", box(0, 0, 64, "dark")
    foreign = [box(900, 0, 64, "dark"), box(0, 2000, 64, "pink")]
    write_regions(path, [inside, *foreign], classes)
    train.data.drawn.load(path)
    assert train.job.status.text() == (
        "⚠ left out, outside tiny.tiff (384 x 256 pixels): feature 2, 3. 1 region from other.geojson."
    )
    layer = next(layer for layer in viewer.layers if kind(layer) == "regions")
    assert len(layer.data) == 1
    write_regions(path, [inside, box(0, 200, 64, "pink"), *foreign], classes)
    train.data.drawn.load(path)
    assert "left out, outside tiny.tiff" in train.job.status.text()
    assert len(layer.data) == 2


@pytest.mark.parametrize("text", ["{", '{"features": [{"geometry": {"type": "Polygon"}}]}', "[]"])
def test_a_damaged_geojson(train, tmp_path, text, shown_errors):
    path = tmp_path / "bad.geojson"
    path.write_text(text)
    train.data.drawn.load(path)
    assert "bad.geojson" in shown_errors[0]


def test_a_corrupt_project(train, tmp_path, shown_errors):
    path = tmp_path / "x.lpd.json"
    path.write_text('{"kind": ')
    train.data.use_project(path)
    assert "not readable as a project" in shown_errors[0]
    assert train.data.project is None


def test_regions_are_saved_as_they_are_drawn_and_come_back_with_the_slide(
    train, draw, viewer, tiny_layer, tiny_tiff, qtbot, use_widget, classes
):
    layer = draw(box(0, 0, 128, "dark"), box(0, 200, 128, "pink"))
    qtbot.waitUntil(lambda: regions_beside(tiny_tiff).exists(), timeout=5000)
    assert [region.tissues for region in read_regions(regions_beside(tiny_tiff))] == [("dark",), ("pink",)]
    viewer.layers.remove(layer)
    assert not [shapes for shapes in viewer.layers if kind(shapes) == "regions"]  # deleted is deleted
    viewer.layers.remove(tiny_layer)
    train.data.drawn.slides.open(tiny_tiff)
    [again] = [shapes for shapes in viewer.layers if kind(shapes) == "regions"]
    assert tissues_of(again) == [("dark",), ("pink",)]


def test_numbers_on_the_keyboard_with_control_change_the_selected_regions(train, draw, viewer):
    layer = draw(box(0, 0, 64), box(0, 99, 64))
    keys = {str(key): action for key, action in layer.keymap.items()}
    layer.selected_data = {0, 1}
    keys["Ctrl+2"](layer)
    assert tissues_of(layer) == [("pink",), ("pink",)]
    layer.selected_data = {1}
    keys["Ctrl+1"](layer)
    assert tissues_of(layer) == [("pink",), ("pink", "dark")]
    keys["Ctrl+0"](layer)
    assert tissues_of(layer) == [("pink",), ("none",)]
    keys["Ctrl+9"](layer)  # no such class: nothing
    assert tissues_of(layer) == [("pink",), ("none",)]


def test_two_slides_in_a_project_are_trained_on(train, draw, viewer, tiny_tiff, classes, tmp_path, qtbot, shown_errors):
    regions = [box(0, 0, 190, "dark"), box(0, 194, 190, "pink")]
    draw(*regions)
    path = tmp_path / "set.lpd.json"
    train.data.add_to_project(path)
    second = tmp_path / "second.tiff"
    content = bytearray(tiny_tiff.read_bytes())
    content[5000] ^= 1  # a pixel: one slide under two names would be one
    second.write_bytes(content)
    write_regions(regions_beside(second), regions, classes)
    train.data.drawn.slides.open(second)  # brings its regions
    train.data.add_to_project(path)
    assert shown_errors == []
    assert train.data.used.text() == "Project set.lpd.json: 2 slides (tiny.tiff, second.tiff)"
    train.job.button.click()
    qtbot.waitUntil(lambda: not train.job.runner.running, timeout=120_000)
    assert shown_errors == []
    assert "2 slides" in train.tabs.data.text()
    assert (tmp_path / "models" / "set-001" / "model.safetensors").exists()


def test_settings_are_saved_loaded_and_copied_as_a_command(train, draw, tmp_path, qtbot, shown_errors):
    from qtpy.QtGui import QGuiApplication

    draw(box(0, 0, 190, "dark"), box(0, 194, 190, "pink"))
    train.chosen.save(tmp_path / "s.json")
    wanted = train.settings()
    train.chosen.preset.setCurrentText("paper")
    assert train.settings() != wanted
    from napari_lpd.core.settings.base import read_settings

    train.chosen.show_value(read_settings(TrainSettings, tmp_path / "s.json", []))
    assert train.settings() == wanted
    train._on_copy()
    command = QGuiApplication.clipboard().text()
    folder = tmp_path / "models" / "tiny-001"
    assert command == as_command(read_arguments(folder))
    run(in_subprocess(read_arguments(folder)))
    assert read_card(folder / "model.safetensors").settings == wanted
    assert shown_errors == []


def test_pause_waits_and_says_so(train, draw, qtbot, shown_errors):
    draw(box(0, 0, 190, "dark"), box(0, 194, 190, "pink"))
    train.chosen.show_value(QUICK.model_copy(update={"epochs": 200, "max_steps": 500}))
    train.job.button.click()
    steps = lambda: len(train.tabs.curves.points("loss")[0])  # noqa: E731
    qtbot.waitUntil(lambda: steps() >= 2, timeout=120_000)
    train.job.pause.click()
    assert train.job.status.text() == "Paused."
    assert train.job.pause.text() == "Resume"
    qtbot.wait(1500)
    taken = steps()
    qtbot.wait(1500)
    assert steps() == taken
    train.job.pause.click()
    qtbot.waitUntil(lambda: steps() > taken, timeout=20_000)
    train.job.stop_button.click()
    qtbot.waitUntil(lambda: not train.job.runner.running, timeout=4000)
    assert not train.job.pause.isEnabled()
    assert shown_errors == []


KILLS = int(os.environ.get("NAPARI_LPD_KILLS", "2"))

# Opens napari, starts or resumes a training in the widget, and goes on until it is over or killed.
NAPARI = """
import sys, time
import napari
from qtpy.QtWidgets import QApplication
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.settings.training import TrainSettings
from pathlib import Path
slide, models, STEPS = sys.argv[1:3] + [int(sys.argv[3])]
from napari_lpd.gui.train import TrainWidget
viewer = napari.Viewer(show=False)
widget = TrainWidget(viewer)
viewer.window.add_dock_widget(widget)
widget.data.classes.set_classes([TissueClass(name="dark", color="#3b4cff"), TissueClass(name="pink", color="#ff8c1a")])
widget.data.drawn.slides.open(Path(slide))
widget.out.setText(models)
from made_models import QUICK_TO_TRAIN
how = {"mpp": 1.0, "tile": 64, "tile_step": 48, "epochs": 999, "max_steps": STEPS, "batch": 4}
widget.chosen.show_value(TrainSettings(**QUICK_TO_TRAIN, **how))
(widget.job.button if widget.resume.isHidden() else widget.resume).click()
while widget.job.runner.running:
    QApplication.processEvents()
    time.sleep(0.01)
steps = widget.tabs.curves.points("loss")[0]
print("OVER", steps == list(range(1, STEPS + 1)), widget.job.status.text(), flush=True)
viewer.close()
"""


def trained_in(models) -> bool:
    """Whether a process trains a model in the folder."""
    names = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.parent.exists())
    return any(str(models).encode() in name and b"\0train\0" in name for name in names)


@pytest.mark.slow
def test_napari_killed_again_and_again_resumes_each_time(tiny_tiff, tiny_regions, classes, tmp_path):
    write_regions(regions_beside(tiny_tiff), tiny_regions, classes)
    models = tmp_path / "models"
    command = [sys.executable, "-c", NAPARI, str(tiny_tiff), str(models), "150"]
    own_settings = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "config"), "PYTHONPATH": os.pathsep.join(sys.path)}
    source = random.Random(5)
    at = 0
    for kill in range(KILLS):
        napari = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own_settings)
        deadline = time.monotonic() + 120
        while not (trained_in(models) and list(models.glob(f"*/{STATE_NAME}"))) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(source.uniform(1, 6) if kill else 1)
        os.kill(napari.pid, signal.SIGKILL)
        napari.wait()
        deadline = time.monotonic() + 30  # the child sees that its parent is gone, saves and ends
        while trained_in(models) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not trained_in(models), "a child outlived napari"
        [folder] = [path.parent for path in models.glob(f"*/{STATE_NAME}")]
        taken = read_state(folder)["place"]["step"]
        assert taken >= at
        at = taken
        assert json.loads((folder / ARGUMENTS).read_text())[0] == "train"
    over = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=own_settings)
    assert "OVER True Trained on" in over.stdout
    assert not list(models.glob(f"*/{STATE_NAME}"))


def test_check_names_regions_outside_the_slide_before_anything_else_that_is_wrong(train, draw, qtbot, shown_errors):
    layer = draw(box(0, 0, 64, "dark"), box(0, 900, 64, "pink"), box(9, 9, 9, named=False))
    train.data.classes.set_classes([TissueClass(name="dark", color="#3b4cff")])  # too few
    said = said_by(train, qtbot, shown_errors)
    assert "tiny.tiff: of 3 regions, 2 (now selected) outside the slide (384 x 256 pixels): delete them" in said
    assert layer.selected_data == {1}


def test_geojson_is_counted_from_where_the_user_says(train, viewer, tmp_path, classes, monkeypatch):
    drawn = train.data.drawn
    assert drawn.origin.isHidden()
    slide = leica(tmp_path / "s.scn", np.full((512, 512, 3), 120, np.uint8), (2000, 4000))
    drawn.slides.open(slide)
    assert not drawn.origin.isHidden()
    plain = tmp_path / "q.geojson"
    document = json.loads(write_regions(plain, [box(10, 20, 64, "dark")], classes).read_text())
    plain.write_text(json.dumps({"features": document["features"]}))  # as from another program
    for text, corner in (("bounds", (4010, 2020)), ("slide", (10, 20))):
        drawn.origin.setCurrentIndex(drawn.origin.findData(text))
        drawn.load(plain)
        regions = outlines_of(drawn.layer(), drawn.slides.layer())
        assert tuple(regions[-1].vertices.min(0)) == pytest.approx(corner)
        target = tmp_path / f"{text}.geojson"
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, t=target: (str(t), ""))
        drawn._on_save_regions()
        written = json.loads(target.read_text())
        assert written["napari_lpd"]["origin"] == ([2000, 4000] if text == "bounds" else [0, 0])
        assert len(read_regions(target)) == len(regions)
