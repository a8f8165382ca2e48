"""The live mask: seconds from a change of the regions to the new mask of a view of 1 mm², on the sample slide.

``python benchmarks/live.py [--changes N]`` learns from the first two tissues' regions, labels the view, adds the other
regions one by one, and takes them away again, until there were N changes; it pans by half a view, once to where nothing
is stored and back. The baseline is the frozen encoder alone on the cells of the view: what a mask would cost without
stored features. How memory grows is measured from the change after which all features are stored to the last.

``xvfb-run python benchmarks/live.py --window`` opens *Train* instead, deletes regions one by one, and measures the
longest gap of a 20-ms timer while the mask follows; the baseline is the same window when nothing is to be done.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from pathlib import Path
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

    from figures import Figure

EDGE_UM = 1000.0


def seconds(action: Callable[[], object]) -> float:
    """Time one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def resident_mb() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def window() -> list[Figure]:
    """Measure the gaps of a timer in napari's window, while the mask follows five changes, and while it rests."""
    import napari
    from training_widget import Gaps, wait

    from napari_lpd.gui.train.widget import TrainWidget

    viewer = napari.Viewer(title="benchmark")
    widget = TrainWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Train")
    widget.data.classes.set_classes(read_classes(samples.classes_path()))
    widget.data.drawn.slides.open(samples.skin_slide_path())
    viewer.scene.camera.zoom = min(viewer.canvas.size) / EDGE_UM
    widget.data.drawn.load(samples.regions_path("train"))
    live = widget.live

    def settle() -> None:
        wait(1)
        while live.runner.running and not live.follower.waits:
            wait(0.1)

    settle()
    live.switch.setChecked(False)
    wait(2)
    idle = Gaps()
    wait(10)
    quiet = idle.stop()
    live.switch.setChecked(True)
    settle()
    busy, layer = Gaps(), widget.data.drawn.ensure_layer()
    for _ in range(5):
        layer.selected_data = {len(layer.data) - 1}
        layer.remove_selected()
        settle()
    gaps = busy.stop()
    viewer.close()
    return [
        against("live mask, longest gap of a 20-ms timer in the window", [gaps["longest"]], "the window at rest",
                [quiet["longest"]], "ms", "100 ms"),
        against("99.9 % of the gaps are below", [gaps["99.9 %"]], "the window at rest", [quiet["99.9 %"]], "ms"),
    ]  # fmt: skip


def main() -> None:
    """Follow the sample's regions as they are drawn, and print."""
    options = parser(__doc__)
    options.add_argument("--changes", type=int, default=20)
    options.add_argument("--window", action="store_true", help="measure the gaps of a timer in napari's window")
    chosen = options.parse_args()
    if chosen.window:
        report(window(), chosen.json)
        return
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
    there_and_back = [*range(1, len(later) + 1), *range(len(later) - 1, 0, -1)]
    changes, memory = [], []
    for number in range(chosen.changes):
        n = there_and_back[number % len(there_and_back)]
        changes.append(seconds(lambda n=n: follow([*first, *later[:n]])))
        memory.append(resident_mb())
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
            alone(
                f"growth of its memory in the changes after the first {len(later)}",
                [memory[-1] - memory[min(len(later), len(memory)) - 1]],
                "MB",
            ),
            alone("its memory", [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024], "MB"),
            alone("threads", [float(torch.get_num_threads())], ""),
        ],
        chosen.json,
    )
    print(f"median of {len(changes)} changes: {statistics.median(changes):.2f} s")


if __name__ == "__main__":
    main()
