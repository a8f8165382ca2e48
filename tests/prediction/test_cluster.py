"""Slides sent to a dask cluster: rows for all of them, whatever happens to the cluster."""

from __future__ import annotations

import hashlib
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

import pytest

from napari_lpd import samples
from napari_lpd.cli.main import main
from napari_lpd.core.settings.prediction import PredictSettings
from napari_lpd.prediction import cluster
from napari_lpd.prediction.batch import SlideTask, attempt
from napari_lpd.prediction.cluster import on_cluster

distributed = pytest.importorskip("distributed")
SMALL = PredictSettings(tile=128, overlap=32, block=64, threads=1)


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def tasks(tiny_tiff, tmp_path):
    others = [tiny_tiff.with_name(f"{name}.tiff") for name in "ab"]
    return [SlideTask(path, samples.model_path(), tmp_path / "out", SMALL) for path in others]


@pytest.fixture
def silent():
    """The address of something that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def scheduler():
    """A scheduler without workers, as a process: (address, process)."""
    program = (
        "import asyncio\nfrom distributed import Scheduler\n"
        "async def serve():\n"
        "    async with Scheduler(host='127.0.0.1', port=0, dashboard=False) as scheduler:\n"
        "        print(scheduler.address, flush=True)\n        await scheduler.finished()\n"
        "asyncio.run(serve())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip(), process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def _impatient(monkeypatch):
    for name, seconds in (("CONNECT_S", 2), ("LOST_S", 2), ("ANSWER_S", 1)):
        monkeypatch.setattr(cluster, name, seconds)


def failures(tasks, address, words):
    began = time.monotonic()
    rows = list(on_cluster(tasks, address))
    assert time.monotonic() - began < 15
    assert [Path(row["slide"]).name for row in rows] == ["a.tiff", "b.tiff"]
    assert all(words in row["error"] and row["error"].startswith(Path(row["slide"]).name) for row in rows)
    assert all(len(row["error"].splitlines()) == 1 for row in rows)


def test_what_the_limits_add_up_to_is_half_a_minute():
    assert cluster.CONNECT_S + cluster.ANSWER_S < 30
    assert cluster.LOST_S + 2 * cluster.ANSWER_S + cluster.POLL_S <= 31


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "no address", "tcp://no.such.host.invalid:8786"])
def test_a_cluster_that_does_not_answer_has_a_row_per_slide(tasks, address):
    failures(tasks, address, "no dask scheduler answers at")


@pytest.mark.usefixtures("_impatient")
def test_a_scheduler_that_takes_connections_and_never_answers_has_a_row_per_slide(tasks, silent):
    failures(tasks, silent, "no dask scheduler answers at")


@pytest.mark.usefixtures("_impatient")
def test_a_cluster_without_workers_has_a_row_per_slide(tasks, scheduler):
    failures(tasks, scheduler[0], "has no workers")


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_scheduler_that_dies_or_hangs_has_a_row_per_slide(tasks, scheduler, number, monkeypatch):
    address, process = scheduler
    monkeypatch.setattr(cluster, "LOST_S", 4)
    timer = threading.Timer(2, process.send_signal, [number])
    timer.start()
    failures(tasks, address, "the dask cluster at")
    timer.join()


@pytest.mark.usefixtures("_impatient")
def test_the_command_ends_with_a_table_and_one_line(tiny_tiff, tmp_path, capsys, silent):
    other = tmp_path / "b.tiff"
    other.write_bytes(tiny_tiff.read_bytes())
    out = tmp_path / "out"
    assert main(["predict", str(tiny_tiff), str(other), "--out", str(out), "--scheduler", silent]) == 2
    assert "2 of 2 slides failed" in capsys.readouterr().err.splitlines()[-1]
    assert len((out / "summary.csv").read_text(encoding="utf-8-sig").splitlines()) == 3


@pytest.mark.slow
def test_two_processes_share_slides_and_give_what_one_gives(tiny_tiff, tmp_path):
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
