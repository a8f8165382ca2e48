"""What is damaged: a small sound file or folder of every kind that is read, and what a user would do with it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from mutations import damaged, damaged_json
from PIL import Image

from napari_lpd import samples
from napari_lpd.core.classes import TissueClass, read_classes
from napari_lpd.core.settings.base import read_settings
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.results import read_roles
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.images import read_image, read_mask
from napari_lpd.data.regions import read_regions
from napari_lpd.results.export.geojson import read_shapes
from napari_lpd.slides.formats import open_slide
from napari_lpd.slides.tissue import find_tissue

REGIONS = samples.regions_path("train")
CLASSES = (TissueClass(name="dark", color="#3b4cff"), TissueClass(name="pink", color="#ff8c1a"))


class Subject(NamedTuple):
    """A kind of file.

    Attributes:
        make: Writes a sound file or folder at the path, and returns its path.
        damage: Changes it in place, as the draw says.
        use: Reads it; returns what was read, to be compared with what the sound one gives.
        checked: Whether the format lets one see every change: other values without an error are a fault.
    """

    make: Callable[[Path], Path]
    damage: Callable[[Path, random.Random], None]
    use: Callable[[Path], object]
    checked: bool = False


def damage_file(path: Path, draw: random.Random) -> None:
    path.write_bytes(damaged(path.read_bytes(), draw))


def damage_json_file(path: Path, draw: random.Random) -> None:
    path.write_bytes(damaged_json(path.read_text("utf-8"), draw))


def damage_folder(path: Path, draw: random.Random) -> None:
    """Remove, empty, exchange or damage one file of a folder."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    metadata = [file for file in files if file.suffix == ".json"]
    file = draw.choice(metadata) if draw.random() < 0.5 else draw.choice(files)
    match draw.randrange(6):
        case 0:
            file.unlink()
        case 1:
            file.write_bytes(draw.choice(files).read_bytes() if draw.random() < 0.5 else b"")
        case 2 | 3 | 4 if file in metadata:
            damage_json_file(file, draw)
        case _:
            damage_file(file, draw)


