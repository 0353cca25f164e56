"""How long a run may execute."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.sdk.runtime import Runtime


class TimeLimit:
    """The time that a run has left. It counts from `run` to `pause`, so waits do not count.

    Args:
        runtime: Its clock is used.
        left_s: The whole time; None: no limit.
        on_expired: Called when no time is left.
    """

    def __init__(
        self, runtime: Runtime, left_s: float | None, on_expired: Callable[[], None]
    ) -> None:
        self._runtime = runtime
        self._left_s = left_s
        self._on_expired = on_expired
        self._resumed_s = 0.0
        self._timer: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Start to count, unless it counts already."""
        if self._left_s is not None and self._timer is None:
            self._resumed_s = self._runtime.monotonic_s()
            self._timer = asyncio.create_task(self._expire(self._left_s))

    async def _expire(self, left_s: float) -> None:
        await self._runtime.sleep(left_s)
        self._on_expired()

    def pause(self) -> None:
        """Stop counting."""
        if self._timer is not None and self._left_s is not None:
            executed_s = self._runtime.monotonic_s() - self._resumed_s
            self._left_s = max(0.0, self._left_s - executed_s)
            self._timer.cancel()
            self._timer = None
