from __future__ import annotations

import threading

import pytest

from napari_lpd.core.errors import SlideError
from napari_lpd.core.jobs import Progress, SlideDone, in_subprocess
from napari_lpd.gui.common import job as _job
from napari_lpd.gui.common.job import JobBar


@pytest.fixture
def bar(qtbot):
    bar = JobBar("Go")
    yield bar
    bar.runner.stop()
    qtbot.waitUntil(lambda: not bar.runner.running)
    bar.deleteLater()


def failing(error):
    yield Progress(0, 2)
    raise error


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA out of memory"), SlideError("x.svs: damaged"), StopIteration(3), KeyboardInterrupt("k")],
)
def test_every_error_reaches_the_gui(bar, qtbot, shown_errors, error):
    bar.start(lambda: failing(error))
    qtbot.waitUntil(lambda: not bar.runner.running)
    assert len(shown_errors) == 1
    assert bar.status.text() == f"⚠ {shown_errors[0]}"
    if not isinstance(error, StopIteration):
        assert str(error) in shown_errors[0]
    assert bar.button.text() == "Go"


def test_an_error_before_the_first_step_reaches_the_gui(bar, qtbot, shown_errors):
    def make_job():
        raise ImportError("no torch")

    bar.start(make_job)
    qtbot.waitUntil(lambda: not bar.runner.running)
    assert len(shown_errors) == 1
    assert shown_errors[0].startswith("unexpected ImportError: no torch; please report it with ")


def test_a_known_error_is_shown_as_it_is_without_its_class(bar, qtbot, shown_errors):
    bar.start(lambda: failing(SlideError("x.svs: damaged")))
    qtbot.waitUntil(lambda: not bar.runner.running)
    assert shown_errors == ["x.svs: damaged"]


def test_progress_and_result_arrive_on_the_gui_thread(bar, qtbot):
    seen = []

    def job():
        for done in range(3):
            yield Progress(done + 1, 3, "tiles")
        return "mask"

    bar.runner.progressed.connect(lambda progress: seen.append((progress.done, threading.current_thread())))
    bar.runner.succeeded.connect(lambda result: seen.append((result, threading.current_thread())))
    bar.start(job)
    qtbot.waitUntil(lambda: not bar.runner.running)
    assert [what for what, _ in seen] == [1, 2, 3, "mask"]
    assert {thread for _, thread in seen} == {threading.main_thread()}


def test_stop_closes_the_job_and_says_so_at_once(bar, qtbot):
    closed = threading.Event()
    go_on = threading.Event()

    def job():
        try:
            while True:
                go_on.wait(10)
                yield Progress(1, 2)
        finally:
            closed.set()

    bar.start(job)
    bar.stop_button.click()
    assert bar.status.text() == "Stopping…"
    go_on.set()
    qtbot.waitUntil(lambda: not bar.runner.running)
    assert closed.is_set()
    assert bar.status.text() == "Stopped."


def test_stop_ends_a_silent_child_within_two_seconds(bar, qtbot, children):
    bar.start(lambda: in_subprocess(["train"]))
    qtbot.waitUntil(lambda: bar.bar.maximum() == 9)
    bar.stop_button.click()
    qtbot.waitUntil(lambda: not bar.runner.running, timeout=2000)
    assert children[0].poll() is not None


def test_closing_the_widget_ends_the_child(qtbot, children):
    bar = JobBar("Go")
    bar.start(lambda: in_subprocess(["train"]))
    qtbot.waitUntil(lambda: bar.bar.maximum() == 9)
    bar.deleteLater()
    qtbot.waitUntil(lambda: children[0].poll() is not None, timeout=2000)


@pytest.mark.parametrize(
    "said", [('{"event": "progress", "done": 9, "total": 9, "message": "tiles"}', '{"event": "slide", "slide": "a"}')]
)
def test_the_next_slide_begins_without_the_progress_of_the_one_before(children, said):
    job = in_subprocess(["predict"])
    steps = [next(job)]
    while not isinstance(steps[-1], SlideDone) and len(steps) < 600:
        steps.append(next(job))
    assert steps[-2:] == [Progress(9, 9, "tiles"), SlideDone(9, 9, "tiles", {}, {"slide": "a"})]
    assert (next(job).done, next(job).total) == (0, 0)
    job.close()


def test_leaving_python_ends_the_child(bar, qtbot, children):
    bar.start(lambda: in_subprocess(["train"]))
    qtbot.waitUntil(lambda: bar.bar.maximum() == 9)
    _job.stop_all()
    assert children[0].poll() is not None


def test_a_second_job_is_refused(bar, qtbot, shown_errors):
    go_on = threading.Event()

    def job():
        go_on.wait(10)
        yield Progress(1, 1)

    bar.start(job)
    with bar.reporting():
        bar.start(job)
    go_on.set()
    assert shown_errors == ["a job is already running: stop it first"]
