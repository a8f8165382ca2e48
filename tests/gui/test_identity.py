"""A slide is its content, a layer is itself, whatever they are called: numbers, masks and regions stay with theirs."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.files import KEY
from napari_lpd.data.project import read_project, regions_beside
from napari_lpd.data.regions import Region, read_regions, write_regions
from napari_lpd.gui.layers.regions import add_regions, outlines_of, tissues_of
from napari_lpd.gui.layers.results import our_layers, show_prediction
from napari_lpd.gui.layers.slides import kind, slide_id
from napari_lpd.gui.predict.widget import PredictWidget

HEIGHTS = {"P1": 64, "P2": 160}  # of the predicted box: dark is 192 µm wide


@pytest.fixture
def files(tmp_path, tiny_image):
    """Two patients' slides of one file name, size and resolution."""
    found = {}
    for name, image in (("P1", tiny_image), ("P2", tiny_image[::-1])):
        found[name] = tmp_path / name / "slide.tif"
        found[name].parent.mkdir()
        options = {"photometric": "rgb", "tile": (64, 64), "resolutionunit": "CENTIMETER", "metadata": None}
        tifffile.imwrite(found[name], image, resolution=(1e4, 1e4), **options)
    return found


def opened(widget, files):
    """The slides as layers, opened through a widget."""
    layers = {}
    for name, path in files.items():
        widget.slides.open(path)
        layers[name] = widget.slides.layer()
    return layers


@pytest.fixture
def patients(files, viewer, use_widget, make_prediction):
    """The Predict widget with both slides and their predictions, and the slides' layers."""
    widget = use_widget(PredictWidget)
    layers = opened(widget, files)
    for name, layer in layers.items():
        box = (0, 0, HEIGHTS[name], 384)
        show_prediction(viewer, make_prediction(box=box, slide="slide.tif", slide_hash=slide_id(layer)), layer)
    return widget, layers


def choose(widget, layer):
    widget.slides._box.choose(layer)
    assert widget.slides.layer() is layer


def area_of(name):
    return f"{HEIGHTS[name] * 192 / 1e6:.3f}"


def listed(panel):
    return panel.areas.table.item(0, 1).text()


def done(panel, qtbot):
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=60_000)


def test_each_of_two_slides_of_one_name_keeps_its_mask_numbers_and_files(
    patients, viewer, qtbot, tmp_path, shown_errors, monkeypatch
):
    widget, layers = patients
    assert sum(kind(layer) == "labels" for layer in viewer.layers) == 2
    assert slide_id(layers["P1"]) != slide_id(layers["P2"])
    for name in ("P1", "P2", "P1"):
        choose(widget, layers[name])
        panel = widget.panel
        assert listed(panel) == area_of(name)
        panel.measure()
        done(panel, qtbot)
        assert listed(panel) == area_of(name)
        for suffix in ("geojson", "csv", "png"):
            target = tmp_path / f"{name}.{suffix}"
            monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, t=target: (str(t), f"A form (*{t.suffix})"))
            panel._on_export("labels")
            done(panel, qtbot)
        assert json.loads((tmp_path / f"{name}.geojson").read_text())[KEY]["slide_hash"] == slide_id(layers[name])
        table = list(csv.DictReader((tmp_path / f"{name}.csv").open(encoding="utf-8-sig")))
        assert f"{float(table[0]['area_mm2']):.3f}" == area_of(name)
        assert (tmp_path / f"{name}.png").exists()
    assert shown_errors == []


def test_measures_that_come_late_are_not_shown_for_another_slide(patients, qtbot):
    widget, layers = patients
    choose(widget, layers["P1"])
    widget.panel.measure()
    choose(widget, layers["P2"])
    done(widget.panel, qtbot)
    qtbot.wait(50)
    assert listed(widget.panel) == area_of("P2")


