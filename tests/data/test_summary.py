"""What is said of a training set before it is trained on, and what is watched while a model learns."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from napari_lpd.core.errors import DataError
from napari_lpd.core.jobs import run
from napari_lpd.data.labelled_tiles import labelled_tiles
from napari_lpd.data.region_tiles import tiles_from_regions
from napari_lpd.data.regions import Region
from napari_lpd.data.summary import THUMBNAIL, summarise, tile_sheet, warnings
from napari_lpd.data.tileset import TileSet
from napari_lpd.data.training_set import TrainingSet
from napari_lpd.models.card import read_card
from napari_lpd.training.fit import fit
from napari_lpd.training.validation import Validation, ValidationScores, wilson

NOT_HELD_OUT = "nothing is held out, so the last epoch is kept, not the best:"


@pytest.fixture
def tiles(tiny_slide, tiny_regions, classes, tiny_settings):
    return tiles_from_regions(tiny_slide, tiny_regions, classes, tiny_settings)


def test_few_tiles_glass_and_broken_files_are_named(tmp_path, classes):
    folder = tmp_path / "train"
    folder.mkdir()
    for i in range(30):
        shade = 250 if i in (3, 7) else 120
        Image.new("RGB", (64, 64), (shade,) * 3).save(folder / f"t{i:02}[{int(i < 25)}{int(i >= 25)}].png")
    (folder / "t05[10].png").write_bytes(b"no picture")
    said = warnings(labelled_tiles(folder, classes))
    assert said[0] == "pink: only 5 tiles; wanted 20 or more"
    assert "t05[10].png: not readable as an image" in said[1]
    assert tile_sheet(labelled_tiles(folder, classes)).width > THUMBNAIL  # the broken one does not spoil the others
    assert "the names of 30 tiles contain no slide or patient" in said[3]
    assert said[2] == "2 of 30 tiles are mostly glass, but carry a tissue: t03[10].png, t07[10].png"


def test_tiles_that_all_hold_everything_are_warned_of(tiles, classes):
    labels = np.ones((40, 2), np.float32)
    every = TileSet(classes, labels, lambda _: tiles.read(0), "x", sources=["a"] * 40, files=[])
    assert any("every tile holds several tissues" in line for line in warnings(every))


def test_regions_of_one_slide_are_held_out_whole(tiny_image, classes, tiny_settings):
    from napari_lpd.slides.slide import Slide

    wide = Slide.from_levels([np.tile(tiny_image, (6, 4, 1))], (1.0, 1.0), "wide")
    square = np.array([[0, 0], [0, 180], [180, 180], [180, 0]], float)
    regions = [
        Region(square + np.array([256 * row, 384 * column + 192 * part]), (name,))
        for row in range(0, 6, 2)
        for column in range(4)
        for part, name in enumerate(("dark", "pink"))
    ]
    tiles = tiles_from_regions(wide, regions, classes, tiny_settings)
    kept, held = tiles.hold_out(0.4, 0)
    assert not set(kept.clusters) & set(held.clusters)
    assert held.labels.sum(0).min() >= 3
    assert "of other regions to choose the best epoch" in summarise(tiles, kept, held)["split"]
    assert tiles.hold_out(0.05, 0)[1] is None  # too few to choose by
    few = TrainingSet(tiles, (), tiny_settings.model_copy(update={"valid_share": 0.05})).summary()["split"]
    assert few.partition("; ")[2].startswith(
        "nothing is held out, so the last epoch is kept, not the best: a single slide needs"
    )
    assert "at most 5 % of all (valid_share)" in few


@pytest.mark.parametrize(
    ("share", "why"), [(0.0, "valid_share is 0"), (0.1, "every slide has more than 10 % of the tiles (valid_share)")]
)
def test_the_split_says_why_nothing_is_held_out(tile_folder, classes, tiny_settings, share, why):
    prepared = TrainingSet(
        labelled_tiles(tile_folder, classes), (), tiny_settings.model_copy(update={"valid_share": share})
    )
    split = prepared.summary()["split"]
    assert split.startswith(
        f"24 tiles to train on; nothing is held out, so the last epoch is kept, not the best: {why}"
    )


@pytest.mark.parametrize("seed", range(5))
def test_places_are_tried_until_every_class_is_held_out(tiles, classes, seed):
    labels = np.repeat([[1, 0], [0, 1]], 120, axis=0).astype(np.float32)
    places = [str(i // 12) for i in range(240)]  # only a dark one with a pink one will do
    made = TileSet(classes, labels, tiles.read, "x", sources=["x"] * 240, files=[], clusters=places)
    kept, held = made.hold_out(0.1, seed)
    assert held.labels.sum(0).tolist() == [12, 12]
    assert len(kept) == 216


def test_neighbouring_regions_are_one_place(tiles):
    assert len(set(tiles.clusters)) == 1  # 4 pixels apart


def test_the_sheet_has_a_row_of_tiles_per_class(tiles):
    plain, both = tile_sheet(tiles), tile_sheet(tiles, tiles)
    assert both.height > 1.8 * plain.height
    assert plain.width > 4 * THUMBNAIL
    assert np.asarray(plain).std() > 20


def test_wilson_by_hand():
    low, high = wilson(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-3)  # Newcombe 1998, for 8 of 10
    assert wilson(0, 5)[0] == 0
    assert wilson(5, 5)[1] == 1


def test_diversity_and_masks_are_watched_and_land_in_the_card(tiles, tiny_settings, tmp_path):
    seen = []
    path = run(fit(tiles, tiny_settings.model_copy(update={"epochs": 2, "max_steps": 0}), tmp_path), seen.append)
    last = seen[-1].metrics
    for name in ("dark", "pink"):
        assert 1 <= last[f"effective prototypes {name}"] <= 2
        assert 0 <= last[f"diversity {name}"] <= 1
    assert last.pop("best epoch") in (1, 2)
    assert read_card(path).metrics == last
    assert read_card(path).colours is not None
    assert read_card(path).data == "tiny"
    previews = sorted((tmp_path / "previews").iterdir())
    assert [path.name for path in previews] == ["epoch-0001.png", "epoch-0002.png"]
    assert np.asarray(Image.open(previews[0])).std() > 20


def test_one_prototype_has_no_diversity(tiles, tiny_settings, tmp_path):
    settings = tiny_settings.model_copy(
        update={"model": tiny_settings.model.model_copy(update={"prototypes_per_class": 1}), "diversity": "off"}
    )
    seen = []
    run(fit(tiles, settings, tmp_path), seen.append)
    assert set(seen[-1].metrics) == {"best epoch"}


def test_training_stops_when_validation_gets_no_better(tiles, tiny_settings, tmp_path):
    scores = iter([0.5, 0.9, 0.8, 0.7, 0.95, 0.1, 0.1, 0.1])
    settings = tiny_settings.model_copy(update={"epochs": 8, "max_steps": 0, "patience": 2})
    validation = Validation(lambda _: ValidationScores({"score": next(scores)}, {"score": (0.1, 0.9)}))
    path = run(fit(tiles, settings, tmp_path, validation=validation))
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 1 + 4
    card = read_card(path)
    assert card.metrics["valid score"] == 0.9
    assert card.intervals == {"valid score": (0.1, 0.9)}


def test_held_out_slides_say_how_often_presence_was_right(tile_folder, classes, tiny_settings, tmp_path):
    settings = tiny_settings.model_copy(update={"valid_share": 0.3})
    card = read_card(run(fit(labelled_tiles(tile_folder, classes), settings, tmp_path)))
    for name in ("dark", "pink"):
        low, high = card.intervals[f"valid right about {name}"]
        assert low <= card.metrics[f"valid right about {name}"] <= high


def test_half_precision_trains_to_about_the_same_loss(tiles, tiny_settings, tmp_path):
    losses = []
    for precision in ("float32", "bfloat16"):
        seen = []
        run(fit(tiles, tiny_settings.model_copy(update={"precision": precision}), tmp_path / precision), seen.append)
        assert precision in seen[0].message
        losses.append(seen[1].metrics["loss"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_regions_of_another_slide_are_refused(tiny_slide, classes, tiny_settings):
    far = np.array([[0, 0], [0, 90], [90, 90], [90, 0]], float)
    regions = [Region(far, ("dark",)), Region(far + 5000, ("pink",))]
    with pytest.raises(DataError, match=r"1 of 2 regions \(2\) outside the slide"):
        tiles_from_regions(tiny_slide, regions, classes, tiny_settings)
