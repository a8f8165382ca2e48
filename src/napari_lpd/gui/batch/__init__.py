"""The widget for several slides."""

from napari_lpd.gui.batch.widget import BatchWidget

__all__ = ["BatchWidget"]
