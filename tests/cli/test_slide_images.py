"""A file of several images on the command line: what is read is said, and another can be chosen."""

from __future__ import annotations

import csv
import json

import numpy as np
import tifffile

from napari_lpd.cli.main import main
from napari_lpd.results.prediction import Prediction

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
    assert main(["export", *picture]) == 2
    assert main(["export", *picture, "--image", "1"]) == 0
    assert main([*command, str(tmp_path / "a.tif"), "--image", "3", "--out", str(tmp_path / "two")]) == 2
    assert "holds no image 3" in capsys.readouterr().err
