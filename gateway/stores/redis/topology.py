"""Where the buckets of a Redis store lie: one server, the master that sentinels name, or a cluster.

Every key begins with `prefix:{bucket}:`. Redis hashes what is in the braces, so that all keys of a
bucket are in one slot of a cluster and one script may touch them all. A run's bucket follows from
its id: the run, its log and all its streams lie together. A set of runs has a bucket of its own.
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

BUCKETS = 64  # never changed: keys say which. Lists ask each; a cluster has at most so many masters
Address = tuple[str, int]
OnConnected = Callable[[dict[str, str]], None]


def bucket_of(owner: str) -> int:
    """Return the bucket of a run, or of whatever else has keys of its own."""
    return zlib.crc32(owner.encode()) % BUCKETS


class Topology:
    """The lanes to all servers, and which of them a bucket's calls take.

    Args:
        url: What answers where.
        on_connected: Told the server's INFO whenever a lane was connected.
        patience_s: How long a call that was not carried out is tried again.
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
        """Find out where the buckets are, and that their servers answer.

        Raises:
            StoreUnavailable: they do not.
        """
        try:
            if self.url.kind == "cluster":
                self._owners = await self._cluster_owners()
            await asyncio.gather(*(self.ping(bucket) for bucket in self.one_bucket_each()))
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"{self.url}: {error or type(error).__name__}") from None

    async def close(self) -> None:
        """Finish what was accepted, as far as the servers answer, and let go."""
        self._is_closed = True
        for lane in tuple(self._lanes.values()):
            try:
                async with asyncio.timeout(CONNECT_S):
                    await lane.drain()
            except TimeoutError:
                pass  # then what is under way fails
            await lane.close()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()

    def base(self, bucket: int) -> str:
        """Return what all keys of a bucket begin with."""
        return f"{self.url.prefix}:{{{bucket}}}:"

    def one_bucket_each(self) -> list[int]:
        """Return one bucket of every server that has one."""
        return list({owner: bucket for bucket, owner in enumerate(self._owners)}.values())

    async def ping(self, bucket: int) -> None:
        """Ask the server of a bucket for a sign of life."""
        await self.command(bucket, "PING", kind="read")

    def write(
        self, script: str, bucket: int, keys: tuple[str, ...], *arguments: Any, repeatable: bool
    ) -> asyncio.Future[Any]:
        """Run a script that changes something.

        Args:
            script: Its name.
            bucket: Where.
            keys: Those it cannot do without; the base of the bucket is put before them.
            arguments: What follows the server's id.
            repeatable: Running it twice does no harm.
        """
        return self._call(script, bucket, keys, arguments, repeatable, "write")

    def read(
        self, script: str, bucket: int, keys: tuple[str, ...], *arguments: Any
    ) -> asyncio.Future[Any]:
        """Run a script that changes nothing; arguments as for `write`."""
        return self._call(script, bucket, keys, arguments, True, "read")

    def command(
        self, bucket: int, name: str, *arguments: Any, kind: str = "write"
    ) -> asyncio.Future[Any]:
        """Carry out a command that may be repeated, on the server of a bucket."""
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
        """Make a connection to a server, or to any of them: all hear what is published."""
        if self.url.kind == "sentinel":
            owner = await self._master()
        elif owner is None:
            self._known.append(self._known.pop(0))  # another one the next time
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
        # Several at once overwrite each other in its list: the one that answers is put in front.
        async with self._one_asks:
            host, port = await self._sentinel.discover_master(self.url.service)
        return str(host), int(port)

    # ---- a cluster ----

    async def _seek(self) -> None:
        """Ask the cluster again who holds which slot, once however many lanes want to know."""
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
            return  # nobody answers: the calls wait on, as long as their patience lasts
        self._owners = owners
        for (owner, kind), lane in tuple(self._lanes.items()):
            self._move(owner, kind, lane)

    def _move(self, owner: Address | None, kind: str, lane: PipelinedConnection) -> None:
        """Take the calls of a lane that belong to another server there, in their order."""
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
