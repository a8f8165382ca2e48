"""A file of several images on the command line: what is read is said, and another can be chosen."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import tifffile

from napari_lpd.cli.main import main
from napari_lpd.data.geojson import Frame
from napari_lpd.data.project import AnnotatedSlide, Project, regions_beside, write_project
from napari_lpd.data.regions import Region, write_regions
from napari_lpd.data.training_set import TrainingSource
from napari_lpd.results.prediction import Prediction
from napari_lpd.slides.formats import open_slide

QUICK = ["--set", "mpp=1", "--set", "tile=64", "--set", "overlap=16", "--set", "threads=1"]


def test_predict_reads_the_biggest_image_and_says_so_or_the_chosen_one(tmp_path, tiny_image, tiny_model, capsys):
    options = {"photometric": "rgb", "tile": (64, 64), "resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(tiny_image[:192, :192], metadata=None, **options)
        tiff.write(tiny_image, metadata=None, **options)
    other = tmp_path / "b.tif"
    tifffile.imwrite(other, np.ascontiguousarray(tiny_image), metadata=None, **options)
    model = ["--model", str(tmp_path / "tiny_model" / "model.safetensors")]
    command = ["predict", *model, *QUICK]
    assert main([*command, str(tmp_path / "a.tif"), str(other), "--out", str(tmp_path / "all")]) == 0
    assert (
        "a.tif holds 2 images (1 192 x 192, 2 384 x 256); read is 2, --image N reads another" in capsys.readouterr().err
    )
    with (tmp_path / "all" / "summary.csv").open(encoding="utf-8-sig", newline="") as file:
        warnings = [row["warnings"] for row in csv.DictReader(file)]
    assert "holds 2 images" in warnings[0]
    assert not warnings[1]
    assert main([*command, str(tmp_path / "a.tif"), "--image", "1", "--out", str(tmp_path / "one"), "--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["slides"][0]
    assert Prediction.open(tmp_path / "one" / "a.zarr").card.slide_shape == (192, 192)
    assert row["warnings"] == []
    picture = [str(tmp_path / "one" / "a.zarr"), "--to", str(tmp_path / "a.png"), "--slide", str(tmp_path / "a.tif")]
    assert main(["export", *picture, "--image", "2"]) == 2
    assert main(["export", *picture]) == 0  # of the image that was predicted
    assert main([*command, str(tmp_path / "a.tif"), "--image", "3", "--out", str(tmp_path / "two")]) == 2
    assert "holds no image 3" in capsys.readouterr().err


SQUARE = {"photometric": "rgb", "tile": (64, 64)}
TRAIN = ["--set", "tile=64", "--set", "tile_step=64", "--set", "mpp=1", "--set", "max_steps=2", "--set", "threads=1"]


def plain(path, images):
    options = SQUARE | {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        for image in images:
            tiff.write(image, **options)


def scenes(path, images):
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for number, image in enumerate(images):
            size = {"axes": "YXS", "Name": f"scene {number}", "PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0}
            tiff.write(image, metadata=size, **SQUARE)


@pytest.fixture(params=[("a.tif", plain), ("a.ome.tif", scenes)], ids=["TIFF", "OME-TIFF"])
def two_images(request, tmp_path, tiny_image):
    """A file of two images, of which the first is smaller: 256 x 256 of 384 x 256."""
    name, write = request.param
    write(tmp_path / name, [tiny_image[:, 64:320], tiny_image])
    return tmp_path / name


def outlined(path, slide_path, classes, image):
    """Both halves of an image, as regions for training."""
    with open_slide(slide_path, image=image) as slide:
        (height, width), frame = slide.shape, Frame.of(slide)
    middle = width // 2
    sides = [(0, middle, "dark"), (middle, width, "pink")]
    boxes = [(np.array([[0, x0], [0, x1], [height, x1], [height, x0]], float), name) for x0, x1, name in sides]
    return write_regions(path, [Region(corners, (name,)) for corners, name in boxes], classes, frame=frame)


def test_every_command_that_reads_a_slide_reads_the_chosen_image(two_images, tmp_path, classes, capsys):
    slide, name = str(two_images), f"{two_images.name}, image 1"
    regions = outlined(tmp_path / "one.geojson", two_images, classes, 1)
    named = tmp_path / "classes.json"
    named.write_text(json.dumps({"classes": [tissue.model_dump() for tissue in classes]}))
    train = ["train", "--slide", slide, "--regions", str(regions), "--classes", str(named), *TRAIN]

    assert main([*train, "--image", "1", "--check-regions", str(regions), "--out", str(tmp_path / "run")]) == 0
    assert "recall dark" in capsys.readouterr().out
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert "--image 1" in card["command"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["tiles per slide"]) == [name]
    assert summary["tiles"] == 16
    assert main([*train, "--out", str(tmp_path / "other")]) == 2
    assert f"was made from another slide ({name}), not from {two_images.name}" in capsys.readouterr().err

    model = str(tmp_path / "run" / "model.safetensors")
    chosen = ["--model", model, "--image", "1", "--regions", str(regions), "--out", str(tmp_path / "o")]
    assert main(["predict", slide, *chosen, *QUICK, "--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["slides"][0]
    assert row["image"] == 1
    card = Prediction.open(tmp_path / "o" / f"{two_images.stem}.zarr").card
    assert (card.slide, card.slide_image, card.slide_shape) == (name, 1, (256, 256))
    result = [str(tmp_path / "o" / f"{two_images.stem}.zarr")]
    assert main(["export", *result, "--to", str(tmp_path / "a.png"), "--slide", slide]) == 0
    assert main(["measure", *result, "--regions", str(regions), "--out", str(tmp_path / "m.csv")]) == 0
    with (tmp_path / "m.csv").open(encoding="utf-8-sig", newline="") as file:
        assert {row["slide"] for row in csv.DictReader(file)} == {name}

    few = ["--set", "slide_tiles=4", "--set", "bootstrap=100", "--set", "nearest=0", "--set", "threads=1"]
    report = tmp_path / "report"
    assert main(["compare", model, "--data", slide, "--image", "1", "--out", str(report), *few]) == 0
    assert f"{name}: 1 µm per pixel" in (report / "report.md").read_text()


def test_two_images_of_one_file_are_two_slides_of_a_project(two_images, tmp_path, classes, capsys):
    slides = []
    for image in (None, 1):
        regions = outlined(tmp_path / f"{image}.geojson", two_images, classes, image)
        slides.append(AnnotatedSlide(slide=two_images, regions=regions, image=image))
    project = write_project(tmp_path / "p.lpd.json", Project(classes=classes, slides=tuple(slides)))
    assert main(["train", "--project", str(project), *TRAIN, "--summary", "--out", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["tiles per slide"] == {two_images.name: 24, f"{two_images.name}, image 1": 16}
    write_project(project, Project(classes=classes, slides=(slides[1], slides[1])))
    assert main(["train", "--project", str(project), *TRAIN, "--summary", "--out", str(tmp_path / "run")]) == 2
    assert "is in it twice" in capsys.readouterr().err


def test_one_image_number_of_files_of_one_name_is_told_apart_by_folders(tmp_path, tiny_image, classes):
    slides = []
    for folder in ("P1", "P2"):
        path = tmp_path / folder / "a.tif"
        path.parent.mkdir()
        plain(path, [tiny_image[:, 64:320] + (folder == "P2"), tiny_image])
        for image in (1, 2):
            regions = outlined(tmp_path / f"{folder} {image}.geojson", path, classes, image)
            slides.append(AnnotatedSlide(slide=path, regions=regions, image=image))
    project = write_project(tmp_path / "p.lpd.json", Project(classes=classes, slides=tuple(slides[::-1])))
    settings = tmp_path / "s.json"
    settings.write_text(json.dumps({"tile": 64, "mpp": 1, "tile_step": 64}))
    command = [
        "train",
        "--project",
        str(project),
        "--settings",
        str(settings),
        "--summary",
        "--out",
        str(tmp_path / "r"),
    ]
    assert main(command) == 0
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert set(summary["tiles per slide"]) == {"P1/a.tif, image 1", "P2/a.tif, image 1", "P1/a.tif", "P2/a.tif"}


def test_the_image_of_a_training_is_kept_with_its_source(tmp_path):
    source = TrainingSource(slide=tmp_path / "a.tif", regions=regions_beside(tmp_path / "a.tif"), image=2)
    assert TrainingSource.parse(source.arguments()) == source


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train", "--data", "FOLDER", "--classes", "bcss"], "--image goes with --slide only"),
        (["compare", "m.safetensors", "--data", "FOLDER"], "--image goes with a slide only, and"),
    ],
)
def test_an_image_number_without_a_slide_is_refused(tmp_path, capsys, command, said):
    filled = [str(tmp_path) if word == "FOLDER" else word for word in command]
    assert main([*filled, "--image", "2", "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
