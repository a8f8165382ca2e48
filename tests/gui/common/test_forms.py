from __future__ import annotations

import pytest
from qtpy.QtWidgets import QCheckBox, QComboBox

from napari_lpd.core.errors import SettingsError
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.core.settings.training import ModelSettings, TrainSettings
from napari_lpd.gui.common.forms import SettingsForm


@pytest.mark.parametrize("settings", [TrainSettings(), PredictSettings(), ModelSettings()])
def test_an_untouched_form_gives_back_its_settings(qtbot, settings):
    form = SettingsForm(settings)
    qtbot.addWidget(form)
    assert form.value() == settings


def test_a_form_shows_the_settings_it_is_given(qtbot):
    form = SettingsForm(TrainSettings())
    qtbot.addWidget(form)
    wanted = TrainSettings(lr=3e-6, epochs=2, augment=False, model=ModelSettings(prototypes_per_class=7))
    form.set_value(wanted)
    assert form.value() == wanted


def test_help_and_limits_come_from_the_fields(qtbot):
    form = SettingsForm(TrainSettings(), only=("epochs",))
    qtbot.addWidget(form)
    spin = form._rows["epochs"]
    assert (spin.min, spin.max) == (1, 1000)
    assert spin.native.toolTip() == "Passes over the training tiles. (epochs; ≥ 1, ≤ 1000)"


def test_a_choice_is_a_list_of_its_values(qtbot):
    form = SettingsForm(TrainSettings(), only=("negatives",))
    qtbot.addWidget(form)
    choice = form.findChild(QComboBox)
    assert [choice.itemText(i) for i in range(choice.count())] == ["other-classes", "all"]
    choice.setCurrentText("all")
    assert form.value() == TrainSettings(negatives="all")


def test_predict_offers_the_backends(qtbot):
    form = SettingsForm(PredictSettings(), only=("backend",))
    qtbot.addWidget(form)
    choice = form.findChild(QComboBox)
    assert [choice.itemText(i) for i in range(choice.count())] == ["auto", "torch", "onnx"]
    assert "extra onnx" in choice.toolTip()


def test_a_number_out_of_its_limits_is_named(qtbot):
    form = SettingsForm(TrainSettings(), only=("lr",))
    qtbot.addWidget(form)
    form._rows["lr"].value = "7"
    with pytest.raises(SettingsError, match="setting lr=7"):
        form.value()


def test_rows_left_out_keep_their_values(qtbot):
    form = SettingsForm(TrainSettings(epochs=5), only=("augment",))
    qtbot.addWidget(form)
    form.findChild(QCheckBox).setChecked(False)
    assert form.value() == TrainSettings(epochs=5, augment=False)


def test_the_search_shows_what_is_named_or_explained_so(qtbot):
    form = SettingsForm(TrainSettings())
    qtbot.addWidget(form)
    form.show()
    form.search.setText("prototypes_per class")
    assert [name for name, row in form._rows.items() if row.visible] == ["model.prototypes_per_class"]
    form.search.clear()
    assert all(row.visible for row in form._rows.values())


def test_changes_are_marked_counted_and_reset(qtbot):
    form = SettingsForm(TrainSettings(epochs=5), only=("epochs", "augment", "lr"))
    qtbot.addWidget(form)
    form.show()
    assert not form.reset.isVisible()
    form._rows["epochs"].value = 6
    form._rows["augment"].value = False
    assert form.reset.text() == "Reset 2 changed"
    assert {name: row.label for name, row in form._rows.items()} == {
        "epochs": "• epochs",
        "augment": "• augment",
        "lr": "lr",
    }
    form.reset.click()
    assert form.value() == TrainSettings(epochs=5)
    assert not form.reset.isVisible()


def test_a_hidden_row_stays_hidden_in_a_search(qtbot):
    form = SettingsForm(TrainSettings())
    qtbot.addWidget(form)
    form.show()
    form.show_rows(["tile"], False)
    form.search.setText("tile")
    assert "tile" not in [name for name, row in form._rows.items() if row.visible]
