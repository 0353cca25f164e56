"""Leases where several gateways share a store: each renews its own, and all recover expired ones.

Every gateway and every worker renews a lease in the store every few seconds. Each gateway looks
for expired leases and recovers the runs of their owners.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.errors import RealtimeError
from gateway.model.log import RunQuery
from gateway.sdk.execution.cancellation import UNFINISHED
from gateway.sdk.execution.heartbeat import HEARTBEATS
from gateway.sdk.execution.ownership import Tasks
from gateway.sdk.execution.recovery import recover_runs
from gateway.sdk.execution.task_queues import is_process
from gateway.sdk.runtime import LeaseRenewer
from gateway.stores.leases import ExpiredLease

# How long queued runs of a lost gateway wait for a gateway that has their task.
UNKNOWN_TASK_GRACE_S = 600.0

_log = logging.getLogger("realtime.leases")


class ClusterLeases:
    """The leases that one gateway renews and recovers.

    Args:
        heartbeat: Renews the leases of this process.
        tasks: The tasks that this process can execute.
        jitter: Returns a number from 0 to 1.
    """

    def __init__(
        self, heartbeat: LeaseRenewer, tasks: Tasks, jitter: Callable[[], float] = random.random
    ) -> None:
        self._heartbeat = heartbeat
        self._tasks = tasks
        self._jitter = jitter
        # Since when an owner has had runs of tasks that this process does not have
        self._left_since_s: dict[str, float] = {}
        self._work: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Grant one lease period to owners that have none, then start the recovery loop.

        Only owners of unfinished runs count. They may be workers of an earlier version or of a
        restored backup, and may still be alive.
        """
        before: str | None = None
        owners: set[str] = set()
        store = self._heartbeat.store
        while page := await store.list_runs(RunQuery(status=UNFINISHED, before=before, limit=1000)):
            owners.update(run.owner for run in page)
            before = page[-1].id
        known = [owner for owner in owners if owner and is_process(owner)]
        await store.renew_leases(known, self._heartbeat.lease_s, only_new=True)
        self._do(self._recovery_loop(), "lease recovery")

    def acquire(self, owner: str) -> None:
        """Record that a worker has opened a connection."""
        if self._heartbeat.retain(owner):
            self._do(self._renew(owner), f"lease of {owner}")

    def release(self, owner: str) -> None:
        """Record that a worker has closed a connection."""
        self._heartbeat.release(owner)

    async def stop(self) -> None:
        """Stop the recovery loop; other gateways recover what expires."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    def _do(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _renew(self, owner: str) -> None:
        try:
            await self._heartbeat.renew(owner)
        except RealtimeError as error:
            _log.warning("the lease of %s could not be renewed: %s", owner, error)

    async def _recovery_loop(self) -> None:
        while True:
            try:
                await self.recover_expired()
            except RealtimeError as error:
                _log.warning("expired leases could not be recovered; trying again: %s", error)
            except Exception:  # an unlogged failure here would leave runs that never end
                _log.exception("expired leases could not be recovered")
            # Jitter: gateways that check together would do the same work.
            await self._heartbeat.sleep(
                self._heartbeat.lease_s / HEARTBEATS * (0.5 + self._jitter())
            )

    async def recover_expired(self) -> None:
        """Recover the runs of owners whose leases have expired."""
        gone = await self._heartbeat.store.expired_leases()
        for lapsed in gone:
            if self._may_recover(lapsed):
                await self._recover(lapsed.owner)
        for owner in self._left_since_s.keys() - {lapsed.owner for lapsed in gone}:
            del self._left_since_s[owner]

    def _may_recover(self, lapsed: ExpiredLease) -> bool:
        if lapsed.owner == self._heartbeat.owner:
            return False
        return lapsed.was_released or self._heartbeat.healthy_for_s >= self._heartbeat.lease_s

    async def _recover(self, owner: str) -> None:
        now_s = asyncio.get_running_loop().time()
        since_s = self._left_since_s.setdefault(owner, now_s)
        settled = await recover_runs(
            self._heartbeat, owner, self._tasks, is_last_try=now_s - since_s >= UNKNOWN_TASK_GRACE_S
        )
        if settled.crashed or settled.adopted:
            _log.warning(
                "%s is gone; %d of its runs were marked crashed, %d continue here",
                owner,
                settled.crashed,
                settled.adopted,
            )
        if not settled.left:
            await self._heartbeat.store.delete_lease(owner)
