"""Has the store forget, now and then, what its retention says may go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway.errors import RealtimeError
from gateway.stores.base import Store

SWEEP_S = 60.0  # how much longer than asked something may be kept
STEP_S = 0.01  # between two steps: what is appended goes first

_log = logging.getLogger("realtime.sweeper")

Sleep = Callable[[float], Awaitable[None]]


@asynccontextmanager
async def sweeping(store: Store, sleep: Sleep = asyncio.sleep) -> AsyncIterator[None]:
    """Sweep a store while the block runs.

    Args:
        store: Open.
        sleep: Waits so many seconds.
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
        except Exception:  # the sweeper outlives its faults: else a disk fills up in silence
            _log.exception("the sweeper failed")
            has_more = False
        await sleep(STEP_S if has_more else SWEEP_S)
