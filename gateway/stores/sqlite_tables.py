"""The SQL of the SQLite store: what one transaction and one read do, on a connection that is given.

Records lie in blocks: all that one group commit adds to a stream is one row, a msgpack array of
(time_ms, source, data). A row of its own for each record costs three times the space and the time.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

from gateway.errors import RunExists, RunNotFound, StoreUnavailable, StreamEnded
from gateway.patches import Operation
from gateway.records import (
    ORIGIN,
    RUN_STREAM,
    EndReason,
    Position,
    Record,
    RunSet,
    StreamKey,
    Writer,
)
from gateway.runs import Run, change, iso_time
from gateway.stores.base import (
    NO_RECORDS,
    Appended,
    Head,
    Page,
    RunQuery,
    RunState,
    SetState,
    WriterState,
    announcement,
    belongs_to_no_run,
    check_order,
    deletion_records,
    encode_json,
    end_of,
    is_announced,
    is_repeated_end,
    kept_records,
    new_epoch,
    page_of,
    place,
    records_to_skip,
    repeat,
    run_log,
    set_records,
)
from gateway.stores.retention import Retention
from gateway.stores.sqlite_incarnation import Incarnation

SCHEMA_VERSION = 5
BLOCK_BYTES = 256 << 10  # of one row: what a reader in its middle decodes in vain
CACHED_STREAMS = 20_000  # about 500 bytes each

_SCHEMA = """
CREATE TABLE streams (
    no INTEGER PRIMARY KEY, run_id TEXT NOT NULL, stream_id TEXT NOT NULL, epoch TEXT NOT NULL,
    earliest INTEGER NOT NULL, next INTEGER NOT NULL, ended TEXT, UNIQUE (run_id, stream_id));
