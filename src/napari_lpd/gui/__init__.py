"""The napari widgets, reader and writer. Nothing outside this folder imports Qt or napari."""
