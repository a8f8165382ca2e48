"""Predict in napari: seconds for a view of 1 mm², and how long napari is held up while a slide runs and is panned.

The sample model on the skin slide, through the widget. The longest gap of a 20-ms timer of the GUI thread is taken
while nothing runs, while the view is moved, while napari alone takes in layers, while the whole slide is predicted,
and while it is panned, too. Then four runs more tell whether memory goes on growing. The seconds of a view are those
from the press to the finished mask, with the model loaded.
Needs a screen (xvfb-run) and a Qt binding.
"""

from __future__ import annotations

import gc
import math
import tempfile
import time
from pathlib import Path

import napari
import numpy as np
from figures import against, alone, parser, report
from training_widget import Gaps, resident_mb, wait

from napari_lpd import samples
from napari_lpd.gui.layers.regions import VIEW, WHOLE
from napari_lpd.gui.predict.widget import PredictWidget
from napari_lpd.prediction.pipeline import keep_freed_memory

PLACES = [(2300, 700), (4300, 700), (2900, 2400), (3500, 2000)]  # y, x in µm; the first warms up
IDLE_S = 15
LAYERS = 6
MORE = 4  # runs of the whole slide


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


def views(viewer: napari.Viewer, widget: PredictWidget) -> list[float]:
    """Seconds for views of 1 mm², the first of which loads the model."""
    seconds = []
    widget.scope.setCurrentText(VIEW)
    for y, x in PLACES:
        height, width = viewer.canvas.size
        viewer.scene.camera.zoom = math.sqrt(height * width / 1e6)  # 1 mm² fills the canvas
        viewer.scene.camera.center = (0, y, x)
        wait(0.5)
        seconds.append(run(widget))
    return seconds


def idle_gaps(viewer: napari.Viewer) -> dict[str, dict[str, float]]:
    """The gaps while nothing runs."""
    found: dict[str, dict[str, float]] = {}
    ways = {"nothing": lambda _: wait(IDLE_S), "panning": lambda until: pan(viewer, until),
            "napari takes in layers": lambda _: take_in_layers(viewer)}  # fmt: skip
    for name, way in ways.items():
        gaps = Gaps()
        way(time.monotonic() + IDLE_S)
        found[name] = gaps.stop()
    del viewer.layers[-LAYERS:]
    return found


def take_in_layers(viewer: napari.Viewer) -> None:
    """Give napari as many hidden layers as a result has, one by one."""
    for _ in range(LAYERS):
        viewer.add_image(np.zeros((640, 640), np.uint8), scale=(8, 8), units=("um", "um"), visible=False)
        wait(0.2)


def running_gaps(viewer: napari.Viewer, widget: PredictWidget) -> dict[str, dict[str, float]]:
    """The gaps while the whole slide is predicted: left alone, and panned."""
    found: dict[str, dict[str, float]] = {}
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
        found[name] = gaps.stop()
        if not widget.job.status.text().startswith("Done"):
            raise SystemExit(widget.job.status.text())
    return found


def settled_mb() -> float:
    """Resident memory once garbage is collected and glibc has given back what is free."""
    gc.unfreeze()
    gc.collect()
    with keep_freed_memory():  # when it ends, that is
        pass
    return resident_mb()


def growth_of_more(widget: PredictWidget) -> float:
    """By how many MB some runs more let settled memory grow."""
    before = settled_mb()
    for number in range(1, MORE + 1):
        overlap = widget.settings().overlap + 8 * number  # another run, not the kept one
        widget.form.set_value(widget.settings().model_copy(update={"flips": False, "overlap": overlap}))
        run(widget)
    return settled_mb() - before


def main() -> None:
    """Measure and print."""
    options = parser(__doc__).parse_args()
    viewer = napari.Viewer(title="benchmark")
    widget = PredictWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Predict")
    widget.slides.open(samples.skin_slide_path())
    widget.model.combo.setCurrentIndex(widget.model.combo.findData(str(samples.model_path())))
    with tempfile.TemporaryDirectory() as folder:
        widget._out = Path(folder)
        wait(3)
        first, *later = views(viewer, widget)
        wait(2)
        gaps = idle_gaps(viewer)
        before = resident_mb()
        gaps |= running_gaps(viewer, widget)
        growth = resident_mb() - before
        more = growth_of_more(widget)
    viewer.close()
    what = "longest gap of a 20-ms timer"
    pairs = (
        ("a slide runs", "napari alone takes in six layers", "napari takes in layers"),
        ("a slide runs, panning", "panning alone", "panning"),
    )
    figures = [
        alone("view of 1 mm², model loaded, from Predict to the mask", later, "s", "5 s"),
        against("the first one, which loads the model", [first], "later ones", later),
        *(
            against(f"{what}, {busy}", [gaps[busy]["longest"]], base, [gaps[idle]["longest"]], "ms", "100 ms")
            for busy, base, idle in pairs
        ),
        alone("growth of memory over two runs", [growth], "MB"),
        alone(f"the same over {MORE} more, garbage collected and free memory given back", [more], "MB"),
    ]
    report(figures, options.json)


if __name__ == "__main__":
    main()
