"""A user's whole way: open a slide, outline regions with the mouse, train, stop, resume, predict."""

from __future__ import annotations

import numpy as np
import pytest
from hand import Hand, picture
from made_models import QUICK_TO_TRAIN
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_lpd import samples
from napari_lpd.core.classes import read_classes
from napari_lpd.core.settings.training import TrainSettings
from napari_lpd.gui.layers.results import our_layers
from napari_lpd.gui.layers.slides import kind, slide_id
from napari_lpd.gui.train.widget import TrainWidget

OUTLINES = [  # keys of the tissues and a box in level-0 pixels: y, x, height, width
    ("2", 2090, 20, 450, 480),
    ("2", 4020, 640, 310, 360),
    ("3", 4650, 3660, 250, 270),
    ("3", 2050, 1330, 210, 210),
    ("43", 2760, 2560, 390, 480),
    ("43", 4140, 2120, 380, 280),
    ("1", 3900, 40, 400, 230),
    ("1", 4435, 280, 480, 260),
]


@pytest.mark.slow
def test_from_a_slide_to_a_prediction_by_hand(shown_viewer, qtbot, tmp_path, shown_errors):
    viewer = shown_viewer
    _, train = viewer.window.add_plugin_dock_widget("napari-lpd", "Train")
    assert isinstance(train, TrainWidget)
    train.out.setText(str(tmp_path / "models"))
    train.data.drawn.slides.open(samples.skin_slide_path())
    train.data.classes.set_classes(read_classes(samples.classes_path()))
    QApplication.processEvents()
    train.data.drawn._on_draw()
    layer = next(layer for layer in viewer.layers if kind(layer) == "regions")
    viewer.reset_view()
    hand = Hand(viewer)
    for number, (keys, y, x, h, w) in enumerate(OUTLINES, start=1):
        hand.canvas.native.setFocus()
        QTest.keyClick(hand.canvas.native, keys[0])
        QTest.keyClick(hand.canvas.native, "r")
        um = 0.998
        hand.drag((y * um, x * um), ((y + h) * um, (x + w) * um))
        assert len(layer.data) == number
        if keys[1:]:
            QTest.keyClick(hand.canvas.native, keys[1], Qt.KeyboardModifier.ControlModifier)
    names = ("epidermis", "naevus nests", "collagen", "fat")
    assert list(layer.features["tissues"]) == [" + ".join(names[int(key) - 1] for key in keys) for keys, *_ in OUTLINES]
    counts = [f"{number} · 0." for number in (2, 2, 4, 2)]
    shown = lambda: [row.count.text() for row in train.data.classes._rows]  # noqa: E731
    qtbot.waitUntil(lambda: [text[:6] for text in shown()] == counts and "0.00 mm²" not in str(shown()))
    layer.mode = "pan_zoom"
    picture(viewer, "train_regions")

    train.chosen.preset.setCurrentText("default")
    quick = QUICK_TO_TRAIN | {"mpp": 0.998, "max_steps": 24, "epochs": 4}
    train.chosen.show_value(train.settings().model_copy(update=quick))
    train._on_check()
    qtbot.waitUntil(lambda: not train.checker.running, timeout=600_000)
    assert shown_errors == []
    assert "tiles</b> of 128 pixels" in train.tabs.data.text()
    picture(viewer, "train_check")

    loss = lambda: train.tabs.curves.points("loss")  # noqa: E731
    train.job.button.click()
    qtbot.waitUntil(lambda: len(loss()[0]) >= 4, timeout=600_000)
    picture(viewer, "train_running")
    train.job.stop_button.click()
    assert train.job.status.text() == "Stopping…"
    qtbot.waitUntil(lambda: not train.job.runner.running, timeout=4000)
    taken = len(loss()[0])
    assert not train.resume.isHidden()
    train.resume.click()
    qtbot.waitUntil(lambda: not train.job.runner.running, timeout=900_000)
    assert shown_errors == []
    assert loss()[0] == list(range(1, loss()[0][-1] + 1))
    assert len(loss()[0]) > taken
    assert "computing on cpu" in train.tabs.log.toPlainText()
    assert train.device.text().startswith("Computing on cpu (")
    assert len(train.tabs._previews()) == train.tabs.epoch.maximum() >= 2
    assert "3 per class" in train.tabs.card.text()
    assert "from CMU-1_skin.tiff" in train.tabs.card.text()
    train.tabs.setCurrentIndex(2)
    picture(viewer, "train_done")

    viewer.scene.camera.zoom, viewer.scene.camera.center = 1.0, (0, 2500, 1200)
    assert not train.predict.isHidden()
    train.predict.click()
    predict = next(w for name, w in viewer.window.dock_widgets.items() if "Predict" in name)
    qtbot.waitUntil(lambda: not predict.job.runner.running, timeout=600_000)
    assert shown_errors == []
    [labels] = our_layers(viewer, slide_id(viewer.layers["CMU-1_skin.tiff"]), "labels")
    assert len(np.unique(labels.data[0] if labels.multiscale else labels.data)) > 1
    picture(viewer, "train_predicted")


@pytest.mark.slow
def test_the_counterpart_follows_with_the_same_data_and_seed(
    use_widget, viewer, tiny_layer, tiny_regions, classes, tmp_path, qtbot, shown_errors
):
    from napari_lpd.gui.layers.regions import add_regions, new_regions_layer
    from napari_lpd.models.card import read_card

    add_regions(new_regions_layer(viewer, tiny_layer), tiny_regions, classes)
    train = use_widget(TrainWidget)
    train.data.classes.set_classes(classes)
    train.out.setText(str(tmp_path / "models"))
    train.chosen.show_value(TrainSettings(**QUICK_TO_TRAIN, tile=64, tile_step=48, max_steps=2, batch=4, seed=7))
    train.counterpart.setChecked(True)
    train.job.button.click()
    models = tmp_path / "models"
    qtbot.waitUntil(lambda: len(list(models.glob("*/model.json"))) == 2, timeout=600_000)
    qtbot.waitUntil(lambda: not train.job.runner.running, timeout=60_000)
    assert shown_errors == []
    cards = {read_card(path).settings.model.bank: read_card(path) for path in models.glob("*/model.safetensors")}
    assert set(cards) == {"learned", "clustered"}
    one, other = (cards[bank].settings.model_dump() for bank in ("learned", "clustered"))
    differ = {name for name in one if one[name] != other[name]}
    assert differ == {"model", "diversity", "warm_up"}
    assert one["seed"] == other["seed"] == 7
    assert cards["learned"].tiles == cards["clustered"].tiles
