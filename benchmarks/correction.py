"""Paint and apply a correction on a large result: seconds, and memory beside the crop's.

``python benchmarks/correction.py [EDGE]`` makes a result of EDGE x EDGE pixels (30,000) with tissue everywhere, then
corrects crops of 512, 2048 and 4096 pixels in a process of its own: read the crop, paint, apply. The baseline writes a
crop of that size into a plain Zarr array with the same chunks.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
from figures import against, alone, parser, report

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.results.card import PredictionCard
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.create import start_prediction
from napari_lpd.results.prediction import BlockResult, Prediction
from napari_lpd.slides.tissue import TissueMask

BLOCK, STRIDE, MPP = 1024, 8, 0.5
CROPS = (512, 2048, 4096)


def make_result(folder: Path, edge: int) -> None:
    """A finished-looking prediction: wavy borders, and all maps filled."""
    classes = tuple(TissueClass(name=name, color="#3b4cff") for name in "abcd")
    card = PredictionCard(
        classes=classes, prototypes_per_class=2, mpp=MPP, shape=(edge, edge), stride=STRIDE, block=BLOCK, slide="x",
        slide_mpp=(MPP, MPP), slide_shape=(edge, edge), slide_hash="x", mpp_source="x", model="x", model_hash="x",
        settings=PredictSettings(block=BLOCK), tissue="x",
    )  # fmt: skip
    coarse = TissueMask(np.ones([int(edge * MPP / 64) + 2] * 2, bool), 64.0)
    prediction = start_prediction(folder, card, lambda: (coarse, [[1.0] * 4] * 3))
    for y in range(0, edge, BLOCK):
        for x in range(0, edge, BLOCK):
            rows, columns = np.arange(y, min(y + BLOCK, edge)), np.arange(x, min(x + BLOCK, edge))
            waves = np.sin(rows / 150)[:, None] + np.cos(columns / 210)[None] + np.sin(columns / 37)[None] / 4
            labels = np.digitize(waves, (-1, 0, 1)).astype(np.uint8) + 1
            scores = (60 * labels[::STRIDE, ::STRIDE])[None].repeat(4, 0)
            prediction.write_block(
                (y // BLOCK, x // BLOCK), BlockResult(labels, scores, scores[:, None].repeat(2, 1), scores[0])
            )


def peak_mb() -> float:
    """Peak memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, plain: Path, label: int) -> None:
    """In a process of its own: correct crops and print the figures as JSON."""
    store = Corrections(Prediction.open(folder))
    h, w = store.prediction.card.shape
    store.apply_crop(0, 0, store.read_crop(0, 0, (64, 64)))
    before, found = peak_mb(), []
    for size in CROPS:
        y, x = h // 2 + 333, w // 2 + 77
        began = time.perf_counter()
        crop = store.read_crop(y, x, (size, size))
        rows, columns = np.ogrid[:size, :size]
        crop[(rows - size // 2) ** 2 + (columns - size // 2) ** 2 < (size // 3) ** 2] = label
        store.apply_crop(y, x, crop)
        seconds = time.perf_counter() - began
        began = time.perf_counter()
        array = zarr.open_array(plain / f"{size}.zarr", mode="w", shape=(h, w), dtype="uint8", chunks=(BLOCK, BLOCK))
        array[y : y + size, x : x + size] = crop
        base = time.perf_counter() - began
        found.append({"crop": size, "seconds": seconds, "base": base, "MB": peak_mb() - before})
    print(json.dumps(found))


def main() -> None:
    """Make the result, measure in a child process, print."""
    options = parser(__doc__)
    options.add_argument("edge", nargs="?", type=int, default=30_000)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.measure:
        measure(Path(chosen.measure[0]), Path(chosen.measure[1]), int(chosen.measure[2]))
        return
    runs: list[list[dict]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "big.zarr")
        make_result(folder, chosen.edge)
        for repeat in range(chosen.repeats):  # each with another label, so that there is something to change
            command = [sys.executable, __file__, "--measure", str(folder), temporary, str(1 + repeat % 4)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout))
    figures = []
    for crops in zip(*runs, strict=True):
        what = f"correcting {crops[0]['crop']} px of a result of {chosen.edge} px"
        seconds, base = ([crop[key] for crop in crops] for key in ("seconds", "base"))
        figures.append(against(what, seconds, "a plain write of the crop", base))
        figures.append(alone("its memory, beside the crop's", [crop["MB"] for crop in crops], "MB"))
    report(figures, chosen.json)


if __name__ == "__main__":
    main()
