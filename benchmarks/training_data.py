"""Whether training waits for its data: iterations on tiles in files, against the same on images made in memory.

Both trainings run in this process, step by step in turns, with the default settings. The first pass over the tiles
decodes their files, the second has them in memory. Beside it, how fast tiles are read alone, for GPUs that take more.

    python benchmarks/training_data.py [--tiles 30] [--passes 2] [--threads 1]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from figures import against, parser, report
from PIL import Image

from napari_lpd import samples
from napari_lpd.core.classes import read_classes
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.data.tileset import TileSet
from napari_lpd.slides.formats import open_slide
from napari_lpd.training.fit import fit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_lpd.core.jobs import Job, Progress

TILE = 224


def write_tiles(folder: Path, count: int, class_count: int) -> None:
    """Tiles of the sample slide as PNG files with two of the classes each in their names."""
    rng = np.random.default_rng(0)
    with open_slide(samples.skin_slide_path()) as slide:
        height, width = slide.shape
        for number in range(count):
            y, x = int(rng.integers(height - TILE)), int(rng.integers(width - TILE))
            digits = "".join(str(int((c + number) % class_count < 2)) for c in range(class_count))
            Image.fromarray(slide.read((y, x), (TILE, TILE), slide.mpp[0])).save(folder / f"{number}[{digits}].png")


def synthetic(tiles: TileSet) -> TileSet:
    """As many images with the same labels that lie ready in memory."""
    ready = np.stack([tiles.read(i) for i in range(len(tiles))])
    return TileSet(tiles.classes, tiles.labels, ready.__getitem__, "memory", sources=tiles.sources, files=[])


def steps(jobs: list, of: list[list[float]]) -> None:
    """Drive the jobs in turns to their ends; collect the seconds of their steps."""
    for every in zip(*(timed(job) for job in jobs), strict=True):
        for (progress, seconds), found in zip(every, of, strict=True):
            if "lr" in progress.metrics:
                found.append(seconds)


def timed(job: Job) -> Iterator[tuple[Progress, float]]:
    """What a job yields, each with the CPU seconds that it took, which others on the machine do not change."""
    began = time.process_time()
    for progress in job:
        yield progress, time.process_time() - began
        began = time.process_time()


def main() -> None:
    """Measure the trainings, then reading alone."""
    options = parser(__doc__)
    options.add_argument("--tiles", type=int, default=30)
    options.add_argument("--passes", type=int, default=2)
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    classes = read_classes(samples.classes_path())
    values = {"mpp": 0.5, "tile": TILE, "epochs": chosen.passes, "threads": chosen.threads, "valid_share": 0.0}
    settings = TrainSettings.build(values | {"warm_up": 0.0})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "tiles").mkdir()
        write_tiles(folder / "tiles", chosen.tiles, len(classes))
        tiles = labelled_tiles(folder / "tiles", classes)
        seconds: list[list[float]] = [[], []]
        steps([fit(tiles, settings, folder / "files"), fit(synthetic(tiles), settings, folder / "memory")], seconds)
        kept, passes = tiles.kept_in_memory(), []
        for _ in range(2):
            began = time.perf_counter()
            for index in range(len(kept)):
                kept[index]
            passes.append(len(kept) / (time.perf_counter() - began))
    figures = [
        against("training iteration on tiles in files", seconds[0], "on images in memory", seconds[1], "CPU-s", "1.05"),
        against("tiles read again", passes[1:], "the first time, decoding PNG", passes[:1], "tiles/s"),
    ]
    report(figures, chosen.json)


if __name__ == "__main__":
    main()