def test_what_is_drawn_on_one_slide_is_not_measured_on_another(patients, viewer, qtbot, use_widget):
    widget, layers = patients
    for name in ("P1", "P2"):
        viewer.scene.camera.center, viewer.scene.camera.zoom = (0, 128, 192), 1
        choose(widget, layers[name])
    from napari_lpd.gui.layers.regions import new_regions_layer

    regions = new_regions_layer(viewer, layers["P1"])
    square = np.array([[0, 0], [0, 40], [40, 40], [40, 0]], float)
    add_regions(regions, [Region(square, ("dark",))], ())
    regions.selected_data = {0}
    for name in ("P1", "P2"):  # regions for training are not measured
        choose(widget, layers[name])
        assert len(widget.panel._sites(widget.panel.shown())) == 1
    widget.scope.setCurrentText("the selected regions")
    widget.job.button.click()
    assert "no region on slide.tif [1] is selected" in widget.job.status.text()


@pytest.mark.parametrize("change", ["rename", "move", "duplicate", "reorder"])
def test_a_slides_layer_may_be_renamed_moved_and_duplicated(train, viewer, files, classes, change, shown_errors):
    drawn = train.data.drawn
    layers = opened(drawn, files)
    choose(drawn, layers["P1"])
    drawn._on_draw()
    regions = drawn.layer()
    square = np.array([[10, 10], [10, 70], [70, 70], [70, 10]], float)
    add_regions(regions, [Region(square, ("dark",))], classes)
    if change == "rename":
        layers["P1"].name, layers["P2"].name = "tumour", "slide.tif"
    elif change == "move":
        layers["P1"].translate = (500, 700)
    elif change == "duplicate":
        data, options, _ = layers["P1"].as_layer_data_tuple()
        copied = viewer.add_image(data, **options)
        copied.translate = (900, 900)
        drawn.slides.refresh()
        choose(drawn, copied)
    else:
        viewer.layers.reverse()
    assert drawn.slides.layer() is (copied if change == "duplicate" else layers["P1"])
    drawn._on_draw()
    assert [layer for layer in viewer.layers if kind(layer) == "regions"] == [regions]
    add_regions(regions, [Region(square + 80, ("pink",))], classes)
    drawn.files.save()
    assert drawn.saved.text() == "Regions saved: slide.tif.regions.geojson"
    found = read_regions(regions_beside(files["P1"]))
    assert [region.tissues for region in found] == [("dark",), ("pink",)]
    assert np.allclose(found[0].vertices, square)
    assert np.allclose(found[1].vertices, square + 80)
    assert not regions_beside(files["P2"]).exists()
    assert shown_errors == []


def test_a_copy_of_the_regions_adds_to_them(train, viewer, files, classes):
    drawn = train.data.drawn
    layers = opened(drawn, files)
    drawn._on_draw()
    square = np.array([[10, 10], [10, 70], [70, 70], [70, 10]], float)
    add_regions(drawn.layer(), [Region(square, ("dark",))], classes)
    copied = viewer.add_layer(type(drawn.layer()).create(*drawn.layer().as_layer_data_tuple()))
    add_regions(copied, [Region(square + 80, ("pink",))], classes)
    drawn.files.save()
    found = read_regions(regions_beside(files["P2"]))
    assert {region.tissues for region in found} == {("dark",), ("pink",)}
    assert len(outlines_of(copied, layers["P2"])) == 2


def test_a_mask_goes_where_its_slide_goes(patients, viewer):
    _, layers = patients
    masks = {name: our_layers(viewer, slide_id(layer), "labels")[0] for name, layer in layers.items()}
    before = {name: np.array(mask.translate) for name, mask in masks.items()}
    layers["P2"].translate = np.add(layers["P2"].translate, (100, 200))
    assert np.allclose(masks["P2"].translate, np.add(before["P2"], (100, 200)))
    assert np.allclose(masks["P1"].translate, before["P1"])


