"""napari's own dialog for saving, with every filter that it offers."""

from __future__ import annotations

import pytest
import tifffile

from napari_lpd.gui.layers.results import show_prediction
from napari_lpd.gui.predict.widget import PredictWidget


@pytest.mark.parametrize("mpp", [2.0, 0.125])
def test_a_mask_is_saved_with_any_name_and_filter(
    viewer, tiny_layer, make_prediction, use_widget, tmp_path, monkeypatch, mpp
):
    use_widget(PredictWidget)
    mask = show_prediction(viewer, make_prediction(box=None, mpp=mpp), tiny_layer)
    assert mask.multiscale == (mpp < 1)
    viewer.layers.selection = {mask}
    answers, offered, folder = [], [], tmp_path / "saved"
    folder.mkdir()

    def answer(_dialog, _parent, _title, start, filter, **_):
        offered[:] = filter.split(";;")
        number, name = answers.pop()
        return str(folder / (name or start.rpartition("/")[2])), offered[number]

    monkeypatch.setattr("napari._qt.qt_viewer.QFileDialog.getSaveFileName", answer)
    for number in range(2):
        for name in ("", "plain", "a.tif", "b.ome.tif", "c.tiff"):
            answers.append((number, name and f"{number}{name}"))
            viewer.window._qt_viewer._save_layers_dialog(selected=True)
            (saved,) = folder.iterdir()
            assert saved.name.endswith((".ome.tif", ".ome.tiff"))
            with tifffile.TiffFile(saved) as tiff:
                assert tiff.series[0].shape == mask.data.shape
                assert "dark" in tiff.ome_metadata
            saved.unlink()
    assert len(offered) >= 2
