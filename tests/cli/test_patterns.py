"""Patterns as *.svs are filled in by us where the shell does not do it, as on Windows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from napari_lpd.cli.common import expanded
from napari_lpd.cli.main import main
from napari_lpd.core.errors import DataError


def test_a_pattern_stands_for_its_files_in_order_and_a_file_for_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.svs", "a.svs", "c.tiff", "x[1].svs"):
        Path(name).touch()
    assert [str(path) for path in expanded([Path("c.tiff"), Path("?.svs")])] == ["c.tiff", "a.svs", "b.svs"]
    assert expanded([Path("x[1].svs"), Path("absent.svs")]) == [Path("x[1].svs"), Path("absent.svs")]
    with pytest.raises(DataError, match=r"\*\.ndpi: no file fits this pattern"):
        expanded([Path("*.ndpi")])


def test_what_other_systems_leave_in_folders_fits_no_pattern(tmp_path):
    for name in ("P1/a.svs", "P1/._a.svs", "@eaDir/a.svs/SYNOFILE", ".Trash/a.svs", "#recycle/a.svs", "__MACOSX/a.svs"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert expanded([tmp_path / "*" / "*.svs"]) == [tmp_path / "P1" / "a.svs"]
    assert expanded([tmp_path / "P1" / "*a.svs"]) == [tmp_path / "P1" / "a.svs"]
    named = tmp_path / ".Trash" / "*.svs"
    assert expanded([named]) == [tmp_path / ".Trash" / "a.svs"]  # asked for by its name


def test_slides_and_results_are_given_by_patterns(tiny_tiff, tmp_path, capsys):
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    for name in ("b", "a"):
        (slides / f"{name}.tiff").write_bytes(tiny_tiff.read_bytes())
    quick = ["--set", "tile=128", "--set", "overlap=32"]
    assert main(["predict", str(slides / "*.tiff"), "--out", str(out), *quick, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [Path(row["slide"]).name for row in result["slides"]] == ["a.tiff", "b.tiff"]
    assert main(["measure", str(out / "*.zarr"), "--out", str(tmp_path / "areas.csv")]) == 0
    with (tmp_path / "areas.csv").open(encoding="utf-8-sig") as file:
        assert {row["slide"] for row in csv.DictReader(file)} == {"a.tiff", "b.tiff"}
    assert main(["predict", str(slides / "*.svs"), "--out", str(tmp_path / "none")]) == 2
    assert "*.svs: no file fits this pattern" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
