"""Check the two pictures of `make demo`: ``python tools/check_demo.py demo_out/demo.png``.

The first shows the tissue under its mask, the second the slide under a prototype's heatmap. Exits with 1 and one line
where a picture is absent, of one colour, or shows no mask or no heatmap.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

STAINED = range(185, 256)  # hues of H&E, violet to pink, of 256; the mask's colours over it have others
COVERED = 0.8  # least share of the coloured canvas that has the mask's colours
CHANGED = 0.2  # least share of the canvas that the heatmap changes


def canvas(path: Path) -> np.ndarray:
    """Cut out the middle of a picture of the window, where the slide is: (H, W, 3) uint8 RGB."""
    if not path.is_file():
        raise SystemExit(f"{path}: there is no such picture")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    height, width = pixels.shape[:2]
    middle = pixels[height // 4 : height * 3 // 4, int(width * 0.3) : int(width * 0.6)]
    if (middle == middle[0, 0]).all():
        raise SystemExit(f"{path}: the canvas has one colour only")
    return middle


def masked_share(pixels: np.ndarray) -> float:
    """Compute the share of the coloured pixels whose hue is none of the stain's."""
    hue, saturation, value = (np.asarray(band) for band in Image.fromarray(pixels).convert("HSV").split())
    coloured = (saturation > 64) & (value > 64)
    return float(np.mean(~np.isin(hue[coloured], STAINED))) if coloured.any() else 0.0


def check(picture: Path) -> None:
    """Exit with a line where the picture at `picture`, or the heatmap's beside it, is not as it ought to be."""
    mask = canvas(picture)
    heatmap = canvas(picture.with_name(f"{picture.stem}_prototypes{picture.suffix}"))
    if (share := masked_share(mask)) < COVERED:
        raise SystemExit(f"{picture}: the mask covers {share:.0%} of the coloured tissue, expected {COVERED:.0%}")
    changed = float((np.abs(mask.astype(int) - heatmap).max(-1) > 32).mean())
    if changed < CHANGED:
        raise SystemExit(f"{picture}: the heatmap's picture differs in {changed:.0%} only, expected {CHANGED:.0%}")
    print(f"{picture}: the mask covers {share:.0%} of the coloured tissue; the heatmap changes {changed:.0%}")


if __name__ == "__main__":
    check(Path(sys.argv[1]))
