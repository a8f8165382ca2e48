"""How good a prediction is. Today: recall inside regions that were outlined for checking."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from skimage.draw import polygon2mask

from napari_lpd.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_lpd.prediction import Prediction
    from napari_lpd.regions import Region


def region_mask(region: Region, prediction: Prediction) -> NDArray[np.bool_]:
    """Pixels of `prediction` whose centres lie in `region`: (H, W) bool."""
    scale = np.array(prediction.slide_mpp) / prediction.mpp
    origin = np.array(prediction.origin_um) / prediction.mpp
    return polygon2mask(prediction.labels.shape, region.vertices * scale - origin - 0.5)


def region_confusion(prediction: Prediction, regions: Sequence[Region]) -> NDArray[np.int64]:
    """Pixel counts inside regions of one tissue: (C, C + 1), rows = outlined class, column 0 = unlabelled.

    Raises:
        DataError: no region carries exactly one of the prediction's classes.
    """
    names = [tissue.name for tissue in prediction.classes]
    confusion = np.zeros((len(names), len(names) + 1), np.int64)
    for region in regions:
        if len(region.tissues) == 1 and region.tissues[0] in names:
            predicted = prediction.labels[region_mask(region, prediction)]
            confusion[names.index(region.tissues[0])] += np.bincount(predicted, minlength=len(names) + 1)
    if not confusion.any():
        raise DataError(
            f"{prediction.slide}: no check region with exactly one of {', '.join(names)} lies in the prediction"
        )
    return confusion


def recall_metrics(confusion: NDArray[np.int64], names: Sequence[str]) -> dict[str, float]:
    """Recall per class that was outlined, their mean, and what always guessing the most frequent class would reach.

    Args:
        confusion: (C, C + 1) from `region_confusion`.
        names: The C class names.
    """
    outlined = [i for i in range(len(names)) if confusion[i].sum()]
    recalls = {f"recall {names[i]}": float(confusion[i, i + 1] / confusion[i].sum()) for i in outlined}
    mean = float(np.mean(list(recalls.values())))
    return {**recalls, "mean recall": mean, "mean recall of a majority guess": 1 / len(outlined)}
