"""Progress as text: on a terminal, which these tests make, and in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from unicodedata import east_asian_width

import pytest

from napari_lpd.cli.main import main
from napari_lpd.data.regions import write_regions

PRINT = """
import sys
from napari_lpd.cli.common import Printer
from napari_lpd.core.jobs import Progress
printer = Printer(False)
names = ("loss", "classification", "contrast", "diversity", "regions", "regions left out", "lr")
numbers = {name: 0.123456 for name in names}
for done in (1, 2):
    printer._printed = 0
    printer.progress(Progress(done, 2, sys.argv[1], numbers))
printer.progress(Progress(2, 2, "warning: " + "far too pale " * 20))
"""


@pytest.mark.parametrize(
    "message", ["epoch 1 of 8", "腫瘍と間質の境界" * 8, "e\u0301pithe\u0301lium " * 9], ids=["short", "wide", "accents"]
)
@pytest.mark.parametrize("width", [40, 80, 132])
def test_lines_fit_the_width_of_the_terminal(width, message):
    pty = pytest.importorskip("pty")
    termios = pytest.importorskip("termios")
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, width))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    try:
        command = [sys.executable, "-c", PRINT, message]
        subprocess.run(command, stderr=child, stdout=subprocess.DEVNULL, check=True, env=kept)
        printed = os.read(parent, 65536).decode()
    finally:
        os.close(parent)
        os.close(child)
    lines = [line for part in printed.split("\r") for line in part.split("\n") if line]
    assert len(lines) > 3
    for line in lines:
        wide = sum(east_asian_width(character) in "WF" for character in line)
        assert len(line.replace("\u0301", "")) + wide <= width - 1
    assert "far too pale" in printed


QUICK = ("batch=8", "model.prototypes_per_class=2", "threads=1", "epochs=2", "max_regions=2")


def settings(*more):
    return [word for setting in (*QUICK, *more) for word in ("--set", setting)]


def test_training_in_text_says_validation_best_epoch_and_miou(tile_folder, tmp_path, capsys):
    (tmp_path / "classes.json").write_text('{"classes": ["dark", "pink"]}')
    given = ["train", "--data", str(tile_folder), "--classes", str(tmp_path / "classes.json"), *settings("mpp=1")]
    assert main([*given, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    epochs = [line for line in printed.err.splitlines() if ": validation: mIoU 0." in line]
    assert [line.partition(":")[0] for line in epochs] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert all("IoU dark " in line and "IoU pink " in line for line in epochs)
    best = int(epochs[-1].rpartition("best so far: epoch ")[2])
    assert f"best epoch: {best}\n" in printed.out
    miou = float(printed.out.partition("  mIoU: ")[2].split()[0])
    assert f"mIoU {miou:.3f}, " in epochs[best - 1]


def test_training_without_validation_says_that_the_last_epoch_is_kept(
    tiny_tiff, tiny_regions, classes, tmp_path, capsys
):
    regions = write_regions(tmp_path / "regions.geojson", tiny_regions, classes)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": [tissue.model_dump() for tissue in classes]}))
    given = ["train", "--slide", str(tiny_tiff), "--regions", str(regions), *settings("tile=64", "valid_share=0")]
    assert main([*given, "--classes", str(tmp_path / "classes.json"), "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    assert "epoch 1 of 2: no data to validate on; the last epoch is kept" in printed.err
    assert "epoch: 2, the last: no validation data" in printed.out
