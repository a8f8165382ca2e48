"""Names of models on the command line: in reports and results, and with --names."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from napari_lpd.cli.evaluate import named_models
from napari_lpd.cli.main import main
from napari_lpd.core.errors import SettingsError
from napari_lpd.results.prediction import Prediction


@pytest.mark.parametrize(
    ("names", "models", "expected"),
    [
        ([], ["a", "b"], ([], ["a", "b"])),
        (["LPD", "PBIP"], ["a", "b"], (["LPD", "PBIP"], ["a", "b"])),
        (["LPD", "PBIP", "a", "b"], [], (["LPD", "PBIP"], ["a", "b"])),
        (["LPD", "PBIP", "b"], ["a"], (["LPD", "PBIP"], ["a", "b"])),
        (["LPD", "a"], [], (["LPD"], ["a"])),
    ],
)
def test_names_take_no_models_wherever_they_stand(names, models, expected):
    found, paths = named_models(names, models)
    assert (found, [str(path) for path in paths]) == expected


@pytest.mark.parametrize(("names", "models"), [([], []), (["LPD"], ["a", "b"]), (["LPD", "PBIP", "x"], ["a", "b"])])
def test_names_that_do_not_fit_the_models_are_refused(names, models):
    with pytest.raises(SettingsError, match="no models|wanted a name for every model"):
        named_models(names, models)


@pytest.fixture
def two_models(tile_folder, tmp_path, once):
    """Two runs, each with its model.safetensors; and the images to measure them on."""
    (tmp_path / "classes.json").write_text('{"classes": ["dark", "pink"]}')
    quick = ["mpp=1", "max_steps=1", "model.prototype_dim=32", "threads=1", "batch=4"]
    options = [word for setting in quick for word in ("--set", setting)]
    train = tile_folder.rename(tmp_path / "tiles")
    valid = (train / "valid").rename(tmp_path / "test")
    given = ["train", "--data", str(train), "--classes", str(tmp_path / "classes.json"), *options]
    for seed, name in enumerate(("first", "second")):
        trained = [*given, "--set", f"seed={seed}", "--out"]
        once(name, lambda folder, trained=trained: main([*trained, str(folder)]), tmp_path / name)
    return tmp_path / "first" / "model.safetensors", tmp_path / "second" / "model.safetensors", valid


def test_reports_results_and_comparisons_name_the_run(two_models, tiny_tiff, tmp_path, capsys):
    first, second, valid = map(str, two_models)
    quick = ["--set", "bootstrap=5", "--set", "threads=1"]
    assert main(["evaluate", "--model", first, "--data", valid, "--out", str(tmp_path / "report"), *quick]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert text.startswith("# Evaluation of first\n")
    assert json.loads((tmp_path / "report" / "report.json").read_text())["title"] == "Evaluation of first"
    capsys.readouterr()
    assert main(["predict", str(tiny_tiff), "--model", second, "--out", str(tmp_path / "out")]) == 0
    assert Prediction.open(tmp_path / "out" / "tiny.zarr").card.model == "second"
    compared = ["compare", "--data", valid, "--set", "stability_tiles=0", *quick]
    assert main([*compared, "--out", str(tmp_path / "a"), first, second]) == 0
    assert "Prototypes of first and second" in (tmp_path / "a" / "report.md").read_text()
    assert main([*compared, "--out", str(tmp_path / "b"), "--names", "LPD", "PBIP", first, second]) == 0
    assert "Prototypes of LPD and PBIP" in (tmp_path / "b" / "report.md").read_text()
    capsys.readouterr()
    assert main([*compared, "--out", str(tmp_path / "c"), first, second, "--names", "LPD"]) == 2
    assert "--names: 1 names for 2 models; wanted a name for every model" in capsys.readouterr().err
    assert main([*compared, "--out", str(tmp_path / "c")]) == 2
    assert "no models to compare" in capsys.readouterr().err


def test_evaluate_says_which_class_is_in_no_mean_and_leaves_it_out(two_models, tmp_path, capsys):
    model, _, valid = two_models
    for i, path in enumerate(sorted((valid / "mask").iterdir())):
        Image.fromarray(np.full((64, 64), int(i == 0), np.uint8)).save(path)  # pink in one image of six
    given = ["evaluate", "--model", str(model), "--data", str(valid), "--out", str(tmp_path / "report")]
    assert main([*given, "--set", "threads=1", "--set", "bootstrap=5"]) == 0
    assert "in no mean, as too few images hold them: pink (1)" in capsys.readouterr().out
    for row in json.loads((tmp_path / "report" / "report.json").read_text())["rows"]:
        scores = row["scores"]
        assert (scores["images_of"], scores["too_few"]) == ([5, 1], ["pink"])
        assert scores["mean_iou"] == scores["iou"][0]
