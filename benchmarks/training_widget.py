"""Training from the widget: minutes to a usable model, how long napari is held up meanwhile, and what it costs it.

Presses Train with the preset "quick look" on the sample slide and its regions, and watches the process of napari: the
longest gap of a 20-ms timer while the child learns, and the growth of the resident memory. The baseline of the gap is
the same napari without a training. Needs a screen (xvfb-run) and a Qt binding.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import napari
from figures import against, alone, parser, report
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_lpd import samples
from napari_lpd.core.classes import read_classes
from napari_lpd.gui.train.widget import TrainWidget
from napari_lpd.models.card import read_card

TICK_MS = 20
PAGE = os.sysconf("SC_PAGE_SIZE")


class Gaps:
    """The gaps between the ticks of a timer of the GUI thread, in ms."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.timeout.connect(self._tick)
        self._timer.start()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.gaps.append((now - self._last) * 1e3)
        self._last = now

    def stop(self) -> dict[str, float]:
        """Longest gap, and the gap that one in a thousand is longer than."""
        self._timer.stop()
        ordered = sorted(self.gaps)
        return {"longest": ordered[-1], "99.9 %": ordered[int(0.999 * (len(ordered) - 1))], "ticks": len(ordered)}


def resident_mb() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE / 2**20


def wait(seconds: float) -> None:
    """Let Qt work."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        QApplication.processEvents()
        time.sleep(0.001)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__).parse_args()
    viewer = napari.Viewer(title="benchmark")
    widget = TrainWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Train")
    widget.data.classes.set_classes(read_classes(samples.classes_path()))
    widget.data.drawn.slides.open(samples.skin_slide_path())
    widget.data.drawn.load(samples.regions_path("train"))
    with tempfile.TemporaryDirectory() as models:
        widget.out.setText(models)
        widget.chosen.preset.setCurrentText("quick look")
        wait(5)
        idle = Gaps()
        wait(20)
        quiet = idle.stop()
        before, began, busy = resident_mb(), time.monotonic(), Gaps()
        widget.job.button.click()
        while widget.job.runner.running:
            wait(0.2)
        gaps = busy.stop()
        minutes = (time.monotonic() - began) / 60
        growth = resident_mb() - before
        (model,) = Path(models).glob("*/model.safetensors")
        card = read_card(model)
    viewer.close()
    figures = [
        alone(f"quick look, {card.tiles} tiles, {card.steps} steps: from Train to a model", [minutes], "min", "5 min"),
        against("longest gap of a 20-ms timer meanwhile", [gaps["longest"]], "idle", [quiet["longest"]], "ms"),
        against("99.9 % of the gaps are below", [gaps["99.9 %"]], "idle", [quiet["99.9 %"]], "ms", "50 ms"),
        alone("growth of napari's memory meanwhile", [growth], "MB"),
    ]
    report(figures, options.json)


if __name__ == "__main__":
    main()
