"""`redis:`: streams in Redis 6.2 or later, Valkey, Redis Cluster; for more than one gateway.

What lies where: a run, its log, all its streams and its place in lists are in one *bucket*
(`rt:{17}:…`, the number follows from the run's id), which is one slot of a cluster. So one script
appends, with offset, idempotency and end as one unit, and one script changes a run, its snapshot
and its lists (`redis_scripts/`). What a change means to the sets of the run, which lie elsewhere,
is written into an outbox in the same unit and delivered from there (`redis_sets`).

A change of a run is worked out here, from a version of it, and kept by a script that refuses if the
run has changed since; then it is worked out again.

**Durability** is that of the server. An append that was acknowledged survives
    `appendfsync always`    the loss of power;
    `appendfsync everysec`  the death of the server; a loss of power costs about the last second;
    `appendfsync no`        the death of the server; a loss of power costs what the system had not
                            written yet, often half a minute;
    no append-only file     nothing of that: what came after the last snapshot is gone.
A failover loses what the replica had not received. With `?wait=1` an append is acknowledged once a
replica has it; should fewer answer in time the append fails, though it was written.

**A lost tail is never hidden.** Each stream's epoch holds for one life of its storage: when the
server process is another one (restarted, promoted, the slot moved) or its replication id is, the
next append to a stream gives it another epoch. Readers who had seen more than is left get
`reset` (`tail_lost` before that append, `epoch_changed` after it), never other records under the
offsets that they know. The price: a planned restart begins streams that are still written anew too.

An ACL user needs the keys and channels of the prefix, and INFO: `~rt:* &rt:* +@all -@dangerous
+info` will do.

`maxmemory`: the server must not evict keys. A policy that evicts any key is refused at `open`; when
memory is full an append fails with `StoreUnavailable`, which says so, and reading goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from gateway.errors import ConfigurationError, RunNotFound, StoreUnavailable, StreamEnded
from gateway.model.log import Appended, Head, Page, RunQuery, RunState, SetState, belongs_to_no_run
from gateway.model.patches import Operation
from gateway.model.records import (
    ORIGIN,
    EndReason,
    Position,
    Record,
    RunSet,
    StreamKey,
    Writer,
    path_of,
)
from gateway.model.retention import KEEP_ALL, Retention, SweepResult
from gateway.model.runs import Run, check_new_run
from gateway.stores.append_tasks import Begun
from gateway.stores.base import PAGE_BYTES, OnAppended, OnPage, new_epoch, system_clock_ms
from gateway.stores.idempotency import WriterState, check_order, count_duplicates
from gateway.stores.leases import ExpiredLease
from gateway.stores.paging import make_page, place
from gateway.stores.redis.leases import RedisLeases
from gateway.stores.redis.notifications import DEAF_S, Notifications
from gateway.stores.redis.pipeline import PATIENCE_S
from gateway.stores.redis.retention import RedisSweep
from gateway.stores.redis.run_sets import first_names
from gateway.stores.redis.runs import RedisRuns
from gateway.stores.redis.topology import Topology, bucket_of
from gateway.stores.redis.url import RedisUrl
from gateway.stores.reserved_logs import (
    check_path_log,
    is_user_stream,
    min_records_kept,
    stream_created_record,
)

T = TypeVar("T")

OLDEST = (6, 2)


class RedisStore:
    """The store contract over Redis or Valkey.

    Args:
        url: As `redis_url` says.
        retention: What may be forgotten.
        clock_ms: Gives the time of records; None: the server's own clock, one for all processes.
        patience_s: How long a call waits for servers that cannot be reached.
        deaf_s: Without a sign of life for so long, followers are taken for deaf.
        monotonic_s: Gives a time that nobody sets, by which leases are judged.
    """

    def __init__(
        self,
        url: str,
        *,
        retention: Retention = KEEP_ALL,
        clock_ms: Callable[[], int] | None = None,
        patience_s: float = PATIENCE_S,
        deaf_s: float = DEAF_S,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock_ms = clock_ms
        self._servers = Topology(RedisUrl.parse(url), self._connected, patience_s)
        self._bell = Notifications(self._servers, deaf_s)
        self._follows = self._bell.follows
        self._runs = RedisRuns(self._servers, self.read, clock_ms)
        self._leases = RedisLeases(self._servers, monotonic_s)
        self._sweep = RedisSweep(self._servers, self._runs, retention, clock_ms or system_clock_ms)
        self._under_way: set[asyncio.Task[Any]] = set()
        self._begun = Begun()
        self._is_open = False

    async def open(self) -> None:
        """See `Store.open`."""
        try:
            await self._servers.open()
            await self._bell.open()
        except BaseException:
            await self._servers.close()
            raise
        self._runs.sets.open()
        self._is_open = True

    def _connected(self, info: dict[str, str]) -> None:
        """Judge a server that a connection was made to; whoever follows has to look again."""
        check_server(str(self._servers.url), info)
        self._bell.ring_all()

    async def close(self) -> None:
        """See `Store.close`."""
        if not self._is_open:
            return
        self._is_open = False
        while self._under_way:
            await asyncio.wait(self._under_way)
        await self._runs.sets.close()
        await self._bell.close()
        await self._servers.close()

    @property
    def lag_s(self) -> float:
        """How long ago what the servers publish was last heard; about a second is well."""
        return self._bell.lag_s

    @property
    def is_ready(self) -> bool:
        """Whether followers are told of what is appended elsewhere."""
        return self._is_open and self._bell.is_ready

    async def append(
        self,
        key: StreamKey,
        records: Sequence[bytes],
        *,
        source: str | None = None,
        writer: Writer | None = None,
        end: EndReason | None = None,
        order: str | None = None,
    ) -> Appended:
        """See `Store.append`."""
        in_run = not belongs_to_no_run(key)
        keys = _keys(key, in_run, with_writers=writer is not None)
        answer = await self._servers.write(
            "append",
            bucket_of(key.run_id),
            keys,
            key.run_id,
            key.stream_id,
            self._clock_ms() if self._clock_ms else 0,
            new_epoch(system_clock_ms()),
            source or "",
            end or "",
            int(in_run),
            *_listing(key),
            -1 if (kept := min_records_kept(key)) is None else kept,
            *((0, "") if order is None else (1, order)),
            *(writer or ("", 0, 0, "")),
            *records,
            repeatable=writer is not None,
        )
        return _appended(key, answer, writer, len(records), order)

    def begin_append(
        self,
        key: StreamKey,
        records: Sequence[bytes],
        done: OnAppended,
        *,
        source: str | None = None,
        writer: Writer | None = None,
        end: EndReason | None = None,
        order: str | None = None,
    ) -> None:
        """See `Store.begin_append`."""
        append = self.append(key, records, source=source, writer=writer, end=end, order=order)
        self._begun.begin(append, done)

    async def read(
        self, key: StreamKey, after: Position | None = None, max_bytes: int = PAGE_BYTES
    ) -> Page:
        """See `Store.read`."""
        return (await self._read(key, after, max_bytes))[0]

    async def _read(
        self, key: StreamKey, after: Position | None, max_bytes: int = PAGE_BYTES
    ) -> tuple[Page, Position]:
        head, entries = await self._answer(key, after, max_bytes)
        start, reset, gap = place(after, head)
        records = list(_records(entries, start, max_bytes))
        return make_page(records, start, head, reset=reset, gap=gap), head.position

    async def _answer(
        self, key: StreamKey, after: Position | None, max_bytes: int
    ) -> tuple[Head, list[Any]]:
        in_run = not belongs_to_no_run(key)
        at = after or ORIGIN
        answer = await self._servers.read(
            "read",
            bucket_of(key.run_id),
            _keys(key, in_run),
            *key,
            int(in_run),
            *at,
            max_bytes,
        )
        if answer is None:
            raise RunNotFound(f"there is no run {key.run_id}")
        epoch, next_offset, earliest, end, entries = answer
        name = epoch.decode() or ORIGIN.epoch
        head = Head(Position(name, next_offset), Position(name, earliest), end.decode() or None)
        return head, entries

    async def head(self, key: StreamKey) -> Head:
        """See `Store.head`."""
        return (await self._answer(key, None, -1))[0]

    async def delete(self, key: StreamKey) -> None:
        """See `Store.delete`."""
        in_run = not belongs_to_no_run(key)
        epoch = new_epoch(system_clock_ms())
        (what,) = await self._servers.write(
            "delete",
            bucket_of(key.run_id),
            _keys(key, in_run),
            *key,
            epoch,
            int(in_run),
            repeatable=True,
        )
        if what == b"absent":
            raise RunNotFound(f"there is no run {key.run_id}")

    def follow(
        self, key: StreamKey, after: Position | None = None, on_page: OnPage | None = None
    ) -> AsyncGenerator[Page, None]:
        """See `Store.follow`."""
        return self._bell.follow(key, after, self._read)

    def is_known_tail(self, key: StreamKey, after: Position) -> bool:
        """See `PathStore.is_known_tail`. Other gateways append too: it never knows."""
        return False

    async def list_path_logs(self, after: StreamKey | None, limit: int) -> list[StreamKey]:
        """See `PathStore.list_path_logs`."""
        names = await first_names(self._servers, "paths", "\0".join(after or ()), limit)
        return [StreamKey(*name.split("\0")) for name in names]

    async def drop(self, key: StreamKey, at: Position) -> bool:
        """See `PathStore.drop`."""
        check_path_log(key)
        bucket, keys = bucket_of(key.run_id), _keys(key, False)
        return bool(await self._servers.write("drop", bucket, keys, *key, *at, repeatable=False))

    async def create_run(self, run: Run) -> Run:
        """See `Store.create_run`."""
        check_new_run(run)
        return await self._whole(self._runs.create(run))

    async def patch_run(
        self,
        run_id: str,
        patch: Mapping[str, Any],
        *,
        operations: Sequence[Operation] = (),
        writer: Writer | None = None,
    ) -> Run:
        """See `Store.patch_run`."""
        return await self._whole(self._runs.patch(run_id, patch, operations, writer))

    async def patch_run_if_owner(
        self, run_id: str, patch: Mapping[str, Any], owner: str
    ) -> Run | None:
        """See `ClusterStore.patch_run_if_owner`."""
        return await self._whole(self._runs.patch_own(run_id, patch, owner))

    async def renew_leases(
        self, owners: Sequence[str], lease_s: float, *, only_new: bool = False
    ) -> None:
        """See `ClusterStore.renew_leases`."""
        await self._leases.renew_leases(owners, lease_s, only_new)

    async def release_lease(self, owner: str) -> None:
        """See `ClusterStore.release_lease`."""
        await self._leases.release_lease(owner)

    async def expired_leases(self) -> list[ExpiredLease]:
        """See `ClusterStore.expired_leases`."""
        return await self._leases.expired_leases()

    async def delete_lease(self, owner: str) -> None:
        """See `ClusterStore.delete_lease`."""
        await self._leases.forget(owner)

    async def get_run(self, run_id: str) -> RunState:
        """See `Store.get_run`."""
        loaded = await self._runs.load(run_id)
        return RunState(loaded.run, loaded.position)

    async def delete_run(self, run_id: str) -> bool:
        """See `Store.delete_run`."""
        return await self._whole(self._runs.delete(run_id))

    async def sweep(self) -> SweepResult:
        """See `Store.sweep`."""
        return await self._whole(self._sweep.step())

    async def consume_token_use(self, token_id: str, uses: int, expires_at_ms: int) -> bool:
        """See `Store.consume_token_use`."""
        bucket = bucket_of(token_id)
        key = f"spent:{token_id}"
        taken = await self._servers.write(
            "consume_token_use", bucket, (key,), token_id, uses, expires_at_ms, repeatable=False
        )
        return bool(taken)

    async def list_runs(self, query: RunQuery) -> list[Run]:
        """See `Store.list_runs`."""
        return await self._runs.list(query)

    async def list_set_runs(self, sets: Sequence[RunSet], limit: int) -> SetState:
        """See `Store.list_set_runs`."""
        return await self._runs.sets.get(sets, limit)

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Do all of something that takes several steps, also if the caller does not wait for it."""
        if not self._is_open:
            work.close()
            raise StoreUnavailable(f"{self._servers.url}: the store is not open")
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # seen by the caller, if it still waits


