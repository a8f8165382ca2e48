from __future__ import annotations

import napari
import numpy as np
import pytest

from napari_lpd.core.errors import SlideError
from napari_lpd.core.files import KEY
from napari_lpd.gui.layers.pyramid_view import View
from napari_lpd.gui.layers.results import (
    MASK,
    completing,
    our_layers,
    parts_of,
    parts_shown,
    prediction_layers,
    show_part,
    show_prediction,
    showing,
    shown_by,
    shown_prediction,
)
from napari_lpd.gui.layers.slides import Shown, set_resolution, slide_id, slide_of, visible_box_um
from napari_lpd.gui.predict.live_prediction import LiveLayers
from napari_lpd.results.prediction import BlockResult, Prediction

SLIDE_MPP = 1.0
CORNER = (-SLIDE_MPP / 2, -SLIDE_MPP / 2)  # world position of the slide's outer corner: its first pixel lies at 0


def show_all(viewer, found, slide_layer=None):
    """Show a prediction with all its maps."""
    labels = show_prediction(viewer, found, slide_layer)
    for layer in prediction_layers(found, shown_by(labels), parts_of(found)[:-1]):
        show_part(viewer, layer)
    return labels


def outer_corners(layer) -> np.ndarray:
    """World positions (2, 2) of the outer corners of a layer's first and last pixel, y and x."""
    extent = layer.extent.data[:, -2:]
    shape = np.array((layer.data[0] if layer.multiscale else layer.data).shape[-2:])
    assert np.allclose(extent, [[0, 0], shape - 1]) or np.allclose(extent, [[-0.5, -0.5], shape - 0.5])
    ends = [np.full(2, -0.5), shape - 0.5]
    return np.array([layer.translate[-2:] + end * layer.scale[-2:] for end in ends])


def test_labels_and_heatmaps_lie_on_the_slide_to_the_pixel_edge(viewer, tiny_layer, make_prediction):
    found = make_prediction()
    show_all(viewer, found, tiny_layer)
    wanted = np.add(CORNER, [[32, 64], [32 + 64 * 2, 64 + 96 * 2]])
    for layer in our_layers(viewer, slide_id(viewer.layers["tiny.tiff"]), "labels", "heatmap", "uncertainty"):
        assert np.allclose(outer_corners(layer), wanted), layer.name
    assert len(viewer.layers) == 1 + 5


@pytest.mark.parametrize("slide_shape", [(256, 384), (301, 385)])
def test_a_large_prediction_is_a_pyramid_that_lies_on_the_slide(viewer, tiny_layer, make_prediction, slide_shape):
    found = make_prediction(box=None, mpp=0.125, slide_shape=slide_shape)
    show_prediction(viewer, found, tiny_layer)
    for layer in our_layers(viewer, slide_id(viewer.layers["tiny.tiff"]), "labels"):
        assert layer.multiscale
        assert np.allclose(outer_corners(layer), np.add(CORNER, [[0, 0], slide_shape]), atol=0.5)


