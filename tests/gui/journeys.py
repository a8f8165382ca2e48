"""Replay two journeys in the window with mouse and keys, and keep a picture of every step.

    xvfb-run -a -s "-screen 0 1600x1000x24" python tests/gui/journeys.py SLIDE --regions REGIONS.json --out DIR

A slide that no model has seen is taught (outline, check, train, segment), then the mask is corrected and the work goes
on (paint, apply, another view, undo, learn, train again). REGIONS.json lists the drawing: ``[["1", [y0, x0, y1, x1]],
...]``, keys of the classes and boxes in µm, and as ``["view", [y, x, zoom]]`` where the result is looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
from qtpy.QtCore import QSettings, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_lpd.gui.demo import take_picture
from napari_lpd.gui.layers.slides import kind

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.insert(0, str(Path(__file__).parent))
from hand import User, button, click

SIZE = (1500, 940)
TIMEOUT_S = 3000


class Journey:
    """A user with two widgets, who leaves a picture after each step."""

    def __init__(self, slide: Path, out: Path) -> None:
        self.viewer, self.out, self.number = napari.Viewer(title="napari-lpd"), out, 0
        self.viewer.window.resize(*SIZE)
        self.user = User(self.viewer)
        self.dock, self.train = self.viewer.window.add_plugin_dock_widget("napari-lpd", "Train")
        self.train.out.setText(str(out / "models"))
        self.train.data.drawn.slides.open(slide)
        self.viewer.reset_view()
        self.predict: Any = None

    def picture(self, name: str) -> None:
        self.number += 1
        take_picture(self.viewer, self.out / f"{self.number:02}_{name}.png")
        sys.stdout.write(f"{self.number:02} {name}\n")
        sys.stdout.flush()

    def wait(self, fact: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not fact():
            if time.monotonic() > deadline:
                raise TimeoutError("nothing happens any more")
            QTest.qWait(50)

    def press(self, widget: Any, text: str) -> None:
        found = button(widget, text)
        widget.findChild(type(self.train._column)).ensureWidgetVisible(found)
        QApplication.processEvents()
        click(found)

    def look(self, y: float, x: float, zoom: float) -> None:
        self.viewer.scene.camera.center, self.viewer.scene.camera.zoom = (0, y, x), zoom
        QApplication.processEvents()

    def teach(self, drawing: list[Any]) -> None:
        """Outline tissues on the slide, check them, train, and segment a view."""
        self.picture("slide")
        name = self.train.data.classes._rows[3].name
        name.setFocus()
        name.selectAll()
        QTest.keyClicks(name, "follicle")
        QTest.keyClick(name, Qt.Key.Key_Return)
        self.press(self.train, "Draw regions")
        for key, (y0, x0, y1, x1) in drawing:
            self.user.key(key)
            self.user.key("r")
            self.user.drag((y0, x0), (y1, x1))
        self.picture("regions")
        self.train.chosen.preset.setCurrentText("fast")
        self.press(self.train, "Check the data")
        self.wait(lambda: not self.train.checker.running)
        self.picture("check")
        self.train_model()

    def train_model(self) -> None:
        self.press(self.train, "Train fully")
        self.wait(lambda: self.train.job.bar.maximum() > 0 or not self.train.job.runner.running)
        self.picture("training")
        self.wait(lambda: not self.train.job.runner.running)
        self.picture("trained")

    def segment(self, view: tuple[float, float, float]) -> None:
        self.look(*view)
        self.press(self.train, "Segment this view")
        _, self.predict = self.viewer.window.add_plugin_dock_widget("napari-lpd", "Predict")
        self.settle()
        self.picture("segmented")

    def settle(self) -> None:
        panel = self.predict.panel
        jobs = (self.predict.job.runner, panel.runner, panel.measurer)
        self.wait(lambda: not any(job.running for job in jobs))

    def correct(self, view: tuple[float, float, float]) -> None:
        """Paint on the mask, apply, look elsewhere, take back, and learn from what stays."""
        y, x, zoom = view
        self.press(self.predict, "Correct mask")
        edit = self.predict.panel.correct.layer()
        edit.brush_size = 60
        for key, dy in (("1", -40), ("3", 60)):
            self.user.key(key)
            self.user.drag((y + dy / zoom, x - 90 / zoom), (y + dy / zoom, x + 90 / zoom))
        self.picture("painted")
        self.press(self.predict, "Apply")
        self.settle()
        self.picture("applied")
        self.look(y + 150 / zoom, x + 150 / zoom, zoom)
        self.press(self.predict, "Predict")
        self.settle()
        self.picture("another_view")
        self.press(self.predict, "Undo")
        self.settle()
        self.picture("undone")
        self.look(*view)
        self.press(self.predict, "Correct mask")
        self.user.key("3")
        self.predict.panel.correct.layer().brush_size = 200
        self.user.drag((y, x - 90 / zoom), (y, x + 90 / zoom))
        self.press(self.predict, "Apply")
        self.settle()
        self.press(self.predict, "Learn from corrections")
        self.dock.raise_()
        self.picture("learned")
        self.train_model()
        self.segment(view)


def main() -> int:
    """Parse the arguments and replay the journeys."""
    parser = argparse.ArgumentParser(description="Replay two journeys in the window, with pictures.")
    parser.add_argument("slide", type=Path)
    parser.add_argument("--regions", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    steps = json.loads(options.regions.read_text(encoding="utf-8"))
    [view] = [place for key, place in steps if key == "view"]
    QSettings.setPath(QSettings.Format.NativeFormat, QSettings.Scope.UserScope, str(options.out / "settings"))
    journey = Journey(options.slide, options.out)
    journey.teach([step for step in steps if step[0] != "view"])
    journey.segment(view)
    journey.correct(view)
    for layer in journey.viewer.layers:
        layer.locked = False if kind(layer) else layer.locked
    journey.viewer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
