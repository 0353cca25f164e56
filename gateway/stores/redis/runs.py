"""Create, change, list and delete runs in Redis, with their idempotency keys."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import orjson

from gateway.errors import RunExists, RunNotFound, StoreUnavailable, StreamEnded
from gateway.model.log import Page, RunQuery, run_log
from gateway.model.patches import Operation
from gateway.model.records import Position, RunSet, StreamKey, Writer
from gateway.model.runs import STATUSES, Run, change, iso_time, time_ms
from gateway.stores.base import encode_json, end_of, matches, new_epoch, system_clock_ms
from gateway.stores.idempotency import WriterState, count_duplicates
from gateway.stores.redis.run_sets import (
    LoadedRun,
    RedisSets,
    fold,
    newest_ids,
    outbox_deletion,
    outbox_entry,
)
from gateway.stores.redis.topology import BUCKETS, Topology, bucket_of
from gateway.stores.run_lists import ListedRun, encode_listed, is_full, that_fit

CHANGE_ATTEMPTS = 100  # for a run that other processes change concurrently
CLAIM_S = 2.0  # time allowed from the claim of an idempotency key to the run's creation
VOID_MS = 3_600_000  # how long a voided run id stays rejected

Read = Callable[[StreamKey, Position | None], Awaitable[Page]]


class RedisRuns:
    """The part of the store that reads and writes runs.

    Attributes:
        sets: The part that reads and writes sets of runs.

    Args:
        servers: The servers that store the runs.
        read: Reads a page of a stream.
        clock_ms: Returns the time of records in milliseconds; None: the server's clock.
    """

    def __init__(self, servers: Topology, read: Read, clock_ms: Callable[[], int] | None) -> None:
        self.sets = RedisSets(
            servers, self.load, lambda id, count: fold(read, id, count), self._now
        )
        self._servers = servers
        self._clock_ms = clock_ms
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def _now(self) -> int:
        return self._clock_ms() if self._clock_ms else 0

    # ---- creation ----

    async def create(self, run: Run) -> Run:
        """See `Store.create_run`."""
        data = encode_json(run.to_wire(), f"run {run.id}")
        if run.idempotency_key is None:
            if not await self._make(run, data):
                raise StoreUnavailable(f"run {run.id}: its id was given up; use another")
            return run
        if await self._exists(run.id):
            raise RunExists(f"run {run.id} exists already")
        holder, given_up = await self._claim(run, ""), ""
        while True:
            if holder == run.id and await self._make(run, data):
                return run
            if holder != run.id and (first := await self._made(holder)) is not None:
                return first
            given_up = holder
            holder = await self._claim(run, given_up)
            if holder == run.id == given_up:
                raise StoreUnavailable(f"run {run.id}: its idempotency key was taken meanwhile")

    async def _make(self, run: Run, data: bytes) -> bool:
        """Store a new run; False if its id has been voided."""
        entry = outbox_entry(None, run, 0, data, data)
        what, *outbox_id = await self._servers.write(
            "create",
            bucket_of(run.id),
            (f"{run.id}:run", f"{run.id}/$run:meta", f"{run.id}/$run:log"),
            run.id,
            self._now(),
            new_epoch(system_clock_ms()),
            data,
            run.status,
            run.owner,
            end_of(run) or "",
            entry,
            _finished_ms(run),
            encode_listed(run, len(data)),
            repeatable=False,
        )
        if what == b"exists":
            raise RunExists(f"run {run.id} exists already")
        if entry and outbox_id:
            await self.sets.tell(outbox_id[0], entry)
        return bool(what == b"ok")

    # An idempotency key and its run are in different slots. A caller first claims the key for the
    # run's id, then creates the run. A caller that finds a claim without a run waits for `CLAIM_S`.
    # Then it voids the id, so that a slow claimant can no longer create the run, and takes over the
    # claim.

    async def _claim(self, run: Run, void: str) -> str:
        name = _claim_name(run)
        expires_at = run.idempotency_key_expires_at
        now_ms = self._now() or system_clock_ms()
        holder = await self._servers.write(
            "claim",
            bucket_of(name),
            (f"key:{name}",),
            name,
            run.id,
            expires_at or "",
            time_ms(expires_at) if expires_at else "",
            iso_time(now_ms),
            void,
            repeatable=True,
        )
        return str(holder.decode())

    async def _made(self, run_id: str) -> Run | None:
        """Wait for the run that holds a claim; None after its id has been voided."""
        deadline = time.monotonic() + CLAIM_S
        while True:
            try:
                return (await self.load(run_id)).run
            except RunNotFound:
                if time.monotonic() >= deadline:
                    break
            await asyncio.sleep(0.01)
        is_there = await self._servers.write(
            "void", bucket_of(run_id), (f"{run_id}:run",), run_id, VOID_MS, repeatable=True
        )
        return (await self.load(run_id)).run if is_there else None

    async def put(self, run: Run) -> None:
        """Store a run of another store unchanged; see `CopyableStore.import_run`."""
        bucket = bucket_of(run.id)
        log = f"{self._servers.base(bucket)}{run.id}/$run:meta"
        count = int(await self._servers.command(bucket, "HGET", log, "next", kind="read"))
        data = encode_json(run.to_wire(), f"run {run.id}")
        entry = outbox_entry(None, run, count - 1, data, data)
        outbox_id = await self._servers.write(
            "import_run",
            bucket,
            (f"{run.id}:run", f"{run.id}/$run:meta"),
            run.id,
            data,
            run.status,
            run.owner,
            end_of(run) or "",
            entry,
            _finished_ms(run),
            encode_listed(run, len(data)),
            repeatable=False,
        )
        if run.idempotency_key is not None:
            await self._claim(run, "")
        if entry:
            await self.sets.tell(outbox_id, entry)

    async def _exists(self, run_id: str) -> bool:
        try:
            await self.load(run_id)
        except RunNotFound:
            return False
        return True

    # ---- changes ----

    async def load(self, run_id: str) -> LoadedRun:
        """Load the current state of a run.

        Raises:
            RunNotFound: the run does not exist.
        """
        return (await self._load(run_id, None))[0]

    async def _load(
        self, run_id: str, writer: Writer | None
    ) -> tuple[LoadedRun, WriterState | None]:
        answer = await self._servers.read(
            "load",
            bucket_of(run_id),
            (f"{run_id}:run", f"{run_id}/$run:meta"),
            run_id,
            writer.id if writer is not None else "",
        )
        if answer is None:
            raise RunNotFound(f"there is no run {run_id}")
        data, version, epoch, state = answer
        loaded = LoadedRun(data, version, Position(epoch.decode(), version))
        return loaded, WriterState(*state) if state else None

    async def patch(
        self,
        run_id: str,
        patch: Mapping[str, Any],
        operations: Sequence[Operation],
        writer: Writer | None,
    ) -> Run:
        """See `Store.patch_run`."""
        return await self._patch(
            run_id, partial(self._try_patch, run_id, patch, operations, writer)
        )

    async def patch_own(self, run_id: str, patch: Mapping[str, Any], owner: str) -> Run | None:
        """See `ClusterStore.patch_run_if_owner`."""
        try:
            return await self._patch(
                run_id, partial(self._try_patch, run_id, patch, (), None, owner)
            )
        except _NotOwned:
            return None

    async def _patch(self, run_id: str, attempt_once: Callable[[], Awaitable[Run | None]]) -> Run:
        lock = self._locks.setdefault(run_id, asyncio.Lock())
        async with lock:  # serializes this process: only other processes can conflict
            for attempt in range(CHANGE_ATTEMPTS):
                run = await attempt_once()
                if run is not None:
                    return run
                await asyncio.sleep(random.random() * 0.002 * min(attempt, 10))
        raise StoreUnavailable(
            f"run {run_id}: others changed it {CHANGE_ATTEMPTS} times before this change came in"
        )

    async def _try_patch(
        self,
        run_id: str,
        patch: Mapping[str, Any],
        operations: Sequence[Operation],
        writer: Writer | None,
        owner: str | None = None,
    ) -> Run | None:
        loaded, state = await self._load(run_id, writer)
        before, version = loaded.run, loaded.version
        if owner is not None and before.owner != owner:
            raise _NotOwned
        if writer is not None and count_duplicates(state, writer, 1):
            return before
        run, patch = change(before, patch, operations)
        data = encode_json(patch, f"the patch of run {run_id}")
        snapshot = encode_json(run.to_wire(), f"run {run_id}")
        entry = outbox_entry(before, run, version, data, snapshot)
        what, *rest = await self._servers.write(
            "commit",
            bucket_of(run_id),
            (f"{run_id}:run", f"{run_id}/$run:meta", f"{run_id}/$run:log"),
            run_id,
            self._now(),
            new_epoch(system_clock_ms()),
            version,
            snapshot,
            data,
            run.status,
            run.owner,
            end_of(run) or "",
            entry,
            *(writer[:3] if writer is not None else ("", 0, 0)),
            _finished_ms(run),
            encode_listed(run, len(snapshot)),
            repeatable=writer is not None,
        )
        if what == b"ok":
            if entry:
                await self.sets.tell(rest[0], entry)
            return run
        if what == b"ended":
            raise StreamEnded(f"stream {run_log(run_id)} has ended ({rest[0].decode()})")
        return None  # it changed or was deleted: the next attempt finds out

    async def delete(self, run_id: str) -> bool:
        """See `Store.delete_run`."""
        lock = self._locks.setdefault(run_id, asyncio.Lock())
        async with lock:
            for _ in range(CHANGE_ATTEMPTS):
                try:
                    loaded = await self.load(run_id)
                except RunNotFound:
                    return False
                if (is_deleted := await self._try_delete(loaded)) is not None:
                    return is_deleted
        raise StoreUnavailable(f"run {run_id} changes all the time and was not deleted")

    async def _try_delete(self, loaded: LoadedRun) -> bool | None:
        run = loaded.run
        entry = outbox_deletion(run, loaded.version)
        what, *outbox_id = await self._servers.write(
            "remove",
            bucket_of(run.id),
            (f"{run.id}:run", f"{run.id}/$run:meta", f"{run.id}/$run:log"),
            run.id,
            loaded.version,
            entry,
            repeatable=False,
        )
        if what != b"ok":
            return False if what == b"absent" else None
        if run.idempotency_key is not None:
            name = _claim_name(run)
            await self._servers.write(
                "unclaim", bucket_of(name), (f"key:{name}",), name, run.id, repeatable=True
            )
        if entry:
            await self.sets.tell(outbox_id[0], entry)
        return True

    # ---- lists ----

    async def list(self, query: RunQuery) -> list[Run]:
        """See `Store.list_runs`."""
        found: list[ListedRun] = []
        before, size = query.before, 0
        while len(found) < query.limit and not is_full(len(found), size):
            ids = await self._candidates(query, before)
            async with aclosing(self.sets.listed(ids)) as listed:
                async for each in listed:
                    if matches(each.run, query):
                        found.append(each)
                        size += each.size
                    if len(found) >= query.limit or is_full(len(found), size):
                        break
            if len(ids) < query.limit:
                break
            before = ids[-1]
        return that_fit(found[: query.limit])

    async def _candidates(self, query: RunQuery, before: str | None) -> Sequence[str]:
        """Return the next ids from the narrowest index for the query."""
        if (runs := _set_of(query)) is not None:
            return await self.sets.ids(runs, before, query.limit)
        names = ["runs"]
        if query.owner is not None:
            names = [f"owned:{status}:{query.owner}" for status in query.status or STATUSES]
        elif query.status:
            names = [f"status:{status}" for status in STATUSES if status in query.status]
        indexes = ((bucket, name) for bucket in range(BUCKETS) for name in names)
        return await newest_ids(self._servers, indexes, before, query.limit)


class _NotOwned(Exception):
    """The run's owner is not the one that the caller expects."""


def _set_of(query: RunQuery) -> RunSet | None:
    if query.tag is not None:
        return RunSet("tag", query.tag)
    if query.batch_id is not None:
        return RunSet("batch", query.batch_id)
    return RunSet("parent", query.parent_id) if query.parent_id is not None else None


def _finished_ms(run: Run) -> int | str:
    return (time_ms(run.finished_at) or "") if run.finished_at and run.is_finished else ""


def _claim_name(run: Run) -> str:
    return orjson.dumps([run.task, run.idempotency_key]).decode()
