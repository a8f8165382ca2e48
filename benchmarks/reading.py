"""Time of reading slides in blocks that are then cut into tiles. Baseline: the same tiles, overlapping, one by one.

python benchmarks/reading.py [SLIDE …] [--repeats 3] [--block 2048] [--tile 512] [--overlap 128]
"""

from __future__ import annotations

import os
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from figures import against, parser, report

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
    options = parser(__doc__)
    options.add_argument("slides", nargs="*", type=Path)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--block", type=int, default=2048)
    options.add_argument("--tile", type=int, default=512)
    options.add_argument("--overlap", type=int, default=128)
    chosen = options.parse_args()
    found = [SHARED / name for name in NAMES if (SHARED / name).exists()]
    figures = []
    for path in chosen.slides or found or [samples.skin_slide_path(), samples.small_region_path()]:
        pairs = [
            (seconds(path, chosen.block, chosen.block), seconds(path, chosen.tile, chosen.tile - chosen.overlap))
            for _ in range(chosen.repeats)
        ]
        blocks, tiles = zip(*pairs, strict=True)
        what = f"reading {path.name} in blocks of {chosen.block} px"
        figures.append(against(what, blocks, f"tiles of {chosen.tile} px, overlap {chosen.overlap}", tiles))
    report(figures, chosen.json)


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
