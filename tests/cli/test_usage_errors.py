"""What is typed wrongly, or is not there, is one line that names it and the way out."""

from __future__ import annotations

import json

import pytest

from napari_lpd.cli.main import main

TYPED = {  # a command line, and what is said of it
    "predict a.svs --out o --regionss x": "unknown option --regionss; did you mean --regions? (napari-lpd predict",
    "predict a.svs --regionss=x": "unknown option --regionss; did you mean --regions?",  # before what is missing
    "measure a.zarr --out a.csv --fild -1,2": "unknown option --fild; did you mean --field?",
    "train --slid x": "ambiguous option: --slid could match --slide, --slide-mpp",
    "export a.zarr --to a.png --what all": "argument --what: invalid choice: 'all'",
    "predict a.svs --out o --mpp half": "argument --mpp: invalid float value: 'half'",
    "predict --zzz a.svs": "unknown option --zzz (napari-lpd predict --help lists all)",
    "predict a.svs": "the following arguments are required: --out",
    "preddict a.svs": "unknown command preddict; did you mean predict? (napari-lpd --help lists all)",
}


@pytest.mark.parametrize("typed", TYPED)
def test_a_wrong_option_is_one_line_with_the_nearest_one(typed, capsys):
    assert main(typed.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith("napari-lpd: error: ")
    assert TYPED[typed] in line
    assert main([*typed.split(), "--json"]) == 2
    assert TYPED[typed] in json.loads(capsys.readouterr().out)["message"]


ABSENT = {
    "predict absent.svs --out o": "absent.svs: no such file",
    "predict a.svs --out o --model absent.st": "absent.st: no such model file",
    "predict a.svs --out o --settings absent.json": "absent.json: no such file; wanted settings",
    "train --slide a.svs --regions a.geojson --classes absent.json --out o": "absent.json: no such file; wanted",
    "train --project absent.lpd.json --out o": "absent.lpd.json: no such file; wanted a project",
    "measure a.zarr --roles absent.json --out a.csv": "absent.json: no such file; wanted roles",
    "import absent.pth --out o": "absent.pth: no such file",
    "compare absent.st --data a.svs --out o": "no such",
}


@pytest.mark.parametrize("typed", ABSENT)
def test_what_is_not_there_is_named_with_the_remedy(typed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(typed.split()) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert ABSENT[typed] in line
    assert line.endswith("; check its name and folder")
    assert not list(tmp_path.iterdir())
