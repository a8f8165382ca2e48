"""The live mask: seconds from a change of the regions to the new mask of a view of 1 mm², on the sample slide.

``python benchmarks/live.py [--changes N]`` learns from the first two tissues' regions, labels the view, adds the other
regions one by one, and pans by half a view, once to where nothing is stored and back. The baseline is the frozen
encoder alone on the cells of the view: what a mask would cost without stored features.
"""

from __future__ import annotations

import resource
import statistics
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from figures import against, alone, parser, report

from napari_lpd import open_slide, read_classes, run, samples
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.regions import read_regions
from napari_lpd.data.tileset import CELL, RIM
from napari_lpd.training.live import LiveModel, LiveSlide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

EDGE_UM = 1000.0


def seconds(action: Callable[[], object]) -> float:
    """Time one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    """Follow the sample's regions as they are drawn, and print."""
    options = parser(__doc__)
    options.add_argument("--changes", type=int, default=20)
    chosen = options.parse_args()
    classes, regions = read_classes(samples.classes_path()), read_regions(samples.regions_path("train"))
    named = [region for region in regions if region.tissues]
    first = [next(r for r in named if r.tissues == (name,)) for name in ("naevus nests", "collagen")]
    later = [region for region in regions if not any(region is other for other in first)]
    live = LiveModel(read_settings(TrainSettings, None, ["mpp=1", "tile=128"], "fast"))
    slide = LiveSlide(open_slide(samples.skin_slide_path()))
    corner = 1500.0
    view = (corner, corner, corner + EDGE_UM, corner + EDGE_UM)
    beside = (corner, corner + EDGE_UM / 2, corner + EDGE_UM, corner + 1.5 * EDGE_UM)

    def label(box: tuple[float, float, float, float]) -> None:
        for cell in slide.cells(box, 1.0):
            live.label(slide, cell)

    def follow(drawn: Iterable) -> None:
        run(live.learn(slide, [*drawn], classes))
        label(view)

    began = seconds(lambda: follow(first))
    changes = [seconds(lambda n=n: follow([*first, *later[:n]])) for n in range(1, min(chosen.changes, len(later)) + 1)]
    pan_new, pan_stored = seconds(lambda: label(beside)), seconds(lambda: label(beside))
    image = np.random.default_rng(0).integers(0, 255, (3, CELL + 2 * RIM, CELL + 2 * RIM), np.uint8)
    cells = len(slide.cells(view, 1.0))
    base = [seconds(lambda: [live._frozen(image) for _ in range(cells)]) for _ in range(3)]
    slowest = float(np.quantile(changes, 0.95))
    encoder = f"the encoder alone on the view's {cells} cells"
    report(
        [
            against(
                "live mask, first one of 1 mm² after the second region, features included",
                [began],
                encoder,
                base,
                wanted="4 s",
            ),
            against(
                "live mask, from a change of the regions to the new mask of 1 mm²",
                changes,
                encoder,
                base,
                wanted="1.5 s",
            ),
            alone("its slowest twentieth", [slowest], "s", "2.5 s"),
            against("live mask, panned by half a view, features not stored", [pan_new], encoder, base),
            against("live mask, panned by half a view, features stored", [pan_stored], encoder, base, wanted="0.7 s"),
            alone("its memory", [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024], "MB"),
            alone("threads", [float(torch.get_num_threads())], ""),
        ],
        chosen.json,
    )
    print(f"median of {len(changes)} changes: {statistics.median(changes):.2f} s")


if __name__ == "__main__":
    main()
