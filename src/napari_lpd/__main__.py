"""``python -m napari_lpd``."""

import sys

from napari_lpd.cli import main

sys.exit(main())
