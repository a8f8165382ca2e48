"""The time that a job says is left: per phase, and only where it is known."""

from __future__ import annotations

import pytest

from napari_lpd.core import jobs
from napari_lpd.core.jobs import Progress, TimeLeft, duration


@pytest.fixture
def at(monkeypatch):
    """Set the clock to a second, and hand on a step of a job."""
    left = TimeLeft()

    def step(second, done, total):
        monkeypatch.setattr(jobs.time, "monotonic", lambda: second)
        return left(Progress(done, total))

    step.restart = left.restart
    return step


def test_nothing_is_said_before_five_percent_or_ten_seconds(at):
    assert [at(second, done, 1000) for second, done in ((0.0, 1), (4.9, 2), (9.9, 50))] == ["", "", ""]
    assert at(9.9, 51, 1000) == "3 min left"
    assert at(200.0, 51, 2000) == ""
    assert at(210.0, 53, 2000) == "2.7 h left"


def test_what_comes_before_the_first_step_does_not_count(at):
    """A model that loads and a CRF that compiles for half a minute: 35599 s were said for what took seconds."""
    assert at(35.6, 1, 1000) == ""
    assert at(36.6, 51, 1000) == "19 s left"


@pytest.mark.parametrize(("done", "total"), [(1, 40), (1, 100), (50, 400)])
def test_a_phase_begins_where_the_count_falls_or_the_total_changes(at, done, total):
    at(0.0, 1, 100)
    assert at(100.0, 51, 100) == "2 min left"
    assert at(101.0, done, total) == ""
    assert at(102.0, done + total // 10, total) == f"{duration((total - done - total // 10) / (total // 10))} left"


def test_a_message_without_a_count_changes_nothing(at):
    at(0.0, 0, 100)
    assert at(5.0, 0, 0) == ""
    assert at(10.0, 20, 100) == "40 s left"


def test_a_pause_does_not_count(at):
    at(0.0, 0, 100)
    assert at(10.0, 10, 100) == "2 min left"
    at.restart()
    assert at(1000.0, 11, 100) == ""
    assert at(1006.0, 17, 100) == "83 s left"


def test_nothing_is_left_at_the_end(at):
    at(0.0, 1, 2)
    assert at(60.0, 2, 2) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1.5 h"), (36000, "10.0 h")],
)
def test_a_time_has_one_unit(seconds, text):
    assert duration(seconds) == text
