"""Explore: how long until another prototype is drawn, for two models side by side on a view of 10,240 pixels.

6 classes, 10 prototypes per class, the whole view in sight in both halves. The baseline is napari alone in the same
process: another plane of one array of the canvas's size. A time ends when the canvas has been drawn. Needs a screen
(xvfb-run) and a Qt binding.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import napari
import numpy as np
import shapely
from figures import against, parser, report
from qtpy.QtWidgets import QApplication

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.gui.explore.widget import ExploreWidget
from napari_lpd.gui.layers.slides import UM
from napari_lpd.results.card import PredictionCard
from napari_lpd.results.create import start_prediction
from napari_lpd.results.prediction import BlockResult, Prediction
from napari_lpd.slides.tissue import TissueMask

SIZE, BLOCK, STRIDE = 10_240, 1024, 8
COLOURS = ("#3b4cff", "#00b050", "#ff8c1a", "#ffe119", "#9b2fae", "#00b4d8")
K = 10
ROUNDS = 3


def make_prediction(folder: Path, seed: int) -> Prediction:
    """A prediction of random maps, as large as the view."""
    card = PredictionCard(
        classes=tuple(TissueClass(name=f"tissue {i}", color=colour) for i, colour in enumerate(COLOURS)),
        prototypes_per_class=K,
        mpp=0.5,
        shape=(SIZE, SIZE),
        stride=STRIDE,
        block=BLOCK,
        slide="view",
        slide_mpp=(0.5, 0.5),
        slide_shape=(SIZE, SIZE),
        slide_hash="",
        mpp_source="given",
        model=f"model {seed}",
        model_hash=str(seed),
        settings=PredictSettings(block=BLOCK),
        tissue="everything",
        scope=(shapely.box(0, 0, SIZE * 0.5, SIZE * 0.5).wkt,),
    )
    mask = TissueMask(np.ones((SIZE // 32, SIZE // 32), bool), 16.0)
    prediction = start_prediction(folder, card, lambda: (mask, [[1.0] * len(COLOURS)] * 3))
    rng, cells = np.random.default_rng(seed), BLOCK // STRIDE
    for y in range(SIZE // BLOCK):
        for x in range(SIZE // BLOCK):
            result = BlockResult(
                labels=rng.integers(1, len(COLOURS) + 1, (cells, cells), np.uint8).repeat(STRIDE, 0).repeat(STRIDE, 1),
                scores=rng.integers(1, 256, (len(COLOURS), cells, cells), np.uint8),
                prototypes=rng.integers(100, 220, (len(COLOURS), K, cells, cells), np.uint8),
                uncertainty=rng.integers(1, 256, (cells, cells), np.uint8),
            )
            prediction.write_block((y, x), result)
    prediction.finish()
    return Prediction.open(folder)


class Drawn:
    """Waits until napari's canvas has been drawn."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self._canvas = viewer.window._qt_viewer.canvas
        self.count = 0
        self._canvas._scene_canvas.events.draw.connect(self._on_draw, position="last")

    def _on_draw(self, event: object) -> None:
        self.count += 1

    def seconds(self, change: object) -> float:
        """Time of a change and of the drawing that it brings about, the last pixel included."""
        for _ in range(5):
            QApplication.processEvents()
        before, began = self.count, time.perf_counter()
        change()
        while self.count == before:
            QApplication.processEvents()
        self._canvas.native.grabFramebuffer()
        return time.perf_counter() - began


def wait(seconds: float) -> None:
    """Let Qt work."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        QApplication.processEvents()
        time.sleep(0.005)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__).parse_args()
    viewer = napari.Viewer(title="benchmark")
    viewer.window.resize(1500, 940)
    explore = ExploreWidget(viewer)
    viewer.window.add_dock_widget(explore, name="Explore")
    drawn = Drawn(viewer)

    rng = np.random.default_rng(0)
    alone = viewer.add_image(rng.integers(0, 256, (K, *viewer.canvas.size), np.uint8), colormap="magma")
    wait(2)
    steps = [u for _ in range(ROUNDS) for u in range(1, K)]
    baseline = [drawn.seconds(lambda u=u: viewer.dims.set_point(0, u)) for u in steps]
    viewer.layers.remove(alone)

    levels = [np.broadcast_to(np.uint8((200, 120, 180)), (SIZE >> i, SIZE >> i, 3)) for i in range(5)]
    slide = viewer.add_image(levels, multiscale=True, rgb=True, scale=(0.5, 0.5), units=(UM, UM), name="view")
    viewer.reset_view()
    with tempfile.TemporaryDirectory() as folder:
        both = [(f"model {i}", make_prediction(Path(folder) / f"{i}.zarr", i)) for i in range(2)]
        explore.both.side.show(both, slide)
        viewer.scene.camera.zoom /= 2  # all of it in each half
        wait(2)
        explore.show_heatmap(0)
        wait(1)
        prototype = [drawn.seconds(lambda u=u: explore.slider.setValue(u)) for u in steps]
        classes = [i + 1 for _ in range(ROUNDS) for i in range(1, len(COLOURS))]
        tissue = [drawn.seconds(lambda i=i: explore.tissue.setCurrentIndex(i)) for i in classes]
        explore.both.side.close()
    viewer.close()
    two = f"Explore, two models, 6 classes of {K} prototypes"
    figures = [
        against(f"{two}: {what}, median", milliseconds(times), "napari alone", milliseconds(baseline), "ms", "200 ms")
        for what, times in (("another prototype", prototype), ("another class", tissue))
    ]
    report(figures, options.json)


def milliseconds(seconds: list[float]) -> list[float]:
    """The same times."""
    return [1e3 * value for value in seconds]


if __name__ == "__main__":
    main()
