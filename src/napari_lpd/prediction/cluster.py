"""Slides sent to a dask cluster; whatever happens to it, every slide has a row."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from napari_lpd.core.errors import SettingsError, one_line
from napari_lpd.prediction.batch import Row, SlideTask, attempt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONNECT_S = 15.0  # until a scheduler must have answered
LOST_S = 20.0  # without a word from the scheduler, or without workers, until it is given up
ANSWER_S = 5.0  # of a single question
POLL_S = 0.2
GO_ON = "start a cluster, and run the same command again: what is done is kept"


def on_cluster(tasks: Sequence[SlideTask], address: str) -> Iterator[Row]:
    """Send slides to a running dask.distributed cluster; rows come back in the order in which they are done.

    Files are opened by the workers: their paths must be valid there. A worker keeps its model loaded. A scheduler that
    does not answer, dies or has no workers fails all slides that are not done, within half a minute.

    Raises:
        SettingsError: distributed is not installed.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise SettingsError("--scheduler needs dask's distributed: pip install 'napari-lpd[cluster]'") from error
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the rows say it, in one line each
    try:
        asyncio.run(_greet(address))
        client = Client(address, timeout=CONNECT_S)
    except (OSError, ValueError, RuntimeError) as error:
        yield from (_failed(task, f"no dask scheduler answers at {address} ({one_line(error, 80)})") for task in tasks)
        return
    try:
        yield from _rows(client, tasks, address)
    finally:
        client.close(timeout=ANSWER_S)


async def _greet(address: str) -> None:
    """Ask a scheduler who it is; a client would wait for ever for one that takes connections and says nothing."""
    from distributed.core import rpc

    async with asyncio.timeout(CONNECT_S), rpc(address, timeout=CONNECT_S) as scheduler:
        await scheduler.identity()


def _rows(client: Any, tasks: Sequence[SlideTask], address: str) -> Iterator[Row]:
    """Submit the slides and yield their rows, until all are done or the cluster is given up."""
    waiting = {client.submit(attempt, task, pure=False): task for task in tasks}
    well = time.monotonic()
    while waiting:
        done = [future for future in waiting if future.done()]
        for future in done:
            yield _row(future, waiting.pop(future), address)
        trouble = "" if done else _trouble(client)
        now = time.monotonic()
        if not trouble:
            well = now
        elif now - well > LOST_S or client.status == "closed":
            yield from (_failed(task, f"the dask cluster at {address} {trouble}") for task in waiting.values())
            return
        time.sleep(0 if done else POLL_S)


def _row(future: Any, task: SlideTask, address: str) -> Row:
    """Return the row of a slide that is done, or was lost with its worker or the scheduler."""
    try:
        row: Row = future.result(timeout=ANSWER_S)
    except Exception as error:  # noqa: BLE001  a lost worker, a cancelled task, what cannot be unpickled
        return _failed(task, f"was lost on the dask cluster at {address} ({one_line(error, 120)})")
    return row


def _trouble(client: Any) -> str:
    """Say what is wrong with the cluster just now; "" where nothing is."""
    if client.status != "running":
        return "has lost its scheduler"
    try:
        known = client.sync(client.scheduler.identity, callback_timeout=ANSWER_S)
    except (OSError, RuntimeError, TypeError, AttributeError):  # a connection that broke, or that is just replaced
        return "has a scheduler that does not answer"
    return "" if known["workers"] else "has no workers"


def _failed(task: SlideTask, why: str) -> Row:
    return {"slide": str(task.slide), "error": one_line(f"{task.slide.name}: {why}; {GO_ON}")}
