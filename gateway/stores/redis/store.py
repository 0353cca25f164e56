"""`redis:`: streams in Redis 6.2 or later, Valkey, Redis Cluster; for more than one gateway.

**Placement.** A run, its log, all its streams and its index entries are in one *bucket*
(`rt:{17}:…`; the number follows from the run's id), which is in one slot of a cluster. So one
script appends atomically, with offset, idempotency and end. One script changes a run, its snapshot
and its index entries (`scripts/`). The sets of a run are in other buckets: the script also writes
the change into an outbox, from which it is delivered to the sets (`run_sets`).

**Changes of runs** are optimistic: the process computes the new run from a version of it. The
script rejects the commit if the run has changed since, and the process computes it again.

**Durability** is that of the server. An acknowledged append survives with
    `appendfsync always`    a power loss;
    `appendfsync everysec`  a crash of the server; a power loss costs about the last second;
    `appendfsync no`        a crash of the server; a power loss costs the data that the system has
                            not written yet, often half a minute;
    no append-only file     neither: everything after the last snapshot is lost.
A failover loses the data that the replica has not received. With `?wait=1` an append is
acknowledged once a replica has it. If too few replicas answer in time, the append fails, although
it was written.

**A lost tail is never hidden.** An epoch of a stream is valid for one server process and one
replication id. After a restart, a promotion or a move of the slot, the next append gives the stream
a new epoch. Readers that have read beyond the remaining records get a `reset` (`tail_lost` before
that append, `epoch_changed` after it), never other records under the same offsets. The cost: a
planned restart also starts a new epoch for every stream that is still written.

**Permissions.** An ACL user needs the keys and channels of the prefix, and INFO:
`~rt:* &rt:* +@all -@dangerous +info` is sufficient.

**`maxmemory`.** The server must not evict keys: `open` rejects a policy that evicts any key. When
memory is full, an append fails with a `StoreUnavailable` that names the cause, and reads continue.
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
        url: A URL in the format of `gateway.stores.redis.url`.
        retention: Limits beyond which `sweep` deletes.
        clock_ms: Returns the time of records in milliseconds; None: the server's clock, the same
            for all processes.
        patience_s: Seconds for which a call waits for unreachable servers.
        deaf_s: Seconds without a heartbeat after which the notifications reconnect.
        monotonic_s: Returns the time of a monotonic clock in seconds, for the expiry of leases.
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
        """Check the server of a new connection, and wake all followers to read again."""
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
        """Age of the oldest last heartbeat of any server, in seconds; about 1 is normal."""
        return self._bell.lag_s

    @property
    def is_ready(self) -> bool:
        """Whether followers are woken by appends of other processes."""
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
        """See `PathStore.is_known_tail`; always False, because other gateways append too."""
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
        """Complete work of several steps even if the caller is cancelled."""
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
            task.exception()  # retrieved: the caller, if it still waits, gets it too


def _keys(key: StreamKey, in_run: bool, *, with_writers: bool = False) -> tuple[str, ...]:
    stream = f"{key.run_id}/{key.stream_id}"
    keys = [f"{stream}:meta", f"{stream}:log"]
    if in_run:
        keys.append(f"{key.run_id}:run")
    if with_writers:
        keys.append(f"{stream}:writers")
    return tuple(keys)


def _listing(key: StreamKey) -> tuple[bytes, str]:
    """Return the record that announces a new stream, and the index that lists it."""
    index = index_of(key)
    return stream_created_record(key)[1] if index == "streams" else b"", index


def index_of(key: StreamKey) -> str:
    """Return the index that lists a stream; "" if none does."""
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
            check_order(key, last.decode(), order)  # raises the specific error
        case [b"ended", why]:
            raise StreamEnded(f"stream {key} has ended ({why.decode()}); nothing can be appended")
        case [b"writer", *state] if writer is not None:
            known = WriterState(*state) if state else None
            count_duplicates(known, writer, count)  # raises the specific error
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
    """Check that a server meets the requirements of this store.

    Args:
        name: Name of the server, for the message.
        info: The server's INFO.

    Raises:
        ConfigurationError: the server is too old, or it may evict keys.
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