def test_every_level_shows_the_border_in_the_same_place(viewer, tiny_layer, make_prediction):
    labels = show_prediction(viewer, make_prediction(box=None, mpp=0.125), tiny_layer)
    for level, scale in zip(labels.data, labels.downsample_factors, strict=True):
        row = np.asarray(level[level.shape[0] // 2])
        assert np.argmax(row == 2) * scale[-1] * 0.125 == pytest.approx(192, abs=0.125 * scale[-1])


def test_a_box_across_map_pixels_is_shown_whole(viewer, tiny_layer, make_prediction):
    found = make_prediction(box=(35, 69, 161, 255))
    show_all(viewer, found, tiny_layer)
    [labels] = our_layers(viewer, slide_id(viewer.layers["tiny.tiff"]), "labels")
    [heatmap, _] = our_layers(viewer, slide_id(viewer.layers["tiny.tiff"]), "heatmap")
    assert np.allclose(outer_corners(labels), outer_corners(heatmap))
    assert np.allclose(outer_corners(labels), np.add(CORNER, [[32, 64], [168, 256]]))
    assert (labels.data > 0).sum() == found.in_scope((0, 0), found.card.shape).sum()


def test_layers_fill_while_a_prediction_grows(viewer, tiny_layer, make_prediction):
    found = make_prediction(box=None, mpp=1.0, finish=False, blocks={(0, 0)})
    growing = LiveLayers(found, Shown.by(tiny_layer), [("uncertainty", ""), ("heatmap", "of another model")])
    for _ in showing(viewer, growing.prediction, growing.layers):
        pass
    shown = parts_shown(viewer, slide_id(tiny_layer))
    assert shown.keys() == {MASK, ("uncertainty", "")}
    labels, uncertainty = shown[MASK], shown["uncertainty", ""]
    pink = show_part(viewer, *prediction_layers(found, shown_by(labels), [("heatmap", "pink")]))
    growing.follow([pink.metadata[KEY]["view"]])  # asked for while it grows
    assert (labels.data[:, 260:] == 0).all()
    growing.fill()
    assert growing.version == 0
    writer = Prediction.open(found.folder, write=True)
    w = writer.card.shape[1]
    part = BlockResult(*(np.full((*n, 256 // s, (w - 256) // s), 2, np.uint8)
                         for n, s in (((), 1), ((2,), 4), ((2,), 4), ((2, 2), 4), ((), 4))))  # fmt: skip
    writer.write_block((0, 1), part)
    growing.fill()
    assert growing.version == 1
    assert (labels.data[:, 260:] == 2).all()
    assert (uncertainty.data[:, 70:] == 2).all()
    assert (pink.data[:, :, 70:] == 2).all()
    for _ in completing(viewer, found, writer):
        pass
    assert shown_prediction(viewer, slide_id(tiny_layer)) is writer


@pytest.mark.parametrize("most", [0, 2**30])
def test_all_blocks_are_filled_into_all_levels_that_are_held(make_prediction, monkeypatch, most):
    monkeypatch.setattr("napari_lpd.gui.layers.pyramid_view.MAX_HELD", most)
    found = make_prediction(box=None, mpp=0.125)
    labels, maps = View(found.labels, found.scope_box(), 256), View(found.prototypes[1], (0, 0, 512, 768), 64)
    held = [isinstance(level, np.ndarray) for level in labels.levels]
    assert held == [bool(most)] * (len(held) - 1) + [True]
    labels.fill(found.finished_blocks())
    maps.fill(found.finished_blocks())
    for view, pyramid in ((labels, found.labels), (maps, found.prototypes[1])):
        for level, stored in zip(view.levels, pyramid.levels, strict=False):
            assert np.array_equal(level, stored)
    assert maps.highest == 153


def test_unreadable_places_have_a_name_and_a_colour_of_their_own(viewer, make_prediction):
    labels = show_prediction(viewer, make_prediction())
    assert np.allclose(labels.colormap.map(255)[:3], 0x50 / 255, atol=0.01)
    labels.data[0, 0] = 255
    assert "unreadable" in str(labels.get_status((0, *labels.translate), world=True))


def test_a_moved_slide_layer_takes_its_masks_along(viewer, tiny_layer, make_prediction):
    tiny_layer.translate = (1000, 2000)
    labels = show_prediction(viewer, make_prediction(), tiny_layer)
    assert np.allclose(outer_corners(labels)[0], np.add(CORNER, (1032, 2064)))


def test_a_prediction_leaves_the_view_where_it_was(viewer, tiny_layer, make_prediction):
    viewer.scene.camera.zoom, viewer.scene.camera.center = 7, (0, 30, 40)
    for _ in range(2):
        show_prediction(viewer, make_prediction(), tiny_layer)
        assert viewer.scene.camera.zoom == 7
        assert viewer.scene.camera.center[-2:] == (30, 40)


def test_every_layer_is_in_micrometres(viewer, tiny_layer, make_prediction):
    show_all(viewer, make_prediction(), tiny_layer)
    for layer in viewer.layers:
        assert [str(unit) for unit in layer.units[-2:]] == ["micrometer", "micrometer"]


def test_colours_and_names_are_those_of_the_classes(viewer, make_prediction):
    labels = show_prediction(viewer, make_prediction())
    assert list(labels.features["class"]) == ["unlabelled", "dark", "pink", "unsure", "unreadable"]
    assert np.allclose(labels.colormap.map(1)[:3], np.array([0x3B, 0x4C, 0xFF]) / 255, atol=0.01)
    assert labels.colormap.map(0)[3] == 0
    assert labels.colormap.map(99)[3] == 0


def test_the_status_bar_says_the_tissue(viewer, make_prediction):
    labels = show_prediction(viewer, make_prediction())
    position = (0, *(labels.translate + 5 * labels.scale))
    assert "dark" in str(labels.get_status(position, world=True))


def test_each_class_has_its_prototypes_on_a_slider(viewer, make_prediction):
    show_all(viewer, make_prediction())
    pink = next(layer for layer in viewer.layers if layer.metadata[KEY].get("class") == "pink")
    assert pink.data.shape == (2, 16, 24)
    assert pink.data[:, 0, 0].tolist() == [152, 153]


def test_results_of_a_slide_stack_and_share_the_layers_of_their_maps(viewer, make_prediction):
    show_all(viewer, make_prediction(slide="a.svs"))
    show_prediction(viewer, make_prediction(slide="b.svs"))
    newest = make_prediction(slide="a.svs", box=(0, 0, 90, 90))
    show_prediction(viewer, newest)
    assert len(viewer.layers) == 5 + 1 + 1
    assert all(layer.metadata[KEY]["prediction"] is newest for layer in parts_shown(viewer, "a.svs").values())
    assert parts_shown(viewer, "a.svs").keys() == set(parts_of(newest))
    assert shown_prediction(viewer, "a.svs") is newest
    assert shown_prediction(viewer, "c.svs") is None


def test_a_layer_from_our_reader_opens_its_file(tiny_layer, tiny_image):
    with slide_of(tiny_layer) as slide:
        assert slide.mpp == (1.0, 1.0)
        assert np.array_equal(slide.read((0, 0), (256, 384), 1.0), tiny_image)


def test_an_array_in_micrometres_is_a_slide(viewer, tiny_image):
    layer = viewer.add_image(tiny_image, scale=(0.5, 0.5), units=("um", "um"), name="array")
    slide = slide_of(layer)
    assert (slide.mpp, slide.mpp_source) == ((0.5, 0.5), "scale of the layer")


def test_a_resolution_is_asked_for_and_not_guessed(viewer, tiny_image):
    layer = viewer.add_image(tiny_image, name="array")
    with pytest.raises(SlideError, match="array has no resolution .*: enter its µm per pixel"):
        slide_of(layer)
    set_resolution(layer, 0.25)
    assert slide_of(layer).mpp == (0.25, 0.25)


def test_a_turned_layer_is_refused(tiny_layer):
    tiny_layer.rotate = 30
    with pytest.raises(SlideError, match=r"tiny\.tiff is rotated"):
        slide_of(tiny_layer)


def test_the_view_is_what_the_canvas_shows_of_the_slide(viewer, tiny_layer):
    viewer.canvas.size = (400, 800)
    viewer.scene.camera.zoom = 10
    viewer.scene.camera.center = (0, 100, 20)
    assert np.allclose(visible_box_um(viewer, tiny_layer), (80.5, 0, 120.5, 60.5))


def test_a_view_beside_the_slide_is_refused(viewer, tiny_layer):
    viewer.scene.camera.center = (0, 1e5, 1e5)
    with pytest.raises(SlideError, match=r"tiny\.tiff is out of view"):
        visible_box_um(viewer, tiny_layer)


def test_a_new_prediction_fills_the_layers_and_what_the_user_chose_stays(viewer, tiny_layer, make_prediction):
    show_all(viewer, make_prediction(), tiny_layer)
    [heatmap, _] = our_layers(viewer, slide_id(viewer.layers["tiny.tiff"]), "heatmap")
    heatmap.visible, heatmap.opacity, heatmap.colormap = True, 0.3, "viridis"
    before = list(viewer.layers)
    other = make_prediction(box=(16, 32, 200, 300))
    labels = show_prediction(viewer, other, tiny_layer)
    assert [each for each in viewer.layers if each in before] == before
    assert labels not in before
    assert (heatmap.visible, heatmap.opacity, heatmap.colormap.name) == (True, 0.3, "viridis")
    shown = parts_shown(viewer, slide_id(tiny_layer))
    assert shown[MASK] is labels
    for part in parts_of(other):
        [(data, options, kind)] = prediction_layers(other, Shown.by(tiny_layer), [part])
        layer, fresh = shown[part], napari.layers.Layer.create(data, options, kind)
        assert np.array_equal(np.asarray(layer.data), np.asarray(fresh.data))
        assert np.allclose(layer.translate, fresh.translate)
        assert layer.metadata["napari_lpd"].get("prediction", other) is other
    assert viewer.layers[-1] is labels
    larger = show_prediction(viewer, make_prediction(box=None, mpp=0.125), tiny_layer)  # with levels: a new layer
    assert larger.multiscale
    assert len(our_layers(viewer, slide_id(viewer.layers["tiny.tiff"]), "labels")) == 3
    assert viewer.layers[-1] is larger
    assert [layer.visible for layer in our_layers(viewer, slide_id(tiny_layer), "labels")] == [False, False, True]
