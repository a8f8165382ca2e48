from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from napari_lpd.models.crf.threads import SlicePool


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("count", "smallest"), [(1, 1), (3, 1), (40, 1), (40, 7), (40, 100)])
def test_slices_cover_every_item_once_and_none_is_too_small(threads, count, smallest):
    seen = []
    with SlicePool(threads) as pool:
        pool.map_slices(lambda *given: seen.append(given), count, "argument", smallest=smallest)
    assert sorted(item for begin, end, _ in seen for item in range(begin, end)) == list(range(count))
    assert all(end - begin >= min(smallest, count) and given == "argument" for begin, end, given in seen)
    if threads == 1:
        assert len(seen) == 1


def test_two_threads_work_at_the_same_time():
    meeting = threading.Barrier(2)
    with SlicePool(2) as pool:
        pool.map_slices(lambda begin, end: meeting.wait(60), 2)


def test_an_error_of_any_thread_reaches_the_caller():
    meeting = threading.Barrier(2)

    def fail(begin: int, end: int) -> None:
        meeting.wait(60)  # both threads have a slice
        if threading.current_thread() is not threading.main_thread():
            raise ValueError(begin)

    with SlicePool(2) as pool, pytest.raises(ValueError, match="[01]"):
        pool.map_slices(fail, 2)


def test_nobody_waits_for_a_thread_that_has_not_begun():
    released, seen = threading.Event(), []
    with SlicePool(2) as pool:
        pool.submit(released.wait, 60)
        pool.map_slices(lambda begin, end: seen.append(threading.current_thread()), 100)
        assert not released.is_set()
        released.set()
    assert set(seen) == {threading.current_thread()}


# Prints the share of the CRF's processor time that went by unseen by a thread that looks at it again and again.
LOOK_WHILE_IT_COMPUTES = """
import threading, time
import numpy as np
from napari_lpd.core.settings.prediction import CrfSettings
from napari_lpd.models.crf import dense_crf as module

image, probability = np.zeros((1024, 1024, 3), np.uint8), np.full((2, 1024, 1024), 0.5, np.float32)
module.dense_crf(image[:16, :16], probability[:, :16, :16], CrfSettings())  # compiles
module.PIECE = 1024  # few and long calls of what is compiled
finished, seen = threading.Event(), threading.Event()

def compute():
    module.dense_crf(image, probability, CrfSettings())
    finished.set()
    seen.wait()

thread = threading.Thread(target=compute)
thread.start()
clock = time.pthread_getcpuclockid(thread.ident)
before, missed = 0.0, 0.0
while not finished.is_set():
    now = time.clock_gettime(clock)
    if now - before > 0.01:
        missed += now - before
    before = now
seen.set()
print(missed / before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="needs a clock of other threads' time")
def test_python_code_runs_while_it_computes(tmp_path):
    """In a process that compiles anew: a cache on disk would hide that the source no longer releases the GIL."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", LOOK_WHILE_IT_COMPUTES]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert list(tmp_path.rglob("*.nbc"))
    assert float(found.stdout) < 0.4
