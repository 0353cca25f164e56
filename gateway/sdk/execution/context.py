"""State shared by the executions of one runner, and retried writes to the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gateway.errors import Internal, RealtimeError
from gateway.sdk.runtime import Runtime
from gateway.stores.leases import ClusterStore

FIRST_RETRY_S = 0.5  # before the first retry of a write; doubled each time,
MAX_RETRY_S = 10.0  # up to this: after a full disk has room again, runs end this soon
INTERNAL_ATTEMPTS = 5  # after an internal error of the store, which the value may cause

T = TypeVar("T")
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


@dataclass(frozen=True, slots=True)
class ExecutionContext:
    """State shared by the executions of one runner.

    Attributes:
        runtime: Its store holds the runs.
        slots: One for each run that may execute at the same time.
        random: Returns a number from 0 to 1.
        cancel_grace_s: Time for the `finally` blocks of a canceled or timed out function.
        stop_grace_s: The same, when the process stops.
        leave_queued: Leave runs that have not begun in the store for the next process.
        owner: Name under which runs are executed.
        fencing_store: A shared store in which other gateways may take over queued runs; its writes
            are refused if the owner has changed. None: no other process takes runs over.
        abandoned: Functions that did not end within their grace time.
        closing: Set when the process stops. Writes are then not retried.
    """

    runtime: Runtime
    slots: asyncio.Semaphore
    random: Callable[[], float]
    cancel_grace_s: float
    stop_grace_s: float
    leave_queued: bool
    owner: str
    fencing_store: ClusterStore | None = None
    abandoned: set[asyncio.Task[Any]] = field(default_factory=set)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def persist_with_retry(
        self, write: Callable[[], Awaitable[T]], run_id: str, log: Log
    ) -> T:
        """Write to the store, and retry until it succeeds or the process stops.

        There is no other limit: a full disk may get room after hours.

        Args:
            write: Writes to the store.
            run_id: The run, for the log.
            log: Receives each failure.

        Raises:
            RealtimeError: a retry would not help, or the process stops.
        """
        backoff_s, attempt = FIRST_RETRY_S, 0
        while True:
            attempt += 1
            try:
                return await write()
            except RealtimeError as error:
                if not error.retryable or self.closing.is_set():
                    raise
                if isinstance(error, Internal) and attempt >= INTERNAL_ATTEMPTS:
                    raise
                log.warning("run %s cannot be kept; trying again: %s", run_id, error)
            await self._sleep_unless_closing(self.random() * backoff_s)
            backoff_s = min(MAX_RETRY_S, backoff_s * 2)

    async def _sleep_unless_closing(self, seconds: float) -> None:
        waits = [
            asyncio.ensure_future(self.runtime.sleep(seconds)),
            asyncio.ensure_future(self.closing.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
