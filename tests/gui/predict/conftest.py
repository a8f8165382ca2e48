"""The Predict widget with a result."""

from __future__ import annotations

import pytest

from napari_lpd.gui.layers.results import show_prediction
from napari_lpd.gui.predict.widget import PredictWidget


@pytest.fixture
def shown(viewer, tiny_layer, make_prediction, use_widget):
    """The widget, with a prediction of the whole tiny slide shown on it: 200 of 255 to 60, halves of the slide."""
    prediction = make_prediction(box=None)
    show_prediction(viewer, prediction, tiny_layer)
    widget = use_widget(PredictWidget)
    viewer.canvas.size = (400, 500)
    viewer.scene.camera.zoom, viewer.scene.camera.center = 1.0, (0, 128, 192)
    return widget, prediction
