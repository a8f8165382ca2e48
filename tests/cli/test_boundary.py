"""What the command line makes of errors that nobody expected, and of consoles that lack a letter."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch

from napari_lpd.cli.common import Printer
from napari_lpd.cli.main import main
from napari_lpd.core import errors
from napari_lpd.core.errors import described
from napari_lpd.core.jobs import Progress

module = sys.modules["napari_lpd.cli.parser"]  # where the commands are looked up
COMMANDS = [
    "demo",
    "train",
    "predict",
    "evaluate",
    "compare",
    "import",
    "stage2",
    "reproduce",
    "measure",
    "export",
    "doctor",
]
RAISED = [
    RecursionError("too deep"),
    KeyError("name"),
    RuntimeError("a\nb\x1b[31m"),
    AssertionError(),
    ValueError("x" * 9999),
]
RAISED += [
    ZeroDivisionError("no"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    AttributeError("none"),
    OSError(28, "full"),
]


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.setattr(errors.platformdirs, "user_log_path", lambda *_, **__: tmp_path / "logs")
    return tmp_path / "logs"


def raising(error):
    def run(*_):
        raise error

    return run


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("as_json", [False, True])
def test_any_error_is_one_line_and_its_traceback_is_in_the_log_that_the_line_names(
    capsys, monkeypatch, logs, error, as_json
):
    monkeypatch.setattr(module, "doctor", raising(error))
    assert main(["doctor", *(["--json"] * as_json)]) == 1
    out, err = capsys.readouterr()
    line = json.loads(out)["message"] if as_json else err.removeprefix("napari-lpd: error: ").removesuffix("\n")
    assert "\n" not in line and "\x1b" not in line and len(line) <= 300
    assert line.startswith(f"unexpected {type(error).__name__}")
    (log,) = logs.iterdir()
    assert str(log) in line
    assert "Traceback" in log.read_text("utf-8")


def test_the_newest_logs_are_kept(logs):
    names = [described(ValueError(str(number))).rpartition(" ")[2] for number in range(errors.KEPT_LOGS + 5)]
    assert sorted(str(path) for path in logs.iterdir()) == names[5:]


def test_without_a_place_for_logs_the_line_is_said_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(errors.platformdirs, "user_log_path", lambda *_, **__: tmp_path / "file" / "logs")
    monkeypatch.setattr(errors.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    assert described(ValueError("odd")) == "unexpected ValueError: odd"


def test_logs_go_to_the_temporary_folder_where_the_user_has_none(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(errors.platformdirs, "user_log_path", lambda *_, **__: tmp_path / "file" / "logs")
    monkeypatch.setattr(errors.tempfile, "gettempdir", lambda: str(tmp_path))
    assert Path(described(ValueError("odd")).rpartition(" ")[2]).parent == tmp_path / "napari-lpd"


def test_too_little_memory_is_said_as_such():
    assert described(MemoryError()).startswith("not enough memory")
    assert "not enough memory on the GPU" in described(torch.OutOfMemoryError("CUDA out of memory."))


class Closed(io.TextIOWrapper):
    def write(self, _):
        raise BrokenPipeError


def test_a_reader_of_the_output_that_goes_away_is_no_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Closed(io.BytesIO()))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == ""


def console(monkeypatch, encoding):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    return streams


@pytest.mark.parametrize("encoding", ["ascii", "cp932", "gbk", "cp1251", "cp1252", "utf-8"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed_on_every_console(monkeypatch, encoding, command):
    out, _ = console(monkeypatch, encoding)
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out.flush()
    assert b"usage: napari-lpd" in out.buffer.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "cp932", "gbk", "cp1251"])
def test_results_are_printed_on_every_console(monkeypatch, encoding):
    out, err = console(monkeypatch, encoding)
    said = {"mm²": {"腫瘍": 1.5}, "note": "a × b … 🙂", "list": ["Ω", {"µ": 2}]}
    monkeypatch.setattr(module, "doctor", lambda _, printer: printer.note("opening 腫瘍.svs …") or said)
    assert main(["doctor"]) == 0
    out.flush()
    assert out.buffer.getvalue().decode(encoding).count("\n") == 5
    assert b"svs" in err.buffer.getvalue()


def test_printed_lines_are_short_and_have_no_line_end_in_them(capsys):
    odd = "a\nb\x1b[2J" + "x" * 5000
    printer = Printer(False)
    printer.progress(Progress(1, 1, odd))
    printer.progress(Progress(0, 0, odd))
    printer.progress(Progress(0, 1, f"warning: {odd}"))
    printer.note(odd)
    printer.error(odd)
    printer.result({odd: odd, "in": {odd: 1.5}, "list": [odd, {odd: odd}]})
    out, err = capsys.readouterr()
    lines = (out + err).splitlines()
    assert len(lines) == 10
    assert max(len(line) for line in lines) <= 340
    assert "\x1b" not in out + err
