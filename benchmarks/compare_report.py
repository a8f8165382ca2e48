"""Compare: how long the figures and the report of two models on 300 tiles of 224 pixels take, one thread.

Two untrained models, at which every class is present in every tile: the dearest case, as each of the prototypes is then
left out of every mask. The masks of the truth are stripes. The baseline is the two networks alone on the same tiles.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from napari_lpd import samples
from napari_lpd.checkpoint import Card, save_checkpoint
from napari_lpd.classes import TissueClass
from napari_lpd.compare import compare
from napari_lpd.compare_tiles import Tile, tiles_of_slide
from napari_lpd.comparison_report import write_comparison
from napari_lpd.config import CompareSettings, ModelSettings, TrainSettings
from napari_lpd.formats import open_slide
from napari_lpd.jobs import run
from napari_lpd.model import LoadedModel, load_model, new_network
from napari_lpd.observation import observe

EDGE, SOURCES = 224, 8
COLOURS = ("#3b4cff", "#00b050", "#ff8c1a", "#ffe119", "#9b2fae", "#00b4d8")


def make_model(folder: Path, seed: int, k: int, class_count: int) -> LoadedModel:
    """An untrained model in which every class is present."""
    settings = ModelSettings(prototypes_per_class=k)
    torch.manual_seed(seed)
    classes = tuple(TissueClass(name=f"tissue {i}", color=COLOURS[i]) for i in range(class_count))
    card = Card(
        classes=classes, settings=TrainSettings(model=settings, tile=EDGE, seed=seed), tiles_per_class={}, tiles=1,
        steps=1, map_scale=((1.0,) * class_count,) * 3, presence=(0.0,) * class_count,
    )  # fmt: skip
    tensors = dict(new_network(settings, class_count, "embedded").state_dict())
    path = save_checkpoint(folder / f"{seed}.safetensors", tensors, card)
    return load_model(path, "cpu")._replace(name=f"model {seed}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=300)
    parser.add_argument("--prototypes", type=int, default=10)
    parser.add_argument("--classes", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, open_slide(samples.skin_slide_path()) as slide:
        models = [make_model(Path(folder), i, options.prototypes, options.classes) for i in range(2)]
        found = tiles_of_slide(slide, slide.mpp[0], EDGE, options.tiles)
        stripes = (np.arange(EDGE)[:, None] * options.classes // EDGE).astype(np.uint8).repeat(EDGE, 1)
        images = [tile.read() for tile in found]
        tiles = [
            Tile(tile.name, f"slide {i % SOURCES}", lambda image=image: image, lambda: stripes)
            for i, (tile, image) in enumerate(zip(found, images, strict=True))
        ]
        began = time.perf_counter()
        for image in images:
            for model in models:
                observe(model, image)
        baseline = time.perf_counter() - began
        began = time.perf_counter()
        comparison = run(compare(models, tiles, CompareSettings(threads=1)))
        write_comparison(Path(folder, "report"), comparison)
        ours = time.perf_counter() - began
    result = {"tiles": len(tiles), "report, s": ours, "masks alone, s": baseline, "ratio": ours / baseline}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
