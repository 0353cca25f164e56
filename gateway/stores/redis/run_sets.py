"""Logs of run sets in Redis, which receive every change of their runs through an outbox.

A run and its streams are in one bucket and a set is in another, and no script can reach both. The
script that changes a run therefore also writes the notices for its sets into the bucket's
*outbox*, atomically with the change. The process that made the change then delivers the notices
and deletes the outbox entry. If it dies before that, the sweeper of any process delivers them
(`SWEEP_S`). A set stores the last delivered version of each run, so a repeated delivery is
harmless, and a change is delivered only after the change before it.

A set's log, its members and these versions are in one bucket. So the runs that `list_set_runs`
returns match the log at the returned position.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import msgspec
import orjson

from gateway.errors import RealtimeError, RunNotFound
from gateway.model.limits import LISTED_FIELD_BYTES
from gateway.model.log import SetState, run_log
from gateway.model.patches import fold_change
from gateway.model.records import ORIGIN, Position, RunSet, StreamKey
from gateway.model.runs import Run
from gateway.stores.base import SET_RECORDS, new_epoch, system_clock_ms
from gateway.stores.redis.topology import BUCKETS, Topology, bucket_of
from gateway.stores.reserved_logs import deletion_records, set_records, sets_of
from gateway.stores.run_lists import (
    ListedRun,
    decode_listed,
    in_list,
    in_set,
    is_full,
    that_fit,
)

SWEEP_S = 2.0  # an entry found by two sweeps in a row was abandoned
SWEPT = 100  # entries read from one outbox at a time
LOT_RUNS = 100  # runs of a list that are read at a time

_log = logging.getLogger("realtime.redis")


class SetNotice(NamedTuple):
    """The notice of one change for one set.

    Attributes:
        set: Name of the set.
        is_whole: Whether the record holds the whole run.
        after: The run's relation to the set after the change: `member`, `left`, or `gone` when the
            run was deleted.
        record: The record for the set's log, as JSON.
    """

    set: str
    is_whole: bool
    after: str
    record: bytes


class OutboxEntry(NamedTuple):
    """An outbox entry: the notices for the sets of a run about one of its versions."""

    run_id: str
    version: int
    tellings: list[SetNotice]


class LoadedRun(NamedTuple):
    """A run as its bucket stores it.

    Attributes:
        data: The snapshot as JSON.
        version: Number of records in the run's log.
        position: The end of the run's log as a position.
    """

    data: bytes
    version: int
    position: Position

    @property
    def run(self) -> Run:
        """The decoded snapshot."""
        return Run.from_wire(orjson.loads(self.data))


class _Shown(NamedTuple):
    """The result of the script `load_listed` for one run."""

    version: int
    data: bytes


_decoder = msgspec.msgpack.Decoder(OutboxEntry)
Load = Callable[[str], Awaitable[LoadedRun]]


def outbox_entry(
    before: Run | None, run: Run, version: int, patch: bytes, snapshot: bytes
) -> bytes:
    """Encode the outbox entry of a change; empty if the run is in no set."""
    known = {each.log for each in sets_of(before)} if before is not None else set()
    members = {each.log for each in sets_of(run)}
    tellings = [
        SetNotice(log.run_id, log not in known, "member" if log in members else "left", record)
        for log, record in set_records(before, run, version, patch, snapshot)
    ]
    return msgspec.msgpack.encode(OutboxEntry(run.id, version, tellings)) if tellings else b""


def outbox_deletion(run: Run, version: int) -> bytes:
    """Encode the outbox entry of a run's deletion; empty if the run was in no set."""
    tellings = [
        SetNotice(log.run_id, False, "gone", record)
        for log, record in deletion_records(run, version)
    ]
    return msgspec.msgpack.encode(OutboxEntry(run.id, version, tellings)) if tellings else b""


