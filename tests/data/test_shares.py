"""Shares: how much of a tile's, or a region's, tissue is of which class, in files and for tiles."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from napari_lpd.core.classes import whole_shares
from napari_lpd.core.errors import DataError
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.data.region_tiles import cut_tiles
from napari_lpd.data.regions import Region, read_regions, write_regions
from napari_lpd.data.summary import summarise
from napari_lpd.data.tileset import UNPAINTED, TileSet
from napari_lpd.data.training_set import TrainingSource


def box(y0, x0, y1, x1, *tissues, shares=()):
    return Region(np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], float), tissues, shares=shares)


@pytest.mark.parametrize("said", [{"a": 0.6, "b": "0.4"}, {"a": "60 %", "b": 40}, {"a": 59.7, "b": 39.8}])
def test_shares_are_numbers_or_percentages_and_may_be_rounded(said):
    assert whole_shares(said, "here") == pytest.approx({"a": 0.6, "b": 0.4})


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            {"a": 0.6, "b": 0.2},
            "here: shares a 0.6, b 0.2 sum to 0.8; wanted numbers from 0 that sum to 1, or to 100 %",
        ),
        ({"a": 1.4, "b": -0.4}, "shares a 1.4, b -0.4 sum to 1; wanted numbers from 0"),
        ({"a": "nan", "b": 1}, "sum to nan"),
        ({"a": "much", "b": 1}, "shares a much, b 1; wanted numbers that sum to 1"),
    ],
)
def test_what_is_no_whole_is_one_line(said, why):
    with pytest.raises(DataError) as error:
        whole_shares(said, "here")
    assert why in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def tile_files(tmp_path):
    def write(*names):
        for name in names:
            Image.new("RGB", (64, 64)).save(tmp_path / name)
        return tmp_path

    return write


def test_a_table_has_shares_in_some_rows_and_presence_in_others(tile_files, classes):
    folder = tile_files("a.png", "b.png", "c.png")
    (folder / "t.csv").write_text("path,dark,pink,none\na.png,60,30,10\nb.png,1,1,\nc.png,0.25,0.75,0\n")
    tiles = labelled_tiles(folder / "t.csv", classes)
    assert tiles.labels.tolist() == [[1, 1], [1, 1], [1, 1]]
    assert {i: shares.parts.tolist() for i, shares in tiles.shares.items()} == {
        0: pytest.approx([0.1, 0.6, 0.3]),
        2: pytest.approx([0, 0.25, 0.75]),
    }
    split = summarise(tiles, tiles, None)["split"]
    assert split.endswith("; 2 of all have shares")


def test_a_tile_s_name_has_shares_and_one_of_0_says_that_a_class_is_absent(tile_files, classes):
    tiles = labelled_tiles(tile_files("a[100 0].png", "b[30 70].png", "c[0 1].png"), classes)
    assert tiles.labels.tolist() == [[1, 0], [1, 1], [0, 1]]
    assert [tiles.shares[i].parts.tolist() for i in tiles.shares] == [[0, 1, 0], pytest.approx([0, 0.3, 0.7])]
    with pytest.raises(DataError, match=r"b\[30 60\].png: shares dark 30, pink 60 sum to 90; wanted"):
        labelled_tiles(tile_files("b[30 60].png"), classes)


def test_regions_with_shares_come_back_as_written(tmp_path, classes):
    drawn = [box(0, 0, 50, 50, "dark", "pink", shares=(0.6, 0.3)), box(0, 60, 50, 90, "dark")]
    drawn.append(replace(drawn[0], pixels=True))
    path = write_regions(tmp_path / "r.geojson", drawn, classes)
    read = read_regions(path, ["dark", "pink"])
    both, one = (("dark", "pink"), (0.6, 0.3)), (("dark",), ())
    assert [(region.tissues, region.shares) for region in read] == [both, one, both]
    assert [region.pixels for region in read] == [False, False, True]
    assert [region.key for region in read] == [region.key for region in drawn]


def changed(tmp_path, classes, change):
    """A file with a region of shares, whose properties were changed by another program."""
    path = write_regions(tmp_path / "r.geojson", [box(0, 0, 50, 50, "dark", "pink", shares=(0.6, 0.4))], classes)
    document = json.loads(path.read_text())
    change(document["features"][0]["properties"])
    path.write_text(json.dumps(document))
    return path


def test_shares_survive_qupath_while_the_class_stays_what_it_was(tmp_path, classes):
    def through_qupath(properties):
        del properties["tissues"], properties["shares"]

    def and_given_another_class(properties):
        through_qupath(properties)
        properties["classification"] = {"name": "pink"}

    [kept] = read_regions(changed(tmp_path, classes, through_qupath))
    assert (kept.tissues, kept.shares) == (("dark", "pink"), (0.6, 0.4))
    [other] = read_regions(changed(tmp_path, classes, and_given_another_class))
    assert (other.tissues, other.shares) == (("pink",), ())


@pytest.mark.parametrize(
    ("shares", "why"),
    [
        ({"dark": 60, "pink": 10}, r"r.geojson, feature 1: shares dark 60, pink 10 sum to 70; wanted"),
        ({"dark": 60, "blue": 40}, r"r.geojson: tissue 'blue' is not among the classes dark, pink"),
        ([0.6, 0.4], r"its shares are \[0.6, 0.4\], wanted a number of each tissue"),
    ],
)
def test_shares_that_cannot_be_are_one_line(tmp_path, classes, shares, why):
    path = changed(tmp_path, classes, lambda properties: properties.update(shares=shares))
    with pytest.raises(DataError, match=why):
        read_regions(path, ["dark", "pink"])


def test_tiles_have_a_part_in_the_shares_of_the_region_that_covers_them(tiny_slide, classes, tiny_settings):
    mixed = box(0, 100, 256, 292, "dark", "pink", shares=(0.5, 0.4))
    tiles = cut_tiles(tiny_slide, [mixed, box(0, 292, 256, 384, "pink")], classes, tiny_settings, "made")
    covered = {i for i, at in enumerate(tiles.origins) if at.x >= 100 - 16 and at.x + 64 <= 292 + 16}
    assert 5 < len(covered) < len(tiles)
    assert set(tiles.shares) == covered
    assert {shares.of for shares in tiles.shares.values()} == {"made, region 1"}
    assert all(shares.parts.tolist() == pytest.approx([0.1, 0.5, 0.4]) for shares in tiles.shares.values())
    twice = TileSet.joined([tiles, tiles], "twice").subset([len(tiles) + min(covered), 0])
    assert [*twice.shares] == [0, 1] if 0 in covered else [0]
    assert tiles.said_of(min(covered)) != tiles.labels[min(covered)].tobytes()


def test_a_region_that_covers_no_tile_says_that_its_shares_are_not_used(
    tiny_slide, tiny_regions, classes, tiny_settings
):
    small = box(100, 180, 120, 200, "dark", "pink", shares=(0.5, 0.5))
    tiles = cut_tiles(tiny_slide, [*tiny_regions, small], classes, tiny_settings, "made")
    assert not tiles.shares
    assert any("of 1 of 1 regions with shares only the tissues are used" in line for line in tiles.doubts)


@pytest.fixture
def masked(tile_files, tmp_path, classes):
    """Two tiles, the first a quarter glass, and a mask of it: dark, pink, none of them, and a row not counted."""
    folder = tile_files("a[10].png", "b[01].png")
    image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    image[:16], mask[32:48], mask[48:], mask[63] = 255, 1, 2, 255
    Image.fromarray(image).save(folder / "a[10].png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a[10].png")
    settings = TrainSettings(mpp=0.5)

    def load(masks_as):
        return TrainingSource(data=folder, masks=tmp_path / "masks", masks_as=masks_as).load(classes, settings).tiles

    return load, mask


def test_a_mask_beside_a_tile_labels_its_pixels(masked):
    load, mask = masked
    tiles = load("pixels")
    wanted = np.array([1, 2, 0, UNPAINTED])[np.where(mask == 255, 3, mask)]
    assert [*tiles.painted] == [0] and np.array_equal(tiles.painted[0], wanted)
    assert tiles.labels.tolist() == [[1, 1], [0, 1]]


def test_a_mask_beside_a_tile_gives_the_shares_of_its_tissue(masked):
    load, _ = masked
    tiles = load("shares")
    assert tiles.shares[0].parts.tolist() == pytest.approx([15 / 47, 16 / 47, 16 / 47])  # in rows, without the glass
    assert (tiles.labels.tolist(), len(tiles.shares), tiles.painted) == ([[1, 1], [0, 1]], 1, {})


def test_a_mask_that_fits_no_tile_is_named(masked, tmp_path):
    load, _ = masked
    Image.new("L", (64, 64)).save(tmp_path / "masks" / "c.png")
    with pytest.raises(DataError, match="c.png: no tile of the same name in .*; wanted one: rename or remove it"):
        load("pixels")
    (tmp_path / "masks" / "c.png").unlink()
    Image.new("L", (32, 64)).save(tmp_path / "masks" / "b[01].png")
    with pytest.raises(DataError, match=r"b\[01\].png: \(64, 32\) pixels, but its tile has \(64, 64\)"):
        load("pixels")


def test_masks_are_a_part_of_the_command_that_trains_again(tmp_path):
    here = tmp_path
    source = TrainingSource(data=here, masks=here / "m", masks_as="shares")
    assert TrainingSource.parse(source.arguments()) == source
    with pytest.raises(DataError, match="--masks goes with --data only"):
        TrainingSource(masks=here, project=here).check()
    with pytest.raises(DataError, match="--masks-as goes with --masks only"):
        TrainingSource(data=here, masks_as="shares").check()
