from __future__ import annotations

import errno
import shutil

import numpy as np
import pytest
import zarr
from made_predictions import predicted

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import DataError, ExportError
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.create import copy_prediction
from napari_lpd.results.prediction import Prediction
from napari_lpd.results.pyramid import ERASED


def all_labels() -> np.ndarray:
    labels = np.zeros((5000, 2600), np.uint8)
    labels[100:3000, 200:1500] = 1
    labels[3000:, 500:] = 2
    labels[550:560, 10:30] = 255
    return labels


@pytest.fixture
def prediction(classes, tmp_path, once):
    made = once("five megapixels", lambda folder: predicted(folder, all_labels(), classes), tmp_path / "a.zarr")
    return Prediction.open(made)


def corrected(prediction: Prediction, y=417, x=1003, size=(301, 205), label=2) -> np.ndarray:
    """Paint a rectangle and apply it; returns the labels that are expected."""
    store = Corrections(prediction)
    crop = store.read_crop(y, x, size)
    crop[10:-10, 10:-10] = label
    assert store.apply_crop(y, x, crop) == (size[0] - 20) * (size[1] - 20)
    labels = np.asarray(prediction.labels.levels[0])
    labels[y + 10 : y + size[0] - 10, x + 10 : x + size[1] - 10] = label
    return labels


def test_a_correction_wins_at_every_level_and_leaves_the_models_labels_alone(prediction):
    expected = corrected(prediction)
    levels = Corrections(prediction).levels
    assert len(levels) == 3
    for step, level in zip((1, 2, 4), levels, strict=True):
        assert np.array_equal(level, expected[::step, ::step])
    assert np.array_equal(prediction.labels.levels[0], all_labels())
    assert np.array_equal(levels[1][300:310, 600:607], expected[600:620:2, 1200:1214:2])


@pytest.mark.parametrize(("y", "x", "size"), [(0, 0, (21, 21)), (4979, 2577, (21, 23)), (1021, 1023, (22, 21))])
def test_any_place_can_be_corrected(prediction, y, x, size):
    expected = corrected(prediction, y, x, size, label=1 if y > 3000 else 2)
    for step, level in zip((1, 2, 4), Corrections(prediction).levels, strict=True):
        assert np.array_equal(level, expected[::step, ::step])


def test_tissue_can_be_taken_away_and_painting_back_ends_a_correction(prediction):
    store, expected = Corrections(prediction), corrected(prediction, label=0)
    assert np.array_equal(store.levels[0], expected)
    assert set(np.unique(store.stored_labels((417, 1003), (301, 205)))) == {0, ERASED}
    store.apply_crop(417, 1003, all_labels()[417:718, 1003:1208])
    assert not store.blocks()
    assert store.bounds() is None
    assert np.array_equal(store.levels[0], all_labels())


def test_what_did_not_change_stays_corrected_and_nothing_is_written_for_nothing(prediction):
    store = Corrections(prediction)
    assert store.apply_crop(0, 0, store.read_crop(0, 0, (100, 100))) == 0
    assert store.pyramid is None
    expected = corrected(prediction)
    assert store.apply_crop(400, 1000, store.read_crop(400, 1000, (400, 400))) == 0
    assert np.array_equal(store.levels[0], expected)
    assert store.bounds() == (0, 512, 1024, 1536)


def test_it_is_a_valid_label_image_beside_the_others(prediction):
    from ome_zarr_models.v05 import ImageLabel

    corrected(prediction)
    labels = zarr.open_group(prediction.folder / "labels", mode="r")
    ImageLabel.from_zarr(labels["corrections"])
    assert labels.attrs["ome"]["labels"] == ["tissues", "tissue_mask", "corrections"]
    properties = labels["corrections"].attrs["ome"]["image-label"]["properties"]
    assert [(p["label-value"], p["class"]) for p in properties] == [(1, "dark"), (2, "pink"), (254, "unlabelled")]


def test_corrections_survive_prediction_with_other_settings(prediction, classes, tmp_path):
    expected = corrected(prediction)
    again = predicted(
        tmp_path / "a.zarr", np.ones_like(all_labels()), classes, settings=PredictSettings(tile=320, block=512)
    )
    painted = Corrections(again).stored_labels((0, 0), (5000, 2600)) > 0
    assert painted.sum() == 281 * 185
    assert np.array_equal(np.asarray(Corrections(again).levels[0])[painted], expected[painted])
    assert (np.asarray(Corrections(again).levels[0])[~painted] == 1).all()


def test_they_follow_to_another_resolution_and_order_of_classes(prediction, classes, tmp_path):
    corrected(prediction, 400, 1000, (220, 220), label=2)
    other = predicted(tmp_path / "b.zarr", np.zeros((2500, 1300), np.uint8), classes[::-1], mpp=1.0)
    Corrections(other).copy_from(prediction)
    expected = np.zeros((2500, 1300), np.uint8)
    expected[205:305, 505:605] = 1
    assert np.array_equal(Corrections(other).levels[0], expected)
    finer = predicted(tmp_path / "c.zarr", np.zeros((10000, 5200), np.uint8), classes, mpp=0.25, block=1024)
    Corrections(finer).copy_from(other)
    assert np.array_equal(Corrections(finer).levels[0], np.where(expected, 2, 0).repeat(4, 0).repeat(4, 1))


