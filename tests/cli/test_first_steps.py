"""What the command line says before one knows it: first steps, help, how much is printed, completion, JSON lines."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from napari_lpd import __version__
from napari_lpd.cli.main import main
from napari_lpd.cli.parser import EXAMPLES, GROUPS, commands_parser
from napari_lpd.core.jobs import Progress

SCHEMA = Path(__file__).parents[2] / "docs" / "reference" / "json-lines.schema.json"


def test_without_arguments_it_says_what_to_do_first(capsys):
    assert main([]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "napari-lpd demo " in said.out
    assert "napari-lpd --help" in said.out
    assert "Research use only" in said.out


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"napari-lpd {__version__}\n"


def test_every_command_is_in_one_group_of_the_help_and_has_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    page = capsys.readouterr().out
    listed = re.findall(r"^ {4}([a-z]\w*) ", page, re.MULTILINE)
    assert sorted(listed) == sorted(commands_parser().subparsers()) == sorted(EXAMPLES)
    assert all(f"\n{title}:\n" in page for title in GROUPS)
    for name in listed:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert capsys.readouterr().out.endswith("\n".join(f"  {line}" for line in EXAMPLES[name]) + "\n")


@pytest.fixture
def slow_predict(monkeypatch):
    """`predict`, which says something before it fails or ends."""

    def put(error: Exception | None) -> None:
        def work(_, printer):
            printer.progress(Progress(1, 1, "scoring tiles"))
            printer.note("warning: far from the training colours")
            printer.note("all slides are done")
            if error:
                raise error
            return {"slides": 1}

        monkeypatch.setattr("napari_lpd.cli.parser.predict", work)

    return put


def test_quiet_keeps_warnings_and_the_result(slow_predict, capsys):
    slow_predict(None)
    assert main(["predict", "a.svs", "--out", "o"]) == 0
    assert "all slides are done" in capsys.readouterr().err
    assert main(["predict", "a.svs", "--out", "o", "-q"]) == 0
    said = capsys.readouterr()
    assert said.err == "warning: far from the training colours\n"
    assert said.out == "slides: 1\n"


def test_verbose_shows_the_traceback_of_an_error_below_its_line(slow_predict, capsys):
    slow_predict(ValueError("quite unexpected"))
    assert main(["predict", "a.svs", "--out", "o"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert main(["predict", "a.svs", "--out", "o", "--verbose"]) == 1
    said = capsys.readouterr().err
    assert said.index("napari-lpd: error: unexpected ValueError") < said.index("Traceback")


def completed(script: str, *words: str) -> list[str]:
    """Let bash complete the last of the words."""
    given = " ".join(f"'{word}'" for word in words)
    asked = f"COMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; _shtab_napari_lpd; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_commands_options_and_choices(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert set(completed(script, "napari-lpd", "")) == set(commands_parser().subparsers())
    assert completed(script, "napari-lpd", "predict", "--ov") == ["--override-mpp", "--overwrite"]
    assert completed(script, "napari-lpd", "train", "--preset", "pbip-o") == ["pbip-official-code"]


def test_json_lines_are_what_their_schema_says(tiny_tiff, tmp_path, capsys):
    check = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    out = ["--out", str(tmp_path / "out"), "--set", "tile=128", "--set", "overlap=32", "--json"]
    assert main(["predict", str(tiny_tiff), *out]) == 0
    assert main(["predict", str(tiny_tiff), str(tmp_path / "absent.svs"), *out]) == 2
    assert main(["predict", "--nonsense", "--json"]) == 2
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["event"] for line in lines} == {"progress", "slide", "result", "error"}
    assert {"error" in line for line in lines if line["event"] == "slide"} == {True, False}
    for line in lines:
        check.validate(line)
        for name in [name for name in line if line["event"] != "result" and name != "already finished"]:
            assert not check.is_valid({key: value for key, value in line.items() if key != name}), (line, name)
