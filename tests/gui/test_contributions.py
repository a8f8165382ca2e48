from __future__ import annotations

import napari
import numpy as np
import pytest
import tifffile

from napari_lpd import samples
from napari_lpd.core.classes import TissueClass
from napari_lpd.core.errors import DataError, ExportError
from napari_lpd.core.jobs import run
from napari_lpd.core.settings.results import ExportSettings
from napari_lpd.data.regions import Region, write_regions
from napari_lpd.gui.contributions import get_reader, read_outlines, read_prediction, read_slide, write_labels
from napari_lpd.gui.layers.regions import outlines_of
from napari_lpd.gui.layers.results import prediction_layers, show_prediction
from napari_lpd.gui.layers.slides import slide_layers
from napari_lpd.results.corrections import Corrections
from napari_lpd.results.export.export import export
from napari_lpd.results.export.geojson import read_mask
from napari_lpd.slides.slide import Slide


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
def test_a_prediction_opens_as_its_mask_finished_or_not(make_prediction, finish):
    folder = make_prediction(finish=finish).folder
    assert get_reader(str(folder)) is read_prediction
    assert [(options["name"], kind) for _, options, kind in read_prediction(str(folder))] == [
        ("mask (tiny.tiff)", "labels"),
    ]


@pytest.mark.parametrize(("box", "mpp"), [((32, 64, 160, 256), 2.0), (None, 0.125)])
def test_labels_are_written_with_size_names_and_place(tmp_path, box, mpp, make_prediction):
    found = make_prediction(box=box, mpp=mpp)
    data, options, _ = prediction_layers(found)[-1]
    layer = napari.layers.Labels(data, **options)
    assert layer.multiscale == (box is None)
    _, attributes, _ = layer.as_layer_data_tuple()
    written = write_labels(str(tmp_path / "mask.ome.tif"), layer.data, attributes)
    y0, x0, y1, x1 = found.scope_box()
    with tifffile.TiffFile(written[0]) as tiff:
        assert np.array_equal(tiff.series[0].levels[0].asarray(), found.labels.levels[0][y0:y1, x0:x1])
        assert f'PhysicalSizeX="{mpp}"' in tiff.ome_metadata
        assert f'PositionX="{x0 * mpp}"' in tiff.ome_metadata
        assert "pink" in tiff.ome_metadata


def test_napari_saves_the_multiscale_mask_with_its_corrections_under_an_ome_tiff_name(
    viewer, tiny_layer, make_prediction, tmp_path
):
    found = make_prediction(box=None, mpp=0.125)
    Corrections(found).apply_crop(5, 6, np.full((40, 30), 2, np.uint8))
    labels = show_prediction(viewer, found, tiny_layer)
    assert labels.multiscale
    viewer.layers.selection.active = labels
    assert viewer.layers.save(str(tmp_path / "mask.ome.tif"), selected=True) == [str(tmp_path / "mask.ome.tif")]
    assert np.array_equal(tifffile.imread(tmp_path / "mask.ome.tif"), Corrections(found).levels[0])


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


@pytest.mark.parametrize(("box", "mpp"), [((32, 64, 160, 256), 2.0), (None, 2.0)])
@pytest.mark.parametrize("suffix", [".ome.tif", ".geojson"])
def test_an_exported_mask_comes_back_where_it_was_with_names_and_colours(
    tmp_path, viewer, box, mpp, suffix, make_prediction
):
    found = make_prediction(box=box, mpp=mpp)
    run(export(found, tmp_path / f"mask{suffix}", ExportSettings()))
    [layer] = viewer.open(str(tmp_path / f"mask{suffix}"), plugin="napari-lpd")
    data, options, _ = prediction_layers(found)[-1]
    ours = napari.layers.Labels(data, **options)
    assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
    y0, x0, y1, x1 = found.scope_box()
    for y, x in np.random.default_rng(0).integers((y0, x0), (y1, x1), (60, 2)):
        place = ((y + 0.5) * mpp, (x + 0.5) * mpp)
        value, expected = (np.max(each.get_value(place, world=True) or 0) for each in (layer, ours))
        assert value == expected
    assert layer.features["class"].tolist() == ours.features["class"].tolist()
    assert np.allclose(layer.get_color(2), ours.get_color(2))


def test_a_mask_too_large_for_memory_comes_back_coarser(tmp_path, make_prediction):
    found = make_prediction()
    path = run(export(found, tmp_path / "mask.geojson", ExportSettings()))
    mask = read_mask(path, most=30)
    assert max(mask.labels.shape) <= 30
    assert mask.mpp == 4 * found.card.mpp


def test_regions_open_on_the_slide_that_is_open(tmp_path, viewer):
    path = tmp_path / "drawn.geojson"
    write_regions(
        path, [Region(np.array([[0.0, 0], [0, 40], [30, 40]]), ("fat",))], [TissueClass(name="fat", color="#ffff00")]
    )
    with pytest.raises(DataError, match=r"drawn\.geojson: its regions are in pixels of a slide: open that first"):
        read_outlines(str(path))
    viewer.open(str(samples.skin_slide_path()), plugin="napari-lpd")
    [layer] = viewer.open(str(path), plugin="napari-lpd")
    [region] = outlines_of(layer, slide_layers(viewer)[0])
    assert np.allclose(region.vertices, [[0, 0], [0, 40], [30, 40]])
    assert region.tissues == ("fat",)
    viewer.open(str(samples.small_region_path()), plugin="napari-lpd")
    with pytest.raises(DataError, match=r"name it like the slide, or use Load… in Train"):
        read_outlines(str(path))
    named = path.rename(tmp_path / "CMU-1_skin.regions.geojson")
    [layer] = viewer.open(str(named), plugin="napari-lpd")
    assert len(layer.data) == 1


def test_a_geojson_that_is_none_says_so(tmp_path):
    (tmp_path / "a.geojson").write_text("{}")
    with pytest.raises(DataError, match=r"a\.geojson: not readable as GeoJSON"):
        read_outlines(str(tmp_path / "a.geojson"))


def test_the_smallest_level_of_a_slide_is_read_before_it_is_shown(tiny_tiff, monkeypatch):
    data, options, _ = read_slide(str(tiny_tiff))[0]
    monkeypatch.setattr(Slide, "_read_level", lambda *_: pytest.fail("read again"))
    assert options["multiscale"]
    assert np.asarray(data[-1]).shape == (128, 192, 3)
