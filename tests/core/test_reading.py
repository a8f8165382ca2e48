from __future__ import annotations

import codecs
import gzip
import json
import zipfile

import pytest

from napari_lpd.core import reading
from napari_lpd.core.errors import DataError, SettingsError
from napari_lpd.core.reading import located, read_json, visible

VALUE = {"tissue": "Drüse"}
TEXT = json.dumps(VALUE, ensure_ascii=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_is_read_with_and_without_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "a.json").write_text(TEXT, encoding=encoding)
    assert read_json(tmp_path / "a.json") == VALUE


def test_big_endian_utf_16_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"))
    assert read_json(tmp_path / "a.json") == VALUE


def test_compressed_json_is_read_whatever_its_name(tmp_path):
    (tmp_path / "a.json").write_bytes(gzip.compress(TEXT.encode("utf-8-sig")))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/", "")
        archive.writestr("folder/a.json", TEXT)
        archive.writestr("__MACOSX/a.json", "resource fork")
    assert read_json(tmp_path / "a.json") == read_json(tmp_path / "a.zip") == VALUE


def zipped(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "{}")

    return write


def cut_gzip(path):
    path.write_bytes(gzip.compress(TEXT.encode())[:-9])


UNREADABLE = {
    "empty": (lambda path: path.write_text(""), "Expecting value"),
    "no JSON": (lambda path: path.write_text("{'a': 1}"), "Expecting property name"),
    "NaN": (lambda path: path.write_text('{"a": NaN}'), "NaN is no number in JSON"),
    "infinite": (lambda path: path.write_text('{"a": -Infinity}'), "-Infinity is no number in JSON"),
    "twice": (lambda path: path.write_text('{"a": 1, "b": {"a": 1, "a": 2}}'), "'a' occurs twice in an object"),
    "beyond a float": (lambda path: path.write_text('{"a": 1e999}'), "1e999 is too large a number"),
    "a whole number of 400 digits": (
        lambda path: path.write_text('{"a": 1' + "0" * 400 + "}"),
        "is too large a number",
    ),
    "half a character": (lambda path: path.write_text('{"a": "\\ud800"}'), "surrogates not allowed"),
    "just too deep": (lambda path: path.write_text('{"a": ' + "[" * 64 + "]" * 64 + "}"), "nested too deeply"),
    "deep": (lambda path: path.write_text("[" * 100_000), "nested too deeply"),
    "deep and closed": (lambda path: path.write_text('{"a":' * 9000 + "1" + "}" * 9000), "nested too deeply"),
    "picture": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\xff"), "codec can't decode"),
    "folder": (lambda path: path.mkdir(), "director|denied"),
    "cut gzip": (cut_gzip, "ended before"),
    "no zip": (lambda path: path.write_bytes(b"PK\x03\x04 and more"), "not a zip file"),
    "two in a zip": (zipped("a.json", "b.json"), "a zip archive of 2 files, wanted one"),
    "list": (lambda path: path.write_text("[]"), r"wanted \{…\} in it"),
}


def test_a_file_that_is_not_there_is_said_with_what_was_wanted(tmp_path):
    with pytest.raises(SettingsError, match=r"a\.json: no such file; wanted roles; check its name and folder$"):
        read_json(tmp_path / "a.json", SettingsError, "roles", dict)


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_one_line_that_names_the_file_and_says_why(tmp_path, name):
    write, why = UNREADABLE[name]
    write(tmp_path / "a.json")
    with pytest.raises(SettingsError, match=rf"a\.json: not readable as roles \(.*{why}.*\); check its name") as error:
        read_json(tmp_path / "a.json", SettingsError, "roles", dict)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_json_above_the_limit_is_refused_also_when_it_is_compressed(tmp_path, monkeypatch, pack, large):
    monkeypatch.setattr(reading, "MAX_BYTES_LARGE" if large else "MAX_BYTES", 2**20)
    (tmp_path / "a.json").write_bytes(pack(b" " * 2**20 + b"[]"))
    with pytest.raises(DataError, match=r"a\.json: not readable as JSON \(larger than 1 MB\)"):
        read_json(tmp_path / "a.json", large=large)
    (tmp_path / "a.json").write_bytes(pack(b" " * (2**20 - 2) + b"[]"))
    assert read_json(tmp_path / "a.json", large=large) == []


def test_json_of_the_depth_that_is_allowed_is_read(tmp_path):
    (tmp_path / "a.json").write_text("[" * 64 + "]" * 64)
    assert read_json(tmp_path / "a.json") != []


HIDDEN = (
    "._a.png",
    ".DS_Store",
    ".ipynb_checkpoints",
    "@eaDir",
    "__MACOSX",
    "Thumbs.db",
    "desktop.ini",
    "#recycle",
    "~$a.csv",
)


def test_what_systems_leave_in_folders_is_passed_over(tmp_path):
    for name in (*HIDDEN, "b.png", "a.png", "a_.png"):
        (tmp_path / name).touch()
    assert [path.name for path in visible(tmp_path.iterdir())] == ["a.png", "a_.png", "b.png"]


def test_a_path_that_windows_wrote_is_found(tmp_path):
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles" / "a.png").touch()
    assert located(tmp_path, "tiles\\a.png").is_file()
    assert located(tmp_path, "tiles/a.png").is_file()
