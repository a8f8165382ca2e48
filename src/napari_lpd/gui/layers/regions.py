"""Conversion of regions with tissue names to a napari Shapes layer, and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from napari.layers import Shapes
from napari.layers.shapes.shapes import Mode

from napari_lpd.core.errors import DataError
from napari_lpd.core.files import KEY
from napari_lpd.data.geojson import PIXELS
from napari_lpd.data.regions import NONE, Region, joined, outside, split
from napari_lpd.gui.layers.slides import belongs, corner, home_of, of_slide, visible_box_um

if TYPE_CHECKING:
    from collections.abc import Sequence

    import napari
    from napari.layers import Image
    from napari.utils.events import Event
    from numpy.typing import NDArray

    from napari_lpd.core.classes import TissueClass

VIEW, WHOLE, REGIONS = "this view", "whole slide", "the selected regions"
COLUMN, LIST = "tissues", "tissue list"  # features: the text that is shown, and the names as JSON
PARTS = "tissue shares"  # feature: the share of each by its name, as JSON; "" where it is not known
PAINTED = "painted"  # feature: "pixels" for shapes that label just the pixels inside, "" for others
NO_TISSUE = "#5a5a5a"
ELLIPSE_VERTICES = 64
EDGE_UM = 8
FACE_ALPHA = "38"
MIN_AREA = 0.01  # level-0 pixels; coordinates are kept to 0.01


def regions_layers(viewer: napari.Viewer, slide_layer: Image | None = None) -> list[Shapes]:
    """List the Shapes layers in the viewer, our regions layers first; with a slide, none that is another slide's."""
    shapes = [layer for layer in viewer.layers if isinstance(layer, Shapes)]
    if slide_layer is not None:
        shapes = [each for each in shapes if "slide" not in each.metadata.get(KEY, {}) or belongs(each, slide_layer)]
    return sorted(shapes, key=lambda layer: layer.metadata.get(KEY, {}).get("kind") != "regions")


def new_regions_layer(viewer: napari.Viewer, slide_layer: Image) -> Shapes:
    """Add an empty layer for regions on the slide to the viewer."""
    layer: Shapes = viewer.add_layer(empty_regions(slide_layer))
    return layer


def empty_regions(slide_layer: Image) -> Shapes:
    """Make an empty Shapes layer aligned with the slide; each shape shows its tissues as text ("a + b").

    The tissues themselves are lists (JSON) in a feature of their own, as a name may hold a "+" itself.
    """
    layer = Shapes(
        ndim=2,
        name=f"tissue regions ({slide_layer.name})",
        scale=slide_layer.scale,
        translate=slide_layer.translate,
        units=slide_layer.units,
        features=_features([]),
        text={"string": f"{{{COLUMN}}}", "size": 7, "color": "black", "anchor": "center"},
        edge_width=EDGE_UM / float(slide_layer.scale[-1]),
        edge_color=NO_TISSUE,
        face_color=NO_TISSUE + FACE_ALPHA,
        opacity=1.0,
        metadata={KEY: {"kind": "regions", **of_slide(slide_layer)}},
    )
    _draw_next(layer, ())
    return layer


def _features(
    tissues: Sequence[Sequence[str]], painted: Sequence[bool] = (), shares: Sequence[Sequence[float]] = ()
) -> pd.DataFrame:
    """Return the features of shapes with these tissues, of which some are painted, or have shares."""
    columns = {
        PARTS: [
            json.dumps(dict(zip(names, each, strict=True))) if each else ""
            for names, each in zip(tissues, shares or [()] * len(tissues), strict=True)
        ],
        COLUMN: [joined(names) for names in tissues],
        LIST: [json.dumps([*names]) for names in tissues],
        PAINTED: [PIXELS if is_painted else "" for is_painted in painted or [False] * len(tissues)],
    }
    return pd.DataFrame({name: pd.Series(values, dtype=str) for name, values in columns.items()})


def _draw_next(layer: Shapes, tissues: Sequence[str], painted: bool = False, shares: Sequence[float] = ()) -> None:
    """Give these tissues to shapes that are drawn next."""
    layer.feature_defaults = _features([tissues], [painted], [shares]).iloc[0].to_dict()


