"""Time of the dense CRF: our lattice against pydensecrf (extra crf), on real tissue, in this process.

Baseline: pydensecrf with the same kernels and iterations, which uses one thread. Measured in turn: our lattice with one
thread and with two, at half the size, and, where there is a CUDA device, on it. Beside each stands the share of labels
that equal pydensecrf's.

    python benchmarks/refinement.py [--repeats 9]
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from figures import Figure, against, in_turns, parser, report
from scipy.ndimage import gaussian_filter

from napari_lpd import samples
from napari_lpd.core.settings.prediction import CrfSettings
from napari_lpd.models.crf.dense_crf import dense_crf
from napari_lpd.slides.formats import open_slide

if TYPE_CHECKING:
    from collections.abc import Iterator

LABELS = 5
EDGES = (224, 512, 1024)
PUBLISHED, ONE, TWO, HALF, CUDA = "pydensecrf", "one thread", "two threads", "half size, one thread", "on the GPU"
WAYS = {
    PUBLISHED: (CrfSettings(), "pydensecrf", "cpu", 1),
    ONE: (CrfSettings(), "lattice", "cpu", 1),
    TWO: (CrfSettings(), "lattice", "cpu", 2),
    HALF: (CrfSettings(half_size=True), "lattice", "cpu", 1),
}
if torch.cuda.is_available():
    WAYS[CUDA] = (CrfSettings(), "lattice", "cuda", 1)
COMPARED = {  # with what, and the goal
    ONE: (PUBLISHED, "1/1.5 = 0.67, 99.9 % equal labels"),
    TWO: (ONE, "0.73"),
    HALF: (PUBLISHED, "1/4 = 0.25, 97 % equal labels"),
    CUDA: (PUBLISHED, "0.002 s at 224 px"),
}


def measure(image: np.ndarray, probability: np.ndarray, repeats: int) -> Iterator[Figure]:
    """All ways in turn, `repeats` times, after one run each that compiles and warms up."""
    labels = {way: dense_crf(image, probability, *how).argmax(0) for way, how in WAYS.items()}
    calls = [partial(dense_crf, image, probability, *how) for how in WAYS.values()]
    seconds = dict(zip(WAYS, in_turns(repeats, *calls), strict=True))
    for way in list(WAYS)[1:]:
        other, wanted = COMPARED[way]
        what = f"dense CRF, {len(image)} px, {LABELS} labels, {way}"
        equal = 100 * float((labels[way] == labels[PUBLISHED]).mean())
        figure = against(what, seconds[way], other, seconds[other], "s", wanted)
        yield replace(figure, note=f"labels equal {equal:.2f} %")


def figures(repeats: int) -> Iterator[Figure]:
    """Measure at three sizes."""
    noise = np.random.default_rng(0).random((LABELS, max(EDGES), max(EDGES)), np.float32)
    smooth = np.exp(40 * gaussian_filter(noise, (0, 20, 20)))
    probability = (smooth / smooth.sum(0)).astype(np.float32)
    with open_slide(samples.skin_slide_path()) as slide:
        image = np.array(slide.read((1500, 1500), (max(EDGES), max(EDGES)), slide.mpp[0]))
    for edge in EDGES:
        crop = np.ascontiguousarray(image[:edge, :edge])
        yield from measure(crop, np.ascontiguousarray(probability[:, :edge, :edge]), repeats)


def main() -> None:
    """Measure, print and write JSON."""
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=9)
    options = made.parse_args()
    if CUDA not in WAYS:
        print("no GPU here: the CRF on one is not timed")
    report(figures(options.repeats), options.json)


if __name__ == "__main__":
    main()
