"""napari-lpd: tissue segmentation of H&E slides, trained from image-level labels (LPD, PBIP)."""

__version__ = "0.1.0"
