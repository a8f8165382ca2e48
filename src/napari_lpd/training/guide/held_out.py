"""Ask models that have not seen a region what it is: how right the live mask is, and which labels are doubtful."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from shapely import STRtree, box

from napari_lpd.core.geometry import sampled_polygons
from napari_lpd.core.jobs import Job, Progress
from napari_lpd.core.settings.prediction import LabelSettings, PredictSettings
from napari_lpd.data.regions import Verdict
from napari_lpd.data.tileset import CELL

if TYPE_CHECKING:
    from collections.abc import Sequence

    import shapely

    from napari_lpd.data.regions import Region
    from napari_lpd.models.network import LoadedModel
    from napari_lpd.training.live import LiveModel, LiveSlide

FOLDS = 3
LEFT = 2  # regions of a tissue, at least, from which a model learns that leaves others out
STEPS = 100  # of a model that leaves regions out
MOST_LIKELY = PredictSettings(labels=LabelSettings(sure=0))


def folds_of(regions: Sequence[Region], polygons: Sequence[shapely.Geometry], apart: float) -> list[int | None]:
    """Deal regions into `FOLDS` folds, class by class; regions that share tiles lie in one fold.

    Args:
        regions: The regions.
        polygons: Their outlines.
        apart: Regions that are nearer to each other than this, in the units of the outlines, share tiles.

    Returns:
        The fold of each region; None for a region without a tissue, and for one without which fewer than `LEFT`
        regions of a tissue would be left to learn from.
    """
    groups = _groups(polygons, apart)
    tissues = [{name for i in group for name in regions[i].tissues} for group in groups]
    holders = {name: sum(name in held for held in tissues) for held in tissues for name in held}
    counts = {name: [0] * FOLDS for name in holders}  # groups of a tissue in each fold
    folds: list[int | None] = [None] * len(regions)
    for group, held in zip(groups, tissues, strict=True):
        if not held:
            continue
        fold = min(range(FOLDS), key=lambda k: (sum(counts[name][k] for name in held), k))
        if any(holders[name] - counts[name][fold] - 1 < LEFT for name in held):
            continue
        for name in held:
            counts[name][fold] += 1
        for i in group:
            folds[i] = fold if regions[i].tissues else None
    return folds


def _groups(polygons: Sequence[shapely.Geometry], apart: float) -> list[list[int]]:
    tree, group_of = STRtree(polygons), [-1] * len(polygons)
    groups: list[list[int]] = []
    for first in range(len(polygons)):
        if group_of[first] >= 0:
            continue
        groups.append([])
        queue, group_of[first] = [first], len(groups) - 1
        while queue:
            groups[-1].append(queue.pop())
            for near in tree.query(polygons[groups[-1][-1]], predicate="dwithin", distance=apart).tolist():
                if group_of[near] < 0:
                    group_of[near] = len(groups) - 1
                    queue.append(near)
    return groups


def check(live: LiveModel, slide: LiveSlide, regions: Sequence[Region], fold: int) -> Job[dict[Any, Verdict]]:
    """Learn without the regions of one fold, and say what that model finds in them.

    Args:
        live: The model that was learned from `regions` last; it stays as it is.
        slide: Where they are drawn.
        regions: All of them.
        fold: 0 to FOLDS - 1.

    Returns:
        A verdict for each region of the fold that lies on tissue, by the regions' keys.
    """
    tiles, settings = live.tiles, live.settings
    mpp, edge = settings.mpp, settings.tile * settings.mpp
    outlines = [region.polygon(slide.slide.mpp) for region in regions]
    folds = folds_of(regions, outlines, edge)
    asked = [i for i, found in enumerate(folds) if found == fold]
    if not asked:
        return {}
    tree = STRtree([outlines[i] for i in asked])
    corners = [(origin.y * mpp, origin.x * mpp) for origin in tiles.origins]
    kept = [n for n, (y, x) in enumerate(corners) if not len(tree.query(box(x, y, x + edge, y + edge), "intersects"))]
    model = yield from live.learned_from(kept, STEPS)
    verdicts = {}
    for number, i in enumerate(asked, start=1):
        found = _verdict(live, slide, model, regions[i], outlines[i])
        if found is not None:
            verdicts[regions[i].key] = found
        yield Progress(number, len(asked), "checking")
    return verdicts


def _verdict(
    live: LiveModel, slide: LiveSlide, model: LoadedModel, region: Region, outline: shapely.Geometry
) -> Verdict | None:
    mpp, names = live.settings.mpp, [tissue.name for tissue in model.card.classes]
    x0, y0, x1, y1 = outline.bounds
    counts = np.zeros(len(names), np.int64)
    for cell in slide.cells((y0, x0, y1, x1), mpp):
        inside = sampled_polygons([outline], (cell[0] * CELL, cell[1] * CELL), (CELL, CELL), mpp)
        inside &= slide.tissue_at(cell, mpp)
        if inside.any():
            labels = live.label(slide, cell, MOST_LIKELY, model).labels[inside]
            counts += np.bincount(labels, minlength=len(names) + 1)[1:]
    if not counts.any():
        return None
    found = dict(zip(names, counts.tolist(), strict=True))
    return Verdict(region.tissues, found, (y0, x0, y1, x1), slide.slide.name, slide.slide.fingerprint)
