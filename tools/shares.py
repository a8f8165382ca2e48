"""What shares ("about 60 % tumour") add to presence: mIoU of fast models on tissue4, with the same tiles.

    python tools/shares.py --data tissue4 --seeds 5

The training tiles come without masks, so tiles with known shares are made: two tiles of one tissue each, of
tissues that do occur together, joined along a wavy line. A third of the tiles that are trained on are such; they
carry the shares, or, for comparison, the presence of both tissues. Validation tiles are measured on, and train nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_lpd import load_model, masked_images, read_classes, run
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.evaluation import EvaluateSettings
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.data.region_tiles import GLASS_LEVEL
from napari_lpd.data.tileset import Shares, TileSet
from napari_lpd.evaluation.evaluate import measure_images
from napari_lpd.training.fit import fit
from napari_lpd.training.papers.reproduce import Summary, summarise_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_lpd.evaluation.metrics import ImageResult

TOGETHER, MIN_SHARE = 50, 0.1  # tiles that hold two tissues, from which on these are joined; of the smaller part
SOURCE = r"GLAS-.*-(p\d+)"


def wavy(edge: int, share: float, random: np.random.RandomState) -> np.ndarray:
    """Mark about `share` of a tile on one side of a wavy line: (edge, edge) bool."""
    y, x = np.mgrid[:edge, :edge] / edge
    turn, phase, waves = random.uniform((0, 0, 1), (2 * np.pi, 2 * np.pi, 4))
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    height = across + 0.08 * np.sin(2 * np.pi * waves * along + phase)
    return height < np.quantile(height, share)


def joined_tiles(tiles: TileSet, count: int, random: np.random.RandomState) -> TileSet:
    """Join pairs of tiles of one tissue each, as often as tiles hold two tissues; what they hold is known."""
    pairs, often = np.unique(tiles.labels[tiles.labels.sum(1) == 2], axis=0, return_counts=True)
    pairs, often = pairs[often >= TOGETHER], often[often >= TOGETHER]
    images, labels, shares = [], [], {}
    for index in range(count):
        labels.append(pairs[random.choice(len(pairs), p=often / often.sum())])
        classes = random.permutation(np.flatnonzero(labels[-1]))
        one, other = (
            tiles.read(random.choice(np.flatnonzero(tiles.single & (tiles.labels[:, c] > 0)))) for c in classes
        )
        first = wavy(len(one), random.uniform(MIN_SHARE, 1 - MIN_SHARE), random)
        images.append(np.where(first[..., None], one, other))
        tissue = images[-1].min(-1) <= GLASS_LEVEL
        parts = np.zeros(1 + len(tiles.classes), np.float32)
        parts[1 + classes[0]] = first[tissue].mean()
        parts[1 + classes[1]] = 1 - parts[1 + classes[0]]
        shares[index] = Shares(f"joined {index}", parts)
    found = TileSet(
        tiles.classes, np.array(labels, np.float32), images.__getitem__, "joined", sources=["joined"] * count,
        files=[], check=False,
    )  # fmt: skip
    found.shares = shares
    return found


def without_shares(tiles: TileSet) -> TileSet:
    """Return the same tiles, of which presence alone is known."""
    same = tiles.subset(range(len(tiles)))
    same.shares = {}
    return same


def measured(tiles: TileSet, settings: TrainSettings, valid: Sequence) -> dict[str, list[ImageResult]]:
    """Train, and measure on images with masks: results by gate."""
    how = EvaluateSettings(gates=("predicted", "none", "truth"), refiners=("none",), threads=settings.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(run(fit(tiles, settings, Path(folder))), "cpu")
        found = run(measure_images(model, valid, how))
    return {gate: results for (gate, _), results in found.items()}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tiles", type=int, default=1200, help="tiles to train on; a third of them have shares")
    parser.add_argument("--features", default="", help="folder that keeps the encoder's features")
    parser.add_argument("--rows", nargs="*", default=["presence", "shares"])
    parser.add_argument("--set", nargs="*", default=[], help="training settings NAME=VALUE")
    options = parser.parse_args()
    whole = labelled_tiles(options.data, read_classes(options.data / "classes.json"), SOURCE)
    random = np.random.RandomState(0)
    others = whole.subset(sorted(random.permutation(len(whole))[: options.tiles * 2 // 3].tolist()))
    tiles = TileSet.joined([others, joined_tiles(whole, options.tiles // 3, random)], "tissue4")
    sets = {"presence": without_shares(tiles), "shares": tiles}
    valid = masked_images(options.data / "valid", SOURCE)
    found: dict[str, dict[str, list[list[ImageResult]]]] = {row: {} for row in options.rows}
    for seed in range(options.seeds):
        for row in options.rows:
            changes = [
                "threads=1",
                "mpp=0.357",
                f"tile={tiles.edge}",
                "valid_share=0",
                f"feature_folder={options.features}",
                f"seed={seed}",
                *options.set,
            ]
            settings = read_settings(TrainSettings, None, changes, "fast")
            for gate, results in measured(sets[row], settings, valid).items():
                found[row].setdefault(gate, []).append(results)
            one = {
                gate: summarise_seeds(runs[-1:], EvaluateSettings(bootstrap=0))[0] for gate, runs in found[row].items()
            }
            print(seed, row, {gate: round(100 * summary.value, 1) for gate, summary in one.items()}, flush=True)
    for row, gates in found.items():
        for gate, runs in gates.items():
            summary: Summary = summarise_seeds(runs, EvaluateSettings())[0]
            print(
                f"{row}, {gate}: {100 * summary.value:.1f} ± {100 * summary.spread:.1f}", np.round(100 * summary.iou, 1)
            )


if __name__ == "__main__":
    main()