def _names(text: str, listed: str) -> tuple[str, ...]:
    """Return the names in a shape's features; a text that somebody changed wins over the list, which it was made of."""
    try:
        names = tuple(str(name) for name in json.loads(listed or "[]"))
    except ValueError:
        names = ()
    return names if joined(names) == text else split(text)


def tissues_of(layer: Shapes) -> list[tuple[str, ...]]:
    """Return the tissue names of each shape."""
    if COLUMN not in layer.features:
        return [()] * len(layer.data)
    lists = layer.features[LIST] if LIST in layer.features else [""] * len(layer.data)
    names = [_names(str(text), str(listed)) for text, listed in zip(layer.features[COLUMN], lists, strict=True)]
    return names[: len(layer.data)]


def painted_of(layer: Shapes) -> list[bool]:
    """Tell of each shape whether it labels just the pixels inside it (`Region.pixels`)."""
    if PAINTED not in layer.features:
        return [False] * len(layer.data)
    return [value == PIXELS for value in layer.features[PAINTED]][: len(layer.data)]


def shares_of(layer: Shapes, tissues: Sequence[Sequence[str]]) -> list[tuple[float, ...]]:
    """Return the shares of each shape (`Region.shares`); those that do not fit its `tissues` any more do not count."""
    if PARTS not in layer.features:
        return [()] * len(tissues)
    shares = [json.loads(text or "{}") for text in layer.features[PARTS][: len(tissues)]]
    fits = (found.keys() == {*names} for found, names in zip(shares, tissues, strict=True))
    return [
        tuple(found[name] for name in names) if fit else ()
        for found, names, fit in zip(shares, tissues, fits, strict=True)
    ]


def add_regions(layer: Shapes, regions: Sequence[Region], classes: Sequence[TissueClass]) -> None:
    """Draw regions (level-0 pixels) into a regions layer of the same slide."""
    in_hand = layer.feature_defaults.copy()
    for region in regions:
        _draw_next(layer, region.tissues or ((NONE,) if region.named else ()), region.pixels, region.shares)
        color = _color(region.tissues, classes)
        layer.add_polygons([region.vertices - 0.5], edge_color=color, face_color=color + FACE_ALPHA)
    layer.feature_defaults = in_hand
    layer.selected_data = set()


def take_tissue(layer: Shapes, name: str, classes: Sequence[TissueClass]) -> None:
    """Give shapes that are drawn from now on a tissue and its colour; those that are there stay as they are."""
    color = tissue_color(name, classes)
    with layer.block_update_properties():  # else napari recolours what is selected
        layer.current_edge_color, layer.current_face_color = color, color + FACE_ALPHA
    _draw_next(layer, (name,))


def draw_next(layer: Shapes) -> None:
    """Make the next drag or click draw a shape, with the drawing tool that is chosen, else a polygon."""
    layer.selected_data = set()
    if not str(layer.mode).startswith("add_"):
        layer.mode = "add_polygon"


def toggle_tissue(layer: Shapes, name: str, classes: Sequence[TissueClass]) -> str:
    """Add a tissue to the selected shapes, or remove it if all have it, and return a line for the status.

    Raises:
        DataError: no shape is selected.
    """
    chosen = sorted(layer.selected_data)
    if not chosen:
        raise DataError("no region is selected: press S, click on a region, and try again")
    tissues = tissues_of(layer)
    remove = all(name in tissues[i] for i in chosen)
    for i in chosen:
        others = () if name == NONE else tuple(tissue for tissue in tissues[i] if tissue not in (name, NONE))
        tissues[i] = others if remove else (*others, name)
    _write(layer, tissues, classes)
    shapes = f"{len(chosen)} region" + "s" * (len(chosen) > 1)
    return f"{name} removed from {shapes}." if remove else f"{shapes} marked as {name}."