class RedisSets:
    """Delivers changes of runs to their sets, and reads sets.

    Args:
        servers: The servers that store the sets.
        load: Loads a run; raises `RunNotFound` if it does not exist.
        fold: Returns a run's snapshot after the given number of records of its log.
        now_ms: Returns the time of records in milliseconds; 0 means the server's clock.
    """

    def __init__(
        self,
        servers: Topology,
        load: Load,
        fold: Callable[[str, int], Awaitable[Run]],
        now_ms: Callable[[], int],
    ) -> None:
        self._now_ms = now_ms
        self._servers = servers
        self._load = load
        self._fold = fold
        self._left: list[set[bytes]] = [set() for _ in range(BUCKETS)]
        self._sweeper: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Start the sweeper."""
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep(), name="redis outbox")

    async def close(self) -> None:
        """Stop the sweeper."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    # ---- delivery ----

    async def tell(self, outbox_id: bytes, entry: bytes) -> None:
        """Deliver an outbox entry to its sets, then delete the entry."""
        change = _decoder.decode(entry)
        try:
            await self._tell(change)
            await self._done(change.run_id, outbox_id)
        except RealtimeError as error:  # the entry stays in the outbox for a sweeper
            _log.warning("sets of run %s will be told later: %s", change.run_id, error)

    async def _tell(self, change: OutboxEntry) -> None:
        if await self._deliver(change):
            return
        bucket = bucket_of(change.run_id)
        for outbox_id, entry in await self._outbox(bucket):
            earlier = _decoder.decode(entry)
            if earlier.run_id == change.run_id and earlier.version < change.version:
                await self._deliver(earlier)
                await self._done(earlier.run_id, outbox_id)
        if not await self._deliver(change):
            await self._repair(change)

    async def _deliver(self, change: OutboxEntry) -> bool:
        """Deliver a change to all its sets; False if any of them misses an earlier change."""
        answers = await asyncio.gather(
            *(self._put(change.run_id, change.version, telling) for telling in change.tellings)
        )
        return b"gap" not in answers

    def _put(self, run_id: str, version: int, telling: SetNotice) -> asyncio.Future[bytes]:
        name = telling.set
        return self._servers.write(
            "deliver_notice",
            bucket_of(name),
            (f"{name}/$runs:meta", f"{name}/$runs:log", f"{name}:seen", f"{name}:members"),
            name,
            self._now_ms(),
            new_epoch(system_clock_ms()),
            run_id,
            version,
            int(telling.is_whole),
            telling.after,
            telling.record,
            SET_RECORDS,
            repeatable=True,
        )

    async def _repair(self, change: OutboxEntry) -> None:
        """Send the current whole run to sets that lost earlier changes, as in a failover."""
        try:
            loaded = await self._load(change.run_id)
        except RunNotFound:  # deleted: only the deletion still has to be delivered
            gone = [telling for telling in change.tellings if telling.after == "gone"]
            for telling in gone:
                await self._put(change.run_id, change.version, telling._replace(is_whole=True))
            return
        run, version = loaded.run, loaded.version - 1
        members = {each.log.run_id for each in sets_of(run)}
        record = b'{"id":"%b","version":%d,"run":%b}' % (run.id.encode(), version, loaded.data)
        for telling in change.tellings:
            after = "member" if telling.set in members else "left"
            await self._put(
                run.id, version, telling._replace(is_whole=True, after=after, record=record)
            )

    async def _outbox(self, bucket: int) -> list[tuple[bytes, bytes]]:
        key = f"{self._servers.base(bucket)}outbox"
        arguments = (key, "-", "+", "COUNT", SWEPT)
        found = await self._servers.command(bucket, "XRANGE", *arguments, kind="read")
        return [(id, fields[1]) for id, fields in found]

    async def _done(self, run_id: str, outbox_id: bytes) -> None:
        bucket = bucket_of(run_id)
        key = f"{self._servers.base(bucket)}outbox"
        await self._servers.command(bucket, "XDEL", key, outbox_id)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self.sweep()
            except RealtimeError as error:
                _log.warning("outboxes could not be swept: %s", error)

    async def sweep(self) -> None:
        """Deliver entries that the last sweep also found: their process died or failed."""
        found = await asyncio.gather(*(self._outbox(bucket) for bucket in range(BUCKETS)))
        for bucket, entries in enumerate(found):
            left, self._left[bucket] = self._left[bucket], {id for id, _ in entries}
            for outbox_id, entry in entries:
                if outbox_id in left:
                    await self.tell(outbox_id, entry)

    # ---- reading ----

    async def get(self, sets: Sequence[RunSet], limit: int) -> SetState:
        """See `Store.list_set_runs`."""
        states = await asyncio.gather(*(self._members(each, limit + 1) for each in sets))
        versions: dict[str, int] = {}
        for _, members in states:
            for run_id, version in members.items():
                # Use the older version: the log that lags delivers the later changes.
                versions[run_id] = min(version, versions.get(run_id, version))
        newest = sorted(versions, reverse=True)
        found: list[ListedRun] = []
        gone = size = 0
        async with aclosing(self._shown(newest[:limit])) as all_shown:
            async for run_id, shown in all_shown:
                each = await self._member(run_id, versions[run_id], shown)
                if each is None:
                    gone += 1
                    continue
                found.append(each)
                size += each.size
                if is_full(len(found), size):
                    break
        runs = that_fit(found)
        positions = tuple(position for position, _ in states)
        return SetState(runs, len(newest) > len(runs) + gone, positions)

    async def _members(self, runs: RunSet, limit: int) -> tuple[Position, dict[str, int]]:
        name = str(runs)
        epoch, next_offset, ids, versions = await self._servers.read(
            "members", bucket_of(name), (f"{name}/$runs:meta",), name, limit
        )
        position = Position(epoch.decode(), next_offset) if epoch else ORIGIN
        return position, {
            id.decode(): int(version) for id, version in zip(ids, versions, strict=True)
        }

    async def _member(self, run_id: str, version: int, shown: _Shown | None) -> ListedRun | None:
        """Return the listed form of a run at a version; None if the run was deleted."""
        if shown is None:
            return None
        if shown.version - 1 <= version and shown.data:
            return decode_listed(shown.data)
        run = await self._at(run_id, version)
        if run is None:
            return None
        return ListedRun(in_set(run), len(orjson.dumps(run.to_wire())))

    async def _at(self, run_id: str, version: int) -> Run | None:
        """Return a run at a version; None if the run was deleted."""
        try:
            loaded = await self._load(run_id)
            if loaded.version - 1 <= version:
                return loaded.run
            return await self._fold(run_id, version + 1)  # it has changed since the version
        except RunNotFound:
            return None

    async def listed(self, run_ids: Sequence[str]) -> AsyncGenerator[ListedRun, None]:
        """Yield the listed form of runs; deleted runs are skipped."""
        async with aclosing(self._shown(run_ids)) as all_shown:
            async for run_id, shown in all_shown:
                if shown is None:
                    continue
                try:  # a large run that the previous release changed last has no listed form
                    yield in_list(decode_listed(shown.data or (await self._load(run_id)).data))
                except RunNotFound:
                    continue

    async def _shown(
        self, run_ids: Sequence[str]
    ) -> AsyncGenerator[tuple[str, _Shown | None], None]:
        async def ask(run_id: str) -> tuple[str, _Shown | None]:
            keys = (f"{run_id}:run", f"{run_id}/$run:meta")
            bucket = bucket_of(run_id)
            answer = await self._servers.read(
                "load_listed", bucket, keys, run_id, LISTED_FIELD_BYTES
            )
            return run_id, None if answer is None else _Shown(*answer)

        for at in range(0, len(run_ids), LOT_RUNS):
            for found in await asyncio.gather(*map(ask, run_ids[at : at + LOT_RUNS])):
                yield found

    async def ids(self, runs: RunSet, before: str | None, limit: int) -> list[str]:
        """Return the newest members of a set, older than `before` if that is given."""
        bucket = bucket_of(str(runs))
        return await newest_ids(self._servers, [(bucket, f"{runs}:members")], before, limit)


