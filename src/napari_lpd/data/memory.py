"""Memory: what large tensors free is kept for the next ones; images that were decoded once are kept where they fit."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

# From <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_THRESHOLD = 2**25  # glibc refuses more
NEVER = 2**31 - 1
DEFAULT_THRESHOLD = 2**17


@contextmanager
def freed_memory_is_kept() -> Iterator[None]:
    """Keep glibc from giving freed memory back to the system inside this block; afterwards it gets all of it.

    A network's activations are so large that glibc maps new pages for each and drops them again, layer after layer:
    on two cores a third of a prediction's time went into that. Elsewhere than on glibc nothing happens.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(M_TRIM_THRESHOLD, DEFAULT_THRESHOLD)
        libc.malloc_trim(0)


CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
SHARE_FOR_IMAGES = 4  # one part in so many of the machine's memory


def room_for_images() -> int:
    """Bytes that decoded images may take: a quarter of the memory, shared by the processes that train together."""
    known = hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 2**32
    if CGROUP_LIMIT.exists() and (limit := CGROUP_LIMIT.read_text("ascii").strip()).isdigit():
        memory = min(memory, int(limit))
    return memory // SHARE_FOR_IMAGES // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class KeptImages:
    """Reads images of one size, and keeps those that fit, in memory that forked worker processes share.

    A process that is not forked, but gets it pickled, reads every image when it is asked for.

    Args:
        read: Image i, (H, W, 3) uint8.
        count: How many images there are.
        room: Bytes that they may take; the first ones are kept.
    """

    def __init__(self, read: Callable[[int], NDArray[np.uint8]], count: int, room: int) -> None:
        self._read = read
        first = read(0)
        self.kept = min(count, room // first.size)
        # One byte per image says whether it is there. The system gives the pages out as they are written.
        block = np.frombuffer(mmap.mmap(-1, max(self.kept * (1 + first.size), 1)), np.uint8)
        self._there = block[: self.kept]
        self._images = block[self.kept : self.kept * (1 + first.size)].reshape(self.kept, *first.shape)

    def __reduce__(self) -> tuple[type[partial[NDArray[np.uint8]]], tuple[Callable[[int], NDArray[np.uint8]]]]:
        return partial, (self._read,)

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """Image `index`; not to be written to."""
        if index >= self.kept:
            return self._read(index)
        if not self._there[index]:
            self._images[index] = self._read(index)
            self._there[index] = 1
        return self._images[index]
