"""From slide to Prediction: raw cosine maps are blended over the region, then the CAM rules act on the region.

The rules (merge, gate, normalise, fuse, background) are the pure functions of this module, used in that order by
`label_scores`. An absent class is switched off in one place: `fuse`.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from napari_lpd.errors import SettingsError
from napari_lpd.jobs import Job, Progress
from napari_lpd.model import STAGES_USED, LoadedModel, merge_prototypes, output_stride, presence_scores
from napari_lpd.prediction import Prediction
from napari_lpd.slide import Slide, um_box_to_pixels
from napari_lpd.tiles import Stitcher, TileGrid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_lpd.config import PredictSettings

STRIP = 512


def class_presence(stages: Sequence[Tensor], k: int, window: int, how: Literal["mean", "soft"] = "mean") -> Tensor:
    """The model's own score that a class occurs around each place.

    What training calls the score of a tile (mean over the tile, mean over prototypes), taken in a window of a
    training tile's size around every place.

    Args:
        stages: Per used stage (C·k, h, w) scaled cosines.
        k: Prototypes per class.
        window: Edge of the window in map pixels, odd.
        how: How training merged the prototypes.

    Returns:
        (C, h, w) in 0..1.
    """
    scores = []
    for maps in stages:
        half = window // 2
        means = avg_pool2d(pad(maps[None], [half] * 4, mode="replicate"), window, stride=1)
        scores.append(merge_prototypes(means, k, how)[0])
    return presence_scores(scores)


def normalise(class_map: Tensor, scale: Sequence[float]) -> Tensor:
    """Class maps (C, h, w) → 0..1 with one constant per class from the training tiles: the same on every region."""
    return (class_map.clamp(min=0) / torch.tensor(scale)[:, None, None]).clamp(max=1)


def fuse(stages: Sequence[Tensor], weights: Sequence[float], present: Tensor) -> Tensor:
    """Weighted sum of the normalised class maps; an absent class is -inf, so that it can never win.

    Args:
        stages: Per used stage (C, h, w) in 0..1.
        weights: One weight per stage.
        present: (C, h, w) or (C, 1, 1) bool, the gate.
    """
    fused = torch.stack([weight * maps for weight, maps in zip(weights, stages, strict=True)]).sum(0)
    return fused.masked_fill(~present, -torch.inf)


def background(fused: Tensor, power: float) -> Tensor:
    """Score of "none of the classes": (1 - max_c F_c)^power (method.md §7), (h, w)."""
    return (1 - fused.amax(-3).clamp(0, 1)) ** power


def label_scores(stages: Sequence[Tensor], presence: Tensor, model: LoadedModel, settings: PredictSettings) -> Tensor:
    """Blended cosine maps of a region → (C + 1, h, w) scores; index 0 is the background."""
    thresholds = settings.presence or torch.tensor(model.card.presence)[:, None, None]
    how = model.network.settings.merge_predict
    merged = [merge_prototypes(maps[None], model.network.k, how)[0] for maps in stages]
    normalised = [normalise(m, scale) for m, scale in zip(merged, model.card.map_scale, strict=True)]
    fused = fuse(normalised, model.network.settings.stage_fusion, presence >= thresholds)
    return torch.cat([background(fused, settings.background_power)[None], fused])


@torch.inference_mode()
def predict_region(
    slide: Slide,
    model: LoadedModel,
    settings: PredictSettings,
    box_um: tuple[float, float, float, float] | None = None,
) -> Job[Prediction]:
    """Predict a whole slide, or the part of it inside `box_um` (y0, x0, y1, x1 in µm from the slide's corner).

    Raises:
        SlideError: no resolution, or a damaged place.
        SettingsError: the region is empty or lies outside the slide.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    mpp = settings.mpp or model.card.settings.mpp
    height, width = slide.shape_at(mpp)
    stride = output_stride(model.network)
    y0, x0, y1, x1 = (0, 0, height, width) if box_um is None else um_box_to_pixels(box_um, mpp)
    wanted = (max(y0, 0), max(x0, 0), min(y1, height), min(x1, width))
    window = model.card.settings.tile // stride | 1
    if wanted[0] >= wanted[2] or wanted[1] >= wanted[3]:
        raise SettingsError(f"empty region: y {y0}..{y1}, x {x0}..{x1} of a slide of {height} x {width} pixels")
    box = _padded_to_stride(wanted, window * stride // 2, stride, (height, width))
    tile = settings.tile - settings.tile % stride
    grid = TileGrid(box, tile, settings.overlap - settings.overlap % (2 * stride))
    stitcher = Stitcher(box, len(STAGES_USED) * model.network.prototype_count, tile, stride)
    done = 0
    for origins, maps in score_tiles(slide, grid, mpp, model, settings):
        for origin, tile_maps in zip(origins, maps, strict=True):
            stitcher.add(origin, tile_maps)
        done += len(origins)
        yield Progress(done, len(grid), "tiles")
    blended = torch.from_numpy(stitcher.result())
    stages = blended.reshape(len(STAGES_USED), -1, *blended.shape[1:])
    presence = class_presence(list(stages), model.network.k, window, model.network.settings.merge_train)
    scores = label_scores(list(stages), presence, model, settings)
    yield Progress(done, len(grid), "putting the map together")
    return _finish(slide, model, settings, mpp, box, wanted, stages, presence, scores)


def _padded_to_stride(
    wanted: tuple[int, int, int, int], halo: int, stride: int, limits: tuple[int, int]
) -> tuple[int, int, int, int]:
    low = [max(0, value - halo) // stride * stride for value in wanted[:2]]
    high = [-(-min(limit, value + halo) // stride) * stride for value, limit in zip(wanted[2:], limits, strict=True)]
    return low[0], low[1], high[0], high[1]


def score_tiles(
    slide: Slide, grid: TileGrid, mpp: float, model: LoadedModel, settings: PredictSettings
) -> Iterator[tuple[tuple[tuple[int, int], ...], NDArray[np.float32]]]:
    """Read the grid's tiles in batches and score them.

    Yields:
        The batch's origins, and its scaled cosines (B, 3·N, tile / stride, tile / stride), stage-major.
    """
    shape = (grid.tile, grid.tile)
    size = grid.tile // output_stride(model.network)
    remaining = iter(grid)
    while origins := tuple(islice(remaining, settings.batch)):
        tiles = np.stack([slide.read(origin, shape, mpp) for origin in origins])
        images = torch.from_numpy(tiles).to(model.device).permute(0, 3, 1, 2).float() / 255
        maps = _stacked_maps(model, images, size)
        if settings.flips:
            maps = (maps + _stacked_maps(model, images.flip(3), size).flip(3)) / 2
        yield origins, maps.cpu().numpy()


def _stacked_maps(model: LoadedModel, images: Tensor, size: int) -> Tensor:
    logits = model.network(images, STAGES_USED).logits
    same = [interpolate(maps, size=(size, size), mode="bilinear", align_corners=False) for maps in logits]
    return torch.cat(same, dim=1)


def _finish(
    slide: Slide,
    model: LoadedModel,
    settings: PredictSettings,
    mpp: float,
    box: tuple[int, int, int, int],
    wanted: tuple[int, int, int, int],
    stages: Tensor,
    presence: Tensor,
    scores: Tensor,
) -> Prediction:
    stride = output_stride(model.network)
    # Crop the halo on the map grid; the first label pixel is the first pixel of the first map pixel.
    top, left = (wanted[0] - box[0]) // stride, (wanted[1] - box[1]) // stride
    origin = (box[0] + top * stride, box[1] + left * stride)
    shape = (wanted[2] - origin[0], wanted[3] - origin[1])
    rows, columns = (-(-n // stride) for n in shape)
    crop = (slice(None), slice(top, top + rows), slice(left, left + columns))
    labels = upsampled_labels(scores, stride, (top * stride, left * stride), shape)
    if settings.tissue_only:
        labels[~tissue_at(slide, origin, shape, mpp)] = 0
    weights = torch.tensor(model.network.settings.stage_fusion)
    cosines = stages / model.network.scales.detach().cpu()[list(STAGES_USED)][:, None, None, None]
    heatmaps = (weights[:, None, None, None] * cosines).sum(0)[crop] / weights.sum()
    return Prediction(
        labels=labels,
        prototypes=_to_bytes((heatmaps + 1) / 2),
        presence=_to_bytes(presence[crop]),
        classes=model.card.classes,
        prototypes_per_class=model.network.k,
        mpp=mpp,
        stride=stride,
        origin_um=(origin[0] * mpp, origin[1] * mpp),
        slide=slide.name,
        slide_mpp=slide.mpp,
        slide_shape=slide.shape,
        mpp_source=slide.mpp_source,
        model=model.name,
        model_hash=model.hash,
        settings=settings.model_dump(),
    )


def upsampled_labels(scores: Tensor, stride: int, offset: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Winner of (C + 1, h, w) scores at every pixel of `shape` after bilinear upsampling, strip by strip.

    Strips overlap by a map pixel, so the result is that of upsampling in one piece. -inf is upsampled as a large
    negative score: a class wins only where the gate lets it.
    """
    scores = scores.clamp(min=-1e4)
    labels = np.empty(shape, np.uint8)
    columns = slice(offset[1], offset[1] + shape[1])
    for y in range(0, shape[0], STRIP):
        first, last = offset[0] + y, offset[0] + min(y + STRIP, shape[0])
        low, high = max(first // stride - 1, 0), min(-(-last // stride) + 1, scores.shape[1])
        part = interpolate(scores[None, :, low:high], scale_factor=stride, mode="bilinear", align_corners=False)[
            0, :, first - low * stride : last - low * stride, columns
        ]
        labels[y : y + STRIP] = part.argmax(0).to(torch.uint8).numpy()
    return labels


def tissue_at(slide: Slide, origin: tuple[int, int], shape: tuple[int, int], mpp: float) -> NDArray[np.bool_]:
    """The slide's tissue mask, nearest neighbour, at the pixels of a region."""
    mask, mask_mpp = slide.tissue
    rows, columns = (
        np.clip(((np.arange(n) + first + 0.5) * mpp / mask_mpp).astype(int), 0, size - 1)
        for n, first, size in zip(shape, origin, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def _to_bytes(values: Tensor) -> NDArray[np.uint8]:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
