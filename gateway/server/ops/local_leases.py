"""Leases of workers where one gateway has the store to itself.

A worker sends its name in `hello`. Its runs belong to it while one of its connections is open.
When it has had no connection for the lease period, the worker counts as lost and its runs are
marked crashed. `cluster_leases` is for several gateways that share a store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from gateway.errors import RealtimeError
from gateway.model.limits import DEFAULT_LIMITS
from gateway.model.log import RunQuery
from gateway.sdk.execution.cancellation import UNFINISHED
from gateway.sdk.execution.ownership import EMBEDDED_OWNER, mark_crashed
from gateway.sdk.execution.task_queues import is_process
from gateway.stores.base import Store

_log = logging.getLogger("realtime.leases")


class LocalLeases:
    """The workers that are connected to one gateway.

    Args:
        store: The store of the runs.
        lease_s: How long a worker may be disconnected, seconds.
    """

    def __init__(self, store: Store, lease_s: float = DEFAULT_LIMITS.lease_s) -> None:
        self._store = store
        self._lease_s = lease_s
        self._connections: Counter[str] = Counter()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Give workers with unfinished runs one lease period to reconnect."""
        before: str | None = None
        owners: set[str] = set()
        while page := await self._store.list_runs(
            RunQuery(status=UNFINISHED, before=before, limit=1000)
        ):
            owners.update(run.owner for run in page)
            before = page[-1].id
        for owner in owners - {EMBEDDED_OWNER}:
            if is_process(owner):
                self._start_timer(owner)

    def acquire(self, owner: str) -> None:
        """Record that a worker has opened a connection."""
        self._connections[owner] += 1
        timer = self._timers.pop(owner, None)
        if timer is not None:
            timer.cancel()

    def release(self, owner: str) -> None:
        """Record that a worker has closed a connection."""
        self._connections[owner] -= 1
        if self._connections[owner] <= 0:
            del self._connections[owner]
            self._start_timer(owner)

    async def stop(self) -> None:
        """Stop all timers; the next start checks the runs again."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start_timer(self, owner: str) -> None:
        loop = asyncio.get_running_loop()
        self._timers[owner] = loop.call_later(self._lease_s, self._expire, owner)

    def _expire(self, owner: str) -> None:
        self._timers.pop(owner, None)
        task = asyncio.create_task(self._mark(owner), name=f"lease of {owner}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _mark(self, owner: str) -> None:
        try:
            marked = await mark_crashed(self._store, owner, "the worker was lost")
        except RealtimeError as error:
            _log.error(
                "the runs of %s could not be marked: %s", owner, error, extra={"worker": owner}
            )
            self._start_timer(owner)
            return
        if marked:
            words = "worker %s is gone; %d of its runs were marked crashed"
            _log.warning(words, owner, marked, extra={"worker": owner})
