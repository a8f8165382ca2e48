"""``python -m napari_lpd``."""

import sys

from napari_lpd.cli.main import main

sys.exit(main())
