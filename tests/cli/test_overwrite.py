"""Every command refuses a file that is there, replaces its own kind with --overwrite, and no other file ever."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch
from made_predictions import predicted
from PIL import Image

from napari_lpd import samples
from napari_lpd.cli import main
from napari_lpd.core.errors import ExportError
from napari_lpd.core.files import is_ours
from napari_lpd.core.locks import inside, locked
from napari_lpd.core.pictures.figure import FIGURE, FORMATS, write_figure
from napari_lpd.core.settings.base import read_settings, write_settings
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.training import TrainSettings

FAST = ["--set", "mpp=1", "--set", "max_steps=2", "--set", "epochs=1", "--set", "batch=4", "--set", "threads=1"]
HEAD = ["--set", "model.prototypes_per_class=2", "--set", "model.prototype_dim=32"]
ONE = ["--set", 'gates=["none"]', "--set", 'refiners=["none"]', "--set", "threads=1"]
FOREIGN = b"not ours, " + bytes(2**17)


@pytest.fixture
def command(capsys):
    """Give a command; returns the exit code and the last line of what it said."""

    def give(*arguments) -> tuple[int, str]:
        code = main([str(argument) for argument in arguments])
        return code, (capsys.readouterr().err.splitlines() or [""])[-1]

    return give


def one_rule_for_existing_files(command, arguments, folder, names, mode="exists and is not overwritten") -> None:
    """Give a command that writes files into a folder where these are: twice, with leave, and where others are."""
    assert command(*arguments)[0] == 0
    assert set(names) <= {str(path.relative_to(folder)) for path in folder.rglob("*")}
    before = {name: (folder / name).stat().st_ino for name in names}
    with locked(inside(folder), folder):
        code, said = command(*arguments, "--overwrite")
        assert (code, f"is being written by another napari-lpd (process {os.getpid()} on" in said) == (2, True)
    code, said = command(*arguments)
    assert (code, mode in said) == (2, True), said
    assert {name: (folder / name).stat().st_ino for name in names} == before
    code, said = command(*arguments, "--overwrite")
    assert code == 0, said
    assert not [name for name in names if (folder / name).stat().st_ino == before[name]]
    for name in names:
        others = folder.with_name("others")
        others.mkdir()
        (others / name).write_bytes(FOREIGN)
        elsewhere = [others if argument == folder else argument for argument in arguments]
        code, said = command(*elsewhere, "--overwrite")
        assert code == 2, name
        assert f"{name} exists and is no file of this kind written by napari-lpd" in said
        assert (others / name).read_bytes() == FOREIGN
        assert [path.name for path in others.iterdir()] == [name]
        shutil.rmtree(others)


@pytest.fixture
def named(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"classes": ["dark", "pink"]}))
    return path


@pytest.fixture
def train(tile_folder, named, tmp_path):
    return ["train", "--data", tile_folder, "--classes", named, "--out", tmp_path / "run", *FAST, *HEAD]


def test_train(command, train, tmp_path):
    names = ["model.safetensors", "model.json", "last.safetensors", "last.json", "history.csv"]
    one_rule_for_existing_files(command, train, tmp_path / "run", names, "holds a model, which is not overwritten")


def test_train_makes_its_summary_anew_but_replaces_no_other(command, train, tmp_path):
    assert command(*train, "--summary")[0] == 0
    assert command(*train, "--summary")[0] == 0
    for name in ("summary.json", "tiles.png"):
        (tmp_path / "others").mkdir()
        (tmp_path / "others" / name).write_bytes(FOREIGN)
        others = [tmp_path / "others" if argument == tmp_path / "run" else argument for argument in train]
        code, said = command(*others)
        assert (code, (tmp_path / "others" / name).read_bytes()) == (2, FOREIGN)
        assert f"{name} exists and is no file of this kind" in said
        shutil.rmtree(tmp_path / "others")


def test_evaluate_and_compare(command, train, tile_folder, named, tmp_path):
    assert command(*train)[0] == 0
    model, valid = tmp_path / "run" / "model.safetensors", tile_folder / "valid"
    evaluate = [
        "evaluate",
        "--model",
        model,
        "--data",
        valid,
        "--out",
        tmp_path / "evaluation",
        *ONE,
        "--classes",
        named,
    ]
    names = ["report.html", "report.md", "report.csv", "report.json", "results.npz"]
    one_rule_for_existing_files(command, evaluate, tmp_path / "evaluation", names)
    compare = ["compare", model, "--data", valid, "--out", tmp_path / "comparison", "--set", "bootstrap=0"]
    names = ["report.html", "report.md", "report.json", "figures.csv", "scatter.png", "scatter.svg", "heatmaps.pdf"]
    one_rule_for_existing_files(command, compare, tmp_path / "comparison", names)


def test_stage2(command, train, tile_folder, tmp_path):
    assert command(*train)[0] == 0
    model = tmp_path / "run" / "model.safetensors"
    stage2 = ["stage2", "--model", model, "--data", tile_folder, "--out", tmp_path / "stage2", *FAST]
    one_rule_for_existing_files(command, stage2, tmp_path / "stage2", ["model.safetensors", "model.json"])
    before = model.read_bytes()
    into_its_own = ["stage2", "--model", model, "--data", tile_folder, "--out", tmp_path / "run", *FAST, "--overwrite"]
    code, said = command(*into_its_own)
    assert (code, model.read_bytes()) == (2, before)
    assert "model.safetensors: is read for this, so nothing is written there" in said


def test_stage2_does_not_take_other_files_for_its_masks(command, train, tile_folder, tmp_path):
    assert command(*train)[0] == 0
    (tmp_path / "stage2" / "mask").mkdir(parents=True)
    Image.new("L", (64, 64)).save(tmp_path / "stage2" / "mask" / "a.png")
    model = tmp_path / "run" / "model.safetensors"
    code, said = command("stage2", "--model", model, "--data", tile_folder, "--out", tmp_path / "stage2", *FAST)
    assert code == 2
    assert "mask: holds files, and not what made them" in said


@pytest.fixture
def result(classes, tmp_path):
    return predicted(tmp_path / "a.zarr", np.ones((600, 600), np.uint8), classes).folder


@pytest.mark.parametrize("name", ["a.ome.tif", "a.geojson", "a.csv", "p.ome.tif"])
def test_export(command, result, tmp_path, name):
    path = tmp_path / name
    export = ["export", result, "--to", path, *(["--what", "prototypes"] if name == "p.ome.tif" else [])]
    assert command(*export)[0] == 0
    assert "exists and is not overwritten" in command(*export)[1]
    assert command(*export, "--overwrite")[0] == 0
    path.write_bytes(FOREIGN)
    code, said = command(*export, "--overwrite")
    assert (code, path.read_bytes()) == (2, FOREIGN)
    assert f"{name} exists and is no file of this kind" in said


def test_export_does_not_replace_one_kind_by_another(command, result, tmp_path):
    export = ["export", result, "--to", tmp_path / "a.ome.tif"]
    assert command(*export)[0] == 0
    code, said = command(*export, "--what", "prototypes", "--overwrite")
    assert (code, "is no file of this kind" in said) == (2, True)


def test_measure(command, result, tmp_path):
    measure = ["measure", result, "--out", tmp_path / "areas.csv"]
    assert command(*measure)[0] == 0
    assert "exists and is not overwritten" in command(*measure)[1]
    assert command(*measure, "--overwrite")[0] == 0
    (tmp_path / "areas.csv").write_text("slide,age\na,50\n")
    assert "is no file of this kind" in command(*measure, "--overwrite")[1]
    assert (tmp_path / "areas.csv").read_text() == "slide,age\na,50\n"


@pytest.mark.parametrize("option", ["--regions", "--roles", "--settings"])
def test_nothing_is_written_over_what_measure_reads(command, result, tmp_path, option):
    read = tmp_path / "Areas.csv"
    read.write_text("{}")
    code, said = command("measure", result, "--out", tmp_path / "areas.csv", option, read, "--overwrite")
    assert code == 2
    assert "areas.csv: is read for this" in said or "not readable" in said
    assert read.read_text() == "{}"


def test_nothing_is_written_into_the_result_that_is_read(command, result):
    for arguments in (["export", result, "--to"], ["measure", result, "--out"]):
        code, said = command(*arguments, result / "labels" / "x.csv", "--overwrite")
        assert code == 2
        assert "x.csv: lies in the result a.zarr" in said


def test_import(command, tmp_path):
    torch.save({"model": {"l_fc4.fc2.weight": torch.zeros(1)}}, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    code, said = command("import", tmp_path / "model.safetensors", "--out", tmp_path, "--overwrite")
    assert (code, (tmp_path / "model.safetensors").read_bytes()) == (2, before)
    assert "model.safetensors: is read for this, so nothing is written there" in said


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_figure_is_known_as_ours_and_replaces_no_other(tmp_path, suffix):
    from matplotlib.figure import Figure

    path = tmp_path / f"a{suffix}"
    write_figure(Figure(), path)
    assert is_ours(path, FIGURE)
    write_figure(Figure(), path)
    path.write_bytes(FOREIGN)
    with pytest.raises(ExportError, match="is no file of this kind"):
        write_figure(Figure(), path)


def test_saved_settings_replace_settings_of_the_same_kind_alone(tmp_path):
    path = write_settings(tmp_path / "s.json", TrainSettings(epochs=7))
    assert read_settings(TrainSettings, path, []).epochs == 7
    write_settings(path, TrainSettings(epochs=8))
    with pytest.raises(ExportError, match=r"s\.json exists and is no file of this kind"):
        write_settings(path, PredictSettings())
    regions = shutil.copy(samples.regions_path("train"), tmp_path / "regions.json")
    with pytest.raises(ExportError, match="is no file of this kind"):
        write_settings(regions, PredictSettings())
