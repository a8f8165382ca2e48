"""The napari widgets, reader, writer and sample data."""
