"""Writes of the SQLite store, within one transaction for each group commit."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import orjson

from gateway.errors import RunExists, StoreUnavailable, StreamEnded
from gateway.model.limits import LISTED_FIELD_BYTES
from gateway.model.log import Appended, belongs_to_no_run, is_set_log, run_log
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
)
from gateway.model.retention import EMPTY_SET_S, KEEP_ALL, Retention
from gateway.model.runs import Run, change, iso_time
from gateway.stores.base import encode_json, end_of, new_epoch
from gateway.stores.idempotency import (
    WriterState,
    check_order,
    count_duplicates,
    is_repeated_end,
    repeat,
)
from gateway.stores.reserved_logs import (
    deletion_records,
    is_user_stream,
    set_records,
    sets_of,
    stream_created_record,
)
from gateway.stores.run_lists import encode_listed
from gateway.stores.sqlite.blocks import Budget, CommittedBatch, StreamState, cut, write_streams
from gateway.stores.sqlite.incarnation import Incarnation
from gateway.stores.sqlite.queries import MEMBERS, load_run, snapshot_of, snapshot_there, stream_row

CACHED_STREAMS = 20_000  # about 500 bytes each
FORGOTTEN_TOKENS = 100  # expired tokens to delete, at most, when a use is consumed

# A number is not reused while rows of its deleted stream exist.
_NEXT_NO = (
    "1 + max(coalesce((SELECT max(no) FROM streams), 0),"
    " coalesce((SELECT max(stream) FROM garbage), 0))"
)
_OF_STREAMS = ("writers", "orders", "empty_sets")  # tables with a stream number as key

_log = logging.getLogger("realtime.sqlite")


class Transactions:
    """The writes of a group commit. Used only on the writer thread, between `begin` and `commit`.

    Every method checks its arguments before it changes anything. So a method that raises changes
    nothing, and the other operations of the group commit continue.

    Args:
        connection: The only connection that writes.
        retention: Which records and runs may be deleted.
    """

    def __init__(self, connection: sqlite3.Connection, retention: Retention = KEEP_ALL) -> None:
        self._db = connection
        self._retention = retention
        self.outgrown: set[StreamKey] = set()  # over the retention limits, not trimmed yet
        self._trimmed: set[StreamKey] = set()
        self._streams: dict[StreamKey, StreamState] = {}
        self._dirty: dict[StreamKey, StreamState] = {}
        self.grown: dict[StreamKey, CommittedBatch] = {}  # published to followers after the commit
        self.changed: set[StreamKey] = set()  # their followers must read from the store
        self.ended_runs: set[str] = set()
        self.has_written = False  # since the last incarnation name
        self._renamed: Incarnation | None = None

    def begin(self) -> None:
        """Start a group commit."""
        self.grown, self.changed, self.ended_runs = {}, set(), set()
        if len(self._streams) > CACHED_STREAMS:
            self._streams.clear()
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Write the pending records of all streams and commit the transaction."""
        written = write_streams(self._db, self._dirty)
        self.grown |= written
        self._db.execute("COMMIT")
        self.outgrown -= self._trimmed
        self._trimmed.clear()
        if self._retention.bounds:
            self.outgrown.update(
                key for key, each in written.items() if self._is_outgrown(key, each)
            )
        self._dirty.clear()
        renamed, self._renamed = self._renamed, None
        self.has_written = renamed is None
        if renamed is not None:
            try:
                renamed.follow()
            except OSError as error:
                _log.warning("the store's name could not be written beside it: %s", error)

    def _is_outgrown(self, key: StreamKey, grown: CommittedBatch) -> bool:
        if not grown.entries or not is_user_stream(key):
            return False
        stream = self._dirty[key]
        return self._retention.is_beyond(stream.next_offset - stream.earliest, stream.bytes)

    def probe(self) -> None:
        """Write without changing data, to test whether the file can be written."""
        self._db.execute("UPDATE incarnation SET current = current")

    def rename(self, incarnation: Incarnation) -> None:
        """Give the file a new incarnation name with this commit."""
        incarnation.write(self._db)
        self._renamed = incarnation

    def rollback(self) -> None:
        """Roll back the transaction and clear the caches, which include its changes."""
        self._streams.clear()
        self._dirty.clear()
        self._trimmed.clear()
        self._renamed = None
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def append(
        self,
        key: StreamKey,
        records: Sequence[bytes],
        source: str | None,
        writer: Writer | None,
        end: EndReason | None,
        now_ms: int,
        order: str | None = None,
    ) -> Appended:
        """See `Store.append`."""
        stream = self._find(key)
        if stream is not None and writer is not None:
            state = self._writer(stream, writer.id)
            skip = count_duplicates(state, writer, len(records))
            if state is not None and records and skip == len(records):
                return repeat(state, writer, skip, stream.head())
            if state and not records and is_repeated_end(state, writer, stream.ended, end):
                return repeat(state, writer, 0, stream.head())
            records, writer = records[skip:], writer._replace(sequence=writer.sequence + skip)
        elif writer is not None:
            count_duplicates(None, writer, len(records))
        self._check_open(key, stream)
        if stream is not None and order is not None:
            check_order(key, self._order(stream), order)
        if stream is None:
            stream = self._create(key, new_epoch(now_ms), oldest_ms=now_ms)
            if is_user_stream(key):
                log, data = stream_created_record(key)
                self.append(log, [data], key.run_id, None, None, now_ms)
        if order is not None:
            self._db.execute("INSERT OR REPLACE INTO orders VALUES (?,?)", (stream.no, order))
        return self._add(key, stream, records, source, writer, end, now_ms)

    def _order(self, stream: StreamState) -> str | None:
        sql = "SELECT last FROM orders WHERE stream = ?"
        row = self._db.execute(sql, (stream.no,)).fetchone()
        return row[0] if row else None

    def _check_open(self, key: StreamKey, stream: StreamState | None) -> None:
        if stream is None and (key.stream_id == RUN_STREAM or belongs_to_no_run(key)):
            return  # the run is being created, or the log belongs to no run
        ended = stream.ended if stream is not None else end_of(load_run(self._db, key.run_id))
        if ended is not None:
            raise StreamEnded(f"stream {key} has ended ({ended}); nothing can be appended")

    def _add(
        self,
        key: StreamKey,
        stream: StreamState,
        records: Sequence[bytes],
        source: str | None,
        writer: Writer | None,
        end: EndReason | None,
        now_ms: int,
    ) -> Appended:
        first = stream.next_offset
        stream.added += [(now_ms, source, data) for data in records]
        stream.next_offset += len(records)
        stream.ended = end
        if writer is not None:
            stream.writers[writer.id] = WriterState(
                writer.epoch, writer.after(len(records)), stream.next_offset - 1
            )
            stream.changed_writers.add(writer.id)
        self._dirty[key] = stream
        counted = writer.after(0) if writer and writer.counts == "appends" else None
        return Appended(first if records else None, stream.position(), next_sequence=counted)

    def delete(self, key: StreamKey, now_ms: int) -> None:
        """See `Store.delete`; later sweep steps delete the records, as garbage."""
        stream = self._find(key)
        if stream is None:
            if not belongs_to_no_run(key):
                load_run(self._db, key.run_id)  # raises RunNotFound
            stream = self._create(key, new_epoch(now_ms))
        self._leave_records(stream)
        stream.added.clear()
        stream.bytes = 0
        stream.earliest, stream.ended = stream.next_offset, "deleted"
        self._dirty[key] = stream
        self.changed.add(key)

    def _leave_records(self, stream: StreamState) -> None:
        """Move a stream to a new number without records; the old number becomes garbage."""
        before = stream.no
        self._db.execute("INSERT INTO garbage VALUES (?)", (before,))
        (stream.no,) = self._db.execute(f"SELECT {_NEXT_NO}").fetchone()
        self._db.execute(
            "UPDATE streams SET no = ?, oldest_ms = NULL WHERE no = ?", (stream.no, before)
        )
        for table in _OF_STREAMS:
            sql = f"UPDATE {table} SET stream = ? WHERE stream = ?"
            self._db.execute(sql, (stream.no, before))

    def drop(self, key: StreamKey, at: Position) -> bool:
        """See `PathStore.drop`."""
        stream = self._find(key)
        if stream is None or stream.head().position != at:
            return False
        self._delete_rows("run_id = ? AND stream_id = ?", key)
        self._forget(key)
        self.grown[key] = CommittedBatch(0, [], ORIGIN, None)
        self.changed.add(key)
        return True

    def create_run(self, run: Run, now_ms: int) -> Run:
        """See `Store.create_run`."""
        if snapshot_of(self._db, run.id) is not None:
            raise RunExists(f"run {run.id} exists already")
        if (first := self._first_of_key(run, now_ms)) is not None:
            return first
        data = encode_json(run.to_wire(), f"run {run.id}")
        self.append(run_log(run.id), [data], run.id, None, None, now_ms)
        self._db.execute(
            "INSERT INTO runs (id, status, parent_id, batch_id, owner, snapshot)"
            " VALUES (?,?,?,?,?,?)",
            (run.id, run.status, run.parent_id, run.batch_id, run.owner, data),
        )
        self._list(run, len(data))
        self._tag(run)
        self._hold_key(run)
        self._tell_sets(set_records(None, run, 0, data, data), now_ms)
        return run

    def _first_of_key(self, run: Run, now_ms: int) -> Run | None:
        row = self._db.execute(
            "SELECT run_id FROM keys WHERE task = ? AND key = ?"
            " AND (expires_at IS NULL OR expires_at > ?)",
            (run.task, run.idempotency_key, iso_time(now_ms)),
        ).fetchone()
        return load_run(self._db, row[0]) if row else None

    def patch_run(
        self,
        run_id: str,
        patch: Mapping[str, Any],
        operations: Sequence[Operation],
        writer: Writer | None,
        now_ms: int,
    ) -> Run:
        """See `Store.patch_run`."""
        data_before = snapshot_there(self._db, run_id)
        before = Run.from_wire(orjson.loads(data_before))
        if writer is not None and self._is_repeat(run_log(run_id), writer):
            return before
        run, patch = change(before, patch, operations)
        end = end_of(run)
        data = encode_json(patch, f"the patch of run {run_id}")
        snapshot = encode_json(run.to_wire(), f"run {run_id}")
        version = self.append(run_log(run_id), [data], run_id, writer, end, now_ms).offset or 0
        # Most patches change only metadata, so each indexed column is written only if it changes.
        if run.status != before.status or run.is_finished:
            finished_at = (run.finished_at or iso_time(now_ms)) if run.is_finished else None
            self._db.execute(
                "UPDATE runs SET status = ?, snapshot = ?, finished_at = ? WHERE id = ?",
                (run.status, snapshot, finished_at, run_id),
            )
        else:
            self._db.execute("UPDATE runs SET snapshot = ? WHERE id = ?", (snapshot, run_id))
        self._list(run, max(len(data_before), len(snapshot)))
        if run.owner != before.owner:
            self._db.execute("UPDATE runs SET owner = ? WHERE id = ?", (run.owner, run_id))
        if run.tags != before.tags:
            self._db.execute("DELETE FROM tags WHERE run_id = ?", (run_id,))
            self._tag(run)
        self._tell_sets(set_records(before, run, version, data, snapshot), now_ms)
        if run.tags != before.tags:
            self._note_empty_sets(before, now_ms)
        if end is not None:
            self._end_streams(run_id, end)
        return run

    def delete_run(self, run_id: str, now_ms: int) -> bool:
        """See `Store.delete_run`; later sweep steps delete the records, as garbage."""
        data = snapshot_of(self._db, run_id)
        if data is None:
            return False
        run = Run.from_wire(orjson.loads(data))
        log = self._find(run_log(run_id))
        version = log.next_offset if log is not None else 0
        self._tell_sets(deletion_records(run, version), now_ms)
        sql = "SELECT stream_id FROM streams WHERE run_id = ?"
        for (stream_id,) in self._db.execute(sql, (run_id,)).fetchall():
            self._forget(StreamKey(run_id, stream_id))
        self._delete_rows("run_id = ?", [run_id])
        self._db.execute("DELETE FROM tags WHERE run_id = ?", (run_id,))
        self._db.execute(
            "DELETE FROM keys WHERE task = ? AND key = ? AND run_id = ?",
            (run.task, run.idempotency_key, run_id),
        )
        self._db.execute("DELETE FROM runs WHERE id = ?", (run_id,))
        self._db.execute("DELETE FROM listed WHERE run_id = ?", (run_id,))
        self._note_empty_sets(run, now_ms)
        self.ended_runs.add(run_id)
        return True

    def _note_empty_sets(self, left: Run, now_ms: int) -> None:
        """Register the logs of sets that lost their last run, for a later sweep to check."""
        for each in sets_of(left):
            if self._is_empty(each):
                self._db.execute(
                    "INSERT OR REPLACE INTO empty_sets (stream, since_ms)"
                    " SELECT no, ? FROM streams WHERE run_id = ? AND stream_id = ?",
                    (now_ms, *each.log),
                )

    def _is_empty(self, each: RunSet) -> bool:
        return self._db.execute(f"{MEMBERS[each.kind]} LIMIT 1", (each.id,)).fetchone() is None

    def _forget(self, key: StreamKey) -> None:
        self._streams.pop(key, None)
        self._dirty.pop(key, None)

    def forget_set(self, key: StreamKey, now_ms: int) -> None:
        """Remove the log of a set if the set has had no runs for `EMPTY_SET_S`."""
        stream = self._find(key)
        if stream is None or stream.added:
            return  # the log was deleted, or it changes in this commit
        row = self._db.execute(
            "SELECT last_ms FROM blocks WHERE stream = ? ORDER BY first DESC LIMIT 1", (stream.no,)
        ).fetchone()
        changed_ms = row[0] if row is not None else 0
        if not self._is_empty(RunSet.parse(key.run_id)):
            self._db.execute("DELETE FROM empty_sets WHERE stream = ?", (stream.no,))
        elif changed_ms > now_ms - EMPTY_SET_S * 1000:
            sql = "UPDATE empty_sets SET since_ms = ? WHERE stream = ?"
            self._db.execute(sql, (changed_ms, stream.no))
        else:
            self._delete_rows("run_id = ? AND stream_id = ?", key)
            self._forget(key)
            self.changed.add(key)

    def _delete_rows(self, condition: str, values: Sequence[str]) -> None:
        found = f"FROM streams WHERE {condition}"
        self._db.execute(f"INSERT INTO garbage SELECT no {found}", values)
        for table in _OF_STREAMS:
            self._db.execute(f"DELETE FROM {table} WHERE stream IN (SELECT no {found})", values)
        self._db.execute(f"DELETE {found}", values)

    def drop_garbage(self, budget: Budget) -> bool:
        """Delete rows of deleted streams; return whether there may be more."""
        rows = self._db.execute(
            # LEFT JOIN makes `garbage` the outer table; otherwise the planner scans all blocks.
            "SELECT g.stream, b.no, length(b.data) FROM garbage g"
            " LEFT JOIN blocks b ON b.stream = g.stream ORDER BY g.stream LIMIT ?",
            (max(1, budget.rows),),
        ).fetchall()
        blocks: list[tuple[int]] = []
        emptied_to, has_more = 0, len(rows) >= budget.rows
        for stream, no, size in rows:
            if no is None:
                emptied_to = stream
                continue
            emptied_to = stream - 1  # the stream may have more rows
            if budget.is_spent:
                has_more = True
                break
            budget.charge(size)
            blocks.append((no,))
        if rows and not has_more:
            emptied_to = rows[-1][0]
        self._db.executemany("DELETE FROM blocks WHERE no = ?", blocks)
        self._db.execute("DELETE FROM garbage WHERE stream <= ?", (emptied_to,))
        return has_more

    def trim(
        self, key: StreamKey, retention: Retention, now_ms: int, budget: Budget
    ) -> tuple[int, bool]:
        """Delete the oldest rows of a stream that exceed its retention limits.

        Returns:
            The number of deleted records, and whether the budget ended before the last such row.
        """
        stream = self._find(key)
        if stream is None:
            self._trimmed.add(key)
            return 0, False
        sql = "SELECT first, length(data), last_ms FROM blocks WHERE stream = ? ORDER BY first"
        with closing(self._db.execute(sql, (stream.no,))) as rows:
            found = cut(rows, stream, retention, now_ms, budget)
        removed = found.earliest - stream.earliest
        if removed > 0:
            self._db.execute(
                "DELETE FROM blocks WHERE stream = ? AND first < ?", (stream.no, found.earliest)
            )
            stream.earliest, stream.bytes = found.earliest, stream.bytes - found.bytes
            self._dirty[key] = stream
        if not found.is_cut_short:
            self._trimmed.add(key)
            # The first record of a stream does not set `oldest_ms`. So a stream that never had a
            # record gets the current time, and a later sweep checks it again.
            oldest_ms = found.oldest_ms if stream.next_offset > 0 else now_ms
            sql = "UPDATE streams SET oldest_ms = ? WHERE no = ?"
            self._db.execute(sql, (oldest_ms, stream.no))
        return removed, found.is_cut_short

    def import_records(
        self,
        key: StreamKey,
        at: Position,
        records: Sequence[Record],
        end: EndReason | None,
        order: str | None,
        writers: Mapping[str, WriterState],
    ) -> None:
        """Append unchanged records of another store; see `CopyableStore.import_records`."""
        stream = self._find(key)
        if stream is None:
            oldest_ms = min((each.time_ms for each in records), default=0)
            stream = self._create(key, at.epoch, at.offset, oldest_ms)
            if is_set_log(key):  # its runs may be imported later, or never
                self._db.execute("INSERT INTO empty_sets VALUES (?, 0)", (stream.no,))
        elif stream.head().position != at:
            raise StoreUnavailable(f"stream {key} is at {stream.head().position}, and not at {at}")
        stream.added.extend((each.time_ms, each.source, each.data) for each in records)
        stream.next_offset += len(records)
        stream.ended = end
        stream.writers.update(writers)
        stream.changed_writers.update(writers)
        if order is not None:
            self._db.execute("INSERT OR REPLACE INTO orders VALUES (?,?)", (stream.no, order))
        self._dirty[key] = stream

    def import_run(self, run: Run) -> None:
        """Store an unchanged run of another store; see `CopyableStore.import_run`."""
        data = encode_json(run.to_wire(), f"run {run.id}")
        self._db.execute(
            "INSERT OR REPLACE INTO runs (id, status, parent_id, batch_id, owner, snapshot,"
            " finished_at) VALUES (?,?,?,?,?,?,?)",
            (
                *(run.id, run.status, run.parent_id, run.batch_id, run.owner),
                data,
                (run.finished_at or run.created_at) if run.is_finished else None,
            ),
        )
        self._list(run, len(data))
        self._db.execute("DELETE FROM tags WHERE run_id = ?", (run.id,))
        self._tag(run)
        self._hold_key(run)

    def _hold_key(self, run: Run) -> None:
        if run.idempotency_key is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO keys (task, key, run_id, expires_at) VALUES (?,?,?,?)",
                (run.task, run.idempotency_key, run.id, run.idempotency_key_expires_at),
            )

    def import_token_uses(self, token_id: str, uses: int, expires_at_ms: int) -> None:
        """Store consumed uses of a token; a larger stored number is not lowered."""
        self._db.execute(
            "INSERT INTO spent (id, uses, expires_at_ms) VALUES (?,?,?)"
            " ON CONFLICT (id) DO UPDATE SET uses = max(uses, excluded.uses)",
            (token_id, uses, expires_at_ms),
        )

    def consume_token_use(self, token_id: str, uses: int, expires_at_ms: int, now_ms: int) -> bool:
        """See `Store.consume_token_use`."""
        self._db.execute(
            "DELETE FROM spent WHERE id IN"
            " (SELECT id FROM spent WHERE expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?)",
            (now_ms, FORGOTTEN_TOKENS),
        )
        row = self._db.execute("SELECT uses FROM spent WHERE id = ?", (token_id,)).fetchone()
        taken = row[0] if row else 0
        if taken < uses:
            self._db.execute(
                "INSERT OR REPLACE INTO spent (id, uses, expires_at_ms) VALUES (?,?,?)",
                (token_id, taken + 1, expires_at_ms),
            )
        return bool(taken < uses)

    def _is_repeat(self, key: StreamKey, writer: Writer) -> bool:
        stream = self._find(key)
        state = self._writer(stream, writer.id) if stream is not None else None
        return count_duplicates(state, writer, 1) > 0

    def _tell_sets(self, records: list[tuple[StreamKey, bytes]], now_ms: int) -> None:
        for key, data in records:
            self.append(key, [data], key.run_id, None, None, now_ms)  # source: the log's owner

    def _list(self, run: Run, most_bytes: int) -> None:
        """Store a run's shortened copy for lists, or delete an obsolete copy.

        `most_bytes` is the size of the larger of its old and its new snapshot.
        """
        if most_bytes <= LISTED_FIELD_BYTES:
            return
        if listed := encode_listed(run, most_bytes):
            sql = "INSERT OR REPLACE INTO listed (run_id, snapshot) VALUES (?,?)"
            self._db.execute(sql, (run.id, listed))
        else:
            self._db.execute("DELETE FROM listed WHERE run_id = ?", (run.id,))

    def _tag(self, run: Run) -> None:
        self._db.executemany(
            "INSERT OR IGNORE INTO tags (tag, run_id) VALUES (?,?)",
            [(tag, run.id) for tag in run.tags],
        )

    def _end_streams(self, run_id: str, end: EndReason) -> None:
        rows = self._db.execute(
            "SELECT stream_id FROM streams WHERE run_id = ? AND ended IS NULL", (run_id,)
        ).fetchall()
        for (stream_id,) in rows:
            key = StreamKey(run_id, stream_id)
            stream = self._find(key)
            if stream is not None and stream.ended is None:
                stream.ended = end
                self._dirty[key] = stream
        self.ended_runs.add(run_id)

    def _find(self, key: StreamKey) -> StreamState | None:
        stream = self._streams.get(key)
        if stream is None and (row := stream_row(self._db, key)) is not None:
            stream = self._streams[key] = StreamState(*row)
        return stream

    def _create(
        self, key: StreamKey, epoch: str, first: int = 0, oldest_ms: int | None = None
    ) -> StreamState:
        cursor = self._db.execute(
            "INSERT INTO streams (no, run_id, stream_id, epoch, earliest, next, oldest_ms)"
            f" VALUES ({_NEXT_NO},?,?,?,?,?,?)",
            (*key, epoch, first, first, oldest_ms if is_user_stream(key) else None),
        )
        stream = StreamState(cursor.lastrowid or 0, epoch, first, first, None, 0)
        self._streams[key] = stream
        return stream

    def _writer(self, stream: StreamState, id: str) -> WriterState | None:
        if id not in stream.writers:
            row = self._db.execute(
                "SELECT epoch, next_sequence, last_offset FROM writers WHERE stream = ? AND id = ?",
                (stream.no, id),
            ).fetchone()
            stream.writers[id] = WriterState(*row) if row else None
        return stream.writers[id]
