"""Whether *Next place* saves regions: two simulated annotators, and how many regions each of them needs.

    python tools/annotator.py --runs 10
    python tools/annotator.py --ground tissue4 --data tissue4

Both begin with one region of every tissue and draw one after another. The first draws what is at the place that the
live mask suggests, the second at a random place of every tissue in its turn. Counted are the regions until the recall
at places that nobody draws on has reached a share of its final value, that of all regions together, and is still there
after the next region. Grounds: the sample slide, whose regions for training are drawn and those for checking measured,
and mosaics of the tiles of a folder: training tiles, neighbours from one source, are drawn as regions with the tissues
of their names, and tiles with masks are measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from PIL import Image

from napari_lpd import open_slide, read_classes, run, samples
from napari_lpd.core.classes import COLORS, TissueClass
from napari_lpd.core.geometry import sampled_polygons
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.regions import Region, read_regions
from napari_lpd.data.tileset import CELL
from napari_lpd.slides.slide import Slide
from napari_lpd.training.guide.places import Places
from napari_lpd.training.live import LiveCell, LiveModel, LiveSlide

PLACES = 32  # of a cell's edge, of the model's maps
EDGE, TILE_UM = 14, 80.0  # tiles of a mosaic's edge; µm
GLASS, BARE = 220, 0.9  # a tile with this share of pixels above this level is not drawn
SETTINGS = {"sample": ["tile=128"], "tissue4": ["mpp=0.714285714", "tile=112", "tile_step=112", "min_cover=0.7"]}


class Ground(NamedTuple):
    """What is drawn on, by whom knows it.

    Attributes:
        slide: The slide.
        pool: Regions that can be drawn.
        truth: (h, w) at the model's resolution, label of what is measured; 0 elsewhere.
        classes: The tissues.
    """

    slide: LiveSlide
    pool: list[Region]
    truth: np.ndarray
    classes: tuple[TissueClass, ...]


def sample_ground(mpp: float) -> Ground:
    """Take the sample slide with its regions."""
    slide, classes = open_slide(samples.skin_slide_path()), read_classes(samples.classes_path())
    names = [tissue.name for tissue in classes]
    truth = np.zeros([-(-n // CELL) * CELL for n in slide.shape_at(mpp)], np.uint8)
    for region in read_regions(samples.regions_path("check"), names):
        if len(region.tissues) == 1:
            inside = sampled_polygons([region.polygon(slide.mpp)], (0, 0), truth.shape, mpp)
            truth[inside] = names.index(region.tissues[0]) + 1
    pool = [region for region in read_regions(samples.regions_path("train"), names) if region.tissues]
    return Ground(LiveSlide(slide), pool, truth, tuple(classes))


def mosaic(folder: Path, seed: int, mpp: float) -> Ground:
    """Lay training tiles, source by source, and beside them as many with masks as fill a square, chosen at random."""
    about = json.loads((folder / "classes.json").read_text())
    classes = tuple(TissueClass(name=each.split()[0], color=COLORS[i]) for i, each in enumerate(about["classes"]))
    rng = np.random.default_rng(seed)
    drawn = _grouped(sorted((folder / "train").iterdir()), EDGE * EDGE, rng)
    measured = _grouped(sorted((folder / "valid" / "img").iterdir()), EDGE * EDGE, rng)
    edge = round(TILE_UM / about["mpp"])
    pixels = np.full((EDGE * edge, 2 * EDGE * edge, 3), 255, np.uint8)
    fine = np.full(pixels.shape[:2], 255, np.uint8)
    pool = []
    for n, (file, checked) in enumerate(zip(drawn, measured, strict=True)):
        y, x = (n // EDGE) * edge, _snake(n) * edge
        tile = pixels[y : y + edge, x : x + edge] = np.asarray(Image.open(file).convert("RGB"))
        corners = np.array([[y, x], [y, x + edge], [y + edge, x + edge], [y + edge, x]], float)
        flags = file.stem[file.stem.rindex("[") + 1 : -1]
        tissues = tuple(each.name for each, flag in zip(classes, flags, strict=True) if flag == "1")
        if tissues and (tile.min(2) > GLASS).mean() < BARE:
            pool.append(Region(corners, tissues))
        right = x + EDGE * edge
        pixels[y : y + edge, right : right + edge] = np.asarray(Image.open(checked).convert("RGB"))
        mask = np.asarray(Image.open(folder / "valid" / "mask" / f"{checked.stem}.png"))
        fine[y : y + edge, right : right + edge] = mask
    slide = Slide.from_levels([pixels], (about["mpp"],) * 2, f"mosaic {seed}")
    step = round(mpp / about["mpp"])
    coarse = fine[::step, ::step]
    truth = np.zeros([-(-n // CELL) * CELL for n in coarse.shape], np.uint8)
    truth[: coarse.shape[0], : coarse.shape[1]] = np.where(coarse < len(classes), coarse + 1, 0)
    return Ground(LiveSlide(slide), pool, truth, classes)


def _snake(n: int) -> int:
    """Return the column of tile `n`: rows are filled to the right and to the left by turns."""
    return n % EDGE if n // EDGE % 2 == 0 else EDGE - 1 - n % EDGE


def _grouped(files: list[Path], count: int, rng: np.random.Generator) -> list[Path]:
    """Choose files at random and order them by their source, the sources at random."""
    chosen = [files[i] for i in rng.permutation(len(files))[:count]]
    sources = sorted({file.name.split("+")[0] for file in chosen})
    order = dict(zip(sources, rng.permutation(len(sources)).tolist(), strict=True))
    return sorted(chosen, key=lambda file: (order[file.name.split("+")[0]], file.name))


class Annotator:
    """Draws regions of a ground's pool, at first one of every tissue.

    Args:
        ground: What is drawn on.
        live: What learns from the regions.
        rng: Decides the first regions, and those that are drawn at random.
        follows: Whether it draws where the tool says.
    """

    def __init__(self, ground: Ground, live: LiveModel, rng: np.random.Generator, follows: bool) -> None:
        self.ground, self.live, self.rng, self.follows = ground, live, rng, follows
        self.left = list(ground.pool)
        self.drawn: list[Region] = []
        self.places = Places()
        self.guessed = 0  # regions for which the tool had no place
        self.mpp = live.settings.mpp
        h, w = ground.slide.slide.shape_at(self.mpp)
        self.cells = ground.slide.cells((0, 0, h * self.mpp, w * self.mpp), self.mpp)
        self.labelled: dict[tuple[int, int], LiveCell] = {}
        for tissue in ground.classes:
            self._draw(self._random(tissue.name))

    def _draw(self, region: Region) -> None:
        self.left = [each for each in self.left if each is not region]
        self.drawn.append(region)

    def _random(self, tissue: str) -> Region:
        """Choose a random place of a tissue, or of any where none is left."""
        among = [region for region in self.left if tissue in region.tissues] or self.left
        areas = np.array([region.polygon().area for region in among])
        return among[self.rng.choice(len(among), p=areas / areas.sum())]

    def step(self) -> None:
        """Draw one more region."""
        suggested = self._suggested() if self.follows else None
        if suggested is None:
            self.guessed += self.follows
            classes = self.ground.classes
            suggested = self._random(classes[len(self.drawn) % len(classes)].name)
        self._draw(suggested)

    def _suggested(self) -> Region | None:
        """Return what is at the place where the tool says, of places at which something can be drawn."""
        factor = self.ground.slide.slide.mpp
        outlines = [region.polygon(factor) for region in self.left]
        seen = {}
        for y, x in self.cells:
            there = sampled_polygons(outlines, (y * PLACES, x * PLACES), (PLACES, PLACES), CELL / PLACES * self.mpp)
            if there.any():
                cell = self._label((y, x))
                seen[y, x] = cell._replace(unsure=cell.unsure * there)
        found = self.places.next(seen, self.mpp, len(self.live.model.card.classes))
        if found is None:
            return None
        at = shapely.Point(found.place[::-1])
        return self.left[int(np.argmin([outline.distance(at) for outline in outlines]))]

    def _label(self, cell: tuple[int, int]) -> LiveCell:
        if cell not in self.labelled:
            self.labelled[cell] = self.live.label(self.ground.slide, cell)
        return self.labelled[cell]

    def learn(self) -> float:
        """Learn from what is drawn, and measure: mean recall over the tissues."""
        ground = self.ground
        run(self.live.learn(ground.slide, self.drawn, ground.classes))
        self.labelled.clear()
        right, count = np.zeros(len(ground.classes)), np.zeros(len(ground.classes))
        for y, x in self.cells:
            truth = ground.truth[y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL]
            if truth.any():
                labels = self._label((y, x)).labels
                for n in range(len(ground.classes)):
                    right[n] += ((truth == n + 1) & (labels == n + 1)).sum()
                    count[n] += (truth == n + 1).sum()
        return float((right[count > 0] / count[count > 0]).mean())


def needed(recalls: dict[int, float], wanted: float) -> int | None:
    """Return from how many regions on a recall is reached, now and at the next measurement."""
    counts = sorted(recalls)
    for count, after in zip(counts, [*counts[1:], counts[-1]], strict=True):
        if min(recalls[count], recalls[after]) >= wanted:
            return count
    return None


def compare(ground: Ground, live: list[LiveModel], seed: int, most: int, share: float) -> list[int]:
    """Run both annotators and return how many regions each of them needs, the one that follows first."""
    everything = Annotator(ground, live[0], np.random.default_rng(seed), False)
    everything.drawn = list(ground.pool)
    final = everything.learn()
    counts = []
    for follows, model in zip((True, False), live[1:], strict=True):
        annotator = Annotator(ground, model, np.random.default_rng(seed), follows)
        recalls = {len(annotator.drawn): annotator.learn()}
        while len(annotator.drawn) < min(most, len(ground.pool)) and needed(recalls, share * final) in (
            None, max(recalls)):  # fmt: skip
            annotator.step()
            recalls[len(annotator.drawn)] = annotator.learn()
        counts.append(needed(recalls, share * final) or most)
        said = " ".join(f"{count}:{100 * recall:.0f}" for count, recall in recalls.items())
        how = f"{counts[-1]} regions, {annotator.guessed} guessed" if follows else f"{counts[-1]} regions"
        print(f"run {seed}, {'suggested' if follows else 'random'}: {how}; final {final:.3f}; {said}", flush=True)
    return counts


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ground", choices=list(SETTINGS), default="sample")
    parser.add_argument("--data", type=Path, help="folder of the tiles (tissue4)")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--most", type=int, default=60, help="regions after which a run ends")
    parser.add_argument("--share", type=float, default=0.95, help="of the final recall")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    found, store = [], None
    for seed in range(options.runs):
        changes = [*SETTINGS[options.ground], "threads=1", "feature_dropout=0.5", f"seed={seed}"]
        settings = read_settings(TrainSettings, None, changes, "fast")
        ground = sample_ground(settings.mpp) if options.ground == "sample" else mosaic(options.data, seed, settings.mpp)
        live = [LiveModel(settings) for _ in range(3)]
        store = store or live[0]._store
        for model in live:
            model._store = store  # features are computed once
        found.append(compare(ground, live, seed, options.most, options.share))
    counts = np.array(found, float)
    rng = np.random.default_rng(0)
    drawn = counts[rng.integers(0, len(counts), (10_000, len(counts)))].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    means, ratio = counts.mean(0), counts[:, 0].sum() / counts[:, 1].sum()
    print(f"regions needed: suggested {means[0]:.1f}, random {means[1]:.1f}; ratio {ratio:.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
