"""Stain statistics of tiles and slides: how far a slide is from the training tiles, and matching its colours to them.

Everything is measured on stained pixels alone, in optical density, OD = -ln(I / 255) per channel (Beer-Lambert), where
the amount of stain is linear.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import Field

from napari_lpd.core.settings.base import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from napari_lpd.slides.slide import Slide
    from napari_lpd.slides.tissue import TissueMask

STAINED = 0.15
"""Mean OD over the channels from which a pixel counts as stained (Macenko et al. 2009, β)."""
MIN_STAINED = 0.05  # share of stained pixels below which an image is not measured
SAMPLED = 24  # tiles of a slide or patient that are measured
MIN_SPREAD = 0.02  # OD
MIN_DEVIATIONS = (0.01, 0.01, 0.01, 0.1)
"""Lower limits of the deviations of a look: tiles of one region hardly differ, which makes no slide foreign."""
FOREIGN = 2.5
"""Distance from which colours count as far from the training tiles'. Measured were 0.2 to 0.9 among H&E slides of one
laboratory, 3 to 12 between laboratories, and 2 to 3 for models trained on tiles of many laboratories."""

DENSITIES = -np.log(np.maximum(np.arange(256), 1).astype(np.float32) / np.float32(255))  # OD of every intensity
Three = tuple[float, float, float]
Four = tuple[float, float, float, float]


class StainStatistics(Settings):
    """Colours of the stained pixels of tiles; per channel in the order red, green, blue."""

    density: Three = Field(description="Mean OD per channel.")
    spread: Three = Field(description="Standard deviation of the OD over a tile's pixels, per channel.")
    look: Four = Field(description="Each channel's share of the OD, and ln of the mean OD; means over tiles.")
    look_deviation: Four = Field(description="Standard deviations of the look over the tiles.")

    def distance(self, other: StainStatistics) -> float:
        """Measure how unusual another look is among these tiles: the largest of four differences, in deviations."""
        deviations = np.maximum(self.look_deviation, MIN_DEVIATIONS)
        return float(np.max(np.abs(np.subtract(other.look, self.look)) / deviations))


class TileStain(NamedTuple):
    """Colours of the stained pixels of one tile, as in `StainStatistics`: (3,), (3,), (4,)."""

    density: NDArray[np.float64]
    spread: NDArray[np.float64]
    look: NDArray[np.float64]


def density(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert an image (..., 3) uint8 to OD; full black counts as 1/255."""
    return DENSITIES[image]


def look_of(image: NDArray[np.uint8]) -> TileStain | None:
    """Measure the stain of every second pixel of an image (H, W, 3); None where under a twentieth is stained."""
    od = density(image[::2, ::2]).reshape(-1, 3)
    stained = od[od.sum(1) > 3 * STAINED].astype(np.float64)
    if len(stained) < max(MIN_STAINED * len(od), 2):
        return None
    shares = (stained / stained.sum(1, keepdims=True)).mean(0)
    return TileStain(stained.mean(0), stained.std(0), np.array([*shares, np.log(stained.mean())]))


def colours_of(images: Iterable[NDArray[np.uint8]]) -> StainStatistics | None:
    """Measure the stain of tiles; None where none of them is stained."""
    stains = [look for image in images if (look := look_of(image)) is not None]
    if not stains:
        return None
    densities, spreads, looks = (np.array(values) for values in zip(*stains, strict=True))
    return StainStatistics(
        density=tuple(densities.mean(0).tolist()),
        spread=tuple(spreads.mean(0).tolist()),
        look=tuple(looks.mean(0).tolist()),
        look_deviation=tuple(looks.std(0).tolist()),
    )


def colours_of_slide(slide: Slide, tissue: TissueMask, mpp: float, edge: int) -> StainStatistics | None:
    """Measure the stain of up to `SAMPLED` tiles spread over a slide's tissue; unreadable ones are skipped.

    Args:
        slide: The slide.
        tissue: Its tissue mask.
        mpp: Resolution of the tiles, in µm per pixel: the model's.
        edge: Edge of the tiles in pixels: the model's.
    """
    locations = np.argwhere(tissue.array)
    count = math.ceil(min(len(locations) * (tissue.mpp / mpp / edge) ** 2, SAMPLED))  # more would overlap
    count = min(count, len(locations))
    chosen = locations[((np.arange(count) + 0.5) / max(count, 1) * len(locations)).astype(int)]
    origins = np.round((chosen + 0.5) * tissue.mpp / mpp - edge / 2).astype(int)

    def tiles() -> Iterable[NDArray[np.uint8]]:
        for y, x in origins:
            pixels, damaged = slide.read_tolerant((int(y), int(x)), (edge, edge), mpp)
            if not damaged:
                yield pixels

    return colours_of(tiles())


def matched(image: NDArray[np.uint8], current: StainStatistics, target: StainStatistics) -> NDArray[np.uint8]:
    """Shift and scale the OD of an image (H, W, 3), per channel, from its `current` statistics to the `target`.

    Reinhard et al. 2001, in OD instead of lαβ; unstained glass stays, and weakly stained pixels change in part.
    """
    od = density(image)
    current_mean, target_mean = np.array(current.density, np.float32), np.array(target.density, np.float32)
    gain = np.array(target.spread, np.float32) / np.maximum(current.spread, MIN_SPREAD).astype(np.float32)
    moved = (od - current_mean) * gain + target_mean
    stain = np.clip(od.mean(-1, keepdims=True) / STAINED, 0, 1)
    return np.clip(np.exp(-(od + stain * (moved - od))) * 255 + 0.5, 0, 255).astype(np.uint8)


def matching(
    read: Callable[[int], NDArray[np.uint8]], sources: Sequence[str], target: StainStatistics
) -> Callable[[int], NDArray[np.uint8]]:
    """Wrap `read` to match the colours of every slide or patient to `target`; those without stain stay as they are.

    Args:
        read: Image i, (H, W, 3).
        sources: Per image: the slide or patient it comes from; up to `SAMPLED` images of each are measured.
        target: The colours to match.
    """
    measured: dict[str, StainStatistics | None] = {}
    indices_of: dict[str, list[int]] = {}
    for index, source in enumerate(sources):
        indices_of.setdefault(source, []).append(index)

    def matched_image(index: int) -> NDArray[np.uint8]:
        source = sources[index]
        if source not in measured:
            indices = indices_of[source]
            chosen = np.unique(np.linspace(0, len(indices) - 1, min(len(indices), SAMPLED)).astype(int))
            measured[source] = colours_of(read(indices[i]) for i in chosen)
        current, image = measured[source], read(index)
        return image if current is None else matched(image, current, target)

    return matched_image


def slide_matcher(
    slide: Slide, target: StainStatistics | None, tissue: TissueMask, mpp: float, edge: int
) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return a function that matches a slide's pixels to `target`; without target or stain it changes nothing.

    `tissue`, `mpp` and `edge` as for `colours_of_slide`.
    """
    current = None if target is None else colours_of_slide(slide, tissue, mpp, edge)
    if target is None or current is None:
        return lambda pixels: pixels
    return lambda pixels: matched(pixels, current, target)


def warning_of(departure: float) -> str:
    """Return the warning for a slide whose colours are far from the training tiles', else an empty text."""
    if departure < FOREIGN:
        return ""
    return (
        f"the slide is stained differently from the training tiles ({departure:.1f} standard deviations; {FOREIGN:g} is"
        " unusual); the mask may be wrong: train with stain_normalisation=slide, or on tiles of such slides"
    )
