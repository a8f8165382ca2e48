"""Slides, regions and results as napari layers, and back."""
