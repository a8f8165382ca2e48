"""Stages of work that overlap: threads with bounded queues between them, and results in the order of the work.

On a CPU several threads score a tile each, with one thread of torch apiece, rather than all threads one tile: torch's
own threads wait for one another after every layer, spinning, and are many times as slow where a core is shared with
reading and writing.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

TORCH_THREADS = torch.get_num_threads()  # of the process, before any run sets them for itself
SCORERS = 2  # tiles, or batches on a GPU, that are scored side by side; each holds a network's activations
GPU_READERS = 4  # a GPU wants more tiles than one thread decodes
Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerPools(NamedTuple):
    """The threads of a run, and how many of them there are.

    Attributes:
        readers: Read and decode.
        scorers: Run the network.
        writer: One thread; puts blocks together and writes them.
        reading: Threads in `readers`.
        scoring: Threads in `scorers`.
    """

    readers: ThreadPoolExecutor
    scorers: ThreadPoolExecutor
    writer: ThreadPoolExecutor
    reading: int
    scoring: int


@contextmanager
def worker_pools(device: torch.device, threads: int = TORCH_THREADS) -> Iterator[WorkerPools]:
    """Threads for one run: so many for the model, one for reading and one for writing.

    On a GPU every scorer has a CUDA stream, so that one's transfers run beside the other's arithmetic. When the block
    is left, what was begun is waited for, what was not is dropped, and torch has its number of threads again.
    """
    on_cpu = device.type == "cpu"
    scoring = min(SCORERS, threads) if on_cpu or device.type == "cuda" else 1
    reading = min(GPU_READERS, os.cpu_count() or 1) if device.type == "cuda" else 1
    pools = [
        ThreadPoolExecutor(1, "napari-lpd-write", torch.set_num_threads, (1,)),
        ThreadPoolExecutor(reading, "napari-lpd-read"),
        ThreadPoolExecutor(scoring, "napari-lpd-score", _own_stream, (device, threads // scoring if on_cpu else 1)),
    ]
    writer, readers, scorers = pools
    try:
        torch.set_num_threads(1)  # here: blending; before the scorers, as some of torch's limits hold for all threads
        writer.submit(torch.get_num_threads).result()
        yield WorkerPools(readers, scorers, writer, reading, scoring)
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in pools:
            pool.shutdown()
        torch.set_num_threads(TORCH_THREADS)  # not what it was before: another run may have set that for itself


def _own_stream(device: torch.device, threads: int) -> None:
    """Make a scorer's thread ready."""
    torch.set_num_threads(threads)
    if device.type == "cuda":
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.default_stream(device))  # where the weights went to the GPU
        torch.cuda.set_stream(stream)


def map_in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Compute `work(item)` for every item in `pool`, and yield the results in the order of `items`.

    An item is taken only when its work can begin soon: at most `ahead` results and pieces of work wait besides the one
    that is due.
    """
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


# From <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MAX_THRESHOLD = 2**25  # glibc refuses more
NEVER = 2**31 - 1
DEFAULT_THRESHOLD = 2**17


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep glibc from giving freed memory back to the system inside this block; afterwards it gets all of it.

    A network's activations are so large that glibc maps new pages for each and drops them again, layer after layer:
    on two cores a third of a prediction's time went into that. Elsewhere than on glibc nothing happens.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(M_MMAP_THRESHOLD, MAX_THRESHOLD)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(M_TRIM_THRESHOLD, DEFAULT_THRESHOLD)
        libc.malloc_trim(0)
