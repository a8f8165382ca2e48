"""Projects: regions over several slides that are trained on as one set."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from napari_lpd.cli.main import main
from napari_lpd.core.errors import DataError, ExportError
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.project import AnnotatedSlide, Project, read_project, regions_beside, write_project
from napari_lpd.data.regions import write_regions
from napari_lpd.data.training_set import TrainingSource
from napari_lpd.models.card import read_card


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
    with pytest.raises(DataError, match="not readable as a project"):
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
