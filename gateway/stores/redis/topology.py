"""Map buckets to Redis servers: one server, the master that sentinels name, or a cluster.

Every key begins with `prefix:{bucket}:`. Redis hashes the part in braces, so all keys of a bucket
are in one slot of a cluster, and one script can access them all. A run's bucket follows from its
id: the run, its log and all its streams share one bucket. The name of a set of runs determines the
set's bucket.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from gateway._internal.extras import needs
from gateway.errors import StoreUnavailable
from gateway.stores.redis.pipeline import CONNECT_S, PATIENCE_S, PipelinedConnection, QueuedCommand
from gateway.stores.redis.url import RedisUrl

with needs("redis"):
    from redis.asyncio.connection import AbstractConnection
    from redis.asyncio.sentinel import Sentinel
    from redis.crc import key_slot
    from redis.exceptions import RedisError

BUCKETS = 64  # fixed: keys contain it. A list reads each; the limit of masters in a cluster
Address = tuple[str, int]
OnConnected = Callable[[dict[str, str]], None]


def bucket_of(owner: str) -> int:
    """Return the bucket of a run, or of any other owner of keys."""
    return zlib.crc32(owner.encode()) % BUCKETS


class Topology:
    """The lanes to all servers, and the assignment of buckets to lanes.

    A lane is one pipelined connection to one server, for reads or for writes.

    Args:
        url: Addresses and kind of the servers.
        on_connected: Called with the server's INFO whenever a lane has connected.
        patience_s: Seconds for which a call that was not executed is retried.
    """

    def __init__(
        self, url: RedisUrl, on_connected: OnConnected, patience_s: float = PATIENCE_S
    ) -> None:
        self.url = url
        self._on_connected = on_connected
        self._patience_s = patience_s
        self._slots = [key_slot(b"%d" % bucket) for bucket in range(BUCKETS)]
        self._owners: list[Address | None] = [None] * BUCKETS
        self._known: list[Address] = list(url.addresses)
        self._lanes: dict[tuple[Address | None, str], PipelinedConnection] = {}
        self._seeking: asyncio.Task[None] | None = None
        self._sentinel: Sentinel | None = None
        self._one_asks = asyncio.Lock()
        self._is_closed = False

    async def open(self) -> None:
        """Look up the servers of the buckets, and check that they answer.

        Raises:
            StoreUnavailable: a server does not answer.
        """
        try:
            if self.url.kind == "cluster":
                self._owners = await self._cluster_owners()
            await asyncio.gather(*(self.ping(bucket) for bucket in self.one_bucket_each()))
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"{self.url}: {error or type(error).__name__}") from None

    async def close(self) -> None:
        """Wait up to `CONNECT_S` for each lane's accepted calls, then disconnect."""
        self._is_closed = True
        for lane in tuple(self._lanes.values()):
            try:
                async with asyncio.timeout(CONNECT_S):
                    await lane.drain()
            except TimeoutError:
                pass  # then the unfinished calls fail
            await lane.close()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()

    def base(self, bucket: int) -> str:
        """Return the common prefix of all keys of a bucket."""
        return f"{self.url.prefix}:{{{bucket}}}:"

    def one_bucket_each(self) -> list[int]:
        """Return one bucket of every server that holds buckets."""
        return list({owner: bucket for bucket, owner in enumerate(self._owners)}.values())

    async def ping(self, bucket: int) -> None:
        """Ping the server of a bucket."""
        await self.command(bucket, "PING", kind="read")

    def write(
        self, script: str, bucket: int, keys: tuple[str, ...], *arguments: Any, repeatable: bool
    ) -> asyncio.Future[Any]:
        """Run a script that writes.

        Args:
            script: Name of the script.
            bucket: The bucket that it accesses.
            keys: The keys that it requires, without the bucket's prefix.
            arguments: Arguments after the server's id.
            repeatable: Whether running it twice is harmless.
        """
        return self._call(script, bucket, keys, arguments, repeatable, "write")

    def read(
        self, script: str, bucket: int, keys: tuple[str, ...], *arguments: Any
    ) -> asyncio.Future[Any]:
        """Run a script that only reads; arguments as for `write`."""
        return self._call(script, bucket, keys, arguments, True, "read")

    def command(
        self, bucket: int, name: str, *arguments: Any, kind: str = "write"
    ) -> asyncio.Future[Any]:
        """Run a repeatable command on the server of a bucket."""
        return self._call(name, bucket, (), arguments, True, kind)

    def _call(
        self,
        name: str,
        bucket: int,
        keys: tuple[str, ...],
        arguments: tuple[Any, ...],
        is_repeatable: bool,
        kind: str,
    ) -> asyncio.Future[Any]:
        if self._is_closed:
            raise StoreUnavailable(f"{self.url}: the store is not open")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        base = self.base(bucket)
        names = tuple(base + key for key in keys)
        deadline = time.monotonic() + self._patience_s
        call = QueuedCommand(name, bucket, names, arguments, is_repeatable, future, deadline)
        self._lane(self._owners[bucket], kind).submit(call)
        return future

    def _lane(self, owner: Address | None, kind: str) -> PipelinedConnection:
        lane = self._lanes.get((owner, kind))
        if lane is None:
            lane = self._lanes[owner, kind] = PipelinedConnection(
                str(self.url),
                self._maker(owner),
                wait=self.url.wait if kind == "write" else 0,
                seek=self._seek,
                on_connected=self._on_connected,
            )
        return lane

    def _maker(self, owner: Address | None) -> Callable[[], Awaitable[AbstractConnection]]:
        async def make() -> AbstractConnection:
            return await self.connection(owner)

        return make

    async def connection(self, owner: Address | None = None) -> AbstractConnection:
        """Make a connection to a server, or to any: published messages reach all servers."""
        if self.url.kind == "sentinel":
            owner = await self._master()
        elif owner is None:
            self._known.append(self._known.pop(0))  # the next call uses another server
        host, port = owner or self._known[-1]
        return self.url.connection(
            **self.url.options,
            host=host,
            port=port,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=CONNECT_S,
        )  # type: ignore[call-arg]

    async def _master(self) -> Address:
        if self._sentinel is None:
            self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
                list(self.url.addresses),
                sentinel_kwargs={"socket_timeout": CONNECT_S / 2, **self.url.sentinel_options},
            )
        # One lookup at a time: each moves the sentinel that answered to the front of a shared list,
        # and concurrent ones would overwrite each other there.
        async with self._one_asks:
            host, port = await self._sentinel.discover_master(self.url.service)
        return str(host), int(port)

    # ---- a cluster ----

    async def _seek(self) -> None:
        """Look up the owners of slots again; concurrent calls share one lookup."""
        if self.url.kind != "cluster":
            return
        if self._seeking is None:
            self._seeking = asyncio.get_running_loop().create_task(self._look())
            self._seeking.add_done_callback(self._looked)
        await asyncio.wait([self._seeking])

    def _looked(self, _: asyncio.Task[None]) -> None:
        self._seeking = None

    async def _look(self) -> None:
        try:
            owners = await self._cluster_owners()
        except (RedisError, OSError, TimeoutError):
            return  # no server answers: the calls wait until their deadlines
        self._owners = owners
        for (owner, kind), lane in tuple(self._lanes.items()):
            self._move(owner, kind, lane)

    def _move(self, owner: Address | None, kind: str, lane: PipelinedConnection) -> None:
        """Submit the queued calls of a lane to their current servers, in order."""
        calls = tuple(lane.queue)
        lane.queue.clear()
        for call in calls:
            self._lane(call.asked or self._owners[call.bucket], kind).submit(call)

    async def _cluster_owners(self) -> list[Address | None]:
        failure: Exception = StoreUnavailable(f"{self.url}: no server answers")
        for address in tuple(self._known):
            connection = await self.connection(address)
            try:
                async with asyncio.timeout(CONNECT_S):
                    await connection.send_command("CLUSTER SLOTS")
                    return self._read_slots(await connection.read_response(), address)
            except (RedisError, OSError, TimeoutError, KeyError) as error:
                failure = error
            finally:
                await connection.disconnect(nowait=True)
        raise failure

    def _read_slots(self, ranges: list[Any], asked: Address) -> list[Address | None]:
        owners: dict[int, Address] = {}
        for first, last, master, *replicas in ranges:
            address = (master[0].decode() or asked[0], int(master[1]))
            for bucket, slot in enumerate(self._slots):
                if first <= slot <= last:
                    owners[bucket] = address
            for known in (address, *((r[0].decode() or asked[0], int(r[1])) for r in replicas)):
                if known not in self._known:
                    self._known.append(known)
        return [owners[bucket] for bucket in range(BUCKETS)]
