from __future__ import annotations

import numpy as np
import pytest

from napari_lpd.core.errors import DataError
from napari_lpd.data.regions import NONE, Region
from napari_lpd.gui.layers.regions import (
    COLUMN,
    LIST,
    add_regions,
    area_mm2,
    new_regions_layer,
    outlines_of,
    polygons_um,
    recolour,
    regions_of,
    rename_tissue,
    take_tissue,
    tissues_of,
    toggle_tissue,
)


@pytest.fixture
def layer(viewer, tiny_layer, tiny_regions, classes):
    layer = new_regions_layer(viewer, tiny_layer)
    add_regions(layer, tiny_regions, classes)
    return layer


def test_regions_come_back_as_they_were_drawn(layer, tiny_layer, tiny_regions):
    found = regions_of(layer, tiny_layer)
    assert [region.tissues for region in found] == [region.tissues for region in tiny_regions]
    for region, wanted in zip(found, tiny_regions, strict=True):
        assert np.allclose(region.vertices, wanted.vertices)


def test_regions_are_in_level_0_pixels_wherever_their_layer_lies(viewer, tiny_layer):
    tiny_layer.translate = (500, 700)
    shapes = viewer.add_shapes(
        [[[0, 0], [0, 10], [10, 10], [10, 0]]], shape_type="polygon", scale=(2, 2), translate=(500, 700)
    )
    shapes.features = {"tissues": ["dark + pink"]}
    region = regions_of(shapes, tiny_layer)[0]
    assert region.tissues == ("dark", "pink")
    assert np.allclose(region.vertices[[0, 2]], [[0.5, 0.5], [20.5, 20.5]])


def test_an_ellipse_keeps_its_area(viewer, tiny_layer):
    layer = new_regions_layer(viewer, tiny_layer)
    layer.add_ellipses([[0, 0], [0, 100], [60, 100], [60, 0]])
    layer.features = {"tissues": ["dark"]}
    assert regions_of(layer, tiny_layer)[0].polygon().area == pytest.approx(np.pi * 50 * 30, rel=0.01)


def test_a_line_is_refused(viewer, tiny_layer):
    layer = new_regions_layer(viewer, tiny_layer)
    layer.add_lines([[0, 0], [9, 9]])
    layer.features = {"tissues": ["dark"]}
    with pytest.raises(DataError, match="shape 1 is a line, not a closed outline"):
        regions_of(layer, tiny_layer)


def test_shapes_without_tissue_are_selected_and_named(layer, tiny_layer):
    layer.features = {"tissues": ["dark", ""]}
    with pytest.raises(DataError, match="1 of 2 regions carry no tissue"):
        regions_of(layer, tiny_layer)
    assert layer.selected_data == {1}


def test_an_empty_layer_is_refused(viewer, tiny_layer):
    with pytest.raises(DataError, match="outline at least one region"):
        regions_of(new_regions_layer(viewer, tiny_layer), tiny_layer)


def test_a_tissue_is_given_to_and_taken_from_the_selected_shapes(layer, classes):
    layer.selected_data = {1}
    assert toggle_tissue(layer, "dark", classes) == "1 region marked as dark."
    assert tissues_of(layer) == [("dark",), ("pink", "dark")]
    layer.selected_data = {0, 1}
    assert toggle_tissue(layer, "dark", classes) == "dark removed from 2 regions."
    assert tissues_of(layer) == [(), ("pink",)]


def test_the_tissue_in_hand_is_for_the_next_shape_and_survives_changes_of_the_others(layer, classes):
    colors = layer.edge_color.copy()
    layer.selected_data = {0}
    take_tissue(layer, "pink", classes)
    assert np.array_equal(layer.edge_color, colors)
    toggle_tissue(layer, "pink", classes)
    add_regions(layer, [], classes)
    recolour(layer, classes)
    layer.add_polygons([[[0, 0], [0, 9], [9, 9]]])
    assert tissues_of(layer) == [("dark", "pink"), ("pink",), ("pink",)]
    with pytest.raises(DataError, match="no region is selected"):
        toggle_tissue(layer, "pink", classes)


def test_regions_take_the_colour_of_their_first_tissue(layer, classes):
    recolour(layer, classes)
    assert np.allclose(layer.edge_color[1][:3], np.array([0xFF, 0x8C, 0x1A]) / 255, atol=0.01)


def test_counts_and_areas_per_tissue(layer):
    found = area_mm2(layer)
    assert found["dark"] == (1, pytest.approx(190 * 256 / 1e6))


def test_the_selected_region_is_a_polygon_in_micrometres(layer, tiny_layer):
    layer.selected_data = {1}
    [polygon] = polygons_um(layer, tiny_layer, selected=True)
    assert np.allclose(polygon.bounds, (194, 0, 384, 256))
    assert len(polygons_um(layer, tiny_layer)) == 2


def test_strokes_stay_strokes_when_tissues_are_given_and_classes_are_recoloured(layer, tiny_layer, classes):
    stroke = Region(np.array([[30.0, 30], [30, 36], [60, 36], [60, 30]]), ("pink",), pixels=True)
    add_regions(layer, [stroke], classes)
    recolour(layer, classes)
    layer.selected_data = {2}
    toggle_tissue(layer, "dark", classes)
    layer.add_rectangles(np.array([[100.0, 100], [100, 120], [120, 120], [120, 100]]))
    drawn = outlines_of(layer, tiny_layer)
    assert [region.pixels for region in drawn] == [False, False, True, False]
    assert drawn[2].tissues == ("pink", "dark")


def test_shares_go_with_their_tissues_whatever_their_order(layer, tiny_layer, classes):
    outline = np.array([[30.0, 30], [30, 36], [60, 36], [60, 30]])
    drawn = [Region(outline, names, shares=(0.6, 0.4)) for names in (("pink", "dark"), ("dark", "pink"))]
    add_regions(layer, [*drawn, Region(outline, ("dark",))], classes)
    layer.selected_data = {2, 3, 4}
    toggle_tissue(layer, "pink", classes)  # which two have
    layer.features.loc[3, [COLUMN, LIST]] = "pink + dark", "[]"  # as in the features table
    found = [dict(zip(each.tissues, each.shares, strict=False)) for each in outlines_of(layer, tiny_layer)[2:]]
    assert found == [{"pink": 0.6, "dark": 0.4}, {"dark": 0.6, "pink": 0.4}, {}]
    layer.selected_data = {2}
    toggle_tissue(layer, NONE, classes)
    assert outlines_of(layer, tiny_layer)[2].shares == ()


def test_shares_stay_with_a_region_until_its_tissues_change(layer, tiny_layer, classes):
    outline = np.array([[30.0, 30], [30, 36], [60, 36], [60, 30]])
    add_regions(layer, [Region(outline, ("pink", "dark"), shares=(0.6, 0.3))] * 2, classes)
    recolour(layer, classes)
    rename_tissue(layer, "pink", "red", classes)
    layer.selected_data = {3}
    toggle_tissue(layer, "dark", classes)
    drawn = outlines_of(layer, tiny_layer)
    assert [(region.tissues, region.shares) for region in drawn[2:]] == [(("red", "dark"), (0.6, 0.3)), (("red",), ())]