def rename_tissue(layer: Shapes, old: str, new: str, classes: Sequence[TissueClass]) -> bool:
    """Rename a tissue in all regions; return whether any region has it."""
    tissues = tissues_of(layer)
    if layer.feature_defaults.get(COLUMN, pd.Series([""])).iloc[0] == old:
        _draw_next(layer, (new,))
    if not any(old in names for names in tissues):
        return False
    renamed = [tuple(new if name == old else name for name in names) for names in tissues]
    _write(layer, renamed, classes, shares_of(layer, tissues))
    return True


def recolour(layer: Shapes, classes: Sequence[TissueClass]) -> None:
    """Draw every region in the colour of its tissue."""
    _write(layer, tissues_of(layer), classes)


def _write(
    layer: Shapes,
    tissues: Sequence[tuple[str, ...]],
    classes: Sequence[TissueClass],
    shares: Sequence[tuple[float, ...]] | None = None,
) -> None:
    in_hand = layer.feature_defaults.copy()  # napari takes those of the last row
    layer.features = _features(tissues, painted_of(layer), shares or shares_of(layer, tissues))
    layer.feature_defaults = in_hand
    if tissues:
        colors = [_color(names, classes) for names in tissues]
        layer.edge_color, layer.face_color = colors, [color + FACE_ALPHA for color in colors]
    layer.refresh_text()


def tissue_color(name: str, classes: Sequence[TissueClass]) -> str:
    """Return the colour of a tissue; grey for names that are no class."""
    return _color((name,), classes)


def _color(tissues: Sequence[str], classes: Sequence[TissueClass]) -> str:
    return next((tissue.color for tissue in classes if tissues and tissue.name == tissues[0]), NO_TISSUE)


def area_mm2(layer: Shapes) -> dict[str, tuple[int, float]]:
    """Return the number of regions per tissue and their area in mm² (a layer in µm)."""
    counts: dict[str, tuple[int, float]] = {}
    for i, names in enumerate(tissues_of(layer)):
        outline = _outline(layer, i)
        area = (
            0.0 if outline is None else Region(outline, names).polygon().area * float(np.prod(layer.scale[-2:])) / 1e6
        )
        for name in names:
            count, total = counts.get(name, (0, 0.0))
            counts[name] = (count + 1, total + area)
    return counts


def regions_of(layer: Shapes, slide_layer: Image) -> list[Region]:
    """Convert the shapes of a layer to regions in level-0 pixels of the slide.

    Raises:
        DataError: there are no shapes, shapes without tissue names, or open lines.
    """
    if not len(layer.data):
        raise DataError(f"{layer.name} is empty: outline at least one region per tissue")
    tissues = tissues_of(layer)
    unnamed = [i for i, names in enumerate(tissues) if not names]
    if unnamed:
        layer.selected_data = set(unnamed)
        raise DataError(
            f"{len(unnamed)} of {len(tissues)} regions carry no tissue (now selected): press a tissue's button"
        )
    return outlines_of(layer, slide_layer)


def check_inside(layer: Shapes, slide_layer: Image) -> None:
    """Raise DataError if shapes of a layer lie outside the slide; they are selected then."""
    shape = (slide_layer.data[0] if slide_layer.multiscale else slide_layer.data).shape[:2]
    if numbers := outside(outlines_of(layer, slide_layer), shape):
        layer.selected_data = {number - 1 for number in numbers}
        shown = ", ".join(map(str, numbers[:5])) + ", …" * (len(numbers) > 5)
        raise DataError(
            f"{slide_layer.name}: of {len(layer.data)} regions, {shown} (now selected) outside the slide"
            f" ({shape[1]} x {shape[0]} pixels): delete them, or are they another slide's?"
        )


def outlines_of(layer: Shapes, slide_layer: Image, leave_out: Sequence[int] = ()) -> list[Region]:
    """Convert the shapes of a layer as `regions_of` does, including those without a tissue, but for some by number."""
    tissues = tissues_of(layer)
    said = zip(tissues, painted_of(layer), shares_of(layer, tissues), strict=True)
    return [
        Region(_on_slide(layer, i, slide_layer), tuple(n for n in names if n != NONE), bool(names), painted, shares)
        for i, (names, painted, shares) in enumerate(said)
        if i not in leave_out
    ]


