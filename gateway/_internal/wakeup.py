"""An event and a queue for one waiter.

asyncio's own are for many: their queues of waiters cost an idle connection 4 KB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Wakeup:
    """Set it as often as you like; one task waits, and finds it unset again."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether the waiter is there."""
        return self._waiter is not None

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


class Mailbox(Generic[T]):
    """A queue without a bound; one task takes."""

    __slots__ = ("_come", "_signal", "_taken_last")

    def __init__(self) -> None:
        self._come: list[T] = []
        self._taken_last: list[T] = []  # what came before, the oldest last
        self._signal = Wakeup()

    def put_nowait(self, item: T) -> None:
        """Add one."""
        self._come.append(item)
        self._signal.set()

    def put_all(self, items: Iterable[T]) -> None:
        """Add some, the first of them first."""
        self._come.extend(items)
        self._signal.set()

    def empty(self) -> bool:
        """Whether `get` would wait."""
        return not (self._come or self._taken_last)

    async def get(self) -> T:
        """Take the oldest; wait until there is one."""
        while self.empty():
            await self._signal.wait()
        if not self._taken_last:
            self._come, self._taken_last = [], self._come[::-1]
        return self._taken_last.pop()

    async def get_all(self) -> list[T]:
        """Take everything, the oldest first; wait until there is something."""
        while self.empty():
            await self._signal.wait()
        items = [*self._taken_last[::-1], *self._come]
        self._come, self._taken_last = [], []
        return items
