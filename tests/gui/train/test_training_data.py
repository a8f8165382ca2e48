"""What a model is trained on, through the widget: nothing drawn is lost, nothing about the data is guessed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tifffile
from qtpy.QtGui import QHideEvent
from qtpy.QtWidgets import QApplication, QMenu

from napari_lpd.core.classes import TissueClass
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.data.project import read_project, regions_beside
from napari_lpd.data.regions import Region, read_regions, write_regions
from napari_lpd.data.training_set import TrainingSource
from napari_lpd.gui.layers.regions import add_regions, new_regions_layer, tissues_of
from napari_lpd.gui.layers.slides import kind
from napari_lpd.gui.train.region_autosave import SAMPLE
from napari_lpd.training.runs.folder import run_classes


def box(y, x, size, *tissues):
    return Region(np.array([[y, x], [y, x + size], [y + size, x + size], [y + size, x]], float), tissues)


def region_layers(viewer):
    return [layer for layer in viewer.layers if kind(layer) == "regions"]


def names_in(path):
    return [region.tissues for region in read_regions(path)]


def rename(train, index, name):
    row = train.data.classes._rows[index]
    row.name.setText(name)
    row.name.editingFinished.emit()


def test_a_file_is_drawn_into_the_slides_own_layer_and_once(train, viewer, tiny_layer, tiny_tiff, tmp_path, classes):
    drawn = train.data.drawn
    drawn._on_draw()
    drawn._on_draw()
    [layer] = region_layers(viewer)
    add_regions(layer, [box(0, 0, 64, "dark")], classes)
    path = write_regions(tmp_path / "more.geojson", [box(0, 200, 64, "pink"), box(80, 0, 64, "dark")], classes)
    drawn.load(path)
    drawn.load(path)
    assert train.job.status.text() == "2 regions from more.geojson. 2 were already drawn."
    assert region_layers(viewer) == [layer]
    drawn.files.save()
    assert names_in(regions_beside(tiny_tiff)) == [("dark",), ("pink",), ("dark",)]


def test_regions_keep_their_tissue_when_a_class_gets_another_name(train, viewer, tiny_layer, tiny_tiff, classes):
    layer = new_regions_layer(viewer, tiny_layer)
    add_regions(layer, [box(0, 0, 64, "dark"), box(0, 200, 64, "pink", "dark")], classes)
    rename(train, 0, "pink")  # another class's name: not taken over
    assert tissues_of(layer) == [("dark",), ("pink", "dark")]
    rename(train, 0, "epithelium")
    assert tissues_of(layer) == [("epithelium",), ("pink", "epithelium")]
    assert train.data.classes._rows[0].count.text().startswith("2 ·")
    train.data.drawn.files.save()
    assert names_in(regions_beside(tiny_tiff)) == [("epithelium",), ("pink", "epithelium")]


def test_what_was_drawn_last_is_saved_when_another_slide_or_the_end_comes(
    train, viewer, tiny_layer, tiny_tiff, tmp_path, classes
):
    add_regions(new_regions_layer(viewer, tiny_layer), [box(0, 0, 64, "dark")], classes)
    second = tmp_path / "second.tiff"
    shutil.copy(tiny_tiff, second)
    train.data.drawn.slides.open(second)
    viewer.layers.remove(tiny_layer)
    QApplication.sendEvent(train.data.drawn, QHideEvent())
    assert names_in(regions_beside(tiny_tiff)) == [("dark",)]
    assert not regions_beside(second).exists()


def test_a_damaged_file_beside_the_slide_is_not_replaced(train, viewer, tiny_tiff, classes, shown_errors):
    regions_beside(tiny_tiff).write_text('{"features": [')
    train.data.drawn.slides.open(tiny_tiff)
    assert "not readable as GeoJSON regions" in shown_errors[0]
    train.data.drawn._on_draw()
    [layer] = region_layers(viewer)
    add_regions(layer, [box(0, 0, 64, "dark")], classes)
    train.data.drawn.files.save()
    assert "it is not replaced: fix it, or move it" in shown_errors[1]
    assert regions_beside(tiny_tiff).read_text() == '{"features": ['
    regions_beside(tiny_tiff).unlink()
    train.data.drawn.files.change(layer)
    train.data.drawn.files.save()
    assert names_in(regions_beside(tiny_tiff)) == [("dark",)]


def test_a_samples_regions_are_said_not_to_be_kept(train, viewer, skin_layer, classes, shown_errors):
    add_regions(new_regions_layer(viewer, skin_layer), [box(0, 0, 64, "dark")], classes)
    train.data.drawn.files.save()
    assert train.data.drawn.saved.text() == SAMPLE
    assert shown_errors == []


def test_labelled_tiles_are_asked_for_their_resolution_and_their_slides(
    train, tile_folder, shown_errors, children, qtbot
):
    train.data.source.setCurrentIndex(1)
    train.data.tiles.folder.setText(str(tile_folder))
    for row in ("mpp", "tile"):
        assert train.chosen.form._rows[row].native.isHidden()
    assert all(row.use.isHidden() for row in train.data.classes._rows)
    train.job.button.click()
    assert "enter the tiles' µm per pixel: the files do not contain it" in shown_errors[0]
    train.data.tiles.resolution.setText("0,5")
    train.data.tiles.pattern.setText("^(.)")
    train.job.button.click()
    qtbot.waitUntil(lambda: len(children) == 1)
    run = train._run
    assert json.loads((run / "settings.json").read_text())["mpp"] == 0.5
    arguments = json.loads((run / "arguments.json").read_text())
    assert arguments[:5] == ["train", "--data", str(tile_folder), "--source", "^(.)"]
    assert run_classes(arguments) == train.data.tissue_classes()
    train.job.stop_button.click()
    qtbot.waitUntil(lambda: not train.job.runner.running)


def test_ready_lists_of_classes(train):
    [menu] = train.data.findChildren(QMenu)
    titles = [action.text() for action in menu.actions()]
    assert [title.partition(":")[0] for title in titles] == ["Skin sample", "BCSS", "LUAD", "From a file (JSON)…"]
    menu.actions()[2].trigger()
    assert [tissue.name for tissue in train.data.tissue_classes()][1] == "necrosis"


def test_a_project_keeps_whose_slide_it_is(train, viewer, tiny_layer, tiny_regions, tiny_tiff, tmp_path, classes):
    add_regions(new_regions_layer(viewer, tiny_layer), tiny_regions, classes)
    path = tmp_path / "set.lpd.json"
    train.data.patient.setText("p1")
    train.data.add_to_project(path)
    assert [held.patient for held in read_project(path).slides] == ["p1"]
    train.data.patient.clear()
    train.data.use_project(path)
    assert train.data.patient.text() == "p1"
    train.data.add_to_project(path)
    assert [held.patient for held in read_project(path).slides] == ["p1"]
    assert read_project(path).slides[0].regions == regions_beside(tiny_tiff)


@pytest.mark.slow
def test_the_slides_of_a_project_hold_its_classes_together(
    train, viewer, tiny_image, tiny_layer, tiny_tiff, tmp_path, qtbot, shown_errors
):
    (tmp_path / "P2").mkdir()
    second = tmp_path / "P2" / tiny_tiff.name
    options = {"photometric": "rgb", "tile": (64, 64), "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(second, tiny_image[::-1], resolution=(1e4, 1e4), **options)
    tissues = [TissueClass(name=name, color="#102030") for name in ("dark", "pink", "fat")]
    train.data.classes.set_classes(tissues)
    for path, names in ((tiny_tiff, ("dark", "pink")), (second, ("pink", "fat"))):
        regions = [box(0, 0, 190, names[0]), box(0, 194, 190, names[1])]
        write_regions(regions_beside(path), regions, tissues)
        train.data.drawn.slides.open(path)
        train.data.add_to_project(tmp_path / "all.lpd.json")
    train.chosen.show_value(TrainSettings(tile=64, tile_step=48))
    train._on_check()
    qtbot.waitUntil(lambda: not train.checker.running, timeout=120_000)
    assert shown_errors == []
    assert "dark" in train.tabs.data.text()
    assert "P2/tiny.tiff" in train.tabs.data.text()


def test_a_project_with_a_region_that_cannot_be_used_makes_no_run(
    train, viewer, tiny_layer, tiny_regions, tiny_tiff, tmp_path, classes, shown_errors
):
    add_regions(new_regions_layer(viewer, tiny_layer), tiny_regions, classes)
    path = tmp_path / "set.lpd.json"
    train.data.add_to_project(path)
    train.chosen.show_value(TrainSettings(tile=64))
    train.data.drawn.files.save()
    write_regions(regions_beside(tiny_tiff), [box(0, 0, 64, "nerve")], classes)
    train.job.button.click()
    assert "tissue 'nerve' is not among the classes dark, pink" in shown_errors[0]
    assert not (tmp_path / "models").exists()


def test_another_image_of_a_file_is_a_slide_of_its_own_in_the_window(train, viewer, tmp_path, tiny_image, classes):
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb", "tile": (64, 64), "resolutionunit": "CENTIMETER", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        for image in (tiny_image[:, 64:320], tiny_image):
            tiff.write(image, resolution=(1e4, 1e4), **options)
    drawn, slides = train.data.drawn, train.data.drawn.slides
    assert slides.images.isHidden()
    slides.open(path)
    biggest = slides.layer()
    assert [slides.images.itemText(i) for i in range(2)] == ["Image 1 256 x 256", "Image 2 384 x 256"]
    assert slides.images.currentIndex() == 1
    for index, name, image in ((0, "a.tif, image 1", 1), (1, "a.tif", None), (0, "a.tif, image 1", 1)):
        slides.images.activated.emit(index)
        assert slides.layer().name == name
        assert slides.images.currentIndex() == index
        drawn._on_draw()
        if not len(drawn.layer().data):
            add_regions(drawn.layer(), [box(0, 0, 128, "dark"), box(0, 128, 128, "pink")], classes)
        _, source = train.data.training_source(lambda: tmp_path)
        assert (source.slide, source.image) == (path, image)
        train.data.add_to_project(tmp_path / "p.lpd.json")
        train.data.use_project(None)
    assert len(region_layers(viewer)) == 2
    assert biggest in viewer.layers
    project = read_project(tmp_path / "p.lpd.json")
    assert [(held.image, held.regions.name) for held in project.slides] == [
        (1, "a.tif, image 1.regions.geojson"),
        (None, "a.tif.regions.geojson"),
    ]
    tiles = TrainingSource(project=tmp_path / "p.lpd.json").load((), TrainSettings(tile=64, tile_step=64, mpp=1)).tiles
    assert set(tiles.sources) == {"a.tif", "a.tif, image 1"}
