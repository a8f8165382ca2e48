from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_lpd import samples
from napari_lpd.cli.main import main
from napari_lpd.cli.train import sample_training
from napari_lpd.core.jobs import in_subprocess, run
from napari_lpd.data.regions import Region, write_regions
from napari_lpd.models.card import read_card
from napari_lpd.results.prediction import Prediction

QUICK = ["--set", "max_steps=2", "--set", "tile=64", "--set", "batch=4", "--set", "model.prototypes_per_class=2"]


@pytest.fixture
def training(tiny_tiff, tiny_regions, classes, tmp_path):
    """The arguments of a tiny training."""
    regions = write_regions(tmp_path / "regions.geojson", tiny_regions, classes)
    names = tmp_path / "classes.json"
    names.write_text(json.dumps({"classes": [tissue.model_dump() for tissue in classes]}))
    return ["train", "--slide", tiny_tiff, "--regions", regions, "--classes", names, "--out", tmp_path / "run", *QUICK]


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_train_predict_export(training, tiny_tiff, tmp_path, capsys):
    check = ["--check-regions", training[4], "--json"]
    assert main([str(a) for a in training + check]) == 0
    *progress, result = lines(capsys)
    assert progress[0]["event"] == "progress"
    assert "mean recall" in result["metrics"]
    card = read_card(tmp_path / "run" / "model.safetensors")
    assert card.command.startswith("napari-lpd train --slide")
    assert result["metrics"].items() <= card.metrics.items()

    to = ["--model", result["model"], "--out", str(tmp_path / "out"), "--json"]
    assert main(["predict", str(tiny_tiff), *to]) == 0
    *progress, result = lines(capsys)
    prediction = Prediction.open(tmp_path / "out" / "tiny.zarr")
    assert prediction.card.shape == (256, 384)
    [row] = result["slides"]
    assert row["mm²"] == prediction.area_mm2()
    with tifffile.TiffFile(tmp_path / "out" / "tiny.mask.ome.tif") as tiff:
        assert tiff.asarray().shape == (256, 384)

    target = tmp_path / "again.ome.tif"
    assert main(["export", str(tmp_path / "out" / "tiny.zarr"), "--to", str(target)]) == 0
    assert np.array_equal(tifffile.imread(target), prediction.labels.levels[0][:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--slide": "absent.svs"}, "absent.svs: no such file"),
        ({"--regions": "absent.geojson"}, "absent.geojson"),
        ({"--classes": "absent.json"}, "absent.json"),
        ({"--out": "/proc/nowhere"}, "cannot be written"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(training, tmp_path, capsys, change, said):
    arguments = [str(a) for a in training]
    for flag, value in change.items():
        arguments[arguments.index(flag) + 1] = value
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("napari-lpd: error: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert sorted(tmp_path.rglob("*")) == before


def test_one_class_and_empty_regions_leave_nothing_behind(training, tiny_regions, classes, tmp_path, capsys):
    arguments = [str(a) for a in training]
    write_regions(tmp_path / "regions.geojson", tiny_regions[:1], classes)
    assert main(arguments) == 2
    assert "only dark" in capsys.readouterr().err
    write_regions(tmp_path / "regions.geojson", [], classes)
    assert main(arguments) == 2
    assert "no polygons" in capsys.readouterr().err
    (tmp_path / "classes.json").write_text('{"classes": [{"name": "dark", "color": "#000000"}]}')
    assert main(arguments) == 2
    assert "at least two" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_unknown_setting_names_the_known_ones(training, capsys):
    assert main([*map(str, training), "--set", "epoch=3"]) == 2
    assert "did you mean epochs?" in capsys.readouterr().err


def test_predicting_a_slide_without_mpp_asks_for_it(tmp_path, tiny_image, capsys):
    path = tmp_path / "bare.tiff"
    tifffile.imwrite(path, tiny_image, photometric="rgb", tile=(64, 64), metadata=None)
    out = tmp_path / "out"
    assert main(["predict", str(path), "--out", str(out)]) == 2
    assert "pass mpp, in µm per pixel (--mpp;" in capsys.readouterr().err
    assert not out.exists()
    assert main(["predict", str(path), "--out", str(out), "--mpp", "1"]) == 0


@pytest.mark.parametrize("model", ["absent.safetensors", "regions.geojson"])
def test_a_wrong_model_gives_one_line(training, tiny_tiff, tmp_path, capsys, model):
    assert main(["predict", str(tiny_tiff), "--model", str(tmp_path / model), "--out", str(tmp_path / "out")]) == 2
    assert model in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["header_only.svs", "notanimage.txt", "truncated_CMU-1-Small-Region.svs", "zero_bytes.svs"]
)
def test_odd_slides_give_one_line(shared_slides, tmp_path, capsys, name):
    assert main(["predict", str(shared_slides / "odd" / name), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_slide_with_damaged_places_is_done_but_for_them(shared_slides, tmp_path, capsys):
    path = shared_slides / "odd" / "bitrot_CMU-1-Small-Region.svs"
    assert main(["predict", str(path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "unreadable places" in said.err
    assert "unreadable: x " in said.out
    labels = tifffile.imread(tmp_path / "out" / "bitrot_CMU-1-Small-Region.mask.ome.tif")
    assert 0 < (labels == 255).mean() < 0.5


@pytest.mark.parametrize("command", [[], ["measure"], ["predict"]])
def test_help_is_printed(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: napari-lpd" in capsys.readouterr().out


def test_a_table_is_written_though_every_slide_fails(tmp_path, capsys):
    slides = [tmp_path / "a.svs", tmp_path / "b.svs"]
    for path in slides:
        path.write_bytes(b"")
    assert main(["predict", *map(str, slides), "--out", str(tmp_path / "out")]) == 2
    assert "2 of 2 slides failed" in capsys.readouterr().err
    assert len((tmp_path / "out" / "summary.csv").read_text().splitlines()) == 3


def test_regions_without_tissue_are_an_error(tiny_tiff, tmp_path, capsys):
    for name, x in (("scope", 0), ("tissue", 200)):
        ring = [[x, 0], [x + 100, 0], [x, 100], [x, 0]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        (tmp_path / name).write_text(json.dumps([{"type": "Feature", "geometry": geometry, "properties": {}}]))
    areas = ["--regions", str(tmp_path / "scope"), "--tissue", str(tmp_path / "tissue")]
    assert main(["predict", str(tiny_tiff), "--out", str(tmp_path / "out"), *areas]) == 2
    assert "tiny.tiff: no tissue was found in the area to predict" in capsys.readouterr().err


def test_many_slides_give_a_line_each_and_a_table_and_go_on_after_errors(tiny_tiff, tmp_path, capsys):
    (tmp_path / "broken.svs").write_bytes(b"")
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "other.tiff"
    other.write_bytes(tiny_tiff.read_bytes())
    slides, out = [str(path) for path in (tmp_path / "broken.svs", tiny_tiff, other)], tmp_path / "out"
    quick = ["--set", "tile=128", "--set", "overlap=32", "--set", "block=64"]
    assert main(["predict", *slides, "--out", str(out), *quick]) == 2
    said = capsys.readouterr().err
    assert said.count("FAILED broken.svs") == 1
    assert len(re.findall("^ok ", said, re.M)) == 2
    assert "1 of 3 slides failed" in said
    with (out / "summary.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows[1:]] == ["ok", "ok"]
    assert "not a slide" in rows[0]["state"]
    assert rows[1]["epidermis mm²"] == rows[2]["epidermis mm²"]
    before = (out / "tiny.zarr" / "zarr.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["predict", *slides[1:], "--out", str(out), *quick, "--json"]) == 0
    result = lines(capsys)[-1]
    assert [row["slide"] for row in result["slides"]] == slides[1:]
    assert result["table"] == str(out / "summary.csv")
    assert (out / "tiny.zarr" / "zarr.json").stat().st_mtime_ns == before


def test_a_slide_with_nothing_labelled_is_not_called_ok(tiny_tiff, tmp_path, capsys):
    other = tmp_path / "other.tiff"
    other.write_bytes(tiny_tiff.read_bytes())
    given = [str(tiny_tiff), str(other), "--out", str(tmp_path / "out"), "--set", "presence=1"]
    assert main(["predict", *given]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("NOTHING LABELLED ") == 2
    assert "ok  " not in printed.err
    assert "states: 2 slides: 2 nothing labelled" in printed.out
    with (tmp_path / "out" / "summary.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["nothing labelled"] * 2
    assert [row["epidermis mm²"] for row in rows] == ["0.000000"] * 2
    assert all("no tissue of the model is there, or sure enough" in row["warnings"] for row in rows)


def test_progress_warnings_and_rows_name_their_slide_and_stay_in_the_result(tiny_tiff, tmp_path, capsys):
    other, broken = tmp_path / "other.tiff", tmp_path / "broken.svs"
    other.write_bytes(tiny_tiff.read_bytes())
    broken.write_bytes(b"")
    slides = [str(tiny_tiff), str(broken), str(other)]
    given = ["predict", *slides, "--out", str(tmp_path / "out"), "--set", "presence=1", "--json"]
    assert main(given) == 2
    events = lines(capsys)
    rows = [event for event in events if event["event"] == "slide"]
    assert [row["slide"] for row in rows] == slides
    assert "not a slide" in rows[1]["error"]
    messages = [event["message"] for event in events if event["event"] == "progress"]
    names = {message.removeprefix("warning: ").partition(": ")[0] for message in messages}
    assert names == {"tiny.tiff", "other.tiff"}
    for row in (rows[0], rows[2]):
        assert row["warnings"] == Prediction.open(Path(row["prediction"])).warnings
        assert f"warning: {Path(row['slide']).name}: {row['warnings'][-1]}" in messages
    assert main([*given[:2], *given[4:]]) == 0  # finished before: its warnings are read from the result
    again = lines(capsys)
    assert again[-1]["slides"][0]["warnings"] == rows[0]["warnings"]
    assert f"warning: tiny.tiff: {rows[0]['warnings'][-1]}" in [event.get("message") for event in again]


def test_only_regions_are_predicted_and_only_what_is_tissue(tiny_tiff, tiny_regions, classes, tmp_path):
    inner = [Region(np.array([[20, 30], [20, 100], [80, 100], [80, 30]], float), ("dark",))]
    regions = write_regions(tmp_path / "inner.geojson", inner, classes)
    tissue = write_regions(tmp_path / "tissue.geojson", tiny_regions[1:], classes)
    quick = ["--set", "tile=128", "--set", "overlap=32", "--set", "block=64", "--set", "mpp=1", "--replace"]
    quick += ["--out", str(tmp_path)]
    assert main(["predict", str(tiny_tiff), "--regions", str(regions), *quick]) == 0
    prediction = Prediction.open(tmp_path / "tiny.zarr")
    assert prediction.scope_box() == (20, 30, 80, 100)
    assert prediction.tissue_mm2 == pytest.approx(60 * 70 / 1e6)
    assert main(["predict", str(tiny_tiff), "--tissue", str(tissue), *quick]) == 0
    wanted = Prediction.open(tmp_path / "tiny.zarr").to_label((0, 0), (256, 384))
    assert wanted[:, 194:].all()
    assert not wanted[:, :194].any()


def test_doctor_says_device_reason_and_weights(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "device: " in said
    assert "efficientnet-lite0" in said
    assert "Research use only" in said


def test_the_module_runs_as_a_command():
    done = subprocess.run([sys.executable, "-m", "napari_lpd", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("napari-lpd 0.")


def test_the_child_process_reports_progress_result_and_errors(training):
    seen = []
    result = run(in_subprocess([str(a) for a in training]), seen.append)
    assert result["tiles per class"].keys() == {"dark", "pink"}
    assert any("loss" in progress.metrics for progress in seen)


def test_the_shipped_model_was_made_by_its_own_command():
    card = read_card(samples.model_path())
    options = [part.rsplit("/", 1)[-1] for part in card.command.split()]
    expected = [part.rsplit("/", 1)[-1] for part in sample_training(samples.model_path().parent)]
    assert set(expected) <= set(options)
    assert card.metrics["mean recall"] > 0.9


def test_what_is_not_ours_is_not_overwritten_and_that_is_found_first(tiny_tiff, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "tiny.zarr").mkdir(parents=True)
    assert main(["predict", str(tiny_tiff), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "tiny.zarr exists and is not a prediction" in said
    assert "tiles" not in said
    (out / "tiny.zarr").rmdir()
    (out / "tiny.mask.ome.tif").write_text("mine")
    assert main(["predict", str(tiny_tiff), "--out", str(out), "--overwrite"]) == 2
    assert "tiny.mask.ome.tif exists and is no file of this kind written by napari-lpd" in capsys.readouterr().err
    assert (out / "tiny.mask.ome.tif").read_text() == "mine"
    slides = [tiny_tiff.with_name(name) for name in ("A.tif", "a.tif")]  # one file on many systems
    assert main(["predict", *map(str, slides), "--out", str(tmp_path / "two")]) == 2
    assert f"{slides[0]} and {slides[1]} would both be written to a.tif.zarr" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_a_model_of_another_kind_names_the_way(tmp_path, tiny_tiff, capsys):
    (tmp_path / "a.pth").write_bytes(b"PK")
    for given, said in ((tmp_path, "a folder; wanted a model file"), (tmp_path / "a.pth", "napari-lpd import")):
        assert main(["predict", str(tiny_tiff), "--model", str(given), "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err


def test_tiles_smaller_than_an_encoder_sees_are_refused(tmp_path, capsys):
    (tmp_path / "tiles").mkdir()
    Image.fromarray(np.zeros((6, 6, 3), np.uint8)).save(tmp_path / "tiles" / "a[11].png")
    (tmp_path / "classes.json").write_text('{"classes": ["dark", "pink"]}')
    given = ["train", "--data", str(tmp_path / "tiles"), "--classes", str(tmp_path / "classes.json"), "--set", "mpp=1"]
    assert main([*given, "--out", str(tmp_path / "m")]) == 2
    assert "tiles of 6 pixels; wanted 64 to 1024" in capsys.readouterr().err
