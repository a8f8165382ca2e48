"""Reading slides: against OpenSlide, and in blocks that are then cut into tiles against tile by tile.

python benchmarks/reading.py [SLIDE …] [--repeats 3] [--block 2048] [--tile 512] [--overlap 128]

The first figure of a slide is CPU time per megapixel, at the slide's own resolution, in pieces as a prediction reads
them; the baseline is OpenSlide's read_region of the same windows, in turns. The second is time for blocks; the baseline
is the same tiles, overlapping, one by one.
"""

from __future__ import annotations

import os
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import openslide
from figures import against, in_turns, parser, report

from napari_lpd import samples
from napari_lpd.prediction.pipeline import keep_freed_memory
from napari_lpd.slides.dicom import dicom_series
from napari_lpd.slides.formats import open_slide

if TYPE_CHECKING:
    import argparse

    from figures import Figure

    from napari_lpd.slides.slide import Slide

SHARED = Path(os.environ.get("NAPARI_LPD_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "slides"
NAMES = (
    "CMU-1-Small-Region.svs",
    "tcga-cr-7395-01a-01-ts1.svs",
    "dicom_CMU-1-Small-Region",
    "CMU-1_crop_4096.ome.tif",
    "CMU-1_crop_x27712_y3584_10240.tiff",
)
AREA = 4096
Window = tuple[int, int, int, int]
PIECE = (768, 3648)  # what `predict` reads at once: six tiles of a row
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
    paths = chosen.slides or found or [samples.skin_slide_path(), samples.small_region_path()]
    report(
        (figure for path in paths for figure in (in_pieces(path, chosen.repeats), in_blocks(path, chosen))), chosen.json
    )


def in_pieces(path: Path, repeats: int) -> Figure:
    """CPU time per megapixel of reading in pieces, against OpenSlide."""
    windows = pieces(path)
    megapixels = sum(h * w for _, _, h, w in windows) / 1e6
    with keep_freed_memory():  # as in a prediction
        ours, other = in_turns(
            repeats, lambda: read_ours(path, windows), lambda: read_openslide(path, windows), clock=time.process_time
        )
    ours, other = ([1000 * seconds / megapixels for seconds in each] for each in (ours, other))
    what = f"reading {path.name} in pieces of {PIECE[0]} x {PIECE[1]} px"
    return against(what, ours, "OpenSlide's read_region", other, "CPU-ms/MP")


def in_blocks(path: Path, chosen: argparse.Namespace) -> Figure:
    """Time of reading in blocks, against tile by tile."""
    whole, single = in_turns(
        chosen.repeats,
        lambda: read_squares(path, chosen.block, chosen.block),
        lambda: read_squares(path, chosen.tile, chosen.tile - chosen.overlap),
    )
    what = f"reading {path.name} in blocks of {chosen.block} px"
    return against(what, whole, f"tiles of {chosen.tile} px, overlap {chosen.overlap}", single)


def pieces(path: Path) -> list[Window]:
    """The pieces (y, x, h, w) of the slide's first `AREA` x `AREA` pixels."""
    with opened(path) as slide:
        height, width = (min(AREA, size) for size in slide.shape)
    h, w = PIECE
    return [(y, x, min(h, height - y), min(w, width - x)) for y in range(0, height, h) for x in range(0, width, w)]


def read_ours(path: Path, windows: list[Window]) -> None:
    """Open the slide and read windows (y, x, h, w) as a prediction does."""
    with opened(path) as slide:
        for y, x, h, w in windows:
            slide.read_tolerant((y, x), (h, w), slide.mpp[0])


def read_openslide(path: Path, windows: list[Window]) -> None:
    """The same with OpenSlide alone."""
    with openslide.OpenSlide(dicom_series(path)[0] if path.is_dir() else path) as slide:
        for y, x, h, w in windows:
            slide.read_region((x, y), 0, (w, h))


def read_squares(path: Path, edge: int, step: int) -> None:
    """Read the slide's first `AREA` x `AREA` pixels in squares of `edge`, one every `step`."""
    with opened(path) as slide:
        height, width = (min(AREA, size) for size in slide.shape_at(slide.mpp[0]))
        for y, x in product(range(0, height, step), range(0, width, step)):
            slide.read((y, x), (min(edge, height - y), min(edge, width - x)), slide.mpp[0])


def opened(path: Path) -> Slide:
    """The slide; `MPP` stands in for a resolution that the file does not give."""
    slide = open_slide(path)
    if slide.has_mpp:
        return slide
    slide.close()
    return open_slide(path, MPP)


if __name__ == "__main__":
    main()
