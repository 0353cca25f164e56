"""Leases in Redis: one sorted set of owners, by the time at which each lease ends."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.stores.redis_servers import Servers, bucket_of
from gateway.stores.shared import Lapsed

KEY = "leases"
BUCKET = bucket_of(KEY)
MOST = 100  # looked at in one round


class RedisLeases:
    """The part of the store that knows who is alive.

    Args:
        servers: Where it is kept; their clock counts.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    async def hold(self, owners: Sequence[str], lease_s: float, only_new: bool) -> None:
        """See `SharedStore.hold`."""
        if owners:
            ends_in_ms, which = round(lease_s * 1000), "NX" if only_new else ""
            await self._servers.write(
                "hold", BUCKET, (KEY,), ends_in_ms, which, *owners, repeatable=True
            )

    async def let_go(self, owner: str) -> None:
        """See `SharedStore.let_go`."""
        await self._servers.command(BUCKET, "ZADD", self._servers.base(BUCKET) + KEY, 0, owner)

    async def lapsed(self) -> list[Lapsed]:
        """See `SharedStore.lapsed`."""
        found = await self._servers.read("lapsed", BUCKET, (KEY,), MOST)
        ends_ms = [int(float(end)) for end in found[1::2]]
        owners = [name.decode() for name in found[::2]]
        return [Lapsed(owner, end == 0) for owner, end in zip(owners, ends_ms, strict=True)]

    async def forget(self, owner: str) -> None:
        """See `SharedStore.forget_lease`."""
        await self._servers.write("forget_lease", BUCKET, (KEY,), owner, repeatable=True)
