from __future__ import annotations

import napari
import numpy as np
import pytest
import tifffile

from napari_lpd import samples
from napari_lpd.errors import ExportError
from napari_lpd.gui._io import get_reader, read_prediction, read_slide, write_labels
from napari_lpd.gui._results import prediction_layers


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


@pytest.mark.parametrize("finish", [True, False])
def test_a_prediction_opens_as_layers_finished_or_not(make_prediction, finish):
    folder = make_prediction(finish=finish).folder
    assert get_reader(str(folder)) is read_prediction
    assert [(options["name"], kind) for _, options, kind in read_prediction(str(folder))] == [
        ("tissue mask (tiny.tiff)", "labels"),
        ("uncertainty (tiny.tiff)", "image"),
        ("dark prototypes", "image"),
        ("pink prototypes", "image"),
        ("tissues (tiny.tiff)", "labels"),
    ]


@pytest.mark.parametrize(("box", "mpp"), [((32, 64, 160, 256), 2.0), (None, 0.125)])
def test_labels_are_written_with_size_names_and_place(tmp_path, box, mpp, make_prediction):
    found = make_prediction(box=box, mpp=mpp)
    data, options, _ = prediction_layers(found)[-1]
    layer = napari.layers.Labels(data, **options)
    assert layer.multiscale == (box is None)
    _, attributes, _ = layer.as_layer_data_tuple()
    written = write_labels(str(tmp_path / "mask.ome.tif"), layer.data, attributes)
    y0, x0, y1, x1 = found.bounds()
    with tifffile.TiffFile(written[0]) as tiff:
        assert np.array_equal(tiff.series[0].levels[0].asarray(), found.labels.levels[0][y0:y1, x0:x1])
        assert f'PhysicalSizeX="{mpp}"' in tiff.ome_metadata
        assert f'PositionX="{x0 * mpp}"' in tiff.ome_metadata
        assert "pink" in tiff.ome_metadata


def test_an_edited_mask_is_written_as_it_is_shown(tmp_path, make_prediction):
    data, options, _ = prediction_layers(make_prediction())[-1]
    layer = napari.layers.Labels(data, **options)
    layer.data[:5] = 2
    _, attributes, _ = layer.as_layer_data_tuple()
    [written] = write_labels(str(tmp_path / "mask.ome.tif"), layer.data, attributes)
    assert (tifffile.imread(written)[:5] == 2).all()


@pytest.mark.parametrize("part", ["labels/tissues/0", "labels/tissue_mask/0", "prototypes/1/0", "uncertainty/0", "0"])
def test_the_result_opens_in_napari_without_this_plugin(viewer, make_prediction, part):
    folder = make_prediction().folder / part
    [layer] = viewer.open(str(folder), plugin="napari")
    assert np.asarray(layer.data).max() > 0


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
