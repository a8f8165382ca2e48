from __future__ import annotations

import threading

import numpy as np
import pytest

from napari_lpd.models.crf.threads import Crew, Shift, compiled, take, take_next


def test_each_gives_the_results_in_the_order_of_the_items():
    assert Crew(3).each(lambda a, b: a - b, range(50), range(0, 100, 2)) == [-i for i in range(50)]
    assert Crew(3).each(abs, []) == []


def test_an_error_of_any_thread_reaches_the_caller():
    meeting = threading.Barrier(2)

    def fail(item: int) -> None:
        meeting.wait()  # both threads have an item
        if threading.current_thread() is not threading.main_thread():
            raise ValueError(item)

    with pytest.raises(ValueError, match="[01]"):
        Crew(2).each(fail, range(2))


@compiled
def log_stages(shift, log, early):
    """Note in `log` what is taken of which stage, and in `early` whether that was before the last stage was done."""
    for stage in range(len(log)):
        item = take(shift, stage)
        while item >= 0:
            log[stage, item] += 1
            if stage > 0 and log[stage - 1].min() == 0:
                early[0] = 1
            item = take_next(shift, stage)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("items", [1, 3, 40])
def test_every_item_is_taken_once_and_stages_wait_for_each_other(threads, items):
    log, early = np.zeros((2000, items), np.int64), np.zeros(1, np.int64)
    Crew(threads).together(log_stages, [items] * len(log), log, early)
    assert (log == 1).all()
    assert early == 0


def shifts(counts: list[int], threads: int) -> list[Shift]:
    """What so many threads are given."""
    seen: list[Shift] = []
    Crew(threads).together(lambda shift: seen.append(shift), counts)
    return sorted(seen, key=lambda shift: shift.thread)


def test_a_thread_takes_its_own_part_then_what_others_have_left():
    first, second = shifts([5], 2)
    assert [take(second, 0), take(first, 0)] == [2, 0]
    assert [take_next(second, 0) for _ in range(5)] == [3, 4, 1, -1, -1]
    assert take_next(first, 0) == -1


def test_threads_that_take_from_the_same_part_never_take_the_same_item():
    (shift,) = shifts([1_000_000], 1)
    log, early = np.zeros((1, 1_000_000), np.int64), np.zeros(1, np.int64)
    Crew(2).each(log_stages, [shift, shift], [log, log], [early, early])
    assert (log == 1).all()


def test_a_thread_that_waits_long_goes_on_when_the_stage_is_done():
    first, second = shifts([1, 1], 2)
    assert take(first, 0) == 0
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.append(take(second, 1)))
    waiting.start()
    for _ in range(20):  # long enough for it to pause
        waiting.join(0.01)
    assert not found
    assert take_next(first, 0) == -1
    waiting.join()
    assert found == [0]
