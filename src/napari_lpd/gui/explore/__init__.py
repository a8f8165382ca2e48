"""The Explore widget."""

from napari_lpd.gui.explore.widget import ExploreWidget

__all__ = ["ExploreWidget"]
