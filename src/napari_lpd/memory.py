"""Memory that large tensors free is kept for the next ones, for as long as a job runs."""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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
