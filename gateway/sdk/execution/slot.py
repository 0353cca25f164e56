"""The slot of one attempt: released while the attempt waits, acquired again before it continues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

from gateway.sdk.context import current_run
from gateway.sdk.execution.time_limit import TimeLimit
from gateway.sdk.runtime import current_runtime


@asynccontextmanager
async def waiting() -> AsyncIterator[None]:
    """Let the calling run, if there is one, release its slot while the block runs."""
    context, runner = current_run(), current_runtime().runner
    if context is None or runner is None:
        yield
        return
    async with runner.waiting(context):
        yield


class Slot:
    """The slot of one attempt. Its clock and the run's status follow the number of open waits.

    Waits of one run may overlap (`asyncio.gather`). The first wait releases the slot and stops the
    clock; the end of the last wait acquires the slot again. One task makes these changes, so that a
    wait that is canceled or fails leaves no change half done.

    Args:
        slots: The runner's slots, one for each run that may execute.
        clock: Runs while the slot is held.
        change: Writes the run's status to the store.
    """

    def __init__(
        self,
        slots: asyncio.Semaphore,
        clock: TimeLimit,
        change: Callable[[Literal["waiting", "executing"]], Awaitable[object]],
    ) -> None:
        self._slots = slots
        self._clock = clock
        self._change = change
        self._waits = 0
        self._is_held = False
        self._was_taken = False
        self._is_closed = False
        self._is_reacquiring = False
        self._following: asyncio.Task[None] | None = None

    async def take(self) -> None:
        """Wait for a free slot and hold it."""
        await self._slots.acquire()
        self._is_held = self._was_taken = True

    def release(self) -> None:
        """Release the slot if it is held."""
        if self._is_held:
            self._is_held = False
            self._slots.release()

    def close(self) -> None:
        """Stop all changes from now on: the attempt is being ended."""
        self._is_closed = True
        if self._is_reacquiring and self._following is not None:
            self._following.cancel()

    async def settled(self) -> None:
        """Wait until no change of the status is in progress."""
        while self._following is not None and not self._following.done():
            await asyncio.wait({self._following})

    @asynccontextmanager
    async def released(self) -> AsyncIterator[None]:
        """Release the slot to other runs while the block runs.

        A cancellation that arrives while the slot is being acquired again is raised once the slot
        is held, because the function's `finally` blocks execute too. If the attempt is being ended,
        it is raised immediately.
        """
        if self._is_closed or not self._was_taken:
            yield  # the attempt is being ended; or a task outlived the previous attempt
            return
        self._waits += 1
        self._follow()
        try:
            yield
        finally:
            self._waits -= 1
            if self._waits == 0:
                await self._wait_until_held()

    async def _wait_until_held(self) -> None:
        canceled: asyncio.CancelledError | None = None
        while not self._is_closed and (following := self._follow()) is not None:
            try:
                await asyncio.wait({following})
            except asyncio.CancelledError as error:
                canceled = error
        if canceled is not None:
            raise canceled

    @property
    def _is_settled(self) -> bool:
        return self._is_closed or self._is_held == (self._waits == 0)

    def _follow(self) -> asyncio.Task[None] | None:
        """Return the task that adjusts slot and status to the waits; None if they agree."""
        if self._following is None or self._following.done():
            self._following = None
            if not self._is_settled:
                self._following = asyncio.create_task(self._follow_waits())
        return self._following

    async def _follow_waits(self) -> None:
        while not self._is_settled:
            if self._waits:
                self._clock.pause()
                self.release()
                await self._change("waiting")
            else:
                await self._reacquire()
                self._clock.run()
                await self._change("executing")

    async def _reacquire(self) -> None:
        self._is_reacquiring = True
        try:
            await self.take()
        finally:
            self._is_reacquiring = False
