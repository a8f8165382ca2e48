from __future__ import annotations

import errno
import json

import numpy as np
import pytest
import tifffile
import zarr

from napari_lpd.core.errors import DataError, ExportError
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.data.regions import Region
from napari_lpd.results.card import PredictionCard
from napari_lpd.results.check_regions import recall_metrics, region_confusion, region_scores
from napari_lpd.results.create import copy_prediction, start_prediction
from napari_lpd.results.export.ome_tiff import write_ome_tiff
from napari_lpd.results.prediction import BlockResult, Prediction, is_prediction
from napari_lpd.slides.tissue import TissueMask

BLOCK, STRIDE = 512, 8
TISSUE = TissueMask(np.ones((40, 60), bool), 16.0)


@pytest.fixture
def card(classes):
    return PredictionCard(
        classes=classes,
        prototypes_per_class=2,
        mpp=0.5,
        shape=(600, 900),
        stride=STRIDE,
        block=BLOCK,
        slide="a.svs",
        slide_mpp=(0.25, 0.25),
        slide_shape=(1200, 1800),
        slide_hash="1",
        mpp_source="aperio metadata",
        model="model.safetensors",
        model_hash="00",
        settings=PredictSettings(tile=256, block=BLOCK),
        tissue="found",
    )


def all_labels():
    labels = np.zeros((600, 900), np.uint8)
    labels[100:300, 200:500] = 1
    labels[300:, 500:] = 2
    labels[550:560, 10:30] = 255
    return labels


def begin(folder, card, **options):
    return start_prediction(folder, card, lambda: (TISSUE, [[1.0, 1.0]] * 3), **options)


