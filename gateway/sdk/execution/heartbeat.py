"""Renews, in a shared store, the leases of this process and of its connected workers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from gateway.errors import RealtimeError
from gateway.stores.leases import ClusterStore

HEARTBEATS = 6  # renewals during one lease: some may fail
NODE_PREFIX = "node_"  # of the owner name of a gateway, whose queued runs others may take over

_log = logging.getLogger("realtime.leases")


def new_node() -> str:
    """Return a new owner name for a gateway.

    Each start gets a new name, so that all gateways recover the runs of the previous one.
    """
    return NODE_PREFIX + secrets.token_hex(8)


def is_node(owner: str) -> bool:
    """Whether an owner is a gateway of a shared store."""
    return owner.startswith(NODE_PREFIX)


class LeaseHeartbeat:
    """Renews the leases of this process, and of the workers that are connected to it.

    Args:
        store: Open.
        owner: This process.
        lease_s: How long a lease is valid.
        monotonic_s: Returns a monotonic time in seconds.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        store: ClusterStore,
        owner: str,
        lease_s: float,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.store = store
        self.owner = owner
        self.lease_s = lease_s
        self.sleep = sleep
        self._monotonic_s = monotonic_s
        self._owners: Counter[str] = Counter({owner: 1})
        self._renewed_s = -float("inf")
        self._healthy_since_s = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def healthy_for_s(self) -> float:
        """For how long renewals have succeeded without a break; 0 while they fail.

        After an outage of the store all leases have expired. A gateway may declare other owners
        dead only after they had time to renew their leases.
        """
        now_s = self._monotonic_s()
        return 0.0 if self._is_overdue(now_s) else now_s - self._healthy_since_s

    def _is_overdue(self, now_s: float) -> bool:
        return now_s - self._renewed_s > self.lease_s / 2

    async def start(self) -> None:
        """Take the first lease, and start to renew it.

        Raises:
            RealtimeError: the store refused the lease.
        """
        await self._renew()
        self._task = asyncio.create_task(self._heartbeat_loop(), name="lease heartbeat")

    async def stop(self) -> None:
        """Stop renewing. A gateway releases its lease, so that others take over its queue."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if is_node(self.owner):
            try:
                await self.store.release_lease(self.owner)
            except RealtimeError as error:
                _log.warning("the lease of %s could not be given up: %s", self.owner, error)

    def retain(self, owner: str) -> bool:
        """Renew the lease of another owner too; true if it was not renewed here before.

        Each call needs its own `release`.
        """
        self._owners[owner] += 1
        return self._owners[owner] == 1

    def release(self, owner: str) -> None:
        """Undo one `retain`. After the last one the lease expires, unless renewed elsewhere."""
        self._owners[owner] -= 1
        if self._owners[owner] <= 0:
            del self._owners[owner]

    async def renew(self, owner: str) -> None:
        """Renew one lease immediately."""
        await self.store.renew_leases([owner], self.lease_s)

    async def _renew(self) -> None:
        await self.store.renew_leases(list(self._owners), self.lease_s)
        now_s = self._monotonic_s()
        if self._is_overdue(now_s):
            self._healthy_since_s = now_s
        self._renewed_s = now_s

    async def _heartbeat_loop(self) -> None:
        while True:
            await self.sleep(self.lease_s / HEARTBEATS)
            try:
                await self._renew()
            except RealtimeError as error:
                _log.warning("leases could not be renewed; trying again: %s", error)
            except Exception:
                # The loop must survive any error: without renewals this process is declared dead.
                _log.exception("leases could not be renewed")
