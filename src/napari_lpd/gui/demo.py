"""Show a slide with its prediction in napari; or save a picture of the window and close it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import napari
from qtpy.QtWidgets import QApplication

from napari_lpd.gui.explore import ExploreWidget
from napari_lpd.gui.predict import PredictWidget
from napari_lpd.prediction import Prediction
from napari_lpd.samples import slide_layer_data

DRAWING_S = 4.0


def open_demo(slide: Path, prediction: Prediction) -> tuple[napari.Viewer, PredictWidget, ExploreWidget]:
    """A viewer with the slide, the mask, the prototypes, and both widgets."""
    viewer = napari.Viewer(title="napari-lpd")
    data, options, _ = slide_layer_data(slide)
    viewer.add_image(data, **options)
    predict, explore = PredictWidget(viewer), ExploreWidget(viewer)
    viewer.window.add_dock_widget(explore, name="Explore prototypes", area="right")
    viewer.window.add_dock_widget(predict, name="Predict", area="right")
    predict.show_result(prediction)
    viewer.scale_bar.visible = True
    viewer.reset_view()
    return viewer, predict, explore


def save_picture(viewer: napari.Viewer, path: Path) -> None:
    """Wait until the layers are drawn, then save the whole window as PNG."""
    until = time.monotonic() + DRAWING_S
    while time.monotonic() < until:
        QApplication.processEvents()
    path.parent.mkdir(parents=True, exist_ok=True)
    viewer.window.screenshot(str(path), canvas_only=False, flash=False)


def main() -> None:
    """Parse the arguments and show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--prediction", type=Path, required=True)
    parser.add_argument("--screenshot", type=Path)
    options = parser.parse_args()
    viewer, _, explore = open_demo(options.slide, Prediction.load(options.prediction))
    if options.screenshot is None:
        napari.run()
        return
    save_picture(viewer, options.screenshot)
    explore.show_class(explore.class_box.itemText(1))
    stem = options.screenshot
    save_picture(viewer, stem.with_name(f"{stem.stem}_prototypes{stem.suffix}"))
    viewer.close()


if __name__ == "__main__":
    main()
