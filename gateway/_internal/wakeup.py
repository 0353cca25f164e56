"""An event and a queue for one waiting task.

asyncio's `Event` and `Queue` keep queues of waiters, which cost 4 KB for an idle connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Wakeup:
    """An event for one waiting task; `wait` clears it."""

    __slots__ = ("_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def has_waiter(self) -> bool:
        """Whether a task is waiting."""
        return self._waiter is not None

    def set(self) -> None:
        """Set the event: the waiting task resumes, or the next `wait` returns immediately."""
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until the event is set, and clear it."""
        if not self._is_set:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._is_set = False


class Mailbox(Generic[T]):
    """An unbounded queue for one consuming task."""

    __slots__ = ("_added", "_reversed", "_wakeup")

    def __init__(self) -> None:
        self._added: list[T] = []
        self._reversed: list[T] = []  # earlier items, the oldest last, so that `pop` is cheap
        self._wakeup = Wakeup()

    def put_nowait(self, item: T) -> None:
        """Add an item."""
        self._added.append(item)
        self._wakeup.set()

    def put_all(self, items: Iterable[T]) -> None:
        """Add items in order."""
        self._added.extend(items)
        self._wakeup.set()

    def empty(self) -> bool:
        """Whether `get` would wait."""
        return not (self._added or self._reversed)

    async def get(self) -> T:
        """Remove and return the oldest item; wait for one if the queue is empty."""
        while self.empty():
            await self._wakeup.wait()
        if not self._reversed:
            self._added, self._reversed = [], self._added[::-1]
        return self._reversed.pop()

    async def get_all(self) -> list[T]:
        """Remove and return all items, the oldest first; wait if the queue is empty."""
        while self.empty():
            await self._wakeup.wait()
        items = [*self._reversed[::-1], *self._added]
        self._added, self._reversed = [], []
        return items
