"""Projects: regions over several slides that are trained on as one set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_lpd.cli.main import main
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import DataError, ExportError
from napari_lpd.core.files import told_apart
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.project import AnnotatedSlide, Project, read_project, regions_beside, write_project
from napari_lpd.data.regions import Region, write_regions
from napari_lpd.data.training_set import TrainingSource
from napari_lpd.models.card import read_card
from napari_lpd.slides.formats import open_slide


@pytest.fixture
def project(tmp_path, tiny_tiff, tiny_image, tiny_regions, classes):
    """Two slides in a folder, with regions beside them; the second gives no resolution."""
    second = tmp_path / "other.tiff"
    tifffile.imwrite(second, tiny_image[::-1], photometric="rgb", tile=(64, 64), metadata=None)
    slides = []
    for slide, mpp in ((tiny_tiff, None), (second, 1.0)):
        regions = write_regions(regions_beside(slide), tiny_regions, classes)
        slides.append(AnnotatedSlide(slide=slide, regions=regions, mpp=mpp))
    return write_project(tmp_path / "skin.lpd.json", Project(classes=classes, slides=tuple(slides)))


def test_a_project_reads_like_prose_and_moves_with_its_folder(project, tmp_path, tmp_path_factory):
    content = json.loads(project.read_text())
    assert [held["slide"] for held in content["slides"]] == ["tiny.tiff", "other.tiff"]
    assert content["slides"][0]["regions"] == "tiny.tiff.regions.geojson"
    assert content["classes"][0] == {"name": "dark", "color": "#3b4cff"}
    moved = tmp_path_factory.mktemp("moved")
    for file in tmp_path.iterdir():
        file.rename(moved / file.name)
    assert read_project(moved / project.name).slides[0].slide == moved / "tiny.tiff"


def test_the_slides_of_a_project_are_one_training_set(project):
    settings = TrainSettings(tile=64, tile_step=48, valid_share=0.5)
    tiles = TrainingSource(project=project).load((), settings).tiles
    assert set(tiles.sources) == {"tiny.tiff", "other.tiff"}
    first = [i for i, name in enumerate(tiles.sources) if name == "tiny.tiff"]
    assert len(first) * 2 == len(tiles)
    assert not np.array_equal(tiles.read(0), tiles.read(len(first)))
    kept, held = tiles.hold_out(0.5, 0)
    assert len(set(kept.sources)) == len(set(held.sources)) == 1
    summary = TrainingSource(project=project).load((), settings).summary()
    assert summary["split"] == f"{len(kept)} tiles to train on, {len(held)} of other slides to choose the best epoch"
    assert summary["tiles per slide"] == {"tiny.tiff": len(first), "other.tiff": len(first)}


def test_slides_of_one_patient_are_not_split(project, tmp_path):
    content = json.loads(project.read_text())
    for held in content["slides"]:
        held["patient"] = "p1"
    project.write_text(json.dumps(content))
    tiles = TrainingSource(project=project).load((), TrainSettings(tile=64, tile_step=48)).tiles
    assert set(tiles.sources) == {"p1"}


def test_a_project_trains_from_the_command_line(project, tmp_path, capsys):
    settings = ["--set", "tile=64", "--set", "max_steps=2", "--set", "model.prototype_dim=32", "--set", "threads=1"]
    assert main(["train", "--project", str(project), "--out", str(tmp_path / "sum"), "--summary", *settings]) == 0
    said = capsys.readouterr().out
    assert "tiny.tiff" in said
    assert sorted(path.name for path in (tmp_path / "sum").iterdir()) == ["summary.json", "tiles.png"]
    assert main(["train", "--project", str(project), "--out", str(tmp_path / "run"), *settings]) == 0
    assert read_card(tmp_path / "run" / "model.safetensors").data == "2 slides: other.tiff, tiny.tiff"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(slides=[]), "setting slides"),
        (lambda c: c["slides"][0].update(slide="gone.tiff"), r"its slide .*gone\.tiff is missing; put it back"),
        (lambda c: c["slides"][1].update(regions="gone.geojson"), r"its regions .*gone\.geojson is missing"),
        (lambda c: c["slides"].append(c["slides"][0]), r"tiny\.tiff is in it twice"),
        (lambda c: c.update(kind="other"), "not a project of napari-lpd"),
        (lambda c: c.update(classes=[c["classes"][0]]), r"1 tissue class \("),
        (lambda c: c["slides"][0].update(mpp=-1), r"slides\.0\.mpp"),
    ],
)
def test_what_is_wrong_with_a_project_is_said_in_one_line(project, change, message):
    content = json.loads(project.read_text())
    change(content)
    project.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_project(project)


def test_a_file_that_is_no_json_and_a_folder_that_is_read_only(project, tmp_path):
    project.write_text('{"kind": "napari-lpd pro')
    with pytest.raises(DataError, match="not readable as a project"):
        read_project(project)
    with pytest.raises(DataError, match=r"absent\.lpd\.json: no such file; wanted a project"):
        read_project(tmp_path / "absent.lpd.json")
    held = Project.model_construct(classes=(), slides=())
    with pytest.raises(ExportError, match="cannot be written"):
        write_project(project / "below a file.lpd.json", held)


def test_options_that_contradict_each_other(project, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    for extra, message in (
        (["--classes", "bcss"], "--classes goes with --slide or --data"),
        (["--slide", "x.svs"], "train needs one of --slide with --regions, --project, or --data"),
        (["--regions", "x.geojson"], "--regions goes with --slide only"),
        (["--source", "x"], "--source goes with --data only"),
    ):
        assert main(["train", "--project", str(project), *extra, *out]) == 2
        assert message in capsys.readouterr().err


SETTINGS = TrainSettings(tile=64, tile_step=48, valid_share=0.5)


def striped(folder, tiny_image, *tissues, patient=""):
    """A slide.tif in a folder of its own, with a region per tissue side by side, as an entry of a project."""
    folder.mkdir()
    noise = np.random.default_rng(list(folder.name.encode())).integers(0, 20, tiny_image.shape, np.uint8)
    options = {"photometric": "rgb", "tile": (64, 64), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(folder / "slide.tif", tiny_image // 2 + noise, resolution=(1e4, 1e4), **options)
    width = 384 // len(tissues)
    left = np.array([[0, 0], [0, width], [256, width], [256, 0]], float)
    regions = [Region(left + np.array([0, i * width]), (name,)) for i, name in enumerate(tissues)]
    colours = [TissueClass(name=name, color="#102030") for name in tissues]
    beside = write_regions(regions_beside(folder / "slide.tif"), regions, colours)
    return AnnotatedSlide(slide=folder / "slide.tif", regions=beside, patient=patient)


def project_of(path, *slides, classes="abc"):
    tissues = tuple(TissueClass(name=name, color="#102030") for name in classes)
    return write_project(path, Project(classes=tissues, slides=slides))


@pytest.mark.parametrize("holds", [("ab", "bc"), ("a", "bc"), ("a", "b", "c"), ("abc", "a")])
def test_each_slide_may_lack_classes_that_others_hold(tmp_path, tiny_image, holds, capsys):
    slides = [striped(tmp_path / f"P{i}", tiny_image, *tissues) for i, tissues in enumerate(holds)]
    project = project_of(tmp_path / "all.lpd.json", *slides)
    out = tmp_path / "out"
    options = ["--set", "tile=64", "--set", "tile_step=48", "--summary", "--out", str(out)]
    assert main(["train", "--project", str(project), *options]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert min(summary["tiles per class"].values()) > 0
    assert set(summary["tiles per slide"]) == {f"P{i}/slide.tif" for i in range(len(holds))}


def test_a_class_that_no_slide_holds_is_named(tmp_path, tiny_image):
    slides = [striped(tmp_path / f"P{i}", tiny_image, *tissues) for i, tissues in enumerate(("ab", "b"))]
    project = project_of(tmp_path / "all.lpd.json", *slides)
    with pytest.raises(DataError, match=r"2 slides: no tile holds c; add some"):
        TrainingSource(project=project).load((), SETTINGS)


def test_two_slides_of_one_name_are_two_slides(tmp_path, tiny_image):
    slides = [striped(tmp_path / name, tiny_image, "a", "b") for name in ("P1", "P22")]
    tiles = (
        TrainingSource(project=project_of(tmp_path / "all.lpd.json", *slides, classes="ab")).load((), SETTINGS).tiles
    )
    assert set(tiles.sources) == {"P1/slide.tif", "P22/slide.tif"}
    assert {origin.slide for origin in tiles.origins} == set(tiles.sources)
    assert {cluster.rpartition(" ")[0] for cluster in tiles.clusters} == set(tiles.sources)
    kept, held = tiles.hold_out(0.5, 0)
    assert not set(kept.sources) & set(held.sources)


def test_a_slide_is_not_taken_for_a_patient_of_its_name(tmp_path, tiny_image):
    first, second = (striped(tmp_path / name, tiny_image, "a", "b") for name in ("P1", "P2"))
    shutil.move(second.slide, tmp_path / "P2" / "other.tif")
    second = second.model_copy(update={"slide": tmp_path / "P2" / "other.tif", "patient": "slide.tif"})
    project = project_of(tmp_path / "all.lpd.json", first, second, classes="ab")
    tiles = TrainingSource(project=project).load((), SETTINGS).tiles
    assert len(set(tiles.sources)) == 2


def test_a_slide_that_is_there_under_two_names_is_never_split(tmp_path, tiny_image):
    slide = striped(tmp_path / "P1", tiny_image, "a", "b")
    shutil.copy(slide.slide, tmp_path / "copy.tif")
    copy = AnnotatedSlide(slide=tmp_path / "copy.tif", regions=slide.regions)
    project = project_of(tmp_path / "all.lpd.json", slide, copy, classes="ab")
    assert set(TrainingSource(project=project).load((), SETTINGS).tiles.sources) == {"slide.tif"}


def test_a_slide_that_was_exchanged_is_refused(tmp_path, tiny_image):
    slide = striped(tmp_path / "P1", tiny_image, "a", "b")
    with open_slide(slide.slide) as opened:
        known = slide.model_copy(update={"fingerprint": opened.fingerprint})
    project = project_of(tmp_path / "all.lpd.json", known, classes="ab")
    assert len(TrainingSource(project=project).load((), SETTINGS).tiles)
    shutil.copy(striped(tmp_path / "P2", tiny_image, "a", "b").slide, slide.slide)
    with pytest.raises(DataError, match=r"P1/slide\.tif: is not the slide that was added to the project"):
        TrainingSource(project=project).load((), SETTINGS)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/x.svs", "/a/y.svs"], ["x.svs", "y.svs"]),
        (["/a/x.svs", "/b/x.svs", "/b/y.svs"], ["a/x.svs", "b/x.svs", "y.svs"]),
        (["/a/c/x.svs", "/b/c/x.svs"], ["a/c/x.svs", "b/c/x.svs"]),
        (["/a/x.svs", "/a/a/x.svs"], ["//a/x.svs", "a/a/x.svs"]),
        (["/a/x.svs", "/a/x.svs"], ["x.svs", "x.svs"]),
    ],
)
def test_names_of_files_that_repeat_carry_their_folders(paths, names):
    assert told_apart([Path(path) for path in paths]) == names
