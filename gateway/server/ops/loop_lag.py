"""Event loop lag: how late the loop runs a timer, the first sign of an overloaded process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway._internal.counters import Histogram

EVERY_S = 0.25  # a wake-up costs about 30 µs


@asynccontextmanager
async def measure_loop_lag(
    histogram: Histogram,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    monotonic_s: Callable[[], float] | None = None,
) -> AsyncIterator[None]:
    """Measure the lag while the block runs.

    Args:
        histogram: Gets a value every `EVERY_S` seconds.
        sleep: Waits for a number of seconds.
        monotonic_s: Monotonic time; default: the running loop's.
    """
    now_s = monotonic_s or asyncio.get_running_loop().time

    async def measure() -> None:
        while True:
            due_s = now_s() + EVERY_S
            await sleep(EVERY_S)
            histogram.observe(now_s() - due_s)

    task = asyncio.create_task(measure(), name="event loop lag")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
