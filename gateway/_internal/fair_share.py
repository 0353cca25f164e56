"""Limit expensive steps per iteration of the event loop, so that live traffic is served between.

A thousand readers that catch up could each encode and send a frame of 64 KiB in one iteration, and
no other connection would be served for half a second.
"""

from __future__ import annotations

import asyncio
from collections import deque

PER_TICK = 4  # frames of up to 64 KiB: 1 to 3 ms
MAX_CONCURRENT = 16  # waiters of one shared result, which resume in the same iteration


class LoopQuota:
    """A quota of steps per iteration (tick) of the event loop, granted in order of request.

    Args:
        per_tick: Steps granted per iteration.

    Attributes:
        limiter: Bounds the waiters of one shared result: all of them resume in one iteration.
    """

    def __init__(self, per_tick: int = PER_TICK) -> None:
        self._each_pass = self._left = per_tick
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_scheduled = False
        self.limiter = asyncio.Semaphore(MAX_CONCURRENT)

    async def acquire(self) -> None:
        """Wait until a step is granted; within the quota of this iteration there is no wait."""
        loop = asyncio.get_running_loop()
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._next_tick)
        if self._left > 0:
            self._left -= 1
            return
        grant: asyncio.Future[None] = loop.create_future()
        self._waiting.append(grant)
        await grant

    def _next_tick(self) -> None:
        self._left = self._each_pass
        while self._left > 0 and self._waiting:
            grant = self._waiting.popleft()
            if not grant.done():  # its waiter may be canceled
                grant.set_result(None)
                self._left -= 1
        # Tasks that were granted a step resume in the next iteration, together with new ones.
        self._is_scheduled = self._left < self._each_pass
        if self._is_scheduled:
            asyncio.get_running_loop().call_soon(self._next_tick)
