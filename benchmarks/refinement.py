"""Time of the dense CRF: our lattice against pydensecrf (extra crf), on real tissue, one thread, in this process.

Baseline: pydensecrf with the same kernels and iterations. Prints seconds, the ratio and the share of equal labels.

    python benchmarks/refinement.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_lpd import samples
from napari_lpd.config import CrfSettings
from napari_lpd.formats import open_slide
from napari_lpd.refine import dense_crf

LABELS = 5
EDGES = (224, 512, 1024)


def main() -> None:
    """Measure both at three sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    noise = np.random.default_rng(0).random((LABELS, max(EDGES), max(EDGES)), np.float32)
    smooth = np.exp(40 * gaussian_filter(noise, (0, 20, 20)))
    probability = (smooth / smooth.sum(0)).astype(np.float32)
    with open_slide(samples.skin_slide_path()) as slide:
        image = np.array(slide.read((1500, 1500), (max(EDGES), max(EDGES)), slide.mpp[0]))
    dense_crf(image[:64, :64], probability[:, :64, :64], CrfSettings(), "lattice")  # compiles
    for edge in EDGES:
        part = np.ascontiguousarray(image[:edge, :edge])
        given = np.ascontiguousarray(probability[:, :edge, :edge])
        seconds, labels = {}, {}
        for backend in ("pydensecrf", "lattice"):
            times = []
            for _ in range(options.repeats):
                start = time.perf_counter()
                labels[backend] = dense_crf(part, given, CrfSettings(), backend).argmax(0)
                times.append(time.perf_counter() - start)
            seconds[backend] = min(times)
        equal = (labels["lattice"] == labels["pydensecrf"]).mean()
        print(
            f"dense CRF {edge} x {edge}, {LABELS} labels: lattice {seconds['lattice']:.2f} s, pydensecrf"
            f" {seconds['pydensecrf']:.2f} s, ratio {seconds['lattice'] / seconds['pydensecrf']:.2f},"
            f" equal labels {100 * equal:.2f} %"
        )


if __name__ == "__main__":
    main()
