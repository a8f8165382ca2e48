"""Results made of given labels, for the tests of what comes after a prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.results.card import PredictionCard
from napari_lpd.results.create import start_prediction
from napari_lpd.results.prediction import BlockResult, Prediction
from napari_lpd.slides.tissue import TissueMask


def predicted(
    folder: Path, labels: np.ndarray, classes, scores=None, tissue=None, finish=True, **changes
) -> Prediction:
    """A prediction on disk that holds `labels` (H, W) and `scores` (C, h, w), all tissue unless said otherwise."""
    about = {
        "classes": classes,
        "prototypes_per_class": 2,
        "mpp": 0.5,
        "shape": labels.shape,
        "stride": 8,
        "block": 512,
    }
    about |= {"slide": "a.svs", "slide_mpp": (0.25, 0.25), "slide_shape": (labels.shape[0] * 2, labels.shape[1] * 2)}
    about |= {"slide_hash": "1", "mpp_source": "given", "model": "m.safetensors", "model_hash": "0", "tissue": "found"}
    about["settings"] = PredictSettings(tile=256, block=512, background_power=2)
    card = PredictionCard(**(about | changes))
    (h, w), stride, edge = card.shape, card.stride, card.block
    cells = -(-h // stride), -(-w // stride)
    scores = np.full((len(classes), *cells), 100, np.uint8) if scores is None else scores
    coarse = np.ones([int(n * card.mpp / 16) + 2 for n in card.shape], bool) if tissue is None else tissue
    prediction = start_prediction(
        folder, card, lambda: (TissueMask(coarse, 16.0), [[1.0] * len(classes)] * 3), replace=True
    )
    for y in range(0, h, edge):
        for x in range(0, w, edge):
            here = (..., slice(y // stride, (y + edge) // stride), slice(x // stride, (x + edge) // stride))
            maps = np.stack([scores[here], 255 - scores[here]], 1)
            there = np.full_like(scores[here], 255)
            own = BlockResult(labels[y : y + edge, x : x + edge], scores[here], there, maps, scores[0][here])
            prediction.write_block((y // edge, x // edge), own)
    if finish:
        prediction.finish()
    return Prediction.open(folder)
