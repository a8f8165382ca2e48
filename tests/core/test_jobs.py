from __future__ import annotations

import os
import threading
import time

import pytest

from napari_lpd.core import jobs
from napari_lpd.core.errors import LpdError
from napari_lpd.core.jobs import Progress, in_subprocess, run


def test_running_a_job_hands_on_progress_and_returns_its_result():
    def job():
        yield Progress(1, 2)
        yield Progress(2, 2)
        return "done"

    seen = []
    assert run(job(), seen.append) == "done"
    assert [progress.done for progress in seen] == [1, 2]


def test_an_error_of_the_child_is_its_one_line():
    with pytest.raises(LpdError, match="no such model file"):
        run(in_subprocess(["predict", __file__, "--model", "absent.safetensors", "--out", "nowhere"]))


def test_a_child_that_dies_says_its_last_words():
    with pytest.raises(LpdError, match=r"unknown option --nonsense"):
        run(in_subprocess(["doctor", "--nonsense"]))


def test_closing_the_job_ends_the_child(monkeypatch):
    children = []
    start = jobs.subprocess.Popen

    def remember(*args, **kwargs):
        children.append(start(*args, **kwargs))
        return children[-1]

    monkeypatch.setattr(jobs.subprocess, "Popen", remember)
    job = in_subprocess(["doctor"])
    next(job)
    job.close()
    assert children[0].poll() is not None
    with pytest.raises(ProcessLookupError):
        os.kill(children[0].pid, 0)


def test_a_paused_child_takes_no_step_and_goes_on(tile_folder, tmp_path):
    paused = threading.Event()
    options = ["--classes", "bcss", "--set", "tile=64", "--set", "max_steps=400", "--set", "threads=1"]
    classes = tmp_path / "classes.json"
    classes.write_text('{"classes": ["dark", "pink"]}')
    options[1] = str(classes)
    data = ["--data", str(tile_folder), "--set", "mpp=1.0", "--set", "model.prototype_dim=32", "--set", "epochs=100"]
    job = in_subprocess(["train", *data, *options, "--out", str(tmp_path / "run")], paused)
    try:
        while next(job).done < 2:
            pass
        paused.set()
        began = time.monotonic()
        while time.monotonic() - began < 1.5:  # the step that is being taken
            at = next(job).done
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            assert next(job).done == at
        paused.clear()
        while next(job).done < at + 2:
            pass
    finally:
        job.close()
