"""Small real data for all tests: made here or shipped in sample_data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import tifffile
from PIL import Image, ImageCms

from napari_lpd import samples
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.settings.training import ModelSettings, TrainSettings
from napari_lpd.data.regions import Region
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.slide import Slide

SHARED = Path(os.environ.get("NAPARI_LPD_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session", autouse=True)
def _logs_of_errors(tmp_path_factory):
    """Logs of unexpected errors go to a folder of the tests, those of child processes, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platformdirs, "user_log_path", lambda *_, **__: tmp_path_factory.getbasetemp() / "logs")
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp()))
        yield


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
def swapped() -> bytes:
    """An sRGB profile whose red and green primaries are exchanged, and its gamma curves kept."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"xXYZ").replace(b"gXYZ", b"rXYZ").replace(b"xXYZ", b"gXYZ")


@pytest.fixture
def tiny_regions() -> list[Region]:
    left = np.array([[0, 0], [0, 190], [256, 190], [256, 0]], float)
    return [Region(left, ("dark",)), Region(left + np.array([0, 194]), ("pink",))]


@pytest.fixture
def pretrained_settings() -> TrainSettings:
    """A short training with the encoder that is part of the package."""
    model = ModelSettings(prototypes_per_class=2, prototype_dim=32)
    return TrainSettings(model=model, tile=64, tile_step=48, max_steps=3, batch=4, threads=1)


@pytest.fixture
def tiny_settings(pretrained_settings) -> TrainSettings:
    """The same with an encoder that takes a fifth of the time and has learned nothing."""
    chosen = {"encoder": "test_efficientnet", "encoder_weights": "random"}
    model = pretrained_settings.model.model_copy(update=chosen)
    return pretrained_settings.model_copy(update={"model": model})


@pytest.fixture
def skin():
    with open_slide(samples.skin_slide_path()) as slide:
        yield slide


@pytest.fixture
def tile_folder(tmp_path: Path, tiny_image: np.ndarray) -> Path:
    """A data set in BCSS-WSSS layout: train/NAME[10].png and valid/{img,mask}, 64 px tiles of the tiny slide.

    Four sources a..d in training, three v..x in validation; dark is class 0, pink 1; the mask has a white corner.
    """
    folder = tmp_path / "tiles [11]"
    for part in ("train", "valid/img", "valid/mask"):
        (folder / part).mkdir(parents=True)
    for i in range(24):
        y, x = 64 * (i % 4), (0, 64, 128, 160, 200, 300)[i % 6]
        digits = f"{int(x < 190)}{int(x + 64 > 194)}"
        Image.fromarray(tiny_image[y : y + 64, x : x + 64]).save(
            folder / "train" / f"{'abcd'[i % 4]}+{i}[{digits}].png"
        )
    for i, x in enumerate((0, 100, 150, 160, 200, 300)):
        mask = (np.arange(x, x + 64)[None] >= 192).repeat(64, 0).astype(np.uint8)
        mask[:8, :8] = 2
        Image.fromarray(tiny_image[190:254, x : x + 64]).save(folder / "valid" / "img" / f"{'vwx'[i % 3]}+{i}.png")
        Image.fromarray(mask).save(folder / "valid" / "mask" / f"{'vwx'[i % 3]}+{i}.png")
    return folder


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Make a folder once in a session, and give every test that asks a copy of its own: what takes seconds to train.

    `once(name, make, copy)` lets `make(folder)` fill a new folder the first time that it is asked for `name`.
    """
    made: dict[str, Path] = {}

    def once(name: str, make: Callable[[Path], object], copy: Path) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("once") / name
            make(folder)
            made[name] = folder
        return shutil.copytree(made[name], copy)

    return once


@pytest.fixture
def tiny_model(tiny_slide, tiny_regions, classes, tmp_path, once):
    """A model that tells dark from pink, trained for a few steps on the tiny slide."""
    from napari_lpd.core.jobs import run
    from napari_lpd.data.region_tiles import tiles_from_regions
    from napari_lpd.models.checkpoint import load_model
    from napari_lpd.training.fit import fit

    head = ModelSettings(prototypes_per_class=2, prototype_dim=32)
    settings = TrainSettings(model=head, tile=64, tile_step=48, max_steps=6, batch=4, threads=1, warm_up=0.5)

    def train(folder: Path) -> None:
        run(fit(tiles_from_regions(tiny_slide, tiny_regions, classes, settings), settings, folder))

    return load_model(once("tiny_model", train, tmp_path / "tiny_model") / "model.safetensors")
