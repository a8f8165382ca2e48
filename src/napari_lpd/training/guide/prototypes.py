"""What each prototype of the live model answers to, on the cells of a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_lpd.core.errors import DataError
from napari_lpd.data.tileset import RIM
from napari_lpd.models.network import LPD, STAGES_USED, used_stages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_lpd.models.network import LoadedModel
    from napari_lpd.training.live import CellIndex, LiveModel, LiveSlide


@torch.inference_mode()
def prototype_maps(
    live: LiveModel, slide: LiveSlide, cell: CellIndex, tissue: str, model: LoadedModel | None = None
) -> NDArray[np.float32]:
    """Compute how strongly the prototypes of a tissue answer in a cell.

    Args:
        live: The live model.
        slide: The slide.
        cell: Which of its cells.
        tissue: One of the model's classes.
        model: Another one of the same encoder, as `LiveModel.clustered` gives it; default: what was learned last.

    Returns:
        (k, CELL / stride, CELL / stride): cosines over the level that counts as 1 in the tissue's map; below 0: 0.

    Raises:
        DataError: nothing was learned yet, or not of this tissue.
    """
    model = model or live.model
    names = [] if model is None else [each.name for each in model.card.classes]
    if model is None or tissue not in names:
        raise DataError(f"the live model has not learned {tissue}: draw a region of it")
    network, index = model.network, names.index(tissue)
    assert isinstance(network, LPD) and network.joint is not None
    joined = torch.from_numpy(live.features(slide, cell)).movedim(2, 0)[None].to(model.device).float()
    (stage,) = used_stages(network)  # a joint head has one
    maps = network.from_joined(joined, [STAGES_USED[stage]]).outputs[0][0]
    rim = RIM // network.joint.stride
    own = maps[index * network.k : (index + 1) * network.k, rim:-rim, rim:-rim]
    found: NDArray[np.float32] = (own / model.card.map_scale[stage][index]).clamp(min=0).float().cpu().numpy()
    return found
