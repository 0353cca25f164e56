"""How long a run may execute."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.sdk.runtime import Runtime


class TimeLimit:
    """What is left of a run's time; it counts from `run` to `pause`, so that waits do not.

    Args:
        runtime: Whose clock it is.
        left_s: How long in all; None: for ever.
        is_over: Called when the time is over.
    """

    def __init__(self, runtime: Runtime, left_s: float | None, is_over: Callable[[], None]) -> None:
        self._runtime = runtime
        self._left_s = left_s
        self._is_over = is_over
        self._resumed_s = 0.0
        self._alarm: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Count on; if it counts already, nothing changes."""
        if self._left_s is not None and self._alarm is None:
            self._resumed_s = self._runtime.monotonic_s()
            self._alarm = asyncio.create_task(self._ring(self._left_s))

    async def _ring(self, left_s: float) -> None:
        await self._runtime.sleep(left_s)
        self._is_over()

    def pause(self) -> None:
        """Stop counting."""
        if self._alarm is not None and self._left_s is not None:
            executed_s = self._runtime.monotonic_s() - self._resumed_s
            self._left_s = max(0.0, self._left_s - executed_s)
            self._alarm.cancel()
            self._alarm = None
