from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import zarr

from napari_lpd.errors import DataError, ExportError
from napari_lpd.evaluate import recall_metrics, region_confusion
from napari_lpd.export import write_ome_tiff
from napari_lpd.prediction import Prediction, is_prediction
from napari_lpd.regions import Region


@pytest.fixture
def prediction(classes):
    labels = np.zeros((600, 900), np.uint8)
    labels[100:300, 200:500] = 1
    labels[300:, 500:] = 2
    return Prediction(
        labels=labels,
        prototypes=np.arange(4, dtype=np.uint8)[:, None, None].repeat(75, 1).repeat(113, 2),
        presence=np.full((2, 75, 113), 200, np.uint8),
        classes=classes,
        prototypes_per_class=2,
        mpp=0.5,
        stride=8,
        origin_um=(100.0, 50.0),
        slide="a.svs",
        slide_mpp=(0.25, 0.25),
        slide_shape=(4000, 4000),
        mpp_source="aperio metadata",
        model="model.safetensors",
        model_hash="00",
        settings={"tile": 256},
    )


def test_a_prediction_comes_back_from_disk_as_it_was(prediction, tmp_path):
    loaded = Prediction.load(prediction.save(tmp_path / "a.zarr"))
    for name in ("labels", "prototypes", "presence"):
        assert np.array_equal(getattr(loaded, name), getattr(prediction, name))
    assert (loaded.classes, loaded.origin_um, loaded.settings) == (
        prediction.classes,
        prediction.origin_um,
        prediction.settings,
    )


def test_it_opens_with_plain_zarr(prediction, tmp_path):
    group = zarr.open_group(prediction.save(tmp_path / "a.zarr"), mode="r")
    assert group["labels"].shape == (600, 900)
    assert group.attrs["napari_lpd"]["research_use_only"] is True


def test_saving_again_replaces_but_never_overwrites_something_else(prediction, tmp_path):
    prediction.save(tmp_path / "a.zarr")
    prediction.save(tmp_path / "a.zarr")
    (tmp_path / "mine.zarr").mkdir()
    with pytest.raises(ExportError, match="not a prediction"):
        prediction.save(tmp_path / "mine.zarr")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "mine.zarr"]


def test_half_a_prediction_is_refused(prediction, tmp_path):
    folder = prediction.save(tmp_path / "a.zarr")
    card = json.loads((folder / "zarr.json").read_text())
    del card["attributes"]["napari_lpd"]["mpp"]
    (folder / "zarr.json").write_text(json.dumps(card))
    with pytest.raises(ExportError, match=r"a.zarr.*mpp"):
        Prediction.load(folder)
    assert not is_prediction(tmp_path)


def test_areas_are_in_square_millimetres(prediction):
    assert prediction.area_mm2() == pytest.approx({"dark": 200 * 300 * 0.25e-6, "pink": 300 * 400 * 0.25e-6})


def test_the_ome_tiff_has_size_position_and_names(prediction, tmp_path):
    path = write_ome_tiff(prediction, tmp_path / "mask.ome.tif")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        assert np.array_equal(tiff.asarray(), prediction.labels)
        assert [level.shape for level in tiff.series[0].levels] == [(600, 900), (300, 450)]
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (0.5, "µm")
        assert (pixels["Plane"]["PositionY"], pixels["Plane"]["PositionX"]) == (100.0, 50.0)
        assert ">dark<" in tiff.ome_metadata
        assert tiff.pages[0].tags["XResolution"].value[0] / tiff.pages[0].tags["XResolution"].value[1] == 20000


def test_a_wrong_suffix_or_place_writes_nothing(prediction, tmp_path):
    with pytest.raises(ExportError, match=r"\.ome\.tif"):
        write_ome_tiff(prediction, tmp_path / "mask.png")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match="cannot be written"):
        write_ome_tiff(prediction, tmp_path / "file" / "mask.ome.tif")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def square(y, x, size):
    """A region in level-0 pixels (0.25 µm) around a place in the prediction's pixels."""
    corners = np.array([[0, 0], [0, size], [size, size], [size, 0]], float) + np.array([y, x])
    return (corners * 0.5 + np.array([100.0, 50.0])) / 0.25


def test_recall_counts_the_pixels_of_each_region(prediction):
    regions = [Region(square(100, 200, 100), ("dark",)), Region(square(250, 550, 100), ("pink",))]
    confusion = region_confusion(prediction, regions)
    assert confusion[0].tolist() == [0, 10000, 0]
    assert confusion[1].tolist() == [5000, 0, 5000]
    metrics = recall_metrics(confusion, ["dark", "pink"])
    assert metrics["recall pink"] == 0.5
    assert metrics["mean recall"] == 0.75
    assert metrics["mean recall of a majority guess"] == 0.5


def test_regions_that_say_nothing_are_refused(prediction):
    with pytest.raises(DataError, match="no check region"):
        region_confusion(prediction, [Region(square(100, 200, 100), ("dark", "pink"))])
