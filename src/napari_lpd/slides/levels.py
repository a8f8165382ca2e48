"""Levels of a slide: their shapes, checked before they are believed, and the function that reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_lpd.core.errors import SlideError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_lpd.core.geometry import Box

COPY = "copy or export it again"
MAX_PIXELS, MAX_PIXELS_PER_BYTE = 2**28, 256  # an image may have the first, and so many more by its file's size
ReadLevel = Callable[[int, int, int, int, int], "NDArray[np.uint8]"]
Convert = Callable[["NDArray[np.uint8]"], "NDArray[np.uint8]"]


class DamagedError(SlideError):
    """A location on a slide cannot be decoded; the rest may be intact."""

    @classmethod
    def at(
        cls, name: str, shapes: Sequence[tuple[int, int]], level: int, window: Box, error: Exception
    ) -> DamagedError:
        """Build the error for a window (y, x, h, w) of a level, with its level-0 location; `shapes` as in `Levels`."""
        y, x, h, w = window
        top, left = (round(v * n / m) for v, n, m in zip((y, x), shapes[0], shapes[level], strict=True))
        return cls(f"{name}: damaged at level-0 x {left}, y {top} (level {level}, {w}x{h}): {one_line(error)}")


@dataclass(frozen=True)
class Levels:
    """Levels of a slide, and the function that reads them.

    Attributes:
        shapes: (H, W) of each level, biggest first.
        read: (level, y, x, h, w) inside the level → (h, w, 3) uint8; safe to call from several threads.
        close: Closes the file; called once, after the last read.
        icc: Treatment of the colour profile.
        bounds: (y0, x0, y1, x1) of what the scanner scanned, in pixels of the biggest, where a file says so.
        notes: What the user should know of the choice that was made, a sentence each.
        image: Number of the image in its file, where the user chose another than the biggest.
        number: Number of the image in its file.
        images: All images of the file, by number, where there are several to choose from: "2 'slide' 384 x 256".
        reader: What decodes the pixels.
    """

    shapes: Sequence[tuple[int, int]]
    read: ReadLevel
    close: Callable[[], None] = lambda: None
    icc: str = "as stored"
    bounds: Box | None = None
    notes: tuple[str, ...] = ()
    image: int | None = None
    number: int = 1
    images: Mapping[int, str] = field(default_factory=dict)
    reader: str = "NumPy"


def check_pixels(name: str, shape: tuple[int, int], size: int) -> None:
    """Raise SlideError if a file of `size` bytes cannot hold an image of `shape` (H, W)."""
    height, width = shape
    if min(shape) < 1 or height * width > MAX_PIXELS + MAX_PIXELS_PER_BYTE * size:
        raise SlideError(
            f"{name}: damaged (says it has {width} x {height} pixels, and cannot in {size / 1e6:.3g} MB): {COPY}"
        )


def is_level(shape: tuple[int, int], base: tuple[int, int], slack: float = 0.0) -> bool:
    """Return whether an image can be a smaller copy of `base`, (H, W) each: one factor, rounded to whole pixels.

    Args:
        shape: Of the smaller image.
        base: Of the bigger one.
        slack: Part by which the two factors may differ besides.
    """
    if min(shape) < 1 or any(n > m for n, m in zip(shape, base, strict=True)) or shape == base:
        return False
    least = max(m / (n + 1) for n, m in zip(shape, base, strict=True))
    most = min(m / (n - 1) if n > 1 else float("inf") for n, m in zip(shape, base, strict=True))
    return least <= most * (1 + slack)


def checked(name: str, levels: Levels, size: int, slack: float = 0.0) -> Levels:
    """Return the levels that a file of `size` bytes can hold and that fall at one aspect; the others are left out.

    Raises:
        SlideError: the biggest is impossible.
    """
    if not levels.shapes:
        raise SlideError(f"{name}: damaged (it contains no image): {COPY}")
    check_pixels(name, levels.shapes[0], size)
    kept = [0]
    for level, shape in enumerate(levels.shapes):
        before = levels.shapes[kept[-1]]
        if is_level(shape, levels.shapes[0], slack) and (shape[0] < before[0] or shape[1] < before[1]):
            kept.append(level)
    if len(kept) == len(levels.shapes):
        return levels

    def read(level: int, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
        return levels.read(kept[level], y, x, h, w)

    return replace(levels, shapes=[levels.shapes[level] for level in kept], read=read)


def array_levels(arrays: Sequence[Any], convert: Convert | None = None, icc: str = "as stored") -> Levels:
    """Wrap arrays (H, W, 3 or 4) uint8, biggest first, as levels; `convert` changes the colours (h, w, 3)."""
    images = list(arrays)
    shapes = [(int(array.shape[0]), int(array.shape[1])) for array in images]

    def read(level: int, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
        return on_white(np.asarray(images[level][y : y + h, x : x + w]), convert)

    return Levels(shapes, read, images.clear, icc)


def on_white(pixels: NDArray[np.uint8], convert: Convert | None = None) -> NDArray[np.uint8]:
    """Convert the colours of pixels (h, w, 3 or 4), then blend them with white by transparency: (h, w, 3)."""
    colors = np.empty((*pixels.shape[:2], 3), np.uint8)
    for channel in range(3):  # several times as fast as copying pixels[..., :3]
        colors[..., channel] = pixels[..., channel]
    if convert is not None:
        colors = convert(colors)
    alpha = pixels[..., 3:]
    if pixels.shape[2] == 3 or alpha.min() == 255:
        return colors
    share = alpha.astype(np.float32) / 255
    return np.rint(colors * share + 255 * (1 - share)).astype(np.uint8)
