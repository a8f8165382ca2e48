"""What strokes add to a few regions: recall of the live mask on the sample slide, with and without them.

    python tools/strokes.py --seeds 5

Regions: the first ones that are drawn for training, too few to tell tissues apart. Strokes: lines across every second
of the regions for checking; recall is measured in the others.
"""

from __future__ import annotations

import argparse

import numpy as np
import shapely

from napari_lpd import open_slide, read_classes, run, samples
from napari_lpd.core.geometry import sampled_polygons
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.regions import Region, read_regions
from napari_lpd.training.live import CELL, LiveModel, LiveSlide

WIDTH, LENGTH = 12, 80  # µm


def some(regions: list[Region], each: int) -> list[Region]:
    """Return the first regions of every combination of tissues."""
    return [r for i, r in enumerate(regions) if sum(r.tissues == b.tissues for b in regions[:i]) < each]


def strokes_across(region: Region, count: int) -> list[Region]:
    """Draw short horizontal lines inside a region, one above the other."""
    inside = region.polygon()
    x0, y0, x1, y1 = inside.bounds
    drawn = []
    for place in (np.arange(count) + 0.5) / count:
        y = y0 + place * (y1 - y0)
        across = shapely.LineString([(x0, y), (x1, y)]).intersection(inside.buffer(-WIDTH / 2))
        part = max(shapely.get_parts(across), key=shapely.length, default=across)
        if part.length:
            middle, half = part.interpolate(0.5, normalized=True), min(part.length, LENGTH) / 2
            line = shapely.box(middle.x - half, y - WIDTH / 2, middle.x + half, y + WIDTH / 2).intersection(inside)
            drawn.append(Region(shapely.get_coordinates(line)[:-1, ::-1], region.tissues, pixels=True))
    return drawn


def recall(live: LiveModel, slide: LiveSlide, check: list[Region], names: list[str]) -> np.ndarray:
    """Measure the share of pixels inside the regions of every tissue that have its label."""
    mpp = live.settings.mpp
    h, w = slide.slide.shape_at(mpp)
    labels = np.zeros((h + CELL, w + CELL), np.uint8)
    for y, x in slide.cells((0, 0, h * mpp, w * mpp), mpp):
        labels[y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL] = live.label(slide, (y, x)).labels
    found = []
    for number, name in enumerate(names, start=1):
        polygons = [region.polygon(slide.slide.mpp) for region in check if region.tissues == (name,)]
        found.append((labels[sampled_polygons(polygons, (0, 0), labels.shape, mpp)] == number).mean())
    return np.array(found)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--regions", type=int, default=1, help="regions of each combination of tissues")
    parser.add_argument("--strokes", type=int, default=40)
    parser.add_argument("--set", nargs="*", default=[], help="training settings NAME=VALUE")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    classes = read_classes(samples.classes_path())
    names = [tissue.name for tissue in classes]
    few = some(read_regions(samples.regions_path("train"), names), options.regions)
    marked = read_regions(samples.regions_path("check"), names)
    strokes = [line for count in (1, 2, 3) for region in marked[::2] for line in strokes_across(region, count)]
    slide = LiveSlide(open_slide(samples.skin_slide_path()))
    rows = {f"{len(few)} regions": few}
    rows[f"{len(few)} regions, {options.strokes} strokes"] = few + strokes[: options.strokes]
    found: dict[str, list[np.ndarray]] = {title: [] for title in rows}
    for seed in range(options.seeds):
        for title, regions in rows.items():
            changes = ["threads=1", "feature_dropout=0.5", f"seed={seed}", *options.set]
            live = LiveModel(read_settings(TrainSettings, None, changes, "fast"))
            run(live.learn(slide, regions, classes))
            found[title].append(recall(live, slide, marked[1::2], names))
            print(f"seed {seed}, {title}: {found[title][-1].mean():.3f}", flush=True)
    for title, recalls in found.items():
        mean, each = np.mean(recalls, 0), np.mean(recalls, 1)
        tissues = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, mean, strict=True))
        print(f"{title}: {each.mean():.3f} ± {each.std(ddof=1):.3f} ({tissues})")


if __name__ == "__main__":
    main()
