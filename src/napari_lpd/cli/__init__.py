"""The command line: one module per group of commands."""

from napari_lpd.cli.main import main

__all__ = ["main"]
