"""Time of the dense CRF: our lattice against pydensecrf (extra crf), on real tissue, in this process.

Baseline: pydensecrf with the same kernels and iterations, which uses one thread. Measured in turn: our lattice with one
thread and with two, at half the size, and, where there is a CUDA device, on it. Prints a line of text and one of JSON
for each size: median seconds with the spread, ratios, and the shares of labels equal to pydensecrf's.

    python benchmarks/refinement.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from napari_lpd import samples
from napari_lpd.config import CrfSettings
from napari_lpd.formats import open_slide
from napari_lpd.refine import dense_crf

LABELS = 5
EDGES = (224, 512, 1024)
WAYS = {
    "pydensecrf": (CrfSettings(), "pydensecrf", "cpu", 1),
    "lattice": (CrfSettings(), "lattice", "cpu", 1),
    "two threads": (CrfSettings(), "lattice", "cpu", 2),
    "half size": (CrfSettings(half_size=True), "lattice", "cpu", 1),
}
if torch.cuda.is_available():
    WAYS["cuda"] = (CrfSettings(), "lattice", "cuda", 1)


def measure(image: np.ndarray, probability: np.ndarray, repeats: int) -> dict[str, object]:
    """All ways in turn, `repeats` times, after one run each that compiles and warms up."""
    labels = {way: dense_crf(image, probability, *how).argmax(0) for way, how in WAYS.items()}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, how in WAYS.items():
            start = time.perf_counter()
            dense_crf(image, probability, *how)
            seconds[way].append(time.perf_counter() - start)
    middle = {way: median(times) for way, times in seconds.items()}
    return {
        "edge": len(image),
        "seconds": {way: round(value, 4) for way, value in middle.items()},
        "spread": {way: [round(min(times), 4), round(max(times), 4)] for way, times in seconds.items()},
        "times as fast as pydensecrf": {way: round(middle["pydensecrf"] / value, 2) for way, value in middle.items()},
        "two threads to one": round(middle["lattice"] / middle["two threads"], 2),
        "half size to full": round(middle["lattice"] / middle["half size"], 2),
        "equal labels": {way: round(float((own == labels["pydensecrf"]).mean()), 5) for way, own in labels.items()},
    }


def main() -> None:
    """Measure at three sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    noise = np.random.default_rng(0).random((LABELS, max(EDGES), max(EDGES)), np.float32)
    smooth = np.exp(40 * gaussian_filter(noise, (0, 20, 20)))
    probability = (smooth / smooth.sum(0)).astype(np.float32)
    with open_slide(samples.skin_slide_path()) as slide:
        image = np.array(slide.read((1500, 1500), (max(EDGES), max(EDGES)), slide.mpp[0]))
    print(f"CUDA device: {torch.cuda.get_device_name() if 'cuda' in WAYS else 'none here, so it is not timed'}")
    for edge in EDGES:
        row = measure(
            np.ascontiguousarray(image[:edge, :edge]),
            np.ascontiguousarray(probability[:, :edge, :edge]),
            options.repeats,
        )
        for way in WAYS:
            seconds, (low, high), ratio = (
                row[key][way] for key in ("seconds", "spread", "times as fast as pydensecrf")
            )
            print(
                f"dense CRF {edge} x {edge}, {LABELS} labels, {way}: {seconds:.3f} s ({low:.3f} to {high:.3f}),"
                f" {ratio:.2f} times as fast as pydensecrf, equal labels {100 * row['equal labels'][way]:.2f} %"
            )
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
