"""`memory:`: a store in this process, for tests and experiments. Its data ends with the process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from gateway.errors import RunExists, RunNotFound, StoreUnavailable, StreamEnded
from gateway.model.log import (
    NO_RECORDS,
    Appended,
    Head,
    Page,
    RunQuery,
    RunState,
    SetState,
    belongs_to_no_run,
    is_set_log,
    run_log,
)
from gateway.model.patches import Operation
from gateway.model.records import (
    ORIGIN,
    RUN_STREAM,
    EndReason,
    Position,
    Record,
    RunSet,
    StreamKey,
    Writer,
    path_of,
)
from gateway.model.retention import EMPTY_SET_S, KEEP_ALL, Retention, SweepResult
from gateway.model.runs import Run, change, check_new_run, iso_time
from gateway.stores.base import (
    PAGE_BYTES,
    OnAppended,
    OnPage,
    encode_json,
    end_of,
    matches,
    new_epoch,
    system_clock_ms,
)
from gateway.stores.change_notifier import ChangeNotifier
from gateway.stores.idempotency import (
    WriterState,
    check_order,
    count_duplicates,
    is_repeated_end,
    repeat,
)
from gateway.stores.paging import make_page, place
from gateway.stores.reserved_logs import (
    check_path_log,
    deletion_records,
    is_user_stream,
    min_records_kept,
    set_records,
    sets_of,
    stream_created_record,
)
from gateway.stores.run_lists import ListedRun, in_list, in_set, that_fit


@dataclass(slots=True)
class _Stream:
    epoch: str
    records: list[Record] = field(default_factory=list)
    end: EndReason | None = None
    next_offset: int = 0
    writers: dict[str, WriterState] = field(default_factory=dict)
    order: str | None = None

    def head(self) -> Head:
        earliest = self.next_offset - len(self.records)
        return Head(
            Position(self.epoch, self.next_offset), Position(self.epoch, earliest), self.end
        )


class MemoryStore:
    """The store contract, implemented with dicts.

    Args:
        clock_ms: Returns the time of new records in milliseconds.
        epoch: Returns the epoch of a new stream, from the time in milliseconds.
        retention: Which records and runs may be deleted.
    """

    def __init__(
        self,
        *,
        clock_ms: Callable[[], int] = system_clock_ms,
        epoch: Callable[[int], str] = new_epoch,
        retention: Retention = KEEP_ALL,
    ) -> None:
        self._clock_ms = clock_ms
        self._new_epoch = epoch
        self._retention = retention
        self._streams: dict[StreamKey, _Stream] = {}
        self._runs: dict[str, Run] = {}
        self._listed: dict[str, tuple[Run, ListedRun]] = {}  # filled when a run is first listed
        self._spent: dict[str, tuple[int, int]] = {}  # uses consumed and expiry, by token id
        self._keys: dict[tuple[str, str], Run] = {}  # by task and idempotency key
        self._growth = ChangeNotifier()
        self._is_open = False

    async def open(self) -> None:
        """See `Store.open`."""
        self._is_open = True

    async def close(self) -> None:
        """See `Store.close`."""
        self._is_open = False

    @property
    def is_ready(self) -> bool:
        """See `Store.is_ready`."""
        return self._is_open

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
        return self._append(key, records, source, writer, end, order)

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
        try:
            outcome: Appended | Exception = self._append(key, records, source, writer, end, order)
        except Exception as error:
            outcome = error
        done(outcome)

    def _append(
        self,
        key: StreamKey,
        records: Sequence[bytes],
        source: str | None,
        writer: Writer | None,
        end: EndReason | None,
        order: str | None,
    ) -> Appended:
        self._check_open()
        stream = self._streams.get(key)
        state = stream.writers.get(writer.id) if stream and writer else None
        skip = count_duplicates(state, writer, len(records)) if writer else 0
        if stream and writer and state and records and skip == len(records):
            return repeat(state, writer, skip, stream.head())
        if stream and writer and not records and is_repeated_end(state, writer, stream.end, end):
            return repeat(stream.writers[writer.id], writer, 0, stream.head())
        if writer:
            writer = writer._replace(sequence=writer.sequence + skip)
        return self._write(key, records[skip:], source, writer, end, order)

    def _write(
        self,
        key: StreamKey,
        records: Sequence[bytes],
        source: str | None,
        writer: Writer | None,
        end: EndReason | None,
        order: str | None = None,
    ) -> Appended:
        is_new_run = key.stream_id == RUN_STREAM and key not in self._streams
        if not is_new_run and (ended := self._head(key).end) is not None:
            raise StreamEnded(f"stream {key} has ended ({ended}); nothing can be appended")
        if key in self._streams:
            check_order(key, self._streams[key].order, order)
        now_ms = self._clock_ms()
        if key not in self._streams and is_user_stream(key):
            log, data = stream_created_record(key)
            self._write(log, [data], key.run_id, None, None)
        stream = self._made(key)
        first = stream.next_offset
        added = [Record(first + i, now_ms, source, data) for i, data in enumerate(records)]
        stream.records.extend(added)
        stream.next_offset += len(added)
        if writer:
            stream.writers[writer.id] = WriterState(
                writer.epoch, writer.after(len(added)), stream.next_offset - 1
            )
        stream.end = end
        stream.order = order if order is not None else stream.order
        kept = min_records_kept(key)
        if kept is not None and len(stream.records) > 2 * kept:
            del stream.records[:-kept]
        position = stream.head().position
        self._growth.publish(key, Page(added, position, end))
        counted = writer.after(0) if writer and writer.counts == "appends" else None
        return Appended(first if added else None, position, next_sequence=counted)

    async def read(
        self, key: StreamKey, after: Position | None = None, max_bytes: int = PAGE_BYTES
    ) -> Page:
        """See `Store.read`."""
        self._check_open()
        head = self._head(key)
        start, reset, gap = place(after, head)
        stream = self._streams.get(key)
        if stream is None:
            return make_page([], start, head, reset=reset, gap=gap)
        records: list[Record] = []
        size = 0
        for index in range(start - head.earliest.offset, len(stream.records)):
            size += len(stream.records[index].data)
            if records and size > max_bytes:
                break
            records.append(stream.records[index])
        return make_page(records, start, head, reset=reset, gap=gap)

    async def head(self, key: StreamKey) -> Head:
        """See `Store.head`."""
        self._check_open()
        return self._head(key)

    def _head(self, key: StreamKey) -> Head:
        if (stream := self._streams.get(key)) is not None:
            return stream.head()
        if belongs_to_no_run(key):
            return NO_RECORDS
        return Head(ORIGIN, ORIGIN, end_of(self._run(key.run_id)))

    def _made(self, key: StreamKey) -> _Stream:
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = _Stream(self._new_epoch(self._clock_ms()))
        return stream

    def _run(self, run_id: str) -> Run:
        run = self._runs.get(run_id)
        if run is None:
            raise RunNotFound(f"there is no run {run_id}")
        return run

    async def delete(self, key: StreamKey) -> None:
        """See `Store.delete`."""
        self._check_open()
        self._head(key)  # raises RunNotFound
        stream = self._made(key)
        stream.records.clear()
        stream.end = "deleted"
        self._growth.publish(key, None)

    def follow(
        self, key: StreamKey, after: Position | None = None, on_page: OnPage | None = None
    ) -> AsyncGenerator[Page, None]:
        """See `Store.follow`."""
        return self._growth.follow(key, after, self.read, on_page)

    def is_known_tail(self, key: StreamKey, after: Position) -> bool:
        """See `PathStore.is_known_tail`."""
        stream = self._streams.get(key)
        return stream is not None and stream.end is None and stream.head().position == after

    async def list_path_logs(self, after: StreamKey | None, limit: int) -> list[StreamKey]:
        """See `PathStore.list_path_logs`."""
        self._check_open()
        keys = (key for key in self._streams if path_of(key) is not None)
        return sorted(key for key in keys if after is None or key > after)[:limit]

    async def drop(self, key: StreamKey, at: Position) -> bool:
        """See `PathStore.drop`."""
        self._check_open()
        check_path_log(key)
        stream = self._streams.get(key)
        if stream is None or stream.head().position != at:
            return False
        del self._streams[key]
        self._growth.publish(key, None)
        return True

    async def create_run(self, run: Run) -> Run:
        """See `Store.create_run`."""
        self._check_open()
        check_new_run(run)
        if run.id in self._runs:
            raise RunExists(f"run {run.id} exists already")
        if (first := self._first_of_key(run)) is not None:
            return first
        data = encode_json(run.to_wire(), f"run {run.id}")
        self._runs[run.id] = run
        self._write(run_log(run.id), [data], run.id, None, None)
        if run.idempotency_key is not None:
            self._keys[run.task, run.idempotency_key] = run
        self._tell_sets(None, run, 0, data)
        return run

    def _first_of_key(self, run: Run) -> Run | None:
        first = self._keys.get((run.task, run.idempotency_key or ""))
        if first is None:
            return None
        expires_at = first.idempotency_key_expires_at
        is_expired = expires_at is not None and expires_at <= iso_time(self._clock_ms())
        return None if is_expired else self._runs[first.id]

    async def patch_run(
        self,
        run_id: str,
        patch: Mapping[str, Any],
        *,
        operations: Sequence[Operation] = (),
        writer: Writer | None = None,
    ) -> Run:
        """See `Store.patch_run`."""
        before = (await self.get_run(run_id)).run
        log = run_log(run_id)
        writers = self._streams[log].writers
        if writer is not None and count_duplicates(writers.get(writer.id), writer, 1):
            return before
        run, patch = change(before, patch, operations)
        end = end_of(run)
        data = encode_json(patch, f"the patch of run {run_id}")
        version = self._write(log, [data], run_id, writer, end).position.offset - 1
        self._runs[run_id] = run
        self._tell_sets(before, run, version, data)
        if end is not None:
            self._end_streams(run_id, end)
        return run

    async def delete_run(self, run_id: str) -> bool:
        """See `Store.delete_run`."""
        self._check_open()
        run = self._runs.get(run_id)
        if run is None:
            return False
        for key, data in deletion_records(run, self._streams[run_log(run_id)].next_offset):
            self._write(key, [data], key.run_id, None, None)
        del self._runs[run_id]
        self._listed.pop(run_id, None)
        for key in [key for key in self._streams if key.run_id == run_id]:
            del self._streams[key]
        self._keys = {name: kept for name, kept in self._keys.items() if kept.id != run_id}
        self._growth.invalidate_run(run_id)
        return True

    async def sweep(self) -> SweepResult:
        """See `Store.sweep`; one call does everything, because all data is in memory."""
        self._check_open()
        now_ms = self._clock_ms()
        until = self._retention.runs_until(now_ms)
        finished = (run for run in self._runs.values() if run.is_finished)
        old = [run.id for run in finished if self._finished_at(run) <= until]
        for run_id in old:
            await self.delete_run(run_id)
        for key in [key for key in self._streams if self._is_forgotten_set(key, now_ms)]:
            del self._streams[key]
        trimmed = [key for key in self._streams if self._retention.trims and is_user_stream(key)]
        records = sum(self._trim(self._streams[key], now_ms) for key in trimmed)
        return SweepResult(records, len(old))

    def _finished_at(self, run: Run) -> str:
        return run.finished_at or iso_time(self._streams[run_log(run.id)].records[-1].time_ms)

    def _is_forgotten_set(self, key: StreamKey, now_ms: int) -> bool:
        if not is_set_log(key):
            return False
        changed_ms = self._streams[key].records[-1].time_ms
        is_old = changed_ms + EMPTY_SET_S * 1000 <= now_ms
        return is_old and not any(
            RunSet.parse(key.run_id) in sets_of(run) for run in self._runs.values()
        )

    def _trim(self, stream: _Stream, now_ms: int) -> int:
        kept, records = self._retention, stream.records
        since_ms = kept.records_since_ms(now_ms)
        excess = sum(len(record.data) for record in records) - (kept.bytes or float("inf"))
        stop = max(0, len(records) - kept.records) if kept.records is not None else 0
        for index, record in enumerate(records):
            size = len(record.data)
            if index >= stop and record.time_ms >= since_ms and size > excess:
                break
            stop, excess = max(stop, index + 1), excess - size
        del records[:stop]
        return stop

    def _tell_sets(self, before: Run | None, run: Run, version: int, patch: bytes) -> None:
        if not (run.tags or run.batch_id or run.parent_id or (before and before.tags)):
            return
        snapshot = encode_json(run.to_wire(), f"run {run.id}")
        for key, data in set_records(before, run, version, patch, snapshot):
            self._write(key, [data], key.run_id, None, None)  # source: the log's owner

    def _end_streams(self, run_id: str, end: EndReason) -> None:
        for key, stream in self._streams.items():
            if key.run_id == run_id and stream.end is None:
                stream.end = end
        self._growth.invalidate_run(run_id)

    async def get_run(self, run_id: str) -> RunState:
        """See `Store.get_run`."""
        self._check_open()
        return RunState(self._run(run_id), self._head(run_log(run_id)).position)

    async def consume_token_use(self, token_id: str, uses: int, expires_at_ms: int) -> bool:
        """See `Store.consume_token_use`."""
        self._check_open()
        now_ms = self._clock_ms()
        self._spent = {id: kept for id, kept in self._spent.items() if kept[1] > now_ms}
        count, _ = self._spent.get(token_id, (0, 0))
        if count < uses:
            self._spent[token_id] = (count + 1, expires_at_ms)
        return count < uses

    async def list_runs(self, query: RunQuery) -> list[Run]:
        """See `Store.list_runs`."""
        self._check_open()
        runs = (self._runs[run_id] for run_id in sorted(self._runs, reverse=True))
        found = (in_list(self._shown(run)) for run in runs if matches(run, query))
        return that_fit(islice(found, query.limit))

    def _shown(self, run: Run) -> ListedRun:
        """Return a run as sets show it."""
        whole, shown = self._listed.get(run.id, (None, None))
        if whole is not run or shown is None:
            light = in_set(run)
            shown = ListedRun(light, len(orjson.dumps(light.to_wire())))
            self._listed[run.id] = (run, shown)
        return shown

    async def list_set_runs(self, sets: Sequence[RunSet], limit: int) -> SetState:
        """See `Store.list_set_runs`."""
        self._check_open()
        runs = (self._runs[run_id] for run_id in sorted(self._runs, reverse=True))
        members = [run for run in runs if not set(sets).isdisjoint(sets_of(run))]
        positions = tuple(self._head(each.log).position for each in sets)
        found = that_fit(self._shown(run) for run in members[:limit])
        return SetState(found, len(members) > len(found), positions)

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("the memory store is not open")
