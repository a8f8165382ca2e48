"""Start-up: seconds until napari's window, until each widget stands in it, and until the first view is predicted.

Each repeat is a process of its own: napari opens (the baseline), then one widget through the plugin menu's own path,
which has to load no torch; *Predict* then predicts a view of 1 mm² of the sample slide, with nothing loaded before.
Needs a screen (xvfb-run) and a Qt binding.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import against, parser, report

WIDGETS = ("Train", "Predict", "Explore prototypes")


def measure(name: str) -> None:
    """In a process of its own: print the seconds, as JSON."""
    began = time.perf_counter()
    import napari
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer(title="benchmark")
    QApplication.processEvents()
    found = {"napari": time.perf_counter() - began}
    began = time.perf_counter()
    _, widget = viewer.window.add_plugin_dock_widget("napari-lpd", name)
    QApplication.processEvents()
    found["open"] = time.perf_counter() - began
    if "torch" in sys.modules:
        raise SystemExit(f"opening {name} has loaded torch")
    if name == "Predict":
        found["first view"] = first_view(viewer, widget)
    viewer.close()
    print(json.dumps(found))


def first_view(viewer: object, widget: object) -> float:
    """Seconds from the press on Predict to the mask."""
    from qtpy.QtWidgets import QApplication

    from napari_lpd import samples
    from napari_lpd.gui.layers.regions import VIEW

    def settle(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            QApplication.processEvents()
            time.sleep(0.005)

    widget.slides.open(samples.skin_slide_path())
    widget.model.combo.setCurrentIndex(widget.model.combo.findData(str(samples.model_path())))  # not a recent one
    settle(2)
    widget.scope.setCurrentText(VIEW)
    height, width = viewer.canvas.size
    viewer.scene.camera.zoom = math.sqrt(height * width / 1e6)  # 1 mm² fills the canvas
    viewer.scene.camera.center = (0, 2900, 2400)
    settle(0.5)
    with tempfile.TemporaryDirectory() as folder:
        widget._out = Path(folder)
        began = time.perf_counter()
        widget.job.button.click()
        while widget.job.runner.running:
            settle(0.005)
        seconds = time.perf_counter() - began
    if not widget.job.status.text().startswith("Done"):
        raise SystemExit(widget.job.status.text())
    return seconds


def main() -> None:
    """Measure each widget in processes of their own."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.measure:
        measure(chosen.measure)
        return
    figures = []
    for name in WIDGETS:
        command = [sys.executable, __file__, "--measure", name]
        said = [subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True) for _ in range(chosen.repeats)]
        runs = [json.loads(done.stdout.splitlines()[-1]) for done in said]
        napari, opened = ([run[key] for run in runs] for key in ("napari", "open"))
        figures.append(against(f"opening {name}, without torch", opened, "starting napari", napari, "s", "1 s"))
        if name == "Predict":
            views = [run["first view"] for run in runs]
            what = "first view of 1 mm² after start, from the press to the mask"
            figures.append(against(what, views, "starting napari", napari, "s", "10 s"))
    report(figures, chosen.json)


if __name__ == "__main__":
    main()
