"""Which tiles are held out for validation, of sets that can be overlooked."""

from __future__ import annotations

import numpy as np
import pytest

from napari_lpd.core.classes import TissueClass
from napari_lpd.data.tileset import TileSet

CLASSES = tuple(TissueClass(name=name, color="#3b4cff") for name in ("dark", "pink"))
DARK, PINK, BOTH = (1, 0), (0, 1), (1, 1)
SEEDS = range(20)


def tile_set(labels, sources, clusters=()) -> TileSet:
    """Tile i is of shade i."""
    return TileSet(
        CLASSES, np.array(labels, np.float32), lambda i: np.full((8, 8, 3), i, np.uint8), "made",
        sources=sources, files=[], clusters=clusters,
    )  # fmt: skip


def held(tiles: TileSet, share: float, seed: int, of: str = "sources") -> tuple[str, ...]:
    """Slides (or clusters) that are held out; the others are in training, and no tile is lost or in both."""
    kept, apart = tiles.hold_out(share, seed)
    shades = [[int(part[i][0][0, 0, 0]) for i in range(len(part))] for part in (kept, apart) if part is not None]
    assert sorted(shade for part in shades for shade in part) == list(range(len(tiles)))
    if apart is None:
        return ()
    assert not set(getattr(kept, of)) & set(getattr(apart, of))
    return tuple(sorted(set(getattr(apart, of))))


def test_the_last_slide_of_a_class_is_never_held_out():
    tiles = tile_set([DARK, DARK, DARK, PINK], ["a", "b", "c", "d"])
    assert {held(tiles, 0.9, seed) for seed in SEEDS} == {("a", "b"), ("a", "c"), ("b", "c")}


def test_of_two_slides_with_a_class_one_is_held_out_at_most():
    tiles = tile_set([DARK, PINK, DARK, PINK], ["a", "a", "b", "b"])
    assert {held(tiles, 0.9, seed) for seed in SEEDS} == {("a",), ("b",)}


def test_where_every_slide_is_a_classs_last_nothing_is_held_out():
    tiles = tile_set([DARK, PINK], ["a", "b"])
    assert [tiles.hold_out(0.9, seed) for seed in SEEDS] == [(tiles, None)] * len(SEEDS)


def test_as_many_whole_slides_are_held_out_as_the_share_allows():
    tiles = tile_set([BOTH] * 10, ["a"] * 4 + ["b"] * 3 + ["c"] * 2 + ["d"])
    assert {held(tiles, 0.3, seed) for seed in SEEDS} == {("b",), ("c", "d")}
    assert {held(tiles, 0.1, seed) for seed in SEEDS} == {("d",)}  # a share that is just reached counts
    assert {held(tiles, 0.09, seed) for seed in SEEDS} == {()}


def test_another_seed_holds_out_other_slides_and_the_same_one_the_same():
    tiles = tile_set([BOTH] * 6, list("abcdef"))
    assert len({held(tiles, 0.2, seed) for seed in SEEDS}) == 6
    assert held(tiles, 0.2, 3) == held(tiles, 0.2, 3)


@pytest.mark.parametrize(
    ("dark", "pink", "expected"),
    [
        (17, 3, {("y",)}),  # 20 tiles, three of a class: just a sample
        (18, 2, set()),
        (16, 3, set()),
    ],
)
def test_of_one_slide_clusters_are_held_out_that_amount_to_a_sample(dark, pink, expected):
    labels = [DARK] * 30 + [PINK] * 30 + [DARK] * dark + [PINK] * pink
    clusters = ["x"] * 60 + ["y"] * (dark + pink)
    tiles = tile_set(labels, ["slide"] * len(labels), clusters)
    found = {held(tiles, 0.26, seed, "clusters") for seed in SEEDS}
    assert found == (expected or {()})


def test_of_one_slide_several_orders_of_its_clusters_are_tried():
    """Of 20 tiles, y and z make a sample; x, where it is drawn first, leaves no room for them."""
    clusters = ["w"] * 65 + ["x"] * 15 + ["y"] * 10 + ["z"] * 10
    tiles = tile_set([BOTH] * 100, ["slide"] * 100, clusters)
    assert {held(tiles, 0.2, seed, "clusters") for seed in SEEDS} == {("y", "z")}
    assert {held(tiles, 0.19, seed, "clusters") for seed in SEEDS} == {()}


def test_clusters_do_not_matter_where_there_are_several_slides():
    tiles = tile_set([BOTH] * 6, ["a", "a", "b", "b", "c", "c"], clusters=list("uvwxyz"))
    assert {held(tiles, 0.4, seed) for seed in SEEDS} == {("a",), ("b",), ("c",)}
