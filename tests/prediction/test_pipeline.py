from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from napari_lpd.prediction.pipeline import TORCH_THREADS, map_in_order, worker_pools

CPU = torch.device("cpu")


def test_results_come_in_order_and_work_is_not_piled_up():
    taken, lead = 0, []

    def items():
        nonlocal taken
        while taken < 20:
            taken += 1
            yield taken

    with ThreadPoolExecutor(3) as pool:
        for result in map_in_order(pool, lambda n: n * n, items(), 3):
            lead.append(taken)
            assert result == len(lead) ** 2
    assert len(lead) == 20
    assert max(ahead - due for due, ahead in enumerate(lead, start=1)) == 3


def test_two_are_at_work_at_once():
    both = threading.Barrier(2, timeout=20)

    def work(number):
        if number:
            both.wait()
        return number

    with ThreadPoolExecutor(2) as pool:
        assert list(map_in_order(pool, work, range(5), 2)) == [0, 1, 2, 3, 4]


def test_what_goes_wrong_in_a_thread_is_raised():
    with ThreadPoolExecutor(1) as pool, pytest.raises(ZeroDivisionError):
        list(map_in_order(pool, lambda n: 1 // (2 - n), range(5), 1))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_of_torch_are_shared_out_and_given_back(threads):
    torch.set_num_threads(3)  # as another run may have done
    with worker_pools(CPU, threads) as at:
        each = at.scorers.submit(torch.get_num_threads).result()
        assert at.scoring * each <= threads
        assert at.writer.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == TORCH_THREADS


def test_work_that_has_not_begun_is_dropped_when_the_run_is_left():
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        go_on.wait(20)

    with pytest.raises(KeyboardInterrupt), worker_pools(CPU) as at:
        first = at.writer.submit(work)
        second = at.writer.submit(work)
        begun.wait(20)
        threading.Timer(0.1, go_on.set).start()
        raise KeyboardInterrupt
    assert first.done() and not first.cancelled()
    assert second.cancelled()
