"""Small real data for all tests: made here or shipped in sample_data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_lpd import samples
from napari_lpd.config import ModelSettings, TissueClass, TrainSettings
from napari_lpd.regions import Region
from napari_lpd.slide import Slide, open_slide

SHARED = Path(os.environ.get("NAPARI_LPD_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_slides() -> Path:
    """Real and odd slides that are not part of the project."""
    folder = SHARED / "data" / "slides"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: real and odd slides are not part of the project")
    return folder


@pytest.fixture
def classes() -> tuple[TissueClass, ...]:
    return (TissueClass(name="dark", color="#3b4cff"), TissueClass(name="pink", color="#ff8c1a"))


@pytest.fixture
def tiny_image() -> np.ndarray:
    """(256, 384, 3): left half dark violet, right half pink, with noise."""
    rng = np.random.default_rng(0)
    image = np.empty((256, 384, 3))
    image[:, :192] = (90, 50, 130)
    image[:, 192:] = (235, 150, 180)
    return np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def tiny_slide(tiny_image: np.ndarray) -> Slide:
    return Slide.from_levels([tiny_image, tiny_image[::2, ::2]], (1.0, 1.0), "tiny")


@pytest.fixture
def tiny_tiff(tiny_image: np.ndarray, tmp_path: Path) -> Path:
    """The tiny slide as a tiled TIFF with resolution tags of 1 µm per pixel."""
    path = tmp_path / "tiny.tiff"
    options = {"tile": (64, 64), "photometric": "rgb", "resolutionunit": "CENTIMETER", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(tiny_image, resolution=(1e4, 1e4), **options)
        tiff.write(tiny_image[::2, ::2], resolution=(5e3, 5e3), subfiletype=1, **options)
    return path


@pytest.fixture
def tiny_regions() -> list[Region]:
    left = np.array([[0, 0], [0, 190], [256, 190], [256, 0]], float)
    return [Region(left, ("dark",)), Region(left + np.array([0, 194]), ("pink",))]


@pytest.fixture
def tiny_settings() -> TrainSettings:
    model = ModelSettings(prototypes_per_class=2, prototype_dim=32)
    return TrainSettings(model=model, tile=64, tile_step=48, max_steps=3, batch=4, threads=1)


@pytest.fixture
def skin():
    with open_slide(samples.skin_slide_path()) as slide:
        yield slide