def empty_shapes(layer: Shapes, slide_layer: Image) -> list[int]:
    """List the shapes of a layer, by number from 0, that enclose nothing of the slide.

    No file can hold them as regions: lines, a polygon that is being drawn, what a click leaves, what lies beside it.
    """
    data = slide_layer.data[0] if slide_layer.multiscale else slide_layer.data
    slide = shapely.box(0, 0, data.shape[1], data.shape[0])

    def is_empty(index: int) -> bool:
        if _outline(layer, index) is None:
            return True
        return bool(Region(_on_slide(layer, index, slide_layer), ()).polygon().intersection(slide).area < MIN_AREA)

    return [index for index in range(len(layer.data)) if is_empty(index)]


def drop_leftovers(layer: Shapes) -> None:
    """Remove tissues and colours of polygons that were given up: napari 0.9 keeps them, and all later ones shift."""
    count, view = len(layer.data), layer._data_view
    if layer._is_creating:
        return
    if len(layer.features) > count:
        in_hand = layer.feature_defaults.copy()
        layer.features = layer.features.iloc[:count]
        layer.feature_defaults = in_hand
    view._edge_color, view._face_color = view._edge_color[:count], view._face_color[:count]


def close_outline(event: Event) -> None:
    """End a polygon that is being drawn when another tool is chosen: napari 0.9 leaves it as an open line."""
    layer = event.source
    index = layer._moving_value[0]
    if layer._is_creating and index is not None and layer.shape_type[index] == "path":
        chosen, layer._mode = layer._mode, Mode.ADD_POLYGON
        layer._finish_drawing()
        layer._mode = chosen


def chosen_scope(viewer: napari.Viewer, slide_layer: Image, scope: str) -> list[shapely.Geometry]:
    """Return the area to segment as polygons, (x, y) in µm from the slide's corner; [] for the whole slide.

    Raises:
        SlideError: nothing of the slide is in view.
        DataError: no region is selected.
    """
    if scope == WHOLE:
        return []
    if scope == VIEW:
        y0, x0, y1, x1 = visible_box_um(viewer, slide_layer)
        return [shapely.box(x0, y0, x1, y1)]
    for shapes in regions_layers(viewer, slide_layer):
        if shapes.selected_data:
            return polygons_um(shapes, slide_layer, selected=True)
    raise DataError(f"no region on {slide_layer.name} is selected: select a shape there, or choose this view")


def polygons_um(layer: Shapes, slide_layer: Image, selected: bool = False) -> list[shapely.Geometry]:
    """Convert the shapes of a layer, or the selected ones, to polygons, (x, y) in µm from the slide's corner.

    Raises:
        DataError: there are no shapes, or open lines.
    """
    chosen = sorted(layer.selected_data) if selected else range(len(layer.data))
    if not chosen:
        raise DataError(f"{layer.name} is empty: draw an outline in it")
    mpp = (float(slide_layer.scale[-2]), float(slide_layer.scale[-1]))
    return [Region(_on_slide(layer, i, slide_layer), ()).polygon(mpp) for i in chosen]


def _on_slide(layer: Shapes, index: int, slide_layer: Image) -> NDArray[np.float64]:
    outline = _outline(layer, index)
    if outline is None:
        raise DataError(f"{layer.name}: shape {index + 1} is a {layer.shape_type[index]}, not a closed outline")
    world, home = np.array([layer.data_to_world(vertex) for vertex in outline])[:, -2:], home_of(layer, slide_layer)
    return np.asarray((world - corner(home)) / home.scale[-2:])


def _outline(layer: Shapes, index: int) -> NDArray[np.float64] | None:
    """Return the vertices (n, 2) of a shape in the layer's pixels; None for lines and paths."""
    shape_type: Any = str(layer.shape_type[index])
    vertices = np.asarray(layer.data[index], dtype=float)[:, -2:]
    if shape_type in ("line", "path"):
        return None
    if shape_type != "ellipse":
        return vertices
    centre, a, b = vertices.mean(0), (vertices[1] - vertices[0]) / 2, (vertices[3] - vertices[0]) / 2
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_VERTICES, endpoint=False)[:, None]
    return np.asarray(centre + np.cos(angle) * a + np.sin(angle) * b)
