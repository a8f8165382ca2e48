from __future__ import annotations

import pytest
from qtpy.QtWidgets import QCheckBox, QComboBox, QLineEdit, QSpinBox

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
    spin = form.findChild(QSpinBox)
    assert (spin.minimum(), spin.maximum()) == (1, 1000)
    assert spin.toolTip() == "Passes over the training tiles. (≥ 1, ≤ 1000)"


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
    form.findChild(QLineEdit).setText("7")
    with pytest.raises(SettingsError, match="setting lr=7"):
        form.value()


def test_rows_left_out_keep_their_values(qtbot):
    form = SettingsForm(TrainSettings(epochs=5), only=("augment",))
    qtbot.addWidget(form)
    form.findChild(QCheckBox).setChecked(False)
    assert form.value() == TrainSettings(epochs=5, augment=False)
