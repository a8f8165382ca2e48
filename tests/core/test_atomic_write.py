"""Files appear whole or not at all, never through a link, never in place of another's."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_lpd.core.errors import ExportError, ModelError
from napari_lpd.core.files import atomic_write, is_ours, mark_of, refuse_overwrite, write_files, write_text

MARK = mark_of("report")


def test_a_link_that_lies_where_a_file_is_written_is_not_followed(tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    for name in (".x.csv.partial", "x.csv.partial"):
        (tmp_path / name).symlink_to(victim)
    write_text(tmp_path / "x.csv", "table")
    assert victim.read_text() == "precious"
    assert (tmp_path / "x.csv").read_text() == "table"
    assert not (tmp_path / "x.csv").is_symlink()


def test_a_link_at_the_place_itself_is_replaced_or_refused_but_not_followed(tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    (tmp_path / "x.csv").symlink_to(victim)
    (tmp_path / "y.csv").symlink_to(tmp_path / "gone")
    for name in ("x.csv", "y.csv"):
        with pytest.raises(ExportError, match="exists and is not overwritten"):
            write_text(tmp_path / name, "table", overwrite=False)
    write_text(tmp_path / "x.csv", "table")
    assert (victim.read_text(), (tmp_path / "x.csv").read_text()) == ("precious", "table")


@pytest.mark.skipif(os.name != "posix", reason="the permissions of new files")
def test_a_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "usual").touch()
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_is_written_has_reached_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, call=call: (done.append(name), call(*given)))
    write_text(tmp_path / "a", "text")
    assert done == ["fsync", "replace", "fsync"]  # the last is the folder's


def test_a_file_system_that_knows_no_fsync_is_written_to_and_a_full_disk_is_said(tmp_path, monkeypatch):
    def failing(number):
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(number, os.strerror(number))))

    failing(errno.EINVAL)
    write_text(tmp_path / "a", "text")
    failing(errno.ENOSPC)
    with pytest.raises(ModelError, match=r"b: cannot be written \(No space left"):
        write_text(tmp_path / "b", "text", error=ModelError)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path):
    path = tmp_path / ("n" * 251 + ".csv")
    write_text(path, "table")
    assert path.read_text() == "table"


def test_a_name_that_someone_takes_in_the_meantime_is_not_replaced(tmp_path):
    for links in (True, False):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(ExportError, match="exists and is not overwritten"):
            if not links:
                patch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
            with atomic_write(tmp_path / "a", overwrite=False) as partial:
                partial.write_text("ours")
                (tmp_path / "a").write_text("theirs")
        assert (tmp_path / "a").read_text() == "theirs"
        (tmp_path / "a").unlink()
    assert not list(tmp_path.iterdir())


FOREIGN = {
    "a text": b"notes",
    "an empty file": b"",
    "a slide": b"II*\0" + bytes(2**17),
    "ours of another kind": mark_of("picture").encode(),
    "with our mark in the middle": bytes(2**17) + MARK.encode() + bytes(2**17),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_file_of_another_kind_is_never_replaced_though_the_user_agrees(tmp_path, what):
    path = tmp_path / "a.md"
    path.write_bytes(FOREIGN[what])
    with pytest.raises(ExportError, match=r"a\.md exists and is no file of this kind written by napari-lpd"):
        write_text(path, MARK, mark=MARK)
    assert path.read_bytes() == FOREIGN[what]


@pytest.mark.parametrize("content", [MARK, "#" * 2**17 + MARK, MARK + "#" * 2**17])
def test_a_file_of_ours_is_replaced_when_the_user_agrees(tmp_path, content):
    path = write_text(tmp_path / "a.md", content)
    assert is_ours(path, MARK)
    refuse_overwrite(path, True, MARK)
    write_text(path, "new", mark=MARK)
    assert path.read_text() == "new"


def test_files_that_belong_together_are_replaced_when_all_are_written(tmp_path):
    write_files(tmp_path, {"a": b"old", "b": b"old"})
    with pytest.raises(TypeError):
        write_files(tmp_path, {"a": b"new", "b": 1})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old", "b": b"old"}


WRITERS = st.lists(st.tuples(st.integers(0, 1), st.sampled_from(("write", "finish", "fail"))), max_size=20)


@given(st.tuples(st.booleans(), st.booleans()), WRITERS)
def test_two_writers_of_one_file_leave_a_whole_one_in_whatever_order_they_are_at_it(tmp_path_factory, may, steps):
    """The file is the one of the writer that finished last, or first where it may not replace one."""
    path = tmp_path_factory.mktemp("two") / "a.csv"
    open_, wanted = {}, None
    for number, (writer, what) in enumerate(steps):
        if writer not in open_:
            manager = atomic_write(path, overwrite=may[writer])
            try:
                open_[writer] = manager, manager.__enter__(), []
            except ExportError:
                assert wanted is not None
                assert not may[writer]
                continue
        manager, partial, texts = open_[writer]
        if what == "write":
            texts.append(f"{number} by {writer}")
            with partial.open("a") as file:
                file.write(texts[-1])
            continue
        del open_[writer]
        if what == "fail":
            assert not manager.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        elif may[writer] or wanted is None:
            manager.__exit__(None, None, None)
            wanted = "".join(texts)
        else:
            with pytest.raises(ExportError, match="exists and is not overwritten"):
                manager.__exit__(None, None, None)
        assert (path.read_text() if path.exists() else None) == wanted
    for manager, *_ in open_.values():
        assert not manager.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert [other.name for other in path.parent.iterdir()] == ["a.csv"] * (wanted is not None)
