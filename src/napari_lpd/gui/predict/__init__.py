"""The Predict widget."""

from napari_lpd.gui.predict.widget import PredictWidget

__all__ = ["PredictWidget"]
