"""Leases where several gateways share a store: each renews its own and its workers', all judge.

A gateway, or a worker through whichever gateway, says every few seconds in the store that it is
alive. Every gateway looks for those that have not, and settles what they left.
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

UNKNOWN_S = 600.0  # how long queued runs of a gateway that is gone wait for one with their task

_log = logging.getLogger("realtime.leases")


class ClusterLeases:
    """The part that one gateway has in them.

    Args:
        heartbeat: Of this process.
        tasks: Those known here.
        jitter: Gives a number from 0 to 1.
    """

    def __init__(
        self, heartbeat: LeaseRenewer, tasks: Tasks, jitter: Callable[[], float] = random.random
    ) -> None:
        self._heartbeat = heartbeat
        self._tasks = tasks
        self._jitter = jitter
        self._left_since_s: dict[str, float] = {}  # owners with runs that are not known here
        self._work: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Give those a lease's time whose runs are unfinished and who never had one; then judge."""
        before: str | None = None
        owners: set[str] = set()
        store = self._heartbeat.store
        while page := await store.list_runs(RunQuery(status=UNFINISHED, before=before, limit=1000)):
            owners.update(run.owner for run in page)
            before = page[-1].id
        known = [owner for owner in owners if owner and is_process(owner)]
        await store.renew_leases(known, self._heartbeat.lease_s, only_new=True)
        self._do(self._keep_judging(), "judge of leases")

    def acquire(self, owner: str) -> None:
        """Take note that a worker has a connection."""
        if self._heartbeat.retain(owner):
            self._do(self._renew(owner), f"lease of {owner}")

    def release(self, owner: str) -> None:
        """Take note that one of its connections has closed."""
        self._heartbeat.release(owner)

    async def stop(self) -> None:
        """Judge no more; what lapses is for the others to see."""
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

    async def _keep_judging(self) -> None:
        while True:
            try:
                await self.judge()
            except RealtimeError as error:
                _log.warning("leases could not be judged; trying again: %s", error)
            except Exception:  # nobody else would tell of runs that nobody executes
                _log.exception("leases could not be judged")
            # Not all gateways at once; they would do each other's work.
            await self._heartbeat.sleep(
                self._heartbeat.lease_s / HEARTBEATS * (0.5 + self._jitter())
            )

    async def judge(self) -> None:
        """Settle what those have left whose lease has lapsed."""
        gone = await self._heartbeat.store.expired_leases()
        for lapsed in gone:
            if self._may_judge(lapsed):
                await self._settle(lapsed.owner)
        for owner in self._left_since_s.keys() - {lapsed.owner for lapsed in gone}:
            del self._left_since_s[owner]

    def _may_judge(self, lapsed: ExpiredLease) -> bool:
        if lapsed.owner == self._heartbeat.owner:
            return False
        return lapsed.was_released or self._heartbeat.healthy_for_s >= self._heartbeat.lease_s

    async def _settle(self, owner: str) -> None:
        now_s = asyncio.get_running_loop().time()
        since_s = self._left_since_s.setdefault(owner, now_s)
        settled = await recover_runs(
            self._heartbeat, owner, self._tasks, is_last_try=now_s - since_s >= UNKNOWN_S
        )
        if settled.crashed or settled.adopted:
            _log.warning(
                "%s is gone; %d of its runs were marked crashed, %d go on here",
                owner,
                settled.crashed,
                settled.adopted,
            )
        if not settled.left:
            await self._heartbeat.store.delete_lease(owner)
