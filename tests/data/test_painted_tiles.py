"""Strokes: regions that label just the pixels inside them, however small they are."""

from __future__ import annotations

import numpy as np
import pytest

from napari_lpd.core.errors import DataError
from napari_lpd.core.files import file_hashes
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.region_tiles import cut_tiles, too_small
from napari_lpd.data.regions import Region, write_regions
from napari_lpd.data.tileset import UNPAINTED, TileSet, tile_hashes
from napari_lpd.data.training_set import TrainingSource
from napari_lpd.training.runs.state import identity_of


def stroke(y0, x0, y1, x1, *tissues):
    return Region(np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], float), tissues, pixels=True)


STROKES = [stroke(100, 60, 110, 90, "dark"), stroke(104, 80, 108, 100, "pink"), stroke(40, 300, 50, 310)]


def cut(slide, regions, classes, settings):
    return cut_tiles(slide, regions, classes, settings, "made")


def test_painted_are_the_pixels_inside_a_stroke_and_a_later_one_wins(tiny_slide, tiny_regions, classes, tiny_settings):
    tiles = cut(tiny_slide, [*tiny_regions, *STROKES], classes, tiny_settings)
    wanted = np.full(tiny_slide.shape, UNPAINTED)
    wanted[100:110, 60:90] = 1
    wanted[104:108, 80:100] = 2
    wanted[40:50, 300:310] = 0  # none of the classes
    touched = 0
    for index, (_, y, x, _) in enumerate(tiles.origins):
        inside = wanted[y : y + 64, x : x + 64]
        touched += bool((inside >= 0).any())
        assert np.array_equal(tiles.painted.get(index, np.full((64, 64), UNPAINTED)), inside)
    assert len(tiles.painted) == touched > 3


def test_a_stroke_says_what_is_there_and_nothing_else(tiny_slide, tiny_regions, classes, tiny_settings):
    alone = cut(tiny_slide, [stroke(100, 60, 104, 90, "dark"), stroke(100, 300, 104, 330)], classes, tiny_settings)
    assert (alone.labels.tolist(), alone.known.tolist()) == ([[1, 0], [0, 0]], [[True, False], [False, False]])
    assert alone.single.tolist() == [False, False]
    among = cut(tiny_slide, [tiny_regions[0], stroke(100, 60, 104, 90, "pink")], classes, tiny_settings)
    assert among.known.all()
    corrected = np.array([i in among.painted for i in range(len(among))])
    assert (among.labels[corrected] == 1).all()
    assert (among.labels[~corrected] == [1, 0]).all()


@pytest.mark.parametrize("size", [0.2, 3.0])
def test_no_stroke_is_too_small(tiny_slide, tiny_regions, classes, tiny_settings, size):
    dot = stroke(100.6, 60.7, 100.6 + size, 60.7 + size, "dark")
    tiles = cut(tiny_slide, [dot], classes, tiny_settings)
    (painted,) = tiles.painted.values()
    assert 1 <= (painted == 1).sum() <= 9
    assert not tiles.doubts
    assert too_small([dot], (1.0, 1.0), tiny_settings) == 0


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (stroke(10, 10, 20, 20, "dark", "pink"), "made: of 3 regions, 3 label pixels, but carry several tissues; give"),
        (stroke(10, 9000, 20, 9010, "dark"), r"tiny: 1 of 3 regions \(3\) outside the slide"),
    ],
)
def test_what_a_stroke_cannot_be_is_one_line(tiny_slide, tiny_regions, classes, tiny_settings, bad, said):
    with pytest.raises(DataError, match=said) as error:
        cut(tiny_slide, [*tiny_regions, bad], classes, tiny_settings)
    assert "\n" not in str(error.value)


def test_strokes_of_a_file_are_trained_on_and_change_what_a_training_is(tiny_tiff, tiny_regions, classes, tmp_path):
    settings = TrainSettings(tile=64, tile_step=48)

    def loaded(regions):
        path = write_regions(tmp_path / "r.geojson", regions, classes)
        return TrainingSource(slide=tiny_tiff, regions=path, slide_mpp=1.0).load(classes, settings).tiles

    plain, painted, moved = (
        loaded([*tiny_regions, *more])
        for more in ([], [stroke(100, 60, 110, 90, "dark")], [stroke(100, 61, 110, 91, "dark")])
    )
    assert not plain.painted
    assert painted.painted
    assert len({identity_of(tiles, settings, 3)["tiles"] for tiles in (plain, painted, moved)}) == 3
    hashes = [{row.tobytes() for row in tile_hashes(tiles, file_hashes(tiles.files))} for tiles in (painted, moved)]
    assert hashes[0] - hashes[1]


def test_what_is_painted_follows_its_tile_into_parts_and_joined_sets(tiny_slide, tiny_regions, classes, tiny_settings):
    tiles = cut(tiny_slide, [*tiny_regions, *STROKES], classes, tiny_settings)
    chosen = [*tiles.painted][::-1]
    part = tiles.subset(chosen)
    assert [part.painted[n] is tiles.painted[i] for n, i in enumerate(chosen)] == [True] * len(chosen)
    whole = TileSet.joined([tiles, part], "both")
    assert whole.painted[len(tiles) + 1] is tiles.painted[chosen[1]]
    assert whole.known.shape == whole.labels.shape
    stacked = whole.painted_in([len(tiles), next(i for i in range(len(tiles)) if i not in tiles.painted)])
    assert np.array_equal(stacked[0], tiles.painted[chosen[0]])
    assert (stacked[1] == UNPAINTED).all()


def test_strokes_on_a_single_slide_are_never_held_out_and_what_is_half_known_measures_nothing():
    labels = np.array([[1, 0], [0, 1]] * 60, np.float32)

    def made(sources, clusters=()):
        return TileSet((), labels, lambda i: np.full((8, 8, 3), i, np.uint8), "made", sources=sources, files=[],
                       clusters=clusters, check=False)  # fmt: skip

    tiles = made(["a"] * 120, [f"a {i // 30}" for i in range(120)])
    tiles.painted = dict.fromkeys(range(90), np.zeros((8, 8), np.int8))  # in all clusters but the last
    for seed in range(5):
        kept, held = tiles.hold_out(0.3, seed)
        assert len(kept.painted) == 90
        assert set(held.clusters) == {"a 3"}
    slides = made([str(i // 30) for i in range(120)])
    slides.known[::5] = False
    kept, held = slides.hold_out(0.3, 0)
    assert (len(kept), len(held)) == (90, 24)
    assert held.known.all()


def test_a_stroke_that_a_tile_holds_whole_adds_no_tile(tiny_slide, tiny_regions, classes, tiny_settings):
    plain = cut(tiny_slide, tiny_regions, classes, tiny_settings)
    inside, between = stroke(100, 60, 104, 90, "pink"), stroke(100, 150, 104, 250, "pink")
    assert cut(tiny_slide, [*tiny_regions, inside], classes, tiny_settings).origins == plain.origins
    added = {*cut(tiny_slide, [*tiny_regions, between], classes, tiny_settings).origins} - {*plain.origins}
    assert {origin.y for origin in added} == {70}  # in the stroke's middle