def test_regions_of_another_slide_are_not_offered_for_this_one(train, viewer, files, classes, shown_errors):
    drawn = train.data.drawn
    layers = opened(drawn, files)
    choose(drawn, layers["P1"])
    drawn._on_draw()
    square = np.array([[10, 10], [10, 70], [70, 70], [70, 10]], float)
    add_regions(drawn.layer(), [Region(square, ("dark",))], classes)
    choose(drawn, layers["P2"])
    assert drawn.regions.count() == 0
    train.job.button.click()
    assert "no regions yet" in shown_errors[0]


def test_a_patient_is_what_was_said_of_this_slide(train, viewer, files, classes, tmp_path, shown_errors):
    data, regions = train.data, [Region(np.array([[0, 0], [0, 90], [90, 90], [90, 0]], float), ("dark",))]
    for path in files.values():
        write_regions(regions_beside(path), regions, classes)
    layers = opened(data.drawn, files)
    choose(data.drawn, layers["P1"])
    data.patient.setText("Smith")
    layers["P1"].name = "renamed"
    viewer.add_image(np.zeros((9, 9)))
    assert data.patient.text() == "Smith"
    data.add_to_project(tmp_path / "all.lpd.json")
    choose(data.drawn, layers["P2"])
    assert data.patient.text() == ""
    data.add_to_project(tmp_path / "all.lpd.json")
    slides = read_project(tmp_path / "all.lpd.json").slides
    assert [(each.slide.parent.name, each.patient) for each in slides] == [("P1", "Smith"), ("P2", "")]
    assert [each.fingerprint for each in slides] == [slide_id(layer) for layer in layers.values()]
    assert "P1/slide.tif, P2/slide.tif" in data.used.text()
    choose(data.drawn, layers["P1"])
    assert data.patient.text() == "Smith"
    assert shown_errors == []


NAMES = ["CD8+", "ER+/PR-", "a + b", "+", "Tumor: Positive", "母斑", 'say "x"', "a, b", "[x]"]


def test_any_name_of_a_class_comes_back_from_the_window(train, viewer, tiny_layer, tiny_tiff):
    data = train.data
    data.classes.set_classes([TissueClass(name=name, color="#ff0000") for name in NAMES])
    data.drawn._on_draw()
    layer = data.drawn.layer()
    for i, name in enumerate(NAMES):
        layer.selected_data = set()
        data.drawn.use(name)
        y = 25.0 * i
        layer.add_rectangles(np.array([[y, 10], [y, 60], [y + 20, 60], [y + 20, 10]]))
    layer.selected_data = {0}
    data.drawn.toggle("a + b")
    wanted = [("CD8+", "a + b"), *((name,) for name in NAMES[1:])]
    assert tissues_of(layer) == wanted
    assert [row.count.text()[:1] for row in data.classes._rows] == ["1", "1", "2", *"111111"]
    data.drawn.files.save()
    assert [region.tissues for region in read_regions(regions_beside(tiny_tiff), NAMES)] == wanted


def test_a_text_that_the_user_wrote_wins_over_the_list(train, viewer, tiny_layer):
    train.data.drawn._on_draw()
    layer = train.data.drawn.layer()
    layer.add_rectangles(np.array([[0, 0], [0, 9], [9, 9], [9, 0]], float))
    features = layer.features.copy()
    features["tissues"] = ["CD8+ + pink"]
    layer.features = features
    assert tissues_of(layer) == [("CD8+", "pink")]


def test_opacity_is_of_the_chosen_slides_mask(patients, viewer):
    widget, layers = patients
    choose(widget, layers["P1"])
    widget.panel.areas.table.item(0, 0).setCheckState(Qt.CheckState.Unchecked)
    alpha = {
        name: our_layers(viewer, slide_id(layer), "labels")[0].colormap.map(1)[..., 3].item()
        for name, layer in layers.items()
    }
    assert alpha == {"P1": 0, "P2": 1}
