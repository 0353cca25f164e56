"""Leases in Redis: a sorted set of owners and values, and a hash of the lengths of their leases.

A renewal changes the value. A judge takes an owner for dead when it has seen the same value for the
length of the lease, by its own monotonic clock; a wall clock that is set changes nothing of that.

The value is the time at which the lease ends by the server's clock, because the release before
judges by it. That release writes no lengths: an owner without one is judged as it judges, by the
server's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.stores.leases import ExpiredLease
from gateway.stores.redis.topology import Topology, bucket_of

KEY = "leases"
BUCKET = bucket_of(KEY)
MOST = 100  # given to be settled in one round


class _Sighting(NamedTuple):
    """The value of a lease, and since when it has been the same."""

    value: bytes
    since_s: float


class RedisLeases:
    """The part of the store that knows who is alive.

    Args:
        servers: Where it is kept.
        monotonic_s: Gives a time that nobody sets.
    """

    def __init__(
        self, servers: Topology, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._servers = servers
        self._monotonic_s = monotonic_s
        self._seen: dict[bytes, _Sighting] = {}
        self._expired: dict[
            str, bytes
        ] = {}  # the values that were returned by the last `expired_leases`

    async def renew_leases(self, owners: Sequence[str], lease_s: float, only_new: bool) -> None:
        """See `ClusterStore.renew_leases`."""
        if owners:
            length_ms, which = round(lease_s * 1000), "NX" if only_new else ""
            await self._servers.write(
                "renew_leases", BUCKET, (KEY,), length_ms, which, *owners, repeatable=True
            )

    async def release_lease(self, owner: str) -> None:
        """See `ClusterStore.release_lease`."""
        await self._servers.command(BUCKET, "ZADD", self._servers.base(BUCKET) + KEY, 0, owner)

    async def expired_leases(self) -> list[ExpiredLease]:
        """See `ClusterStore.expired_leases`."""
        # The server answers between these two times: only what lies between an answer and the next
        # request counts as unchanged, also if this process is frozen in between.
        asked_s = self._monotonic_s()
        values, lengths, server_ms = await self._servers.read("leases", BUCKET, (KEY,))
        answered_s = self._monotonic_s()
        before, self._seen, self._expired = self._seen, {}, {}
        length_ms = dict(zip(lengths[::2], lengths[1::2], strict=True))
        for owner, value in zip(values[::2], values[1::2], strict=True):
            seen = before.get(owner)
            if seen is None or seen.value != value:
                seen = _Sighting(value, answered_s)
            self._seen[owner] = seen
            length = length_ms.pop(owner, None)
            if length is None:
                is_over = int(value) <= int(server_ms)
            else:
                is_over = max(asked_s - seen.since_s, 0) * 1000 >= int(length)
            if (value == b"0" or is_over) and len(self._expired) < MOST:
                self._expired[owner.decode()] = value
        for owner in length_ms:  # the release before has forgotten its lease, and not the length
            await self._forget(owner, b"")
        return [ExpiredLease(owner, value == b"0") for owner, value in self._expired.items()]

    async def forget(self, owner: str) -> None:
        """See `ClusterStore.delete_lease`."""
        if owner in self._expired:
            await self._forget(owner.encode(), self._expired[owner])

    async def _forget(self, owner: bytes, value: bytes) -> None:
        await self._servers.write("delete_lease", BUCKET, (KEY,), owner, value, repeatable=True)
