"""A user's whole way through Explore: two models side by side, heatmaps, a card, a jump to a patch, figures.

With NAPARI_LPD_PICTURES=DIR pictures of the window are left there; NAPARI_LPD_MODELS=A:B takes these two models of the
sample slide in place of the sample model and a copy of it with other prototypes.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hand import PICTURES, picture, press
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QFileDialog, QToolButton

from napari_lpd import samples
from napari_lpd.gui.common.prediction_run import keep_triton_out
from napari_lpd.gui.common.recent_models import recent_models
from napari_lpd.gui.explore.widget import ExploreWidget
from napari_lpd.models.card import read_card
from napari_lpd.models.checkpoint import load_tensors, save_checkpoint
from napari_lpd.slides.formats import open_slide

MODELS = os.environ.get("NAPARI_LPD_MODELS", "")


def choose(box, path):
    box.setCurrentIndex(box.findData(str(path.resolve())))
    assert box.currentData() == str(path.resolve())


def is_around(viewer, patch):
    """Whether a patch of the sample slide, pixel for pixel, lies around the middle of the view, where the jump went."""
    with open_slide(samples.skin_slide_path()) as slide:
        edge, mpp = len(patch), read_card(samples.model_path()).settings.mpp
        y, x = ((np.array(viewer.scene.camera.center[1:]) + slide.mpp[0] / 2) / mpp).round().astype(int)
        around = slide.read((y - edge, x - edge), (2 * edge, 2 * edge), mpp)
    windows = np.lib.stride_tricks.sliding_window_view(around, (edge, edge), (0, 1)).transpose(0, 1, 3, 4, 2)
    return any(np.array_equal(window, patch) for row in windows for window in row)


@pytest.fixture
def shown_viewer(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1500, 940)
    return viewer


@pytest.fixture
def pair(tmp_path):
    """Two models of the sample slide: the sample model, and one whose prototypes of a class are much alike."""
    if MODELS:
        return [Path(path) for path in MODELS.split(":")]
    keep_triton_out()  # napari may have drawn already
    card, tensors = read_card(samples.model_path()), load_tensors(samples.model_path())
    k, (name,) = card.settings.model.prototypes_per_class, [name for name in tensors if name.endswith("prototypes")]
    own = tensors[name].unflatten(0, (-1, k))
    tensors[name] = (0.8 * own.mean(1, keepdim=True) + 0.2 * own).flatten(0, 1)
    return [samples.model_path(), save_checkpoint(tmp_path / "alike" / "model.safetensors", tensors, card)]


@pytest.mark.slow
def test_from_two_models_to_figures(shown_viewer, pair, qtbot, tmp_path, shown_errors, monkeypatch):
    viewer = shown_viewer
    _, explore = viewer.window.add_plugin_dock_widget("napari-lpd", "Explore prototypes")
    assert isinstance(explore, ExploreWidget)
    explore.slides.open(samples.skin_slide_path())
    for path in pair:
        recent_models.add(path)
    for box, path in zip(explore.pair.boxes, pair, strict=True):
        choose(box, path)
    viewer.scene.camera.zoom, viewer.scene.camera.center = 0.6, (0, 2700, 900)
    QApplication.processEvents()
    layers, camera = list(viewer.layers), viewer.scene.camera.center

    both = explore.both
    press(explore, "Show both side by side")
    qtbot.waitUntil(lambda: not both.job.runner.running, timeout=180_000)
    assert shown_errors == []
    assert both.side.is_open
    assert viewer.canvas.grid.actual_shape(viewer.layers) == (1, 2)
    for mask in both.side.masks():
        assert len(np.unique(np.asarray(mask.data))) > 2
    picture(viewer, "explore_side_by_side")

    explore.tissue.setCurrentText("naevus nests")
    explore.slider.setValue(1)
    shown = [layer.metadata["napari_lpd"]["class"] for layer in both.side.heatmaps() if layer.visible]
    assert shown == ["naevus nests"] * 2
    picture(viewer, "explore_heatmaps")

    press(explore, "Every prototype…")
    everything = both.window_of_all
    assert everything.isVisible()
    assert everything.height() <= 1000
    assert everything.tissue.currentText() == "naevus nests"
    k = read_card(pair[0]).settings.model.prototypes_per_class
    assert [(slot.model, slot.prototype) for slot in everything.grid.slots] == [
        (m, u) for m in (0, 1) for u in range(k)
    ]
    if PICTURES:
        QApplication.processEvents()
        everything.grab().save(str(Path(PICTURES) / "explore_every_prototype.png"))
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "nests.pdf"), ""))
    press(everything, "Save…")
    assert (tmp_path / "nests.pdf").read_bytes().startswith(b"%PDF")
    x0, y0, x1, y1 = everything.grid.slots[-1].box
    QTest.mouseClick(everything.picture, Qt.MouseButton.LeftButton, pos=QPoint((x0 + x1) // 2, (y0 + y1) // 2))
    assert viewer.dims.current_step[0] == k - 1
    everything.close()

    compare = explore.compare
    press(explore, "Compare")
    qtbot.waitUntil(lambda: not compare.job.runner.running, timeout=300_000)
    assert shown_errors == []
    compare.card.tissue.setCurrentText("collagen")
    assert compare.card.text.text().startswith(f"Prototype 1 of {k}: reaches")
    (first, *_) = compare.card.patches.findChildren(QToolButton)
    first.click()
    assert viewer.scene.camera.center[1:] != camera[1:]
    assert is_around(viewer, compare.card.chosen().patches[0].image)
    assert both.side.is_open
    explore.column.reveal(compare.card.patches)
    picture(viewer, "explore_card")

    for button, name in (("Heatmaps…", "figure.svg"), ("CSV…", "figures.csv")):
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, name=name: (str(tmp_path / name), ""))
        press(compare, button)
    assert (tmp_path / "figure.svg").read_text().count("<image") == len(compare.comparison.examples) * 2 * (3 + k)
    assert (tmp_path / "figures.csv").read_text("utf-8-sig").startswith("bank,kind,space,metric,class,value,low,high")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "report"))
    press(compare, "Report…")
    assert {"report.html", "heatmaps.svg", "heatmaps.pdf", "heatmaps.png", "figures.csv"} <= {
        p.name for p in (tmp_path / "report").iterdir()
    }
    explore.column.reveal(compare.scatter)
    picture(viewer, "explore_figures")

    assert viewer.window._qt_window.height() <= 1000
    press(explore, "Back to one view")
    assert list(viewer.layers) == layers
    assert not viewer.canvas.grid.enabled
    assert shown_errors == []
