"""Turns at what takes long: few in one pass of the event loop, so that what is live comes between.

A thousand readers that catch up could each make and send a frame of 64 KiB in the same pass, and
nobody else would be served for half a second.
"""

from __future__ import annotations

import asyncio
from collections import deque

EACH_PASS = 4  # frames of up to 64 KiB: one to three milliseconds
ROOM = 16  # who may wait at once for what makes them all go on in the same pass


class LoopQuota:
    """Gives them in the order in which they were asked for.

    Args:
        each_pass: So many in one pass of the loop.

    Attributes:
        room: For those who wait for the same answer, which lets all of them go on at once.
    """

    def __init__(self, each_pass: int = EACH_PASS) -> None:
        self._each_pass = self._left = each_pass
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_scheduled = False
        self.room = asyncio.Semaphore(ROOM)

    async def take(self) -> None:
        """Wait for a turn; in a pass that has some left there is no wait."""
        loop = asyncio.get_running_loop()
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._next_pass)
        if self._left > 0:
            self._left -= 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next_pass(self) -> None:
        self._left = self._each_pass
        while self._left > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # its reader may have left
                turn.set_result(None)
                self._left -= 1
        # Those who were given one go on in the next pass, and others with them.
        self._is_scheduled = self._left < self._each_pass
        if self._is_scheduled:
            asyncio.get_running_loop().call_soon(self._next_pass)
