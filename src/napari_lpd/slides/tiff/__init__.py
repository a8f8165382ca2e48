"""TIFF and OME-TIFF: what a file's directories say, which images are the slide, and their pixels."""
