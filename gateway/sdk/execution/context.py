"""What the executions of one runner share, and how they wait for a store that cannot be written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gateway.errors import Internal, RealtimeError
from gateway.sdk.runtime import Runtime
from gateway.stores.leases import ClusterStore

FIRST_REST_S = 0.5  # before a change of the run is tried again; twice as long each time,
MAX_REST_S = 10.0  # up to this; the run of a full disk ends so soon after there is room
INTERNAL_ATTEMPTS = 5  # after an error of the store's own: what it is given may cause it

T = TypeVar("T")
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """What the executions of one runner share.

    Attributes:
        runtime: Whose store keeps the runs.
        slots: One for each run that executes.
        random: Gives a number from 0 to 1.
        cancel_grace_s: How long a canceled or timed out function has for its `finally` blocks.
        stop_grace_s: The same, when the process stops.
        keeps_queued: Runs that have not begun are left in the store for the next process.
        owner: Name under which runs are executed.
        left_behind: Functions that did not end in their time.
        taken_from: A store in which others take over what this process has queued, should they
            take it for dead.
        closing: Set when the process stops: what cannot be kept by then is left to the next.
    """

    runtime: Runtime
    slots: asyncio.Semaphore
    random: Callable[[], float]
    cancel_grace_s: float
    stop_grace_s: float
    keeps_queued: bool
    owner: str
    taken_from: ClusterStore | None = None
    left_behind: set[asyncio.Task[Any]] = field(default_factory=set)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_kept(self, keep: Callable[[], Awaitable[T]], run_id: str, log: Log) -> T:
        """Try for as long as it takes, or until the process stops: a full disk gets room again.

        Args:
            keep: Writes to the store.
            run_id: What it is about.
            log: Hears of each failure.

        Raises:
            RealtimeError: trying again would not help, or the process stops.
        """
        most_s, attempt = FIRST_REST_S, 0
        while True:
            attempt += 1
            try:
                return await keep()
            except RealtimeError as error:
                if not error.retryable or self.closing.is_set():
                    raise
                if isinstance(error, Internal) and attempt >= INTERNAL_ATTEMPTS:
                    raise
                log.warning("run %s cannot be kept; trying again: %s", run_id, error)
            await self._rest_or_close(self.random() * most_s)
            most_s = min(MAX_REST_S, most_s * 2)

    async def _rest_or_close(self, rest_s: float) -> None:
        ways = [
            asyncio.ensure_future(self.runtime.sleep(rest_s)),
            asyncio.ensure_future(self.closing.wait()),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
