"""Runs the store's retention in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway.errors import RealtimeError
from gateway.stores.base import Store

SWEEP_S = 60.0  # between sweeps: data may outlive its retention by so long
STEP_S = 0.01  # between steps of one sweep, so that appends are served first

_log = logging.getLogger("realtime.sweeper")

Sleep = Callable[[float], Awaitable[None]]


@asynccontextmanager
async def run_retention(store: Store, sleep: Sleep = asyncio.sleep) -> AsyncIterator[None]:
    """Sweep a store while the block runs.

    Args:
        store: The open store.
        sleep: Waits for a number of seconds.
    """
    task = asyncio.create_task(_sweep(store, sleep), name="sweeper")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _sweep(store: Store, sleep: Sleep) -> None:
    while True:
        try:
            swept = await store.sweep()
            if swept.records or swept.runs:
                _log.info("swept %d records and %d runs", swept.records, swept.runs)
            has_more = swept.has_more
        except RealtimeError as error:
            _log.warning("the store could not be swept: %s; trying again", error)
            has_more = False
        except Exception:  # keep sweeping after any error: otherwise the disk fills up unnoticed
            _log.exception("the sweeper failed")
            has_more = False
        await sleep(STEP_S if has_more else SWEEP_S)