async def newest_ids(
    servers: Topology, indexes: Iterable[tuple[int, str]], before: str | None, limit: int
) -> list[str]:
    """Return the newest ids of several indexes, merged.

    Args:
        servers: The servers that store the indexes.
        indexes: Bucket and name of each index.
        before: Return only ids that sort before this one.
        limit: Largest number of ids.
    """
    lot = (f"({before}" if before is not None else "+", "-", "LIMIT", 0, limit)
    found: list[list[bytes]] = await asyncio.gather(
        *(
            servers.command(
                bucket, "ZREVRANGEBYLEX", servers.base(bucket) + name, *lot, kind="read"
            )
            for bucket, name in indexes
        )
    )
    return sorted({id.decode() for ids in found for id in ids}, reverse=True)[:limit]


async def first_names(servers: Topology, index: str, after: str, limit: int) -> list[str]:
    """Return the first names after `after` in an index over all buckets, sorted."""
    lot = (f"({after}" if after else "-", "+", "LIMIT", 0, limit)
    found: list[list[bytes]] = await asyncio.gather(
        *(
            servers.command(bucket, "ZRANGEBYLEX", servers.base(bucket) + index, *lot, kind="read")
            for bucket in range(BUCKETS)
        )
    )
    return [name.decode() for name in sorted(name for names in found for name in names)[:limit]]


async def fold(
    read: Callable[[StreamKey, Position | None], Awaitable[Any]], run_id: str, count: int
) -> Run:
    """Fold the first `count` records of a run's log into a run."""
    wire: Any = None
    after, taken = None, 0
    while taken < count and (page := await read(run_log(run_id), after)).records:
        for record in page.records[: count - taken]:
            wire = fold_change(wire, orjson.loads(record.data))
        taken, after = taken + len(page.records), page.position
    return Run.from_wire(wire or {})