def test_what_is_corrected_already_is_not_overwritten_by_older_corrections(prediction, classes, tmp_path):
    corrected(prediction, label=2)
    other = predicted(tmp_path / "b.zarr", all_labels(), classes)
    mine = corrected(other, 500, 1050, (60, 60), label=0)
    Corrections(other).copy_from(prediction)
    expected = np.where(mine != all_labels(), mine, np.asarray(Corrections(prediction).levels[0]))
    assert np.array_equal(Corrections(other).levels[0], expected)


def test_corrections_that_would_be_lost_stop_a_replacement(prediction, classes, tmp_path):
    expected = corrected(prediction)
    with pytest.raises(ExportError, match=r"a.zarr: holds corrections of another slide \(a.svs\), not of b.svs"):
        predicted(tmp_path / "a.zarr", all_labels(), classes, slide="b.svs", slide_hash="2")
    others = (classes[0], TissueClass(name="blue", color="#0000ff"))
    with pytest.raises(
        ExportError, match=r"has corrections to 'pink', which is none of the new classes \(dark, blue\)"
    ):
        predicted(tmp_path / "a.zarr", all_labels(), others)
    assert np.array_equal(Corrections(Prediction.open(tmp_path / "a.zarr")).levels[0], expected)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_a_copy_has_them_too(prediction, tmp_path):
    expected = corrected(prediction)
    copy = Prediction.open(copy_prediction(prediction, tmp_path / "b.zarr"))
    assert np.array_equal(Corrections(copy).levels[0], expected)


@pytest.mark.parametrize(("y", "x", "size"), [(-1, 0, (9, 9)), (4995, 0, (9, 9)), (0, 2595, (9, 9))])
def test_a_crop_outside_the_slide_is_refused(prediction, y, x, size):
    with pytest.raises(DataError, match=r"a.zarr: a crop of 9 x 9 pixels at y .* does not lie in its 5000 x 2600"):
        Corrections(prediction).read_crop(y, x, size)
    with pytest.raises(DataError, match="does not lie in"):
        Corrections(prediction).apply_crop(y, x, np.zeros(size, np.uint8))


def test_a_label_that_is_no_class_is_refused_but_unreadable_places_may_be_in_the_crop(prediction):
    store = Corrections(prediction)
    crop = store.read_crop(500, 0, (100, 100))
    crop[:10] = 3
    with pytest.raises(DataError, match=r"label 3 is none of 0\.\.2"):
        store.apply_crop(500, 0, crop)
    crop[:10] = 2
    assert store.apply_crop(500, 0, crop) == 1000
    assert (store.read_crop(550, 10, (10, 20)) == 255).all()


def test_a_place_that_cannot_be_written_is_one_line_and_loses_nothing(prediction, monkeypatch):
    from zarr.storage import _local

    expected = corrected(prediction)

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch, pytest.raises(ExportError, match=r"corrections: cannot .*Read-only"):
        patch.setattr(_local, "_put", read_only)
        Corrections(prediction).apply_crop(0, 0, np.ones((50, 50), np.uint8))
    assert np.array_equal(Corrections(prediction).levels[0], expected)


def test_half_written_labels_and_corrections_are_one_line(prediction):
    corrected(prediction)
    chunk = prediction.folder / "labels" / "tissues" / "0" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(ExportError, match=r"a.zarr: the result is damaged: labels/tissues/0 cannot be read"):
        Corrections(prediction).read_crop(0, 0, (50, 50))
    shutil.rmtree(prediction.folder / "labels" / "corrections" / "1")
    with pytest.raises(ExportError, match="half-written corrections"):
        Corrections(prediction).read_crop(1024, 0, (50, 50))


def test_they_lie_where_the_models_labels_lie_at_every_level(prediction):
    corrected(prediction)
    labels = zarr.open_group(prediction.folder / "labels", mode="r")
    ours, models = (labels[name].attrs["ome"]["multiscales"][0] for name in ("corrections", "tissues"))
    assert ours["datasets"] == models["datasets"]
    assert labels["corrections/0"].chunks == labels["tissues/0"].chunks


def test_the_extent_is_around_what_is_predicted_and_what_is_corrected(classes, tmp_path):
    scope = ("POLYGON ((300 600, 300 650, 400 650, 400 600, 300 600))",)  # µm of 0.5: x 600 to 800, y 1200 to 1300
    part = predicted(tmp_path / "a.zarr", np.ones((2000, 1800), np.uint8), classes, scope=scope)
    store = Corrections(part)
    level = store.levels[0]
    assert (level.ndim, level.shape, level.size, level.dtype) == (2, (2000, 1800), 3_600_000, np.uint8)
    assert store.extent() == (1200, 600, 1300, 800)
    store.apply_crop(100, 1700, np.full((5, 5), 2, np.uint8))  # in the block of y 0 to 512, x 1536 to the rim
    assert store.bounds() == (0, 1536, 512, 1800)
    assert store.extent() == (0, 600, 1300, 1800)
