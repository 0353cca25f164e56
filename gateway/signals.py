"""An event for one waiter. asyncio's own keeps a queue of waiters: 700 bytes in each connection."""

from __future__ import annotations

import asyncio


class Signal:
    """Set it as often as you like; one task waits, and finds it unset again."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Let the waiter go on, now or when it comes."""
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Return when it has been set since the last time."""
        if not self._is_set:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._is_set = False
