"""The Train widget."""

from napari_lpd.gui.train.widget import TrainWidget

__all__ = ["TrainWidget"]
