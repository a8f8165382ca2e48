"""Labelled tiles: a folder per class and tables; names with digits are tested with training."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import DataError
from napari_lpd.data.labelled_tiles import labelled_tiles


@pytest.fixture
def tile(tmp_path):
    """Write a tile somewhere below the data folder."""

    def write(name, size=(64, 64)):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), len(name), np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def table(tile, tmp_path):
    """Write a table and the tiles that it names."""

    def write(rows, name="labels.csv", delimiter=","):
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        for row in rows[1:]:
            tile(row[0])
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)
        return path

    return write


@pytest.mark.parametrize("part", ["", "train/"])
def test_a_folder_per_class_labels_its_tiles(tile, classes, tmp_path, part):
    for name in ("dark/a+1.png", "dark/b+1.png", "pink/a+2.jpg"):
        tile(part + name)
    tile("valid/img/x.png")
    tiles = labelled_tiles(tmp_path / "data", classes)
    assert tiles.labels.tolist() == [[1, 0], [1, 0], [0, 1]]
    assert tiles.sources == ("a", "b", "a")
    assert [path.name for path in tiles.files] == ["a+1.png", "b+1.png", "a+2.jpg"]


def test_a_folder_that_is_no_class_is_refused(tile, classes, tmp_path):
    for name in ("dark/a.png", "pink/b.png", "blue/c.png"):
        tile(name)
    with pytest.raises(DataError, match=r"blue: a folder that is no class \(dark, pink\); add the class"):
        labelled_tiles(tmp_path / "data", classes)


def test_a_class_without_a_folder_or_tiles_is_named(tile, classes, tmp_path):
    tile("dark/a.png")
    with pytest.raises(DataError, match="pink: no such folder"):
        labelled_tiles(tmp_path / "data", classes)


@pytest.mark.parametrize(("name", "delimiter"), [("labels.csv", ","), ("labels.tsv", "\t")])
def test_a_table_labels_tiles_with_several_classes_and_sources(table, classes, name, delimiter):
    rows = [("path", "pink", "source", "dark", "remark"), ("x/a.png", 1, "p1", 0, "ü"), ("x/b.png", 1, "p2", "yes", "")]
    tiles = labelled_tiles(table([*rows, ("c.png", "", "p2", "1", "")], name, delimiter), classes)
    assert tiles.labels.tolist() == [[0, 1], [1, 1], [1, 0]]
    assert tiles.sources == ("p1", "p2", "p2")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("path", "dark"), ("a.png", 1)], "no column 'pink'; wanted path, dark, pink; has path, dark"),
        ([("path", "dark", "pink")], "holds no tiles"),
        (
            [("path", "dark", "pink"), ("a.png", 2, 0)],
            "line 2: shares dark 2, pink 0 sum to 2; wanted numbers from 0 that",
        ),
        ([("path", "dark", "pink"), ("a.png", "much", 0)], "line 2, dark: 'much'; wanted 0 or 1, or a share"),
        ([("path", "dark", "pink"), ("a.png", 1, 0), ("a.png", 0, 1)], "a.png occurs twice"),
    ],
)
def test_a_table_that_cannot_be_used_says_where(table, classes, rows, said):
    with pytest.raises(DataError) as error:
        labelled_tiles(table(rows), classes)
    assert said in str(error.value)


def test_a_file_that_is_missing_is_named_with_its_line(table, classes, tmp_path):
    path = table([("path", "dark", "pink"), ("a.png", 1, 0), ("b.png", 0, 1)])
    (tmp_path / "data" / "b.png").unlink()
    with pytest.raises(DataError, match=r"line 3: no such file 'b.png'; paths are relative to the table"):
        labelled_tiles(path, classes)


def test_a_table_that_is_no_text_is_refused(tmp_path, classes):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="a.csv: not readable as a table"):
        labelled_tiles(tmp_path / "a.csv", classes)


def test_real_tiles_in_a_folder_per_class(shared_slides, tmp_path):
    names = ("ADI", "LYM", "STR", "TUM")
    for path in (shared_slides.parent / "tiles" / "crc_val_he_7k_sample").glob("*.png"):
        if (name := path.name.partition("-")[0]) in names:
            (tmp_path / name).mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / name)
    classes = tuple(TissueClass(name=name, color="#00ff00") for name in names)
    tiles = labelled_tiles(tmp_path, classes)
    assert tiles.tiles_per_class == dict.fromkeys(names, 4)
    assert tiles[0][0].shape == (3, 224, 224)
