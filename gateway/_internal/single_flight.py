"""Single flight: concurrent callers of one key share the next call.

No caller gets a result that was requested before it called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """Coalesces concurrent calls for one key.

    A call that is in flight when a caller arrives may return an older state than the caller has
    to see. The caller therefore waits for the next call, which all later callers share.

    Args:
        call: The function whose calls are shared.
    """

    def __init__(self, call: Callable[[K], Awaitable[T]]) -> None:
        self._call = call
        self._next: dict[K, asyncio.Task[T]] = {}  # not started yet; more callers may join
        self._in_flight: dict[K, asyncio.Task[T]] = {}

    async def fetch(self, key: K) -> T:
        """Return the result of a call that starts after this one; all its callers share a failure.

        Cancelling one caller does not cancel the shared call.
        """
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._run(key), name=f"fetch {key}")
            task.add_done_callback(consume_exception)
        return await asyncio.shield(task)

    async def _run(self, key: K) -> T:
        if key in self._in_flight:  # until it has returned, more callers may join this task
            await asyncio.wait([self._in_flight[key]])
        self._in_flight[key] = self._next.pop(key)
        try:
            return await self._call(key)
        finally:
            del self._in_flight[key]


def consume_exception(task: asyncio.Task[Any]) -> None:
    """Retrieve a task's exception, so that asyncio does not log it when all callers have left."""
    if not task.cancelled():
        task.exception()
