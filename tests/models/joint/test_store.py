"""A store computes the features of a cell once, within its bounds, and says in a line why it cannot keep them."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from napari_lpd.core.errors import ModelError
from napari_lpd.models.joint.store import FeatureStore

CELL = np.ones((2, 2, 4), np.float16)
ROOM = 10 * CELL.nbytes


class Counted:
    """Compute a cell, and count how often."""

    def __init__(self, value: float = 1.0) -> None:
        self.calls, self._value = 0, value

    def __call__(self):
        self.calls += 1
        return CELL * np.float16(self._value)


def test_a_cell_is_computed_once():
    store, cell = FeatureStore("a", ROOM), Counted(3)
    found = [store.get("x", cell) for _ in range(3)]
    assert cell.calls == 1
    assert all((one == 3).all() for one in found)


def test_the_cell_used_longest_ago_is_dropped_first():
    store, cells = FeatureStore("a", 2 * CELL.nbytes), {name: Counted() for name in "xyz"}
    for name in "xyxzxy":
        store.get(name, cells[name])
    assert [cells[name].calls for name in "xyz"] == [1, 2, 1]


def test_a_cell_larger_than_the_room_is_still_given():
    store = FeatureStore("a", 1)
    assert store.get("x", Counted(2)).shape == CELL.shape


def test_another_store_of_the_same_encoder_reads_what_is_on_disk(tmp_path):
    first, again = Counted(5), Counted(6)
    FeatureStore("a", ROOM, tmp_path).get("x", first)
    found = FeatureStore("a", ROOM, tmp_path).get("x", again)
    assert (found == 5).all()
    assert (first.calls, again.calls) == (1, 0)


def test_the_features_of_another_encoder_are_refused_in_a_line(tmp_path):
    FeatureStore("a", ROOM, tmp_path)
    with pytest.raises(ModelError, match="features of another encoder; choose another folder") as caught:
        FeatureStore("b", ROOM, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_told_in_a_line_and_leaves_no_half_cell(tmp_path, monkeypatch):
    store = FeatureStore("a", ROOM, tmp_path)

    def full(file, cell):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(ModelError, match=r"x\.npy: cannot be written \(No space left on device\)"):
        store.get("x", Counted())
    assert [path.name for path in tmp_path.iterdir()] == ["features.json"]


def test_a_folder_that_cannot_be_written_is_told_in_a_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be written"):
        FeatureStore("a", ROOM, tmp_path / "file" / "store")


@pytest.mark.parametrize("content", [b"", b"not a cell", b"\x93NUMPY\x01\x00"])
def test_a_damaged_cell_is_named(tmp_path, content):
    store = FeatureStore("a", ROOM, tmp_path)
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.npy: damaged"):
        store.get("x", Counted())
