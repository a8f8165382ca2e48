"""Measure and export a large result: seconds, size and peak memory of each, in a process of its own.

``python benchmarks/results.py [EDGE]`` makes a result of EDGE x EDGE pixels (30,000) with tissue on a quarter of it and
borders about as winding as on real tissue. The baseline reads the labels once, block by block.
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
from figures import against, alone, parser, report
from scipy.ndimage import gaussian_filter, zoom

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.results import ExportSettings
from napari_lpd.results.card import PredictionCard
from napari_lpd.results.create import start_prediction
from napari_lpd.results.export.export import export
from napari_lpd.results.prediction import BlockResult, Prediction
from napari_lpd.slides.tissue import TissueMask

BLOCK, STRIDE, MPP = 1024, 8, 0.5
TARGETS = (
    ("a.csv", {}),
    ("a.geojson", {}),
    ("b.geojson", {"simplify_um": 2}),
    ("a.ome.tif", {}),
    ("p.ome.tif", {"what": "prototypes"}),
)


def patterns() -> list[np.ndarray]:
    """A few blocks of labels (1024, 1024) that fit together at their borders."""
    rng, found = np.random.default_rng(0), []
    for _ in range(4):
        noise = gaussian_filter(rng.normal(size=(BLOCK // STRIDE,) * 2), 4, mode="wrap")
        levels = np.quantile(noise, (0.3, 0.6, 0.85))
        found.append(np.digitize(zoom(noise, STRIDE, order=1), levels).astype(np.uint8) + 1)
    return found


def make_result(folder: Path, edge: int) -> None:
    """A finished prediction with tissue on about a quarter of its blocks."""
    classes = tuple(TissueClass(name=name, color="#3b4cff") for name in "abcd")
    card = PredictionCard(
        classes=classes, prototypes_per_class=3, mpp=MPP, shape=(edge, edge), stride=STRIDE, block=BLOCK, slide="x",
        slide_mpp=(MPP / 2, MPP / 2), slide_shape=(edge * 2, edge * 2), slide_hash="x", mpp_source="x", model="x",
        model_hash="x", settings=PredictSettings(block=BLOCK), tissue="x",
    )  # fmt: skip
    rng, blocks = np.random.default_rng(1), patterns()
    count = -(-edge // BLOCK)
    tissue = zoom(gaussian_filter(rng.normal(size=(count, count)), 2, mode="wrap"), 1) > 0.03
    coarse = TissueMask(tissue.repeat(8, 0).repeat(8, 1), BLOCK * MPP / 8)
    prediction = start_prediction(folder, card, lambda: (coarse, [[1.0] * 4] * 3))
    for y, x in np.argwhere(tissue):
        h, w = min(BLOCK, edge - y * BLOCK), min(BLOCK, edge - x * BLOCK)
        labels = blocks[rng.integers(4)][:h, :w]
        scores = (60 * labels[::STRIDE, ::STRIDE])[None].repeat(4, 0)
        maps = scores[:, None].repeat(3, 1)
        prediction.write_block((int(y), int(x)), BlockResult(labels, scores, maps, scores[0]))
    prediction.finish()


def measure(folder: Path, out: Path, index: int) -> None:
    """In a process of its own: one export; print the figures as JSON."""
    prediction = Prediction.open(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    for y, x in sorted(prediction.finished_blocks()):
        np.asarray(prediction.labels.levels[0][y * BLOCK : (y + 1) * BLOCK, x * BLOCK : (x + 1) * BLOCK])
    base = time.perf_counter() - began
    name, settings = TARGETS[index]
    began = time.perf_counter()
    path = run(export(prediction, out / name, ExportSettings(**settings)))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    what = " ".join([name, *(f"{key}={value}" for key, value in settings.items())])
    row = {"what": f"{what}, {path.stat().st_size >> 20} MB", "seconds": seconds, "base": base}
    print(json.dumps(row | {"MB": (peak - before) / 1024}))


def main() -> None:
    """Make the result, write each form in a child process, print."""
    options = parser(__doc__)
    options.add_argument("edge", nargs="?", type=int, default=30_000)
    options.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.measure:
        measure(Path(chosen.measure[0]), Path(chosen.measure[1]), int(chosen.measure[2]))
        return
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "big.zarr")
        make_result(folder, chosen.edge)
        blocks = len(Prediction.open(folder).finished_blocks())
        for index in range(len(TARGETS)):
            command = [sys.executable, __file__, "--measure", str(folder), temporary, str(index)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            what = f"writing {row['what']}, from {chosen.edge} px with {blocks} blocks of tissue"
            figures.append(against(what, [row["seconds"]], "reading its labels", [row["base"]]))
            figures.append(alone("its memory", [row["MB"]], "MB"))
    report(figures, chosen.json)


if __name__ == "__main__":
    main()