CREATE TABLE blocks (
    no INTEGER PRIMARY KEY, stream INTEGER NOT NULL, first INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX blocks_by_offset ON blocks (stream, first);
CREATE TABLE writers (
    stream INTEGER NOT NULL, id TEXT NOT NULL, epoch INTEGER NOT NULL,
    next_sequence INTEGER NOT NULL, last_offset INTEGER NOT NULL,
    PRIMARY KEY (stream, id)) WITHOUT ROWID;
CREATE TABLE runs (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, parent_id TEXT, batch_id TEXT, owner TEXT NOT NULL,
    snapshot BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX runs_by_parent ON runs (parent_id, id) WHERE parent_id IS NOT NULL;
CREATE INDEX runs_by_batch ON runs (batch_id, id) WHERE batch_id IS NOT NULL;
CREATE INDEX runs_by_status ON runs (status, owner, id);
CREATE TABLE tags (tag TEXT NOT NULL, run_id TEXT NOT NULL, PRIMARY KEY (tag, run_id)) WITHOUT
ROWID; CREATE INDEX tags_by_run ON tags (run_id);
"""
_SPENT_AND_KEYS = """
CREATE TABLE IF NOT EXISTS spent (
    id TEXT PRIMARY KEY, uses INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS spent_by_expiry ON spent (expires_at_ms);
CREATE TABLE keys (
    task TEXT NOT NULL, key TEXT NOT NULL, run_id TEXT NOT NULL, expires_at TEXT,
    PRIMARY KEY (task, key)) WITHOUT ROWID;
"""
_RETENTION = """
ALTER TABLE streams ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE streams SET bytes =
    (SELECT coalesce(sum(length(data)), 0) FROM blocks WHERE stream = streams.no);
ALTER TABLE blocks ADD COLUMN last_ms INTEGER NOT NULL DEFAULT 0;
UPDATE blocks SET last_ms = CAST(strftime('%s', 'now') AS INTEGER) * 1000;
ALTER TABLE runs ADD COLUMN finished_at TEXT;
UPDATE runs SET finished_at = json_extract(CAST(snapshot AS TEXT), '$.finished_at');
CREATE INDEX runs_by_end ON runs (finished_at) WHERE finished_at IS NOT NULL;
CREATE TABLE garbage (stream INTEGER PRIMARY KEY);
"""
_INCARNATION = "CREATE TABLE incarnation (current TEXT NOT NULL, beside TEXT NOT NULL);"
_ORDERS = "CREATE TABLE orders (stream INTEGER PRIMARY KEY, last TEXT NOT NULL);"
_STEPS = (
    _SCHEMA,
    _SPENT_AND_KEYS,
    _RETENTION,
    _INCARNATION,
    _ORDERS,
)  # what each version adds to the one before

_log = logging.getLogger("realtime.sqlite")

_Entry = tuple[int, str | None, bytes]
_blocks = msgspec.msgpack.Decoder(list[_Entry])


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables in a new file, or those that a file of an older version lacks.

    Raises:
        sqlite3.DatabaseError: the file was written by a newer version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError(
            f"it has schema version {version}; this release knows up to {SCHEMA_VERSION}"
        )
    if version < SCHEMA_VERSION:
        steps = "".join(_STEPS[version:])
        connection.executescript(f"BEGIN; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


@dataclass(slots=True)
class _Stream:
    """What the writer knows of a stream, with what the open transaction has added."""

    no: int
    epoch: str
    earliest: int
    next_offset: int
    ended: EndReason | None
    bytes: int  # of its blocks
    writers: dict[str, WriterState | None] = field(default_factory=dict)
    added: list[_Entry] = field(default_factory=list)
    changed_writers: set[str] = field(default_factory=set)

    def head(self) -> Head:
        return Head(
            Position(self.epoch, self.next_offset), Position(self.epoch, self.earliest), self.ended
        )


class Transactions:
    """The writing half: used on the writer's thread alone, between `begin` and `commit`.

    Every method checks before it changes anything, so that one that raises leaves nothing behind
    and the others of the same group commit go on.

    Args:
        connection: The only one that writes.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._streams: dict[StreamKey, _Stream] = {}
        self._dirty: dict[StreamKey, _Stream] = {}
        self.grown: dict[StreamKey, Page] = {}  # what to tell the followers of
        self.changed: set[StreamKey] = set()  # whose followers have to read
        self.ended_runs: set[str] = set()
        self.has_written = False  # since the file got its name
        self._renamed: Incarnation | None = None

    def begin(self) -> None:
        """Start a group commit."""
        self.grown, self.changed, self.ended_runs = {}, set(), set()
        if len(self._streams) > CACHED_STREAMS:
            self._streams.clear()
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Write what the streams have gathered and make it durable."""
        for key, stream in self._dirty.items():
            self._flush(key, stream)
        self._dirty.clear()
        self._db.execute("COMMIT")
        renamed, self._renamed = self._renamed, None
        self.has_written = renamed is None
        if renamed is not None:
            try:
                renamed.follow()
            except OSError as error:
                _log.warning("the store's name could not be written beside it: %s", error)

    def probe(self) -> None:
        """Write something that changes nothing."""
        self._db.execute("UPDATE incarnation SET current = current")

    def rename(self, incarnation: Incarnation) -> None:
        """Give the file another name with this commit."""
        incarnation.write(self._db)
        self._renamed = incarnation

    def rollback(self) -> None:
        """Forget all of it: what the cache says may be untrue."""
        self._streams.clear()
        self._dirty.clear()
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
            skip = records_to_skip(state, writer, len(records))
            if state is not None and records and skip == len(records):
                return repeat(state, writer, skip, stream.head())
            if state and not records and is_repeated_end(state, writer, stream.ended, end):
                return repeat(state, writer, 0, stream.head())
            records, writer = records[skip:], writer._replace(sequence=writer.sequence + skip)
        elif writer is not None:
            records_to_skip(None, writer, len(records))
        self._check_open(key, stream)
        if stream is not None and order is not None:
            check_order(key, self._order(stream), order)
        if stream is None:
            stream = self._create(key, new_epoch(now_ms))
            if is_announced(key):
                log, data = announcement(key)
                self.append(log, [data], key.run_id, None, None, now_ms)
        if order is not None:
            self._db.execute("INSERT OR REPLACE INTO orders VALUES (?,?)", (stream.no, order))
        return self._add(key, stream, records, source, writer, end, now_ms)

    def _order(self, stream: _Stream) -> str | None:
        sql = "SELECT last FROM orders WHERE stream = ?"
        row = self._db.execute(sql, (stream.no,)).fetchone()
        return row[0] if row else None

    def _check_open(self, key: StreamKey, stream: _Stream | None) -> None:
        if stream is None and (key.stream_id == RUN_STREAM or belongs_to_no_run(key)):
            return  # the run is being made, or it is the first record of a log that is always there
        ended = stream.ended if stream is not None else end_of(_load_run(self._db, key.run_id))
        if ended is not None:
            raise StreamEnded(f"stream {key} has ended ({ended}); nothing can be appended")

    def _add(
        self,
        key: StreamKey,
        stream: _Stream,
        records: Sequence[bytes],
        source: str | None,
        writer: Writer | None,
        end: EndReason | None,
        now_ms: int,
    ) -> Appended:
        first = stream.next_offset
        stream.added.extend((now_ms, source, data) for data in records)
        stream.next_offset += len(records)
        stream.ended = end
        if writer is not None:
            stream.writers[writer.id] = WriterState(
                writer.epoch, writer.after(len(records)), stream.next_offset - 1
            )
            stream.changed_writers.add(writer.id)
        self._dirty[key] = stream
        counted = writer.after(0) if writer and writer.counts == "appends" else None
        return Appended(first if records else None, stream.head().position, next_sequence=counted)

    def delete(self, key: StreamKey, now_ms: int) -> None:
        """See `Store.delete`."""
        stream = self._find(key)
        if stream is None:
            if not belongs_to_no_run(key):
                _load_run(self._db, key.run_id)  # refuses a run that is not there
            stream = self._create(key, new_epoch(now_ms))
        self._db.execute("DELETE FROM blocks WHERE stream = ?", (stream.no,))
        stream.added.clear()
        stream.bytes = 0
        stream.earliest, stream.ended = stream.next_offset, "deleted"
        self._dirty[key] = stream
        self.changed.add(key)

    def drop(self, key: StreamKey, at: Position) -> bool:
        """See `PathStore.drop`."""
        stream = self._find(key)
        if stream is None or stream.head().position != at:
            return False
        self._throw_away("run_id = ? AND stream_id = ?", key)
        del self._streams[key]
        self._dirty.pop(key, None)
        self.grown[key] = Page([], ORIGIN)
        self.changed.add(key)
        return True

    def create_run(self, run: Run, now_ms: int) -> Run:
        """See `Store.create_run`."""
        if _snapshot(self._db, run.id) is not None:
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
        return _load_run(self._db, row[0]) if row else None

    def patch_run(
        self,
        run_id: str,
        patch: Mapping[str, Any],
        operations: Sequence[Operation],
        writer: Writer | None,
        now_ms: int,
    ) -> Run:
        """See `Store.patch_run`."""
        before = _load_run(self._db, run_id)
        if writer is not None and self._is_repeat(run_log(run_id), writer):
            return before
        run, patch = change(before, patch, operations)
        end = end_of(run)
        data = encode_json(patch, f"the patch of run {run_id}")
        snapshot = encode_json(run.to_wire(), f"run {run_id}")
        version = self.append(run_log(run_id), [data], run_id, writer, end, now_ms).offset or 0
        finished_at = (run.finished_at or iso_time(now_ms)) if run.is_final else None
        self._db.execute(
            "UPDATE runs SET status = ?, owner = ?, snapshot = ?, finished_at = ? WHERE id = ?",
            (run.status, run.owner, snapshot, finished_at, run_id),
        )
        if run.tags != before.tags:
            self._db.execute("DELETE FROM tags WHERE run_id = ?", (run_id,))
            self._tag(run)
        self._tell_sets(set_records(before, run, version, data, snapshot), now_ms)
        if end is not None:
            self._end_streams(run_id, end)
        return run

    def delete_run(self, run_id: str, now_ms: int) -> bool:
        """See `Store.delete_run`; the records themselves go step by step, as garbage."""
        data = _snapshot(self._db, run_id)
        if data is None:
            return False
        run = Run.from_wire(orjson.loads(data))
        log = self._find(run_log(run_id))
        version = log.next_offset if log is not None else 0
        self._tell_sets(deletion_records(run, version), now_ms)
        self._throw_away("run_id = ?", [run_id])
        for key in [key for key in self._streams if key.run_id == run_id]:
            del self._streams[key]
            self._dirty.pop(key, None)
        self._db.execute("DELETE FROM tags WHERE run_id = ?", (run_id,))
        self._db.execute(
            "DELETE FROM keys WHERE task = ? AND key = ? AND run_id = ?",
            (run.task, run.idempotency_key, run_id),
        )
        self._db.execute("DELETE FROM runs WHERE id = ?", (run_id,))
        self.ended_runs.add(run_id)
        return True

    def forget_set(self, key: StreamKey) -> None:
        """Remove the log of a set that has no runs."""
        kind, id = RunSet.parse(key.run_id)
        if self._db.execute(f"{MEMBERS[kind]} LIMIT 1", (id,)).fetchone() is None:
            self._throw_away("run_id = ? AND stream_id = ?", key)
            self._streams.pop(key, None)
            self._dirty.pop(key, None)

    def _throw_away(self, condition: str, values: Sequence[str]) -> None:
        found = f"FROM streams WHERE {condition}"
        self._db.execute(f"INSERT INTO garbage SELECT no {found}", values)
        for table in ("writers", "orders"):
            self._db.execute(f"DELETE FROM {table} WHERE stream IN (SELECT no {found})", values)
        self._db.execute(f"DELETE {found}", values)

    def drop_garbage(self, count: int) -> bool:
        """Remove some rows of streams that are gone; whether there are more."""
        rows = self._db.execute(
            "DELETE FROM blocks WHERE no IN (SELECT b.no FROM garbage g JOIN blocks b"
            " ON b.stream = g.stream LIMIT ?)",
            (count,),
        ).rowcount
        if rows < count:
            self._db.execute("DELETE FROM garbage")
        return rows == count

    def trim(
        self, key: StreamKey, retention: Retention, now_ms: int, count: int
    ) -> tuple[int, bool]:
        """Remove the oldest rows of a stream that are beyond what is kept.

        Returns:
            How many records went, and whether there may be more than `count` rows to remove.
        """
        stream = self._find(key)
        if stream is None:
            return 0, False
        rows = self._db.execute(
            "SELECT first, length(data), last_ms FROM blocks WHERE stream = ? ORDER BY first"
            " LIMIT ?",
            (stream.no, count + 1),
        ).fetchall()
        ends = [first for first, _, _ in rows[1:]]
        if len(rows) <= count:
            ends.append(stream.next_offset - len(stream.added))
        earliest, size = _cut(rows, ends, stream, retention, now_ms)
        removed = earliest - stream.earliest
        if removed > 0:
            self._db.execute(
                "DELETE FROM blocks WHERE stream = ? AND first < ?", (stream.no, earliest)
            )
            stream.earliest, stream.bytes = earliest, stream.bytes - size
            self._dirty[key] = stream
        return removed, len(rows) > count and earliest == ends[-1]

    def put_records(
        self,
        key: StreamKey,
        at: Position,
        records: Sequence[Record],
        end: EndReason | None,
        order: str | None,
        writers: Mapping[str, WriterState],
    ) -> None:
        """Add records of another store's stream as they are; see `MovableStore.put_records`."""
        stream = self._find(key)
        if stream is None:
            stream = self._create(key, at.epoch, at.offset)
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

    def put_run(self, run: Run) -> None:
        """Keep a run of another store as it is; see `MovableStore.put_run`."""
        self._db.execute(
            "INSERT OR REPLACE INTO runs (id, status, parent_id, batch_id, owner, snapshot,"
            " finished_at) VALUES (?,?,?,?,?,?,?)",
            (
                *(run.id, run.status, run.parent_id, run.batch_id, run.owner),
                encode_json(run.to_wire(), f"run {run.id}"),
                (run.finished_at or run.created_at) if run.is_final else None,
            ),
        )
        self._db.execute("DELETE FROM tags WHERE run_id = ?", (run.id,))
        self._tag(run)
        self._hold_key(run)

    def _hold_key(self, run: Run) -> None:
        if run.idempotency_key is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO keys (task, key, run_id, expires_at) VALUES (?,?,?,?)",
                (run.task, run.idempotency_key, run.id, run.idempotency_key_expires_at),
            )

    def put_spent(self, token_id: str, uses: int, expires_at_ms: int) -> None:
        """Keep uses of a token, unless more are kept."""
        self._db.execute(
            "INSERT INTO spent (id, uses, expires_at_ms) VALUES (?,?,?)"
            " ON CONFLICT (id) DO UPDATE SET uses = max(uses, excluded.uses)",
            (token_id, uses, expires_at_ms),
        )

    def spend(self, token_id: str, uses: int, expires_at_ms: int, now_ms: int) -> bool:
        """See `Store.spend`."""
        self._db.execute("DELETE FROM spent WHERE expires_at_ms <= ?", (now_ms,))
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
        return records_to_skip(state, writer, 1) > 0

    def _tell_sets(self, records: list[tuple[StreamKey, bytes]], now_ms: int) -> None:
        for key, data in records:
            self.append(key, [data], key.run_id, None, None, now_ms)  # as a run's log: by its owner

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

    def _find(self, key: StreamKey) -> _Stream | None:
        stream = self._streams.get(key)
        if stream is None and (row := _stream_row(self._db, key)) is not None:
            stream = self._streams[key] = _Stream(*row)
        return stream

    def _create(self, key: StreamKey, epoch: str, first: int = 0) -> _Stream:
        cursor = self._db.execute(
            # Never the number of one that is gone while its rows are still there.
            "INSERT INTO streams (no, run_id, stream_id, epoch, earliest, next) VALUES (1 + max("
            "coalesce((SELECT max(no) FROM streams), 0),"
            " coalesce((SELECT max(stream) FROM garbage), 0)),?,?,?,?,?)",
            (key.run_id, key.stream_id, epoch, first, first),
        )
        stream = _Stream(cursor.lastrowid or 0, epoch, first, first, None, 0)
        self._streams[key] = stream
        return stream

    def _writer(self, stream: _Stream, id: str) -> WriterState | None:
        if id not in stream.writers:
            row = self._db.execute(
                "SELECT epoch, next_sequence, last_offset FROM writers WHERE stream = ? AND id = ?",
                (stream.no, id),
            ).fetchone()
            stream.writers[id] = WriterState(*row) if row else None
        return stream.writers[id]

    def _trim(self, stream: _Stream, kept: int) -> None:
        """Keep the newest records of such a log; whole blocks go, now and then."""
        if stream.next_offset - stream.earliest <= 2 * kept:
            return
        stream.earliest = stream.next_offset - kept
        self._db.execute(
            "DELETE FROM blocks WHERE stream = ?1 AND first < "
            "(SELECT max(first) FROM blocks WHERE stream = ?1 AND first <= ?2)",
            (stream.no, stream.earliest),
        )

    def _flush(self, key: StreamKey, stream: _Stream) -> None:
        first = stream.next_offset - len(stream.added)
        blocks = [
            (stream.no, at, data, stream.added[-1][0])
            for at, data in _encode_blocks(first, stream.added)
        ]
        self._db.executemany(
            "INSERT INTO blocks (stream, first, data, last_ms) VALUES (?,?,?,?)", blocks
        )
        stream.bytes += sum(len(data) for _, _, data, _ in blocks)
        if (kept := kept_records(key)) is not None:
            self._trim(stream, kept)
        self._db.execute(
            "UPDATE streams SET earliest = ?, next = ?, ended = ?, bytes = ? WHERE no = ?",
            (stream.earliest, stream.next_offset, stream.ended, stream.bytes, stream.no),
        )
        self._db.executemany(
            "INSERT OR REPLACE INTO writers (stream, id, epoch, next_sequence, last_offset)"
            " VALUES (?,?,?,?,?)",
            [(stream.no, id, *(stream.writers[id] or ())) for id in stream.changed_writers],
        )
        records = [Record(first + i, *entry) for i, entry in enumerate(stream.added)]
        self.grown[key] = Page(records, stream.head().position, stream.ended)
        stream.added = []
        stream.changed_writers = set()


def _cut(
    rows: list[tuple[int, int, int]],
    ends: list[int],
    stream: _Stream,
    retention: Retention,
    now_ms: int,
) -> tuple[int, int]:
    """Say where what is kept begins, and the size of the rows before it."""
    kept_from = stream.next_offset - retention.records if retention.records is not None else 0
    excess = stream.bytes - retention.bytes if retention.bytes is not None else 0
    since_ms = retention.records_since_ms(now_ms)
    earliest, removed = stream.earliest, 0
    for (_, size, last_ms), end in zip(rows, ends, strict=False):
        if not (end <= kept_from or last_ms < since_ms or size <= excess - removed):
            break
        earliest, removed = end, removed + size
    return earliest, removed


def _encode_blocks(first: int, entries: list[_Entry]) -> Iterator[tuple[int, bytes]]:
    start = size = 0
    for at, entry in enumerate(entries):
        if at > start and size + len(entry[2]) > BLOCK_BYTES:
            yield first + start, msgspec.msgpack.encode(entries[start:at])
            start, size = at, 0
        size += len(entry[2])
    if entries:
        yield first + start, msgspec.msgpack.encode(entries[start:])


def _stream_row(db: sqlite3.Connection, key: StreamKey) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = db.execute(
        "SELECT no, epoch, earliest, next, ended, bytes FROM streams"
        " WHERE run_id = ? AND stream_id = ?",
        key,
    ).fetchone()
    return row


def _snapshot(db: sqlite3.Connection, run_id: str) -> bytes | None:
    row = db.execute("SELECT snapshot FROM runs WHERE id = ?", (run_id,)).fetchone()
    return row[0] if row else None


def _load_run(db: sqlite3.Connection, run_id: str) -> Run:
    data = _snapshot(db, run_id)
    if data is None:
        raise RunNotFound(f"there is no run {run_id}")
    return Run.from_wire(orjson.loads(data))


def read_head(db: sqlite3.Connection, key: StreamKey) -> tuple[int, Head]:
    """Return a stream's number and head."""
    row = _stream_row(db, key)
    if row is None and belongs_to_no_run(key):
        return 0, NO_RECORDS
    if row is None:
        return 0, Head(ORIGIN, ORIGIN, end_of(_load_run(db, key.run_id)))
    no, epoch, earliest, next_offset, ended, _ = row
    return no, Head(Position(epoch, next_offset), Position(epoch, earliest), ended)


def read_path_logs(db: sqlite3.Connection, after: StreamKey | None, limit: int) -> list[StreamKey]:
    """See `PathStore.path_logs`."""
    rows = db.execute(
        "SELECT run_id, stream_id FROM streams WHERE (run_id, stream_id) > (?, ?)"
        " AND run_id >= 'path:' AND run_id < 'path;' ORDER BY run_id, stream_id LIMIT ?",
        (*(after or ("path:", "")), limit),
    )
    return [StreamKey(*row) for row in rows]


def read_page(
    db: sqlite3.Connection, key: StreamKey, after: Position | None, max_bytes: int
) -> Page:
    """See `Store.read`."""
    no, head = read_head(db, key)
    start, reset, gap = place(after, head)
    records: list[Record] = []
    size = 0
    for record in _records_from(db, no, start) if start < head.position.offset else ():
        size += len(record.data)
        if records and size > max_bytes:
            break
        records.append(record)
    return page_of(records, start, head, reset=reset, gap=gap)


def _records_from(db: sqlite3.Connection, no: int, start: int) -> Iterator[Record]:
    cursor = db.execute(
        "SELECT first, data FROM blocks WHERE stream = ?1 AND first >= coalesce("
        "(SELECT max(first) FROM blocks WHERE stream = ?1 AND first <= ?2), 0) ORDER BY first",
        (no, start),
    )
    for first, data in cursor:
        entries = _blocks.decode(data)
        for offset in range(max(first, start), first + len(entries)):
            yield Record(offset, *entries[offset - first])


def read_run(db: sqlite3.Connection, run_id: str) -> RunState:
    """See `Store.get_run`."""
    run = _load_run(db, run_id)
    _, head = read_head(db, run_log(run_id))
    return RunState(run, head.position)


def read_runs(db: sqlite3.Connection, query: RunQuery) -> list[Run]:
    """See `Store.list_runs`."""
    where, values = _conditions(query)
    rows = db.execute(
        f"SELECT snapshot FROM runs WHERE {where} ORDER BY id DESC LIMIT ?", (*values, query.limit)
    )
    return [Run.from_wire(orjson.loads(data)) for (data,) in rows]


def read_set(db: sqlite3.Connection, sets: Sequence[RunSet], limit: int) -> SetState:
    """See `Store.get_set`."""
    count = limit + 1  # one more says that there are more
    newest = (f"SELECT * FROM ({MEMBERS[each.kind]} DESC LIMIT {count:d})" for each in sets)
    rows = db.execute(
        f"SELECT snapshot FROM runs WHERE id IN ({' UNION '.join(newest)})"
        f" ORDER BY id DESC LIMIT {count:d}",
        [each.id for each in sets],
    )
    runs = [Run.from_wire(orjson.loads(data)) for (data,) in rows]
    positions = tuple(read_head(db, each.log)[1].position for each in sets)
    return SetState(runs[:limit], len(runs) > limit, positions)


MEMBERS = {
    "tag": "SELECT run_id FROM tags WHERE tag = ? ORDER BY run_id",
    "batch": "SELECT id FROM runs WHERE batch_id = ? ORDER BY id",
    "parent": "SELECT id FROM runs WHERE parent_id = ? ORDER BY id",
}


def _conditions(query: RunQuery) -> tuple[str, list[Any]]:
    parts = ["1"]
    values: list[Any] = []
    if query.status:
        parts.append(f"status IN ({','.join('?' * len(query.status))})")
        values.extend(query.status)
    if query.tag is not None:
        parts.append("id IN (SELECT run_id FROM tags WHERE tag = ?)")
        values.append(query.tag)
    for column in ("parent_id", "batch_id", "owner"):
        if (value := getattr(query, column)) is not None:
            parts.append(f"{column} = ?")
            values.append(value)
    if query.before is not None:
        parts.append("id < ?")
        values.append(query.before)
    return " AND ".join(parts), values
