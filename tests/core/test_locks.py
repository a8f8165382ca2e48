"""One writer at a time, whoever is killed, wherever the folder lies."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from killing import ended, in_child, needs_fork, start_child
from made_predictions import predicted

from napari_lpd.core import locks
from napari_lpd.core.errors import DataError, ExportError
from napari_lpd.core.files import write_text
from napari_lpd.core.locks import Holder, beside, inside, locked, partial_beside, remove_leftovers


@pytest.fixture
def lock(tmp_path) -> Path:
    return beside(tmp_path / "a.zarr")


def held_by(lock: Path, holder: Holder) -> None:
    lock.write_text(json.dumps(asdict(holder)))


def test_a_lock_is_there_while_it_is_held_and_gone_afterwards(lock, tmp_path):
    with locked(lock, tmp_path / "a.zarr"):
        assert list(tmp_path.iterdir()) == [lock]
    with pytest.raises(ZeroDivisionError), locked(lock, tmp_path / "a.zarr"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_the_second_is_told_in_one_line_who_is_at_it_and_since_when(lock, tmp_path):
    with locked(lock, tmp_path / "a.zarr"):
        said = rf"a\.zarr: is being written by another napari-lpd \(process {os.getpid()} on \S+ since 20.*; if there"
        with pytest.raises(DataError, match=said) as error, locked(lock, tmp_path / "a.zarr", DataError):
            pass
        assert "\n" not in str(error.value)
        assert str(lock) in str(error.value)
        assert lock.exists()


def test_a_lock_that_could_not_be_removed_holds_up_nobody_of_its_process(lock, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, locked(lock, tmp_path / "a.zarr"):
        patch.setattr(os, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert lock.exists()
    with locked(lock, tmp_path / "a.zarr"), pytest.raises(ExportError, match="is being written"), locked(lock, lock):
        pass
    assert not lock.exists()


@needs_fork
def test_the_lock_of_a_process_that_was_killed_is_taken_over(lock, tmp_path):
    def killed():
        with locked(lock, tmp_path / "a.zarr"):
            os._exit(7)

    assert in_child(killed) == 7
    assert lock.exists()
    with locked(lock, tmp_path / "a.zarr"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_another_process_that_got_the_number_of_one_that_is_gone_holds_nothing(lock, tmp_path):
    held_by(lock, replace(Holder.own(), started=1))
    with locked(lock, tmp_path / "a.zarr"):
        pass


ELSEWHERE = Holder(machine="elsewhere", pid=5, started=1, since="2026-01-01 12:00:00", token="a")


def test_a_process_on_another_host_that_touches_its_lock_holds_it_whatever_the_clocks_say(lock, tmp_path, monkeypatch):
    held_by(lock, ELSEWHERE)
    ahead = time.time() + 10 * locks.SILENCE_S
    monkeypatch.setattr(time, "time", lambda: ahead)  # the folder's server knows better
    said = rf"process 5 on elsewhere since 2026-01-01 12:00:00\): wait .* again in 5 minutes, or delete {lock}"
    with pytest.raises(ExportError, match=said), locked(lock, tmp_path / "a.zarr"):
        pass
    assert lock.exists()


def test_a_lock_of_another_host_that_nobody_touches_any_more_is_taken_over(lock, tmp_path):
    held_by(lock, ELSEWHERE)
    os.utime(lock, (time.time() - locks.SILENCE_S - 1,) * 2)
    assert not locks.holder(lock)
    with locked(lock, tmp_path / "a.zarr"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_holder_touches_its_lock_and_no_other(lock, tmp_path):
    old = time.time() - 1000
    with locked(lock, tmp_path / "a.zarr"):
        assert any(thread.name == "_touch_all" and thread.daemon for thread in threading.enumerate())
        os.utime(lock, (old, old))
        locks._touch()
        assert lock.stat().st_mtime > old + 900
        held_by(lock, ELSEWHERE)
        os.utime(lock, (old, old))
        locks._touch()
        assert lock.stat().st_mtime < old + 900
    assert lock.exists()


@pytest.mark.parametrize("taken", [True, False])
def test_who_was_asleep_while_its_lock_was_taken_over_writes_nothing_more(lock, tmp_path, taken):
    folder = tmp_path / "a.zarr"
    with locked(lock, folder, DataError):
        write_text(folder / "one", "")
        held_by(lock, ELSEWHERE) if taken else lock.unlink()
        said = "taken over by process 5 on elsewhere since .*; run it again" if taken else "was deleted; run it again"
        with pytest.raises(DataError, match=rf"a\.zarr: nothing more is written there: .*{said}"):
            write_text(folder / "two", "")
        write_text(tmp_path / "another", "")
    assert [path.name for path in folder.iterdir()] == ["one"]


def test_who_was_asleep_writes_no_block_of_a_result_either(tmp_path, classes):
    prediction = predicted(tmp_path / "a.zarr", np.ones((64, 64), np.uint8), classes, finish=False)
    (block,) = prediction.finished_blocks()
    with locked(beside(prediction.folder), prediction.folder):
        held_by(beside(prediction.folder), ELSEWHERE)
        with pytest.raises(ExportError, match="taken over by process 5 on elsewhere"):
            prediction.write_block(block, None)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_lock_without_content_counts_until_its_writer_must_be_gone(lock, tmp_path, content):
    lock.write_text(content)
    with pytest.raises(ExportError, match="someone who has just begun"), locked(lock, tmp_path / "a.zarr"):
        pass
    os.utime(lock, (time.time() - 3600,) * 2)
    with locked(lock, tmp_path / "a.zarr"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_holds_where_there_are_no_hard_links(lock, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
    written = pytest.raises(ExportError, match="is being written")
    with locked(lock, tmp_path / "a.zarr"), written, locked(lock, tmp_path / "a.zarr"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"run: cannot be written \("), locked(inside(tmp_path / "file"), Path("run")):
        pass


@needs_fork
def test_of_many_who_find_the_lock_of_a_dead_process_one_at_a_time_goes_on(lock, tmp_path):
    held_by(lock, replace(Holder.own(), started=1))

    def work():
        for _ in range(20):
            with locked(lock, tmp_path / "a.zarr", wait_s=60):
                (tmp_path / "inside").touch(exist_ok=False)
                (tmp_path / "inside").unlink()

    assert [ended(child) for child in [start_child(work) for _ in range(6)]] == [0] * 6
    assert not list(tmp_path.iterdir())


STEPS = st.lists(st.tuples(st.sampled_from(("take", "release", "die")), st.integers(0, 2)), max_size=25)


@given(STEPS)
def test_in_whatever_order_processes_take_release_and_die_one_at_most_holds_the_lock(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("locks")
    lock, held, dead, lives = beside(folder / "a"), {}, [], {0: 1, 1: 1, 2: 1}
    for what, process in steps:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(locks, "started", lives.__getitem__)
            patch.setattr(os, "getpid", lambda process=process: process)
            if what == "take" and process not in held:
                manager = locked(lock, folder / "a")
                try:
                    manager.__enter__()
                except ExportError as error:
                    (holder,) = held
                    assert f"process {holder} on" in str(error)
                else:
                    assert not held
                    held[process] = manager
            elif what == "release" and process in held:
                held.pop(process).__exit__(None, None, None)
            elif what == "die":
                lives[process] += 1  # its number goes to another process at once
                dead += [held.pop(process)] if process in held else []
    for manager in (*held.values(), *dead):
        manager.__exit__(None, None, None)
    assert not list(folder.iterdir())


@needs_fork
def test_what_a_killed_process_was_writing_is_removed_and_what_others_write_stays(tmp_path):
    def killed():
        partial_beside(tmp_path / "a.csv").write_text("half")
        (folder := partial_beside(tmp_path / "a.zarr")).mkdir()
        (folder / "zarr.json").write_text("half")
        os._exit(7)

    assert in_child(killed) == 7
    own, foreign = partial_beside(tmp_path / "a.csv"), tmp_path / ".a.csv.partial"
    elsewhere, long_ago = (tmp_path / f".napari-lpd-00000000-1-{i}-0.partial" for i in range(2))
    for path in (own, foreign, elsewhere, long_ago):
        path.write_text("being written")
    os.utime(long_ago, (time.time() - 2 * locks.DAY_S,) * 2)
    assert len(list(tmp_path.iterdir())) == 6
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([own, foreign, elsewhere])


def test_the_name_of_what_is_being_written_cannot_be_guessed_and_is_short(tmp_path):
    names = {partial_beside(tmp_path / ("n" * 255)).name for _ in range(100)}
    assert len(names) == 100
    assert max(map(len, names)) < 100
