"""Show a slide with its prediction in napari, with the widgets docked; or save screenshots and exit.

``python -m napari_lpd.gui.demo --slide SLIDE --prediction NAME.zarr [--model FILE] [--screenshot PNG]``

With ``--screenshot x.png`` two pictures of the window are saved: ``x.png`` with the mask, and ``x_prototypes.png``
with a prototype's heatmap.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import napari
import numpy as np
from qtpy.QtWidgets import QApplication

from napari_lpd.core.errors import LpdError
from napari_lpd.gui.contributions import read_slide
from napari_lpd.gui.explore.widget import ExploreWidget
from napari_lpd.gui.layers.results import show_prediction
from napari_lpd.gui.predict.widget import PredictWidget
from napari_lpd.results.prediction import Prediction

SIZE = (1500, 940)
TIMEOUT_S = 60.0
SETTLE_S = 0.4


def main() -> int:
    """Parse the arguments, show the window and return the exit code."""
    parser = argparse.ArgumentParser(prog="napari_lpd.gui.demo", description="Show a slide with its prediction.")
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--prediction", type=Path, required=True, metavar="NAME.zarr")
    parser.add_argument("--model", type=Path, metavar="FILE", help="the model that made it, chosen in Predict")
    parser.add_argument("--screenshot", type=Path, metavar="PNG", help="save screenshots of the window and close it")
    options = parser.parse_args()
    try:
        slide, prediction = read_slide(str(options.slide))[0], Prediction.open(options.prediction)
    except LpdError as error:
        sys.stderr.write(f"napari-lpd: error: {error}\n")
        return 2
    viewer = napari.Viewer(title="napari-lpd")
    viewer.window.resize(*SIZE)
    show_prediction(viewer, prediction, viewer.add_image(slide[0], **slide[1]))
    explore = viewer.window.add_dock_widget(ExploreWidget(viewer), name="Explore prototypes", area="right")
    predict = PredictWidget(viewer)
    if options.model is not None:
        predict.model.choose(options.model)
    viewer.window.add_dock_widget(predict, name="Predict", area="right", tabify=True).raise_()
    viewer.canvas.overlays.scale_bar.visible = True
    viewer.reset_view()
    if options.screenshot is None:
        napari.run()
        return 0
    picture: Path = options.screenshot
    take_picture(viewer, picture)
    explore.raise_()
    explore.widget().show_heatmap(1)
    take_picture(viewer, picture.with_name(f"{picture.stem}_prototypes{picture.suffix}"))
    viewer.close()
    return 0


def take_picture(viewer: napari.Viewer, path: Path) -> None:
    """Save the whole window as PNG when the canvas has settled (four equal screenshots in a row)."""
    deadline = time.monotonic() + TIMEOUT_S
    last, equal = np.empty(0), 0
    while equal < 3 and time.monotonic() < deadline:
        rest = time.monotonic() + SETTLE_S
        while time.monotonic() < rest:
            QApplication.processEvents()
        now = viewer.window.screenshot(flash=False, canvas_only=True)
        equal = equal + 1 if np.array_equal(now, last) else 0
        last = now
    path.parent.mkdir(parents=True, exist_ok=True)
    viewer.window.screenshot(str(path), flash=False, canvas_only=False)


if __name__ == "__main__":
    sys.exit(main())
