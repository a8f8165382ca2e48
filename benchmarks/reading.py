"""Time of reading slides: overlapping tiles one by one, against blocks that are then cut into those tiles.

Baseline: the same area in blocks, in this process. Prints seconds and the ratio.

    python benchmarks/reading.py [SLIDE …] [--repeats 3] [--block 2048] [--tile 512] [--overlap 128]
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from napari_lpd import samples
from napari_lpd.formats import open_slide

if TYPE_CHECKING:
    from napari_lpd.slide import Slide

SHARED = Path(os.environ.get("NAPARI_LPD_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "slides"
NAMES = (
    "CMU-1-Small-Region.svs",
    "tcga-cr-7395-01a-01-ts1.svs",
    "dicom_CMU-1-Small-Region",
    "CMU-1_crop_4096.ome.tif",
    "CMU-1_crop_x27712_y3584_10240.tiff",
)
AREA = 4096
MPP = 0.5


def main() -> None:
    """Measure every slide, each read anew by a handle of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--block", type=int, default=2048)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=128)
    options = parser.parse_args()
    found = [SHARED / name for name in NAMES if (SHARED / name).exists()]
    for path in options.slides or found or [samples.skin_slide_path(), samples.small_region_path()]:
        tiles = min(seconds(path, options.tile, options.tile - options.overlap) for _ in range(options.repeats))
        blocks = min(seconds(path, options.block, options.block) for _ in range(options.repeats))
        print(
            f"{path.name}: tiles of {options.tile} with overlap {options.overlap} {tiles:.2f} s,"
            f" blocks of {options.block} {blocks:.2f} s, ratio {tiles / blocks:.2f}"
        )


def seconds(path: Path, edge: int, step: int) -> float:
    """Time of reading the slide's first `AREA` x `AREA` pixels in squares of `edge`, one every `step`."""
    with opened(path) as slide:
        height, width = (min(AREA, size) for size in slide.shape_at(slide.mpp[0]))
        start = time.perf_counter()
        for y, x in product(range(0, height, step), range(0, width, step)):
            slide.read((y, x), (min(edge, height - y), min(edge, width - x)), slide.mpp[0])
        return time.perf_counter() - start


def opened(path: Path) -> Slide:
    """The slide; `MPP` stands in for a resolution that the file does not give."""
    slide = open_slide(path)
    if slide.has_mpp:
        return slide
    slide.close()
    return open_slide(path, MPP)


if __name__ == "__main__":
    main()
