"""Leases in Redis: a sorted set of owners and values, and a hash with the length of each lease.

A renewal changes the value. A process considers an owner dead when it has seen the same value for
the length of the lease, measured by its own monotonic clock. So a step of a wall clock has no
effect.

The value is the time at which the lease ends by the server's clock, because the previous release
compares it with that clock. The previous release writes no lengths. An owner without a length is
therefore checked as that release does, by the server's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.stores.leases import ExpiredLease
from gateway.stores.redis.topology import Topology, bucket_of

KEY = "leases"
BUCKET = bucket_of(KEY)
MOST = 100  # expired leases returned in one round


class _Sighting(NamedTuple):
    """The value of a lease, and the time since which it is unchanged."""

    value: bytes
    since_s: float


class RedisLeases:
    """The part of the store that renews leases and finds expired ones.

    Args:
        servers: The servers that store the leases.
        monotonic_s: Returns the time of a monotonic clock, in seconds.
    """

    def __init__(
        self, servers: Topology, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._servers = servers
        self._monotonic_s = monotonic_s
        self._seen: dict[bytes, _Sighting] = {}
        # Values of the leases that the last `expired_leases` returned, by owner.
        self._expired: dict[str, bytes] = {}

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
        # The server answers between these two times. Only the time from an answer to the next
        # request counts as unchanged, so a frozen process does not misjudge an owner.
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
        for owner in length_ms:  # the previous release deletes a lease without its length
            await self._forget(owner, b"")
        return [ExpiredLease(owner, value == b"0") for owner, value in self._expired.items()]

    async def forget(self, owner: str) -> None:
        """See `ClusterStore.delete_lease`."""
        if owner in self._expired:
            await self._forget(owner.encode(), self._expired[owner])

    async def _forget(self, owner: bytes, value: bytes) -> None:
        await self._servers.write("delete_lease", BUCKET, (KEY,), owner, value, repeatable=True)