def _keys(key: StreamKey, in_run: bool, *, with_writers: bool = False) -> tuple[str, ...]:
    stream = f"{key.run_id}/{key.stream_id}"
    keys = [f"{stream}:meta", f"{stream}:log"]
    if in_run:
        keys.append(f"{key.run_id}:run")
    if with_writers:
        keys.append(f"{stream}:writers")
    return tuple(keys)


def _listing(key: StreamKey) -> tuple[bytes, str]:
    """Return what announces a new stream and the index that it goes into."""
    index = index_of(key)
    return stream_created_record(key)[1] if index == "streams" else b"", index


def index_of(key: StreamKey) -> str:
    """Return the list in which a stream is found, if it is in one; else ""."""
    if is_user_stream(key) and not belongs_to_no_run(key):
        return "streams"
    return "paths" if path_of(key) is not None else ""


def _appended(
    key: StreamKey, answer: list[Any], writer: Writer | None, count: int, order: str | None
) -> Appended:
    counts_appends = writer is not None and writer.counts == "appends"
    match answer:
        case [b"ok", epoch, next_offset, first]:
            position = Position(epoch.decode(), next_offset)
            counted = writer.after(0) if writer is not None and counts_appends else None
            return Appended(first if count else None, position, next_sequence=counted)
        case [b"repeat", epoch, next_offset, first, sequence]:
            offset = first if isinstance(first, int) else None
            counted = sequence if counts_appends else None
            return Appended(offset, Position(epoch.decode(), next_offset), True, counted)
        case [b"order", last]:
            check_order(key, last.decode(), order)  # raises what is wrong with it
        case [b"ended", why]:
            raise StreamEnded(f"stream {key} has ended ({why.decode()}); nothing can be appended")
        case [b"writer", *state] if writer is not None:
            known = WriterState(*state) if state else None
            count_duplicates(known, writer, count)  # raises what is wrong with it
    raise RunNotFound(f"there is no run {key.run_id}")


def _records(entries: list[Any], start: int, max_bytes: int) -> Iterator[Record]:
    size = 0
    for id, fields in entries:
        data = fields[5::2]
        first = int(id.partition(b"-")[0]) - len(data)
        time_ms, source = int(fields[1]), fields[3].decode() or None
        for index in range(max(0, start - first), len(data)):
            size += len(data[index])
            if size > max_bytes and size > len(data[index]):
                return
            yield Record(first + index, time_ms, source, data[index])


def check_server(name: str, info: Mapping[str, str]) -> None:
    """Refuse a server that this store cannot be kept on.

    Args:
        name: Of the server, for the message.
        info: What it says of itself.

    Raises:
        ConfigurationError: it is too old, or it may evict keys.
    """
    version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
    if version < OLDEST:
        raise ConfigurationError(
            f"{name}: the server is Redis {info['redis_version']}; 6.2 or later is needed"
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and int(info.get("maxmemory", 0)) > 0:
        raise ConfigurationError(
            f"{name}: maxmemory-policy is {policy}, which deletes streams when memory is full; "
            "set it to noeviction"
        )
