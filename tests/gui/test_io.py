from __future__ import annotations

import napari
import numpy as np
import pytest
import tifffile

from napari_lpd import samples
from napari_lpd.errors import ExportError
from napari_lpd.gui._io import get_reader, read_prediction, read_slide, write_labels
from napari_lpd.gui._layers import prediction_layers


def test_the_reader_takes_the_sample_slides():
    for path in (samples.skin_slide_path(), samples.small_region_path()):
        assert get_reader(str(path)) is read_slide


def test_a_slide_is_a_lazy_pyramid_in_micrometres():
    levels, options, layer_type = read_slide(str(samples.skin_slide_path()))[0]
    assert [level.shape for level in levels] == [(5120, 5120, 3), (2560, 2560, 3), (1280, 1280, 3), (640, 640, 3)]
    assert np.allclose(options["scale"], 0.998, atol=1e-3)
    assert options["units"] == ("micrometer", "micrometer")
    assert layer_type == "image"


def test_a_plain_picture_is_left_to_napari(tmp_path):
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    assert get_reader(str(path)) is None


def test_a_folder_that_is_no_prediction_is_left_to_others(tmp_path):
    (tmp_path / "x.zarr").mkdir()
    assert get_reader(str(tmp_path / "x.zarr")) is None


def test_a_saved_prediction_opens_as_layers(tmp_path, make_prediction):
    folder = make_prediction().save(tmp_path / "p.zarr")
    assert get_reader(str(folder)) is read_prediction
    assert [(options["name"], kind) for _, options, kind in read_prediction(str(folder))] == [
        ("dark prototypes", "image"),
        ("pink prototypes", "image"),
        ("tissue (tiny.tiff)", "labels"),
    ]


@pytest.mark.parametrize("width", [96, 2100])
def test_labels_are_written_with_size_names_and_place(tmp_path, width, make_prediction):
    found = make_prediction(shape=(64, width))
    data, options, _ = prediction_layers(found)[-1]
    layer = napari.layers.Labels(data, **options)
    _, attributes, _ = layer.as_layer_data_tuple()
    written = write_labels(str(tmp_path / "mask.ome.tif"), layer.data, attributes)
    with tifffile.TiffFile(written[0]) as tiff:
        assert np.array_equal(tiff.series[0].levels[0].asarray(), found.labels)
        assert 'PhysicalSizeX="2.0"' in tiff.ome_metadata
        assert 'PositionX="64.0"' in tiff.ome_metadata
        assert "pink" in tiff.ome_metadata


def test_a_plain_tif_name_becomes_ome_tif(tmp_path):
    attributes = {"scale": (1, 1), "units": ("micrometer", "micrometer")}
    assert write_labels(str(tmp_path / "a.tif"), np.ones((9, 9), int), attributes) == [str(tmp_path / "a.ome.tif")]


def test_other_names_are_refused(tmp_path):
    attributes = {"scale": (1, 1), "units": ("micrometer", "micrometer")}
    with pytest.raises(ExportError, match=r"wanted a name that ends in \.ome\.tif"):
        write_labels(str(tmp_path / "a.png"), np.ones((9, 9), np.uint8), attributes)


def test_labels_without_micrometres_are_refused(tmp_path):
    with pytest.raises(ExportError, match="set the layer's units to micrometer first"):
        write_labels(str(tmp_path / "a.ome.tif"), np.ones((9, 9), np.uint8), {"scale": (1, 1)})
