"""One question for many who ask the same: each gets an answer to what was asked after it came."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """Asks for many.

    One who comes while an answer is under way waits for the next, as it may be older than its
    question; those who wait for the next share it.

    Args:
        ask: Gives the answer for a key.
    """

    def __init__(self, ask: Callable[[K], Awaitable[T]]) -> None:
        self._ask = ask
        self._next: dict[K, asyncio.Task[T]] = {}  # not asked yet
        self._asked: dict[K, asyncio.Task[T]] = {}

    async def about(self, key: K) -> T:
        """Return an answer that was asked for after this call; its failure is everyone's.

        Whoever is cancelled takes the answer from nobody else.
        """
        asking = self._next.get(key)
        if asking is None:
            asking = self._next[key] = asyncio.create_task(self._answer(key), name=f"ask {key}")
            asking.add_done_callback(look_at)
        return await asyncio.shield(asking)

    async def _answer(self, key: K) -> T:
        if key in self._asked:  # until that one is answered more may come
            await asyncio.wait([self._asked[key]])
        self._asked[key] = self._next.pop(key)
        try:
            return await self._ask(key)
        finally:
            del self._asked[key]


def look_at(task: asyncio.Task[Any]) -> None:
    """Take note of how a task ended, in case all who waited for it have left."""
    if not task.cancelled():
        task.exception()
