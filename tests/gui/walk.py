"""A user who does anything, chosen by a seed, with mouse and keys; and what has to hold after everything.

The model of the user (`Walk`) knows what the user has applied and which process was started, nothing else: all other
facts are read from the window and from the disk.
"""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import shapely
from hand import LEFT, User, click
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QFileDialog, QLineEdit, QMessageBox, QPushButton

from napari_lpd.core import jobs
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.data.geojson import Frame, read_features
from napari_lpd.data.project import regions_beside
from napari_lpd.data.regions import NONE, regions_in
from napari_lpd.gui.common.job import JobRunner
from napari_lpd.gui.common.layout import Column
from napari_lpd.gui.layers.regions import empty_shapes, outlines_of, regions_layers, tissues_of
from napari_lpd.gui.layers.results import our_layers
from napari_lpd.gui.layers.slides import kind, slide_layers, slide_of, slide_path
from napari_lpd.gui.train.class_table import OTHER
from napari_lpd.gui.train.region_autosave import RegionFiles
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.export.ome_tiff import read_label_tiff
from napari_lpd.results.pyramid import ERASED, combined
from napari_lpd.training.runs.folder import out_of

CONTROL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
QUICK = PredictSettings(threads=1, tile=64, overlap=0, block=64)
NAMES = ("Train", "Predict", "Explore prototypes")
SCOPES = ("this view", "this view", "whole slide", "the selected regions")
JOB_MS = 60_000
CHILD = """
import json, pathlib, sys, time
from napari_lpd.core.errors import DataError
from napari_lpd.core.locks import inside, locked
run = pathlib.Path(sys.argv[1])
with locked(inside(run), run, DataError):
    import numpy, safetensors.numpy
    about = {"identity": {}, "place": {"curve": [], "history": []}}
    header = {"training_state": json.dumps(about)}
    safetensors.numpy.save_file({"x": numpy.zeros(1)}, run / "training_state.safetensors", header)
    print('{"event": "progress", "done": 1, "total": 9}', flush=True)
    sys.stdin.read()
"""  # holds the lock of its run and leaves a state to resume from, as a training does
ACTIONS: dict[str, int] = {}


def action(weight):
    """Let the user do what a method does, this often; it returns False where that cannot be done now."""

    def listed(method):
        ACTIONS[method.__name__] = weight
        return method

    return listed


class DockGone(Exception):
    """A dock closes when the job that it waits for has ended, which can be at any time."""


