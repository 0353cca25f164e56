"""Says in a shared store, again and again, who is alive here."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from gateway.errors import RealtimeError
from gateway.stores.leases import ClusterStore

BEATS = 6  # renewals in a lease's time: some may fail
NODE_PREFIX = "node_"  # of the owner that a gateway is; what it has queued others may take over

_log = logging.getLogger("realtime.leases")


def new_node() -> str:
    """Name a gateway; each start is another one, for what the one before left is judged by all."""
    return NODE_PREFIX + secrets.token_hex(8)


def is_node(owner: str) -> bool:
    """Whether an owner is a gateway of a shared store."""
    return owner.startswith(NODE_PREFIX)


class LeaseHeartbeat:
    """Renews the leases of this process, and of the workers that are connected to it.

    Args:
        store: Open.
        owner: This process.
        lease_s: How long a lease is good for.
        monotonic_s: Gives a time that nobody sets.
        sleep: Lets so many seconds pass.
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
        self._holders: Counter[str] = Counter({owner: 1})
        self._renewed_s = -float("inf")
        self._steady_since_s = 0.0
        self._beating: asyncio.Task[None] | None = None

    @property
    def steady_s(self) -> float:
        """For how long leases were renewed here without a break; 0 if they are not now.

        After a time in which the store could not be reached, everybody's lease has lapsed. Only
        who has seen the others have time to renew theirs may say that they are dead.
        """
        now_s = self._monotonic_s()
        return 0.0 if self._is_broken(now_s) else now_s - self._steady_since_s

    def _is_broken(self, now_s: float) -> bool:
        return now_s - self._renewed_s > self.lease_s / 2

    async def start(self) -> None:
        """Take the first lease, and renew it from now on.

        Raises:
            RealtimeError: the store does not take it.
        """
        await self._renew()
        self._beating = asyncio.create_task(self._beat(), name="keeper of leases")

    async def stop(self) -> None:
        """Renew no more; a gateway says that it is gone, so that others go on with its queue."""
        if self._beating is None:
            return
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)
        if is_node(self.owner):
            try:
                await self.store.let_go(self.owner)
            except RealtimeError as error:
                _log.warning("the lease of %s could not be given up: %s", self.owner, error)

    def add(self, owner: str) -> bool:
        """Hold somebody's lease too, as often as it is asked for; true if it is the first time."""
        self._holders[owner] += 1
        return self._holders[owner] == 1

    def discard(self, owner: str) -> None:
        """Take one `add` back; its lease then lapses unless it is renewed elsewhere."""
        self._holders[owner] -= 1
        if self._holders[owner] <= 0:
            del self._holders[owner]

    async def renew(self, owner: str) -> None:
        """Renew one lease at once."""
        await self.store.hold([owner], self.lease_s)

    async def _renew(self) -> None:
        await self.store.hold(list(self._holders), self.lease_s)
        now_s = self._monotonic_s()
        if self._is_broken(now_s):
            self._steady_since_s = now_s
        self._renewed_s = now_s

    async def _beat(self) -> None:
        while True:
            await self.sleep(self.lease_s / BEATS)
            try:
                await self._renew()
            except RealtimeError as error:
                _log.warning("leases could not be renewed; trying again: %s", error)
            except Exception:  # who is not heard of is taken for dead: this goes on, whatever it is
                _log.exception("leases could not be renewed")
