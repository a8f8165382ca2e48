"""Many slides: what goes wrong with one is said in its row."""

from __future__ import annotations

from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.prediction.batch import SlideTask, attempt, summary_line

SMALL = PredictSettings(tile=128, overlap=32, block=64, threads=1)


def test_a_model_that_is_gone_is_said_in_the_row(tiny_tiff, tmp_path):
    row = attempt(SlideTask(tiny_tiff, tmp_path / "gone.safetensors", tmp_path / "out", SMALL))
    assert "gone.safetensors" in row["error"]
    assert summary_line(row).startswith("FAILED ")