def fill(prediction, blocks):
    labels = all_labels()
    for y, x in blocks:
        part = labels[y * BLOCK : (y + 1) * BLOCK, x * BLOCK : (x + 1) * BLOCK]
        cells = tuple(-(-n // STRIDE) for n in part.shape)
        maps = np.arange(4, dtype=np.uint8).reshape(2, 2, 1, 1) + np.full((2, 2, *cells), 100 + y, np.uint8)
        scores = np.full((2, *cells), 200, np.uint8)
        prediction.write_block((y, x), BlockResult(part, scores, scores, maps, scores[0]))


BLOCKS = [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.fixture
def prediction(card, tmp_path):
    prediction = begin(tmp_path / "a.zarr", card)
    fill(prediction, BLOCKS)
    prediction.finish()
    return prediction


def test_a_prediction_comes_back_from_disk_as_it_was(prediction, card):
    found = Prediction.open(prediction.folder)
    assert found.card == card
    assert found.finished
    assert np.array_equal(found.labels.levels[0], all_labels())
    assert np.asarray(found.prototypes[1].levels[0])[1, -1, 0] == 104
    assert np.asarray(found.scores.levels[0]).shape == (2, 75, 113)
    assert (found.tissue.array == TISSUE.array).all()
    assert found.tissue.mpp == 16


def test_it_opens_with_plain_zarr(prediction):
    group = zarr.open_group(prediction.folder, mode="r")
    assert group["labels/tissues/0"].shape == (600, 900)
    assert group.attrs["napari_lpd"]["notice"].startswith("Research use only")


def test_it_opens_with_ome_zarr_and_says_where_it_lies(prediction):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    nodes = list(Reader(parse_url(str(prediction.folder)))())
    image, labels = nodes[0], [node for node in nodes if "tissues" in str(node.zarr)]
    assert image.metadata["channel_names"] == ["dark", "pink"]
    assert labels[0].data[0].shape == (600, 900)
    scale, translation = labels[0].metadata["coordinateTransformations"][0]
    assert scale["scale"] == [0.5, 0.5]
    assert translation["translation"] == [0.125, 0.125]  # half a pixel of 0.5 less half a pixel of 0.25
    assert labels[0].metadata["properties"][1] == {"class": "dark"}


def test_every_group_is_valid_ome_zarr(prediction):
    from ome_zarr_models.v05 import Image, ImageLabel

    group = zarr.open_group(prediction.folder, mode="r")
    Image.from_zarr(group)
    for name in ("prototypes/0", "prototypes/1", "uncertainty"):
        Image.from_zarr(group[name])
    for name in ("labels/tissues", "labels/tissue_mask"):
        ImageLabel.from_zarr(group[name])


def test_a_stopped_prediction_goes_on_with_the_same_card_only(card, tmp_path):
    fill(begin(tmp_path / "a.zarr", card), BLOCKS[:2])
    again = begin(tmp_path / "a.zarr", card)
    assert again.finished_blocks() == set(BLOCKS[:2])
    assert not again.finished
    other = card.model_copy(update={"settings": PredictSettings(tile=320, block=BLOCK)})
    with pytest.raises(ExportError, match=r"a.zarr.*with tile=256"):
        begin(tmp_path / "a.zarr", other)
    with pytest.raises(ExportError, match=r"a.zarr.*with another model"):
        begin(tmp_path / "a.zarr", card.model_copy(update={"model_hash": "01"}))
    assert again.finished_blocks() == set(BLOCKS[:2])
    assert not begin(tmp_path / "a.zarr", other, replace=True).finished_blocks()


def test_how_fast_it_is_computed_does_not_make_another_prediction(card):
    faster = card.model_copy(update={"settings": card.settings.model_copy(update={"threads": 3, "batch": 4})})
    assert card.difference(faster) == ""


def test_a_block_counts_only_when_its_labels_are_there(card, tmp_path, monkeypatch):
    prediction = begin(tmp_path / "a.zarr", card)
    monkeypatch.setattr(prediction.labels, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fill(prediction, BLOCKS[:1])
    assert not prediction.finished_blocks()


def test_a_full_disk_is_one_line_and_keeps_what_was_written(card, tmp_path, monkeypatch):
    prediction = begin(tmp_path / "a.zarr", card)
    fill(prediction, BLOCKS[:2])
    from zarr.storage import _local

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ExportError, match=r"a.zarr.*No space left.*2 blocks are kept"):
        patch.setattr(_local, "_put", full)
        fill(prediction, BLOCKS[2:])
    again = begin(tmp_path / "a.zarr", card)
    assert np.array_equal(again.labels.levels[0][:512], all_labels()[:512])
    fill(again, BLOCKS[2:])
    again.finish()
    assert np.array_equal(again.labels.levels[0], all_labels())


def test_halved_maps_leave_out_what_was_not_computed(card, tmp_path):
    larger = card.model_copy(update={"shape": (8192, 8192)})
    prediction = begin(tmp_path / "a.zarr", larger)
    maps = np.zeros((2, 2, 64, 64), np.uint8)
    maps[..., :33, :33] = 101
    scores = maps[0]
    prediction.write_block((0, 0), BlockResult(np.ones((512, 512), np.uint8), scores, scores, maps, scores[0]))
    assert [level.shape[1] for level in prediction.scores.levels] == [1024, 512, 256]
    assert [level.shape[1] for level in prediction.labels.levels] == [8192, 4096, 2048]
    assert (np.asarray(prediction.scores.levels[1])[:, :17, :17] == 101).all()
    assert not np.asarray(prediction.scores.levels[1])[:, 17:].any()
    assert np.asarray(prediction.labels.levels[2])[:128, :128].all()


def test_saving_a_copy_replaces_but_never_overwrites_something_else(prediction, tmp_path):
    copy = copy_prediction(prediction, tmp_path / "b.zarr")
    assert copy_prediction(prediction, copy) == copy
    assert np.array_equal(Prediction.open(copy).labels.levels[0], all_labels())
    (tmp_path / "mine.zarr").mkdir()
    with pytest.raises(ExportError, match="not a prediction"):
        copy_prediction(prediction, tmp_path / "mine.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "b.zarr", "mine.zarr"]


def test_half_a_prediction_is_refused(prediction):
    root = prediction.folder / "zarr.json"
    card = json.loads(root.read_text())
    del card["attributes"]["napari_lpd"]["card"]["mpp"]
    root.write_text(json.dumps(card))
    with pytest.raises(ExportError, match=r"a.zarr: the result is damaged: "):
        Prediction.open(prediction.folder)
    assert not is_prediction(prediction.folder.parent)


def test_areas_are_in_square_millimetres(prediction):
    pixels = {"dark": 200 * 300, "pink": 300 * 400}
    assert prediction.area_mm2() == pytest.approx({name: n * 0.25e-6 for name, n in pixels.items()})
    assert prediction.tissue_mm2 == pytest.approx((600 * 900 - 10 * 20) * 0.25e-6)


def test_unreadable_places_are_named_in_the_slides_pixels(prediction):
    assert prediction.unreadable == [(1100, 20, 1120, 60)]


def test_the_ome_tiff_has_size_position_and_names(prediction, tmp_path):
    path = write_ome_tiff(prediction, tmp_path / "mask.ome.tif")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        assert np.array_equal(tiff.asarray(), all_labels())
        assert [level.shape for level in tiff.series[0].levels] == [(600, 900)]
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (0.5, "µm")
        assert (pixels["Plane"]["PositionY"], pixels["Plane"]["PositionX"]) == (0.0, 0.0)
        assert ">dark<" in tiff.ome_metadata
        assert tiff.pages[0].tags["XResolution"].value[0] / tiff.pages[0].tags["XResolution"].value[1] == 20000


def test_the_ome_tiff_of_a_region_holds_what_is_around_it(card, tmp_path):
    scope = ("POLYGON ((260 10, 260 140, 300 140, 300 10, 260 10))",)
    prediction = begin(tmp_path / "a.zarr", card.model_copy(update={"scope": scope}))
    fill(prediction, [(0, 1)])
    prediction.finish()
    path = write_ome_tiff(prediction, tmp_path / "mask.ome.tif")
    with tifffile.TiffFile(path) as tiff:
        assert np.array_equal(tiff.asarray(), np.asarray(prediction.labels.levels[0])[0:280, 512:600])
        plane = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]["Plane"]
        assert (plane["PositionY"], plane["PositionX"]) == (0.0, 256.0)
    assert prediction.tissue_mm2 == pytest.approx(130 * 40 * 1e-6)


def test_a_wrong_suffix_or_place_writes_nothing(prediction, tmp_path):
    with pytest.raises(ExportError, match=r"\.ome\.tif"):
        write_ome_tiff(prediction, tmp_path / "mask.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match="cannot be written"):
        write_ome_tiff(prediction, tmp_path / "file" / "mask.ome.tif")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "file"]


def square(y, x, size):
    """A region in level-0 pixels (0.25 µm) around a place in the prediction's pixels."""
    corners = np.array([[0, 0], [0, size], [size, size], [size, 0]], float) + np.array([y, x])
    return corners * 0.5 / 0.25


def test_recall_counts_the_pixels_of_each_region(prediction):
    regions = [Region(square(100, 200, 100), ("dark",)), Region(square(250, 550, 100), ("pink",))]
    confusion = region_confusion(prediction, regions)
    assert confusion[0].tolist() == [0, 10000, 0]
    assert confusion[1].tolist() == [5000, 0, 5000]
    metrics = recall_metrics(confusion, ["dark", "pink"])
    assert metrics["recall pink"] == 0.5
    assert metrics["mean recall"] == 0.75
    assert metrics["mean recall of a majority guess"] == 0.5


def test_scores_of_regions_are_those_of_their_map_pixels(prediction):
    regions = [Region(square(96, 200, 80), ("dark",)), Region(square(8, 8, 80), ("dark", "pink"))]
    scores, outlined = region_scores(prediction, regions)
    assert scores.shape == (100, 2)  # of 8 pixels each
    assert scores == pytest.approx(199 / 254)
    assert (outlined == 0).all()
    outside, none = region_scores(prediction, [Region(square(9000, 9000, 80), ("dark",))])
    assert (outside.shape, none.shape) == ((0, 2), (0,))


def test_regions_that_say_nothing_are_refused(prediction):
    with pytest.raises(DataError, match="no check region"):
        region_confusion(prediction, [Region(square(100, 200, 100), ("dark", "pink"))])