def picture() -> np.ndarray:
    """(256, 384, 3) uint8: dark violet beside pink on glass, with noise."""
    image = np.full((256, 384, 3), 245.0)
    image[32:224, 32:192] = (90, 50, 130)
    image[32:224, 192:352] = (235, 150, 180)
    return np.clip(image + np.random.default_rng(0).normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def pyramid(**options: object) -> Callable[[Path], Path]:
    """A TIFF of two levels with 1 µm per pixel."""

    def make(path: Path) -> Path:
        common = {"photometric": "rgb", "resolutionunit": "CENTIMETER", "metadata": None, "tile": (64, 64)} | options
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(picture(), resolution=(1e4, 1e4), **common)
            tiff.write(picture()[::2, ::2], resolution=(5e3, 5e3), subfiletype=1, **common)
        return path

    return make


def ome(path: Path) -> Path:
    with tifffile.TiffWriter(path, ome=True) as tiff:
        about = {"PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0, "axes": "YXS"}
        tiff.write(picture(), tile=(64, 64), photometric="rgb", compression="deflate", metadata=about, subifds=1)
        tiff.write(picture()[::2, ::2], tile=(64, 64), photometric="rgb", compression="deflate", subfiletype=1)
    return path


def read_slide(path: Path) -> object:
    """Open, find tissue, read a region at 1 and at 2 µm per pixel, as a prediction does."""
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
        parts = [slide.read((40, 40), (96, 96), 1.0), slide.read((10, 10), (96, 96), 2.0)]
        return slide.shape_at(1.0), float(tissue.at((0, 0), (64, 64), 1.0).mean()), [part.tobytes() for part in parts]


def image_file(mode: str, **options: object) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        Image.fromarray(picture()).convert(mode).save(path, **options)
        return path

    return make


def mask_file(path: Path) -> Path:
    Image.fromarray((picture()[..., 1] > 100).astype(np.uint8)).save(path)
    return path


def text(content: object) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_text(json.dumps(content), "utf-8")
        return path

    return make


def copy(source: Path) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        return Path(shutil.copyfile(source, path))

    return make


def result(path: Path) -> Path:
    """A finished prediction of two classes in four blocks."""
    from made_predictions import predicted

    labels = np.random.default_rng(1).integers(0, 3, (700, 900)).astype(np.uint8)
    predicted(path, labels, CLASSES)
    return path


def read_result(path: Path) -> object:
    """Recognise, open, measure and read all pixels, as the window and `measure` do."""
    from napari_lpd.core.jobs import run
    from napari_lpd.core.settings.results import MeasureSettings
    from napari_lpd.results.measures.areas import measure
    from napari_lpd.results.prediction import Prediction, is_prediction

    is_prediction(path)
    opened = Prediction.open(path)
    measured = run(measure(opened, MeasureSettings()))
    return np.asarray(opened.labels.levels[0][:]).tobytes(), repr(measured)


def checkpoint(path: Path) -> Path:
    return Path(shutil.copyfile(samples.model_path(), path))


def load(path: Path) -> object:
    from napari_lpd.models.checkpoint import load_model

    model = load_model(path)
    return model.card.model_dump_json(), [part.sum().item() for part in model.network.parameters()]


def damage_checkpoint(path: Path, draw: random.Random) -> None:
    """Damage the header, the card in it, or the weights of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, weights = data[8 : 8 + length], data[8 + length :]
    match draw.randrange(4):
        case 0:
            header = damaged_json(header.decode(), draw)
        case 1 | 2:
            document = json.loads(header)
            name = draw.choice(sorted(document["__metadata__"]))
            value = document["__metadata__"][name]
            changed = damaged_json(value, draw) if value[:1] in "[{" else damaged(value.encode(), draw)
            document["__metadata__"][name] = changed.decode("utf-8", "replace")
            header = json.dumps(document).encode()
        case _:
            path.write_bytes(damaged(data, draw))
            return
    path.write_bytes(len(header).to_bytes(8, "little") + header + weights)


SUBJECTS: dict[str, Subject] = {
    "slide.tif": Subject(pyramid(), damage_file, read_slide),
    "deflate.tif": Subject(pyramid(compression="deflate"), damage_file, read_slide),
    "jpeg.tif": Subject(pyramid(compression="jpeg"), damage_file, read_slide),
    "bigend.tif": Subject(pyramid(tile=None, rowsperstrip=16), damage_file, read_slide),
    "slide.ome.tif": Subject(ome, damage_file, read_slide),
    "small.svs": Subject(copy(samples.small_region_path()), damage_file, read_slide),
    "tile.png": Subject(image_file("RGB"), damage_file, lambda path: read_image(path).tobytes()),
    "tile.jpg": Subject(image_file("RGB"), damage_file, lambda path: read_image(path).tobytes()),
    "mask.png": Subject(mask_file, damage_file, lambda path: read_mask(path, CLASSES).tobytes()),
    "classes.json": Subject(
        text({"classes": [tissue.model_dump() for tissue in CLASSES]}),
        damage_json_file,
        read_classes,
    ),
    "settings.json": Subject(
        text(TrainSettings().model_dump(mode="json")),
        damage_json_file,
        lambda path: read_settings(TrainSettings, path, []),
    ),
    "predict.json": Subject(
        text(PredictSettings().model_dump(mode="json")),
        damage_json_file,
        lambda path: read_settings(PredictSettings, path, []),
    ),
    "roles.json": Subject(text({"tumour": ["dark"], "stroma": ["pink"]}), damage_json_file, read_roles),
    "regions.geojson": Subject(copy(REGIONS), damage_json_file, lambda path: len(read_regions(path))),
    "shapes.geojson": Subject(copy(REGIONS), damage_json_file, lambda path: len(read_shapes(path))),
    "result.zarr": Subject(result, damage_folder, read_result, checked=True),
    "model.safetensors": Subject(checkpoint, damage_checkpoint, load),
}
