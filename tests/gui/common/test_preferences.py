"""What napari's Preferences hold of the plugin is what its widgets begin with."""

from __future__ import annotations

from pathlib import Path

from napari.settings import get_plugin_settings
from npe2 import PluginManifest

from napari_lpd.gui.train.widget import TrainWidget

MANIFEST = Path(__file__).parents[3] / "napari.yaml"


def test_new_models_go_where_the_preferences_say(plugin_settings, npe2pm, make_napari_viewer, tmp_path):
    npe2pm.register(PluginManifest.from_file(MANIFEST))
    viewer = make_napari_viewer()
    assert TrainWidget(viewer).out.text() == str(tmp_path / "home" / "napari-lpd")
    get_plugin_settings("napari-lpd").models.folder = str(tmp_path / "study")
    assert TrainWidget(viewer).out.text() == str(tmp_path / "study")
