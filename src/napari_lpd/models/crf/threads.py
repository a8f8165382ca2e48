"""Threads that work on one image together.

They are Python's own: numba's must not be started from several threads at once, as ours are by the widgets and the
writer of predictions. Work is shared in two ways, and in both nobody waits for a thread that has not taken an item:

- `Crew.each` calls a function for every item; waking a thread and waiting for it costs some 50 µs.
- `Crew.together` calls a compiled function in every thread, whose loops share their items in stages by `take`. A stage
  begins when the one before it is done; who waits for that looks again and again, and so goes on within a microsecond.
  A thread takes the same items in every stage, whose data its core's cache still holds, then what others have left.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit, objmode, types
from numba.core import cgutils
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from numpy.typing import NDArray

COUNT, LEFT, NEXT = 0, 1, 2  # columns of `Shift.stages`
LOOKS = 20_000  # of a thread that waits, before it lets others have its core: about 0.2 ms
PAUSE = 1e-4  # seconds
_OTHERS = ThreadPoolExecutor(64, "napari-lpd-crf")  # starting and stopping one takes 0.6 ms


def compiled(function: Any, nogil: bool = True) -> Any:
    """Compile with numba, without the GIL; keep the machine code on disk, where there is a place for it."""
    options = {"nogil": nogil, "fastmath": True, "error_model": "numpy"}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError as error:  # neither beside the source nor in the user's cache folder
        logging.getLogger(__name__).warning("%s: compiled anew at every start (%s)", function.__name__, error)
        return njit(function, **options)


class Shift(NamedTuple):
    """What a thread needs to share the work of a compiled function.

    Attributes:
        stages: (stages, 2 + threads) of each stage, the number of its items, how many of them are not yet done, and the
            next one in each thread's part of them. All threads see the same.
        thread: Which thread it is.
    """

    stages: NDArray[np.int64]
    thread: int


class Crew(NamedTuple):
    """So many threads: the one that calls, and others, which are started when they are needed first, and kept."""

    threads: int = 1

    def each(self, function: Callable[..., Any], *columns: Iterable[Any]) -> list[Any]:
        """Call a function for every item, as `map` does; whoever is free takes the next one."""
        items = list(zip(*columns, strict=True))
        results = [None] * len(items)
        waiting = iter(range(len(items)))

        def work() -> None:
            for i in waiting:
                results[i] = function(*items[i])

        others = [_OTHERS.submit(work) for _ in range(min(self.threads, len(items)) - 1)]
        work()
        for other in others:
            if not other.cancel():
                other.result()
        return results

    def together(self, function: Callable[..., None], counts: Sequence[int], *given: Any) -> None:
        """Call a compiled function in every thread.

        Args:
            function: Goes through all of its stages in turn.
            counts: How many items each stage has, at least one.
            *given: What the function takes after its `Shift`.
        """
        items, threads = np.array(counts)[:, None], np.arange(self.threads)
        stages = np.hstack([items, items, items * threads // self.threads])
        self.each(lambda thread: function(Shift(stages, thread), *given), range(self.threads))


@intrinsic
def _add(_: Any, stages: Any, _stage: Any, _column: Any, _amount: Any) -> Any:
    """Add an amount to a number in `Shift.stages`, whatever other threads do meanwhile; return what it was before."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, given[0])
        place = cgutils.get_item_pointer(context, builder, signature.args[0], array, given[1:3])
        return builder.atomic_rmw("add", place, given[3], "seq_cst")

    return types.int64(stages, types.intp, types.intp, types.int64), generate


@compiled
def take(shift: Shift, stage: int) -> int:
    """Take an item of a stage as soon as the stage before it is done; -1: all have been taken."""
    stages = shift.stages
    looks = 0
    while stage > 0 and _add(stages, stage - 1, LEFT, 0) > 0:
        looks += 1
        if looks > LOOKS:
            _pause()
    threads = stages.shape[1] - NEXT
    for i in range(threads):
        whose = (shift.thread + i) % threads
        item: int = _add(stages, stage, NEXT + whose, 1)
        if item < stages[stage, COUNT] * (whose + 1) // threads:
            return item
    return -1


@compiled
def take_next(shift: Shift, stage: int) -> int:
    """Say that the item taken before is done, and take another."""
    _add(shift.stages, stage, LEFT, -1)
    item: int = take(shift, stage)
    return item


def _pause() -> None:
    with objmode():
        time.sleep(PAUSE)


_pause = compiled(_pause, nogil=False)  # objmode sees to the GIL itself
