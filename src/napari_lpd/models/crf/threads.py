"""Threads that call a compiled function for slices of its items at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SLICES = 4  # per thread, so that threads end at about the same time though slices differ in work


class SlicePool(ThreadPoolExecutor):
    """The calling thread and `threads` - 1 others, which end with the `with` block.

    They are Python's own: numba's parallel loops end the process when several Python threads run them at once (with its
    layer workqueue) or when a forked process does (with OpenMP), and the layer is one for all plugins of a process.
    """

    def __init__(self, threads: int = 1) -> None:
        super().__init__(max(threads - 1, 1), "napari-lpd-crf")
        self.threads = threads

    def map_slices(self, function: Callable[..., None], count: int, *arguments: Any, smallest: int = 1) -> None:
        """Call function(begin, end, *arguments) for slices of `count` items; a free thread works on the next one.

        To wake a thread and wait for it costs up to 0.1 ms: no slice has fewer than `smallest` items.
        """
        slices = max(1, min(count // smallest, SLICES * self.threads if self.threads > 1 else 1))
        cuts = iter([(count * i // slices, count * (i + 1) // slices) for i in range(slices)])

        def work() -> None:
            for begin, end in cuts:
                function(begin, end, *arguments)

        others = [self.submit(work) for _ in range(min(self.threads, slices) - 1)]
        work()
        for other in others:
            if not other.cancel():
                other.result()
