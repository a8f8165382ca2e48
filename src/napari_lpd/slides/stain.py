"""The colours of stained tissue: what a model was trained on, how far a slide is from that, and matching the two.

Everything is measured on stained pixels alone, in optical density, OD = -ln(I / 255) per channel (Beer-Lambert), where
the amount of stain is linear.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, NamedTuple

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
MIN_STAINED = 0.05  # share of stained pixels below which an image says nothing of the stain
SAMPLED = 24  # places of a slide, or tiles of a source, that are looked at
MIN_SPREAD = 0.02  # OD
MIN_DEVIATIONS = (0.01, 0.01, 0.01, 0.1)
"""Of a look; tiles of one region hardly differ, and that is no reason to call a slide foreign."""
FOREIGN = 2.5
"""Departure from which colours are called far from the training tiles'. Among H&E slides of one laboratory 0.2 to 0.9
were measured, between laboratories 3 to 12, and 2 to 3 for models trained on tiles of many laboratories."""

DENSITIES = -np.log(np.maximum(np.arange(256), 1).astype(np.float32) / np.float32(255))  # OD of every intensity
Three = tuple[float, float, float]
Four = tuple[float, float, float, float]


class StainStatistics(Settings):
    """Colours of the stained pixels of tiles; per channel in the order red, green, blue."""

    density: Annotated[Three, Field(description="Mean OD per channel.")]
    spread: Annotated[Three, Field(description="Standard deviation of the OD over a tile's pixels, per channel.")]
    look: Annotated[Four, Field(description="Each channel's share of the OD, and ln of the mean OD; means over tiles.")]
    look_deviation: Annotated[Four, Field(description="Standard deviations of the look over the tiles.")]

    def distance(self, other: StainStatistics) -> float:
        """How unusual another's look is among these tiles: the largest of four differences, in their deviations."""
        own = np.maximum(self.look_deviation, MIN_DEVIATIONS)
        return float(np.max(np.abs(np.subtract(other.look, self.look)) / own))


class TileStain(NamedTuple):
    """Colours of the stained pixels of one tile, as in `StainStatistics`: (3,), (3,), (4,)."""

    density: NDArray[np.float64]
    spread: NDArray[np.float64]
    look: NDArray[np.float64]


def density(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """OD of an image (..., 3) uint8; full black counts as 1/255."""
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
    found = [look for image in images if (look := look_of(image)) is not None]
    if not found:
        return None
    densities, spreads, looks = (np.array(part) for part in zip(*found, strict=True))
    return StainStatistics(
        density=tuple(densities.mean(0).tolist()),
        spread=tuple(spreads.mean(0).tolist()),
        look=tuple(looks.mean(0).tolist()),
        look_deviation=tuple(looks.std(0).tolist()),
    )


def colours_of_slide(slide: Slide, tissue: TissueMask, mpp: float, edge: int) -> StainStatistics | None:
    """Measure the stain of up to `SAMPLED` tiles spread over a slide's tissue; unreadable places are passed over.

    Args:
        slide: What is looked at.
        tissue: Where it holds tissue.
        mpp: Resolution of the tiles, in µm per pixel: the model's.
        edge: Their edge in pixels: the model's tile.
    """
    places = np.argwhere(tissue.array)
    count = math.ceil(min(len(places) * (tissue.mpp / mpp / edge) ** 2, SAMPLED))  # more would see the same pixels
    count = min(count, len(places))
    chosen = places[((np.arange(count) + 0.5) / max(count, 1) * len(places)).astype(int)]
    origins = np.round((chosen + 0.5) * tissue.mpp / mpp - edge / 2).astype(int)

    def tiles() -> Iterable[NDArray[np.uint8]]:
        for y, x in origins:
            pixels, damaged = slide.read_tolerant((int(y), int(x)), (edge, edge), mpp)
            if not damaged:
                yield pixels

    return colours_of(tiles())


def matched(image: NDArray[np.uint8], own: StainStatistics, wanted: StainStatistics) -> NDArray[np.uint8]:
    """An image (H, W, 3) with its OD moved and stretched, per channel, from its own colours to the wanted ones.

    Reinhard et al. 2001, in OD instead of lαβ; unstained glass stays as it is, and what lies between is moved in part.
    """
    od = density(image)
    here, there = np.array(own.density, np.float32), np.array(wanted.density, np.float32)
    gain = np.array(wanted.spread, np.float32) / np.maximum(own.spread, MIN_SPREAD).astype(np.float32)
    moved = (od - here) * gain + there
    stain = np.clip(od.mean(-1, keepdims=True) / STAINED, 0, 1)
    return np.clip(np.exp(-(od + stain * (moved - od))) * 255 + 0.5, 0, 255).astype(np.uint8)


def matching(
    read: Callable[[int], NDArray[np.uint8]], sources: Sequence[str], wanted: StainStatistics
) -> Callable[[int], NDArray[np.uint8]]:
    """`read` with the colours of every source matched to `wanted`; a source without stain stays as it is.

    Args:
        read: Image i, (H, W, 3).
        sources: Per image: the slide or patient it comes from; up to `SAMPLED` images of each tell its colours.
        wanted: The colours to match.
    """
    own: dict[str, StainStatistics | None] = {}
    of_source: dict[str, list[int]] = {}
    for index, source in enumerate(sources):
        of_source.setdefault(source, []).append(index)

    def matched_image(index: int) -> NDArray[np.uint8]:
        source = sources[index]
        if source not in own:
            indices = of_source[source]
            looked = np.unique(np.linspace(0, len(indices) - 1, min(len(indices), SAMPLED)).astype(int))
            own[source] = colours_of(read(indices[i]) for i in looked)
        found, image = own[source], read(index)
        return image if found is None else matched(image, found, wanted)

    return matched_image


def slide_matcher(
    slide: Slide, wanted: StainStatistics | None, tissue: TissueMask, mpp: float, edge: int
) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """What moves a slide's pixels to the wanted colours; with None, or a slide without stain, they stay as they are.

    `tissue`, `mpp` and `edge` as for `colours_of_slide`.
    """
    own = None if wanted is None else colours_of_slide(slide, tissue, mpp, edge)
    if wanted is None or own is None:
        return lambda pixels: pixels
    return lambda pixels: matched(pixels, own, wanted)


def warning_of(departure: float) -> str:
    """What a user is told of a slide whose colours are far from the training tiles'; "" where they are not."""
    if departure < FOREIGN:
        return ""
    return (
        f"the slide's colours are far from the training tiles' ({departure:.1f} standard deviations; {FOREIGN:g} is"
        " unusual): trust the mask less, or train with stain_normalisation=slide, or on tiles of such slides"
    )
