"""Slides sent to a dask cluster of two processes."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path

import pytest

from napari_lpd import samples
from napari_lpd.core.errors import SettingsError
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.prediction.batch import SlideTask, attempt, on_cluster, summary_line

SMALL = PredictSettings(tile=128, overlap=32, block=64, threads=1)


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_model_that_is_gone_is_said_in_the_row(tiny_tiff, tmp_path):
    row = attempt(SlideTask(tiny_tiff, tmp_path / "gone.safetensors", tmp_path / "out", SMALL))
    assert "gone.safetensors" in row["error"]
    assert summary_line(row).startswith("FAILED  ")


def test_a_cluster_that_does_not_answer_is_said(tiny_tiff, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("napari_lpd.prediction.batch.CONNECT_S", 1)
    task = SlideTask(tiny_tiff, samples.model_path(), tmp_path / "out", SMALL)
    with pytest.raises(SettingsError, match="no dask scheduler answers there"):
        list(on_cluster([task], "tcp://127.0.0.1:9"))


@pytest.mark.slow
def test_two_processes_share_slides_and_give_what_one_gives(tiny_tiff, tmp_path):
    distributed = pytest.importorskip("distributed")
    slides = []
    for name in ("a", "b", "c", "d"):
        slides.append(tmp_path / f"{name}.tiff")
        slides[-1].write_bytes(tiny_tiff.read_bytes())
    (tmp_path / "broken.svs").write_bytes(b"II*\0")
    tasks = [
        SlideTask(path, samples.model_path(), tmp_path / "cluster", SMALL)
        for path in [*slides, tmp_path / "broken.svs"]
    ]
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        rows = {Path(row["slide"]).name: row for row in on_cluster(tasks, cluster.scheduler_address)}
        with distributed.Client(cluster) as client:
            models = client.run(lambda: import_module("napari_lpd.models.checkpoint")._load_cached.cache_info().misses)
    assert "broken.svs" in rows.pop("broken.svs")["error"]
    assert sorted(rows) == ["a.tiff", "b.tiff", "c.tiff", "d.tiff"]
    assert list(models.values()) == [1, 1]
    here = attempt(SlideTask(slides[0], samples.model_path(), tmp_path / "here", SMALL))
    assert rows["a.tiff"]["mm²"] == here["mm²"]
    assert files(tmp_path / "cluster" / "a.zarr") == files(tmp_path / "here" / "a.zarr")
