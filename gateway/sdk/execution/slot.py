"""The slot of one attempt: given away while the attempt waits, and taken back before it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal

from gateway.sdk.execution.time_limit import TimeLimit


class Slot:
    """The slot of one attempt, its clock and its status, which follow the number of open waits.

    Waits of one run may overlap (`asyncio.gather`): the first one gives the slot away and stops the
    clock, the last one to end takes the slot back. One task makes these changes, so that a wait
    that is canceled or fails in the middle of one leaves nothing half done.

    Args:
        slots: Of the runner; one for each run that executes.
        clock: Counts while the slot is held.
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
        self._is_taking_back = False
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
        """Give nothing away and take nothing back from now on: the attempt is being ended."""
        self._is_closed = True
        if self._is_taking_back and self._following is not None:
            self._following.cancel()

    async def settled(self) -> None:
        """Wait until no change of the status is under way."""
        while self._following is not None and not self._following.done():
            await asyncio.wait({self._following})

    @asynccontextmanager
    async def given_away(self) -> AsyncIterator[None]:
        """Let other runs have the slot while the block runs.

        A cancellation that comes while the slot is being taken back is raised once it is held, for
        what the function does then needs it too; when the attempt is being ended, at once.
        """
        if self._is_closed or not self._was_taken:
            yield  # the attempt is being ended; or this is a task that outlived the one before
            return
        self._waits += 1
        self._follow()
        try:
            yield
        finally:
            self._waits -= 1
            if self._waits == 0:
                await self._held_again()

    async def _held_again(self) -> None:
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
        """Return the task that makes slot and status fit the waits; None if they do."""
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
                await self._take_back()
                self._clock.run()
                await self._change("executing")

    async def _take_back(self) -> None:
        self._is_taking_back = True
        try:
            await self.take()
        finally:
            self._is_taking_back = False
