"""The default colours of classes, as people with and without colour blindness see them."""

import itertools

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from napari_lpd import samples
from napari_lpd.core.classes import COLORS, read_classes

# Dichromats' sight in linear RGB: Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009, severity 1.0.
SIGHT = {
    "full colour vision": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# Nuclei, cellular tissue, collagen and glass of CMU-1: centres of four clusters of its pixels.
STAINED = [(66, 36, 79), (150, 83, 129), (203, 142, 175), (244, 242, 243)]


def seen(rgb: list[tuple[int, int, int]], sight: str) -> np.ndarray:
    """Return colours of 0..255, (n, 3), as CIELAB for that sight."""
    value = np.asarray(rgb) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.asarray(SIGHT[sight]).T, 0, 1)
    value = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(value[None])[0]


def rgb_of(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


@pytest.mark.parametrize("sight", SIGHT)
def test_default_colours_are_told_apart_and_from_stained_tissue(sight):
    shown = seen([rgb_of(color) for color in COLORS], sight)

    between = [float(deltaE_ciede2000(a, b)) for a, b in itertools.combinations(shown, 2)]
    assert min(between) >= 15
    assert deltaE_ciede2000(shown[:, None], seen(STAINED, sight)[None]).min() >= 15


def test_the_sample_uses_the_default_colours():
    assert {tissue.color for tissue in read_classes(samples.classes_path())} == set(COLORS[:4])