class Walk:
    """One user in one napari after the other.

    Args:
        make_viewer: Opens napari.
        slides: Files of slides, each in a folder of its own.
        model: A model for them.
        seed: What the user does.
        qtbot: Waits.
        patch: Puts answers in the place of dialogs, and cheap processes in that of trainings.
    """

    def __init__(self, make_viewer, slides, model, seed, qtbot, patch):
        self.make_viewer, self.slides, self.model, self.qtbot = make_viewer, slides, model, qtbot
        self.choose = random.Random(seed)
        self.log, self.children, self.raised = [], [], []
        self.painted = {}  # per slide: values as stored by corrections, which the user has applied
        self.undo = {}  # per slide: what was painted before each Apply that can be taken back
        self.places = {}  # of slides when they were opened
        self.answer = ""
        self._patch(patch)
        self.begin()

    def _patch(self, patch):
        buttons = QMessageBox.StandardButton
        patch.setattr(QMessageBox, "question", lambda *_: self.choose.choice([buttons.Close, buttons.Cancel]))
        for name in ("getOpenFileName", "getSaveFileName"):
            patch.setattr(QFileDialog, name, lambda *_, **__: (self.answer, "Mask (*.ome.tif)"))
        real = subprocess.Popen

        def start(command, **options):
            if "--out" not in command:
                return real(command, **options)
            run = out_of(command)
            self.children.append((run, real([sys.executable, "-c", CHILD, str(run)], **options)))
            return self.children[-1][1]

        patch.setattr(jobs.subprocess, "Popen", start)
        patch.setattr(threading, "excepthook", lambda args: self.raised.append(args.exc_value))

    def begin(self):
        """Open napari as the user does in the morning."""
        self.viewer = self.make_viewer(show=True)
        self.viewer.window.resize(1000, 640)
        self.user, self.widgets, self.places = User(self.viewer), {}, {}
        self.noted = len(notification_manager.records)
        for name in NAMES[:2]:
            self.dock(name)
        self.open(self.slides[0])

    def run(self, steps):
        """Do `steps` things; the first broken promise ends the walk with all that was done."""
        names = list(ACTIONS)
        weights = list(ACTIONS.values())
        with self.qtbot.capture_exceptions() as raised:
            for _ in range(steps):
                done = False
                while done is False:
                    [name] = self.choose.choices(names, weights)
                    self.log.append(name)
                    try:
                        done = getattr(self, name)()
                    except DockGone:
                        done = "in a dock that closed meanwhile"
                    if done is False:
                        self.log.pop()
                self.log[-1] += f" {done or ''}".rstrip()
                self.settle()
                self.raised += [value for _, value, _ in raised]
                raised.clear()
                self.check()
        self.end()

    def end(self):
        """Stop what runs; no process is left."""
        for runner in self.runners():
            runner.stop()
        self.qtbot.waitUntil(lambda: not any(runner.running for runner in self.runners()), timeout=JOB_MS)
        for _, child in self.children:
            child.wait(timeout=20)
        self.viewer.close()
        self.viewer = self.user = None  # what answers for dialogs holds this walk for longer than a window may live
        self.widgets, self.places, self.raised = {}, {}, []
        QApplication.processEvents()
        gc.unfreeze()  # of a run that was stopped
        gc.collect()

    # What the user sees and reaches

    def dock(self, name):
        dock, widget = self.viewer.window.add_plugin_dock_widget("napari-lpd", name, tabify=True)
        self.widgets[name] = (dock, widget)
        if name == "Predict":
            widget.form.set_value(QUICK)
            widget.model.use(self.model)
        if name == "Train":
            widget.out.setText(str(self.model.parents[1]))

    def widget(self, name):
        """A widget of ours that is docked, else None."""
        there = f"{name} (napari-lpd)" in self.viewer.window._wrapped_dock_widgets
        return self.widgets[name][1] if there and name in self.widgets else None

    def runners(self):
        return [runner for name in NAMES if self.widget(name) for runner in self.widget(name).findChildren(JobRunner)]

    def busy(self):
        return any(runner.running for runner in self.runners())

    def press(self, name, text, inside=None):
        """Click a button of a widget, scrolled to; False where it is not there or not enabled."""
        widget = self.widget(name)
        if widget is None:
            return False
        found = [b for b in (inside or widget).findChildren(QPushButton) if b.text() == text and not b.isHidden()]
        if not found or not found[0].isEnabled():
            return False
        self.reach(name, found[0])
        click(found[0])
        return text

    def reach(self, name, field):
        self.widgets[name][0].raise_()
        QApplication.processEvents()
        if self.widget(name) is None:
            raise DockGone
        self.widget(name).findChild(Column).ensureWidgetVisible(field)
        QApplication.processEvents()

    def some_slide(self):
        layers = slide_layers(self.viewer)
        return self.choose.choice(layers) if layers else None

    def seen(self):
        """A box (y0, x0), (y1, x1) of the chosen or any slide in the world, of some size, inside the slide."""
        widget = self.widget("Train")
        layer = (widget and widget.data.drawn.slides.find()) or self.some_slide()
        if layer is None:
            return None
        size = np.array(layer.data[0].shape[:2]) * layer.scale
        low, high = layer.translate, layer.translate + size
        first = np.array([self.choose.uniform(a, b) for a, b in zip(low, high, strict=True)])
        edges = np.array([self.choose.uniform(0.05, 0.4), self.choose.uniform(0.05, 0.4)]) * size
        return tuple(first), tuple(np.clip(first + edges, low + layer.scale, high - layer.scale))

    def drag(self):
        box = self.seen()
        if box is not None:
            self.user.drag(*box)
        return None if box is not None else False

    # Regions

    @action(10)
    def draw_region(self):
        if self.viewer.layers.selection.active is None or self.choose.random() < 0.4:
            self.press("Train", "Draw regions")
        box = self.seen()
        if box is None:
            return False
        in_hand = self.user.shown()
        before = {layer: len(layer.data) for layer in regions_layers(self.viewer)}
        self.user.polygon(*box)
        for layer, count in before.items():
            if len(layer.data) == count + 1 and in_hand.startswith("Draw: ") and not layer._is_creating:
                name = in_hand.removeprefix("Draw: ")
                got = tissues_of(layer)[-1]
                assert got == ((NONE,) if name == OTHER else (name,)), f"drawn {in_hand}, got {got}"
        return None

    @action(4)
    def drag_anywhere(self):
        return self.drag()

    @action(8)
    def number(self):
        key = self.choose.choice("0123456")
        self.user.key(key, CONTROL if self.choose.random() < 0.25 else Qt.KeyboardModifier.NoModifier)
        return key

    @action(5)
    def tool_key(self):
        key = self.choose.choice("sprezdv")
        self.user.key(key)
        return key

    @action(6)
    def take_back(self):
        self.user.key("z", CONTROL)

    @action(2)
    def do_again(self):
        self.user.key("z", CONTROL | SHIFT)

    @action(4)
    def delete_regions(self):
        layers = [layer for layer in regions_layers(self.viewer) if len(layer.data)]
        if not layers:
            return False
        self.user.activate(self.choose.choice(layers))
        self.user.key("s")
        self.drag()
        self.user.key(Qt.Key.Key_Delete)
        return None

    @action(3)
    def rename_class(self):
        train = self.widget("Train")
        if train is None or not train.data.classes._rows:
            return False
        field = self.choose.choice(train.data.classes._rows).name
        self.reach("Train", field)
        name = self.choose.choice(["gland", "nest 2", "a + b", "stroma", "none", "", "dark"])
        field.setFocus()
        field.selectAll()
        QTest.keyClicks(field, name) if name else QTest.keyClick(field, Qt.Key.Key_Delete)
        QTest.keyClick(field, Qt.Key.Key_Return)
        return name

    @action(1)
    def add_class(self):
        return self.press("Train", "Add class")

    @action(1)
    def remove_class(self):
        train = self.widget("Train")
        if train is None or not train.data.classes._rows:
            return False
        row = self.choose.choice(train.data.classes._rows)
        self.reach("Train", row.remove)
        click(row.remove)
        return None

    # Layers

    def some_layer(self):
        return self.choose.choice(list(self.viewer.layers)) if len(self.viewer.layers) else None

    @action(6)
    def choose_layer(self):
        layer = self.some_layer()
        if layer is None:
            return False
        self.user.activate(layer)
        return layer.name

    @action(3)
    def rename_layer(self):
        layer = self.some_layer()
        if layer is None:
            return False
        self.user.activate(layer)
        view = self.viewer.window._qt_viewer.layers
        index = view.model().mapFromSource(view.model().sourceModel().index(self.viewer.layers.index(layer), 0))
        view.edit(index)
        QApplication.processEvents()
        editor = next((field for field in view.findChildren(QLineEdit) if field.isVisible()), None)
        if editor is None:
            return False
        before = layer.name
        editor.selectAll()
        QTest.keyClicks(editor, self.choose.choice(["x", "mask (a.tiff)", "b.tiff", "edit"]))
        QTest.keyClick(editor, Qt.Key.Key_Return)
        return f"{before} to {layer.name}"

    @action(3)
    def remove_layer(self):
        layer = self.some_layer()
        if layer is None:
            return False
        self.user.activate(layer)
        was = kind(layer), layer.name
        click(self.viewer.window._qt_viewer.layerButtons.deleteButton)
        if layer in self.viewer.layers:
            return f"not {was}"
        return f"{was}"

    @action(2)
    def duplicate_layer(self):
        layer = self.some_layer()
        if layer is None or kind(layer) in ("", "heatmap") or len(self.viewer.layers) > 16:
            return False
        self.user.activate(layer)
        from napari.layers._layer_actions import _duplicate_layer

        _duplicate_layer(self.viewer.layers)  # of the list's menu
        return layer.name

    @action(2)
    def fit(self):
        click(self.viewer.window._qt_viewer.viewerButtons.resetViewButton)

    # Slides

    def open(self, path):
        self.answer = str(path)
        name = self.choose.choice([name for name in NAMES[:2] if self.widget(name)] or [""])
        if not name or self.press(name, "Open…") is False:
            return False
        for layer in slide_layers(self.viewer):
            self.places.setdefault(layer, place_of(layer))
        self.fit()
        return path.name

    @action(2)
    def open_slide(self):
        if len(slide_layers(self.viewer)) > 3:
            return False
        return self.open(self.choose.choice(self.slides))

    @action(4)
    def switch_slide(self):
        name = self.choose.choice(NAMES[:2])
        widget = self.widget(name)
        slides = None if widget is None else widget.slides if name == "Predict" else widget.data.drawn.slides
        if slides is None or slides.combo.count() < 2:
            return False
        self.reach(name, slides.combo)
        slides.combo.setFocus()
        QTest.keyClick(slides.combo, self.choose.choice([Qt.Key.Key_Up, Qt.Key.Key_Down]))
        return f"{name} {slides.combo.currentText()}"

    # Predict

    @action(6)
    def predict(self):
        widget = self.widget("Predict")
        if widget is None:
            return False
        widget.scope.setCurrentText(self.choose.choice(SCOPES))
        if self.press("Predict", "Predict") is False:
            return False
        return (
            widget.scope.currentText() if self.choose.random() < 0.4 else f"{widget.scope.currentText()}{self.wait()}"
        )

    @action(3)
    def wait(self):
        if not self.busy():
            return False
        others = [runner for runner in self.runners() if not (self.widget("Train") and runner is self.training())]
        self.qtbot.waitUntil(lambda: not any(runner.running for runner in others), timeout=JOB_MS)
        return " and waits"

    @action(2)
    def stop(self):
        return self.press("Predict", "Stop")

    @action(2)
    def measure(self):
        return self.press("Predict", "Measure")

    @action(1)
    def place_circle(self):
        return self.press("Predict", "TSR circle")

    @action(2)
    def tick_class(self):
        widget = self.widget("Predict")
        table = None if widget is None else widget.panel.areas.table
        if table is None or not table.rowCount():
            return False
        item = table.item(self.choose.randrange(table.rowCount() - 1), 0)  # the last row is of what is unlabelled
        on = Qt.CheckState.Checked, Qt.CheckState.Unchecked
        item.setCheckState(on[item.checkState() == on[0]])
        return item.text()

    # Corrections

    def bar(self):
        widget = self.widget("Predict")
        return None if widget is None else widget.panel.correct

    @action(7)
    def correct(self):
        if self.bar() is None or self.bar().layer() is not None:
            return False
        return self.press("Predict", "Correct mask")

    @action(10)
    def paint(self):
        edit = None if self.bar() is None else self.bar().layer()
        if edit is None:
            return False
        if self.choose.random() < 0.5:
            table = self.widget("Predict").panel.areas.table
            row = self.choose.randrange(max(1, table.rowCount()))
            if row < table.rowCount():
                self.reach("Predict", table)
                QTest.mouseClick(table.viewport(), LEFT, pos=table.visualItemRect(table.item(row, 1)).center())
        else:
            self.user.key(self.choose.choice("012"))
        place = np.array(edit.data.shape) * edit.scale
        first = edit.translate + place * [self.choose.random(), self.choose.random()]
        self.user.drag(first, edit.translate + place * [self.choose.random(), self.choose.random()])
        return self.user.shown()

    @action(6)
    def apply(self):
        bar = self.bar()
        edit = None if bar is None else bar.layer()
        if edit is None:
            return False
        prediction, (y, x) = (edit.metadata["napari_lpd"][name] for name in ("prediction", "origin"))
        new = np.array(edit.data)
        (h, w), slide = new.shape, prediction.card.slide_hash
        here = np.s_[y : y + h, x : x + w]
        model = np.asarray(prediction.labels.levels[0][here])
        painted = self.painted.get(slide, np.zeros(prediction.card.shape, np.uint8))
        changed = new != combined(model, painted[here])
        if self.press("Predict", "Apply") is False or bar.layer() is not None:
            return "in vain"
        if changed.any():
            after = painted.copy()
            after[here][changed] = np.where(new == 0, ERASED, new)[changed]
            after[here][changed & (new == model)] = 0
            self.painted[slide] = after
            self.undo.setdefault(id(bar), []).append((slide, painted))
        return f"{changed.sum()} pixels"

    @action(2)
    def discard(self):
        return self.press("Predict", "Discard")

    @action(2)
    def models_mask(self):
        return self.press("Predict", "Model's mask")

    @action(4)
    def undo_correction(self):
        bar = self.bar()
        if bar is None or self.press("Predict", "Undo", bar) is False:
            return False
        steps = self.undo[id(bar)]
        shown = self.widget("Predict").panel.shown()
        last = max((i for i, (slide, _) in enumerate(steps) if slide == shown.card.slide_hash), default=len(steps) - 1)
        slide, before = steps.pop(last)
        self.painted[slide] = before
        return None

    @action(1)
    def learn(self):
        return self.press("Predict", "Learn from corrections")

    @action(2)
    def export(self):
        widget = self.widget("Predict")
        if widget is None or self.busy() or widget.panel.shown() is None or self.bar().layer() is not None:
            return False
        prediction = widget.panel.shown()
        if not prediction.finished:
            return False
        self.answer = str(self.model.parent / "exported.ome.tif")
        if self.press("Predict", "Export…") is False:
            return False
        self.wait()
        mask = read_label_tiff(Path(self.answer))
        labels = np.asarray(mask.levels[0])
        whole = np.zeros(prediction.card.shape, np.uint8)
        y, x = (round(o / m) for o, m in zip(mask.origin_um, mask.mpp, strict=True))
        whole[y : y + labels.shape[0], x : x + labels.shape[1]] = labels[: whole.shape[0] - y, : whole.shape[1] - x]
        expected = Corrections(prediction).levels[0][:, :]
        assert (whole == expected).all(), f"exported differs in {(whole != expected).sum()} pixels"
        return None

    # Train

    def training(self):
        return self.widget("Train").job.runner

    @action(1)
    def train(self):
        return self.press("Train", "Train fully")

    @action(2)
    def stop_training(self):
        return self.press(
            "Train", self.choose.choice(["Stop", "Pause", "Resume"]), self.widget("Train") and self.widget("Train").job
        )

    @action(2)
    def resume(self):
        train = self.widget("Train")
        return False if train is None else self.press("Train", train.resume.text(), train)

    # Docks and napari

    @action(2)
    def close_dock(self):
        there = [name for name in NAMES if self.widget(name)]
        if not there:
            return False
        name = self.choose.choice(there)
        click(self.widgets[name][0].title.close_button)
        if name == "Predict":
            self.qtbot.waitUntil(lambda: self.widget(name) is None or self.busy(), timeout=JOB_MS)
        if self.widget(name) is None:
            del self.widgets[name]
        return name

    @action(6)
    def open_dock(self):
        missing = [name for name in NAMES if not self.widget(name)]
        if not missing or (missing == [NAMES[2]] and self.choose.random() < 0.9):
            return False
        self.dock(missing[0])
        return missing[0]

    @action(1)
    def restart(self):
        on_screen = {path: found for layer in slide_layers(self.viewer) for path, found in [self.on_screen(layer)]}
        self.viewer.close()
        QApplication.processEvents()
        if self.viewer.window is not None and hasattr(self.viewer.window, "_qt_window"):
            return "not"
        for path, found in on_screen.items():
            if found:
                assert not missing(found, self.on_disk(path)), f"{path.name}: regions were lost when napari was closed"
        self.begin()
        return None

    # What has to hold

    def settle(self):
        """Let events pass, and the timer of the files of regions."""
        for _ in range(3):
            QApplication.processEvents()
        files = RegionFiles.of(self.viewer)
        if files._timer.isActive():
            files.save()

    def check(self):
        if self.raised:
            raise AssertionError(f"raised {self.raised[0]!r}") from self.raised[0]
        for record in notification_manager.records[self.noted :]:
            text = str(record.message)
            assert not hasattr(record, "exception"), f"napari shows {record.exception!r}"
            assert "unexpected " not in text, text
        self.noted = len(notification_manager.records)
        for layer in slide_layers(self.viewer):
            if layer in self.places:
                assert place_of(layer) == self.places[layer], f"{layer.name} has moved"
            self.check_regions(layer)
        self.check_processes()
        if self.widget("Predict") and not any(
            r.running for r in self.runners() if not self.widget("Train") or r is not self.training()
        ):
            self.check_result()

    def on_screen(self, layer):
        layers = [each for each in regions_layers(self.viewer, layer) if kind(each) == "regions"]
        with slide_of(layer) as slide:
            size = slide.shape
        return slide_path(layer), [
            signature(r, size)
            for each in layers
            for r in outlines_of(each, layer, empty_shapes(each, layer))
            if r.polygon().area > 0
        ]

    def on_disk(self, path):
        from napari_lpd.slides.formats import open_slide

        if not regions_beside(path).exists():
            return []
        with open_slide(path) as slide:
            regions = regions_in(read_features(regions_beside(path), Frame.of(slide)))
            return [signature(region, slide.shape) for region in regions]

    def check_regions(self, layer):
        if any(each._is_creating or each._is_moving for each in regions_layers(self.viewer, layer)):
            return
        path, screen = self.on_screen(layer)
        disk = self.on_disk(path)
        if screen:  # of an emptied layer the last regions stay on disk
            assert not missing(screen, disk), f"{path.name}: not on disk {missing(screen, disk)}"
            assert not missing(disk, screen), f"{path.name}: not on the screen {missing(disk, screen)}"

    def check_processes(self):
        alive = Counter(run for run, child in self.children if child.poll() is None)
        assert not alive or max(alive.values()) == 1, f"{alive}"
        if self.widget("Train") is None:
            self.qtbot.waitUntil(lambda: all(child.poll() is not None for _, child in self.children), timeout=20_000)

    def check_result(self):
        panel = self.widget("Predict").panel
        prediction = panel.shown()
        if prediction is None or self.bar().layer() is not None:
            return
        labels = Corrections(prediction).levels[0][:, :]
        painted = self.painted.get(prediction.card.slide_hash)
        if painted is not None:
            expected = combined(prediction.labels.levels[0][:, :], painted)
            wrong = (labels != expected) & (painted > 0)
            assert not wrong.any(), f"{wrong.sum()} applied pixels are not in {prediction.folder.name}"
            assert (labels == expected).all(), f"{(labels != expected).sum()} pixels were not applied by anybody"
        for mask in our_layers(self.viewer, prediction.card.slide_hash, "labels"):
            if mask.metadata["napari_lpd"]["prediction"] is prediction:
                self.check_mask(mask, prediction, labels, panel)

    def check_mask(self, mask, prediction, labels, panel):
        card, data = prediction.card, np.asarray(mask.data[0] if mask.multiscale else mask.data)
        home = next(
            (s for s in slide_layers(self.viewer) if str(s.unique_id) == mask.metadata["napari_lpd"].get("layer")), None
        )
        if home is None:
            return
        start = (mask.translate - mask.scale / 2 - home.translate + home.scale / 2) / card.mpp
        (y, x), (h, w) = (round(v) for v in start), data.shape
        assert np.allclose(start, (y, x), atol=1e-6), f"{mask.name} does not lie on its slide"
        shown = np.zeros(card.shape, np.uint8)
        shown[y : y + h, x : x + w] = data
        assert (shown == labels).all(), f"{(shown != labels).sum()} pixels of {mask.name} are not those of its result"
        table = panel.areas.table
        if prediction.finished:
            got = [float(table.item(row, 1).text() or "nan") for row in range(len(card.classes))]
            wanted = [(labels == i).sum() * (card.mpp / 1000) ** 2 for i in range(1, len(card.classes) + 1)]
            assert np.allclose(got, wanted, atol=6e-4), f"measured {got}, shown {wanted}: {panel.areas.total.text()}"


def signature(region, shape):
    """What is the same for a region on the screen and in its file."""
    polygon = region.polygon().intersection(shapely.box(0, 0, shape[1], shape[0]))
    return region.tissues, region.named, np.array([np.sqrt(polygon.area), polygon.centroid.x, polygon.centroid.y])


def missing(some, others):
    """The signatures that have no other like them."""
    return [a for a in some if not any(a[:2] == b[:2] and np.allclose(a[2], b[2], atol=0.5) for b in others)]


def place_of(layer):
    return [np.array(v).tolist() for v in (layer.scale, layer.translate, layer.affine.affine_matrix, layer.rotate)]
