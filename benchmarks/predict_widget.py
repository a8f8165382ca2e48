"""Predict in napari: seconds for a view of 1 mm², and how long napari is held up while a slide runs and is panned.

The sample model on the skin slide, through the widget. The longest gap of a 20-ms timer of the GUI thread is taken
while nothing runs, while the view is moved, while napari alone takes in layers, while the whole slide is predicted,
and while it is panned, too. The seconds of a view are those from the press to the finished mask, with the model loaded.
Needs a screen (xvfb-run) and a Qt binding.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import napari
import numpy as np
from training_widget import Gaps, resident_mb, wait

from napari_lpd import samples
from napari_lpd.gui.predict import VIEW, WHOLE, PredictWidget

PLACES = [(2300, 700), (4300, 700), (2900, 2400), (3500, 2000)]  # y, x in µm; the first warms up
IDLE_S = 15
LAYERS = 6


def run(widget: PredictWidget) -> float:
    """Press Predict and wait; returns the seconds."""
    began = time.monotonic()
    widget.job.button.click()
    while widget.job.runner.running:
        wait(0.005)
    if not widget.job.status.text().startswith("Done"):
        raise SystemExit(widget.job.status.text())
    return time.monotonic() - began


def pan(viewer: napari.Viewer, until: float, going: PredictWidget | None = None) -> None:
    """Move the view along a circle until a time, or until the widget's run is over, and zoom in and out."""
    began = time.monotonic()
    while time.monotonic() < until and (going is None or going.job.runner.running):
        angle = (time.monotonic() - began) / 3
        viewer.scene.camera.center = (0, 2500 + 1200 * math.sin(angle), 2500 + 1200 * math.cos(angle))
        viewer.scene.camera.zoom = 0.5 + 0.3 * math.sin(2 * angle)
        wait(0.03)


def views(viewer: napari.Viewer, widget: PredictWidget) -> dict[str, object]:
    """Seconds for views of 1 mm², the first of which loads the model."""
    seconds = []
    widget.scope.setCurrentText(VIEW)
    for y, x in PLACES:
        height, width = viewer.canvas.size
        viewer.scene.camera.zoom = math.sqrt(height * width / 1e6)  # 1 mm² fills the canvas
        viewer.scene.camera.center = (0, y, x)
        wait(0.5)
        seconds.append(run(widget))
    return {
        "first view of 1 mm², model not loaded, s": seconds[0],
        "view of 1 mm², s": {"median": statistics.median(seconds[1:]), "longest": max(seconds[1:])},
    }


def idle_gaps(viewer: napari.Viewer) -> dict[str, object]:
    """The gaps while nothing runs."""
    found: dict[str, object] = {}
    ways = {"nothing": lambda _: wait(IDLE_S), "panning": lambda until: pan(viewer, until),
            "napari takes in layers": lambda _: take_in_layers(viewer)}  # fmt: skip
    for name, way in ways.items():
        gaps = Gaps()
        way(time.monotonic() + IDLE_S)
        found[f"gaps, {name}, ms"] = gaps.stop()
    del viewer.layers[-LAYERS:]
    return found


def take_in_layers(viewer: napari.Viewer) -> None:
    """Give napari as many hidden layers as a result has, one by one."""
    for _ in range(LAYERS):
        viewer.add_image(np.zeros((640, 640), np.uint8), scale=(8, 8), units=("um", "um"), visible=False)
        wait(0.2)


def running_gaps(viewer: napari.Viewer, widget: PredictWidget) -> dict[str, object]:
    """The gaps while the whole slide is predicted: left alone, and panned."""
    found: dict[str, object] = {}
    widget.scope.setCurrentText(WHOLE)
    for name, moved in (("a slide runs", False), ("a slide runs, panning", True)):
        other = widget.settings().model_copy(update={"flips": moved})  # another run, not the kept one
        widget.form.set_value(other)
        gaps = Gaps()
        widget.job.button.click()
        while widget.job.runner.running:
            if moved:
                pan(viewer, math.inf, widget)
            else:
                wait(0.1)
        found[f"gaps, {name}, ms"] = gaps.stop()
        if not widget.job.status.text().startswith("Done"):
            raise SystemExit(widget.job.status.text())
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    viewer = napari.Viewer(title="benchmark")
    widget = PredictWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Predict")
    widget.slides.open(samples.skin_slide_path())
    widget.model.combo.setCurrentIndex(widget.model.combo.findData(str(samples.model_path())))
    with tempfile.TemporaryDirectory() as folder:
        widget._out = Path(folder)
        wait(3)
        found = views(viewer, widget)
        wait(2)
        found |= idle_gaps(viewer)
        before = resident_mb()
        found |= running_gaps(viewer, widget)
        found["growth of memory over two runs, MB"] = resident_mb() - before
    viewer.close()
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
